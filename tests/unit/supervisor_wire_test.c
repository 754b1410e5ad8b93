/* run/supervisor_wire.c: what is sent arrives, nonsense is told apart, nobody hangs. */
#include "run/supervisor_wire.h"

#include "base/clock.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>

static void make(int wire[2])
{
    struct err err;
    must(wire_open(wire, &err) == 0);
}

static void unmake(int wire[2])
{
    close(wire[0]);
    close(wire[1]);
}

TEST(a_message_arrives_with_its_descriptor)
{
    int wire[2], pipes[2];
    struct wire_message got, m = { .type = WIRE_LISTENER, .nfds = 1 };
    make(wire);
    must(pipe(pipes) == 0);
    m.fds[0] = pipes[1];
    m.body.listener.worker = 3;
    m.body.listener.kind = 1;
    strcpy(m.body.listener.name, "unix:/x");
    is(wire_send(wire[0], &m, 0), 0);
    close(pipes[1]);
    is(wire_receive(wire[1], &got, 0), WIRE_GOT);
    is(got.type, WIRE_LISTENER);
    is(got.nfds, 1);
    is(got.body.listener.worker, 3);
    is_str(got.body.listener.name, "unix:/x");
    ok((fcntl(got.fds[0], F_GETFD) & FD_CLOEXEC) != 0);
    is(write(got.fds[0], "a", 1), 1);
    wire_close_fds(&got);
    close(pipes[0]);
    unmake(wire);
}

TEST(a_descriptor_without_room_is_no_nonsense)
{
    int wire[2], again;
    struct rlimit before, none;
    struct wire_message got, m = { .type = WIRE_CONFIG, .nfds = 1 };
    make(wire);
    m.fds[0] = wire[0];
    is(wire_send(wire[0], &m, 0), 0);
    is(wire_send_type(wire[0], WIRE_READY), 0);
    must((again = dup(wire[0])) >= 0 && getrlimit(RLIMIT_NOFILE, &before) == 0);
    close(again);
    none = (struct rlimit){ (rlim_t)again, before.rlim_max };
    must(setrlimit(RLIMIT_NOFILE, &none) == 0);
    is(wire_receive(wire[1], &got, 0), WIRE_LOST);
    is(got.type, WIRE_CONFIG);
    is(got.nfds, 0);
    must(setrlimit(RLIMIT_NOFILE, &before) == 0);
    is(wire_receive(wire[1], &got, 0), WIRE_GOT); /* the next one is whole */
    is(got.type, WIRE_READY);
    unmake(wire);
}

TEST(messages_without_a_body)
{
    int wire[2];
    struct wire_message got;
    make(wire);
    is(wire_send_type(wire[1], WIRE_READY), 0);
    wire_crash(wire[1]);
    is(wire_receive(wire[0], &got, 0), WIRE_GOT);
    is(got.type, WIRE_READY);
    is(wire_receive(wire[0], &got, 0), WIRE_GOT);
    is(got.type, WIRE_CRASH);
    is(wire_receive(wire[0], &got, 0), WIRE_NOTHING);
    close(wire[1]);
    is(wire_receive(wire[0], &got, 1000), WIRE_END);
    is(wire_send_type(wire[0], WIRE_BEGIN), -1);
    is(errno, EPIPE);
    close(wire[0]);
}

TEST(vitals_are_checked)
{
    int wire[2];
    struct wire_message got,
        m = { .type = WIRE_VITALS, .body.vitals = { .state = VITALS_LEAVING } };
    make(wire);
    is(wire_send(wire[1], &m, 0), 0);
    is(wire_receive(wire[0], &got, 0), WIRE_GOT);
    is(got.body.vitals.state, VITALS_LEAVING);
    m.body.vitals.state++;
    is(wire_send(wire[1], &m, 0), 0);
    is(wire_receive(wire[0], &got, 0), WIRE_NONSENSE);
    m.body.vitals.state = 0;
    memset(m.body.vitals.drain, 'x', sizeof m.body.vitals.drain);
    is(wire_send(wire[1], &m, 0), 0);
    is(wire_receive(wire[0], &got, 0), WIRE_NONSENSE);
    unmake(wire);
}
#define MAGIC (0x67726600u | WIRE_VERSION)

TEST(nonsense_is_nonsense)
{
    static const char junk[100000];
    const uint32_t heads[][2] = { { MAGIC, 0 },           { MAGIC, 99 },
                                  { 1, WIRE_READY },      { MAGIC, WIRE_SIGNAL },
                                  { MAGIC, WIRE_CONFIG }, { MAGIC, WIRE_HELLO } };
    int wire[2];
    struct wire_message got;
    make(wire);
    for (size_t i = 0; i < ARRAY_LEN(heads); i++) {
        is(send(wire[1], heads[i], sizeof heads[i], 0), sizeof heads[i]);
        is(wire_receive(wire[0], &got, 0), WIRE_NONSENSE);
    }
    for (size_t n = 1; n < sizeof junk; n = n * 3 + 1) {
        is(send(wire[1], junk, n, 0), n);
        is(wire_receive(wire[0], &got, 0), WIRE_NONSENSE);
    }
    unmake(wire);
}

