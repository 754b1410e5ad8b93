/* See supervisor_wire.h. */
#include "run/supervisor_wire.h"

#include "base/clock.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAGIC_MASK 0xffffff00u
#define MAGIC      (0x67726600u | WIRE_VERSION)

unsigned wire_peer_version = WIRE_VERSION;
const unsigned wire_version = WIRE_VERSION;

struct head {
    uint32_t magic, type;
};

/* By type: the body's size and how many descriptors come along. */
static const struct {
    size_t size;
    unsigned least, most;
} shapes[] = {
    [WIRE_HELLO] = { sizeof(struct wire_hello), 6, WIRE_FD_COUNT },
    [WIRE_CRASHED] = { sizeof(struct wire_crashed), 0, 0 },
    [WIRE_OPS] = { sizeof(struct wire_listener), 1, 1 },
    [WIRE_LISTENER] = { sizeof(struct wire_listener), 1, 1 },
    [WIRE_BEGIN] = { 0, 0, 0 },
    [WIRE_SIGNAL] = { sizeof(struct wire_signal), 0, 0 },
    [WIRE_READY] = { sizeof(struct wire_ready), 0, 0 },
    [WIRE_LEAVING] = { 0, 0, 0 },
    [WIRE_CLOSE] = { sizeof(struct wire_close), 0, 0 },
    [WIRE_CONFIG] = { 0, 1, 1 },
    [WIRE_REOPEN] = { 0, 0, 0 },
    [WIRE_SHARED] = { sizeof(struct shared_key), 0, 1 },
    [WIRE_UPGRADE] = { sizeof(struct wire_upgrade), 0, 1 },
    [WIRE_GOES_ON] = { sizeof(struct wire_close), 0, 0 },
    [WIRE_YIELD] = { 0, 0, 0 },
    [WIRE_YIELDED] = { 0, 0, 0 },
    [WIRE_SERVE] = { 0, 1, 1 },
    [WIRE_SERVING] = { 0, 0, 0 },
    [WIRE_UPGRADED] = { sizeof(struct wire_upgraded), 0, 0 },
    [WIRE_CRASH] = { 0, 0, 0 },
    [WIRE_VITALS] = { sizeof(struct vitals), 0, 0 },
};

int wire_open(int wire[2], struct err *err)
{
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, wire) != 0)
        return err_set(err, "cannot make a socketpair: %s", strerror(errno));
    return 0;
}

/* ---- Sending --------------------------------------------------------------------------------- */

static int send_once(int fd, const struct wire_message *m)
{
    struct head head = { MAGIC, (uint32_t)m->type };
    struct iovec parts[2] = { { &head, sizeof head },
                              { (void *)(uintptr_t)&m->body, shapes[m->type].size } };
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * WIRE_FDS_MAX)];
    } control = { .bytes = { 0 } };
    struct msghdr msg = { .msg_iov = parts, .msg_iovlen = 2 };
    if (m->nfds > 0) {
        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * m->nfds);
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * m->nfds);
        memcpy(CMSG_DATA(c), m->fds, sizeof(int) * m->nfds);
    }
    return sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -1 : 0;
}

/* Milliseconds that are left until `until_ms`. */
static int left(uint64_t until_ms)
{
    uint64_t now = clock_ms();
    return now >= until_ms ? 0 : (int)(until_ms - now);
}

int wire_send(int fd, const struct wire_message *m, unsigned ms)
{
    return wire_send_until(fd, m, clock_ms() + ms);
}

int wire_send_until(int fd, const struct wire_message *m, uint64_t until)
{
    REQUIRE(m->type >= WIRE_HELLO && m->type <= WIRE_LAST && m->nfds <= WIRE_FDS_MAX);
    while (send_once(fd, m) != 0) {
        if (errno == EINTR)
            continue;
        int wait = left(until);
        if (errno != EAGAIN || wait == 0)
            return -1;
        struct pollfd room = { .fd = fd, .events = POLLOUT };
        if (poll(&room, 1, wait) < 0 && errno != EINTR)
            return -1;
    }
    return 0;
}

int wire_send_type(int fd, enum wire_type type)
{
    struct wire_message m = { .type = type };
    return wire_send(fd, &m, 0);
}

void wire_crash(int fd)
{
    const struct head head = { MAGIC, WIRE_CRASH };
    send(fd, &head, sizeof head, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* ---- Receiving ------------------------------------------------------------------------------- */

void wire_close_fds(struct wire_message *m)
{
    for (unsigned i = 0; i < m->nfds; i++)
        close(m->fds[i]);
    m->nfds = 0;
}

/* Every descriptor that came, also more than we asked for, so that none stays open. */
static bool take_fds(struct msghdr *msg, struct wire_message *m)
{
    bool fits = true;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            if (m->nfds < WIRE_FDS_MAX) {
                m->fds[m->nfds++] = fd;
            } else {
                close(fd);
                fits = false;
            }
        }
    }
    return fits;
}

static bool ends(const char *text, size_t size)
{
    return memchr(text, '\0', size) != NULL;
}

#define ENDS(member) ends(member, sizeof(member))

