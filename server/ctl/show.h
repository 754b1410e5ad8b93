/* graftd's answers as text for people. */
#ifndef GRAFT_CTL_SHOW_H
#define GRAFT_CTL_SHOW_H

#include "base/json.h"

#include <stdio.h>

typedef void show_fn(struct json_value answer, FILE *out);

show_fn show_status, show_versions, show_reload, show_routes, show_upgrade, show_ready, show_done;

/* 950 us, 12.3 ms, 4.5 s, 3 min, 2 h, 5 d */
void show_duration(char out[32], uint64_t us);

#endif
