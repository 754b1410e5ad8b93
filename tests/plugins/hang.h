/* Hangs for config.ms milliseconds, for ever without it: for the sins named *_hangs. */
#include <graft/graft.h>

#include <time.h>
#include <unistd.h>

static void hang(graft_self *self, const char *where)
{
    int64_t ms = graft_config_int(self, "ms", -1);
    graft_log(self, GRAFT_INFO, "life %s hangs", where);
    while (ms < 0)
        pause();
    struct timespec left = { ms / 1000, (long)(ms % 1000) * 1000000L };
    while (nanosleep(&left, &left) != 0)
        continue;
    graft_log(self, GRAFT_INFO, "life %s returns", where);
}
