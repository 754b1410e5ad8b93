/* plugin/shadow.c: two answers are compared by status and body, however the body came; the figures
   add up; what a client sent is shown without what could hurt. */
#include "tap.h"

#include "plugin/shadow.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>

static struct shadow_answer digest(unsigned status, const struct outq *q)
{
    struct shadow_digest d;
    struct shadow_answer a;
    shadow_digest_init(&d);
    shadow_digest_queue(&d, q);
    ok(!d.unreadable);
    shadow_digest_end(&d, status, &a);
    return a;
}

/* `len` bytes in pieces of `piece`, the last one `last`. */
static struct shadow_answer body(unsigned status, size_t len, size_t piece, char last)
{
    struct outq q = { 0 };
    char *text = malloc(len + 1);
    must(text != NULL);
    memset(text, 'x', len);
    if (len > 0)
        text[len - 1] = last;
    for (size_t at = 0; at < len; at += piece)
        must(out_copy(&q, NULL, text + at, len - at < piece ? len - at : piece) == 0);
    struct shadow_answer a = digest(status, &q);
    out_drop(&q);
    free(text);
    return a;
}

static enum shadow_outcome compare(struct shadow_answer a, struct shadow_answer b)
{
    return shadow_compare(&a, &b);
}

TEST(the_status_counts_first)
{
    is(compare(body(200, 5, 5, 'x'), body(200, 5, 5, 'x')), SHADOW_SAME);
    is(compare(body(200, 5, 5, 'x'), body(404, 5, 5, 'x')), SHADOW_STATUS);
    is(compare(body(200, 5, 5, 'x'), body(500, 6, 6, 'y')), SHADOW_STATUS);
    is(compare(body(200, 5, 5, 'x'), body(200, 5, 5, 'y')), SHADOW_BODY);
    is(compare(body(200, 5, 5, 'x'), body(200, 6, 6, 'x')), SHADOW_BODY);
    is(compare(body(200, 0, 1, 'x'), body(200, 0, 1, 'x')), SHADOW_SAME);
    is(compare(body(200, 0, 1, 'x'), body(200, 1, 1, 'x')), SHADOW_BODY);
}

TEST(pieces_do_not_matter)
{
    static const size_t pieces[] = { 1, 7, 4096, 65536, 100000 };
    for (size_t i = 0; i < ARRAY_LEN(pieces); i++) {
        is(compare(body(200, 100000, 100000, 'x'), body(200, 100000, pieces[i], 'x')), SHADOW_SAME);
        is(compare(body(200, 100000, 100000, 'x'), body(200, 100000, pieces[i], 'y')), SHADOW_BODY);
    }
}

/* Of longer ones the beginning and the length. */
TEST(bodies_are_bounded)
{
    size_t most = SHADOW_BYTES;
    is(compare(body(200, most, most, 'x'), body(200, most, 1000, 'y')), SHADOW_BODY);
    is(compare(body(200, most + 1, most, 'x'), body(200, most + 1, 1000, 'y')), SHADOW_SAME);
    is(compare(body(200, most + 1, most, 'x'), body(200, most + 2, 1000, 'x')), SHADOW_BODY);
    ok(body(200, most + 12345, 999, 'x').len == most + 12345);
}

static int file(size_t len, char byte)
{
    int fd = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    char *text = malloc(len);
    must(fd >= 0 && text != NULL);
    memset(text, byte, len);
    must(write(fd, text, len) == (ssize_t)len);
    free(text);
    return fd;
}

TEST(files_are_bodies_too)
{
    struct outq q = { 0 };
    must(out_copy(&q, NULL, "xxx", 3) == 0);
    must(out_file(&q, file(70000, 'x'), 100, 60000) == 0);
    must(out_copy(&q, NULL, "y", 1) == 0);
    is(compare(digest(200, &q), body(200, 60004, 5000, 'y')), SHADOW_SAME);
    is(compare(digest(200, &q), body(200, 60004, 5000, 'x')), SHADOW_BODY);
    is(q.bytes, 60004); /* looked at, not taken */
    out_drop(&q);
}

