/*
 * Running graft-probe and judging how it ended.
 *
 * Loader thread. The child is started by posix_spawn (vfork-like: nothing of the server is copied),
 * in a process group of its own, with nothing of ours but the pipe. It is killed with its group
 * before it is reaped, so that its number cannot have passed to somebody else by then. What arrives
 * on the pipe was written in the same process as the plugin's constructors: it is data, not truth.
 */
#include "plugin/probe.h"

#include "base/buf.h"
#include "base/clock.h"
#include "plugin/probe_wire.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROBE_MAGIC 0x70726f62u

/* Descriptors from here on cannot collide with those that the child's 0..3 are made of. */
#define FD_LOW 10

/* Tests that bring their own path need none compiled in. */
#ifdef GRAFT_LIBEXECDIR
#define DEFAULT_PATH GRAFT_LIBEXECDIR "/graft-probe"
#else
#define DEFAULT_PATH "graft-probe"
#endif

/* Without pidfd_open (old kernels, strict seccomp): how often to ask whether the child lives. */
#define TICK_MS 5

struct probe {
    unsigned magic;
    int fd; /* the program; >= FD_LOW */
    char *path;
};

struct probe *probe_open(const char *path, struct err *err)
{
    if (path == NULL)
        path = DEFAULT_PATH;
    struct probe *p = calloc(1, sizeof(*p));
    int fd = open(path, O_RDONLY | O_CLOEXEC), high = -1;
    if (fd >= 0) {
        high = fcntl(fd, F_DUPFD_CLOEXEC, FD_LOW);
        close(fd);
    }
    char *copy = strdup(path);
    if (p == NULL || copy == NULL || high < 0) {
        err_set(err, "cannot open the probe %s: %s: is graft installed completely?", path,
                p == NULL || copy == NULL ? "out of memory" : strerror(errno));
        if (high >= 0)
            close(high);
        free(copy);
        free(p);
        return NULL;
    }
    *p = (struct probe){ .magic = PROBE_MAGIC, .fd = high, .path = copy };
    return p;
}

void probe_close(struct probe *probe)
{
    if (probe == NULL)
        return;
    CHECK(probe, PROBE_MAGIC);
    close(probe->fd);
    free(probe->path);
    free(probe);
}

/* One run. */
struct run {
    const char *so_path;
    unsigned timeout_ms;
    uint64_t deadline_ms; /* 0 = none */
    pid_t pid;
    int pidfd, pipe;             /* -1 = not there, or at its end */
    struct buf in;               /* frames; in.data + parsed: the first that is not complete */
    size_t parsed;               /* bytes of `in` in frames that were dealt with */
    enum probe_frame_type phase; /* the last frame; 0 before the first */
    const char *payload;         /* of FAILED or DONE, in `in` */
    size_t payload_len;
    bool garbage; /* what came makes no sense */
    bool no_memory;
    bool ended;    /* the child ended by itself; `how` says how */
    siginfo_t how; /* si_pid 0: somebody else has reaped it */
};

/* ---- Starting -------------------------------------------------------------------------------- */

/* PATH and LD_LIBRARY_PATH are all that the child gets: "NAME=value" strings of ours, or NULL. */
static int make_environment(char *env[3])
{
    static const char *const names[2] = { "PATH", "LD_LIBRARY_PATH" };
    int n = 0;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        const char *value = getenv(names[i]);
        if (value != NULL && asprintf(&env[n++], "%s=%s", names[i], value) < 0) {
            env[n - 1] = NULL;
            return -1;
        }
    }
    return 0;
}

static int set_actions(posix_spawn_file_actions_t *actions, int pipe_fd)
{
    int rc = posix_spawn_file_actions_addopen(actions, 0, "/dev/null", O_RDWR, 0);
    if (rc == 0)
        rc = posix_spawn_file_actions_adddup2(actions, 0, 1);
    if (rc == 0)
        rc = posix_spawn_file_actions_adddup2(actions, 0, 2);
    if (rc == 0)
        rc = posix_spawn_file_actions_adddup2(actions, pipe_fd, PROBE_FD);
    return rc;
}

