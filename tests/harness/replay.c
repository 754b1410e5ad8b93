/*
 * For tests/integration/31-harness.t, which sends the same bytes to a real server:
 *     replay SETTINGS.json OUT PLUGIN.so... < bytes of one connection to a line, in hexadecimal,
 * behind a "~" where a thread of the plugin's own answers. OUT gets for each a line "answer HEX
 * cut" and the log's lines since, as "log LINE".
 */
#include <graft/harness.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WAIT_MS 20000 /* for threads of the plugin's own: they need a moment */

static char *read_file(const char *path)
{
    static char text[65536];
    FILE *f = fopen(path, "r");
    if (f == NULL)
        return NULL;
    text[fread(text, 1, sizeof text - 1, f)] = '\0';
    fclose(f);
    return text;
}

static size_t from_hex(const char *line, char *to)
{
    size_t n = 0;
    unsigned byte;
    while (sscanf(line + 2 * n, "%2x", &byte) == 1)
        to[n++] = (char)byte;
    return n;
}

static void tell(FILE *out, graft_test_req *r)
{
    graft_str got = graft_test_received(r);
    fprintf(out, "answer ");
    for (size_t i = 0; i < got.len; i++)
        fprintf(out, "%02x", (unsigned char)got.ptr[i]);
    fprintf(out, " %s\n", graft_test_cut(r) ? "cut" : graft_test_complete(r) ? "whole" : "open");
    const char *line;
    for (unsigned i = 0; (line = graft_test_log_line(i)) != NULL; i++)
        fprintf(out, "log %s\n", line);
    graft_test_forget_log();
}

static void exchange(FILE *out, const char *line, char *bytes)
{
    bool threads = line[0] == '~';
    graft_test_req *r = graft_test_raw(bytes, from_hex(line + threads, bytes));
    if (threads)
        graft_test_wait(r, WAIT_MS); /* the clock stands meanwhile */
    for (int i = 0; i < 100 && !graft_test_complete(r) && !graft_test_cut(r); i++)
        graft_test_advance(50);
    graft_test_advance(2500); /* what is to follow the answer */
    tell(out, r);
    graft_test_forget(r);
}

int main(int argc, char **argv)
{
    static char line[1 << 20], bytes[1 << 19];
    if (argc < 4)
        return 2;
    FILE *out = fopen(argv[2], "w");
    if (out == NULL)
        return 2;
    graft_test_settings(read_file(argv[1]));
    for (int i = 3; i < argc; i++)
        if (graft_test_load(argv[i], NULL) != 0) {
            fprintf(stderr, "%s: %s\n", argv[i], graft_test_why());
            return 2;
        }
    graft_test_forget_log();
    while (fgets(line, sizeof line, stdin) != NULL)
        exchange(out, line, bytes);
    fclose(out);
    return graft_test_end();
}
