/* base/inbox.h: order, wake-ups, messages that send themselves again, many senders at once. */
#include "tap.h"

#include "base/inbox.h"

#include <poll.h>
#include <pthread.h>

struct note {
    struct msg msg;
    int sender, number;
};

static struct inbox inbox;
static int seen[8], order_errors, again;

static void check_order(struct msg *msg)
{
    struct note *n = container_of(msg, struct note, msg);
    order_errors += n->number != seen[n->sender];
    seen[n->sender] = n->number + 1;
    free(n);
}

static struct note *note(int sender, int number)
{
    struct note *n = calloc(1, sizeof(*n));
    must(n != NULL);
    n->msg.fn = check_order;
    n->sender = sender;
    n->number = number;
    return n;
}

static bool readable(int timeout_ms)
{
    struct pollfd p = { .fd = inbox.fd, .events = POLLIN };
    return poll(&p, 1, timeout_ms) == 1;
}

TEST(messages_arrive_in_order)
{
    must(inbox_open(&inbox) == 0);
    for (int i = 0; i < 100; i++)
        inbox_send(&inbox, &note(0, i)->msg);
    is(inbox_run(&inbox), 100);
    is(seen[0], 100);
    is(order_errors, 0);
    is(inbox_run(&inbox), 0);
    inbox_close(&inbox);
}

TEST(the_eventfd_is_written_only_when_the_list_was_empty)
{
    uint64_t count = 0;
    must(inbox_open(&inbox) == 0);
    ok(!readable(0));
    for (int i = 0; i < 3; i++)
        inbox_send(&inbox, &note(0, i)->msg);
    ok(readable(0));
    is(read(inbox.fd, &count, sizeof(count)), sizeof(count));
    is(count, 1);
    is(inbox_run(&inbox), 3);
    ok(!readable(0));
    inbox_send(&inbox, &note(0, 3)->msg);
    ok(readable(0));
    is(inbox_run(&inbox), 1);
    inbox_close(&inbox);
}

static void send_again(struct msg *msg)
{
    again++;
    inbox_send(&inbox, msg);
}

TEST(what_is_sent_meanwhile_waits_for_the_next_turn)
{
    struct msg m = { .fn = send_again };
    must(inbox_open(&inbox) == 0);
    inbox_send(&inbox, &m);
    for (int i = 1; i <= 5; i++) {
        is(inbox_run(&inbox), 1);
        is(again, i);
        ok(readable(0));
    }
    inbox_close(&inbox);
}

#define SENDERS 4
#define EACH    20000

static void *send_all(void *arg)
{
    int sender = (int)(intptr_t)arg;
    for (int i = 0; i < EACH; i++)
        inbox_send(&inbox, &note(sender, i)->msg);
    return NULL;
}

TEST(nothing_is_lost_among_many_senders)
{
    pthread_t threads[SENDERS];
    size_t got = 0;
    must(inbox_open(&inbox) == 0);
    for (int i = 0; i < SENDERS; i++)
        must(pthread_create(&threads[i], NULL, send_all, (void *)(intptr_t)i) == 0);
    /* Only ever after a wake-up: a lost one ends in the alarm. */
    while (got < (size_t)SENDERS * EACH) {
        if (readable(1000))
            got += inbox_run(&inbox);
    }
    for (int i = 0; i < SENDERS; i++) {
        pthread_join(threads[i], NULL);
        is(seen[i], EACH);
    }
    is(order_errors, 0);
    is(inbox_run(&inbox), 0);
    inbox_close(&inbox);
}
