/*
 * The loader's work on one version: the callbacks that run on its thread, and mapping and
 * unmapping. Each is a job (v->job); `done` and `hung` are the caller's. What has been done is in
 * v->dl, init_done, started, cooled and unmapped.
 */
#ifndef GRAFT_PLUGIN_LOAD_H
#define GRAFT_PLUGIN_LOAD_H

#include "plugin/loader.h"
#include "plugin/stage.h"
#include "plugin/version.h"

/* What load.c needs besides the version; set once, before the first job. */
void load_init(void (*host_init)(struct version *v), struct stage *stage);

/* dlopen, descriptor, init, ready (not when v->takes_over, which
   loses what has no import_state: load_import_job). job->rc 0 or -1 with stage and err. */
void load_job(struct version *v, void (*done)(struct job *),
              void (*hung)(struct job *, const char *, uint64_t));
/* export_state, as v->export_job, into v->handed. */
void load_export_job(struct version *v, void (*done)(struct job *),
                     void (*hung)(struct job *, const char *, uint64_t));
/* import_state of v->handed, then ready. */
void load_import_job(struct version *v, void (*done)(struct job *),
                     void (*hung)(struct job *, const char *, uint64_t));
/* start; when it has none, not worth a job: call load_start_needed first. */
void load_start_job(struct version *v, void (*done)(struct job *),
                    void (*hung)(struct job *, const char *, uint64_t));
/* cool */
void load_cool_job(struct version *v, void (*done)(struct job *),
                   void (*hung)(struct job *, const char *, uint64_t));
/* fini where init returned 0; then no thread that it left may live. job->rc -1: it is stuck, err
   says why. Nothing is left to do when v->dl is NULL afterwards, else load_unload_job. Late: submit
   it again, it goes on where it was. */
void load_fini_job(struct version *v, void (*done)(struct job *),
                   void (*hung)(struct job *, const char *, uint64_t));
/* dlclose, verify, remove the staged file. rc -1 as above. Late: load_fini_job finds what is left.
 */
void load_unload_job(struct version *v, void (*done)(struct job *),
                     void (*hung)(struct job *, const char *, uint64_t));

/* Whether a file is mapped by the dynamic loader under that name. Any thread. */
bool load_is_mapped(const char *path);

#endif
