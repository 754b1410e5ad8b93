/*
 * Addresses to listen on, as people write them: host:port, [v6]:port, :port, unix:/path, fd:N.
 * Any thread (a name is resolved by getaddrinfo, which may block: at start-up only).
 */
#ifndef GRAFT_BASE_ADDR_H
#define GRAFT_BASE_ADDR_H

#include "base/base.h"
#include "base/err.h"

#include <sys/socket.h>

enum addr_kind { ADDR_TCP, ADDR_UNIX, ADDR_FD };

struct addr {
    enum addr_kind kind;
    /* ":8080" was written: bind [::] with IPV6_V6ONLY off; where there is no IPv6 (socket() says
       EAFNOSUPPORT, or bind() EADDRNOTAVAIL) use `any4` instead. */
    bool dual;
    int fd;                       /* ADDR_FD */
    socklen_t len;                /* of sa; 0 for ADDR_FD and for a name that was not resolved */
    struct sockaddr_storage sa;   /* ADDR_TCP, ADDR_UNIX */
    struct sockaddr_storage any4; /* 0.0.0.0 and the port, when dual; sizeof(struct sockaddr_in) */
    char text[272];               /* as written */
};

/* A numeric host first, else a name (`resolve`; of several addresses the IPv4 one, since not every
   container that knows the name localhost has ::1). 0, or -1 and what was expected. */
int addr_parse(struct addr *out, const char *text, bool resolve, struct err *err);

bool addr_equal(const struct addr *a, const struct addr *b);

/* Port 0: the kernel picks one, so that the same words twice are two addresses. */
bool addr_picks_port(const struct addr *a);

/* "192.0.2.1:4711", "[2001:db8::1]:80", "unix"; an IPv4-mapped IPv6 address as IPv4. */
#define ADDR_FORMAT_SIZE 64
void addr_format(const struct sockaddr *sa, socklen_t len, char out[ADDR_FORMAT_SIZE]);

#endif
