/*
 * The guard: every head here is scanned three times (whole, byte by byte, and in the smallest piece
 * of memory that holds it) and must get the same answer each time, as early as possible.
 */
#include "tap.h"

#include "http/guard.h"

static const struct guard_limits usual = { 16384, 8000, 8000, 100 };

struct answer {
    enum guard_result result;
    struct guard_verdict v;
    size_t at; /* bytes that had arrived when it came */
};

/* In memory of exactly this length, so that a sanitizer sees each byte too far. */
static enum guard_result scan_exact(struct guard *g, const struct guard_limits *lim,
                                    const char *data, size_t len, struct guard_verdict *v)
{
    char *copy = malloc(len ? len : 1);
    memcpy(copy, data, len);
    enum guard_result result = guard_scan(g, lim, copy, len, v);
    free(copy);
    return result;
}

static struct answer bytewise(const struct guard_limits *lim, const char *data, size_t len)
{
    struct guard g;
    struct answer a = { GUARD_MORE, { 0 }, 0 };
    guard_init(&g);
    while (a.result == GUARD_MORE && a.at < len)
        a.result = scan_exact(&g, lim, data, ++a.at, &a.v);
    return a;
}

static struct answer scan(const struct guard_limits *lim, const char *data, size_t len)
{
    struct guard g;
    struct answer whole = { 0 }, slow = bytewise(lim, data, len);
    guard_init(&g);
    whole.result = scan_exact(&g, lim, data, len, &whole.v);
    is(whole.result, slow.result);
    is(whole.v.status, slow.v.status);
    is(whole.v.skip, slow.v.skip);
    is(whole.v.head_len, slow.v.head_len);
    if (whole.result == GUARD_BAD) {
        is_str(whole.v.why, slow.v.why);
        ok(whole.v.why && *whole.v.why);
    }
    if (whole.result == GUARD_HEAD)
        is(slow.at, slow.v.skip + slow.v.head_len);
    return slow;
}

#define SCAN(lit) scan(&usual, lit, sizeof(lit) - 1)

