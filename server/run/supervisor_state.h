/*
 * What the supervisor hands to the program that it becomes: the version of its shape. It goes with
 * READY too, so that it is known beforehand whether that program understands it.
 */
#ifndef GRAFT_RUN_SUPERVISOR_STATE_H
#define GRAFT_RUN_SUPERVISOR_STATE_H

#ifndef STATE_VERSION
#define STATE_VERSION 2u
#endif

#define STATE_VARIABLE "GRAFTD_STATE" /* holds the number of its descriptor */

#endif
