/*
 * See dev_server.h. Our own graftd has a process group of its own, so that Ctrl-C is for us to pass
 * on, and ends when we do. It keeps nothing: all its folders are in one that is removed.
 */
#include "ctl/dev_server.h"

#include "base/clock.h"
#include "base/fd.h"
#include "base/json.h"
#include "ctl/client.h"
#include "ctl/folder.h"
#include "ctl/installed.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define START_MS 30000
#define DRAIN_MS 2500
#define STEP_MS  20

static void nap(void)
{
    nanosleep(&(struct timespec){ .tv_nsec = STEP_MS * 1000000L }, NULL);
}

/* ---- Its folder ------------------------------------------------------------------------------ */

static int make_folder(struct dev_server *s, struct err *err)
{
    const char *tmp = getenv("TMPDIR");
    if (tmp == NULL || tmp[0] != '/' || strlen(tmp) > 40) /* a socket's path is limited */
        tmp = "/tmp";
    snprintf(s->dir, sizeof s->dir, "%s/graft-dev-XXXXXX", tmp);
    if (mkdtemp(s->dir) == NULL) {
        err_set(err, "cannot make a folder in %s: %s", tmp, strerror(errno));
        s->dir[0] = '\0';
        return -1;
    }
    snprintf(s->control, sizeof s->control, "%s/control", s->dir);
    snprintf(s->plugins, sizeof s->plugins, "%s/plugins", s->dir);
    char path[128];
    snprintf(path, sizeof path, "%s/stage", s->dir);
    if (mkdir(s->plugins, 0700) != 0 || mkdir(path, 0700) != 0)
        return err_set(err, "cannot make a folder in %s: %s", s->dir, strerror(errno));
    snprintf(path, sizeof path, "%s/empty.json", s->dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int rc = fd < 0 || fd_write_all(fd, "{}\n", 3) != 0 ? err_set(err, "cannot write %s", path) : 0;
    if (fd >= 0)
        close(fd);
    return rc;
}

int dev_server_init(struct dev_server *s, const char *control, const char *plugins,
                    const char *listen, struct err *err)
{
    *s = (struct dev_server){ .own = control[0] == '\0', .listen = listen };
    if (s->own)
        return make_folder(s, err);
    snprintf(s->control, sizeof s->control, "%s", control);
    snprintf(s->plugins, sizeof s->plugins, "%s", plugins);
    return 0;
}

/* ---- Its process ----------------------------------------------------------------------------- */

static void default_env(const char *name, const char *value)
{
    setenv(name, value, 0);
}

_Noreturn static void become_graftd(const struct dev_server *s, pid_t parent)
{
    char stage[128], state[128], empty[128];
    snprintf(stage, sizeof stage, "%s/stage", s->dir);
    snprintf(state, sizeof state, "%s/state", s->dir);
    snprintf(empty, sizeof empty, "%s/empty.json", s->dir);
    const char *program = getenv("GRAFTD");
    if (program == NULL || program[0] == '\0')
        program = installed_graftd;
    setenv("GRAFT_STAGE_DIR", stage, 1);
    setenv("GRAFT_STATE_DIR", state, 1);
    default_env("GRAFT_LOG_FORMAT", "text");
    default_env("GRAFT_LOG_LEVEL", "warn");
    const char *args[16] = {
        program,     "-c",       access("graft.json", F_OK) == 0 ? "graft.json" : empty,
        "--plugins", s->plugins, "--control",
        s->control
    };
    size_t n = 7;
    if (getenv("GRAFT_OPS") == NULL) {
        args[n++] = "--ops";
        args[n++] = "";
    }
    if (s->listen != NULL) {
        args[n++] = "--listen";
        args[n++] = s->listen;
    }
    sigset_t none;
    sigemptyset(&none);
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(1);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execv(program, (char *const *)args);
    fprintf(stderr, "graftctl: dev: cannot run %s: %s: install graftd, or have GRAFTD name it\n",
            program, strerror(errno));
    _exit(127);
}

bool dev_server_ended(struct dev_server *s, int *status)
{
    if (s->pid == 0 || waitpid(s->pid, status, WNOHANG) != s->pid)
        return false;
    s->pid = 0;
    return true;
}

static bool ends_within(struct dev_server *s, uint64_t ms)
{
    int status;
    for (uint64_t until = clock_ms() + ms; s->pid != 0 && clock_ms() < until;)
        if (!dev_server_ended(s, &status))
            nap();
    return s->pid == 0;
}

static void stop_process(struct dev_server *s)
{
    for (int i = 0; s->pid != 0 && i < 2; i++) { /* the second time it leaves at once */
        kill(s->pid, SIGTERM);
        ends_within(s, DRAIN_MS);
    }
    if (s->pid != 0) {
        kill(-s->pid, SIGKILL);
        ends_within(s, DRAIN_MS);
    }
}

void dev_server_stop(struct dev_server *s)
{
    stop_process(s);
    if (s->dir[0] != '\0')
        folder_remove(s->dir);
    s->dir[0] = '\0';
}

int dev_server_start(struct dev_server *s, struct err *err)
{
    pid_t parent = getpid();
    fflush(NULL);
    s->pid = fork();
    if (s->pid == 0)
        become_graftd(s, parent);
    if (s->pid < 0) {
        s->pid = 0;
        return err_set(err, "cannot start graftd: %s", strerror(errno));
    }
    for (uint64_t until = clock_ms() + START_MS; clock_ms() < until; nap()) {
        struct buf body = { 0 };
        int http = 0, status;
        struct err why;
        bool serves = access(s->control, F_OK) == 0 &&
                      client_call(s->control, "GET", "/v1/status", CLIENT_WAIT_S, &http, &body,
                                  &why) == CLIENT_OK;
        buf_fini(&body);
        if (serves)
            return 0;
        if (dev_server_ended(s, &status))
            return err_set(err, "graftd did not start (see above)");
    }
    stop_process(s);
    return err_set(err, "graftd does not serve after %d s", START_MS / 1000);
}

/* ---- Swaps ----------------------------------------------------------------------------------- */

static int copy_bytes(int from, int to)
{
    char chunk[65536];
    ssize_t n;
    while ((n = read(from, chunk, sizeof chunk)) > 0)
        if (fd_write_all(to, chunk, (size_t)n) != 0)
            return -1;
    return (int)n;
}

int dev_server_install(const struct dev_server *s, const char *so, struct err *err)
{
    char made[PATH_MAX + 300], target[PATH_MAX + 300];
    const char *base = strrchr(so, '/') != NULL ? strrchr(so, '/') + 1 : so;
    snprintf(made, sizeof made, "%s/.%s.new", s->plugins, base);
    snprintf(target, sizeof target, "%s/%s", s->plugins, base);
    int from = open(so, O_RDONLY | O_CLOEXEC);
    if (from < 0)
        return err_set(err, "cannot read %s: %s", so, strerror(errno));
    int to = open(made, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644), rc = 0;
    if (to < 0 || copy_bytes(from, to) != 0 || rename(made, target) != 0)
        rc = err_set(err, "cannot put it into %s: %s", s->plugins, strerror(errno));
    close(from);
    if (to >= 0)
        close(to);
    return rc;
}

static size_t say_each(struct json_value answer, const char *list, bool errors, struct buf *said)
{
    struct json_value array = json_get(answer, list);
    size_t n = json_present(array) && json_type(array) == JSON_ARRAY ? json_count(array) : 0;
    for (size_t i = 0; i < n; i++) {
        struct json_value entry = json_at(array, i);
        struct str name = json_get_string(entry, "plugin"),
                   more = json_get_string(entry, errors ? "error" : "id");
        buf_printf(said, "%s" STR_FMT "%s" STR_FMT, i > 0 ? ", " : "", errors ? 0 : (int)name.len,
                   name.ptr, errors ? "" : " ", STR_ARG(more));
    }
    return n;
}

bool dev_server_reload(const struct dev_server *s, struct buf *said)
{
    struct buf body = { 0 };
    struct err err;
    int http = 0;
    bool good = false;
    const char *target = s->own ? "/v1/reload?retry=1&config=1" : "/v1/reload?retry=1";
    if (client_call(s->control, "POST", target, CLIENT_RELOAD_S, &http, &body, &err) != CLIENT_OK) {
        buf_puts(said, err.text);
        buf_fini(&body);
        return false;
    }
    struct json *doc = json_parse("the answer", body.data, body.len, &err);
    if (doc == NULL) {
        buf_puts(said, err.text);
    } else {
        struct json_value answer = json_root(doc), ok = json_get(answer, "ok");
        struct str reason = json_get_string(answer, "reason");
        good = json_present(ok) && json_bool(ok, &good) == 0 && good;
        if (good && say_each(answer, "changed", false, said) > 0)
            buf_puts(said, " serves");
        else if (good)
            buf_puts(said, "nothing has changed");
        else if (say_each(answer, "failed", true, said) == 0)
            buf_printf(said, STR_FMT, STR_ARG(reason));
    }
    json_free(doc);
    buf_fini(&body);
    return good;
}
