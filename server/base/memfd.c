/* See memfd.h. */
#include "base/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SIZE_SEALS (F_SEAL_SHRINK | F_SEAL_GROW)
#define TEXT_SEALS (SIZE_SEALS | F_SEAL_WRITE | F_SEAL_SEAL)

static int write_all(int fd, const char *text, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t n = pwrite(fd, text + at, len - at, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        at += (size_t)n;
    }
    return 0;
}

static int failed(int fd, const char *name, struct err *err)
{
    err_set(err, "cannot make memory to share (%s): %s", name, strerror(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}

int memfd_of_text(const char *name, const char *text, size_t len, struct err *err)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || write_all(fd, text, len) != 0 || fcntl(fd, F_ADD_SEALS, TEXT_SEALS) != 0)
        return failed(fd, name, err);
    return fd;
}

int memfd_shared(const char *name, size_t size, struct err *err)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, (off_t)size) != 0 ||
        fcntl(fd, F_ADD_SEALS, SIZE_SEALS | F_SEAL_SEAL) != 0)
        return failed(fd, name, err);
    return fd;
}

int memfd_read(int fd, size_t max, struct buf *out, struct err *err)
{
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & TEXT_SEALS) != TEXT_SEALS || fstat(fd, &st) != 0)
        return err_set(err, "expected sealed memory, found another descriptor");
    if (st.st_size < 0 || (uint64_t)st.st_size > max)
        return err_set(err, "expected at most %zu bytes, found %lld", max, (long long)st.st_size);
    size_t size = (size_t)st.st_size, at = 0;
    if (buf_reserve(out, size + 1) != 0)
        return err_set(err, "out of memory");
    while (at < size) {
        ssize_t n = pread(fd, out->data + out->len, size - at, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return err_set(err, "shared text cannot be read: %s", strerror(errno));
        at += (size_t)n;
        out->len += (size_t)n;
    }
    out->data[out->len] = '\0';
    return 0;
}
