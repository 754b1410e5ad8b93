/*
 * A plugin's dependencies (DT_NEEDED), before the dynamic loader looks for them.
 *
 * glibc knows loaded libraries by name: a plugin that was built with a newer libfoo.so.1 silently
 * gets the libfoo.so.1 that is mapped already. For the system's libraries that is wanted; for a
 * library that came with the plugin it means that the new version runs with the old code. So: what
 * is found outside of the system's folders, and is mapped under that name, must be the same file.
 *
 * Finds libraries as ld.so does, as far as that matters here: RPATH, LD_LIBRARY_PATH, RUNPATH, and
 * for the rest what is loaded already. Keeps no state.
 */
#include "plugin/elf_image.h"
#include "plugin/preflight_report.h"

#include <fcntl.h>
#include <link.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Libraries of libraries are followed as far as this. */
#define LIBRARIES_MAX 64

/* A library that is mapped in this process. */
struct loaded {
    struct loaded *next;
    char *name;   /* as ld.so opened it */
    char *soname; /* "" when it has none */
    uintptr_t address;
};

struct search {
    struct preflight_report *report;
    struct loaded *loaded;
    bool listed;
    char *paths[LIBRARIES_MAX]; /* libraries to follow; the first `done` have been */
    size_t count;
    bool full; /* said so */
};

/* ---- The system's folders -------------------------------------------------------------------- */

/* "x86_64-linux-gnu", and what glibc looks for below it. */
static bool is_multiarch(const char *below)
{
    const char *slash = strchr(below, '/'), *linux_part = strstr(below, "-linux-");
    if (linux_part == NULL || linux_part == below || (slash != NULL && linux_part > slash))
        return false;
    return slash == NULL || strncmp(slash, "/glibc-hwcaps/", 14) == 0;
}

static bool is_system_folder(const char *dir)
{
    static const char *const folders[] = { "/lib",   "/usr/lib",   "/lib64",  "/usr/lib64",
                                           "/lib32", "/usr/lib32", "/libx32", "/usr/libx32" };
    for (size_t i = 0; i < ARRAY_LEN(folders); i++) {
        size_t len = strlen(folders[i]);
        if (strncmp(dir, folders[i], len) != 0)
            continue;
        if (dir[len] == '\0' || (dir[len] == '/' && is_multiarch(dir + len + 1)))
            return true;
    }
    return false;
}

bool preflight_system_library(const char *path)
{
    char dir[PATH_MAX];
    const char *slash = strrchr(path, '/');
    if (slash == NULL || (size_t)(slash - path) >= sizeof(dir))
        return false;
    memcpy(dir, path, (size_t)(slash - path));
    dir[slash - path] = '\0';
    char *real = realpath(dir[0] != '\0' ? dir : "/", NULL); /* /lib is a link to /usr/lib */
    bool yes = is_system_folder(real != NULL ? real : dir);
    free(real);
    return yes;
}

/* ---- What is mapped already ------------------------------------------------------------------ */

/* DT_SONAME of a mapped object, or "". */
static const char *soname_of(const struct dl_phdr_info *info, const ElfW(Phdr) * dynamic)
{
    const ElfW(Dyn) *d = (const ElfW(Dyn) *)(info->dlpi_addr + dynamic->p_vaddr);
    uintptr_t strings = 0, soname = 0;
    for (; d->d_tag != DT_NULL; d++) {
        if (d->d_tag == DT_STRTAB)
            strings = d->d_un.d_ptr;
        else if (d->d_tag == DT_SONAME)
            soname = d->d_un.d_val;
    }
    if (strings == 0 || soname == 0)
        return "";
    if (strings < info->dlpi_addr) /* not every libc relocates it in place */
        strings += info->dlpi_addr;
    return (const char *)(strings + soname);
}

static int note_loaded(struct dl_phdr_info *info, size_t size, void *arg)
{
    (void)size;
    struct search *s = arg;
    if (info->dlpi_name == NULL || strchr(info->dlpi_name, '/') == NULL)
        return 0; /* the program itself, the vdso */
    const ElfW(Phdr) *load = NULL, *dynamic = NULL;
    for (int i = info->dlpi_phnum - 1; i >= 0; i--) {
        if (info->dlpi_phdr[i].p_type == PT_LOAD)
            load = &info->dlpi_phdr[i];
        else if (info->dlpi_phdr[i].p_type == PT_DYNAMIC)
            dynamic = &info->dlpi_phdr[i];
    }
    struct loaded *l = calloc(1, sizeof(*l));
    if (l == NULL || load == NULL) {
        free(l);
        return 0;
    }
    l->name = strdup(info->dlpi_name);
    l->soname = strdup(dynamic != NULL ? soname_of(info, dynamic) : "");
    l->address = info->dlpi_addr + load->p_vaddr;
    l->next = s->loaded;
    s->loaded = l;
    return 0;
}

static const struct loaded *find_loaded(struct search *s, const char *needed)
{
    if (!s->listed)
        dl_iterate_phdr(note_loaded, s);
    s->listed = true;
    for (const struct loaded *l = s->loaded; l != NULL; l = l->next) {
        if (l->name == NULL || l->soname == NULL) {
            s->report->no_memory = true;
            continue;
        }
        if (strcmp(l->soname, needed) == 0 || strcmp(strrchr(l->name, '/') + 1, needed) == 0 ||
            strcmp(l->name, needed) == 0)
            return l;
    }
    return NULL;
}

static void free_search(struct search *s)
{
    for (struct loaded *l = s->loaded, *next; l != NULL; l = next) {
        next = l->next;
        free(l->name);
        free(l->soname);
        free(l);
    }
    for (size_t i = 0; i < s->count; i++)
        free(s->paths[i]);
}

