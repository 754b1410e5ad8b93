/*
 * For tests of plugin/swap.c without a server: two workers that are nothing but loops, a control
 * loop in the test's own thread, and plugins compiled from one source whose behaviour is their
 * configuration. `trace` lines tell which callbacks ran.
 */
#ifndef GRAFT_TESTS_SWAP_RIG_H
#define GRAFT_TESTS_SWAP_RIG_H

#include "base/clock.h"
#include "base/pool.h"
#include "plugin/adopt.h"
#include "plugin/chain.h"
#include "plugin/keep.h"
#include "plugin/load.h"
#include "plugin/metric.h"
#include "plugin/retire.h"
#include "plugin/swap.h"
#include "so.h"

#include <pthread.h>

#define RIG_WORKERS 2

#if defined(__SANITIZE_ADDRESS__)
#define RIG_LEAKS
#include <sanitizer/lsan_interface.h>
#endif

/* Each callback writes "NAME TAG callback" into the file named by config "trace"; "fail": the
   callback that fails; "hang": the one that waits until the file named by "until" is there. */
static const char rig_source[] =
    "#define _GNU_SOURCE\n#include <graft/graft.h>\n#include <fcntl.h>\n#include <pthread.h>\n"
    "#include <stdio.h>\n#include <string.h>\n#include <unistd.h>\n"
    "#ifdef CONSTRUCT\nextern char *program_invocation_short_name;\n"
    "__attribute__((constructor)) static void construct(void)\n{\n"
    "    if (!strstr(program_invocation_short_name, \"probe\"))\n"
    "        while (access(CONSTRUCT, F_OK) != 0) usleep(2000);\n}\n#endif\n"
    "static const char tag[] = \"TAG=00000000\";\n"
    "static int step(graft_self *s, const char *what)\n{\n"
    "    const char *path = graft_config_str(s, \"trace\", \"\");\n"
    "    int fd = *path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644) : -1;\n"
    "    if (fd >= 0) { dprintf(fd, \"%s %s %s\\n\", PLUGIN, tag + 4, what); close(fd); }\n"
    "    const char *until = graft_config_str(s, \"until\", \"\");\n"
    "    if (strcmp(graft_config_str(s, \"hang\", \"\"), what) == 0)\n"
    "        while (access(until, F_OK) != 0) usleep(2000);\n"
    "    if (strcmp(graft_config_str(s, \"slow\", \"\"), what) == 0) usleep(400000);\n"
    "    if (strcmp(graft_config_str(s, \"fail\", \"\"), what) == 0)\n"
    "        return graft_fail(s, \"%s was told to\", what);\n"
    "    return 0;\n}\n"
    "static void *forever(void *arg) { for (;;) pause(); return arg; }\n"
    "static graft_self *self;\n"
    "static void tick(void *state) { (void)state; step(self, \"every\"); }\n"
    "static int init(graft_self *s, void **st)\n{\n"
    "    (void)st; self = s; pthread_t t;\n"
    "    if (graft_config_bool(s, \"thread\", false)) pthread_create(&t, NULL, forever, NULL);\n"
    "    int ms = (int)graft_config_int(s, \"every\", 0);\n"
    "    if (ms) graft_every(s, (unsigned)ms, tick, NULL);\n"
    "    return step(s, \"init\");\n}\n"
    "static int ready(graft_self *s, void *st) { (void)st; return step(s, \"ready\"); }\n"
    "static int winit(graft_self *s, void *st) { (void)st; return step(s, \"worker_init\"); }\n"
    "static int start(graft_self *s, void *st) { (void)st; return step(s, \"start\"); }\n"
    "static void cool(graft_self *s, void *st) { (void)st; step(s, \"cool\"); }\n"
    "static void wfini(graft_self *s, void *st) { (void)st; step(s, \"worker_fini\"); }\n"
    "static void fini(graft_self *s, void *st) { (void)st; step(s, \"fini\"); }\n"
    "static graft_next serve(graft_req *r, void *st) { (void)st; return graft_text(r, 200, tag); "
    "}\n"
    "static graft_next on(graft_req *r, void *st) { (void)r; (void)st; return GRAFT_NEXT; }\n"
    "#ifndef ROUTE\n#define ROUTE \"/\" PLUGIN\n#endif\n"
    "GRAFT_PLUGIN(.name = PLUGIN, .version = \"1\", .init = init, .ready = ready,\n"
    "    .worker_init = winit, .start = start, .cool = cool, .worker_fini = wfini, .fini = fini,\n"
    "    .routes = (const graft_route[]){ { \"GET\", ROUTE, serve, 0 }, { 0 } }, .on_request = "
    "on)\n";

struct rig {
    struct event_base *base;
    struct inbox inbox;
    struct event *inbox_event, *tick;
    struct loop loops[RIG_WORKERS], *loop_list[RIG_WORKERS];
    struct stage *stage;
    struct probe *probe;
    struct pool *pool;
    struct keep *keep;
    struct swap *swap;
    char dir[256], stage_dir[256], trace[256], until[256];
    struct swap_ask ask;
    bool answered, ok;
    char word[32], reason[2048];
    unsigned generation;
    size_t nchanged, nunchanged, nfailed;
    char error[2048]; /* of the first in `failed` */
    uint64_t duration_us, publish_us;
};

