/*
 * recv and send of the request path.
 *
 * glibc's are cancellation points: two locked instructions, a good tenth of a plain request's user
 * time, and no thread of ours is ever cancelled. Its syscall(2) is free of that, but is one
 * function that both calls return through: behind a system call the processor has forgotten where a
 * return leads to and guesses the other caller (a twentieth). So where the calling convention is
 * known here, it is written out; elsewhere syscall(2) serves. Sanitizers want to see the calls.
 *
 * Both return the bytes, or -1 with errno, as recv and send do; neither waits.
 */
#ifndef GRAFT_NET_IO_H
#define GRAFT_NET_IO_H

#include "base/base.h"

#include <errno.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#define IO_RECV_FLAGS MSG_DONTWAIT
#define IO_SEND_FLAGS (MSG_NOSIGNAL | MSG_DONTWAIT)

#if defined(GRAFT_ASAN) || defined(GRAFT_TSAN) || !defined(SYS_recvfrom)

static inline ssize_t io_recv(int fd, void *to, size_t len)
{
    return recv(fd, to, len, IO_RECV_FLAGS);
}
static inline ssize_t io_send(int fd, const void *data, size_t len)
{
    return send(fd, data, len, IO_SEND_FLAGS);
}

#else

#if defined(__x86_64__) && !defined(__ILP32__)
/* recvfrom and sendto without an address. */
static inline ssize_t io_call(long number, int fd, const void *data, size_t len, long flags)
{
    register long r10 __asm__("r10") = flags;
    register long r8 __asm__("r8") = 0;
    register long r9 __asm__("r9") = 0;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(number), "D"((long)fd), "S"(data), "d"(len), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    if (UNLIKELY(result < 0)) {
        errno = (int)-result;
        return -1;
    }
    return result;
}
#else
static inline ssize_t io_call(long number, int fd, const void *data, size_t len, long flags)
{
    return syscall(number, fd, data, len, flags, NULL, 0);
}
#endif

static inline ssize_t io_recv(int fd, void *to, size_t len)
{
    return io_call(SYS_recvfrom, fd, to, len, IO_RECV_FLAGS);
}
static inline ssize_t io_send(int fd, const void *data, size_t len)
{
    return io_call(SYS_sendto, fd, data, len, IO_SEND_FLAGS);
}

#endif
#endif