/* The file behind a mapping, as /proc names it; false when that cannot be found out. */
static bool mapped_file(uintptr_t address, char path[PATH_MAX])
{
    FILE *maps = fopen("/proc/self/maps", "re");
    char *line = NULL;
    size_t size = 0;
    bool found = false;
    while (maps != NULL && !found && getline(&line, &size, maps) > 0) {
        unsigned long from, to;
        int at = 0;
        if (sscanf(line, "%lx-%lx %*s %*s %*s %*s %n", &from, &to, &at) != 2 || at == 0 ||
            address < from || address >= to || line[at] != '/')
            continue;
        line[strcspn(line, "\n")] = '\0';
        found = strlen(line + at) < PATH_MAX;
        if (found)
            memcpy(path, line + at, strlen(line + at) + 1);
    }
    free(line);
    if (maps != NULL)
        fclose(maps);
    return found;
}

/* Names, not device and inode numbers, lead to the mapped file: overlayfs and btrfs show other
   numbers in /proc/self/maps than stat does. */
static bool is_mapped_file(const char *mapped, const struct stat *file)
{
    static const char gone[] = " (deleted)";
    size_t len = strlen(mapped);
    struct stat st;
    if (len >= sizeof(gone) - 1 && strcmp(mapped + len - (sizeof(gone) - 1), gone) == 0)
        return false;
    return stat(mapped, &st) == 0 && st.st_dev == file->st_dev && st.st_ino == file->st_ino;
}

/* `path` is what the name leads to now, `l` what is loaded under it. */
static void compare(struct search *s, const char *needed, const char *path, const struct loaded *l)
{
    char mapped[PATH_MAX];
    struct stat st;
    if (stat(path, &st) != 0 || !mapped_file(l->address, mapped)) {
        WARN(
            s->report,
            "cannot find out whether its dependency %.200s is the file that is loaded: if not, the "
            "loaded one is used: link it statically",
            needed);
        return;
    }
    if (!is_mapped_file(mapped, &st))
        REFUSE(s->report,
               "depends on %.200s, which is %.300s, but another file (%.300s) is loaded under that "
               "name and would be used instead: give the new library a SONAME of its own, link it "
               "statically, or wait until the version that uses the old one is over",
               needed, path, mapped);
}

/* ---- Where a name leads ---------------------------------------------------------------------- */

static bool is_file(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

/* Looks for `needed` in a list of folders. */
static bool find_in(const char *dirs, const char *separators, const char *needed,
                    char path[PATH_MAX])
{
    for (const char *dir = dirs; dir != NULL;) {
        int len = (int)strcspn(dir, separators);
        bool fits =
            snprintf(path, PATH_MAX, "%.*s%s%s", len, dir, len > 0 ? "/" : "", needed) < PATH_MAX;
        if (fits && memchr(dir, '$', (size_t)len) == NULL && is_file(path))
            return true;
        dir = dir[len] != '\0' ? dir + len + 1 : NULL;
    }
    return false;
}

bool preflight_resolve(const struct elf_image *img, const char *needed, char path[PATH_MAX])
{
    if (strchr(needed, '/') != NULL)
        return snprintf(path, PATH_MAX, "%s", needed) < PATH_MAX && is_file(path);
    return (img->runpath == NULL && find_in(img->rpath, ":", needed, path)) ||
           find_in(getenv("LD_LIBRARY_PATH"), ":;", needed, path) ||
           find_in(img->runpath, ":", needed, path);
}

/* Remembers a library whose own dependencies are to be looked at. */
static void follow(struct search *s, const char *path)
{
    for (size_t i = 0; i < s->count; i++)
        if (strcmp(s->paths[i], path) == 0)
            return;
    if (s->count == LIBRARIES_MAX) {
        if (!s->full)
            WARN(s->report,
                 "more than %d libraries of its own: the others are not looked at: link some "
                 "statically",
                 LIBRARIES_MAX);
        s->full = true;
        return;
    }
    char *copy = strdup(path);
    if (copy == NULL)
        s->report->no_memory = true;
    else
        s->paths[s->count++] = copy;
}

static void check_one(struct search *s, const struct elf_image *img, const char *needed)
{
    char path[PATH_MAX];
    bool found = preflight_resolve(img, needed, path);
    if (found && preflight_system_library(path))
        return;
    const struct loaded *l = find_loaded(s, needed);
    if (found && l != NULL)
        compare(s, needed, path, l);
    else if (found)
        follow(s, path);
    else if (l != NULL && !preflight_system_library(l->name))
        compare(s, needed, l->name, l); /* from ld.so.conf, such as /usr/local/lib */
}

static void check_all(struct search *s, const struct elf_image *img)
{
    GElf_Dyn d;
    for (size_t i = 0; elf_image_dynamic(img, i, &d); i++) {
        if (d.d_tag != DT_NEEDED)
            continue;
        const char *needed = elf_image_string(img, d.d_un.d_val);
        if (needed == NULL) {
            REFUSE(s->report, "damaged: the name of a dependency lies outside of the file: build "
                              "it again");
            return;
        }
        check_one(s, img, needed);
    }
}

void preflight_needed(const struct elf_image *img, struct preflight_report *report)
{
    struct search s = { .report = report };
    check_all(&s, img);
    for (size_t i = 0; i < s.count; i++) {
        struct elf_image lib;
        size_t size = 0;
        struct err why;
        void *data = preflight_read_file(s.paths[i], &size, &why);
        if (data != NULL && elf_image_open(&lib, data, size, &why) == 0) {
            check_all(&s, &lib);
            elf_image_close(&lib);
        } /* else: the probe's dlopen says it better */
        free(data);
    }
    free_search(&s);
}
