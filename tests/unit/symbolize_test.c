/* run/symbolize.c: names for addresses of this very program; maps and stacks that are nonsense. */
#include "run/symbolize.h"

#include "tap.h"

#include <fcntl.h>

static struct crash_frame at;
static unsigned char stack[CRASH_STACK_MAX];
static char maps[CRASH_MAPS_MAX];
static struct symbolized out;

__attribute__((noinline)) int symbolize_test_landmark(int n)
{
    return n * 3 + (int)at.stack_len;
}

static void read_own_maps(void)
{
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    size_t len = 0;
    for (ssize_t n; (n = read(fd, maps + len, sizeof maps - len)) > 0;)
        len += (size_t)n;
    close(fd);
    at.maps_len = (uint32_t)len;
}

/* The folder of this program takes the place of the stage folder. */
static char *own_folder(void)
{
    static char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    must(n > 0);
    path[n] = '\0';
    *strrchr(path, '/') = '\0';
    return path;
}

TEST(a_function_of_a_staged_file_is_named_with_its_offset)
{
    read_own_maps();
    at.pc = (uint64_t)(uintptr_t)symbolize_test_landmark + 2;
    symbolize(&at, stack, maps, own_folder(), &out);
    is_str(out.function, "symbolize_test_landmark+0x2");
    ok(strstr(out.staged, "symbolize_test") != NULL);
    is(out.n, 1);
    symbolize(&at, stack, maps, "/nowhere", &out);
    is_str(out.function, ""); /* not a staged file: only in the list */
    is(out.n, 1);
}

/* A word counts only when it stands behind a call. */
TEST(callers_are_found_on_the_stack)
{
    uintptr_t here = (uintptr_t)__builtin_return_address(0);
    uintptr_t not_behind_a_call = (uintptr_t)symbolize_test_landmark;
    read_own_maps();
    memcpy(stack, &not_behind_a_call, sizeof here);
    memcpy(stack + 64, &here, sizeof here);
    at.stack_len = 256;
    symbolize(&at, stack, maps, own_folder(), &out);
#if defined(__x86_64__) || defined(__aarch64__)
    is(out.n, 1);
    ok(strstr(out.function, "+0x") != NULL);
    ok(strstr(out.function, "landmark") == NULL);
#else
    is(out.n, 0);
#endif
}

TEST(nothing_is_known_nothing_is_told)
{
    symbolize(&at, stack, maps, "/stage", &out);
    is(out.n, 0);
    is_str(out.function, "");
}

TEST(any_maps_and_stacks_are_survived)
{
    static const char *const lines[] = {
        "00-ff r-xp 00 00:00 0 /dev/zero\n",
        "0-ffffffffffffffff r-xp 0 0:0 0 /etc/passwd\n",
        "10-5 r-xp 0 0:0 0 /x\n",
        "a-b\n",
        "\n",
        "00-ffff r-xp ffffffffffffffff 0:0 0 /proc/self/exe\n",
        "1000-f000 r-xp 0 0:0 0 /\n",
        "1000-f000 r-xp 0 0:0 0  \n",
        "no end",
    };
    unsigned seed = 7;
    for (int round = 0; round < 300; round++) {
        size_t len = 0;
        for (int i = 0; i < 20; i++) {
            const char *line = lines[(unsigned)rand_r(&seed) % ARRAY_LEN(lines)];
            memcpy(maps + len, line, strlen(line));
            len += strlen(line);
        }
        for (int i = 0; i < 10; i++)
            if (round % 2 == 0)
                maps[(size_t)rand_r(&seed) % len] = (char)rand_r(&seed);
        at.maps_len = round % 7 == 0 ? UINT32_MAX : (uint32_t)len;
        at.stack_len = round % 5 == 0 ? UINT32_MAX : 512;
        for (size_t i = 0; i < 512; i++)
            stack[i] = (unsigned char)(rand_r(&seed) % 3 == 0 ? rand_r(&seed) : 0);
        at.pc = (uint64_t)rand_r(&seed) % 0x10000;
        symbolize(&at, stack, maps, "/etc", &out);
    }
    ok(true);
}
