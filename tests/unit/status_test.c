/* Numbers, phrases and lines of one table. */
#include "tap.h"

#include "http/status.h"

TEST(lines_say_what_the_table_says)
{
    unsigned known = 0;
    for (unsigned code = 0; code < 700; code++) {
        size_t len = 99;
        const char *line = status_line(code, &len);
        if (!line) {
            is(len, 0);
            is_str(status_reason(code), "");
            continue;
        }
        char want[128];
        snprintf(want, sizeof want, "HTTP/1.1 %u %s\r\n", code, status_reason(code));
        is_str(line, want);
        is(len, strlen(want));
        known++;
    }
    is(known, 61);
}

TEST(phrases_are_those_of_rfc_9110)
{
    is_str(status_reason(200), "OK");
    is_str(status_reason(404), "Not Found");
    is_str(status_reason(413), "Content Too Large");
    is_str(status_reason(422), "Unprocessable Content");
    is_str(status_reason(431), "Request Header Fields Too Large");
    is_str(status_reason(505), "HTTP Version Not Supported");
    is_str(status_reason(418), "");
    is_str(status_reason(999), "");
    is_str(status_reason(UINT_MAX), "");
}
