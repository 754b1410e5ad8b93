/* plugin/stage.c and plugin/stage_copy.c: the stage folder, and copies in it. */
#include "plugin/stage.h"
#include "so.h"

#include <sched.h>
#include <stdarg.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/syscall.h>

static struct err err;

/* ---- Failing the n-th call: these stand before libc's ---------------------------------------- */

static long fail_at; /* 0 = never; else counts down at each call below */
static int fail_with;

static bool failing(void)
{
    return fail_at > 0 && --fail_at == 0;
}

/* What happens to the source while it is copied. */
static const char *finish_path; /* finished when it is opened for the second time */
static unsigned opens;
static int touch_fd = -1; /* written to at each write of the copy */

static const unsigned char *tiny_elf(void);

int openat(int dir, const char *path, int flags, ...)
{
    if (finish_path != NULL && strcmp(path, finish_path) == 0 && ++opens == 2)
        so_write(path, tiny_elf(), 256);
    va_list ap;
    va_start(ap, flags);
    mode_t mode = (flags & O_CREAT) != 0 ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    if (failing()) {
        errno = fail_with;
        return -1;
    }
    return (int)syscall(SYS_openat, dir, path, flags, mode);
}

ssize_t write(int fd, const void *data, size_t len)
{
    static struct timespec times[2] = { { .tv_sec = 1000 }, { .tv_sec = 1000 } };
    if (touch_fd >= 0 && pwrite(touch_fd, "x", 1, 4000) == 1) {
        times[1].tv_sec++; /* the clock of files might not tick so soon */
        futimens(touch_fd, times);
    }
    if (failing()) {
        errno = fail_with;
        return -1;
    }
    return syscall(SYS_write, fd, data, len > 7 && fail_at > 0 ? len / 2 : len); /* and short */
}

int mkdirat(int dir, const char *path, mode_t mode)
{
    if (failing()) {
        errno = fail_with;
        return -1;
    }
    return (int)syscall(SYS_mkdirat, dir, path, mode);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
    if (failing()) {
        errno = fail_with;
        return -1;
    }
    return (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, 0);
}

/* ---- Helpers --------------------------------------------------------------------------------- */

static bool says(const char *text, const char *part)
{
    bool found = strstr(text, part) != NULL;
    if (!found)
        fprintf(stderr, "# \"%s\" does not say \"%s\"\n", text, part);
    return found;
}

static struct stage *opened(const char *configured)
{
    struct stage *stage = NULL;
    if (stage_open(&stage, configured, &err) != 0)
        fprintf(stderr, "# %s\n", err.text);
    must(stage != NULL);
    return stage;
}

static bool exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

static unsigned files_below;

static int count_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)path, (void)st, (void)kind;
    files_below += at->level > 0;
    return 0;
}

/* Files and folders below `path`. */
static unsigned count_below(const char *path)
{
    files_below = 0;
    nftw(path, count_one, 8, FTW_PHYS);
    return files_below;
}

/* An ELF header without anything else is a whole file. */
static const unsigned char *tiny_elf(void)
{
    static unsigned char data[256] = { 0x7f, 'E', 'L', 'F', 2, 1, 1 };
    return data;
}

static const char *plugin_file(const char *name)
{
    const char *path = so_path(name);
    so_write(path, tiny_elf(), 256);
    return path;
}

static mode_t mode_of(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? st.st_mode & 07777 : 0;
}

/* ---- The folder ------------------------------------------------------------------------------ */

TEST(makes_a_private_folder_and_removes_it)
{
    const char *root = so_path("a/b/stage");
    struct stage *stage = opened(root);
    is(mode_of(root), 0700);
    is(mode_of(stage_path(stage)), 0700);
    char start[512];
    snprintf(start, sizeof start, "%s/%d-", root, (int)getpid());
    ok(strncmp(stage_path(stage), start, strlen(start)) == 0);
    ok(strspn(stage_path(stage) + strlen(start), "0123456789") ==
       strlen(stage_path(stage) + strlen(start)));
    char *path = strdup(stage_path(stage));
    stage_close(stage);
    ok(!exists(path));
    is(count_below(root), 0);
    free(path);
    stage_close(NULL);
}

