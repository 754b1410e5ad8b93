/*
 * tests/cases/http1.jsonl through the pure functions: a server without sockets reads what a case
 * sends, in three ways of arriving, and the codes that it would answer must be acceptable.
 */
#include "tap.h"

#include "base/buf.h"
#include "base/json.h"
#include "http/chunked.h"
#include "http/guard.h"
#include "http/head.h"
#include "http/router.h"

static const struct guard_limits limits = { 16384, 8000, 8000, 100 };

struct server {
    struct head_parser *parser;
    struct router *router;
    struct guard guard;
    struct head head;
    struct chunked chunked;
    bool in_body, closed;
    uint64_t body_left;
    unsigned status; /* of the request whose body is being read */
    size_t at;       /* of the input: what was used up */
    unsigned codes[32], ncodes;
    char block[8192];
    struct arena arena;
};

static void answer(struct server *s, unsigned code, bool close)
{
    must(s->ncodes < 32);
    s->codes[s->ncodes++] = code;
    s->closed = close;
    s->in_body = false;
    guard_init(&s->guard);
    arena_reset(&s->arena);
}

static unsigned route(struct server *s)
{
    struct target t;
    struct head_verdict v;
    struct router_match m;
    if (target_parse(&s->arena, s->head.target, &t, &v))
        return v.status;
    if (t.asterisk)
        return 204;
    if (router_find(s->router, s->head.method, s->head.method_id, &t, &m))
        return 200;
    return m.path_known ? 405 : 404;
}

/* true: something happened; call again. */
static bool read_head(struct server *s, struct str in)
{
    struct guard_verdict gv;
    struct head_verdict v;
    enum guard_result result = guard_scan(&s->guard, &limits, in.ptr + s->at, in.len - s->at, &gv);
    if (result == GUARD_MORE)
        return false;
    if (result == GUARD_BAD) {
        answer(s, gv.status, true);
        return true;
    }
    s->at += gv.skip;
    if (head_parse(s->parser, &s->arena, in.ptr + s->at, gv.head_len, &s->head, &v)) {
        answer(s, v.status, true);
        return true;
    }
    s->at += gv.head_len;
    s->status = route(s);
    if (s->head.framing == BODY_LENGTH && s->head.content_length > 8388608)
        answer(s, 413, true);
    else if (s->status == 400 || s->head.framing == BODY_NONE)
        answer(s, s->status, s->status == 400 || !s->head.keep_alive);
    s->in_body = !s->closed && s->head.framing != BODY_NONE;
    s->body_left = s->head.content_length;
    chunked_init(&s->chunked, limits.field_bytes);
    return true;
}

static bool read_body(struct server *s, struct str in)
{
    size_t used = in.len - s->at;
    struct str piece;
    if (s->head.framing == BODY_LENGTH) {
        used = used < s->body_left ? used : (size_t)s->body_left;
        s->body_left -= used;
        s->at += used;
        if (s->body_left == 0)
            answer(s, s->status, !s->head.keep_alive);
        return s->body_left == 0;
    }
    enum chunked_result result = chunked_next(&s->chunked, in.ptr + s->at, used, &used, &piece);
    s->at += used;
    if (result == CHUNKED_BAD)
        answer(s, s->chunked.status, true);
    if (result == CHUNKED_END)
        answer(s, s->status, !s->head.keep_alive);
    return result != CHUNKED_MORE;
}

/* How the input arrives: how much is there after `have` bytes. */
typedef size_t arrival(struct json_value send, size_t total, size_t have);

static size_t at_once(struct json_value send, size_t total, size_t have)
{
    (void)send;
    (void)have;
    return total;
}

static size_t byte_by_byte(struct json_value send, size_t total, size_t have)
{
    (void)send;
    (void)total;
    return have + 1;
}

static size_t as_sent(struct json_value send, size_t total, size_t have)
{
    size_t at = 0;
    for (size_t i = 0; i < json_count(send) && at <= have; i++) {
        struct str piece;
        json_string(json_at(send, i), &piece);
        at += piece.len;
    }
    return at < total ? at : total;
}