static void set_attributes(posix_spawnattr_t *attr)
{
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(attr, &none);
    posix_spawnattr_setsigdefault(attr, &all);
    posix_spawnattr_setpgroup(attr, 0);
    posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                       POSIX_SPAWN_SETPGROUP);
}

/* 0 or an errno. */
static int spawn(const struct probe *probe, struct run *run, int pipe_fd, char **env)
{
    char file[32], timeout[16], parent[16];
    snprintf(file, sizeof(file), "/proc/self/fd/%d", probe->fd);
    snprintf(timeout, sizeof(timeout), "%u", run->timeout_ms);
    snprintf(parent, sizeof(parent), "%ld", (long)getpid());
    char *argv[] = { (char *)"graft-probe", (char *)run->so_path, timeout, parent, NULL };
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    int rc = posix_spawn_file_actions_init(&actions);
    if (rc != 0)
        return rc;
    rc = posix_spawnattr_init(&attr);
    if (rc == 0) {
        set_attributes(&attr);
        rc = set_actions(&actions, pipe_fd);
        if (rc == 0)
            rc = posix_spawn(&run->pid, file, &actions, &attr, argv, env);
        posix_spawnattr_destroy(&attr);
    }
    posix_spawn_file_actions_destroy(&actions);
    return rc;
}

/* A pipe whose writing end lies above the child's descriptors; the reading end does not block. */
static int open_pipe(int ends[2])
{
    int low[2];
    if (pipe2(low, O_CLOEXEC) != 0)
        return -1;
    ends[1] = fcntl(low[1], F_DUPFD_CLOEXEC, FD_LOW);
    int saved = errno;
    close(low[1]);
    if (ends[1] < 0 || fcntl(low[0], F_SETFL, O_NONBLOCK) != 0) {
        saved = ends[1] < 0 ? saved : errno;
        if (ends[1] >= 0)
            close(ends[1]);
        close(low[0]);
        errno = saved;
        return -1;
    }
    ends[0] = low[0];
    return 0;
}

static int start(const struct probe *probe, struct run *run, struct err *err)
{
    int ends[2];
    char *env[3] = { NULL, NULL, NULL };
    if (open_pipe(ends) != 0)
        return err_set(err, "cannot run graft-probe: no pipe: %s", strerror(errno));
    int rc = make_environment(env) != 0 ? ENOMEM : spawn(probe, run, ends[1], env);
    free(env[0]);
    free(env[1]);
    close(ends[1]);
    if (rc != 0) {
        close(ends[0]);
        return err_set(err, "cannot run graft-probe (%s): %s%s", probe->path, strerror(rc),
                       rc == ENOENT ? ": is /proc mounted?" : "");
    }
    run->pipe = ends[0];
    run->pidfd = (int)syscall(SYS_pidfd_open, run->pid, 0u);
    return 0;
}

/* ---- Listening ------------------------------------------------------------------------------- */

/* Deals with the complete frames that have come. */
static void parse_frames(struct run *run)
{
    struct probe_frame head;
    while (!run->garbage && run->payload == NULL && run->in.len - run->parsed >= sizeof(head)) {
        memcpy(&head, run->in.data + run->parsed, sizeof(head));
        bool known = head.type >= PROBE_BEGUN && head.type <= PROBE_DONE;
        if (!known || head.length > PROBE_FRAME_MAX) {
            run->garbage = true;
            return;
        }
        if (run->in.len - run->parsed - sizeof(head) < head.length)
            return;
        run->phase = (enum probe_frame_type)head.type;
        if (head.type == PROBE_FAILED || head.type == PROBE_DONE) {
            run->payload = run->in.data + run->parsed + sizeof(head);
            run->payload_len = head.length;
        }
        run->parsed += sizeof(head) + head.length;
    }
}