TEST(the_lock_is_held_and_can_be_inherited)
{
    struct stage *stage = opened(so_path("stage"));
    int fd = stage_lock_fd(stage);
    is(fcntl(fd, F_GETFD), FD_CLOEXEC);
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/.lock", stage_path(stage));
    int other = open(path, O_RDWR | O_CLOEXEC);
    must(other >= 0);
    is(flock(other, LOCK_EX | LOCK_NB), -1);
    is(errno, EWOULDBLOCK);
    close(other);
    stage_close(stage);
}

/* Leaves a folder behind as a process does that is killed; returns its path. */
static const char *left_behind(const char *root)
{
    static char path[PATH_MAX];
    int fds[2], status;
    must(pipe(fds) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct stage *stage = opened(root);
        struct staged staged;
        must(stage_copy(stage, AT_FDCWD, plugin_file("left.so"), &staged, &err) == STAGE_OK);
        must(write(fds[1], stage_path(stage), strlen(stage_path(stage)) + 1) > 0);
        raise(SIGKILL);
    }
    close(fds[1]);
    ssize_t n = read(fds[0], path, sizeof path);
    close(fds[0]);
    waitpid(pid, &status, 0);
    must(n > 0 && exists(path));
    return path;
}

TEST(a_start_removes_what_the_dead_left_and_nothing_else)
{
    so_folder();
    char root[256];
    snprintf(root, sizeof root, "%s", so_path("stage"));
    struct stage *first = opened(root);
    const char *dead = left_behind(root);
    char other[512], link[512], target[512];
    snprintf(other, sizeof other, "%s/12-x", root); /* not a name of ours */
    snprintf(link, sizeof link, "%s/12-34", root);
    snprintf(target, sizeof target, "%s", so_path("target"));
    must(mkdir(other, 0700) == 0 && mkdir(target, 0700) == 0 && symlink(target, link) == 0);
    so_write(so_path("target/precious"), "x", 1);

    struct stage *second = opened(root);
    ok(!exists(dead));
    ok(exists(stage_path(first)));
    ok(exists(stage_path(second)));
    ok(strcmp(stage_path(first), stage_path(second)) != 0);
    ok(exists(other));
    ok(exists(so_path("target/precious")));
    stage_close(second);
    stage_close(first);
    is(count_below(root), 2);
}

TEST(refuses_what_is_not_a_private_folder_of_ours)
{
    struct stage *stage;
    const char *dir = so_path("open");
    must(mkdir(dir, 0755) == 0);
    so_write(so_path("open/mine"), "x", 1);
    is(stage_open(&stage, dir, &err), -1);
    ok(stage == NULL);
    ok(says(err.text, dir));
    ok(says(err.text, "mode is 0755, must be 0700"));
    is(mode_of(dir), 0755);

    const char *link = so_path("link");
    must(mkdir(so_path("real"), 0700) == 0 && symlink(so_path("real"), link) == 0);
    is(stage_open(&stage, link, &err), -1);
    ok(says(err.text, "a symbolic link"));

    so_write(so_path("file"), "x", 1);
    is(stage_open(&stage, so_path("file"), &err), -1);
    ok(says(err.text, "Not a directory"));
    is(stage_open(&stage, "/proc/nothing/here", &err), -1);
    ok(says(err.text, "/proc/nothing/here: cannot make it"));
    ok(says(err.text, "set stage_dir to"));
    if (geteuid() == 0) {
        const char *foreign = so_path("foreign");
        must(mkdir(foreign, 0700) == 0 && chown(foreign, 4711, 4711) == 0);
        is(stage_open(&stage, foreign, &err), -1);
        ok(says(err.text, "owned by uid 4711, not by 0"));
    }
}