static void serve(struct server *s, struct str all, arrival *next, struct json_value send)
{
    arena_init(&s->arena, s->block, sizeof s->block);
    guard_init(&s->guard);
    s->at = s->ncodes = 0;
    s->in_body = s->closed = false;
    for (size_t have = 0; have < all.len && !s->closed;) {
        have = next(send, all.len, have);
        while (!s->closed && (s->in_body ? read_body : read_head)(s, (struct str){ all.ptr, have }))
            ;
    }
}

/* Is one of the acceptable sequences, interim answers aside, what was answered? */
static bool acceptable(struct json_value sequences, const struct server *s)
{
    for (size_t i = 0; i < json_count(sequences); i++) {
        struct json_value codes = json_at(sequences, i);
        size_t same = 0, final = 0;
        for (size_t k = 0; k < json_count(codes); k++) {
            int64_t code = 0;
            json_int(json_at(codes, k), &code);
            if (code < 200)
                continue;
            same += final < s->ncodes && s->codes[final] == code;
            final++;
        }
        if (final == s->ncodes && same == final)
            return true;
    }
    return false;
}

/* The JSON reader takes no NUL inside a string: one is written as this until it has been read. */
#define STAND_IN "\\u001a"

static void hide_nuls(char *line)
{
    must(strstr(line, STAND_IN) == NULL);
    for (char *at = line; (at = strstr(at, "\\u0000")) != NULL; at += strlen(STAND_IN))
        memcpy(at, STAND_IN, strlen(STAND_IN));
}

static void run_case(struct server *s, struct json_value c)
{
    static arrival *const ways[] = { at_once, as_sent, byte_by_byte };
    struct json_value send = json_get(c, "send"), close = json_get(c, "close");
    struct buf all = { 0 };
    struct str piece, name;
    bool must_close = false;
    json_string(json_get(c, "name"), &name);
    for (size_t i = 0; i < json_count(send); i++) {
        must(json_string(json_at(send, i), &piece) == 0);
        must(buf_add(&all, piece.ptr, piece.len) == 0);
    }
    for (size_t i = 0; i < all.len; i++)
        if (all.data[i] == 0x1a)
            all.data[i] = '\0';
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        serve(s, buf_str(&all), ways[w], send);
        bool good = ok(acceptable(json_get(c, "ok"), s));
        if (json_present(close) && json_bool(close, &must_close) == 0 && s->closed != must_close)
            good = fail(must_close ? "did not close" : "closed");
        if (!good)
            fprintf(stderr, "# case \"" STR_FMT "\", way %zu: %u answers, the last %u\n",
                    STR_ARG(name), w, s->ncodes, s->ncodes ? s->codes[s->ncodes - 1] : 0);
        arena_reset(&s->arena);
    }
    buf_fini(&all);
}

TEST(cases_get_acceptable_codes)
{
    char path[4096], *line = NULL;
    size_t size = 0;
    unsigned cases = 0;
    const char *srcdir = getenv("TEST_SRCDIR");
    snprintf(path, sizeof path, "%s/tests/cases/http1.jsonl", srcdir ? srcdir : ".");
    FILE *f = fopen(path, "r");
    must(f != NULL);
    struct server *s = calloc(1, sizeof *s);
    s->parser = head_parser_new();
    s->router = router_new();
    must(router_add(s->router, NULL, "/echo", s, NULL) == 0);
    must(router_add(s->router, "GET", "/hello", s, NULL) == 0);
    for (ssize_t len; (len = getline(&line, &size, f)) > 0; cases++) {
        struct err err = { "" };
        hide_nuls(line);
        struct json *doc = json_parse(path, line, (size_t)len, &err);
        if (!doc)
            fprintf(stderr, "# %s\n", err.text);
        must(doc != NULL);
        run_case(s, json_root(doc));
        json_free(doc);
    }
    ok(cases >= 74);
    free(line);
    fclose(f);
    router_free(s->router);
    head_parser_free(s->parser);
    free(s);
}
