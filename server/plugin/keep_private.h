/* Between keep.c (what is known), keep_index.c (its text) and keep_folder.c (its files) only. */
#ifndef GRAFT_PLUGIN_KEEP_PRIVATE_H
#define GRAFT_PLUGIN_KEEP_PRIVATE_H

#include "base/buf.h"
#include "plugin/keep.h"

#include <pthread.h>

#define KEEP_GOOD    2   /* of a plugin: what serves and its predecessor */
#define KEEP_PLUGINS 256 /* the one that changed longest ago goes */
#define KEEP_INDEX   (16u << 20)

struct keep_plugin {
    struct list node;
    struct kept good[KEEP_GOOD]; /* newest first */
    size_t ngood;
};

struct keep_model {
    struct list plugins; /* changed last first */
    size_t nplugins;
    struct quarantine quarantine;
};

void keep_model_init(struct keep_model *m);
void keep_model_fini(struct keep_model *m);
/* False: no memory, nothing is changed. */
bool keep_model_good(struct keep_model *m, const struct kept *kept);
/* False: it was none. */
bool keep_model_forget(struct keep_model *m, const struct identity *identity);

/* keep_index.c. -1: no memory. */
int keep_index_write(const struct keep_model *m, struct buf *out);
/* Strict. Fills an initialised, empty model; on -1 it is empty again, and err says what is wrong.
   `newer`: it is of a format that a later graftd writes. */
int keep_index_read(const char *name, const char *text, size_t len, struct keep_model *m,
                    bool *newer, struct err *err);

/* keep_folder.c: what lies on disk. */
struct keep_folder {
    int dir_fd, files_fd, lock_fd; /* lock_fd -1: it ends with the process */
    char *path;
};
/* The state folder, locked: 0, or -1: err says why not; 1: there is none to use. */
int keep_folder_open(struct keep_folder *f, const char *configured, bool lock, struct err *err);
int keep_folder_lock(struct keep_folder *f, struct err *err); /* when it was not asked for */
/* One inside the stage folder. */
int keep_folder_inside(struct keep_folder *f, const struct stage *stage, struct err *err);
void keep_folder_close(struct keep_folder *f);
/* The index's text; 1: there is none. */
int keep_folder_read(const struct keep_folder *f, struct buf *out, struct err *err);
int keep_folder_write(const struct keep_folder *f, const struct buf *text, struct err *err);
int keep_folder_set_aside(const struct keep_folder *f, struct err *err); /* the index, as .bad */
/* Copies the file at `from` to files/SHA256, if it has that hash; 1: there is none. It is on the disk only after
   keep_folder_sync, and an index may name it only then; what no index names, a start removes. */
int keep_folder_add(const struct keep_folder *f, const char *sha256, const char *from,
                    struct err *err);
int keep_folder_sync(const struct keep_folder *f, const char *sha256, struct err *err);
bool keep_folder_has(const struct keep_folder *f, const char *sha256);
/* Removes the files for which `wanted` is false, but for one that is being copied. */
void keep_folder_sweep(const struct keep_folder *f, bool (*wanted)(const char *name, void *arg),
                       void *arg);

/* For tests: called before each step of writing, with its name. NULL otherwise. */
extern void (*keep_folder_step)(const char *step);

#endif
