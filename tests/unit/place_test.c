/* ops/place.c: where the control socket goes, and whom it may replace. */
#include "tap.h"

#include "ops/place.h"

#include <fcntl.h>
#include <sys/socket.h>

static char dir[] = "/tmp/place_test.XXXXXX";

static void enter(void)
{
    must(mkdtemp(dir) != NULL && chdir(dir) == 0);
    unsetenv("RUNTIME_DIRECTORY");
    unsetenv("XDG_RUNTIME_DIR");
}

static void leave(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    must(chdir("/") == 0 && system(command) == 0);
}

static const char *in_dir(const char *name)
{
    static char path[4][100];
    static unsigned at;
    char *p = path[at++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

TEST(makes_a_private_socket)
{
    struct place_socket s;
    struct stat st;
    struct err err;
    enter();
    is(place_open(&s, in_dir("c.sock"), &err), 0);
    must(lstat(in_dir("c.sock"), &st) == 0);
    ok(S_ISSOCK(st.st_mode));
    is(st.st_mode & 0777, 0600);
    int fd = place_connect(in_dir("c.sock"), &err);
    ok(fd >= 0);
    close(fd);
    place_close(&s);
    ok(lstat(in_dir("c.sock"), &st) != 0);
    leave();
}

TEST(replaces_only_what_nobody_answers_on)
{
    struct place_socket first, second;
    struct err err;
    enter();
    must(place_open(&first, in_dir("c.sock"), &err) == 0);
    is(place_open(&second, in_dir("c.sock"), &err), -1);
    ok(strstr(err.text, "another server") != NULL);
    close(first.fd); /* crashed: the file stays */
    is(place_open(&second, in_dir("c.sock"), &err), 0);
    place_close(&second);
    leave();
}

TEST(never_replaces_a_file)
{
    struct place_socket s;
    struct stat st;
    struct err err;
    enter();
    close(open(in_dir("c.sock"), O_CREAT | O_WRONLY, 0600));
    is(place_open(&s, in_dir("c.sock"), &err), -1);
    ok(stat(in_dir("c.sock"), &st) == 0 && S_ISREG(st.st_mode));
    leave();
}

TEST(unlinks_only_its_own)
{
    struct place_socket old, newer;
    struct stat st;
    struct err err;
    enter();
    must(place_open(&old, in_dir("c.sock"), &err) == 0);
    must(unlink(in_dir("c.sock")) == 0);
    must(place_open(&newer, in_dir("c.sock"), &err) == 0);
    place_close(&old);
    is(lstat(in_dir("c.sock"), &st), 0);
    place_close(&newer);
    leave();
}

TEST(systemds_folder_comes_first)
{
    struct place places[PLACE_MAX];
    enter();
    setenv("RUNTIME_DIRECTORY", "/run/a:/run/b", 1);
    setenv("XDG_RUNTIME_DIR", "/run/user/1", 1);
    is(place_list(places), 1);
    is_str(places[0].path, "/run/a/control.sock");
    unsetenv("RUNTIME_DIRECTORY");
    is(place_list(places), 3);
    is_str(places[0].path, "/run/graft/control.sock");
    is_str(places[1].path, "/run/user/1/graft/control.sock");
    ok(places[2].shared_above && strncmp(places[2].path, "/tmp/graft-", 11) == 0);
    leave();
}

TEST(uses_the_given_folder_as_it_is)
{
    struct place_socket s;
    struct err err;
    enter();
    must(chmod(dir, 0755) == 0);
    setenv("RUNTIME_DIRECTORY", dir, 1);
    is(place_open(&s, "", &err), 0);
    is_str(s.path, in_dir("control.sock"));
    int fd = place_connect("", &err);
    ok(fd >= 0);
    close(fd);
    place_close(&s);
    is(place_connect("", &err), -1);
    ok(strstr(err.text, in_dir("control.sock")) != NULL);
    leave();
}

TEST(a_path_that_is_too_long_is_said)
{
    struct place_socket s;
    struct err err;
    char path[300];
    memset(path, 'a', sizeof path);
    path[0] = '/';
    path[sizeof path - 1] = '\0';
    is(place_open(&s, path, &err), -1);
    ok(strstr(err.text, "longer") != NULL);
}