/* Whatever else is in it, and however long it is: the sentence about it names both versions. */
TEST(another_version_is_told_from_nonsense)
{
    static uint32_t message[10000] = { MAGIC + 1, WIRE_HELLO };
    int wire[2];
    struct wire_message got;
    make(wire);
    for (size_t n = 8; n <= sizeof message; n = n * 5) {
        is(send(wire[1], message, n, 0), n);
        is(wire_receive(wire[0], &got, 0), WIRE_OTHER);
        is(wire_peer_version, WIRE_VERSION + 1);
    }
    message[0] = MAGIC ^ 0x100;
    is(send(wire[1], message, 8, 0), 8);
    is(wire_receive(wire[0], &got, 0), WIRE_NONSENSE);
    unmake(wire);
}

TEST(texts_that_do_not_end_and_numbers_out_of_range)
{
    int wire[2];
    struct wire_message got, m = { .type = WIRE_CRASHED };
    make(wire);
    memset(m.body.crashed.id, 'x', sizeof m.body.crashed.id);
    is(wire_send(wire[0], &m, 0), 0);
    is(wire_receive(wire[1], &got, 0), WIRE_NONSENSE);
    m = (struct wire_message){ .type = WIRE_SIGNAL, .body.signal.signo = 1000 };
    is(wire_send(wire[0], &m, 0), 0);
    is(wire_receive(wire[1], &got, 0), WIRE_NONSENSE);
    m.body.signal.signo = 15;
    is(wire_send(wire[0], &m, 0), 0);
    is(wire_receive(wire[1], &got, 0), WIRE_GOT);
    unmake(wire);
}

/* More descriptors than the message is about: refused, and none stays open (the runner counts). */
TEST(descriptors_that_nobody_asked_for_are_closed)
{
    int wire[2];
    struct wire_message got, m = { .type = WIRE_READY, .nfds = WIRE_FDS_MAX };
    make(wire);
    for (unsigned i = 0; i < m.nfds; i++)
        m.fds[i] = wire[0];
    is(wire_send(wire[1], &m, 0), 0);
    is(wire_receive(wire[0], &got, 0), WIRE_NONSENSE);
    is(got.nfds, 0);
    m.type = WIRE_CONFIG;
    is(wire_send(wire[1], &m, 0), 0);
    is(wire_receive(wire[0], &got, 0), WIRE_NONSENSE);
    unmake(wire);
}

TEST(a_peer_that_does_not_read_or_write_costs_a_bounded_time)
{
    int wire[2];
    struct wire_message got, m = { .type = WIRE_CRASHED };
    make(wire);
    int n = 0;
    while (wire_send(wire[0], &m, 0) == 0 && n < 100000)
        n++;
    is(errno, EAGAIN);
    ok(n > 100);
    uint64_t began = clock_ms();
    is(wire_send(wire[0], &m, 50), -1);
    is(errno, EAGAIN);
    is(wire_receive(wire[0], &got, 50), WIRE_NOTHING);
    ok(clock_ms() - began >= 90 && clock_ms() - began < 10000);
    for (; n > 0; n--)
        is(wire_receive(wire[1], &got, 0), WIRE_GOT);
    unmake(wire);
}

TEST(only_a_wire_of_the_parent_is_inherited)
{
    int wire[2], stream[2];
    char number[16];
    make(wire);
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, stream) == 0);
    is(wire_inherited(NULL), -1);
    is(wire_inherited(""), -1);
    is(wire_inherited("-3"), -1);
    is(wire_inherited("99999999999"), -1);
    is(wire_inherited("900"), -1);
    snprintf(number, sizeof number, "%d", stream[0]);
    is(wire_inherited(number), -1);
    snprintf(number, sizeof number, "%d", wire[0]);
    is(wire_inherited(number), -2); /* we made it ourselves, our parent did not */
    pid_t pid = fork();
    if (pid == 0)
        _exit(wire_inherited(number) == wire[0] ? TAP_GOOD : 1);
    int status;
    must(waitpid(pid, &status, 0) == pid);
    is(WEXITSTATUS(status), TAP_GOOD);
    unmake(stream);
    unmake(wire);
}

/* Named after what broke: a supervisor without a descriptor to spare killed a server process that
   was well, for talking nonsense. */
TEST(what_there_is_no_descriptor_for_is_lost_and_is_no_nonsense)
{
    int wire[2];
    struct err err;
    struct rlimit limit;
    struct wire_message got, m = { .type = WIRE_SHARED, .nfds = 1 },
                             ready = { .type = WIRE_LEAVING };
    must(wire_open(wire, &err) == 0);
    snprintf(m.body.shared.plugin, sizeof m.body.shared.plugin, "a");
    snprintf(m.body.shared.name, sizeof m.body.shared.name, "b");
    m.fds[0] = wire[0];
    is(wire_send(wire[1], &m, 0), 0);
    is(wire_send(wire[1], &ready, 0), 0);
    must(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = 3;
    must(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    is(wire_receive(wire[0], &got, 0), WIRE_LOST);
    is(got.nfds, 0);
    limit.rlim_cur = limit.rlim_max;
    must(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    is(wire_receive(wire[0], &got, 0), WIRE_GOT);
    is(got.type, WIRE_LEAVING);
    close(wire[0]);
    close(wire[1]);
}
