/* plugin/shared.c: blocks, versions that come and go, a supervisor that keeps them. */
#include "tap.h"

#include "plugin/shared.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>

static struct err err;

static void *get(struct shared_user *u, const char *name, uint64_t size, uint32_t schema,
                 bool *fresh)
{
    return shared_get(u, "p", name, size, schema, fresh, &err);
}

static uint64_t mapped(void)
{
    uint64_t n, bytes;
    shared_figures(&n, &bytes);
    return n;
}

TEST(is_zeroed_aligned_and_the_same_for_all)
{
    struct shared_user a = { 0 }, b = { 0 };
    bool fresh = false;
    unsigned char *one = get(&a, "x", 100, 1, &fresh);
    must(one != NULL);
    ok(fresh);
    is((uintptr_t)one % 64, 0);
    for (int i = 0; i < 100; i++)
        must(one[i] == 0);
    one[99] = 7;
    ok(get(&a, "x", 100, 1, &fresh) == one); /* asked twice */
    ok(!fresh);
    ok(get(&b, "x", 100, 1, &fresh) == one); /* side by side, before anything is promoted */
    ok(!fresh);
    shared_promote(&a);
    shared_release(&a);
    is(one[99], 7);
    shared_release(&b);
    is(one[99], 7); /* current: it stays without any version */
    is(mapped(), 1);
    struct shared_user other = { 0 };
    ok(shared_get(&other, "q", "x", 100, 1, &fresh, &err) != one); /* another plugin's */
    ok(fresh);
    shared_release(&other);
    is(mapped(), 1);
    shared_close();
    is(mapped(), 0);
}

TEST(another_layout_is_another_block)
{
    struct shared_user v1 = { 0 }, v2 = { 0 }, v3 = { 0 };
    size_t size = 0;
    uint32_t schema = 0;
    bool fresh;
    int *old = get(&v1, "x", 64, 1, NULL);
    must(old != NULL);
    shared_promote(&v1);
    *old = 5;
    ok(shared_previous(&v1, "p", "x", &size, &schema) == NULL);
    int *new = get(&v2, "x", 64, 2, &fresh);
    must(new != NULL &&new != old);
    ok(fresh && *new == 0);
    ok(shared_previous(&v2, "p", "x", &size, &schema) == old);
    is(size, 64);
    is(schema, 1);
    ok(shared_previous(&v2, "p", "y", &size, &schema) == NULL);
    shared_promote(&v2);
    ok(shared_previous(&v2, "p", "x", NULL, NULL) == NULL);
    shared_release(&v1);
    is(*old, 5); /* v2 may have a pointer to it */
    ok(get(&v3, "x", 64, 1, &fresh) != old && fresh);
    shared_release(&v3);
    is(mapped(), 2);
    shared_release(&v2);
    is(mapped(), 1);
    shared_close();
}

TEST(what_failed_leaves_no_trace)
{
    struct shared_user v1 = { 0 }, bad = { 0 }, good = { 0 };
    bool fresh;
    int *current = get(&v1, "x", 64, 1, NULL);
    must(current != NULL);
    shared_promote(&v1);
    int *dirty = get(&bad, "x", 64, 2, NULL);
    must(dirty != NULL);
    *dirty = 1;
    ok(get(&bad, "x", 64, 1, NULL) == current); /* it may ask for both */
    shared_abandon(&bad);                       /* it failed, but is not unloaded yet */
    int *clean = get(&good, "x", 64, 2, &fresh);
    must(clean != NULL && clean != dirty);
    ok(fresh && *clean == 0);
    ok(shared_previous(&good, "p", "x", NULL, NULL) == current);
    is(mapped(), 3);
    shared_release(&bad);
    is(mapped(), 2);
    shared_release(&good);
    is(mapped(), 1);
    struct shared_user v2 = { 0 };
    ok(get(&v2, "x", 64, 1, &fresh) == current && !fresh);
    shared_release(&v2);
    shared_release(&v1);
    is(mapped(), 1);
    shared_close();
}

TEST(refuses_bad_names_sizes_and_too_much)
{
    struct shared_user u = { 0 };
    char longer[100], name[16];
    const char *bad[] = { NULL, "", "a/b", "a b", "\xc3\xa4", longer };
    memset(longer, 'a', sizeof longer);
    longer[SHARED_NAME_MAX + 1] = '\0';
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        ok(get(&u, bad[i], 1, 0, NULL) == NULL);
    ok(get(&u, "x", 0, 0, NULL) == NULL);
    ok(get(&u, "x", SHARED_BYTES_MAX + 1, 0, NULL) == NULL);
    ok(get(&u, "x", UINT64_MAX, 0, NULL) == NULL);
    is(mapped(), 0);
    for (int i = 0; i < SHARED_BLOCKS_MAX; i++) {
        snprintf(name, sizeof name, "n%d", i);
        must(get(&u, name, 1, 0, NULL) != NULL);
    }
    ok(get(&u, "one-more", 1, 0, NULL) == NULL);
    ok(strstr(err.text, "64 blocks") != NULL);
    ok(get(&u, "n0", SHARED_BYTES_MAX, 1, NULL) == NULL);
    shared_release(&u);
    is(mapped(), 0);
}

/* ---- A supervisor ---------------------------------------------------------------------------- */

static struct kept {
    struct shared_key key;
    int fd;
} kept[8];
static unsigned nkept;

