/* The chunked decoder: each body whole, and byte by byte in memory of its exact length. */
#include "tap.h"

#include "http/chunked.h"

struct decoded {
    enum chunked_result result;
    unsigned status;
    size_t used, len;
    char body[256];
};

static enum chunked_result feed(struct chunked *c, const char *data, size_t len, struct decoded *d)
{
    char *copy = malloc(len ? len : 1);
    size_t at = 0, used;
    struct str body;
    enum chunked_result result;
    memcpy(copy, data, len);
    do {
        result = chunked_next(c, copy + at, len - at, &used, &body);
        at += used;
        if (result == CHUNKED_DATA) {
            ok(body.len > 0 && body.ptr + body.len == copy + at);
            must(d->len + body.len < sizeof d->body);
            memcpy(d->body + d->len, body.ptr, body.len);
            d->len += body.len;
        } else {
            ok(!body.ptr);
        }
    } while (result == CHUNKED_DATA);
    d->used += at;
    d->result = result;
    d->status = c->status;
    free(copy);
    return result;
}

static struct decoded decode(const char *data, size_t len)
{
    struct decoded whole = { 0 }, slow = { 0 };
    struct chunked c;
    chunked_init(&c, 100);
    feed(&c, data, len, &whole);
    is(c.total, whole.len);
    chunked_init(&c, 100);
    for (size_t i = 0; i < len; i++)
        if (feed(&c, data + i, 1, &slow) != CHUNKED_MORE)
            break;
    is(whole.result, slow.result);
    is(whole.status, slow.status);
    is(whole.used, slow.used);
    is_str(whole.body, slow.body);
    return slow;
}

#define DECODE(lit) decode(lit, sizeof(lit) - 1)

