/* bare_epoll: the limit that graft is measured against. One thread, raw epoll, read and write,
 * and a fixed answer with a 12-byte body: nothing is parsed, nothing is allocated per request.
 * A request is taken to be complete when what was read ends in an empty line; that is true of every
 * client that does not pipeline and sends no body, which is all that a benchmark does. No server
 * that really speaks HTTP can spend much less on this kernel than this one.
 *
 * usage: bare_epoll PORT      (listens on 127.0.0.1, ends on SIGTERM or SIGINT) */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static const char answer[] = "HTTP/1.1 200 OK\r\n"
                             "Content-Type: text/plain\r\n"
                             "Content-Length: 12\r\n"
                             "\r\n"
                             "hello world\n";

static int listener_open(unsigned port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int on = 1;
    struct sockaddr_in addr = { .sin_family = AF_INET,
                                .sin_port = htons((uint16_t)port),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };

    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        bind(fd, (struct sockaddr *)&addr, sizeof addr) != 0 || listen(fd, 1024) != 0) {
        fprintf(stderr, "bare_epoll: port %u: %s\n", port, strerror(errno));
        exit(1);
    }
    return fd;
}

static void watch(int epoll, int fd)
{
    struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };

    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
        perror("bare_epoll: epoll_ctl");
        exit(1);
    }
}

static void clients_accept(int epoll, int listener)
{
    int fd, on = 1;

    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        watch(epoll, fd);
    }
}

static void client_serve(int fd)
{
    static char buf[16384];
    ssize_t n = read(fd, buf, sizeof buf);

    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        close(fd);
        return;
    }
    if (n < 4 || memcmp(buf + n - 4, "\r\n\r\n", 4) != 0)
        return;
    if (write(fd, answer, sizeof answer - 1) < 0)
        close(fd);
}

int main(int argc, char **argv)
{
    unsigned long port = argc == 2 ? strtoul(argv[1], NULL, 10) : 0;
    int epoll = epoll_create1(EPOLL_CLOEXEC), listener;

    if (port == 0 || port > 65535 || epoll < 0) {
        fprintf(stderr, "usage: bare_epoll PORT\n");
        return 2;
    }
    listener = listener_open((unsigned)port);
    watch(epoll, listener);
    for (;;) {
        struct epoll_event events[256];
        int n = epoll_wait(epoll, events, 256, -1);

        for (int i = 0; i < n; i++) {
            if (events[i].data.fd == listener)
                clients_accept(epoll, listener);
            else
                client_serve(events[i].data.fd);
        }
    }
}