static struct rig *rig; /* the case's */

static void *rig_worker(void *arg)
{
    struct loop *l = arg;
    struct event_base *base = event_base_new();
    must(base != NULL && loop_attach(l, base) == 0);
    event_base_loop(base, EVLOOP_NO_EXIT_ON_EMPTY);
    return NULL;
}

static void rig_on_inbox(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    inbox_run(arg);
}

static void rig_on_tick(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what, (void)arg;
}

static _Atomic int rig_cuts;

static void rig_cut(struct version *v, struct loop *l)
{
    (void)v, (void)l;
    rig_cuts++;
}

/* The rig's paths stand in for @DIR@, @TRACE@ and @UNTIL@. */
static struct config *rig_config(const char *text)
{
    static const struct {
        const char *name;
        size_t at;
    } vars[] = { { "@DIR@", offsetof(struct rig, dir) },
                 { "@TRACE@", offsetof(struct rig, trace) },
                 { "@UNTIL@", offsetof(struct rig, until) } };
    struct buf buf = { 0 };
    struct err err;
    for (const char *at = text; *at != '\0';) {
        const char *value = NULL;
        for (size_t i = 0; i < ARRAY_LEN(vars) && value == NULL; i++)
            if (strncmp(at, vars[i].name, strlen(vars[i].name)) == 0) {
                value = (const char *)rig + vars[i].at;
                at += strlen(vars[i].name);
            }
        if (value != NULL)
            buf_puts(&buf, value);
        else
            buf_add(&buf, at++, 1);
    }
    struct config *cfg = config_from_text("test", buf.data, buf.len, &err);
    if (cfg == NULL)
        fprintf(stderr, "# %s\n", err.text);
    must(cfg != NULL);
    buf_fini(&buf);
    return cfg;
}

static void rig_open(const char *config)
{
    struct err err = { "" };
    rig = calloc(1, sizeof *rig);
    must(rig != NULL);
    snprintf(rig->dir, sizeof rig->dir, "%s/plugins", so_folder());
    snprintf(rig->stage_dir, sizeof rig->stage_dir, "%s/stage", so_folder());
    snprintf(rig->trace, sizeof rig->trace, "%s/trace", so_folder());
    snprintf(rig->until, sizeof rig->until, "%s/until", so_folder());
    must(mkdir(rig->dir, 0755) == 0 && mkdir(rig->stage_dir, 0700) == 0);
    metric_init(RIG_WORKERS + 2);
    rig->base = event_base_new();
    must(rig->base != NULL && inbox_open(&rig->inbox) == 0);
    rig->inbox_event =
        event_new(rig->base, rig->inbox.fd, EV_READ | EV_PERSIST, rig_on_inbox, &rig->inbox);
    must(event_add(rig->inbox_event, NULL) == 0);
    rig->tick = event_new(rig->base, -1, EV_PERSIST, rig_on_tick, NULL);
    event_add(rig->tick, &(struct timeval){ 0, 5000 });
    for (unsigned i = 0; i < RIG_WORKERS; i++) {
        pthread_t t;
        rig->loop_list[i] = &rig->loops[i];
        must(loop_init(&rig->loops[i], i) == 0);
        must(pthread_create(&t, NULL, rig_worker, &rig->loops[i]) == 0);
        pthread_detach(t);
    }
    must(stage_open(&rig->stage, rig->stage_dir, &err) == 0);
    rig->probe = probe_open(so_env("TEST_PROBE", "./graft-probe"), &err);
    must(rig->probe != NULL);
    must(pool_open(&rig->pool, 2, 64, RIG_WORKERS, &err) == 0);
    rig->keep = keep_open(so_path("state"), rig->stage, -1);
    must(keep_path(rig->keep) != NULL);
    struct swap_deps deps = { .loops = rig->loop_list,
                              .nloops = RIG_WORKERS,
                              .base = rig->base,
                              .inbox = &rig->inbox,
                              .stage = rig->stage,
                              .probe = rig->probe,
                              .pool = rig->pool,
                              .keep = rig->keep,
                              .config = rig_config(config),
                              .host_init = chain_host_init,
                              .cut = rig_cut };
    must(swap_open(&rig->swap, &deps, &err) == 0);
}

#define RIG_SECONDS 30

/* Turns the control loop until `cond` holds. */
#define rig_until(cond)                                                                            \
    do {                                                                                           \
        uint64_t end_us_ = clock_us() + RIG_SECONDS * 1000000ull;                                  \
        while (!(cond) && clock_us() < end_us_)                                                    \
            event_base_loop(rig->base, EVLOOP_ONCE);                                               \
        must(cond);                                                                                \
    } while (0)

static inline void rig_turn(unsigned ms)
{
    uint64_t end_us = clock_us() + ms * 1000ull;
    while (clock_us() < end_us)
        event_base_loop(rig->base, EVLOOP_ONCE);
}