static void keeper(void *arg, const struct shared_key *key, int fd)
{
    ok(arg == kept);
    unsigned i = 0;
    while (i < nkept && memcmp(&kept[i].key, key, sizeof *key) != 0)
        i++;
    if (fd < 0) {
        must(i < nkept);
        close(kept[i].fd);
        kept[i] = kept[--nkept];
        return;
    }
    must(i == nkept && nkept < ARRAY_LEN(kept));
    kept[nkept++] = (struct kept){ *key, fcntl(fd, F_DUPFD_CLOEXEC, 0) };
}

/* A process dies and its successor gets the blocks back: the first is the fork, the second is us.
 */
TEST(a_restart)
{
    int fds[2];
    struct shared_user v1 = { 0 }, v2 = { 0 };
    bool fresh;
    shared_keep(keeper, kept);
    int *mem = get(&v1, "x", 4096, 1, NULL);
    must(mem != NULL);
    is(nkept, 0);
    shared_publish(&v1);
    is(nkept, 1); /* before it can be asked anything */
    is_str(kept[0].key.plugin, "p");
    is_str(kept[0].key.name, "x");
    shared_promote(&v1);
    is(nkept, 1);
    must(pipe(fds) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        *mem = 42;
        abort(); /* what was counted is counted */
    }
    must(waitpid(pid, NULL, 0) == pid);
    close(fds[0]);
    close(fds[1]);
    is(*mem, 42);

    /* The successor's registry is this one, with the block lost. */
    int *pending = get(&v2, "x", 4096, 2, NULL);
    must(pending != NULL);
    shared_publish(&v2);
    is(nkept, 2);
    shared_abandon(&v2); /* taken back: a canary, say */
    is(nkept, 1);
    shared_release(&v2);
    struct kept one = kept[0];
    struct shared_key other = one.key;
    memcpy(other.plugin, "q", 2);
    must(shared_adopt(&other, fcntl(one.fd, F_DUPFD_CLOEXEC, 0), &err) == 0);
    ok(shared_adopt(&other, fcntl(one.fd, F_DUPFD_CLOEXEC, 0), &err) != 0); /* twice */
    struct shared_user again = { 0 };
    int *found = shared_get(&again, "q", "x", 4096, 1, &fresh, &err);
    must(found != NULL);
    ok(!fresh && *found == 42);
    struct shared_user newer = { 0 };
    must(shared_get(&newer, "q", "x", 4096, 2, &fresh, &err) != NULL);
    ok(fresh);
    ok(shared_previous(&newer, "q", "x", NULL, NULL) == found);
    shared_release(&newer);
    shared_release(&again);
    shared_release(&v1);
    shared_keep(NULL, NULL);
    for (unsigned i = 0; i < nkept; i++)
        close(kept[i].fd);
    shared_close();
}

/* A crash with a canary: the current block and one that was pending come back, and which of them
   stays is told by the version that serves. */
TEST(a_pending_block_after_a_crash)
{
    for (int second = 0; second < 2; second++) {
        struct shared_user before[2] = { { 0 }, { 0 } }, after = { 0 };
        bool fresh;
        char plugin[2][2] = { "p", { (char)('s' + second), '\0' } };
        nkept = 0;
        shared_keep(keeper, kept);
        for (uint32_t i = 0; i < 2; i++) {
            int *mem =
                shared_get(&before[i], plugin[0], second ? "two" : "one", 4096, i + 1, NULL, &err);
            must(mem != NULL);
            *mem = (int)i + 1;
            shared_publish(&before[i]);
        }
        is(nkept, 2);
        for (unsigned i = 0; i < 2;
             i++) { /* the registry of the next process: another plugin's here */
            struct shared_key key = kept[i].key;
            memcpy(key.plugin, plugin[1], 2);
            must(shared_adopt(&key, fcntl(kept[i].fd, F_DUPFD_CLOEXEC, 0), &err) == 0);
        }
        shared_keep(NULL, NULL);
        int *mem = shared_get(&after, plugin[1], second ? "two" : "one", 4096, (uint32_t)second + 1,
                              &fresh, &err);
        must(mem != NULL);
        ok(!fresh && *mem == second + 1);
        const int *other = shared_previous(&after, plugin[1], second ? "two" : "one", NULL, NULL);
        ok(other != NULL && *other == 2 - second);
        shared_promote(&after);
        struct shared_user late = { 0 };
        mem = shared_get(&late, plugin[1], second ? "two" : "one", 4096, 2 - (uint32_t)second,
                         &fresh, &err);
        ok(mem != NULL && fresh && *mem == 0); /* the other one is gone */
        shared_release(&late);
        shared_release(&after);
        shared_release(&before[0]);
        shared_release(&before[1]);
        for (unsigned i = 0; i < nkept; i++)
            close(kept[i].fd);
    }
    shared_close();
}

TEST(adopts_nothing_that_is_not_whole)
{
    struct shared_key key = { "p", "x", 4096, 1 };
    int plain = memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    must(plain >= 0 && ftruncate(plain, 4096) == 0);
    ok(shared_adopt(&key, fcntl(plain, F_DUPFD_CLOEXEC, 0), &err) != 0); /* not sealed */
    must(fcntl(plain, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0);
    key.size = 4097;
    ok(shared_adopt(&key, fcntl(plain, F_DUPFD_CLOEXEC, 0), &err) != 0);
    key.size = 4096;
    memcpy(key.name, "", 1);
    ok(shared_adopt(&key, fcntl(plain, F_DUPFD_CLOEXEC, 0), &err) != 0);
    close(plain);
    shared_close();
}
