/* The kinds of requests that graftload mixes: parsing of --kind and composing of the bytes that are
 * sent for it, once, before the first connection is opened. */
#include "load.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct draft {
    char method[16], path[512], tail[ANSWER_TAIL];
    unsigned long body, chunk; /* bytes of the body; of its chunks, 0 = Content-Length */
};

static int number_parse(const char *text, unsigned long max, unsigned long *value)
{
    char *end;

    *value = strtoul(text, &end, 10);
    return *text >= '0' && *text <= '9' && *end == '\0' && *value <= max ? 0 : -1;
}

static int text_copy(char *to, size_t size, const char *text)
{
    return snprintf(to, size, "%s", text) < (int)size && *text != '\0' ? 0 : -1;
}

static int option_take(struct kind *kind, struct draft *draft, const char *key, const char *value)
{
    unsigned long n = 0;
    bool number = number_parse(value, 1ul << 40, &n) == 0;

    if (strcmp(key, "name") == 0)
        return text_copy(kind->name, sizeof kind->name, value);
    if (strcmp(key, "path") == 0)
        return *value == '/' ? text_copy(draft->path, sizeof draft->path, value) : -1;
    if (strcmp(key, "method") == 0)
        return text_copy(draft->method, sizeof draft->method, value);
    if (strcmp(key, "tail") == 0)
        return text_copy(draft->tail, sizeof draft->tail, value);
    if (!number)
        return -1;
    if (strcmp(key, "weight") == 0 && n > 0 && n <= 1000000)
        kind->weight = (unsigned)n;
    else if (strcmp(key, "body") == 0 && n <= 1ul << 26)
        draft->body = n;
    else if (strcmp(key, "chunk") == 0)
        draft->chunk = n;
    else if (strcmp(key, "answer") == 0)
        kind->want_len = n;
    else if (strcmp(key, "status") == 0 && n >= 200 && n <= 599)
        kind->status = (int)n;
    else if (strcmp(key, "close") == 0 && n <= 1)
        kind->close = n == 1;
    else
        return -1;
    return 0;
}

static char body_byte(size_t i)
{
    return (char)('a' + (i * 7 + i / 31) % 26);
}

/* FNV-1a, 64 bits: what the benchmark's plugin says of a body that it received. */
static uint64_t body_hash(size_t len)
{
    uint64_t hash = 0xcbf29ce484222325u;

    for (size_t i = 0; i < len; i++)
        hash = (hash ^ (unsigned char)body_byte(i)) * 0x100000001b3u;
    return hash;
}

static void body_put(FILE *out, const struct draft *draft)
{
    size_t i = 0;

    while (draft->chunk > 0 && i < draft->body) {
        size_t n = draft->body - i < draft->chunk ? draft->body - i : draft->chunk;

        fprintf(out, "%zx\r\n", n);
        for (size_t end = i + n; i < end; i++)
            fputc(body_byte(i), out);
        fputs("\r\n", out);
    }
    for (; i < draft->body; i++)
        fputc(body_byte(i), out);
    if (draft->chunk > 0)
        fputs("0\r\n\r\n", out);
}

static int request_compose(struct kind *kind, const struct draft *draft, const char *host)
{
    FILE *out = open_memstream(&kind->request, &kind->request_len);

    if (out == NULL)
        return -1;
    fprintf(out, "%s %s HTTP/1.1\r\nHost: %s\r\n", draft->method, draft->path, host);
    if (draft->chunk > 0)
        fputs("Transfer-Encoding: chunked\r\n", out);
    else if (draft->body > 0 || strcmp(draft->method, "POST") == 0)
        fprintf(out, "Content-Length: %lu\r\n", draft->body);
    fprintf(out, "%s\r\n", kind->close ? "Connection: close\r\n" : "");
    body_put(out, draft);
    return fclose(out);
}

static void tail_choose(struct kind *kind, const struct draft *draft)
{
    if (strcmp(draft->tail, "fnv") == 0)
        snprintf(kind->want_tail, sizeof kind->want_tail, " %lu %016" PRIx64 "\n", draft->body,
                 body_hash(draft->body));
    else
        snprintf(kind->want_tail, sizeof kind->want_tail, "%s", draft->tail);
    kind->want_tail_len = strlen(kind->want_tail);
}

static int options_take(struct kind *kind, struct draft *draft, char *spec)
{
    for (char *part = strtok(spec, ","); part != NULL; part = strtok(NULL, ",")) {
        char *value = strchr(part, '=');

        if (value == NULL) {
            fprintf(stderr, "graftload: --kind: expected key=value, found '%s'\n", part);
            return -1;
        }
        *value++ = '\0';
        if (option_take(kind, draft, part, value) != 0) {
            fprintf(stderr, "graftload: --kind: unknown key or bad value: %s=%s\n", part, value);
            return -1;
        }
    }
    return 0;
}

int kind_parse(struct load *load, const char *spec, const char *host)
{
    struct kind *kind = &load->kinds[load->kind_count];
    struct draft draft = { .method = "GET", .path = "/" };
    char *copy;
    int rc;

    if (load->kind_count == KINDS_MAX) {
        fprintf(stderr, "graftload: more than %u kinds\n", KINDS_MAX);
        return -1;
    }
    *kind = (struct kind){ .name = "plain", .weight = 1, .status = 200 };
    copy = strdup(spec);
    rc = copy == NULL ? -1 : options_take(kind, &draft, copy);
    free(copy);
    if (rc != 0)
        return -1;
    kind->head = strcmp(draft.method, "HEAD") == 0;
    tail_choose(kind, &draft);
    if (request_compose(kind, &draft, host) != 0)
        return -1;
    load->kind_count++;
    load->weights += kind->weight;
    return 0;
}
