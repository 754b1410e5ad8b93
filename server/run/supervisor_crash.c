/*
 * What is said about a server process that crashed, from what its last thread wrote into the shared
 * memory. Nothing of that is trusted: texts are cut, ends are set, sizes are checked.
 */
#include "run/supervisor_private.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

/* Without a callback of ours on the way (a thread of the plugin's own, an event of its own), the
   file in whose code it was tells: BASE/ID.so. BASE is the name of the plugin's file. */
static void find_plugin(const struct supervisor *sv, const struct child *c, struct crash_frame *f)
{
    static struct roster_entry e;
    static struct symbolized sym;
    supervisor_names(f, c->area, stage_path(sv->held.stage), false, &sym);
    const char *staged = sym.staged;
    const char *slash = strchr(staged, '/');
    size_t id = slash != NULL ? strlen(slash + 1) : 0;
    if (id <= 3 || id - 3 >= sizeof f->id)
        return;
    snprintf(f->plugin, sizeof f->plugin, "%.*s", (int)(slash - staged), staged);
    snprintf(f->id, sizeof f->id, "%.*s", (int)(id - 3), slash + 1);
    if (!roster_find(&c->area->roster, f->id, &e))
        return;
    memcpy(f->plugin, e.plugin, sizeof f->plugin);
    memcpy(f->version, e.version, sizeof f->version);
    memcpy(f->sha256, e.sha256, sizeof f->sha256);
    memcpy(f->config_sha256, e.config_sha256, sizeof f->config_sha256);
}

/* A copy of the record, so that it cannot change while it is read; false: there is none. */
static bool take_frame(const struct supervisor *sv, const struct child *c, struct crash_frame *out)
{
    if (c->area == NULL || atomic_load(&c->area->state) != CRASH_WHOLE)
        return false;
    *out = c->area->frame;
    out->thread[sizeof out->thread - 1] = '\0';
    out->plugin[sizeof out->plugin - 1] = '\0';
    out->version[sizeof out->version - 1] = '\0';
    out->id[sizeof out->id - 1] = '\0';
    out->sha256[sizeof out->sha256 - 1] = '\0';
    out->config_sha256[sizeof out->config_sha256 - 1] = '\0';
    out->route[sizeof out->route - 1] = '\0';
    out->callback[sizeof out->callback - 1] = '\0';
    if (out->plugin[0] == '\0')
        find_plugin(sv, c, out);
    return true;
}

void supervisor_identify(struct supervisor *sv, const struct child *c, int status)
{
    struct crash_frame f = { .signo = 0 };
    struct wire_crashed *to = &sv->crashed;
    memset(to, 0, sizeof *to);
    sv->after_crash = true;
    to->in_row = sv->in_row;
    if (take_frame(sv, c, &f)) {
        memcpy(to->plugin, f.plugin, sizeof to->plugin);
        memcpy(to->version, f.version, sizeof to->version);
        memcpy(to->id, f.id, sizeof to->id);
        memcpy(to->sha256, f.sha256, sizeof to->sha256);
        memcpy(to->config_sha256, f.config_sha256, sizeof to->config_sha256);
        to->signo = f.signo;
    } else if (status >= 0 && WIFSIGNALED(status)) {
        to->signo = WTERMSIG(status);
    }
}

/* `status` of an exit when there was no signal. */
static void name_cause(int signo, int status, char out[96])
{
    const char *name = signo > 0 && signo < NSIG ? sigabbrev_np(signo) : NULL;
    if (name != NULL)
        snprintf(out, 96, "SIG%s", name);
    else if (signo != 0)
        snprintf(out, 96, "signal %d", signo);
    else
        snprintf(out, 96, "it called exit(%d)", status);
}

static void log_stack(struct log_line *line, const struct symbolized *sym)
{
    struct buf list = { 0 };
    for (unsigned i = 0; i < sym->n; i++) {
        buf_puts(&list, i > 0 ? ", " : "");
        buf_puts(&list, sym->frames[i]);
    }
    if (list.len > 0)
        log_z(line, "stack", list.data);
    buf_fini(&list);
}

static void log_text(struct log_line *line, const char *key, const char *text)
{
    if (text[0] != '\0')
        log_z(line, key, text);
}

static void log_frame(struct log_line *line, const struct crash_frame *f,
                      const struct symbolized *sym)
{
    char address[32];
    snprintf(address, sizeof address, "0x%llx", (unsigned long long)f->address);
    log_text(line, "plugin", f->plugin);
    log_text(line, "version", f->version);
    log_text(line, "id", f->id);
    log_text(line, "route", f->route);
    log_text(line, "callback", f->callback);
    log_text(line, "function", sym->function);
    log_text(line, "thread", f->thread);
    log_int(line, "tid", f->tid);
    log_z(line, "address", address);
    log_text(line, "sha256", f->sha256);
    log_text(line, "config_sha256", f->config_sha256);
    log_stack(line, sym);
}

static void log_crash(const struct supervisor *sv, const struct child *c, int status,
                      struct crash_frame *f)
{
    static struct log_line line; /* 4 KB; there is one thread */
    static struct symbolized sym;
    char cause[96];
    memset(&sym, 0, sizeof sym);
    if (f != NULL) {
        supervisor_names(f, c->area, stage_path(sv->held.stage), true, &sym);
        name_cause(f->signo, f->code, cause);
    } else if (WIFSIGNALED(status)) {
        name_cause(WTERMSIG(status), 0, cause);
    } else {
        name_cause(0, WEXITSTATUS(status), cause);
    }
    bool known = f != NULL && f->plugin[0] != '\0';
    log_begin(&line, LOG_ERROR, "crash", "the server process crashed%s%s%s%s: %s%s%s",
              known ? " in " : "", known ? f->plugin : "", known ? " " : "", known ? f->id : "",
              cause, sym.function[0] != '\0' ? " in " : "", sym.function);
    log_int(&line, "pid", c->pid);
    if (f != NULL ? f->signo != 0 : WIFSIGNALED(status))
        log_z(&line, "signal", cause);
    else
        log_int(&line, "exit_status", f != NULL ? f->code : WEXITSTATUS(status));
    if (f != NULL)
        log_frame(&line, f, &sym);
    log_end(&line);
}

void supervisor_crash(struct supervisor *sv, struct child *c, int status)
{
    static struct crash_frame f;
    bool recorded = take_frame(sv, c, &f);
    if (c->told || (!recorded && status < 0))
        return;
    c->told = true;
    log_crash(sv, c, status, recorded ? &f : NULL);
}
