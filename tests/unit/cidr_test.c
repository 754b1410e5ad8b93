/* base/cidr.h: networks as written, and who is in them. */
#include "tap.h"

#include "base/cidr.h"

#include <arpa/inet.h>

static bool in(const char *network, const char *address)
{
    struct cidr c;
    struct err err;
    uint8_t bytes[16] = { 0 };
    uint8_t family = strcmp(address, "unix") == 0 ? AF_UNIX
                     : strchr(address, ':')       ? AF_INET6
                                                  : AF_INET;
    must(cidr_parse(&c, network, &err) == 0);
    must(family == AF_UNIX || inet_pton(family, address, bytes) == 1);
    return cidr_contains(&c, family, bytes);
}

TEST(who_is_in_a_network)
{
    ok(in("127.0.0.1", "127.0.0.1"));
    ok(!in("127.0.0.1", "127.0.0.2"));
    ok(in("10.0.0.0/8", "10.255.0.1"));
    ok(!in("10.0.0.0/8", "11.0.0.1"));
    ok(in("192.0.2.128/25", "192.0.2.200"));
    ok(!in("192.0.2.128/25", "192.0.2.127"));
    ok(in("0.0.0.0/0", "203.0.113.9"));
    ok(!in("0.0.0.0/0", "2001:db8::1"));
    ok(in("0.0.0.0/0", "::ffff:203.0.113.9"));
    ok(in("10.0.0.0/8", "::ffff:10.1.2.3"));
    ok(!in("10.0.0.0/8", "::ffff:11.1.2.3"));
    ok(in("2001:db8::/32", "2001:db8:1::1"));
    ok(!in("2001:db8::/33", "2001:db8:8000::1"));
    ok(in("::/0", "::1"));
    ok(!in("::/0", "127.0.0.1"));
    ok(in("unix", "unix"));
    ok(!in("unix", "127.0.0.1"));
    ok(!in("::/0", "unix"));
}

TEST(what_is_no_network)
{
    static const char *const bad[] = { "",
                                       "x",
                                       "10.0.0.0/33",
                                       "10.0.0.0/",
                                       "10.0.0/8",
                                       "10.0.0.0/-1",
                                       "10.0.0.0/ 8",
                                       "10.1.0.0/8",
                                       "::1/129",
                                       "::1/64",
                                       "[::1]",
                                       "localhost",
                                       "10.0.0.1:80",
                                       "Unix",
                                       "unix:/x",
                                       "1.2.3.4/8/8",
                                       "1:2:3:4:5:6:7:8:9:10:11:12:13:14:15:16:17:18:19:20:21:22" };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct cidr c;
        struct err err = { { 0 } };
        if (!ok(cidr_parse(&c, bad[i], &err) == -1))
            fprintf(stderr, "# accepted: %s\n", bad[i]);
        ok(err.text[0] != '\0');
    }
}
