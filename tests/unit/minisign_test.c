/* base/minisign.c: what is taken as a key or a signature of minisign, and how the rest is refused.
 */
#include "tap.h"

#include "base/minisign.h"

/* Made by minisign 0.11; hashed. */
#define KEY     "RWRHIfMMOeg/4ItL2e+chFByFEDqxa1karM2rhadHKgr635pDqWK4Vji"
#define COMMENT "untrusted comment: signature from minisign secret key\n"
#define SIGNED                                                                                     \
    "RURHIfMMOeg/4FeFh5zGIAiCX5JaPObhtoC0o+oNYikl+7w5OYguBWKR372j+qFEiQMpVHS1CnmzO3yVtjl80WqZEDZs" \
    "+ocbsg0=\n"
#define TRUSTED "trusted comment: timestamp:1795399103\tfile:hello.so\thashed\n"
#define GLOBAL                                                                                     \
    "/b3OBhHE8N6pNVj2h9hatJzJ2N3IbtTkbpry7L6fAKevLqTuvyWjjC2W8zEQP367x81FCdE/mnaCCtPiyV2ECA==\n"

static struct err err;

static int read_text(struct minisign *m, const char *text)
{
    err.text[0] = '\0';
    return minisign_read(m, str_of(text), &err);
}

static void refused(const char *text, const char *why)
{
    struct minisign m;
    is(read_text(&m, text), -1);
    if (strstr(err.text, why) == NULL)
        is_str(err.text, why);
}

TEST(a_signature_is_read)
{
    struct minisign m;
    is(read_text(&m, COMMENT SIGNED TRUSTED GLOBAL), 0);
    ok(m.hashed);
    ok(m.id == 0xE03FE8390CF32147u);
    is(m.trusted.len, strlen(TRUSTED) - strlen("trusted comment: ") - 1);
    is(m.file[0], 0x57);
    is(m.comment[0], 0xfd);
}

TEST(its_last_line_may_lack_an_end_and_lines_may_end_in_cr_lf)
{
    struct minisign m;
    char text[1024], *out = text;
    is(minisign_read(
           &m,
           (struct str){ COMMENT SIGNED TRUSTED GLOBAL, strlen(COMMENT SIGNED TRUSTED GLOBAL) - 1 },
           &err),
       0);
    for (const char *p = COMMENT SIGNED TRUSTED GLOBAL; *p != '\0'; p++) {
        if (*p == '\n')
            *out++ = '\r';
        *out++ = *p;
    }
    *out = '\0';
    is(read_text(&m, text), 0);
    is(m.trusted.len, strlen(TRUSTED) - strlen("trusted comment: ") - 1);
}

TEST(what_is_no_signature_is_refused_with_its_line)
{
    refused("", "line 1: expected \"untrusted comment: ...\", found nothing");
    refused("\n", "line 1: expected");
    refused("a\001b\n", "found \"a\\u0001b\" (3 bytes)");
    refused(COMMENT, "line 2: expected a signature (100 characters of base64), found nothing");
    refused(COMMENT "x" SIGNED TRUSTED GLOBAL, "line 2: expected a signature");
    refused(COMMENT SIGNED, "line 3: expected \"trusted comment: ...\", found nothing");
    refused(COMMENT SIGNED "trusted comment\n" GLOBAL, "line 3: expected");
    refused(COMMENT SIGNED TRUSTED, "line 4: expected the trusted comment's signature");
    refused(COMMENT SIGNED TRUSTED SIGNED, "line 4: expected the trusted comment's signature");
    refused(COMMENT SIGNED TRUSTED GLOBAL "\n", "line 5: expected the end of the file");
    refused(COMMENT SIGNED TRUSTED GLOBAL "more", "line 5: expected the end of the file, found");
}

TEST(another_algorithm_is_refused)
{
    char text[] = COMMENT SIGNED TRUSTED GLOBAL;
    memcpy(text + strlen(COMMENT), "RW", 2); /* "Ed..": the legacy one */
    struct minisign m;
    is(read_text(&m, text), 0);
    ok(!m.hashed);
    memcpy(text + strlen(COMMENT), "RX", 2);
    refused(text, "expected a signature by the algorithm Ed or ED");
}

TEST(base64_has_one_text_for_each_value)
{
    char text[] = COMMENT SIGNED TRUSTED GLOBAL;
    char *end = text + strlen(COMMENT SIGNED) - 2; /* the '=' */
    end[-1] = '1';                                 /* 0 was there: bits that do not count */
    refused(text, "line 2");
    end[-1] = '0';
    end[0] = 'A';
    refused(text, "line 2");
    end[0] = '=';
    text[strlen(COMMENT) + 9] = ' ';
    refused(text, "line 2");
}

TEST(a_key_is_read)
{
    struct minisign_key k;
    is(minisign_key(&k, str_of(KEY), &err), 0);
    ok(k.id == 0xE03FE8390CF32147u);
    is(k.key[0], 0x8b);
    is(minisign_key(&k, str_of(KEY "="), &err), -1);
    is(minisign_key(&k, (struct str){ KEY, 55 }, &err), -1);
    is(minisign_key(&k,
                    str_of("RX"
                           "RHIfMMOeg/4ItL2e+chFByFEDqxa1karM2rhadHKgr635pDqWK4Vji"),
                    &err),
       -1);
    ok(strstr(err.text, "expected a minisign public key (56 characters that begin with RW)") !=
       NULL);
}

TEST(a_key_file_is_read)
{
    struct minisign_key k;
    is(minisign_key_file(&k, str_of("untrusted comment: minisign public key\n" KEY "\n"), &err), 0);
    is(minisign_key_file(&k, str_of(KEY), &err), 0);
    is(minisign_key_file(&k, str_of(""), &err), -1);
    is(minisign_key_file(&k, str_of("untrusted comment: x"), &err), -1);
    ok(strstr(err.text, "line 2: expected a minisign public key") != NULL);
    is(minisign_key_file(&k, str_of(KEY "\n" KEY "\n"), &err), -1);
    ok(strstr(err.text, "line 2: expected the end of the file") != NULL);
}