TEST(an_empty_folder_of_ours_is_made_private)
{
    const char *dir = so_path("cache");
    must(mkdir(dir, 0755) == 0); /* as systemd's CacheDirectory= does */
    stage_close(opened(dir));
    is(mode_of(dir), 0700);
}

TEST(the_default_list_is_tried_in_order)
{
    char cache[512], both[1024], xdg[512];
    snprintf(cache, sizeof cache, "%s", so_path("cache"));
    snprintf(both, sizeof both, "%s:/elsewhere", cache);
    snprintf(xdg, sizeof xdg, "%s", so_path("xdg"));
    setenv("CACHE_DIRECTORY", both, 1);
    setenv("XDG_CACHE_HOME", xdg, 1);
    struct stage *stage = opened("");
    ok(strncmp(stage_path(stage), cache, strlen(cache)) == 0);
    stage_close(stage);
    setenv("CACHE_DIRECTORY", "relative", 1); /* as if not set */
    if (geteuid() != 0 && access("/var/cache/graft", W_OK) != 0) {
        stage = opened(NULL);
        ok(strncmp(stage_path(stage), xdg, strlen(xdg)) == 0);
        ok(says(stage_path(stage), "/xdg/graft/"));
        stage_close(stage);
    }
}

/* A namespace in which we may mount; false where that is forbidden. */
static bool own_mounts(void)
{
    if (geteuid() == 0)
        return unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
    return false;
}

TEST(names_every_candidate_and_what_is_wrong_with_it)
{
    if (!own_mounts())
        return; /* needs root */
    const char *dir = so_path("mnt");
    must(mkdir(dir, 0700) == 0);
    if (mount("none", dir, "tmpfs", MS_NOEXEC, "mode=0700") != 0)
        return;
    struct stage *stage;
    is(stage_open(&stage, dir, &err), -1);
    ok(says(err.text, "/mnt: on a mount with noexec"));
    is(count_below(dir), 0);

    /* Every default place on such a mount. */
    must(mount("none", "/var/cache", "tmpfs", MS_NOEXEC, "mode=0755") == 0);
    must(mkdir("/var/cache/graft", 0700) == 0);
    char tmp[512];
    snprintf(tmp, sizeof tmp, "%s/tmp", dir);
    must(mkdir(tmp, 01777) == 0);
    setenv("CACHE_DIRECTORY", dir, 1);
    setenv("XDG_CACHE_HOME", dir, 1);
    setenv("TMPDIR", tmp, 1);
    must(mount("none", "/tmp", "tmpfs", MS_NOEXEC, "mode=1777") == 0);
    is(stage_open(&stage, NULL, &err), -1);
    ok(says(err.text, "/mnt: on a mount with noexec; "));
    ok(says(err.text, "/var/cache/graft: on a mount with noexec"));
    ok(says(err.text, "/tmp/graft-0: on a mount with noexec"));
    umount2("/tmp", MNT_DETACH);
    umount2("/var/cache", MNT_DETACH);
    umount2(dir, MNT_DETACH);
}

TEST(a_full_disk_is_said_and_nothing_stays)
{
    if (!own_mounts())
        return; /* needs root */
    const char *dir = so_path("mnt");
    must(mkdir(dir, 0700) == 0);
    if (mount("none", dir, "tmpfs", 0, "mode=0700,size=64k") != 0)
        return;
    struct stage *stage = opened(dir);
    struct staged staged;
    static char big[1 << 20];
    memcpy(big, tiny_elf(), 64);
    so_write(so_path("big.so"), big, sizeof big);
    is(stage_copy(stage, AT_FDCWD, so_path("big.so"), &staged, &err), STAGE_FAILED);
    ok(says(err.text, "cannot write its copy: No space left on device: make room there or set "
                      "stage_dir"));
    is(count_below(stage_path(stage)), 1);
    is(stage_copy(stage, AT_FDCWD, plugin_file("small.so"), &staged, &err), STAGE_OK);
    stage_close(stage);
    is(count_below(dir), 0);
    umount2(dir, MNT_DETACH);
}

