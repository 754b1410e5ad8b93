/*
 * graftctl gdb: finds the process that serves (not its supervisor), says what keeps a debugger away
 * if anything does, and becomes a gdb that is attached to it and knows every live version.
 *
 * gdb finds the staged copies by itself, as it finds any library: they stay on disk as long as they
 * are mapped, and it is told of each dlopen and dlclose. Where a copy was removed all the same (a
 * cleaner of /tmp), it is read through /proc/PID/map_files.
 */
#include "ctl/gdb.h"

#include "base/buf.h"
#include "base/fd.h"
#include "base/json.h"
#include "ctl/client.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FAILED = 1, NO_SERVER = 4 };

#define ARGS_MAX 256

static int fail(const char *what)
{
    fprintf(stderr, "graftctl: gdb: %s\n", what);
    return FAILED;
}

/* ---- Asking the server ----------------------------------------------------------------------- */

static struct json *ask(const char *control, const char *target, int *rc)
{
    struct buf body = { 0 };
    struct err err;
    int status;
    struct json *doc = NULL;
    enum client_result r = client_call(control, "GET", target, CLIENT_WAIT_S, &status, &body, &err);
    if (r == CLIENT_OK)
        doc = json_parse("the answer", body.data, body.len, &err);
    struct json_value root = doc != NULL ? json_root(doc) : (struct json_value){ .token = -1 };
    struct str reason = doc != NULL ? json_get_string(root, "reason") : (struct str){ 0 };
    if (doc == NULL) {
        fprintf(stderr, "graftctl: %s\n", err.text);
    } else if (status != 200) {
        fprintf(stderr, "graftctl: gdb: " STR_FMT "\n", STR_ARG(reason));
        json_free(doc);
        doc = NULL;
    }
    *rc = r == CLIENT_NO_SERVER ? NO_SERVER : FAILED;
    buf_fini(&body);
    return doc;
}

/* ---- May it be traced? ----------------------------------------------------------------------- */

/* A child seizes it, which does not stop it, and lets go of it by ending. errno, or 0. */
static int try_to_trace(pid_t pid)
{
    pid_t child = fork();
    if (child == 0)
        _exit(ptrace(PTRACE_SEIZE, pid, 0, 0) == 0 ? 0 : errno & 0xff);
    int status = 0;
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    return child > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : EAGAIN;
}

