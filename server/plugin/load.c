/*
 * [loader] dlopen to dlclose of one version. Undoing is not done here: what a job leaves behind
 * (v->dl, init_done, ...) tells retire.c what is owed. Invariant: nothing of a plugin runs before
 * its descriptor has been copied, and dlclose is called only when fini has returned and no thread
 * that init had started is left.
 */
#include "plugin/load.h"

#include "plugin/roster.h"

#include "base/log.h"
#include "plugin/doing.h"
#include "plugin/preflight.h"
#include "plugin/preload.h"
#include "plugin/proven.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>

#define THREADS_LINGER_MS 1000 /* a joined thread is listed for a moment; 2 busy cores */

static void (*host_init)(struct version *v);
static struct stage *stage;

void load_init(void (*init)(struct version *v), struct stage *where)
{
    host_init = init;
    stage = where;
}

static struct version *version_of_job(struct job *job)
{
    struct version *v = container_of(job, struct version, job);
    CHECK(v, VERSION_MAGIC);
    return v;
}

static int fail(struct job *job, const char *at)
{
    job->stage = at;
    job->rc = -1;
    return -1;
}

/* ---- Mapping --------------------------------------------------------------------------------- */

struct names {
    const char *after; /* collect what comes behind this one */
    bool found, no_memory;
    char **list;
    size_t n, cap;
};

static int collect(struct dl_phdr_info *info, size_t size, void *arg)
{
    (void)size;
    struct names *names = arg;
    if (!names->found) {
        names->found = strcmp(info->dlpi_name, names->after) == 0;
        return 0;
    }
    if (names->n == names->cap) {
        size_t cap = names->cap ? names->cap * 2 : 16;
        char **list = realloc(names->list, cap * sizeof *list);
        if (list == NULL) {
            names->no_memory = true;
            return 1;
        }
        names->list = list;
        names->cap = cap;
    }
    if ((names->list[names->n] = strdup(info->dlpi_name)) == NULL) {
        names->no_memory = true;
        return 1;
    }
    names->n++;
    return 0;
}

static int is_it(struct dl_phdr_info *info, size_t size, void *arg)
{
    (void)size;
    return strcmp(info->dlpi_name, arg) == 0;
}

bool load_is_mapped(const char *path)
{
    char copy[PATH_MAX]; /* the callback's argument is not const */
    size_t len = strlen(path);
    REQUIRE(len < sizeof copy);
    memcpy(copy, path, len + 1);
    return dl_iterate_phdr(is_it, copy) != 0;
}

/* Libraries of the system that came with the plugin stay: OpenSSL and its like leave exit handlers
   and thread keys behind. What came with it stands behind it in the loader's list. */
