/* Wall time as RFC 3339 text, for log lines. Any thread. */
#include "base/clock.h"

/* Two digits, then the separator that follows them. */
static char *put2(char *p, int n, char after)
{
    p[0] = (char)('0' + n / 10 % 10);
    p[1] = (char)('0' + n % 10);
    p[2] = after;
    return p + 3;
}

void clock_rfc3339(char out[CLOCK_RFC3339_SIZE])
{
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    int year = tm.tm_year + 1900;
    char *p = put2(out, year / 100, '\0') - 1;
    p = put2(p, year % 100, '-');
    p = put2(p, tm.tm_mon + 1, '-');
    p = put2(p, tm.tm_mday, 'T');
    p = put2(p, tm.tm_hour, ':');
    p = put2(p, tm.tm_min, ':');
    p = put2(p, tm.tm_sec, '.');
    long us = now.tv_nsec / 1000;
    for (int i = 5; i >= 0; i--, us /= 10)
        p[i] = (char)('0' + us % 10);
    p[6] = 'Z';
    p[7] = '\0';
}
