/* The loop's clock: read once a turn, and again by who has let plugin code run. */
#include "net/loop.h"

#include "tap.h"

#include <unistd.h>

static struct loop loop;
static uint64_t told[4];
static unsigned ntold;

static void on_ready(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what, (void)arg;
    told[ntold++] = loop_now_us(&loop);
    usleep(2000);
}

static void on_plugin(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what, (void)arg;
    told[ntold++] = loop_now_us(&loop);
    usleep(2000);
    told[ntold++] = loop_clock_us(&loop);
}

/* One turn in which both events are ready. */
static void turn(struct event *a, struct event *b)
{
    event_active(a, 0, 0);
    event_active(b, 0, 0);
    event_base_loop(loop.base, EVLOOP_ONCE);
}

static void begin(struct event *a, event_callback_fn fn, struct event *b)
{
    struct event_base *base = event_base_new();
    ok(base && loop_init(&loop, 0) == 0 && loop_attach(&loop, base) == 0);
    event_assign(a, base, -1, 0, fn, NULL);
    event_assign(b, base, -1, 0, on_ready, NULL);
}

static void end(void)
{
    event_base_free(loop.base);
    inbox_close(&loop.inbox);
}

TEST(what_is_ready_in_one_turn_has_one_time)
{
    struct event a, b;
    begin(&a, on_ready, &b);
    turn(&a, &b);
    is(ntold, 2u);
    is(told[1], told[0]);
    end();
}

TEST(the_next_turn_reads_the_clock_again)
{
    struct event a, b;
    begin(&a, on_ready, &b);
    turn(&a, &b);
    turn(&a, &b);
    is(ntold, 4u);
    ok(told[2] >= told[0] + 4000); /* each of the first turn's two slept for 2 ms */
    end();
}

TEST(who_lets_plugin_code_run_tells_those_behind_the_time)
{
    struct event a, b;
    begin(&a, on_plugin, &b);
    turn(&a, &b);
    is(ntold, 3u);
    ok(told[1] >= told[0] + 2000);
    is(told[2], told[1]);
    end();
}

TEST(outside_a_turn_the_clock_is_read_and_not_kept)
{
    struct event a, b;
    begin(&a, on_ready, &b);
    is(loop.turn_us, 0u);
    ok(loop_clock_us(&loop) > 0);
    is(loop.turn_us, 0u);
    end();
}
