/* See cidr.h. */
#include "base/cidr.h"

#include "base/str.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>

static int refuse(const char *text, struct err *err)
{
    return err_set(err,
                   "expected an address, a network as in \"10.0.0.0/8\" or \"2001:db8::/32\", or "
                   "\"unix\", found \"%.80s\"",
                   text);
}

/* Are the bits from `from` on all 0? */
static bool clear_behind(const uint8_t *net, unsigned from, unsigned all)
{
    for (unsigned bit = from; bit < all; bit++)
        if (net[bit / 8] & 0x80u >> bit % 8)
            return false;
    return true;
}

int cidr_parse(struct cidr *out, const char *text, struct err *err)
{
    char address[INET6_ADDRSTRLEN];
    uint64_t bits = 0;
    *out = (struct cidr){ .family = AF_UNIX };
    if (strcmp(text, "unix") == 0)
        return 0;
    const char *slash = strchr(text, '/');
    size_t len = slash != NULL ? (size_t)(slash - text) : strlen(text);
    if (len >= sizeof address)
        return refuse(text, err);
    memcpy(address, text, len);
    address[len] = '\0';
    out->family = strchr(address, ':') != NULL ? AF_INET6 : AF_INET;
    unsigned all = out->family == AF_INET6 ? 128 : 32;
    if (inet_pton(out->family, address, out->net) != 1)
        return refuse(text, err);
    if (slash != NULL && (str_to_u64(str_of(slash + 1), &bits) != 0 || bits > all))
        return refuse(text, err);
    out->bits = (uint8_t)(slash != NULL ? bits : all);
    if (!clear_behind(out->net, out->bits, all))
        return err_set(err, "\"%.80s\": bits of the address are set behind its prefix of %u bits",
                       text, out->bits);
    return 0;
}

bool cidr_contains(const struct cidr *c, uint8_t family, const void *address)
{
    static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
    const uint8_t *at = address;
    if (family == AF_INET6 && c->family == AF_INET && memcmp(at, mapped, sizeof mapped) == 0) {
        family = AF_INET;
        at += sizeof mapped;
    }
    if (family != c->family)
        return false;
    if (family == AF_UNIX)
        return true;
    unsigned whole = c->bits / 8u, rest = c->bits % 8u;
    if (memcmp(at, c->net, whole) != 0)
        return false;
    return rest == 0 || ((at[whole] ^ c->net[whole]) & (0xffu << (8u - rest) & 0xffu)) == 0;
}
