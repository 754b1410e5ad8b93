/* One request to a running graftd over its control socket. Blocks. */
#ifndef GRAFT_CTL_CLIENT_H
#define GRAFT_CTL_CLIENT_H

#include "base/buf.h"
#include "base/err.h"

#define CLIENT_WAIT_S 10 /* a server that is well answers at once */
/* A reload answers only when its plugins are loaded, and those may take their time. */
#define CLIENT_RELOAD_S 900

enum client_result { CLIENT_OK, CLIENT_NO_SERVER, CLIENT_BROKEN };

/* `control`: the socket's path; "" = look for it. `wait_s`: without a byte of the answer. Fills the
   HTTP status and the body. */
enum client_result client_call(const char *control, const char *method, const char *target,
                               unsigned wait_s, int *status, struct buf *body, struct err *err);

/* The answer's bytes, whole, into status and body. Exposed for its test. */
int client_parse(const struct buf *answer, int *status, struct buf *body, struct err *err);

#endif
