/* base/memfd.c: text goes through a descriptor, and only sealed memory is believed. */
#include "base/memfd.h"

#include "tap.h"

#include <sys/mman.h>

TEST(text_comes_out_as_it_went_in)
{
    struct buf out = { 0 };
    struct err err;
    int fd = memfd_of_text("test", "one two", 7, &err);
    must(fd >= 0);
    is(memfd_read(fd, 100, &out, &err), 0);
    is_str(out.data, "one two");
    is(memfd_read(fd, 7, &out, &err), 0); /* from its begin, behind what is there */
    is_str(out.data, "one twoone two");
    is(memfd_read(fd, 6, &out, &err), -1);
    is(write(fd, "x", 1), -1);
    is(ftruncate(fd, 3), -1);
    close(fd);
    buf_fini(&out);
    fd = memfd_of_text("test", NULL, 0, &err);
    must(fd >= 0);
    is(memfd_read(fd, 100, &out, &err), 0);
    is(out.len, 0);
    close(fd);
    buf_fini(&out);
}

TEST(what_can_change_under_its_reader_is_refused)
{
    struct buf out = { 0 };
    struct err err;
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING), ends[2];
    must(fd >= 0 && pipe(ends) == 0);
    is(write(fd, "text", 4), 4);
    is(memfd_read(fd, 100, &out, &err), -1);
    is(memfd_read(ends[0], 100, &out, &err), -1);
    is(out.len, 0);
    close(fd);
    close(ends[0]);
    close(ends[1]);
}

TEST(shared_memory_keeps_its_size)
{
    struct err err;
    int fd = memfd_shared("test", 8192, &err);
    must(fd >= 0);
    char *at = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    must(at != MAP_FAILED);
    at[8191] = 'x';
    is(ftruncate(fd, 4096), -1);
    is(ftruncate(fd, 16384), -1);
    munmap(at, 8192);
    close(fd);
}