TEST(many_at_once_take_nothing_from_each_other)
{
    so_folder();
    char root[256];
    snprintf(root, sizeof root, "%s", so_path("stage"));
    pid_t pids[12];
    for (size_t i = 0; i < 12; i++) {
        pids[i] = fork();
        if (pids[i] == 0) {
            for (int turn = 0; turn < 10; turn++) {
                struct stage *stage = NULL;
                if (stage_open(&stage, root, &err) != 0 || !exists(stage_path(stage))) {
                    fprintf(stderr, "# %s\n", err.text);
                    _exit(1);
                }
                sched_yield();
                if (!exists(stage_path(stage)))
                    _exit(2);
                if (turn % 3 == 2)
                    _exit(0); /* as if killed */
                stage_close(stage);
            }
            _exit(0);
        }
    }
    for (size_t i = 0; i < 12; i++) {
        int status = -1;
        waitpid(pids[i], &status, 0);
        is(status, 0);
    }
    stage_close(opened(root));
    is(count_below(root), 0);
}

TEST(prepare_gives_an_empty_folder_away)
{
    if (geteuid() != 0)
        return;
    struct stat st;
    const char *dir = so_path("for/user");
    is(stage_prepare(dir, 4711, 4712, &err), 0);
    must(stat(dir, &st) == 0);
    is(st.st_uid, 4711);
    is(st.st_gid, 4712);
    is(st.st_mode & 07777, 0700);
    is(mode_of(so_path("for")), 0755);
    is(stage_prepare(dir, 4711, 4712, &err), 0);
    is(stage_prepare(so_folder(), 4711, 4712, &err), 0); /* not empty: stays ours */
    must(stat(so_folder(), &st) == 0);
    is(st.st_uid, 0);
}

/* ---- Copies ---------------------------------------------------------------------------------- */

TEST(copies_and_hashes)
{
    struct stage *stage = opened(so_path("stage"));
    struct staged a, b;
    unsigned char data[64] = { 0x7f, 'E', 'L', 'F', 2, 1, 1 };
    so_write(so_path("hello.so"), data, sizeof data);
    is(stage_copy(stage, AT_FDCWD, so_path("hello.so"), &a, &err), STAGE_OK);
    is_str(a.sha256, "243d107b590f25beffb6503da722c387673cac5987beebbcd0e7382824e3b918");
    is_str(a.sha12, "243d107b590f");
    is(a.size, 64);
    is(a.seq, 1);
    is_str(a.id, "243d107b590f.1");
    ok(says(a.path, "/hello/243d107b590f.1.so"));
    ok(strncmp(a.path, stage_path(stage), strlen(stage_path(stage))) == 0);
    is(mode_of(a.path), 0500);
    struct stat st;
    must(stat(so_path("hello.so"), &st) == 0);
    is(a.source.ino, st.st_ino);
    is(a.source.size, 64);

    is(stage_copy(stage, AT_FDCWD, so_path("hello.so"), &b, &err), STAGE_OK);
    is(b.seq, 2);
    ok(strcmp(a.path, b.path) != 0);
    char hash[65];
    struct stage_source source;
    is(stage_hash(AT_FDCWD, so_path("hello.so"), hash, &source, &err), STAGE_OK);
    is_str(hash, a.sha256);
    is(source.ino, st.st_ino);

    stage_remove(stage, &a);
    ok(!exists(a.path));
    ok(exists(b.path));
    stage_remove(stage, &a);
    stage_remove(stage, &b);
    is(count_below(stage_path(stage)), 1); /* the lock: the folder hello is gone too */
    stage_close(stage);
}