/* Reads what there is. */
static void drain_pipe(struct run *run)
{
    while (run->pipe >= 0 && !run->garbage && run->payload == NULL) {
        if (buf_reserve(&run->in, 16384) != 0) {
            run->no_memory = true;
            return;
        }
        ssize_t n = read(run->pipe, run->in.data + run->in.len, 16384);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (n <= 0) { /* every writer is gone; the process may live on */
            close(run->pipe);
            run->pipe = -1;
            return;
        }
        run->in.len += (size_t)n;
        parse_frames(run);
    }
}

/* Notices the child's end without reaping it. */
static void look_at_child(struct run *run)
{
    siginfo_t si = { .si_pid = 0 };
    int rc;
    while ((rc = waitid(P_PID, (id_t)run->pid, &si, WEXITED | WNOHANG | WNOWAIT)) != 0 &&
           errno == EINTR)
        ;
    if (rc == 0 && si.si_pid == 0)
        return;
    run->ended = true;
    if (rc == 0)
        run->how = si;
}

/* Milliseconds that poll may wait; 0 when the time is over. */
static int time_left(const struct run *run)
{
    uint64_t now = clock_ms(), left = 60000;
    if (run->deadline_ms > 0)
        left = now >= run->deadline_ms ? 0 : run->deadline_ms - now;
    if (left > 60000)
        left = 60000;
    return run->pidfd < 0 && left > TICK_MS ? TICK_MS : (int)left;
}

/* Until there is a result, the child's end, nonsense, or no time left. */
static void listen_to_child(struct run *run)
{
    for (;;) {
        look_at_child(run); /* first: what it wrote before it ended is then in the pipe */
        drain_pipe(run);
        int ms = time_left(run);
        if (run->payload != NULL || run->garbage || run->no_memory || run->ended || ms == 0)
            return;
        struct pollfd fds[2] = { { .fd = run->pipe, .events = POLLIN },
                                 { .fd = run->pidfd, .events = POLLIN } };
        poll(fds, 2, ms);
    }
}

/* Ends what is left of the child and of what it started, and reaps it. */
static void finish(struct run *run)
{
    siginfo_t si;
    kill(-run->pid, SIGKILL);
    if (!run->ended)
        kill(run->pid, SIGKILL); /* should it have left its group */
    while (waitid(P_PID, (id_t)run->pid, &si, WEXITED) != 0 && errno == EINTR)
        ;
    if (run->pidfd >= 0)
        close(run->pidfd);
    if (run->pipe >= 0)
        close(run->pipe);
}

/* ---- Judging --------------------------------------------------------------------------------- */

static const char *signal_name(int sig, char spare[24])
{
    static const struct {
        int sig;
        const char *name;
    } names[] = { { SIGSEGV, "SIGSEGV" }, { SIGABRT, "SIGABRT" }, { SIGBUS, "SIGBUS" },
                  { SIGFPE, "SIGFPE" },   { SIGILL, "SIGILL" },   { SIGTRAP, "SIGTRAP" },
                  { SIGSYS, "SIGSYS" },   { SIGKILL, "SIGKILL" }, { SIGTERM, "SIGTERM" },
                  { SIGPIPE, "SIGPIPE" }, { SIGALRM, "SIGALRM" }, { SIGXFSZ, "SIGXFSZ" },
                  { SIGINT, "SIGINT" },   { SIGHUP, "SIGHUP" },   { SIGQUIT, "SIGQUIT" } };
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (names[i].sig == sig)
            return names[i].name;
    snprintf(spare, 24, "signal %d", sig);
    return spare;
}

/* What to do about a constructor, which cannot say why it failed. */
#define CURE ": do that work in init, which can fail with a reason"

/* While constructors ran. */
static int judge_constructor(const struct run *run, struct err *err)
{
    char spare[24];
    int status = run->how.si_status;
    if (run->how.si_pid == 0)
        return err_set(err, "a constructor ended the process that it was tried in: run graftctl "
                            "check on the file");
    if (run->how.si_code == CLD_EXITED && status == PROBE_EXIT_NO_READER)
        return err_set(err, "a constructor closed a descriptor that is not its own" CURE);
    if (run->how.si_code == CLD_EXITED)
        return err_set(err, "a constructor called exit(%d)" CURE, status);
    if (status == SIGXCPU)
        return err_set(err, "a constructor used more than %u s of processor time" CURE,
                       run->timeout_ms / 1000 + 1);
    if (status == SIGKILL)
        return err_set(err, "a constructor was killed: SIGKILL: was memory short?");
    return err_set(err, "a constructor crashed: %s" CURE, signal_name(status, spare));
}

