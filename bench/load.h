/* What graftload's files share: the kinds of requests, their figures, and the run as a whole.
 * Everything belongs to one thread. */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include <stdbool.h>
#include <stdio.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <netinet/in.h>

#include "answer.h"
#include "board.h"
#include "histogram.h"

#define KINDS_MAX 16u

/* Why a request that was sent has no (whole, correct) answer. */
enum failure {
    FAILED_RESET,     /* ECONNRESET, EPIPE or another error of the socket */
    FAILED_CLOSED,    /* the end of the connection before the answer's first byte */
    FAILED_TRUNCATED, /* the end of the connection within the answer */
    FAILED_STATUS,    /* not the status that the kind expects */
    FAILED_FRAMING,   /* bytes that are no HTTP/1.1 answer, or more of them than one */
    FAILED_BODY,      /* another length, another end, or no version in it */
    FAILED_TIMEOUT,
    FAILURES
};

struct kind {
    char name[32];
    unsigned weight;
    bool head, close; /* a HEAD request; "Connection: close" is sent and expected */
    int status;
    uint64_t want_len; /* of the body; 0 = any */
    char want_tail[ANSWER_TAIL];
    size_t want_tail_len;
    char *request;
    size_t request_len;

    uint64_t sent, answered, failed;
    uint64_t spanned; /* answers begun before and ended after the end of at least one swap */
    uint64_t body_bytes;
    struct histogram latency[PHASE_CLASSES];
};

struct load {
    /* options */
    union {
        struct sockaddr sa;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
    } addr;
    socklen_t addr_len;
    unsigned connections;
    double seconds;
    uint64_t requests;
    unsigned timeout_ms;
    bool versioned;
    uint64_t seed;
    struct kind kinds[KINDS_MAX];
    unsigned kind_count, weights;

    /* figures */
    uint64_t sent, answered, failed, waiting;
    uint64_t failures[FAILURES];
    uint64_t opened, refused, closed_idle, closed_said;
    uint64_t stale, mixed, future;
    double elapsed;
    struct board *board; /* the shared one, or one of our own */
};

extern const char *const failure_names[FAILURES];

/* Parses "name=plain,weight=90,path=/v,...": see usage in graftload.c. On a mistake says on stderr
 * what it is and returns -1. */
int kind_parse(struct load *load, const char *spec, const char *host);

/* Maps the board at `path`, or a private one when it is NULL. NULL after a message on stderr. */
struct board *board_open(const char *path);

/* Opens the connections, sends, waits and counts until the limits of `load` are reached. */
int load_run(struct load *load);

void report_table(const struct load *load, FILE *out);
void report_json(const struct load *load, FILE *out);

#endif