#define REFUSED(status_, lit)                                                                      \
    do {                                                                                           \
        struct answer a_ = SCAN(lit);                                                              \
        if (!is(a_.result, GUARD_BAD) || !is(a_.v.status, status_))                                \
            fprintf(stderr, "# %s (%s)\n", #lit, a_.v.why ? a_.v.why : "-");                       \
    } while (0)

#define TAKEN(skip_, lit)                                                                          \
    do {                                                                                           \
        struct answer a_ = SCAN(lit);                                                              \
        if (!is(a_.result, GUARD_HEAD) || !is(a_.v.skip, skip_) ||                                 \
            !is(a_.v.head_len, sizeof(lit) - 1 - (skip_)))                                         \
            fprintf(stderr, "# %s (%s)\n", #lit, a_.v.why ? a_.v.why : "-");                       \
    } while (0)

TEST(sound_heads_pass)
{
    TAKEN(0, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    TAKEN(0, "GET / HTTP/1.0\r\n\r\n");
    TAKEN(0, "M-SEARCH * HTTP/1.1\r\nHost:\r\n\r\n");
    TAKEN(0, "GET http://a/b?c=%20~ HTTP/1.1\r\nX: \t a b\t \xff\x80\r\nY:z\r\n\r\n");
    TAKEN(0, "G!#$%&'*+-.^_`|~09az / HTTP/1.1\r\n\r\n");
    TAKEN(0, "GET /a/path/that/takes/several/vectors/of/sixteen/bytes HTTP/1.1\r\n"
             "User-Agent: a value that takes several vectors of sixteen bytes, too\r\n\r\n");
}

TEST(two_empty_lines_are_ignored)
{
    TAKEN(2, "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    TAKEN(4, "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    REFUSED(400, "\r\n\r\n\r\n");
    REFUSED(400, "\rG");
    REFUSED(400, "\n");
}

TEST(what_follows_a_head_is_not_looked_at)
{
    static const char two[] = "GET / HTTP/1.1\r\n\r\n\0\1\2 \r\r";
    struct answer a = SCAN(two);
    is(a.result, GUARD_HEAD);
    is(a.v.head_len, 18);
}

TEST(request_lines_are_exact)
{
    REFUSED(400, "GARBAGE\r\n\r\n");
    REFUSED(400, "GET /echo\r\n\r\n");
    REFUSED(400, "GET  /echo HTTP/1.1\r\n");
    REFUSED(400, "GET\t/echo HTTP/1.1\r\n");
    REFUSED(400, " GET /echo HTTP/1.1\r\n");
    REFUSED(400, "GET /echo  HTTP/1.1\r\n");
    REFUSED(400, "GET /echo HTTP/1.1 \r\n");
    REFUSED(400, "GET /echo HTTP/1.1\n");
    REFUSED(400, "GET /echo HTTP/1.1\r\r\n");
    REFUSED(400, "GET /ec ho HTTP/1.1\r\n");
    REFUSED(400, "GET /ec\1ho HTTP/1.1\r\n");
    REFUSED(400, "GET /ec\0ho HTTP/1.1\r\n");
    REFUSED(400, "GET /ec\x7fho HTTP/1.1\r\n");
    REFUSED(400, "GET /ec\xc3\xbcho HTTP/1.1\r\n");
    REFUSED(400, "G@T / HTTP/1.1\r\n");
    REFUSED(400, "\x16\x03\x01\x02");
    REFUSED(400, "\0");
}

TEST(versions_other_than_1_0_and_1_1)
{
    REFUSED(400, "GET / http/1.1\r\n");
    REFUSED(400, "GET / HTTP/1.10\r\n");
    REFUSED(400, "GET / HTTP/1,1\r\n");
    REFUSED(505, "GET / HTTP/01.1\r\n");
    REFUSED(400, "GET / HTTP/\r\n");
    REFUSED(400, "GET / HTTP/1.x\r\n");
    REFUSED(400, "GET / FTP/1.1\r\n");
    REFUSED(505, "GET / HTTP/1.2\r\n");
    REFUSED(505, "GET / HTTP/2\r\n");
    REFUSED(505, "GET / HTTP/9.9\r\n");
    REFUSED(505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
}

TEST(field_lines_are_exact)
{
    REFUSED(400, "GET / HTTP/1.1\r\nHost : a\r\n");
    REFUSED(400, "GET / HTTP/1.1\r\n Host: a\r\n");
    REFUSED(400, "GET / HTTP/1.1\r\nX: a\r\n b\r\n");
    REFUSED(400, "GET / HTTP/1.1\r\nX: a\r\n\tb\r\n");
    REFUSED(400, "GET / HTTP/1.1\r\nnonsense\r\n");
    REFUSED(400, "GET / HTTP/1.1\r\n: x\r\n");
    REFUSED(400, "GET / HTTP/1.1\r\nX(y): a\r\n");
    REFUSED(400, "GET / HTTP/1.1\r\nX\xff: a\r\n");
    REFUSED(400, "GET / HTTP/1.1\r\nX: a\0b\r\n");
    REFUSED(400, "GET / HTTP/1.1\r\nX: a\rb\r\n");
    REFUSED(400, "GET / HTTP/1.1\r\nX: y\nZ: w\r\n");
    REFUSED(400, "GET / HTTP/1.1\r\nX: \x7f\r\n");
    REFUSED(400, "GET / HTTP/1.1\r\nX: y\r\n\rZ");
    REFUSED(400, "GET / HTTP/1.1\r\nX: y\r\n\n");
}

/* Each byte value in the middle of a target, a name and a value, at each place of a vector. */
TEST(every_byte_is_judged_by_its_place)
{
    for (unsigned byte = 0; byte < 256; byte++)
        for (unsigned at = 0; at < 18; at++) {
            char head[128] =
                "GET /aaaaaaaaaaaaaaaaaaaaaaaa HTTP/1.1\r\nX: bbbbbbbbbbbbbbbbbbbbbbbb\r\n\r\n";
            size_t len = strlen(head);
            struct guard g;
            struct guard_verdict v;
            bool in_target = byte > 0x20 && byte < 0x7f;
            bool in_value = byte == '\t' || (byte >= 0x20 && byte != 0x7f);
            char *value = strstr(head, "bbb");
            head[5 + at] = (char)byte;
            guard_init(&g);
            ok((scan_exact(&g, &usual, head, len, &v) == GUARD_HEAD) == in_target);
            head[5 + at] = 'a';
            value[at] = (char)byte;
            guard_init(&g);
            ok((scan_exact(&g, &usual, head, len, &v) == GUARD_HEAD) == in_value);
        }
}

/* "GET /aaa…" and so on, `n` times `c` between two texts. */
static struct answer filled(const struct guard_limits *lim, const char *before, char c, size_t n,
                            const char *after)
{
    size_t b = strlen(before), len = b + n + strlen(after);
    char *head = malloc(len + 1);
    memcpy(head, before, b);
    memset(head + b, c, n);
    strcpy(head + b + n, after);
    struct answer a = scan(lim, head, len);
    free(head);
    return a;
}

TEST(limits_are_exact)
{
    static const struct guard_limits lim = { 200, 50, 40, 3 };
    is(filled(&lim, "GET /", 'a', 39, " HTTP/1.1\r\n\r\n").result, GUARD_HEAD);
    is(filled(&lim, "GET /", 'a', 40, " HTTP/1.1\r\n\r\n").v.status, 414);
    is(filled(&lim, "GET / HTTP/1.1\r\nX:", 'a', 48, "\r\n\r\n").result, GUARD_HEAD);
    is(filled(&lim, "GET / HTTP/1.1\r\nX:", 'a', 49, "\r\n\r\n").v.status, 431);
    is(filled(&lim, "GET / HTTP/1.1\r\n", 'a', 49, ":\r\n\r\n").result, GUARD_HEAD);
    is(filled(&lim, "GET / HTTP/1.1\r\n", 'a', 50, ":\r\n\r\n").v.status, 431);
    is(filled(&lim, "", 'A', 32, " / HTTP/1.1\r\n\r\n").result, GUARD_HEAD);
    is(filled(&lim, "", 'A', 33, " / HTTP/1.1\r\n\r\n").v.status, 501);
    is(scan(&lim, "GET / HTTP/1.1\r\na:\r\nb:\r\nc:\r\n\r\n", 30).result, GUARD_HEAD);
    is(scan(&lim, "GET / HTTP/1.1\r\na:\r\nb:\r\nc:\r\nd:\r\n\r\n", 34).v.status, 431);
}

TEST(the_head_limit_counts_from_the_request_line)
{
    struct guard_limits lim = { 31, 8000, 8000, 100 };
    static const char head[] = "GET / HTTP/1.1\r\nHost: abcd\r\n\r\n" /* 30 */;
    is(scan(&lim, head, 30).result, GUARD_HEAD);
    lim.head_bytes = 30;
    is(scan(&lim, head, 30).result, GUARD_HEAD);
    is(scan(&lim, "\r\nGET / HTTP/1.1\r\nHost: abcd\r\n\r\n", 32).result, GUARD_HEAD);
    lim.head_bytes = 29;
    is(scan(&lim, head, 30).v.status, 431);
    lim.head_bytes = 12;
    is(scan(&lim, "GET /aaaaaaaaaaaaaaaaa HTTP/1.1\r\n\r\n", 35).v.status, 414);
}

TEST(refusals_come_with_the_first_wrong_byte)
{
    struct guard_limits lim = { 200, 50, 40, 3 };
    is(filled(&lim, "GET /", 'a', 500, "").at, 4 + 41);
    is(filled(&lim, "", 'A', 500, "").at, 33);
    is(filled(&lim, "GET / HTTP/1.1\r\nX:", 'a', 500, "").at, 16 + 51);
    lim.field_bytes = 8000;
    is(filled(&lim, "GET / HTTP/1.1\r\nX:", 'a', 500, "").at, 200);
    is(SCAN("GET / HTTP/2.0\r\n\r\n").at, 12);
    is(SCAN("\x16\x03\x01").at, 1);
    is(SCAN("GET\r\n").at, 4);
    is(SCAN("GET / HTTP/1.1\r\nHost: a\n").at, 24);
}

TEST(more_is_asked_for_until_the_last_byte)
{
    static const char head[] = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for (size_t len = 0; len < sizeof head - 1; len++)
        is(scan(&usual, head, len).result, GUARD_MORE);
    is(scan(&usual, "\r", 1).result, GUARD_MORE);
    is(scan(&usual, "\r\n", 2).result, GUARD_MORE);
}

/* 16 KB byte by byte: each byte is looked at a bounded number of times. */
TEST(arrival_byte_by_byte_is_linear)
{
    struct guard g;
    struct guard_verdict v;
    char head[16000] = "GET / HTTP/1.1\r\nX:";
    size_t len = strlen(head);
    memset(head + len, 'a', 7000);
    guard_init(&g);
    for (size_t n = 1; n <= len + 7000; n++) {
        is(guard_scan(&g, &usual, head, n, &v), GUARD_MORE);
        ok(n - g.scanned <= 9); /* all but a version that is not complete */
    }
}
