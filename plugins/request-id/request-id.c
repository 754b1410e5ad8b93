/*
 * request-id: middleware that puts an id on every response.
 *
 * An id that the client (or a proxy in front) sent is kept when it is harmless to log and to send
 * back; otherwise it is the one that the server gave the request. Configuration, all optional:
 *     "config": { "header": "X-Request-ID", "trust": true }
 */
#include <graft/graft.h>

#include <stdlib.h>
#include <string.h>

enum { ID_MAX = 128 };

struct settings {
    const char *header; /* lives as long as the version */
    bool trust;         /* whether to keep an id that was sent */
};

static bool is_token(const char *s)
{
    static const char token[] = "!#$%&'*+-.^_`|~0123456789"
                                "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    return *s != '\0' && s[strspn(s, token)] == '\0';
}

static int init(graft_self *self, void **state)
{
    const char *header = graft_config_str(self, "header", "X-Request-ID");
    if (!is_token(header))
        return graft_fail(self,
                          "config.header is \"%s\", expected the name of a header field, such "
                          "as \"X-Request-ID\"",
                          header);

    struct settings *settings = malloc(sizeof *settings);
    if (!settings)
        return graft_fail(self, "no memory");
    settings->header = header;
    settings->trust = graft_config_bool(self, "trust", true);
    *state = settings;
    return 0;
}

static void fini(graft_self *self, void *state)
{
    (void)self;
    free(state);
}

/* Letters, digits and a little punctuation: what UUIDs, ULIDs, base64 and trace ids are made of. */
static bool is_sane(graft_str id)
{
    if (id.len == 0 || id.len > ID_MAX)
        return false;
    for (size_t i = 0; i < id.len; i++) {
        char c = id.ptr[i];
        bool alnum = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        if (!alnum && (c == '\0' || !strchr("-_.:+/=@", c)))
            return false;
    }
    return true;
}

/* In on_response, not on_request: there nothing that the handler does can remove the header. */
static graft_next on_response(graft_req *req, void *state)
{
    const struct settings *settings = state;
    graft_str id = graft_header(req, settings->header);
    if (!settings->trust || !is_sane(id))
        id = graft_request_id(req);

    char value[ID_MAX + 1];
    size_t len = id.len < ID_MAX ? id.len : ID_MAX;
    if (len == 0)
        return GRAFT_NEXT;
    memcpy(value, id.ptr, len);
    value[len] = '\0';
    graft_set_header(req, settings->header, value);
    return GRAFT_NEXT;
}

GRAFT_PLUGIN(
    .name        = "request-id",
    .version     = "1.0.0",
    .summary     = "Puts an X-Request-ID on every response.",
    .init        = init,
    .fini        = fini,
    .on_response = on_response,
)