/* It ended by itself without a result. */
static int judge_end(const struct probe *probe, const struct run *run, struct err *err)
{
    char spare[24];
    bool exited = run->how.si_code == CLD_EXITED;
    if (run->phase == PROBE_BEGUN)
        return judge_constructor(run, err);
    snprintf(spare, sizeof(spare), "status %d", run->how.si_status);
    const char *how = exited ? spare : signal_name(run->how.si_status, spare);
    if (run->phase == PROBE_LOADED && !exited)
        return err_set(err,
                       "reading its descriptor crashed: %s: does every string end in NUL and the "
                       "table of routes in { 0 }?",
                       how);
    if (run->phase == PROBE_LOADED)
        return err_set(err,
                       "graft-probe ended while it read the descriptor: %s: did a "
                       "constructor start a thread that exits?",
                       how);
    return err_set(err, "graft-probe did not start (%s): try %s by hand", how, probe->path);
}

static int judge_timeout(const struct run *run, struct err *err)
{
    const char *what = run->phase == PROBE_BEGUN    ? "a constructor did not return"
                       : run->phase == PROBE_LOADED ? "its descriptor could not be read"
                                                    : "graft-probe did not start";
    return err_set(err, "%s within %u ms%s", what, run->timeout_ms,
                   run->phase == PROBE_BEGUN ? CURE : "");
}

/* What dlopen's words ask for. */
static const char *cure_of(const char *text)
{
    static const struct {
        const char *words, *cure;
    } cures[] = {
        { "undefined symbol", ": define it, or link the library that does (-l...)" },
        { "cannot open shared object file", ": install that library, or link it statically" },
        { "' not found", ": build it on a system as old as this one, or upgrade that library" },
        { "static TLS block", ": compile it without -ftls-model=initial-exec" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cures); i++)
        if (strstr(text, cures[i].words) != NULL)
            return cures[i].cure;
    return "";
}

/* The probe's own words, as far as they are words. */
static int judge_refusal(const struct run *run, struct err *err)
{
    char text[sizeof(err->text)];
    size_t len = run->payload_len < sizeof(text) - 1 ? run->payload_len : sizeof(text) - 1;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)run->payload[i];
        text[i] = c < 0x20 || c == 0x7f ? ' ' : (char)c;
    }
    text[len] = '\0';
    return err_set(err, "%s%s", len > 0 ? text : "graft-probe refused it without saying why",
                   cure_of(text));
}

static int judge(const struct probe *probe, const struct run *run, struct descriptor *out,
                 struct err *err)
{
    if (run->no_memory)
        return err_set(err, "out of memory while graft-probe reported");
    if (run->garbage)
        return err_set(err, "graft-probe's report makes no sense: does a constructor write to "
                            "descriptors that it did not open?");
    if (run->payload != NULL && run->phase == PROBE_DONE)
        return descriptor_decode(run->payload, run->payload_len, out, err);
    if (run->payload != NULL)
        return judge_refusal(run, err);
    return run->ended ? judge_end(probe, run, err) : judge_timeout(run, err);
}

int probe_run(struct probe *probe, const char *so_path, unsigned timeout_ms, struct descriptor *out,
              struct err *err)
{
    CHECK(probe, PROBE_MAGIC);
    memset(out, 0, sizeof(*out));
    struct run run = { .so_path = so_path,
                       .timeout_ms = timeout_ms,
                       .deadline_ms = timeout_ms > 0 ? clock_ms() + timeout_ms : 0,
                       .pidfd = -1,
                       .pipe = -1 };
    if (start(probe, &run, err) != 0)
        return -1;
    listen_to_child(&run);
    finish(&run);
    int rc = judge(probe, &run, out, err);
    buf_fini(&run.in);
    return rc;
}
