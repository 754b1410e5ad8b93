/*
 * Shadows in the chain. A request that a canary's stable version may serve is considered, and when
 * its answer begins either chosen, by an even sequence, or forgotten. What is sent to its client is
 * then kept for comparing. At its end a copy of its head waits for a turn of the loop of its own,
 * and runs as an exchange without a session, whose answer is digested and dropped.
 *
 *   considered -> tapped -> (launched) waiting -> live -> over, with an outcome -> ended
 *
 * Invariant: a shadow takes part in no figure of requests, connections or versions but its own, and
 * nothing that a client waits for waits for one.
 */
#ifndef GRAFT_PLUGIN_CHAIN_SHADOW_H
#define GRAFT_PLUGIN_CHAIN_SHADOW_H

#include "plugin/exchange.h"

/* Of requests that have a client. */
COLD void shadow_consider(struct exchange *x); /* of a generation with shadows, before its chain */
COLD void shadow_launch(struct exchange *x);   /* it has ended */

/* As response_send, of one that is tapped or a shadow. */
NOINLINE enum response_result shadow_send(struct exchange *x, bool final, const char **why);

/* Of shadows. */
COLD unsigned shadow_subset(const struct exchange *x, const struct generation *g); /* canaries */
COLD void shadow_over(struct exchange *x); /* answered or cut: the outcome */
COLD void shadow_end(struct exchange *x);  /* finished: back to the pool */
COLD void shadow_set_deadline(struct exchange *x);
COLD bool shadow_expired(struct exchange *x); /* its time is over, not only its handler's own */
COLD bool shadow_may_log(struct exchange *x); /* ten lines a second, of each worker */

#endif
