/*
 * Reading and writing of addresses. A host is tried as a number first; only what cannot be one is
 * asked of the resolver. Any thread; holds nothing.
 */
#include "base/addr.h"

#include "base/str.h"

#include <arpa/inet.h>
#include <limits.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#define FORMS "host:port, [v6]:port, :port, unix:/path or fd:N"

static int parse_unix(struct addr *out, const char *path, struct err *err)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    size_t len = strlen(path);
    if (path[0] != '/')
        return err_set(err, "expected unix:/path with an absolute path, found \"%s\"", out->text);
    if (len >= sizeof(un.sun_path))
        return err_set(
            err,
            "the path of a unix socket has at most %zu bytes, found %zu in \"%s\": use a "
            "shorter path",
            sizeof(un.sun_path) - 1, len, out->text);
    memcpy(un.sun_path, path, len + 1);
    memcpy(&out->sa, &un, sizeof(un));
    out->kind = ADDR_UNIX;
    out->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + 1);
    return 0;
}

static int parse_fd(struct addr *out, const char *digits, struct err *err)
{
    uint64_t fd;
    if (str_to_u64(str_of(digits), &fd) != 0 || fd > INT_MAX)
        return err_set(err, "expected fd:N with the number of an open socket, found \"%s\"",
                       out->text);
    out->kind = ADDR_FD;
    out->fd = (int)fd;
    return 0;
}

static void set_v4(struct sockaddr_storage *sa, socklen_t *len, struct in_addr host, uint16_t port)
{
    struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = host };
    memset(sa, 0, sizeof(*sa));
    memcpy(sa, &in, sizeof(in));
    *len = sizeof(in);
}

static void set_v6(struct sockaddr_storage *sa, socklen_t *len, struct in6_addr host,
                   uint32_t scope, uint16_t port)
{
    struct sockaddr_in6 in6 = {
        .sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = host, .sin6_scope_id = scope
    };
    memset(sa, 0, sizeof(*sa));
    memcpy(sa, &in6, sizeof(in6));
    *len = sizeof(in6);
}

/* "fe80::1%eth0": the scope is the name or the number of an interface. */
static int parse_v6(struct addr *out, const char *host, uint16_t port, struct err *err)
{
    char plain[INET6_ADDRSTRLEN];
    const char *percent = strchr(host, '%');
    size_t len = percent ? (size_t)(percent - host) : strlen(host);
    struct in6_addr addr;
    if (len >= sizeof(plain))
        return err_set(err, "expected an IPv6 address in [ ], found \"%s\"", out->text);
    memcpy(plain, host, len);
    plain[len] = '\0';
    if (inet_pton(AF_INET6, plain, &addr) != 1)
        return err_set(err, "expected an IPv6 address in [ ], found \"%s\"", out->text);
    uint64_t scope = 0;
    if (percent != NULL && str_to_u64(str_of(percent + 1), &scope) != 0)
        scope = if_nametoindex(percent + 1);
    if (percent != NULL && (scope == 0 || scope > UINT32_MAX))
        return err_set(err, "\"%s\": there is no network interface \"%s\"", out->text, percent + 1);
    set_v6(&out->sa, &out->len, addr, (uint32_t)scope, port);
    return 0;
}

/* Digits and dots alone are a mistyped IPv4 address, never a name to ask the resolver for. */
static bool host_name_valid(const char *host)
{
    size_t len = strlen(host);
    if (len == 0 || len > 253 || strspn(host, "0123456789.") == len)
        return false;
    return strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") == len;
}

static const struct addrinfo *preferred(const struct addrinfo *list)
{
    for (const struct addrinfo *ai = list; ai != NULL; ai = ai->ai_next) {
        if (ai->ai_family == AF_INET)
            return ai;
    }
    return list;
}

static int resolve_name(struct addr *out, const char *host, uint16_t port, struct err *err)
{
    const struct addrinfo hints = { .ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM };
    struct addrinfo *list = NULL;
    int rc = getaddrinfo(host, NULL, &hints, &list);
    if (rc != 0)
        return err_set(err, "\"%s\": cannot resolve \"%s\": %s: write a numeric address", out->text,
                       host, gai_strerror(rc));
    const struct addrinfo *ai = preferred(list);
    if (ai->ai_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, ai->ai_addr, sizeof(in));
        set_v4(&out->sa, &out->len, in.sin_addr, port);
    } else {
        struct sockaddr_in6 in6;
        memcpy(&in6, ai->ai_addr, sizeof(in6));
        set_v6(&out->sa, &out->len, in6.sin6_addr, in6.sin6_scope_id, port);
    }
    freeaddrinfo(list);
    return 0;
}

