/*
 * The table of status.h, as arrays indexed by the code.
 */
#include "http/status.h"

#define STATUS_MAX 599u

#define LINE(code, reason) "HTTP/1.1 " #code " " reason "\r\n"

static const char *const reasons[STATUS_MAX + 1] = {
#define STATUS_REASON(code, reason) [code] = reason,
    STATUS_TABLE(STATUS_REASON)
};

static const struct {
    const char *text;
    size_t len;
} lines[STATUS_MAX + 1] = {
#define STATUS_LINE(code, reason) [code] = { LINE(code, reason), sizeof LINE(code, reason) - 1 },
    STATUS_TABLE(STATUS_LINE)
};

const char *status_reason(unsigned code)
{
    return code <= STATUS_MAX && reasons[code] ? reasons[code] : "";
}

HOT const char *status_line(unsigned code, size_t *len)
{
    *len = code <= STATUS_MAX ? lines[code].len : 0;
    return *len > 0 ? lines[code].text : NULL;
}