#define REFUSED(lit)                                                                               \
    do {                                                                                           \
        struct decoded d_ = DECODE(lit);                                                           \
        if (!is(d_.result, CHUNKED_BAD) || !is(d_.status, 400))                                    \
            fprintf(stderr, "# %s\n", #lit);                                                       \
    } while (0)

TEST(bodies_are_put_together)
{
    struct decoded d = DECODE("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\nGET /");
    is(d.result, CHUNKED_END);
    is(d.used, 26);
    is_str(d.body, "hello world");
    d = DECODE("A\r\n0123456789\r\n0a\r\nabcdefghij\r\n000\r\n\r\n");
    is(d.result, CHUNKED_END);
    is_str(d.body, "0123456789abcdefghij");
    is(DECODE("0\r\n\r\n").result, CHUNKED_END);
    is(DECODE("5\r\nhel").result, CHUNKED_MORE);
    is(DECODE("").result, CHUNKED_MORE);
}

TEST(extensions_are_ignored)
{
    is_str(DECODE("5;a=b;c=\"d;e\"\r\nhello\r\n0;x\r\n\r\n").body, "hello");
    is_str(DECODE("5 ; a = b\r\nhello\r\n0\r\n\r\n").body, "hello");
    is(DECODE("5;\r\nhello\r\n0\r\n\r\n").result, CHUNKED_END);
    REFUSED("5;a\nhello\r\n0\r\n\r\n");
    REFUSED("5;a\1\r\nhello\r\n0\r\n\r\n");
    REFUSED("5;a\r\r\nhello\r\n0\r\n\r\n");
    REFUSED("5 \r\nhello\r\n0\r\n\r\n");
    REFUSED("5 6\r\nhello\r\n0\r\n\r\n");
}

TEST(trailers_are_checked_and_dropped)
{
    struct decoded d = DECODE("0\r\nX: y\r\nZ:\r\n\r\nGET");
    is(d.result, CHUNKED_END);
    is(d.used, 15);
    REFUSED("0\r\nX y\r\n\r\n");
    REFUSED("0\r\n: y\r\n\r\n");
    REFUSED("0\r\n X: y\r\n\r\n");
    REFUSED("0\r\nX: y\r\n z\r\n\r\n");
    REFUSED("0\r\nX: y\n\r\n");
    REFUSED("0\r\nX: \0\r\n\r\n");
    REFUSED("0\r\n\rX");
    REFUSED("0\r\nX: y\r\n\n");
}

TEST(long_trailers_are_431)
{
    char body[200] = "0\r\nX: ";
    memset(body + 6, 'a', 150);
    struct decoded d = decode(body, 156);
    is(d.result, CHUNKED_BAD);
    is(d.status, 431);
}

TEST(sizes_are_hex_digits_at_once)
{
    REFUSED("xyz\r\nabc\r\n0\r\n\r\n");
    REFUSED(" 5\r\nhello\r\n0\r\n\r\n");
    REFUSED("\r\n");
    REFUSED("+5\r\nhello\r\n");
    REFUSED("-5\r\nhello\r\n");
    REFUSED("0x5\r\nhello\r\n");
    REFUSED("5\nhello\n0\n\n");
    REFUSED("5\rhello");
    REFUSED(";a\r\n");
    REFUSED("5g\r\n");
}

TEST(sizes_do_not_wrap)
{
    REFUSED("10000000000000001\r\na\r\n0\r\n\r\n");
    REFUSED("ffffffffffffffff\r\na");
    REFUSED("8000000000000000\r\na");
    REFUSED("00000000000000001\r\na");
    is(DECODE("7fffffffffffffff\r\na").result, CHUNKED_MORE);
    is_str(DECODE("7fffffffffffffff\r\na").body, "a");
}

TEST(data_is_as_long_as_its_size)
{
    REFUSED("3\r\nhello\r\n0\r\n\r\n");
    REFUSED("5\r\nhello0\r\n\r\n");
    REFUSED("5\r\nhello\n0\r\n\r\n");
    REFUSED("5\r\nhello\r0\r\n\r\n");
}

TEST(the_end_and_a_refusal_stay)
{
    struct chunked c;
    struct str body;
    size_t used;
    chunked_init(&c, 100);
    is(chunked_next(&c, "0\r\n\r\n", 5, &used, &body), CHUNKED_END);
    is(chunked_next(&c, "5\r\nhello", 8, &used, &body), CHUNKED_END);
    is(used, 0);
    chunked_init(&c, 100);
    is(chunked_next(&c, "zz", 2, &used, &body), CHUNKED_BAD);
    is(chunked_next(&c, "5\r\nhello", 8, &used, &body), CHUNKED_BAD);
    is(used, 0);
}

static enum chunked_result repeat(const char *chunk, unsigned times)
{
    struct chunked c;
    struct str body;
    size_t used, len = strlen(chunk);
    chunked_init(&c, 100);
    for (unsigned i = 0; i < times; i++)
        for (size_t at = 0; at < len; at += used)
            if (chunked_next(&c, chunk + at, len - at, &used, &body) == CHUNKED_BAD)
                return CHUNKED_BAD;
    return CHUNKED_MORE;
}

TEST(framing_may_not_outweigh_the_body)
{
    is(repeat("1\r\na\r\n", 100000), CHUNKED_MORE); /* wasteful, but plain */
    is(repeat("1;signature=0123456789abcdef0123456789abcdef\r\na\r\n", 100000), CHUNKED_BAD);
    char chunk[5000] = "1;";
    memset(chunk + 2, 'x', 4090);
    strcpy(chunk + 4092, "\r\na\r\n");
    is(repeat(chunk, 1), CHUNKED_MORE);
    memset(chunk + 2, 'x', 4096);
    strcpy(chunk + 4098, "\r\na\r\n");
    is(repeat(chunk, 1), CHUNKED_BAD);
}

TEST(size_lines_are_written_in_hex)
{
    char out[CHUNKED_HEAD_MAX + 1] = "";
    static const struct {
        size_t len;
        const char *line;
    } cases[] = { { 1, "1\r\n" },
                  { 15, "f\r\n" },
                  { 16, "10\r\n" },
                  { 0xabcdef, "abcdef\r\n" },
                  { SIZE_MAX, "ffffffffffffffff\r\n" } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = chunked_head(out, cases[i].len);
        out[n] = '\0';
        is_str(out, cases[i].line);
    }
}
