/* The request is one write, the answer is read to its end: the server closes behind it. */
#include "ctl/client.h"

#include "ops/place.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define ANSWER_MAX (64u << 20)

static int send_all(int fd, const struct buf *b, struct err *err)
{
    for (size_t sent = 0; sent < b->len;) {
        ssize_t n = send(fd, b->data + sent, b->len - sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(err, "cannot send the request: %s", strerror(errno));
        sent += (size_t)n;
    }
    return 0;
}

static int read_all(int fd, unsigned wait_s, struct buf *out, struct err *err)
{
    char chunk[16384];
    for (;;) {
        ssize_t n = recv(fd, chunk, sizeof chunk, 0);
        if (n == 0)
            return 0;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return err_set(err, "no answer within %u s: is the server stopped?", wait_s);
        if (n < 0)
            return err_set(err, "cannot read the answer: %s", strerror(errno));
        if (out->len + (size_t)n > ANSWER_MAX || buf_add(out, chunk, (size_t)n) != 0)
            return err_set(err, "the answer is too long");
    }
}

/* The value of Content-Length in the head; -1 when it is not there. */
static int content_length(const char *head, const char *end, uint64_t *out)
{
    static const char name[] = "\r\nContent-Length: ";
    const char *at = memmem(head, (size_t)(end - head), name, sizeof name - 1);
    if (at == NULL)
        return -1;
    at += sizeof name - 1;
    const char *stop = memchr(at, '\r', (size_t)(end - at));
    return stop == NULL ? -1 : str_to_u64((struct str){ at, (size_t)(stop - at) }, out);
}

int client_parse(const struct buf *answer, int *status, struct buf *body, struct err *err)
{
    uint64_t code, len;
    char *end = answer->len > 0 ? memmem(answer->data, answer->len, "\r\n\r\n", 4) : NULL;
    if (answer->len == 0)
        return err_set(err, "the server closed the connection without an answer");
    if (end == NULL || strncmp(answer->data, "HTTP/1.1 ", 9) != 0 || answer->len < 12 ||
        str_to_u64((struct str){ answer->data + 9, 3 }, &code) != 0 ||
        content_length(answer->data, end + 2, &len) != 0)
        return err_set(err, "what answers there is not graftd");
    size_t rest = answer->len - (size_t)(end + 4 - answer->data);
    if (rest != len)
        return err_set(err, "the answer was cut: %zu of %llu bytes", rest, (unsigned long long)len);
    *status = (int)code;
    return buf_add(body, end + 4, rest) == 0 ? 0 : err_set(err, "out of memory");
}

enum client_result client_call(const char *control, const char *method, const char *target,
                               unsigned wait_s, int *status, struct buf *body, struct err *err)
{
    struct buf request = { 0 }, answer = { 0 };
    struct timeval wait = { .tv_sec = (time_t)wait_s };
    int fd = place_connect(control, err);
    if (fd < 0)
        return fd == PLACE_BUSY || fd == PLACE_DENIED ? CLIENT_BROKEN : CLIENT_NO_SERVER;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
    int rc = buf_printf(&request,
                        "%s %s HTTP/1.1\r\nHost: graftd\r\nContent-Length: 0\r\n"
                        "Connection: close\r\n\r\n",
                        method, target);
    if (rc != 0)
        err_set(err, "out of memory");
    if (rc == 0)
        rc = send_all(fd, &request, err);
    if (rc == 0)
        rc = read_all(fd, wait_s, &answer, err);
    if (rc == 0)
        rc = client_parse(&answer, status, body, err);
    close(fd);
    buf_fini(&request);
    buf_fini(&answer);
    return rc == 0 ? CLIENT_OK : CLIENT_BROKEN;
}
