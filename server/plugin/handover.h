/*
 * Hand-over on the workers: new requests of the versions that hand over are held, and each worker
 * says when its last request of them has ended. Control sends:
 *
 *   hold     new requests whose chain has one of the versions wait; answered when none of them is in
 *            progress here, or at once when one is that cannot be waited for (LATER, a stream)
 *   resume   those that wait are opened anew, on this worker's generation; answered
 *
 * An adoption resumes too, on each worker in the moment in which it adopts. A resume is sent at any
 * time after a hold; where the hold had not been answered it never will be.
 */
#ifndef GRAFT_PLUGIN_HANDOVER_H
#define GRAFT_PLUGIN_HANDOVER_H

#include "base/inbox.h"
#include "net/loop.h"
#include "plugin/version.h"

#include <graft/graft.h>

#define HANDOVER_BYTES_MAX ((size_t)1 << 30)

struct handover;

/* `resume` opens what waits on loop->held. [worker] Once, before the first. */
void handover_init(struct loop **loops, unsigned nloops, struct inbox *control,
                   void (*resume)(struct loop *l));

/* [control] Sends hold. `done` is called when all workers are quiet, or once when one never will be
   (handover_refused). NULL: no memory. */
struct handover *handover_hold(struct version *const *olds, size_t nolds,
                               void (*done)(struct handover *h, void *arg), void *arg);
/* [control] Why it cannot be; NULL: it can. */
const char *handover_refused(const struct handover *h);
/* [control] Names a version that is still in use; false: none is. */
bool handover_blame(const struct handover *h, struct err *err);
/* [control] Sends resume, and gives the hand-over up; `done` is not called any more. */
void handover_cancel(struct handover *h);
/* [control] After the adoption, which has resumed. */
void handover_free(struct handover *h);

/* [worker] The generation has been adopted: what waits may go on. */
void handover_adopted(struct loop *l);
/* [worker] The last request of a version that hands over has ended here. */
void handover_cell_idle(struct version_cell *cell);

#endif
