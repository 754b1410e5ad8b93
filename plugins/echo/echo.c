/*
 * echo: answers every method on /echo with the body that was sent.
 *
 * The server has read the whole body before the handler runs, because the route is not
 * GRAFT_STREAM; what is larger than limits.body_bytes never gets here (413).
 */
#include <graft/graft.h>

#include <string.h>

/* The request's Content-Type, or what stands for "just bytes". */
static const char *content_type(graft_req *req)
{
    graft_str sent = graft_header(req, "Content-Type");
    char *copy = sent.len > 0 ? graft_alloc(req, sent.len + 1) : NULL;
    if (!copy)
        return "application/octet-stream";
    memcpy(copy, sent.ptr, sent.len); /* header functions take C strings */
    copy[sent.len] = '\0';
    return copy;
}

static bool method_is(const graft_req *req, const char *name)
{
    graft_str method = graft_method(req);
    return method.len == strlen(name) && memcmp(method.ptr, name, method.len) == 0;
}

static graft_next echo(graft_req *req, void *state)
{
    (void)state;
    graft_str body = graft_body(req);
    if (body.len == 0 && (method_is(req, "GET") || method_is(req, "HEAD")))
        return graft_text(req, 200, "Send a body and it comes back.\n");

    graft_set_header(req, "Content-Type", content_type(req));
    graft_write(req, body.ptr, body.len);
    return GRAFT_DONE;
}

GRAFT_PLUGIN(
    .name    = "echo",
    .version = "1.0.0",
    .summary = "Sends the request's body back.",
    .routes  = (const graft_route[]){ { NULL, "/echo", echo, 0 }, { 0 } },
)
