/*
 * Networks as people write them: "192.0.2.1", "10.0.0.0/8", "2001:db8::/32", and "unix" for clients
 * of unix sockets. Any thread; nothing is resolved.
 */
#ifndef GRAFT_BASE_CIDR_H
#define GRAFT_BASE_CIDR_H

#include "base/base.h"
#include "base/err.h"

#include <netinet/in.h>

struct cidr {
    uint8_t family; /* AF_INET, AF_INET6, AF_UNIX */
    uint8_t bits;
    uint8_t net[16]; /* network order; the bits behind `bits` are 0 */
};

/* 0, or -1: what was expected. Bits behind the prefix must be 0: "10.1.0.0/8" is a mistake. */
int cidr_parse(struct cidr *out, const char *text, struct err *err);

/* `address`: 4 or 16 bytes by family, network order; of AF_UNIX none is read. An IPv4-mapped IPv6
   address is the IPv4 one. */
bool cidr_contains(const struct cidr *c, uint8_t family, const void *address);

#endif
