/* Says with each answer which process made it: middleware, X-Pid. Only so can the first answer of the process that
 * follows a crash be told from the last one of the process that crashed. */
#include <graft/graft.h>

#include <stdio.h>
#include <unistd.h>

static graft_next before(graft_req *req, void *state)
{
    char text[24];

    (void)state;
    snprintf(text, sizeof text, "%ld", (long)getpid());
    graft_set_header(req, "X-Pid", text);
    return GRAFT_NEXT;
}

/* clang-format off */
GRAFT_PLUGIN(
    .name        = "chaos-who",
    .summary     = "Adds X-Pid to every answer.",
    .on_response = before,
)