static bool hello_fits(const struct wire_hello *h, unsigned nfds)
{
    const uint32_t must = 1u << WIRE_FD_AREA | 1u << WIRE_FD_CONFIG | 1u << WIRE_FD_STAGE_LOCK |
                          1u << WIRE_FD_STAGE | 1u << WIRE_FD_STAGE_ROOT | 1u << WIRE_FD_PROVEN;
    return h->workers > 0 && h->workers <= WIRE_WORKERS_MAX && (h->has & must) == must &&
           h->has < 1u << WIRE_FD_COUNT && (unsigned)__builtin_popcount(h->has) == nfds &&
           h->standby <= 1 && ENDS(h->stage_name) && ENDS(h->stage_path) && ENDS(h->control_path);
}

static bool upgraded_fits(const struct wire_upgraded *u)
{
    return u->over <= 1 && ENDS(u->old_version) && ENDS(u->new_version) && ENDS(u->note) &&
           ENDS(u->error) && ENDS(u->reason);
}

static bool body_fits(const struct wire_message *m)
{
    const struct wire_crashed *c = &m->body.crashed;
    const struct wire_listener *l = &m->body.listener;
    switch (m->type) {
    case WIRE_HELLO:
        return hello_fits(&m->body.hello, m->nfds);
    case WIRE_CRASHED:
        return ENDS(c->plugin) && ENDS(c->version) && ENDS(c->id) && ENDS(c->sha256) &&
               ENDS(c->config_sha256);
    case WIRE_OPS:
    case WIRE_LISTENER:
        return ENDS(l->path) && ENDS(l->name) && (l->kind == 0 || l->kind == 1) &&
               l->worker >= -1 && l->worker < WIRE_WORKERS_MAX && l->handed_over <= 1;
    case WIRE_SHARED:
        return ENDS(m->body.shared.plugin) && ENDS(m->body.shared.name);
    case WIRE_READY:
        return ENDS(m->body.ready.version);
    case WIRE_UPGRADE:
        return ENDS(m->body.upgrade.binary);
    case WIRE_UPGRADED:
        return upgraded_fits(&m->body.upgraded);
    case WIRE_VITALS:
        return m->body.vitals.state <= VITALS_LEAVING && ENDS(m->body.vitals.drain);
    case WIRE_SIGNAL:
        return m->body.signal.signo > 0 && m->body.signal.signo < NSIG;
    default:
        return true;
    }
}

/* `lost`: descriptors, which the kernel could not give us. */
static enum wire_result judge(const struct head *head, size_t len, bool whole, bool lost,
                              struct wire_message *m)
{
    if (whole && len >= sizeof *head && head->magic != MAGIC &&
        (head->magic & MAGIC_MASK) == (MAGIC & MAGIC_MASK)) {
        wire_peer_version = head->magic & ~MAGIC_MASK;
        return WIRE_OTHER;
    }
    if (!whole || len < sizeof *head || head->magic != MAGIC || head->type < WIRE_HELLO ||
        head->type > WIRE_LAST)
        return WIRE_NONSENSE;
    m->type = (enum wire_type)head->type;
    if (len != sizeof *head + shapes[m->type].size || m->nfds > shapes[m->type].most)
        return WIRE_NONSENSE;
    if (lost)
        return shapes[m->type].most > 0 ? WIRE_LOST : WIRE_NONSENSE;
    return m->nfds >= shapes[m->type].least && body_fits(m) ? WIRE_GOT : WIRE_NONSENSE;
}

static enum wire_result receive_once(int fd, struct wire_message *m)
{
    struct head head = { 0, 0 };
    struct iovec parts[2] = { { &head, sizeof head }, { &m->body, sizeof m->body } };
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * 64)];
    } control;
    struct msghdr msg = { .msg_iov = parts,
                          .msg_iovlen = 2,
                          .msg_control = control.bytes,
                          .msg_controllen = sizeof control.bytes };
    memset(m, 0, sizeof *m);
    ssize_t n = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? WIRE_NOTHING : WIRE_END;
    bool fits = take_fds(&msg, m), whole = fits && (msg.msg_flags & MSG_TRUNC) == 0;
    whole = whole || (head.magic != MAGIC && n >= (ssize_t)sizeof head);
    if (n == 0 && m->nfds == 0)
        return WIRE_END;
    enum wire_result result = judge(&head, (size_t)n, whole, (msg.msg_flags & MSG_CTRUNC) != 0, m);
    if (result != WIRE_GOT)
        wire_close_fds(m);
    return result;
}

enum wire_result wire_receive(int fd, struct wire_message *m, unsigned ms)
{
    uint64_t until = clock_ms() + ms;
    for (;;) {
        enum wire_result result = receive_once(fd, m);
        int wait = result == WIRE_NOTHING ? left(until) : 0;
        if (wait == 0)
            return result;
        struct pollfd more = { .fd = fd, .events = POLLIN };
        if (poll(&more, 1, wait) < 0 && errno != EINTR)
            return WIRE_END;
    }
}

/* ---- Inheriting ------------------------------------------------------------------------------ */

/* A variable that got here by accident must not make us talk to a stranger. */
int wire_inherited(const char *text)
{
    uint64_t number;
    int type = 0, domain = 0;
    struct ucred peer;
    socklen_t size = sizeof type, length = sizeof domain, cred = sizeof peer;
    if (text == NULL || str_to_u64(str_of(text), &number) != 0 || number > INT_MAX)
        return -1;
    int fd = (int)number;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_SEQPACKET ||
        getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0 || domain != AF_UNIX ||
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &cred) != 0 ||
        fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
        return -1;
    return peer.pid == getppid() ? fd : -2;
}