static long number_in(const char *path, const char *key)
{
    char line[256];
    long n = 0;
    FILE *f = fopen(path, "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL)
        if (key == NULL || strncmp(line, key, strlen(key)) == 0) {
            n = strtol(line + (key != NULL ? strlen(key) : 0), NULL, 10);
            break;
        }
    if (f != NULL)
        fclose(f);
    return n;
}

static int explain(pid_t pid, int why)
{
    char path[64], said[512];
    struct stat st;
    snprintf(path, sizeof path, "/proc/%ld", (long)pid);
    if (why == ESRCH || stat(path, &st) != 0) {
        snprintf(
            said, sizeof said,
            "process %ld, which serves, is not to be seen here: is graftd in a container? Then "
            "run graftctl gdb inside of it",
            (long)pid);
        return fail(said);
    }
    snprintf(path, sizeof path, "/proc/%ld/status", (long)pid);
    long tracer = number_in(path, "TracerPid:"), uid = number_in(path, "Uid:");
    long scope = number_in("/proc/sys/kernel/yama/ptrace_scope", NULL);
    if (tracer != 0)
        snprintf(said, sizeof said, "process %ld is traced by process %ld already: end that first",
                 (long)pid, tracer);
    else if (geteuid() != 0)
        snprintf(said, sizeof said,
                 "process %ld of user %ld may not be traced by us (%s%s): run it as root",
                 (long)pid, uid, strerror(why),
                 scope > 0 ? "; kernel.yama.ptrace_scope is not 0" : "");
    else
        snprintf(said, sizeof said,
                 "process %ld may not be traced: %s. In a container it needs the capability "
                 "SYS_PTRACE (docker run --cap-add SYS_PTRACE)%s",
                 (long)pid, strerror(why),
                 scope > 2 ? "; kernel.yama.ptrace_scope is 3, which forbids it to all" : "");
    return fail(said);
}

/* ---- What gdb is told ------------------------------------------------------------------------ */

struct mapping {
    uint64_t from, to;
    bool found, removed;
    char path[4096];
};

/* The first mapping of the staged copy: its path ends in /ID.so, of a file that may be gone. */
static struct mapping find_copy(pid_t pid, struct str id)
{
    static const char gone[] = " (deleted)\n";
    struct mapping m = { 0 };
    char path[64], line[4400], tail[80];
    snprintf(path, sizeof path, "/proc/%ld/maps", (long)pid);
    snprintf(tail, sizeof tail, "/" STR_FMT ".so", STR_ARG(id));
    FILE *f = fopen(path, "re");
    while (f != NULL && !m.found && fgets(line, sizeof line, f) != NULL) {
        char *at = strstr(line, tail), *start = strchr(line, '/');
        uint64_t offset = 1;
        if (at == NULL || start == NULL ||
            sscanf(line, "%" SCNx64 "-%" SCNx64 " %*s %" SCNx64, &m.from, &m.to, &offset) != 3 ||
            offset != 0)
            continue;
        m.found = true;
        m.removed = strcmp(at + strlen(tail), gone) == 0;
        snprintf(m.path, sizeof m.path, "%.*s", (int)(at - start + (ptrdiff_t)strlen(tail)), start);
    }
    if (f != NULL)
        fclose(f);
    return m;
}

/* Words of ours only: nothing that comes from the server may be a command of gdb's. */
static bool plain(struct str s)
{
    for (size_t i = 0; i < s.len; i++)
        if (strchr("abcdefghijklmnopqrstuvwxyz0123456789-_.", s.ptr[i]) == NULL || s.ptr[i] == '\0')
            return false;
    return s.len > 0;
}

static void add_version(struct buf *after, pid_t pid, struct json_value v)
{
    struct str plugin = json_get_string(v, "plugin"), id = json_get_string(v, "id"),
               state = json_get_string(v, "state");
    if (!plain(plugin) || !plain(id) || !plain(state))
        return;
    struct mapping m = find_copy(pid, id);
    if (!m.found)
        return;
    buf_printf(after, "echo " STR_FMT "@" STR_FMT " (" STR_FMT "): %s at %#" PRIx64 "\\n\n",
               STR_ARG(plugin), STR_ARG(id), STR_ARG(state),
               m.removed ? "its copy was removed, read from memory," : m.path, m.from);
    if (m.removed)
        buf_printf(after,
                   "add-symbol-file /proc/%ld/map_files/%" PRIx64 "-%" PRIx64 " -o %#" PRIx64 "\n",
                   (long)pid, m.from, m.to, m.from);
}

static void add_before(struct buf *before)
{
    buf_puts(before,
             "set confirm off\n"
             "set pagination off\n"
             "set breakpoint pending on\n"
             "set print thread-events off\n"
             /* what graftd and its watchdog work with */
             "handle SIGUSR1 SIGUSR2 SIGHUP SIGPIPE SIGCHLD SIG61 nostop noprint pass\n"
             "define graft-versions\n"
             "info sharedlibrary /[0-9a-f]*[.][0-9][0-9]*[.]so$\n"
             "end\n"
             "document graft-versions\n"
             "The staged copies that are mapped now, one for each version: NAME/SHA12.SEQ.so.\n"
             "end\n");
}

/* A script that needs no file: its path, or NULL. The descriptor is gdb's to inherit. */
static const char *script(const char *name, const struct buf *text, char path[64])
{
    int fd = memfd_create(name, 0);
    if (fd < 0 || fd_write_all(fd, text->data, text->len) != 0)
        return NULL;
    snprintf(path, 64, "/proc/self/fd/%d", fd);
    return path;
}

static int become_gdb(pid_t pid, const struct buf *before, const struct buf *after,
                      char *const *more)
{
    char first[64], second[64], shown[32];
    const char *args[ARGS_MAX] = { "gdb", "-q",  "-ix", script("before", before, first),
                                   "-p",  shown, "-x",  script("versions", after, second) };
    size_t n = 8;
    if (args[3] == NULL || args[7] == NULL)
        return fail("no memory for gdb's commands");
    snprintf(shown, sizeof shown, "%ld", (long)pid);
    for (; more != NULL && *more != NULL; more++) {
        if (n + 1 == ARGS_MAX)
            return fail("too many arguments");
        args[n++] = *more;
    }
    execvp(args[0], (char *const *)args);
    return fail(errno == ENOENT ? "gdb is missing: install it (Debian: apt-get install gdb)"
                                : strerror(errno));
}

int gdb_run(const char *control, char *const *args)
{
    int rc = FAILED;
    int64_t pid = 0;
    struct json *status = ask(control, "/v1/status", &rc);
    if (status == NULL)
        return rc;
    struct json_value v = json_get(json_root(status), "pid");
    if (!json_present(v) || json_int(v, &pid) != 0 || pid <= 0)
        pid = 0;
    json_free(status);
    if (pid == 0)
        return fail("the server does not say which process serves: is it of another release?");
    struct json *versions = ask(control, "/v1/versions", &rc);
    if (versions == NULL)
        return rc;
    int why = try_to_trace((pid_t)pid);
    if (why != 0) {
        json_free(versions);
        return explain((pid_t)pid, why);
    }
    struct buf before = { 0 }, after = { 0 };
    add_before(&before);
    buf_puts(&after, "");
    struct json_value list = json_get(json_root(versions), "versions");
    for (size_t i = 0; json_present(list) && i < json_count(list); i++)
        add_version(&after, (pid_t)pid, json_at(list, i));
    json_free(versions);
    rc = become_gdb((pid_t)pid, &before, &after, args);
    buf_fini(&before);
    buf_fini(&after);
    return rc;
}
