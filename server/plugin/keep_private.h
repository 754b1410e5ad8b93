/* Between keep.c (questions and changes), keep_model.c (what is known), keep_write.c (when it is
   written), keep_index.c (its text), keep_place.c (where it is) and keep_folder.c (its files)
   only. */
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
    struct trials trials;
};

int64_t keep_now_ms(void); /* keep.c */

void keep_model_init(struct keep_model *m);
void keep_model_fini(struct keep_model *m);
/* False: no memory, nothing is changed. */
bool keep_model_good(struct keep_model *m, const struct kept *kept);
/* False: it was none. */
bool keep_model_forget(struct keep_model *m, const struct identity *identity);

struct keep_plugin *keep_model_plugin(const struct keep_model *m, const char *plugin); /* or NULL */

/* keep_index.c. -1: no memory. */
int keep_index_write(const struct keep_model *m, struct buf *out);
/* Strict. Fills an initialised, empty model; on -1 it is empty again, and err says what is wrong.
   `newer`: it is of a format that a later graftd writes. */
int keep_index_read(const char *name, const char *text, size_t len, struct keep_model *m,
                    bool *newer, struct err *err);

/* keep_folder.c: what lies on disk. */
#define KEEP_TOKEN 16
struct keep_folder {
    bool behind; /* another process of ours has it: nothing is changed here */
    int dir_fd, files_fd, lock_fd; /* lock_fd -1: it ends with the stage folder */
    int owner_fd;
    unsigned char token[KEEP_TOKEN]; /* in .owner as long as the store is this process's */
    ssize_t token_len;
    char *path;
};
#define KEEP_FOLDER_NONE { false, -1, -1, -1, -1, { 0 }, 0, NULL }
/* keep_place.c: the folder, found or made, and its lock (`handed`: as of keep_lock, or -1; stays the
   caller's). 0, -1, or 1: there is none to use; keep_folder_close is the caller's each time. */
int keep_place_open(struct keep_folder *f, const char *configured, int handed, struct err *err);
/* The state folder, locked (`lock`: as of keep_lock, or -1; stays the caller's), ours from now on:
   0, or -1: err says why not; 1: there is none to use. What a process that had it before would
   write now is not written; for it that is no error. */
int keep_folder_open(struct keep_folder *f, const char *configured, int lock, bool behind,
                     struct err *err);
int keep_folder_take(struct keep_folder *f, struct err *err); /* not behind any more */
/* One inside the stage folder. */
int keep_folder_inside(struct keep_folder *f, const struct stage *stage, bool behind,
                       struct err *err);
void keep_folder_close(struct keep_folder *f);
/* The index's text; 1: there is none. */
int keep_folder_read(const struct keep_folder *f, struct buf *out, struct err *err);
/* 1: it is not, the store is another process's now. */
int keep_folder_write(const struct keep_folder *f, const struct buf *text, struct err *err);
int keep_folder_set_aside(const struct keep_folder *f, struct err *err); /* the index, as .bad */
/* Copies the file at `from` to files/SHA256, if it has that hash; 1: there is none. It is on the
   disk only after keep_folder_sync, and an index may name it only then; what no index names, a
   start removes. */
int keep_folder_add(const struct keep_folder *f, const char *sha256, const char *from,
                    struct err *err);
int keep_folder_sync(const struct keep_folder *f, const char *sha256, struct err *err);
bool keep_folder_has(const struct keep_folder *f, const char *sha256);
/* Removes the files for which `wanted` is false, but for one that is being copied. */
void keep_folder_sweep(const struct keep_folder *f, bool (*wanted)(const char *name, void *arg),
                       void *arg);

#define JUDGED_MAX 16
#define KEEP_MAGIC 0x6b656570u

struct keep {
    unsigned magic;
    pthread_mutex_t lock;
    struct keep_model model;   /* protected by lock */
    uint64_t changes, written; /* too: of the model; those that the index holds */
    struct keep_folder folder;
    pthread_mutex_t
        files; /* what comes into the folder of files and leaves it; never synced with it */
    bool usable, lasting;
    bool behind; /* another process of ours writes */
    bool unread; /* behind: its index says nothing to us, and is set aside once it is ours */
    struct err why_unread;

    /* Control's, but for what the jobs do. */
    struct loader *loader, *writer;
    struct event *later, *copy_later;
    void (*idle)(void *arg);
    void *arg;
    struct job copy, save; /* new files; all the rest */
    bool copying, copy_again, copy_failed;
    bool saving, save_again, save_behind; /* behind: as soon as files are copied */
    bool retrying;                        /* `later` waits to try again what failed */
    bool stopped;                         /* a drain: nothing is tried again */
    struct identity judged[JUDGED_MAX];   /* see keep_is_judged; newest first */
    bool lacking;                         /* see keep_lacks */
    struct err lacks;
    bool told;                            /* that it cannot be written, and it has not been since */
};

/* keep.c. Moves away an index that could not be read, and says so. */
int keep_set_aside(struct keep *k, struct err *err);

/* keep.c. A copy of what `is`, the first `skip` left out: of each plugin from the newest on. False:
   there is none, or no memory. The caller's to fini. */
bool keep_pick(struct keep *k, bool (*is)(const struct kept *kept, const void *arg),
               const void *arg, size_t skip, struct kept *out);

/* keep_write.c. By the model, or, when that has changed, perhaps by the index: then the next sweep
   decides. `arg`: the store. */
bool keep_is_wanted(const char *name, void *arg);

/* For tests: called before each step of writing, with its name. NULL otherwise. */
extern void (*keep_folder_step)(const char *step);

#endif
