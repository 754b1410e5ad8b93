/*
 * Blocks of graft_shared that outlive a server process: their descriptors, in the order in which
 * they came, for the next one. The memory is never mapped here: a block is a number.
 */
#include "run/supervisor_private.h"

#include "base/log.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define BLOCKS_MAX 4096u
#define FDS_SPARE  64 /* descriptors that must stay free: to start processes, to read crashes */

static bool same(const struct shared_key *a, const struct shared_key *b)
{
    return a->size == b->size && a->schema == b->schema && strcmp(a->plugin, b->plugin) == 0 &&
           strcmp(a->name, b->name) == 0;
}

static void drop(struct supervisor_blocks *bs, const struct shared_key *key)
{
    for (size_t i = bs->n; i-- > 0;) {
        if (!same(&bs->all[i].key, key))
            continue;
        close(bs->all[i].fd);
        bs->n--;
        memmove(&bs->all[i], &bs->all[i + 1], (bs->n - i) * sizeof bs->all[0]);
        return; /* there is one of a key */
    }
}

/* A block that survives is of no use when no process can be started any more. */
static bool leaves_room(int fd)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_NOFILE, &limit) != 0 || (rlim_t)fd + FDS_SPARE < limit.rlim_cur;
}

/* The newest counts: perhaps it was never heard that the one before is not needed any more. */
bool supervisor_add_block(struct supervisor_blocks *bs, const struct shared_key *key, int fd)
{
    drop(bs, key);
    if (bs->n == BLOCKS_MAX || !leaves_room(fd))
        return false;
    struct supervisor_block *more = realloc(bs->all, (bs->n + 1) * sizeof *more);
    if (more == NULL)
        return false;
    bs->all = more;
    bs->all[bs->n++] = (struct supervisor_block){ *key, fd };
    return true;
}

void supervisor_take_block(struct supervisor_blocks *bs, struct wire_message *m)
{
    const struct shared_key *key = &m->body.shared;
    if (m->nfds == 0) {
        drop(bs, key);
    } else if (supervisor_add_block(bs, key, m->fds[0])) {
        m->nfds = 0;
    } else {
        log_msg(LOG_WARN, "state", "the shared block %s of %s will not survive a crash: no room",
                key->name, key->plugin);
        wire_close_fds(m);
    }
}

int supervisor_hand_blocks(const struct supervisor_blocks *bs, int wire, uint64_t until_ms)
{
    for (size_t i = 0; i < bs->n; i++) {
        struct wire_message m = { .type = WIRE_SHARED, .nfds = 1 };
        m.body.shared = bs->all[i].key;
        m.fds[0] = bs->all[i].fd;
        if (wire_send_until(wire, &m, until_ms) != 0)
            return -1;
    }
    return 0;
}

/* For the next process, which adds and drops blocks of its own while this one still serves. */
int supervisor_copy_blocks(struct supervisor_blocks *to, const struct supervisor_blocks *from)
{
    *to = (struct supervisor_blocks){ 0 };
    for (size_t i = 0; i < from->n; i++) {
        int fd = fcntl(from->all[i].fd, F_DUPFD_CLOEXEC, 0);
        if (fd >= 0 && supervisor_add_block(to, &from->all[i].key, fd))
            continue;
        if (fd >= 0)
            close(fd);
        supervisor_free_blocks(to);
        return -1;
    }
    return 0;
}

void supervisor_free_blocks(struct supervisor_blocks *bs)
{
    for (size_t i = 0; i < bs->n; i++)
        close(bs->all[i].fd);
    free(bs->all);
    *bs = (struct supervisor_blocks){ 0 };
}
