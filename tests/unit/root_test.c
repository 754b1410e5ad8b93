/* base/root.c, root_owns.c: what is done with root's rights, and for whom. Without root only that
   nothing is. */
#include "base/root.h"

#include "tap.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define ONE 4201
#define TWO 4202

static struct err error;
static char folder[] = "/tmp/graft-root-XXXXXX";

static bool is_root(void)
{
    return geteuid() == 0;
}

static const char *at(const char *name)
{
    static char path[4][PATH_MAX];
    static unsigned i;
    char *out = path[i++ % 4];
    snprintf(out, PATH_MAX, "%s/%s", folder, name);
    return out;
}

static void make(const char *name, uid_t uid, mode_t mode)
{
    int fd = open(at(name), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    must(fd >= 0 && fchown(fd, uid, (gid_t)-1) == 0 && fchmod(fd, mode) == 0 && close(fd) == 0);
}

static void make_folder(const char *name, uid_t uid, mode_t mode)
{
    must(mkdir(at(name), 0700) == 0 && chmod(at(name), mode) == 0 &&
         chown(at(name), uid, (gid_t)-1) == 0);
}

static uid_t owner(const char *name)
{
    struct stat st;
    return lstat(at(name), &st) == 0 ? st.st_uid : (uid_t)-1;
}

static void begin(void)
{
    must(mkdtemp(folder) != NULL && chmod(folder, 0755) == 0);
}

static void finish(void)
{
    char text[PATH_MAX + 16];
    snprintf(text, sizeof text, "rm -rf %s", folder);
    must(system(text) == 0);
}

static struct root_ids *ids(uid_t uid)
{
    struct root_ids *i = root_ids_find("root", uid, (gid_t)uid, &error);
    must(i != NULL);
    i->ngroups = 0;
    return i;
}

static int owns(const char *name)
{
    error.text[0] = '\0';
    return root_owns(at(name), &error);
}

TEST(whose_a_path_is)
{
    if (!is_root())
        return;
    begin();
    make("good", 0, 0644);
    make("group", 0, 0664);
    make("ones", ONE, 0644);
    make_folder("open", 0, 0777);
    make_folder("theirs", ONE, 0755);
    make_folder("sticky", 0, 01777);
    make("open/file", 0, 0644);
    make("theirs/file", 0, 0644);
    make("sticky/file", 0, 0644);
    make_folder("sticky/ones", ONE, 0755);
    make("sticky/ones/file", 0, 0644);
    must(symlink("good", at("link")) == 0 && symlink("theirs/file", at("astray")) == 0);
    must(symlink(at("good"), at("theirs/back")) == 0 && symlink("loop", at("loop")) == 0);
    must(symlink("../good", at("sticky/up")) == 0);
    is(owns("good"), 0);
    is(owns("link"), 0);
    is(owns("sticky/file"), 0);
    is(owns("sticky/up"), 0);
    is(owns("theirs/../good"), -1);
    is(owns("group"), -1);
    is(owns("ones"), -1);
    is(owns("open/file"), -1);
    is(owns("theirs/file"), -1);
    is(owns("astray"), -1);
    is(owns("theirs/back"), -1);
    is(owns("sticky/ones/file"), -1);
    is(owns("loop"), -1);
    is(owns("sticky"), -1);
    is(owns("nothing"), -1);
    must(chdir(folder) == 0);
    is(root_owns("good", &error), 0);
    is(root_owns("./sticky/../good", &error), 0);
    is(root_owns("theirs/file", &error), -1);
    must(chdir("/") == 0);
    finish();
}

static void give(struct root_gift *g, const char *name, enum root_depth depth,
                 const struct root_ids *to)
{
    int fd = open(at(name), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    must(fd >= 0);
    is(root_give_folder(g, fd, depth, to, &error), 0);
    close(fd);
}

static void make_tree(void)
{
    begin();
    make_folder("top", ONE, 0700);
    make_folder("top/below", ONE, 0775);
    make("top/file", ONE, 0600);
    make("top/below/file", ONE, 0400);
    make("top/roots", 0, 0600);
    make("top/twos", TWO, 0600);
    make("twice", ONE, 0600);
    make("secret", 0, 0600);
    must(link(at("twice"), at("top/twice")) == 0 && link(at("secret"), at("top/hard")) == 0 &&
         symlink("../secret", at("top/soft")) == 0 && symlink("..", at("top/out")) == 0);
}

static mode_t mode(const char *name)
{
    struct stat st;
    return lstat(at(name), &st) == 0 ? st.st_mode & 07777 : 0;
}

static void look(uid_t uid)
{
    is(mode("top/below"), 0700);
    is(owner("top"), uid);
    is(owner("top/below"), uid);
    is(owner("top/file"), uid);
    is(owner("top/below/file"), uid);
    is(owner("top/roots"), 0);
    is(owner("top/twice"), ONE);
    is(owner("top/hard"), 0);
    is(owner("top/soft"), 0);
    is(owner("secret"), 0);
}

TEST(what_is_given_and_taken_back)
{
    if (!is_root())
        return;
    make_tree();
    struct root_ids *two = ids(TWO);
    struct root_gift g = { .from = ONE };
    give(&g, "top", ROOT_CLEARED, two);
    look(TWO);
    make_folder("top/new", TWO, 0700);
    make("top/new/file", TWO, 0600);
    make("top/below/new", TWO, 0600);
    root_take_back(&g);
    look(ONE);
    is(owner("top/new"), (uid_t)-1);
    is(owner("top/below/new"), (uid_t)-1);
    is(owner("top/twos"),
       (uid_t)-1); /* nobody's whom the first one could not have removed it from */
    give(&g, "top", ROOT_ALL, two);
    make("top/new", TWO, 0600);
    root_take_back(&g);
    look(ONE);
    is(owner("top/new"), TWO);
    give(&g, "top", ROOT_ALONE, two);
    is(owner("top"), TWO);
    is(owner("top/file"), ONE);
    root_take_back(&g);
    is(owner("top"), ONE);
    g.from = TWO; /* it is not two's */
    give(&g, "top", ROOT_ALL, two);
    is(owner("top"), ONE);
    root_forget_gift(&g);
    free(two);
    finish();
}

static int bind_low(int family_port)
{
    struct sockaddr_in sa = { .sin_family = AF_INET, .sin_port = htons((uint16_t)family_port) };
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(fd >= 0);
    int rc = root_bind(fd, (struct sockaddr *)&sa, sizeof sa), why = errno;
    close(fd);
    errno = why;
    return rc;
}

static bool becomes_root(void)
{
    return setuid(0) == 0 || seteuid(0) == 0 || setresuid(0, 0, 0) == 0;
}

/* In a child, so that what it gives up is its own. */
static void child(void (*fn)(void))
{
    pid_t pid = fork();
    int status = -1;
    if (pid == 0) {
        fn();
        _exit(0);
    }
    must(pid > 0 && waitpid(pid, &status, 0) == pid);
    is(status, 0);
}

static void give_up(void)
{
    _exit(root_give_up(NULL, &error) == 0 && !root_is_kept() && !becomes_root() &&
                  bind_low(997) != 0 && getuid() == ONE
              ? 0
              : 1);
}

static void become_two(void)
{
    gid_t groups[4];
    struct root_ids *two = ids(TWO);
    _exit(root_give_up(two, &error) == 0 && !becomes_root() && getuid() == TWO && getgid() == TWO &&
                  getgroups(4, groups) == 0
              ? 0
              : 1);
}

static void exec_like(void)
{
    uid_t r, e, s;
    root_before_exec();
    bool all = getresuid(&r, &e, &s) == 0 && r == 0 && e == 0 && s == 0;
    root_after_exec();
    bool back = getresuid(&r, &e, &s) == 0 && r == ONE && e == ONE && s == 0;
    _exit(all && back ? 0 : 1);
}

static void give_top(void)
{
    struct stat st;
    struct root_gift g = { .from = ONE };
    struct root_ids *one = ids(ONE), *two = ids(TWO);
    int fd = open(at("top"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool done = root_keep(one, &error) == 0 &&
                root_give_folder(&g, fd, ROOT_CLEARED, two, &error) == 0 && geteuid() == ONE &&
                stat(at("top/file"), &st) != 0 && errno == EACCES; /* the other one's alone */
    root_forget_gift(&g);
    _exit(done ? 0 : 1);
}

TEST(given_by_one_that_works_as_its_owner)
{
    if (!is_root())
        return;
    make_tree();
    child(give_top);
    look(TWO);
    finish();
}

/* For a checker of leaks, which looks into the process at its end. */
static void be_open(void)
{
    prctl(PR_SET_DUMPABLE, 1);
}

TEST(rights_that_are_kept_are_in_effect_for_one_thing)
{
    uid_t r, e, s;
    if (!is_root() || !root_can_be_kept())
        return;
    struct root_ids *one = ids(ONE);
    pid_t roots = fork();
    if (roots == 0) {
        pause();
        _exit(0);
    }
    is(root_keep(one, &error), 0);
    must(getresuid(&r, &e, &s) == 0);
    ok(r == ONE && e == ONE && s == 0 && getegid() == ONE && root_is_kept());
    ok(open("/etc/shadow", O_RDONLY | O_CLOEXEC) < 0);
    is(prctl(PR_GET_DUMPABLE) == 1, 0);
    if (bind_low(997) != 0) { /* not every machine has such ports */
        is(errno, EACCES);
        root_lends_ports(true);
        ok(bind_low(997) == 0 || errno == EADDRINUSE);
        root_lends_ports(false);
        is(bind_low(997), -1);
        child(give_up);
    }
    child(become_two);
    child(exec_like);
    is(kill(roots, SIGKILL), -1);
    is(root_kill(roots, SIGKILL), 0);
    waitpid(roots, NULL, 0);
    must(getresuid(&r, &e, &s) == 0);
    ok(r == ONE && e == ONE && s == 0);
    is(root_give_up(NULL, &error), 0);
    be_open();
    free(one);
}

TEST(without_root_nothing_is_kept)
{
    struct root_ids *one = ids(ONE);
    if (is_root())
        must(setresgid(TWO, TWO, TWO) == 0 && setresuid(TWO, TWO, TWO) == 0);
    is(root_keep(one, &error), -1);
    ok(!root_is_kept());
    is(root_give_up(NULL, &error), 0);
    is(root_kill(1, 0), -1);
    be_open();
    free(one);
}
