/* The strict reader of HTTP/1.1 answers that graftload judges servers with. It is fed the bytes of
 * a connection as they come and accepts nothing that RFC 9112 does not allow: a status line,
 * fields, exactly one framing (a Content-Length of digits, or chunked with every size line, CRLF
 * and the last chunk in place). It also reads in the body what the benchmark's plugin put there:
 * marks "VERSION-0000000042", which must all be the same. */
#ifndef BENCH_ANSWER_H
#define BENCH_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ANSWER_TAIL 64u

enum answer_result { ANSWER_MORE, ANSWER_DONE, ANSWER_BAD };

enum answer_state {
    ANSWER_HEAD,
    ANSWER_FIXED,
    ANSWER_CHUNK_SIZE,
    ANSWER_CHUNK_DATA,
    ANSWER_CHUNK_END,
    ANSWER_TRAILER,
    ANSWER_OVER
};

struct answer {
    enum answer_state state;
    int status;
    bool no_body; /* set by the caller before the first byte: the request was a HEAD */
    bool close;   /* the server said Connection: close */
    bool chunked;
    bool has_length;
    uint64_t left; /* bytes of body, or of the chunk, still to come */
    uint64_t body_len;
    uint64_t bytes; /* bytes consumed so far, head and framing included */
    unsigned mark_at;
    uint64_t mark_number;
    uint64_t version; /* of the first mark; 0: none seen */
    bool mixed;       /* a later mark differs from the first */
    size_t tail_len;
    char tail[ANSWER_TAIL]; /* the last bytes of the body */
    const char *why;        /* after ANSWER_BAD */
};

void answer_init(struct answer *a, bool head_request);

/* Takes what it can of `len` bytes and says in `*used` how many. ANSWER_MORE with bytes left means
 * that a line is not complete: give them again with more behind them. */
enum answer_result answer_feed(struct answer *a, const char *data, size_t len, size_t *used);

/* True when the body ends in these bytes. */
bool answer_ends_in(const struct answer *a, const char *text, size_t len);

#endif
