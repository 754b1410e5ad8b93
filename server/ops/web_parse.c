/*
 * Cuts a request head into method, path, query fields and body length. Anything ambiguous is
 * refused: the answer closes the connection, so nothing can be smuggled behind it.
 */
#include "ops/web_parse.h"

#include <string.h>

static int fail(int status, const char **why, const char *text)
{
    *why = text;
    return status;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Percent-decodes in place; -1 for a broken escape or a control character. */
static int decode(char *text, bool plus_is_blank)
{
    char *to = text;
    for (const char *from = text; *from != '\0'; from++) {
        unsigned char c = (unsigned char)*from;
        if (c == '%') {
            int high = hex_digit(from[1]), low = high >= 0 ? hex_digit(from[2]) : -1;
            if (low < 0)
                return -1;
            c = (unsigned char)(high * 16 + low);
            from += 2;
        } else if (c == '+' && plus_is_blank) {
            c = ' ';
        }
        if (c < 0x20 || c == 0x7f)
            return -1;
        *to++ = (char)c;
    }
    *to = '\0';
    return 0;
}

static int parse_query(char *query, struct web_head *out, const char **why)
{
    char *save = NULL;
    for (char *field = strtok_r(query, "&", &save); field != NULL;
         field = strtok_r(NULL, "&", &save)) {
        if (out->nfields == WEB_FIELDS_MAX)
            return fail(400, why, "too many query fields");
        char *value = strchr(field, '=');
        if (value != NULL)
            *value++ = '\0';
        if (decode(field, true) != 0 || (value != NULL && decode(value, true) != 0))
            return fail(400, why, "a query field is not percent-encoded as it should be");
        out->fields[out->nfields++] = (struct web_field){ field, value != NULL ? value : "" };
    }
    return 0;
}

/* METHOD SP target SP HTTP/1.x */
static int parse_line(char *line, struct web_head *out, bool *needs_host, const char **why)
{
    char *target = strchr(line, ' ');
    char *version = target != NULL ? strchr(target + 1, ' ') : NULL;
    if (version == NULL || target == line)
        return fail(400, why, "the first line is not METHOD TARGET HTTP/1.1");
    *target++ = '\0';
    *version++ = '\0';
    if (strncmp(version, "HTTP/", 5) != 0)
        return fail(400, why, "the first line is not METHOD TARGET HTTP/1.1");
    if (strncmp(version, "HTTP/1.", 7) != 0 ||
        (strcmp(version + 7, "0") != 0 && strcmp(version + 7, "1") != 0))
        return fail(505, why, "the HTTP version is not 1.0 or 1.1");
    *needs_host = version[7] == '1';
    for (const char *p = line; *p != '\0'; p++)
        if (*p < 'A' || *p > 'Z')
            return fail(501, why, "unknown method");
    if (*target != '/')
        return fail(400, why, "the target does not begin with /");
    char *query = strchr(target, '?');
    if (query != NULL)
        *query++ = '\0';
    if (decode(target, false) != 0)
        return fail(400, why, "the path is not percent-encoded as it should be");
    out->method = line;
    out->path = target;
    return query != NULL ? parse_query(query, out, why) : 0;
}

struct seen {
    bool host, length;
};

static int parse_field(char *line, struct web_head *out, struct seen *seen, const char **why)
{
    char *colon = strchr(line, ':');
    if (colon == NULL || colon == line || line[0] == ' ' || line[0] == '\t' || colon[-1] == ' ' ||
        colon[-1] == '\t')
        return fail(400, why, "a header line is not NAME: VALUE");
    struct str name = { line, (size_t)(colon - line) };
    char *value = colon + 1 + strspn(colon + 1, " \t");
    size_t len = strlen(value);
    while (len > 0 && (value[len - 1] == ' ' || value[len - 1] == '\t'))
        len--;
    if (str_case_eq(name, STR("transfer-encoding")))
        return fail(501, why, "no transfer codings here: send a Content-Length");
    if (str_case_eq(name, STR("host"))) {
        if (seen->host)
            return fail(400, why, "more than one Host");
        seen->host = true;
    }
    if (str_case_eq(name, STR("content-length"))) {
        uint64_t n;
        if (seen->length || str_to_u64((struct str){ value, len }, &n) != 0)
            return fail(400, why, "bad Content-Length");
        if (n > WEB_BODY_MAX)
            return fail(413, why, "the body is too long: nothing here takes one");
        seen->length = true;
        out->body_len = (size_t)n;
    }
    return 0;
}

/* Ends the line at its CRLF and returns what follows; NULL for a bare CR, LF or NUL. */
static char *cut_line(char *line, const char *end)
{
    for (char *p = line; p < end; p++) {
        if (*p == '\0' || *p == '\n')
            return NULL;
        if (*p == '\r') {
            if (p + 1 >= end || p[1] != '\n')
                return NULL;
            *p = '\0';
            return p + 2;
        }
    }
    return NULL;
}

int web_parse(char *text, size_t len, struct web_head *out, const char **why)
{
    const char *end = text + len;
    struct seen seen = { 0 };
    bool needs_host = false;
    memset(out, 0, sizeof *out);
    char *line = text, *next = cut_line(line, end);
    if (next == NULL)
        return fail(400, why, "a line does not end in CRLF");
    int status = parse_line(line, out, &needs_host, why);
    if (status != 0)
        return status;
    for (line = next; (next = cut_line(line, end)) != NULL; line = next) {
        if (*line == '\0') /* the empty line */
            return needs_host && !seen.host ? fail(400, why, "no Host") : 0;
        status = parse_field(line, out, &seen, why);
        if (status != 0)
            return status;
    }
    return fail(400, why, "a line does not end in CRLF");
}
