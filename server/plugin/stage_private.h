/* Between stage.c (which root, opened and closed), stage_folder.c (its folders) and stage_renew.c
   (made again) only. */
#ifndef GRAFT_PLUGIN_STAGE_PRIVATE_H
#define GRAFT_PLUGIN_STAGE_PRIVATE_H

#include "plugin/stage.h"

#define STAGE_MAGIC     0x73746167u
#define STAGE_NAME_SIZE 64
#define STAGE_FOLDER    (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
#define STAGE_LOCK      ".lock" /* no BASE begins with a dot */

struct stage {
    unsigned magic;
    int root_fd, dir_fd, lock_fd;
    char name[STAGE_NAME_SIZE]; /* in the root: PID-STARTTIME */
    char *path;
};

/* Folders: of a name that a stage has; "." or ".."; `name` in `parent` is what `fd` has open. */
bool stage_folder_is_one(const char *name);
bool stage_folder_is_dots(const char *name);
bool stage_folder_is_entry(int parent, const char *name, int fd);
/* The lock of the folder `dir_fd`, taken. -1: errno, EWOULDBLOCK when somebody has it. */
int stage_folder_lock(int dir_fd);
/* Removes the folders in the root, but `own`, of processes that are no more. */
void stage_folder_sweep(int root_fd, const char *own);

/* Our own: makes or takes over the folder `name`. 0; or -1 with errno, EWOULDBLOCK when it is in
   use, EAGAIN when it vanished meanwhile. Removed with all that is in it. */
int stage_folder_claim(struct stage *s, const char *name);
void stage_folder_remove(struct stage *s);
/* What the kernel calls it: absolute, links resolved. NULL: no memory, no /proc. */
char *stage_folder_path(int fd);

/* The root: makes the folders above `path` that are missing, then `path` itself, 0700. 0 or -1 with
   errno. */
int stage_root_make(const char *path, mode_t parents);
/* Nothing in it but stage folders: then it is ours to make private. */
bool stage_root_is_ours(int fd);
/* Made when it is missing, opened and judged; or -1, and `why` says what is wrong with it. */
int stage_root_open(const char *path, char why[256]);

#endif