static void rig_answer(struct swap_ask *ask, const struct swap_result *r)
{
    (void)ask;
    rig->answered = true;
    rig->ok = r->ok;
    snprintf(rig->word, sizeof rig->word, "%s", r->word);
    snprintf(rig->reason, sizeof rig->reason, "%s", r->reason != NULL ? r->reason : "");
    rig->generation = r->generation;
    rig->nchanged = r->nchanged;
    rig->nunchanged = r->nunchanged;
    rig->nfailed = r->nfailed;
    snprintf(rig->error, sizeof rig->error, "%s", r->nfailed > 0 ? r->failed[0].error : "");
    rig->duration_us = r->duration_us;
    rig->publish_us = r->publish_us;
}

static inline void rig_ask(struct swap_ask with)
{
    rig->answered = false;
    rig->ask = with;
    rig->ask.done = rig_answer;
    if (swap_current(rig->swap) == NULL)
        swap_first(rig->swap, &rig->ask);
    else
        swap_ask(rig->swap, &rig->ask);
}

/* One reload; whether it was ok. */
static inline bool rig_swap(struct swap_ask with)
{
    rig_ask(with);
    rig_until(rig->answered);
    return rig->ok;
}
#define rig_reload() rig_swap((struct swap_ask){ 0 })

static inline bool rig_says(const char *text, const char *part)
{
    bool found = strstr(text, part) != NULL;
    if (!found)
        fprintf(stderr, "# \"%s\" does not say \"%s\"\n", text, part);
    return found;
}

/* ---- Plugin files ---------------------------------------------------------------------------- */

struct rig_so {
    unsigned char *data;
    size_t len;
    size_t tag; /* where the eight digits are */
};

static inline struct rig_so rig_build(const char *plugin, const char *flags)
{
    char all[512], name[64];
    struct rig_so so;
    snprintf(name, sizeof name, "%s.built", plugin);
    snprintf(all, sizeof all, "-DPLUGIN='\"%s\"' %s", plugin, flags);
    so.data = so_read(so_build(name, rig_source, all), &so.len);
    unsigned char *at = memmem(so.data, so.len, "TAG=00000000", 12);
    must(at != NULL);
    so.tag = (size_t)(at - so.data) + 4;
    return so;
}

/* Puts a version of it into the plugin folder by rename: another tag, other bytes. */
static inline void rig_put(const struct rig_so *so, const char *file, unsigned tag)
{
    char path[512], temp[512], digits[9];
    snprintf(path, sizeof path, "%s/%s", rig->dir, file);
    snprintf(temp, sizeof temp, "%s/.%s", rig->dir, file);
    snprintf(digits, sizeof digits, "%08u", tag);
    memcpy(so->data + so->tag, digits, 8);
    so_write(temp, so->data, so->len);
    must(rename(temp, path) == 0);
}

static inline void rig_remove(const char *file)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", rig->dir, file);
    must(unlink(path) == 0);
}

/* ---- Looking --------------------------------------------------------------------------------- */

static inline size_t rig_versions(void)
{
    size_t n = 0;
    list_each (it, swap_versions(rig->swap))
        n++;
    return n;
}

static inline struct version *rig_version(const char *plugin, enum version_state state)
{
    list_each (it, swap_versions(rig->swap)) {
        struct version *v = list_entry(it, struct version, node);
        if (strcmp(v->plugin, plugin) == 0 && v->state == state)
            return v;
    }
    return NULL;
}

/* The trace without "worker_init" and "worker_fini", whose order among workers is free; frees the
   one before. */
static inline const char *rig_trace(void)
{
    static char text[8192];
    text[0] = '\0';
    FILE *f = fopen(rig->trace, "r");
    char line[256];
    while (f != NULL && fgets(line, sizeof line, f) != NULL)
        if (strlen(text) + strlen(line) < sizeof text) {
            line[strcspn(line, "\n")] = ';';
            strcat(text, line);
        }
    if (f != NULL)
        fclose(f);
    unlink(rig->trace);
    return text;
}

static inline void rig_release_hang(void)
{
    so_write(rig->until, "x", 1);
}

static inline unsigned rig_count_in(const char *path, const char *part)
{
    char line[1024];
    unsigned n = 0;
    FILE *f = fopen(path, "r");
    must(f != NULL);
    while (fgets(line, sizeof line, f) != NULL)
        n += strstr(line, part) != NULL;
    fclose(f);
    return n;
}

static int rig_counted;
static inline int rig_count_file(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)path, (void)st, (void)at;
    rig_counted += kind == FTW_F;
    return 0;
}
static inline int rig_staged(void)
{
    rig_counted = 0;
    nftw(rig->stage_dir, rig_count_file, 8, FTW_PHYS);
    return rig_counted - 1; /* the lock */
}

/* Ends the process: threads of the rig live as long as it does. The leak check comes with exit. */
static inline void rig_close(void)
{
    stage_close(rig->stage);
    probe_close(rig->probe);
    fflush(NULL);
#ifdef RIG_LEAKS
    if (__lsan_do_recoverable_leak_check() != 0)
        fail("leaks");
#endif
    _exit(__atomic_load_n(&tap_bad, __ATOMIC_RELAXED) == 0 ? TAP_GOOD : 1);
}

#endif
