/* base/wheel.h: nothing expires early, nothing is forgotten, whatever is moved when. */
#include "tap.h"

#include "base/wheel.h"

static struct wheel wheel;
static uint64_t now;

struct timed {
    struct wheel_timer timer;
    uint64_t due; /* 0 = must not expire */
    unsigned expired;
};

static void expired(struct wheel_timer *t, void *arg)
{
    struct timed *timed = container_of(t, struct timed, timer);
    (void)arg;
    ok(timed->due != 0 && timed->due <= now);
    ok(t->deadline_ms == 0);
    timed->expired++;
    timed->due = 0;
}

static void set(struct timed *t, uint64_t deadline)
{
    t->due = deadline;
    wheel_set(&wheel, &t->timer, deadline);
}

static void run_to(uint64_t ms)
{
    now = ms;
    wheel_run(&wheel, now, expired, NULL);
}

TEST(expires_not_early_and_within_a_tick)
{
    struct timed t = { 0 };
    wheel_init(&wheel, 1000);
    wheel_timer_init(&t.timer);
    set(&t, 1130);
    run_to(1129);
    is(t.expired, 0);
    run_to(1130 + WHEEL_TICK_MS);
    is(t.expired, 1);
    is(wheel.set, 0);
    run_to(100000);
    is(t.expired, 1);
}

TEST(cleared_timers_stay_silent)
{
    struct timed t = { 0 };
    wheel_init(&wheel, 0);
    wheel_timer_init(&t.timer);
    wheel_clear(&wheel, &t.timer);
    set(&t, 500);
    wheel_clear(&wheel, &t.timer);
    wheel_clear(&wheel, &t.timer);
    is(wheel.set, 0);
    t.due = 0;
    run_to(100000);
    is(t.expired, 0);
}

TEST(postponing_only_writes_the_deadline)
{
    struct timed t = { 0 };
    wheel_init(&wheel, 0);
    wheel_timer_init(&t.timer);
    set(&t, 500);
    uint64_t slot = t.timer.slot_ms;
    set(&t, 5000);
    is(t.timer.slot_ms, slot);
    run_to(4999);
    is(t.expired, 0);
    run_to(5000 + WHEEL_TICK_MS);
    is(t.expired, 1);
}

TEST(a_deadline_can_be_brought_forward)
{
    struct timed t = { 0 };
    wheel_init(&wheel, 0);
    wheel_timer_init(&t.timer);
    set(&t, 20000);
    set(&t, 300);
    run_to(300 + WHEEL_TICK_MS);
    is(t.expired, 1);
    is(wheel.set, 0);
}

TEST(deadlines_more_than_a_turn_away)
{
    struct timed t = { 0 };
    uint64_t turn = (uint64_t)WHEEL_SLOTS * WHEEL_TICK_MS;
    wheel_init(&wheel, 7);
    wheel_timer_init(&t.timer);
    set(&t, 3 * turn + 11);
    for (uint64_t ms = 0; ms < 3 * turn; ms += 40)
        run_to(ms);
    is(t.expired, 0);
    run_to(3 * turn + 11 + WHEEL_TICK_MS);
    is(t.expired, 1);
}

static void set_again(struct wheel_timer *t, void *arg)
{
    unsigned *count = arg;
    ++*count;
    wheel_set(&wheel, t, 1); /* long past */
}

TEST(what_is_set_inside_waits_for_the_next_run)
{
    struct wheel_timer t;
    unsigned count = 0;
    wheel_init(&wheel, 0);
    wheel_timer_init(&t);
    wheel_set(&wheel, &t, 10);
    wheel_run(&wheel, 1000000, set_again, &count);
    is(count, 1);
    wheel_run(&wheel, 1000000, set_again, &count);
    is(count, 1);
    wheel_run(&wheel, 1000000 + WHEEL_TICK_MS, set_again, &count);
    is(count, 2);
}

static struct wheel_timer pair[2];

static void clear_both(struct wheel_timer *t, void *arg)
{
    (void)t;
    ++*(unsigned *)arg;
    wheel_clear(&wheel, &pair[0]);
    wheel_clear(&wheel, &pair[1]);
}

TEST(a_callback_may_clear_others_that_are_due)
{
    unsigned count = 0;
    wheel_init(&wheel, 0);
    for (int i = 0; i < 2; i++) {
        wheel_timer_init(&pair[i]);
        wheel_set(&wheel, &pair[i], 10);
    }
    wheel_run(&wheel, 100, clear_both, &count);
    is(count, 1);
    is(wheel.set, 0);
}

#define MANY 300

TEST(thousands_of_random_moves_against_a_model)
{
    static struct timed t[MANY];
    unsigned seed = 4711;
    wheel_init(&wheel, 0);
    for (int i = 0; i < MANY; i++)
        wheel_timer_init(&t[i].timer);
    for (int step = 0; step < 20000; step++) {
        struct timed *one = &t[(unsigned)rand_r(&seed) % MANY];
        unsigned what = (unsigned)rand_r(&seed) % 10;
        if (what < 6) {
            set(one, now + 1 + (unsigned)rand_r(&seed) % (what == 0 ? 90000 : 2000));
        } else if (what < 8) {
            wheel_clear(&wheel, &one->timer);
            one->due = 0;
        } else {
            run_to(now + (unsigned)rand_r(&seed) % (what == 8 ? 100 : 3000));
            for (int i = 0; i < MANY; i++)
                ok(t[i].due == 0 || t[i].due + WHEEL_TICK_MS > now);
        }
    }
    run_to(now + 200000);
    for (int i = 0; i < MANY; i++)
        is(t[i].due, 0);
    is(wheel.set, 0);
}