static int parse_host(struct addr *out, char *host, uint16_t port, bool resolve, struct err *err)
{
    size_t len = strlen(host);
    struct in_addr v4;
    out->kind = ADDR_TCP;
    if (len == 0) {
        socklen_t any4_len;
        out->dual = true;
        set_v6(&out->sa, &out->len, in6addr_any, 0, port);
        set_v4(&out->any4, &any4_len, (struct in_addr){ INADDR_ANY }, port);
        return 0;
    }
    if (host[0] == '[' && host[len - 1] == ']') {
        host[len - 1] = '\0';
        return parse_v6(out, host + 1, port, err);
    }
    if (inet_pton(AF_INET, host, &v4) == 1) {
        set_v4(&out->sa, &out->len, v4, port);
        return 0;
    }
    if (strchr(host, ':') != NULL)
        return err_set(err, "an IPv6 address goes in brackets, as in [::1]:8080; found \"%s\"",
                       out->text);
    if (!host_name_valid(host))
        return err_set(err, "expected " FORMS ", found \"%s\": \"%s\" is no host", out->text, host);
    return resolve ? resolve_name(out, host, port, err) : 0;
}

static int parse_tcp(struct addr *out, bool resolve, struct err *err)
{
    char host[sizeof(out->text)];
    const char *colon = strrchr(out->text, ':');
    uint64_t port;
    if (colon == NULL)
        return err_set(err, "expected " FORMS ", found \"%s\"", out->text);
    if (str_to_u64(str_of(colon + 1), &port) != 0 || port > 65535)
        return err_set(err,
                       "expected a port from 1 to 65535 (or 0: any that is free) behind the "
                       "last ':' of \"%s\"",
                       out->text);
    memcpy(host, out->text, (size_t)(colon - out->text));
    host[colon - out->text] = '\0';
    return parse_host(out, host, (uint16_t)port, resolve, err);
}

int addr_parse(struct addr *out, const char *text, bool resolve, struct err *err)
{
    *out = (struct addr){ .fd = -1 };
    size_t len = strlen(text);
    if (len >= sizeof(out->text))
        return err_set(err, "expected " FORMS ", found %zu bytes", len);
    memcpy(out->text, text, len + 1);
    if (strncmp(text, "unix:", 5) == 0)
        return parse_unix(out, text + 5, err);
    if (strncmp(text, "fd:", 3) == 0)
        return parse_fd(out, text + 3, err);
    return parse_tcp(out, resolve, err);
}

bool addr_equal(const struct addr *a, const struct addr *b)
{
    if (a->kind != b->kind || a->dual != b->dual || a->len != b->len)
        return false;
    if (a->kind == ADDR_FD)
        return a->fd == b->fd;
    if (a->len == 0)
        return strcmp(a->text, b->text) == 0;
    return memcmp(&a->sa, &b->sa, a->len) == 0;
}

bool addr_picks_port(const struct addr *a)
{
    if (a->kind != ADDR_TCP)
        return false;
    if (a->len == 0) /* a name; the port is what follows the last colon, checked */
        return strtol(strrchr(a->text, ':') + 1, NULL, 10) == 0;
    in_port_t port = a->sa.ss_family == AF_INET6 ? ((const struct sockaddr_in6 *)&a->sa)->sin6_port
                                                 : ((const struct sockaddr_in *)&a->sa)->sin_port;
    return port == 0;
}

static void format_v4(struct in_addr host, uint16_t port, char *out)
{
    char text[INET_ADDRSTRLEN];
    inet_ntop(AF_INET, &host, text, sizeof(text));
    snprintf(out, ADDR_FORMAT_SIZE, "%s:%u", text, (unsigned)port);
}

static void format_v6(const struct sockaddr_in6 *in6, char *out)
{
    char text[INET6_ADDRSTRLEN];
    uint16_t port = ntohs(in6->sin6_port);
    if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) {
        struct in_addr v4;
        memcpy(&v4, &in6->sin6_addr.s6_addr[12], sizeof(v4));
        format_v4(v4, port, out);
        return;
    }
    inet_ntop(AF_INET6, &in6->sin6_addr, text, sizeof(text));
    snprintf(out, ADDR_FORMAT_SIZE, "[%s]:%u", text, (unsigned)port);
}

void addr_format(const struct sockaddr *sa, socklen_t len, char out[ADDR_FORMAT_SIZE])
{
    if (len >= sizeof(struct sockaddr_in) && sa->sa_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, sa, sizeof(in));
        format_v4(in.sin_addr, ntohs(in.sin_port), out);
    } else if (len >= sizeof(struct sockaddr_in6) && sa->sa_family == AF_INET6) {
        struct sockaddr_in6 in6;
        memcpy(&in6, sa, sizeof(in6));
        format_v6(&in6, out);
    } else {
        memcpy(out, "unix", 5);
    }
}
