/*
 * Character classes and the handful of questions about response fields. Pure, any thread.
 */
#include "http/field.h"

/* FIELD_TOKEN 1, FIELD_VALUE 2, FIELD_TARGET 4, FIELD_HOST 8; V: obs-text, a value only. The unit
   test spells the classes out and compares. */
#define V FIELD_VALUE
/* clang-format off */
const unsigned char field_class[256] = {
     0,  0,  0,  0,  0,  0,  0,  0,  0,  2,  0,  0,  0,  0,  0,  0, /* 00 controls */
     0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0, /* 10 controls */
     2, 15,  6,  7, 15,  7, 15, 15, 14, 14, 15, 15, 14, 15, 15,  6, /* 20 SP !\"#$%&'()*+,-./ */
    15, 15, 15, 15, 15, 15, 15, 15, 15, 15,  6, 14,  6, 14,  6,  6, /* 30 0-9 :;<=>? */
     6, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, /* 40 @ A-O */
    15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15,  6,  6,  6,  7, 15, /* 50 P-Z [\\]^_ */
     7, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, /* 60 ` a-o */
    15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15,  6,  7,  6, 15,  0, /* 70 p-z {|}~ DEL */
    V, V, V, V, V, V, V, V, V, V, V, V, V, V, V, V,
    V, V, V, V, V, V, V, V, V, V, V, V, V, V, V, V,
    V, V, V, V, V, V, V, V, V, V, V, V, V, V, V, V,
    V, V, V, V, V, V, V, V, V, V, V, V, V, V, V, V,
    V, V, V, V, V, V, V, V, V, V, V, V, V, V, V, V,
    V, V, V, V, V, V, V, V, V, V, V, V, V, V, V, V,
    V, V, V, V, V, V, V, V, V, V, V, V, V, V, V, V,
    V, V, V, V, V, V, V, V, V, V, V, V, V, V, V, V,
};
/* clang-format on */
#undef V

static bool all_of(const char *p, size_t len, unsigned classes)
{
    for (size_t i = 0; i < len; i++)
        if (!field_is(p[i], classes))
            return false;
    return true;
}

bool field_name_ok(const char *name, size_t len)
{
    return len > 0 && all_of(name, len, FIELD_TOKEN);
}

bool field_value_ok(const char *value, size_t len)
{
    return all_of(value, len, FIELD_VALUE);
}

bool field_list_has(struct str value, const char *token)
{
    struct str want = str_of(token);
    while (value.len > 0) {
        const char *comma = memchr(value.ptr, ',', value.len);
        size_t len = comma ? (size_t)(comma - value.ptr) : value.len;
        if (str_case_eq(field_trim((struct str){ value.ptr, len }), want))
            return true;
        len += comma != NULL;
        value.ptr += len;
        value.len -= len;
    }
    return false;
}

static const struct {
    struct str name;
    enum field_owner owner;
} owned[] = {
    { { "Connection", 10 }, FIELD_CONNECTION },
    { { "Transfer-Encoding", 17 }, FIELD_FRAMING },
    { { "Keep-Alive", 10 }, FIELD_FRAMING },
    { { "Upgrade", 7 }, FIELD_FRAMING },
    { { "Trailer", 7 }, FIELD_FRAMING },
    { { "Content-Length", 14 }, FIELD_CONTENT_LENGTH },
    { { "Date", 4 }, FIELD_DATE },
    { { "Server", 6 }, FIELD_SERVER },
};

enum field_owner field_owner(struct str name)
{
    for (size_t i = 0; i < ARRAY_LEN(owned); i++)
        if (name.len == owned[i].name.len && str_case_eq(name, owned[i].name))
            return owned[i].owner;
    return FIELD_FREE;
}
