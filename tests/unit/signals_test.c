/* run/signals.c: what a second TERM means, and that blocked signals are not lost. */
#include "tap.h"

#include "base/base.h"
#include "run/signals.h"

TEST(two_within_200_ms_are_one)
{
    struct signals_stop s = { 0 };
    is(signals_stop(&s, 1000), SIGNALS_DRAIN);
    is(signals_stop(&s, 1000), SIGNALS_SAME);
    is(signals_stop(&s, 1199), SIGNALS_SAME);
    is(signals_stop(&s, 1200), SIGNALS_EXIT);
}

TEST(the_first_counts_not_the_last)
{
    struct signals_stop s = { 0 };
    is(signals_stop(&s, 0), SIGNALS_DRAIN); /* also at the clock's zero */
    is(signals_stop(&s, 150), SIGNALS_SAME);
    is(signals_stop(&s, 300), SIGNALS_EXIT);
}

TEST(early_signals_are_remembered)
{
    struct err err;
    signals_block();
    raise(SIGUSR2);
    raise(SIGPIPE); /* ignored */
    int fd = signals_open(&err);
    must(fd >= 0);
    is(signals_next(fd), SIGUSR2);
    is(signals_next(fd), 0);
    raise(SIGTERM);
    is(signals_next(fd), SIGTERM);
    is_str(signals_name(SIGTERM), "SIGTERM");
    close(fd);
}

TEST(dead_children_are_left_for_their_waiters_first)
{
    int status;
    ok(!signals_reap(1000));
    pid_t pid = fork();
    if (pid == 0)
        _exit(7);
    siginfo_t info;
    must(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) == 0); /* it is dead */
    ok(signals_reap(1000));
    ok(signals_reap(1000 + SIGNALS_REAP_MS - 1));
    is(waitpid(pid, &status, WNOHANG), pid); /* still ours */
    is(WEXITSTATUS(status), 7);
    ok(!signals_reap(1000 + SIGNALS_REAP_MS));
}

TEST(dead_children_go_in_the_end)
{
    pid_t pids[3];
    siginfo_t info;
    for (int i = 0; i < 3; i++) {
        pids[i] = fork();
        if (pids[i] == 0)
            _exit(0);
        must(waitid(P_PID, (id_t)pids[i], &info, WEXITED | WNOWAIT) == 0);
    }
    ok(signals_reap(1000));
    signals_reap(1000 + SIGNALS_REAP_MS);
    for (int i = 0; i < 3; i++)
        is(waitpid(pids[i], NULL, WNOHANG), -1);
    ok(!signals_reap(1001 + SIGNALS_REAP_MS));
}
