/*
 * Signature files and public keys of minisign: what is accepted is written again from what was read
 * and must be the same; what is refused is refused with its line. The same bytes are held against a
 * key that has signed nothing here: nothing may be found good.
 */
#include "fuzz.h"

#include "base/minisign.h"
#include "plugin/signature.h"

static void encode(char *out, const unsigned char *data, size_t size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < size; i += 3) {
        uint32_t bits = (uint32_t)data[i] << 16;
        size_t left = size - i;
        bits |= left > 1 ? (uint32_t)data[i + 1] << 8 : 0;
        bits |= left > 2 ? data[i + 2] : 0;
        *out++ = digits[bits >> 18];
        *out++ = digits[bits >> 12 & 63];
        *out++ = left > 1 ? digits[bits >> 6 & 63] : '=';
        *out++ = left > 2 ? digits[bits & 63] : '=';
    }
    *out = '\0';
}

static void put_id(unsigned char *out, uint64_t id)
{
    for (unsigned i = 0; i < 8; i++)
        out[i] = (unsigned char)(id >> (8 * i));
}

/* Line `n` (from 1) of the text, without its end. */
static struct str line_of(struct str text, unsigned n)
{
    struct str line = { text.ptr, 0 };
    for (unsigned i = 1;; i++) {
        const char *end = text.len > 0 ? memchr(text.ptr, '\n', text.len) : NULL;
        line = (struct str){ text.ptr, end != NULL ? (size_t)(end - text.ptr) : text.len };
        if (i == n)
            break;
        HOLDS(end != NULL);
        text.ptr += line.len + 1;
        text.len -= line.len + 1;
    }
    if (line.len > 0 && line.ptr[line.len - 1] == '\r')
        line.len--;
    return line;
}

static void check_signature(const struct minisign *m, struct str text)
{
    unsigned char raw[74] = { 'E', m->hashed ? 'D' : 'd' };
    char again[128];
    put_id(raw + 2, m->id);
    memcpy(raw + 10, m->file, sizeof m->file);
    encode(again, raw, sizeof raw);
    HOLDS(str_eq(line_of(text, 2), str_of(again)));
    encode(again, m->comment, sizeof m->comment);
    HOLDS(str_eq(line_of(text, 4), str_of(again)));
    HOLDS(m->trusted.ptr >= text.ptr && m->trusted.ptr + m->trusted.len <= text.ptr + text.len);
}

/* "line N: words" */
static void check_message(const char *text)
{
    unsigned line = 0;
    int at = 0;
    HOLDS(sscanf(text, "line %u: %n", &line, &at) == 1 && line > 0 && at > 0 && text[at] != '\0');
    for (const char *p = text; *p != '\0'; p++)
        HOLDS((unsigned char)*p >= 0x20 && *p != 0x7f);
}

static void check_key(struct str text)
{
    struct minisign_key key;
    struct err err = { "" };
    unsigned char raw[42] = { 'E', 'd' };
    char again[64];
    if (minisign_key(&key, text, &err) != 0) {
        HOLDS(err.text[0] != '\0');
    } else {
        put_id(raw + 2, key.id);
        memcpy(raw + 10, key.key, sizeof key.key);
        encode(again, raw, sizeof raw);
        HOLDS(str_eq(text, str_of(again)));
    }
    if (minisign_key_file(&key, text, &err) != 0)
        check_message(err.text);
}

/* Anybody's bytes, the id of the one key that is trusted: never good. */
static void check_never_good(char *text, size_t len, uint64_t id)
{
    static struct signature s;
    struct config_key_text key = { .known = true, .key = { .id = id, .key = { 1, 2, 3 } } };
    struct config_signatures demands = { .required = true, .keys = &key, .key_count = 1 };
    struct err err = { "" };
    s.kind = SIGNATURE_READ;
    s.text = text;
    s.len = len;
    HOLDS(signature_verify(&s, &demands, "/etc/passwd", &err) == -1 && err.text[0] != '\0');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct minisign m;
    struct err err = { "" };
    if (len > MINISIGN_FILE_MAX)
        return 0;
    char *copy = fuzz_copy(data, len);
    struct str text = { copy, len };
    int rc = minisign_read(&m, text, &err);
    if (rc == 0)
        check_signature(&m, text);
    else
        check_message(err.text);
    check_never_good(copy, len, rc == 0 ? m.id : 0);
    check_key(text);
    free(copy);
    return 0;
}
