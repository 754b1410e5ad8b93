/*
 * What the getters say of a request, as JSON, on every method of
 *     /info, /info/:a/x/ *rest (without the space), /info/up (GRAFT_STREAM)
 * {"method","path","target","peer","request_id","route_pattern","tls","a","rest","body","body_len",
 *  "q","header","headers":[[name,value],…]}: absent is null; q is ?q=, header is the field that
 * ?header= names. Bytes that are not plain ASCII become \u00XX.
 */
#include "contract.h"

static void put_str(graft_req *req, const char *key, graft_str s)
{
    if (key)
        graft_printf(req, "\"%s\":", key);
    if (!s.ptr) {
        graft_write(req, "null", 4);
        return;
    }
    graft_write(req, "\"", 1);
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.ptr[i];
        if (c < 0x20 || c > 0x7e || c == '"' || c == '\\')
            graft_printf(req, "\\u%04x", c);
        else
            graft_write(req, &s.ptr[i], 1);
    }
    graft_write(req, "\"", 1);
}

static void member(graft_req *req, const char *key, graft_str s)
{
    put_str(req, key, s);
    graft_write(req, ",", 1);
}

static void headers(graft_req *req)
{
    graft_str name, value;
    size_t count = graft_header_count(req);
    graft_printf(req, "\"past_last\":%s,\"headers\":[",
                 graft_header_at(req, count, &name, &value) ? "true" : "false");
    for (size_t i = 0; i < count && graft_header_at(req, i, &name, &value); i++) {
        graft_write(req, i ? ",[" : "[", i ? 2 : 1);
        put_str(req, NULL, name);
        graft_write(req, ",", 1);
        put_str(req, NULL, value);
        graft_write(req, "]", 1);
    }
    graft_write(req, "]}\n", 3);
}

static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    graft_str body = graft_body(req);
    graft_set_header(req, "Content-Type", "application/json");
    graft_write(req, "{", 1);
    member(req, "method", graft_method(req));
    member(req, "path", graft_path(req));
    member(req, "target", graft_target(req));
    member(req, "peer", graft_peer(req));
    member(req, "request_id", graft_request_id(req));
    member(req, "route_pattern", graft_route_pattern(req));
    member(req, "a", graft_param(req, "a"));
    member(req, "rest", graft_param(req, "rest"));
    member(req, "q", graft_query(req, "q"));
    member(req, "header", graft_header(req, str_copy(req, graft_query(req, "header"))));
    member(req, "body", body);
    graft_printf(req, "\"body_len\":%zu,\"tls\":%s,", body.len,
                 graft_is_tls(req) ? "true" : "false");
    headers(req);
    return GRAFT_DONE;
}

GRAFT_PLUGIN(
    .name    = "self-info",
    .version = "1.0.0",
    .routes  = (const graft_route[]){ { NULL, "/info", handler, 0 },
                                      { NULL, "/info/:a/x/*rest", handler, 0 },
                                      { NULL, "/info/up", handler, GRAFT_STREAM },
                                      { 0 } },
)
