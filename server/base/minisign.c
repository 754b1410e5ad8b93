/* Lines, then base64, then fields. Nothing may follow the last line, nothing may be missing. */
#include "base/minisign.h"

#include "base/escape.h"

#define COMMENT "untrusted comment: "
#define TRUSTED "trusted comment: "

/* ---- base64 ---------------------------------------------------------------------------------- */

static int digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Characters that `size` bytes take, with the '=' at their end. */
static size_t text_len(size_t size)
{
    return (size + 2) / 3 * 4;
}

/* Exactly `size` bytes, the bits that do not count zero: one text for each value. */
static int decode(unsigned char *out, size_t size, struct str text)
{
    size_t digits = (size * 8 + 5) / 6, n = 0;
    uint32_t bits = 0;
    unsigned have = 0;
    if (text.len != text_len(size))
        return -1;
    for (size_t i = digits; i < text.len; i++)
        if (text.ptr[i] != '=')
            return -1;
    for (size_t i = 0; i < digits; i++) {
        int d = digit(text.ptr[i]);
        if (d < 0)
            return -1;
        bits = (bits << 6 | (uint32_t)d) & 0xffffff;
        have += 6;
        if (have >= 8 && n < size) {
            have -= 8;
            out[n++] = (unsigned char)(bits >> have);
        }
    }
    return (bits & ((1u << have) - 1)) == 0 ? 0 : -1;
}

/* ---- Fields ---------------------------------------------------------------------------------- */

static uint64_t key_id(const unsigned char *p)
{
    uint64_t id = 0;
    for (unsigned i = 0; i < 8; i++)
        id |= (uint64_t)p[i] << (8 * i);
    return id;
}

/* What stands there, as it may be shown. */
static int refuse(struct err *err, const char *expected, struct str found)
{
    char shown[64];
    size_t used, n = escape(shown, 48, found, ESCAPE_LINE, &used);
    shown[n] = '\0';
    if (found.len == 0)
        return err_set(err, "expected %s, found nothing", expected);
    return err_set(err, "expected %s, found \"%s%s\" (%zu bytes)", expected, shown,
                   used < found.len ? "..." : "", found.len);
}

int minisign_key(struct minisign_key *out, struct str text, struct err *err)
{
    unsigned char raw[42];
    if (decode(raw, sizeof raw, text) != 0 || memcmp(raw, "Ed", 2) != 0)
        return refuse(err, "a minisign public key (56 characters that begin with RW)", text);
    out->id = key_id(raw + 2);
    memcpy(out->key, raw + 10, sizeof out->key);
    return 0;
}

/* ---- Lines ----------------------------------------------------------------------------------- */

/* The next line without its end; LF and CR LF end one, as for minisign. */
static struct str next_line(struct str *rest)
{
    const char *end = rest->len > 0 ? memchr(rest->ptr, '\n', rest->len) : NULL;
    struct str line = { rest->ptr, end != NULL ? (size_t)(end - rest->ptr) : rest->len };
    size_t taken = line.len + (end != NULL ? 1 : 0);
    rest->ptr += taken;
    rest->len -= taken;
    if (line.len > 0 && line.ptr[line.len - 1] == '\r')
        line.len--;
    return line;
}

static bool begins(struct str line, struct str with)
{
    return line.len >= with.len && memcmp(line.ptr, with.ptr, with.len) == 0;
}

static int refuse_line(struct err *err, unsigned line, const char *expected, struct str found)
{
    refuse(err, expected, found);
    return err_prefix(err, "line %u", line);
}

static int end_of_text(struct err *err, unsigned line, struct str rest)
{
    return rest.len == 0 ? 0 : refuse_line(err, line, "the end of the file", rest);
}

int minisign_key_file(struct minisign_key *out, struct str text, struct err *err)
{
    unsigned line = 1;
    struct str rest = text;
    if (begins(text, STR(COMMENT))) {
        next_line(&rest);
        line++;
    }
    if (minisign_key(out, next_line(&rest), err) != 0)
        return err_prefix(err, "line %u", line);
    return end_of_text(err, line + 1, rest);
}

int minisign_read(struct minisign *out, struct str text, struct err *err)
{
    unsigned char raw[74];
    struct str rest = text, line = next_line(&rest);
    if (!begins(line, STR(COMMENT)))
        return refuse_line(err, 1, "\"" COMMENT "...\"", line);
    line = next_line(&rest);
    if (decode(raw, sizeof raw, line) != 0)
        return refuse_line(err, 2, "a signature (100 characters of base64)", line);
    if (raw[0] != 'E' || (raw[1] != 'd' && raw[1] != 'D'))
        return refuse_line(err, 2, "a signature by the algorithm Ed or ED",
                           (struct str){ (const char *)raw, 2 });
    out->hashed = raw[1] == 'D';
    out->id = key_id(raw + 2);
    memcpy(out->file, raw + 10, sizeof out->file);
    line = next_line(&rest);
    if (!begins(line, STR(TRUSTED)))
        return refuse_line(err, 3, "\"" TRUSTED "...\"", line);
    out->trusted = (struct str){ line.ptr + sizeof TRUSTED - 1, line.len - (sizeof TRUSTED - 1) };
    line = next_line(&rest);
    if (decode(out->comment, sizeof out->comment, line) != 0)
        return refuse_line(err, 4, "the trusted comment's signature (88 characters of base64)",
                           line);
    return end_of_text(err, 5, rest);
}
