/* run/supervisor_shared.c: blocks that outlive a server process are handed on, and how many may be.
 */
#include "run/supervisor_private.h"

#include "base/clock.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static struct supervisor sv;

static struct wire_message about(const char *plugin, const char *name, uint64_t size)
{
    struct wire_message m = { .type = WIRE_SHARED };
    m.body.shared.size = size;
    m.body.shared.schema = 1;
    strcpy(m.body.shared.plugin, plugin);
    strcpy(m.body.shared.name, name);
    return m;
}

/* What it holds can be told by the first byte. */
static void keep(const char *plugin, const char *name, uint64_t size, char mark)
{
    struct wire_message m = about(plugin, name, size);
    m.fds[0] = memfd_create(name, MFD_CLOEXEC);
    must(m.fds[0] >= 0 && write(m.fds[0], &mark, 1) == 1);
    m.nfds = 1;
    supervisor_take_block(&sv.blocks, &m);
    is(m.nfds, 0); /* it is the supervisor's now, or closed */
}

static void drop(const char *plugin, const char *name, uint64_t size)
{
    struct wire_message m = about(plugin, name, size);
    supervisor_take_block(&sv.blocks, &m);
}

/* What the next server process is handed, as text: marks in their order. */
static void handed(char *marks, size_t size)
{
    int wire[2];
    struct err err;
    struct wire_message m;
    size_t n = 0;
    must(wire_open(wire, &err) == 0);
    is(supervisor_hand_blocks(&sv.blocks, wire[0], clock_ms()), 0);
    while (n + 1 < size && wire_receive(wire[1], &m, 0) == WIRE_GOT) {
        must(m.type == WIRE_SHARED && m.nfds == 1 && pread(m.fds[0], &marks[n], 1, 0) == 1);
        wire_close_fds(&m);
        n++;
    }
    marks[n] = '\0';
    close(wire[0]);
    close(wire[1]);
}

static void forget_all(void)
{
    for (size_t i = 0; i < sv.blocks.n; i++)
        close(sv.blocks.all[i].fd);
    free(sv.blocks.all);
    sv.blocks = (struct supervisor_blocks){ 0 };
}

TEST(handed_on_in_the_order_in_which_they_came)
{
    char marks[16];
    keep("a", "x", 64, '1');
    keep("b", "x", 64, '2');
    keep("a", "y", 64, '3');
    keep("a", "x", 128, '4'); /* another layout of the same name is another block */
    handed(marks, sizeof marks);
    is_str(marks, "1234");
    handed(marks, sizeof marks); /* to the next one, too */
    is_str(marks, "1234");
    drop("b", "x", 64);
    drop("b", "x", 64); /* nothing any more */
    drop("c", "x", 64);
    handed(marks, sizeof marks);
    is_str(marks, "134");
    forget_all();
}

/* The word that the old one is not needed may have been lost with a crash. */
TEST(of_two_with_one_key_the_newest_counts)
{
    char marks[16];
    keep("a", "x", 64, '1');
    keep("a", "y", 64, '2');
    keep("a", "x", 64, '3');
    handed(marks, sizeof marks);
    is_str(marks, "23");
    drop("a", "x", 64);
    handed(marks, sizeof marks);
    is_str(marks, "2");
    forget_all();
}

/* A server process that is out of its mind cannot use up the supervisor's descriptors. */
TEST(there_is_an_end_to_them)
{
    struct rlimit limit;
    must(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = limit.rlim_max;
    must(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    if (limit.rlim_cur < 5000)
        return;
    char name[32];
    for (int i = 0; i < 4096 + 100; i++) {
        snprintf(name, sizeof name, "n%d", i);
        keep("a", name, 64, '1');
    }
    is(sv.blocks.n, 4096);
    for (int i = 0; i < 1000; i++)
        keep("a", "n7", 64, '2');
    is(sv.blocks.n, 4096); /* again and again the same one is one */
    drop("a", "n7", 64);
    keep("b", "new", 64, '3');
    is(sv.blocks.n, 4096);
    forget_all();
}

/* A next process that does not read: the time is bounded, and nothing of ours is lost. */
TEST(nobody_reads)
{
    int wire[2];
    struct err err;
    keep("a", "x", 64, '1');
    must(wire_open(wire, &err) == 0);
    close(wire[1]);
    is(supervisor_hand_blocks(&sv.blocks, wire[0], clock_ms()), -1);
    is(sv.blocks.n, 1);
    close(wire[0]);
    forget_all();
}

/* One message each 20 ms, for as long as there is somebody. */
static void read_slowly(int wire)
{
    struct wire_message m;
    for (;;) {
        usleep(20000);
        if (wire_receive(wire, &m, 10000) != WIRE_GOT)
            _exit(0);
        wire_close_fds(&m);
    }
}

TEST(a_process_that_reads_slowly_is_given_up_at_one_moment_for_all_messages)
{
    int wire[2];
    struct err err;
    char name[16];
    for (int i = 0; i < 900; i++) {
        snprintf(name, sizeof name, "%d", i);
        keep("a", name, 64, 'x');
    }
    must(wire_open(wire, &err) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(wire[0]);
        read_slowly(wire[1]);
    }
    close(wire[1]);
    uint64_t began = clock_ms();
    is(supervisor_hand_blocks(&sv.blocks, wire[0], began + 300), -1);
    is(errno, EAGAIN);
    ok(clock_ms() - began < 3000); /* all of them would take ten seconds or more */
    close(wire[0]);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    forget_all();
}