static int keep_system_libraries(struct version *v, struct err *err)
{
    struct names names = { .after = v->staged.path };
    dl_iterate_phdr(collect, &names);
    for (size_t i = 0; i < names.n; i++) {
        if (preflight_system_library(names.list[i])) {
            void *dl = dlopen(names.list[i], RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
            if (dl != NULL)
                dlclose(dl);
        }
        free(names.list[i]);
    }
    free(names.list);
    return names.no_memory ? err_set(err, "out of memory while looking at its libraries") : 0;
}

/* Foreign code of this version begins and ends. */
static void begin_step(struct version *v, struct job *job, const char *step)
{
    doing_begin(v, NULL, step);
    job_step(job, step);
}

static bool end_step(struct job *job)
{
    doing_end();
    return job_step_end(job);
}

static int map(struct version *v, struct job *job)
{
    const char *path = v->staged.path;
    void *known = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    if (known != NULL) {
        dlclose(known);
        return err_set(&job->err, "%s is mapped already: a staged name was used twice", path);
    }
    roster_enter(v);
    begin_step(v, job, "dlopen");
    preload_system_libraries(path);
    v->dl = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    bool in_time = end_step(job);
    if (v->dl == NULL) {
        const char *why = dlerror();
        return err_set(&job->err, "dlopen: %s", why != NULL ? why : "no reason given");
    }
    v->unmapped = false;
    return in_time ? keep_system_libraries(v, &job->err)
                   : err_set(&job->err, "dlopen returned too late");
}

/* The probe has read the same file in another process: only code of it that answers differently
   here can change what it says. */
static int check_same(const struct version *v, const struct descriptor *mine, struct err *err)
{
    if (strcmp(mine->name, v->plugin) != 0)
        return err_set(err, "it calls itself \"%s\" here and \"%s\" when it was probed", mine->name,
                       v->plugin);
    if (strcmp(mine->version, v->desc.version) != 0)
        return err_set(err, "it is version \"%s\" here and \"%s\" when it was probed",
                       mine->version, v->desc.version);
    return 0;
}

/* All that the probe could not know. Its texts stay where they are: the control thread reads them
   meanwhile, for ps and the log. */
static void take_functions(struct descriptor *to, struct descriptor *from)
{
    struct descriptor_route *routes = to->routes;
    size_t route_count = to->route_count;
    to->routes = from->routes;
    to->route_count = from->route_count;
    from->routes = routes;
    from->route_count = route_count;
    to->size = from->size;
    to->needs = from->needs;
    to->route_size = from->route_size;
    to->flags = from->flags;
    to->scratch_size = from->scratch_size;
    to->callbacks = from->callbacks;
    to->init = from->init;
    to->ready = from->ready;
    to->worker_init = from->worker_init;
    to->start = from->start;
    to->cool = from->cool;
    to->worker_fini = from->worker_fini;
    to->fini = from->fini;
    to->on_request = from->on_request;
    to->on_response = from->on_response;
    to->on_finish = from->on_finish;
    to->state_schema = from->state_schema;
    to->export_state = from->export_state;
    to->import_state = from->import_state;
    to->health = from->health;
}

static int describe(struct version *v, struct err *err)
{
    const void *exported = NULL;
    size_t size = 0;
    struct descriptor mine;
    if (descriptor_find(v->dl, &exported, &size, err) != 0 ||
        descriptor_copy(exported, size, &mine, err) != 0)
        return -1;
    int rc = check_same(v, &mine, err);
    if (rc == 0) {
        take_functions(&v->desc, &mine);
        proven_add(v->sha256, &v->desc); /* of one that was good no probe has told */
    }
    descriptor_fini(&mine);
    return rc;
}

/* ---- Callbacks ------------------------------------------------------------------------------- */

static int call_init(struct version *v, struct job *job)
{
    if (v->desc.init == NULL) {
        v->init_done = true;
        return 0;
    }
    version_fail_clear();
    begin_step(v, job, "init");
    v->in_init = true;
    int rc = v->desc.init(&v->self, &v->state_ptr);
    v->in_init = false;
    bool in_time = end_step(job);
    if (rc != 0)
        return err_set(&job->err, "init failed: %s", version_fail_text());
    v->init_done = true;
    return in_time ? 0 : err_set(&job->err, "init returned too late");
}

static int call_ready(struct version *v, struct job *job)
{
    if (v->desc.ready == NULL)
        return 0;
    version_fail_clear();
    begin_step(v, job, "ready");
    int rc = v->desc.ready(&v->self, v->state_ptr);
    bool in_time = end_step(job);
    if (rc != 0)
        return err_set(&job->err, "ready says that it is not fit to serve: %s",
                       version_fail_text());
    return in_time ? 0 : err_set(&job->err, "ready returned too late");
}

/* Up to its first callback. */
static int load(struct version *v, struct job *job)
{
    if (v->stand_in) { /* there is nothing to load */
        host_init(v);
        return 0;
    }
    if (map(v, job) != 0)
        return fail(job, "dlopen");
    if (describe(v, &job->err) != 0)
        return fail(job, "descriptor");
    v->config = json_parse("config", v->config_text, strlen(v->config_text), &job->err);
    if (v->config == NULL)
        return fail(job, "config");
    host_init(v);
    return 0;
}

/* The threads that have appeared since `before` must be gone before it is unmapped, also when init
   or ready failed. Without memory for the lists none is held against it. */
static void note_threads(struct version *v, struct tasks *before, bool late)
{
    struct tasks after;
    v->loaded_late = late;
    if (v->dl != NULL && before->n > 0 && tasks_list(&after) == 0) {
        tasks_subtract(&after, before);
        v->tasks = after;
        if (!late)
            tasks_claim(&after);
    }
    tasks_fini(before);
}

static void load_work(struct job *job)
{
    ON_LOADER();
    struct version *v = version_of_job(job);
    struct tasks before = { 0 };
    tasks_list(&before);
    if (load(v, job) == 0) {
        /* Not before: of a file that was good no probe has told what it has. */
        v->takes_over = v->takes_over && (v->desc.callbacks & DESCRIPTOR_IMPORT_STATE) != 0;
        if (call_init(v, job) != 0)
            fail(job, "init");
        else if (!v->takes_over && call_ready(v, job) != 0)
            fail(job, "ready");
    }
    note_threads(v, &before, job_is_late(job));
}

static void export_work(struct job *job)
{
    ON_LOADER();
    struct version *v = container_of(job, struct version, export_job);
    CHECK(v, VERSION_MAGIC);
    v->handed = (struct handover_buf){ .pub = { &v->host } };
    version_fail_clear();
    begin_step(v, job, "export_state");
    int rc = v->desc.export_state(&v->self, v->state_ptr, &v->handed.pub);
    bool in_time = end_step(job);
    if (rc == 0 && in_time && !v->handed.failed)
        return;
    fail(job, "export_state");
    if (rc != 0)
        err_set(&job->err, "export_state of %s failed: %s", v->id, version_fail_text());
    else
        err_set(&job->err, "%s",
                in_time ? "no memory for what export_state writes"
                        : "export_state returned too late");
}

static int call_import(struct version *v, struct job *job)
{
    struct str data = buf_str(&v->handed.data);
    if (v->desc.import_state == NULL)
        return 0;
    version_fail_clear();
    begin_step(v, job, "import_state");
    int rc = v->desc.import_state(&v->self, v->state_ptr, v->handed_schema,
                                  (graft_str){ data.ptr, data.len });
    bool in_time = end_step(job);
    if (rc != 0)
        return err_set(&job->err, "import_state failed: %s", version_fail_text());
    return in_time ? 0 : err_set(&job->err, "import_state returned too late");
}

static void import_work(struct job *job)
{
    ON_LOADER();
    struct version *v = version_of_job(job);
    if (call_import(v, job) != 0)
        fail(job, "import_state");
    else if (!v->started && call_ready(v, job) != 0) /* a canary that is promoted has been ready */
        fail(job, "ready");
}

static void start_work(struct job *job)
{
    ON_LOADER();
    struct version *v = version_of_job(job);
    version_fail_clear();
    begin_step(v, job, "start");
    int rc = v->desc.start(&v->self, v->state_ptr);
    bool in_time = end_step(job);
    v->started = rc == 0;
    if (rc != 0)
        err_set(&job->err, "start failed: %s", version_fail_text());
    else if (!in_time)
        err_set(&job->err, "start returned too late");
    if (rc != 0 || !in_time)
        fail(job, "start");
}

static void cool_work(struct job *job)
{
    ON_LOADER();
    struct version *v = version_of_job(job);
    begin_step(v, job, "cool");
    v->desc.cool(&v->self, v->state_ptr);
    v->cooled = true;
    end_step(job);
}

/* ---- The end --------------------------------------------------------------------------------- */

/* False: too late, what follows is done by another job. */
static bool call_fini(struct version *v, struct job *job)
{
    if (!v->init_done)
        return true;
    begin_step(v, job, "fini");
    if (v->desc.fini != NULL)
        v->desc.fini(&v->self, v->state_ptr);
    v->init_done = false;
    return end_step(job);
}

static int threads_gone(struct version *v, struct job *job)
{
    char name[16];
    if (v->loaded_late)
        tasks_drop_claimed(&v->tasks);
    if (v->tasks.n == 0)
        return 0;
    tasks_keep_living(&v->tasks, THREADS_LINGER_MS);
    if (v->tasks.n == 0)
        return 0;
    tasks_name(&v->tasks.list[0], name);
    return err_set(&job->err,
                   "%zu thread%s that appeared during init still live%s after fini (the first: "
                   "thread %d, named \"%s\"): fini must stop and join every thread",
                   v->tasks.n, v->tasks.n == 1 ? "" : "s", v->tasks.n == 1 ? "s" : "",
                   (int)v->tasks.list[0].tid, name);
}

static int unmap(struct version *v, struct job *job)
{
    const char *why = NULL;
    bool in_time = true;
    if (v->dl != NULL) {
        void *dl = v->dl;
        v->dl = NULL;
        begin_step(v, job, "dlclose");
        why = dlclose(dl) != 0 ? dlerror() : NULL;
        in_time = end_step(job);
    }
    v->unmapped = v->unmapped || !load_is_mapped(v->staged.path);
    if (!v->unmapped)
        return err_set(&job->err,
                       "still mapped after dlclose%s%s: a C++ thread_local with a destructor, a "
                       "library that pins itself or another handle holds it",
                       why != NULL ? ": " : "", why != NULL ? why : "");
    return in_time ? 0 : err_set(&job->err, "dlclose returned too late");
}

static void unload(struct version *v, struct job *job)
{
    if (unmap(v, job) != 0)
        fail(job, "dlclose");
    if (!v->unmapped)
        return;
    roster_leave(v);
    if (!v->stand_in)
        stage_remove(stage, &v->staged);
}

static void fini_work(struct job *job)
{
    ON_LOADER();
    struct version *v = version_of_job(job);
    if (!call_fini(v, job))
        return;
    if (threads_gone(v, job) != 0)
        fail(job, "fini");
    else if (v->dl == NULL)
        unload(v, job); /* nothing to close: need not wait for a hanging dlopen */
}

static void unload_work(struct job *job)
{
    ON_LOADER();
    unload(version_of_job(job), job);
}

/* ---- Jobs ------------------------------------------------------------------------------------ */

static void prepare(struct version *v, void (*work)(struct job *), void (*done)(struct job *),
                    void (*hung)(struct job *, const char *, uint64_t), bool loads)
{
    v->job.work = work;
    v->job.done = done;
    v->job.hung = hung;
    v->job.loads = loads;
}

void load_job(struct version *v, void (*done)(struct job *),
              void (*hung)(struct job *, const char *, uint64_t))
{
    prepare(v, load_work, done, hung, true);
}

void load_export_job(struct version *v, void (*done)(struct job *),
                     void (*hung)(struct job *, const char *, uint64_t))
{
    v->export_job.work = export_work;
    v->export_job.done = done;
    v->export_job.hung = hung;
    v->export_job.loads = false;
}

void load_import_job(struct version *v, void (*done)(struct job *),
                     void (*hung)(struct job *, const char *, uint64_t))
{
    prepare(v, import_work, done, hung, false);
}

void load_start_job(struct version *v, void (*done)(struct job *),
                    void (*hung)(struct job *, const char *, uint64_t))
{
    prepare(v, start_work, done, hung, false);
}

void load_cool_job(struct version *v, void (*done)(struct job *),
                   void (*hung)(struct job *, const char *, uint64_t))
{
    prepare(v, cool_work, done, hung, false);
}

void load_fini_job(struct version *v, void (*done)(struct job *),
                   void (*hung)(struct job *, const char *, uint64_t))
{
    prepare(v, fini_work, done, hung, false);
}

void load_unload_job(struct version *v, void (*done)(struct job *),
                     void (*hung)(struct job *, const char *, uint64_t))
{
    prepare(v, unload_work, done, hung, true);
}
