/* See cores.h. */
#include "run/cores.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* cgroup v2: "max 100000" or "200000 100000" (quota and period in microseconds). */
static unsigned quota_v2(void)
{
    char line[512], path[700];
    FILE *f = fopen("/proc/self/cgroup", "re");
    unsigned cores = 0;
    path[0] = 0;
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "0::", 3) == 0) {
            line[strcspn(line, "\n")] = 0;
            snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", line + 3);
        }
    if (f)
        fclose(f);
    f = path[0] ? fopen(path, "re") : NULL;
    unsigned long long quota, period;
    if (f && fscanf(f, "%llu %llu", &quota, &period) == 2 && period > 0)
        cores = (unsigned)((quota + period - 1) / period);
    if (f)
        fclose(f);
    return cores;
}

static long long read_number(const char *path)
{
    long long n = -1;
    FILE *f = fopen(path, "re");
    if (f && fscanf(f, "%lld", &n) != 1)
        n = -1;
    if (f)
        fclose(f);
    return n;
}

static unsigned quota_v1(void)
{
    long long quota = read_number("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
    long long period = read_number("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
    return quota > 0 && period > 0 ? (unsigned)((quota + period - 1) / period) : 0;
}

unsigned cores_usable(void)
{
    cpu_set_t set;
    unsigned cores = 1;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        cores = (unsigned)CPU_COUNT(&set);
    else if (sysconf(_SC_NPROCESSORS_ONLN) > 0)
        cores = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
    unsigned quota = quota_v2();
    if (!quota)
        quota = quota_v1();
    if (quota && quota < cores)
        cores = quota;
    return cores ? cores : 1;
}