TEST(relative_to_a_folder_and_through_links)
{
    struct stage *stage = opened(so_path("stage"));
    struct staged s;
    plugin_file("real.bin");
    must(symlink("real.bin", so_path("linked.so")) == 0);
    int dir = open(so_folder(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    is(stage_copy(stage, dir, "linked.so", &s, &err), STAGE_OK);
    ok(says(s.path, "/linked/"));
    must(symlink("nowhere", so_path("dangling.so")) == 0);
    is(stage_copy(stage, dir, "dangling.so", &s, &err), STAGE_FAILED);
    is_str(err.text, "cannot open it: No such file or directory: is its path right?");
    close(dir);
    stage_close(stage);
}

TEST(names_that_could_collide_do_not)
{
    struct stage *stage = opened(so_path("stage"));
    struct staged s;
    is(stage_copy(stage, AT_FDCWD, plugin_file("lock.so"), &s, &err), STAGE_OK);
    is(stage_copy(stage, AT_FDCWD, plugin_file("noext"), &s, &err), STAGE_OK);
    ok(says(s.path, "/noext/"));
    is(stage_copy(stage, AT_FDCWD, plugin_file("..so"), &s, &err), STAGE_FAILED);
    is(stage_copy(stage, AT_FDCWD, plugin_file(".lock.so"), &s, &err), STAGE_FAILED);
    ok(says(err.text, "no name that can be used"));
    is(stage_copy(stage, AT_FDCWD, so_folder(), &s, &err), STAGE_FAILED);
    ok(says(err.text, "is a folder, expected a regular file"));
    char longest[256], path[600];
    memset(longest, 'x', 252);
    memcpy(longest + 252, ".so", 4);
    snprintf(path, sizeof path, "%s/%s", so_folder(), longest);
    so_write(path, tiny_elf(), 256);
    is(stage_copy(stage, AT_FDCWD, path, &s, &err), STAGE_OK);
    ok(exists(s.path));
    stage_remove(stage, &s);
    ok(!exists(s.path));
    stage_close(stage);
}

TEST(judges_owner_and_mode)
{
    struct stage *stage = opened(so_path("stage"));
    struct staged s;
    char hash[65];
    const char *path = plugin_file("p.so");
    chmod(path, 0775);
    is(stage_copy(stage, AT_FDCWD, path, &s, &err), STAGE_FAILED);
    is_str(err.text,
           "writable by its group (mode 0775), expected by its owner alone: chmod go-w p.so");
    chmod(path, 0666);
    is(stage_hash(AT_FDCWD, path, hash, NULL, &err), STAGE_FAILED);
    ok(says(err.text, "writable by others (mode 0666)"));
    chmod(path, 0644);
    if (geteuid() == 0) {
        must(chown(path, 4711, 0) == 0);
        is(stage_copy(stage, AT_FDCWD, path, &s, &err), STAGE_FAILED);
        is_str(err.text, "owned by uid 4711, expected root or uid 0 (graftd's): chown root p.so");
    }
    mkfifo(so_path("fifo.so"), 0600);
    is(stage_copy(stage, AT_FDCWD, so_path("fifo.so"), &s, &err), STAGE_FAILED);
    ok(says(err.text, "is a FIFO"));
    is(count_below(stage_path(stage)), 1);
    stage_close(stage);
}

TEST(incomplete_files_are_tried_again_and_then_named)
{
    struct stage *stage = opened(so_path("stage"));
    struct staged s;
    size_t len;
    so_write(so_path("empty.so"), "", 0);
    is(stage_copy(stage, AT_FDCWD, so_path("empty.so"), &s, &err), STAGE_INCOMPLETE);
    ok(strncmp(err.text, "incomplete: empty file", 22) == 0);
    ok(s.path[0] == '\0');

    unsigned char *data = so_read(so_build("whole.so", SO_PLUGIN("whole"), ""), &len);
    so_write(so_path("cut.so"), data, len - 1);
    is(stage_copy(stage, AT_FDCWD, so_path("cut.so"), &s, &err), STAGE_INCOMPLETE);
    ok(strncmp(err.text, "incomplete: its section headers would reach byte ", 49) == 0);
    is(strlen(s.sha256), 64);
    so_write(so_path("cut.so"), data, 4096);
    is(stage_copy(stage, AT_FDCWD, so_path("cut.so"), &s, &err), STAGE_INCOMPLETE);
    so_write(so_path("cut.so"), data, 3);
    is(stage_copy(stage, AT_FDCWD, so_path("cut.so"), &s, &err), STAGE_INCOMPLETE);
    ok(says(err.text, "incomplete: its ELF header would reach byte 64, the file has 3"));
    memset(data, 0, 64); /* as a linker leaves it until the end */
    so_write(so_path("cut.so"), data, len);
    is(stage_copy(stage, AT_FDCWD, so_path("cut.so"), &s, &err), STAGE_INCOMPLETE);
    ok(says(err.text, "begins with zero bytes"));
    so_write(so_path("cut.so"), "#!/bin/sh\n", 10);
    is(stage_copy(stage, AT_FDCWD, so_path("cut.so"), &s, &err), STAGE_OK); /* preflight's */
    stage_remove(stage, &s);
    is(count_below(stage_path(stage)), 1);
    free(data);
    stage_close(stage);
}

TEST(a_file_that_is_finished_meanwhile_is_taken)
{
    struct stage *stage = opened(so_path("stage"));
    struct staged s;
    finish_path = so_path("slow.so");
    so_write(finish_path, tiny_elf(), 30);
    is(stage_copy(stage, AT_FDCWD, finish_path, &s, &err), STAGE_OK);
    is(s.size, 256);
    is(opens, 2);
    stage_close(stage);
}

TEST(a_file_that_is_written_all_the_time_is_incomplete)
{
    struct stage *stage = opened(so_path("stage"));
    struct staged s;
    static unsigned char data[300000];
    memcpy(data, tiny_elf(), 256);
    so_write(so_path("busy.so"), data, sizeof data);
    touch_fd = open(so_path("busy.so"), O_RDWR | O_CLOEXEC);
    must(touch_fd >= 0);
    is(stage_copy(stage, AT_FDCWD, so_path("busy.so"), &s, &err), STAGE_INCOMPLETE);
    ok(says(err.text, "incomplete: it is still being written"));
    close(touch_fd);
    touch_fd = -1;
    is(count_below(stage_path(stage)), 1);
    stage_close(stage);
}

TEST(a_short_write_limit_leaves_nothing)
{
    struct stage *stage = opened(so_path("stage"));
    struct staged s;
    static unsigned char data[300000];
    memcpy(data, tiny_elf(), 256);
    so_write(so_path("big.so"), data, sizeof data);
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit = { 100000, RLIM_INFINITY };
    setrlimit(RLIMIT_FSIZE, &limit);
    is(stage_copy(stage, AT_FDCWD, so_path("big.so"), &s, &err), STAGE_FAILED);
    ok(says(err.text, "cannot write its copy: File too large"));
    is(count_below(stage_path(stage)), 1);
    stage_close(stage);
}

TEST(whichever_call_fails_nothing_stays)
{
    struct stage *stage = opened(so_path("stage"));
    struct staged s;
    const char *path = plugin_file("p.so");
    static const int errors[] = { ENOSPC, EMFILE, EIO };
    for (size_t e = 0; e < 3; e++) {
        long n = 0;
        for (bool done = false; !done;) {
            fail_at = ++n;
            fail_with = errors[e];
            err.text[0] = '\0';
            enum stage_result r = stage_copy(stage, AT_FDCWD, path, &s, &err);
            done = fail_at > 0; /* not so many calls */
            fail_at = 0;
            is(r, done ? STAGE_OK : STAGE_FAILED);
            ok(done || err.text[0] != '\0');
            if (r == STAGE_OK)
                stage_remove(stage, &s);
            is(count_below(stage_path(stage)), 1);
        }
        ok(n > 4);
    }
    stage_close(stage);
}

TEST(whichever_call_fails_an_open_leaves_nothing)
{
    so_folder();
    char root[256];
    snprintf(root, sizeof root, "%s", so_path("stage"));
    stage_close(opened(root));
    for (long n = 1, done = 0; !done; n++) {
        struct stage *stage = NULL;
        fail_at = n;
        fail_with = ENOSPC;
        err.text[0] = '\0';
        int rc = stage_open(&stage, root, &err);
        done = fail_at > 0;
        fail_at = 0;
        is(rc == 0, stage != NULL);
        ok(rc == 0 || err.text[0] != '\0');
        stage_close(stage);
        /* A folder whose listing or cleaning failed is left for the next start. */
        stage_close(opened(root));
        is(count_below(root), 0);
    }
}

TEST(what_was_removed_is_made_again_at_the_same_descriptors)
{
    char root[256], folder[256], lock[280];
    struct staged s;
    struct stat st, own;
    struct stage *stage = opened(so_path("stage"));
    const char *path = plugin_file("p.so");
    int dir = stage_dir_fd(stage);
    snprintf(root, sizeof root, "%s", so_path("stage"));
    snprintf(folder, sizeof folder, "%s", stage_path(stage));
    snprintf(lock, sizeof lock, "%s/.lock", folder);
    for (int depth = 1; depth <= 3; depth++) {
        must(unlink(lock) == 0);
        must(depth < 2 || rmdir(folder) == 0);
        must(depth < 3 || rmdir(root) == 0);
        is(stage_copy(stage, AT_FDCWD, path, &s, &err), STAGE_OK);
        is(stage_dir_fd(stage), dir);
        is(strncmp(s.path, folder, strlen(folder)), 0);
        must(fstat(dir, &st) == 0 && stat(folder, &own) == 0);
        is(own.st_ino, st.st_ino);
        must(fstat(stage_lock_fd(stage), &st) == 0 && stat(lock, &own) == 0);
        is(own.st_ino, st.st_ino);
        struct stage *other = opened(root); /* does not take us for dead */
        is(access(s.path, F_OK), 0);
        stage_close(other);
        stage_remove(stage, &s);
    }
    stage_close(stage);
    is(count_below(root), 0);
}

TEST(whichever_call_fails_a_renewal_leaves_nothing)
{
    char folder[256], lock[280];
    struct staged s;
    struct stage *stage = opened(so_path("stage"));
    const char *path = plugin_file("p.so");
    snprintf(folder, sizeof folder, "%s", stage_path(stage));
    snprintf(lock, sizeof lock, "%s/.lock", folder);
    for (long n = 1, done = 0; !done; n++) {
        unlink(lock);
        rmdir(folder);
        rmdir(so_path("stage"));
        fail_at = n;
        fail_with = ENOSPC;
        err.text[0] = '\0';
        int rc = stage_copy(stage, AT_FDCWD, path, &s, &err);
        done = fail_at > 0;
        fail_at = 0;
        ok(rc == STAGE_OK || err.text[0] != '\0');
        is(stage_renew(stage, &err), 0);
        is(count_below(folder), rc == STAGE_OK ? 3 : 1); /* the lock; BASE and the copy */
        if (rc == STAGE_OK)
            stage_remove(stage, &s);
    }
    stage_close(stage);
}

TEST(twenty_thousand_leave_nothing)
{
    struct stage *stage = opened(so_path("stage"));
    struct staged s;
    const char *path = plugin_file("p.so");
    char last[40] = "";
    for (int i = 0; i < 20000; i++) {
        must(stage_copy(stage, AT_FDCWD, path, &s, &err) == STAGE_OK);
        ok(strcmp(s.id, last) != 0);
        memcpy(last, s.id, sizeof last);
        stage_remove(stage, &s);
    }
    is(count_below(stage_path(stage)), 1);
    stage_close(stage);
}
