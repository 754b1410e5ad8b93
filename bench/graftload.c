/* graftload: an HTTP/1.1 load driver that counts exactly. It keeps N connections busy with a mix of
 * kinds of requests and says how many were sent, answered and failed, and why; a failed request is
 * one that was sent and got no whole and correct answer. With a board (board.h) it also knows what
 * has been deployed, so that an answer from a version that should be gone is found. */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char usage_text[] =
    "usage: graftload [options] ADDR        ADDR: host:port, [v6]:port or unix:/path\n"
    "  -c, --connections N   keep-alive connections (64)\n"
    "  -s, --seconds S       how long requests are sent (10)\n"
    "  -n, --requests N      send no more than N requests (0 = no limit but the time)\n"
    "  -t, --timeout MS      a request without a whole answer after MS has failed (10000)\n"
    "  -k, --kind SPEC       a kind of request, may be repeated; without it: GET /\n"
    "      name=plain,weight=90,method=GET,path=/v        weight is relative to the others'\n"
    "      body=4096,chunk=1000   bytes of request body; sent in chunks of so many\n"
    "      answer=18,tail=TEXT    expected length and end of the answer's body;\n"
    "                             tail=fnv: ' LENGTH HASH' of the request's body\n"
    "      status=200,close=1     expected status; send Connection: close\n"
    "  -v, --versioned       every body holds VERSION- and ten digits: check them with the board\n"
    "  -b, --board FILE      shared with the script that deploys (board.h)\n"
    "  -S, --seed N          of the mix (1)\n"
    "  -j, --json            JSON instead of a table\n"
    "Exit status: 0 nothing failed, 1 something failed or was stale, 2 usage.\n";

static const struct option options[] = { { "connections", required_argument, NULL, 'c' },
                                         { "seconds", required_argument, NULL, 's' },
                                         { "requests", required_argument, NULL, 'n' },
                                         { "timeout", required_argument, NULL, 't' },
                                         { "kind", required_argument, NULL, 'k' },
                                         { "versioned", no_argument, NULL, 'v' },
                                         { "board", required_argument, NULL, 'b' },
                                         { "seed", required_argument, NULL, 'S' },
                                         { "json", no_argument, NULL, 'j' },
                                         { "help", no_argument, NULL, 'h' },
                                         { NULL, 0, NULL, 0 } };

static struct load load = { .connections = 64, .seconds = 10, .timeout_ms = 10000, .seed = 1 };

static void usage_fail(const char *what)
{
    fprintf(stderr, "graftload: %s\n%s", what, usage_text);
    exit(2);
}

static double number_of(const char *text, double min, double max)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end != '\0' || !(value >= min && value <= max)) {
        fprintf(stderr, "graftload: expected a number from %g to %g, found '%s'\n", min, max, text);
        exit(2);
    }
    return value;
}

static void address_parse(const char *text)
{
    const char *colon = strrchr(text, ':');
    char host[64];

    if (strncmp(text, "unix:", 5) == 0 && strlen(text + 5) < sizeof load.addr.un.sun_path) {
        load.addr.un.sun_family = AF_UNIX;
        strcpy(load.addr.un.sun_path, text + 5);
        load.addr_len = sizeof load.addr.un;
        return;
    }
    if (colon == NULL || (size_t)(colon - text) >= sizeof host)
        usage_fail("the address is neither host:port nor unix:/path");
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = '\0';
    load.addr_len = sizeof load.addr.in;
    load.addr.in.sin_port = htons((uint16_t)number_of(colon + 1, 1, 65535));
    if (inet_pton(AF_INET, host, &load.addr.in.sin_addr) == 1) {
        load.addr.in.sin_family = AF_INET;
        return;
    }
    host[strcspn(host, "]")] = '\0';
    load.addr_len = sizeof load.addr.in6;
    load.addr.in6.sin6_family = AF_INET6;
    if (host[0] != '[' || inet_pton(AF_INET6, host + 1, &load.addr.in6.sin6_addr) != 1)
        usage_fail("the host is neither 1.2.3.4 nor [::1]");
}

struct board *board_open(const char *path)
{
    struct board *board;
    struct stat st;
    int fd = -1;

    if (path != NULL) {
        fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) != 0 || st.st_size < (off_t)BOARD_BYTES) {
            fprintf(stderr, "graftload: %s: cannot be opened or is shorter than %u bytes\n", path,
                    BOARD_BYTES);
            return NULL;
        }
    }
    board = mmap(NULL, BOARD_BYTES, PROT_READ | PROT_WRITE,
                 fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd, 0);
    if (fd >= 0)
        close(fd);
    if (board == MAP_FAILED) {
        fprintf(stderr, "graftload: mmap: %s\n", strerror(errno));
        return NULL;
    }
    if (path != NULL && board->magic != BOARD_MAGIC) {
        fprintf(stderr, "graftload: %s is not a board\n", path);
        return NULL;
    }
    if (path == NULL) {
        board->newest = UINT64_MAX;
        board->phase = PHASE_QUIET;
    }
    return board;
}

struct choice {
    const char *board, *kinds[KINDS_MAX];
    unsigned kind_count;
    bool json;
};

static void option_take(int c, struct choice *choice)
{
    switch (c) {
    case 'c':
        load.connections = (unsigned)number_of(optarg, 1, 100000);
        break;
    case 's':
        load.seconds = number_of(optarg, 0.01, 1e6);
        break;
    case 'n':
        load.requests = (uint64_t)number_of(optarg, 0, 1e15);
        break;
    case 't':
        load.timeout_ms = (unsigned)number_of(optarg, 1, 1e9);
        break;
    case 'k':
        if (choice->kind_count == KINDS_MAX)
            usage_fail("too many kinds");
        choice->kinds[choice->kind_count++] = optarg;
        break;
    case 'v':
        load.versioned = true;
        break;
    case 'b':
        choice->board = optarg;
        break;
    case 'S':
        load.seed = (uint64_t)number_of(optarg, 0, 1e15);
        break;
    case 'j':
        choice->json = true;
        break;
    case 'h':
        fputs(usage_text, stdout);
        exit(0);
    default:
        usage_fail("unknown option");
    }
}

static int kinds_make(const struct choice *choice, const char *address)
{
    const char *host = load.addr.sa.sa_family == AF_UNIX ? "localhost" : address;

    if (choice->kind_count == 0)
        return kind_parse(&load, "name=plain,path=/", host);
    for (unsigned i = 0; i < choice->kind_count; i++) {
        if (kind_parse(&load, choice->kinds[i], host) != 0)
            return -1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct choice choice = { 0 };
    int c;

    while ((c = getopt_long(argc, argv, "c:s:n:t:k:vb:S:jh", options, NULL)) != -1)
        option_take(c, &choice);
    if (argc - optind != 1)
        usage_fail("expected one address");
    address_parse(argv[optind]);
    if (kinds_make(&choice, argv[optind]) != 0)
        return 2;
    load.board = board_open(choice.board);
    if (load.board == NULL || load_run(&load) != 0)
        return 2;
    (choice.json ? report_json : report_table)(&load, stdout);
    return load.failed + load.stale + load.mixed + load.future + load.failures[FAILED_FRAMING] > 0;
}