TEST(a_file_that_ends_early_is_not_comparable)
{
    struct outq q = { 0 };
    struct shadow_digest d;
    must(out_file(&q, file(10, 'x'), 0, 20) == 0);
    shadow_digest_init(&d);
    shadow_digest_queue(&d, &q);
    ok(d.unreadable);
    ok(d.len == 20);
    out_drop(&q);
}

TEST(paths_are_short_and_plain)
{
    char to[SHADOW_PATH], long_one[200];
    shadow_path(to, STR("/a/b?secret=1"));
    is_str(to, "/a/b");
    shadow_path(to, STR("/a\x1b[31m\n\"\\\xff"));
    is_str(to, "/a?[31m????");
    shadow_path(to, (struct str){ "/a\0b", 4 });
    is_str(to, "/a?b");
    shadow_path(to, (struct str){ NULL, 0 });
    is_str(to, "");
    memset(long_one, 'p', sizeof long_one);
    for (size_t len = SHADOW_PATH - 5; len < SHADOW_PATH + 5; len++) {
        shadow_path(to, (struct str){ long_one, len });
        is(strlen(to), len < SHADOW_PATH ? len : SHADOW_PATH - 1);
        ok((strcmp(to + strlen(to) - 3, "...") == 0) == (len >= SHADOW_PATH));
    }
    memcpy(long_one + SHADOW_PATH - 1, "?q", 2);
    shadow_path(to, (struct str){ long_one, sizeof long_one });
    is(to[SHADOW_PATH - 2], 'p'); /* it just fits */
}

static struct shadow_example example(uint64_t when_us)
{
    struct shadow_example e = { .when_us = when_us, .len = when_us, .shadow_len = ~when_us };
    snprintf(e.path, sizeof e.path, "/%llu", (unsigned long long)when_us);
    return e;
}

TEST(sums_of_cells)
{
    static struct shadow_cell cells[2];
    struct shadow_sums sums = { 0 };
    cells[0].outcomes[SHADOW_SAME] = 10;
    cells[0].outcomes[SHADOW_STATUS] = 1;
    cells[1].outcomes[SHADOW_BODY] = 2;
    cells[1].outcomes[SHADOW_FAILED] = 3;
    cells[1].outcomes[SHADOW_DROPPED] = 4;
    cells[1].live = 5;
    shadow_sum(&cells[0], &sums);
    shadow_sum(&cells[1], &sums);
    ok(sums.requests == 20 && sums.live == 5 && sums.outcomes[SHADOW_SAME] == 10);
    ok(shadow_differences(&sums) == 6);
    is(sums.nexamples, 0);
}

TEST(the_last_examples_of_all_cells_are_shown)
{
    static struct shadow_cell cells[3];
    struct shadow_sums sums = { 0 };
    struct shadow_example e;
    for (uint64_t t = 1; t <= 30; t++) {
        e = example(t);
        shadow_put(&cells[t < 29 ? t % 2 : 2], &e);
    }
    for (int i = 0; i < 3; i++)
        shadow_sum(&cells[i], &sums);
    is(sums.nexamples, SHADOW_EXAMPLES);
    for (unsigned i = 0; i < SHADOW_EXAMPLES; i++)
        is(sums.examples[i].when_us, 30 - i);
    is_str(sums.examples[3].path, "/27");
}

static struct shadow_cell raced;
static atomic_bool over;

static void *write_examples(void *arg)
{
    (void)arg;
    for (uint64_t t = 1; !atomic_load(&over); t++) {
        struct shadow_example e = example(t);
        shadow_put(&raced, &e);
    }
    return NULL;
}

TEST(an_example_is_read_whole_or_not_at_all)
{
    pthread_t writer;
    char path[32];
    must(pthread_create(&writer, NULL, write_examples, NULL) == 0);
    for (int i = 0; i < 20000; i++) {
        struct shadow_sums sums = { 0 };
        shadow_sum(&raced, &sums);
        for (unsigned k = 0; k < sums.nexamples; k++) {
            const struct shadow_example *e = &sums.examples[k];
            snprintf(path, sizeof path, "/%llu", (unsigned long long)e->when_us);
            if (e->len != e->when_us || e->shadow_len != ~e->when_us || strcmp(e->path, path) != 0)
                fail("a torn example");
        }
    }
    atomic_store(&over, true);
    pthread_join(writer, NULL);
}
