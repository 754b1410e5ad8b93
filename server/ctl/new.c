/*
 * graftctl new NAME: writes the folder NAME from templates. A template set is up to four folders,
 * LANG-KIND, LANG, common and KIND, in this order; a file that several of them have is written one
 * after the other. In names "NAME", and in texts the words between '@', are replaced; "dot-" at the
 * beginning of a name is a dot. Files that begin with "#!" become executable; templates of such
 * begin with "@RUN@", for they are no programs.
 *
 * The folder is made under another name and renamed in the end: it is there whole, or not at all.
 */
#include "ctl/new.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/fd.h"
#include "ctl/folder.h"
#include "ctl/installed.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define NAME_MAX_LEN 64
#define LAYERS       4

static const struct language {
    const char *name, *shown, *tools;
} languages[] = {
    { "c", "C", "pkg-config" },
    { "c++", "C++", "pkg-config" },
    { "rust", "Rust", "rustc" },
};

struct project {
    const struct language *lang;
    const char *name, *kind;
    char ident[NAME_MAX_LEN + 1]; /* the name as C and Rust spell one */
    char author[128], email[128], date[64], year[16];
    char templates[PATH_MAX], layers[LAYERS][PATH_MAX];
    char made[PATH_MAX]; /* the folder until it is renamed */
};

/* ---- Text ------------------------------------------------------------------------------------ */

static const char *value_of(const struct project *p, const char *word, size_t len)
{
    const struct {
        const char *word, *value;
    } words[] = {
        { "NAME", p->name },         { "IDENT", p->ident },   { "LANG", p->lang->shown },
        { "TOOLS", p->lang->tools }, { "AUTHOR", p->author }, { "EMAIL", p->email },
        { "DATE", p->date },         { "YEAR", p->year },     { "RUN", "#!" },
    };
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (strlen(words[i].word) == len && memcmp(words[i].word, word, len) == 0)
            return words[i].value;
    return NULL;
}

static int substitute(const struct project *p, const char *text, size_t len, struct buf *out)
{
    int rc = 0;
    for (size_t i = 0; i < len && rc == 0;) {
        const char *end = text[i] == '@' ? memchr(text + i + 1, '@', len - i - 1) : NULL;
        const char *value =
            end != NULL ? value_of(p, text + i + 1, (size_t)(end - text) - i - 1) : NULL;
        if (value != NULL) {
            rc = buf_puts(out, value);
            i = (size_t)(end - text) + 1;
        } else {
            rc = buf_add(out, text + i++, 1);
        }
    }
    return rc;
}

static int add_file(const struct project *p, const char *path, struct buf *out, struct err *err)
{
    struct buf text = { 0 };
    int fd = open(path, O_RDONLY | O_CLOEXEC), rc = fd < 0 ? -1 : 0;
    while (rc == 0) {
        rc = buf_reserve(&text, 16384);
        ssize_t n = rc == 0 ? read(fd, text.data + text.len, 16384) : -1;
        if (n <= 0) {
            rc = (int)n;
            break;
        }
        text.len += (size_t)n;
    }
    if (rc == 0)
        rc = substitute(p, text.data, text.len, out);
    if (rc != 0)
        err_set(err, "cannot read the template %s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    buf_fini(&text);
    return rc;
}

/* ---- The folder ------------------------------------------------------------------------------ */

/* One part of a template's path as it is called in the project. */
static int target_part(const struct project *p, const char *part, struct buf *out)
{
    static const char hole[] = "NAME", dot[] = "dot-";
    int rc = buf_puts(out, "/");
    if (strncmp(part, dot, sizeof dot - 1) == 0) {
        rc = rc == 0 ? buf_puts(out, ".") : rc;
        part += sizeof dot - 1;
    }
    const char *at = strstr(part, hole);
    if (rc != 0 || at == NULL)
        return rc == 0 ? buf_puts(out, part) : rc;
    return buf_printf(out, "%.*s%s%s", (int)(at - part), part, p->name, at + sizeof hole - 1);
}

/* Every layer's file of that path, one after the other. */
static int write_file(const struct project *p, const char *relative, const char *target,
                      struct err *err)
{
    struct buf text = { 0 };
    int rc = 0;
    for (size_t i = 0; i < LAYERS && rc == 0; i++) {
        char path[PATH_MAX * 2];
        snprintf(path, sizeof path, "%s%s", p->layers[i], relative);
        if (access(path, F_OK) == 0)
            rc = add_file(p, path, &text, err);
    }
    bool program = text.len > 2 && memcmp(text.data, "#!", 2) == 0;
    int fd =
        rc != 0 ? -1 : open(target, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, program ? 0777 : 0666);
    if (rc == 0 && (fd < 0 || fd_write_all(fd, text.data, text.len) != 0))
        rc = err_set(err, "cannot write %s: %s", target, strerror(errno));
    if (fd >= 0 && close(fd) != 0 && rc == 0)
        rc = err_set(err, "cannot write %s: %s", target, strerror(errno));
    buf_fini(&text);
    return rc;
}

static int write_folder(const struct project *p, const char *layer, const char *relative,
                        const char *target, struct err *err);

static int write_entry(const struct project *p, const char *layer, const char *relative,
                       const char *target, const char *name, struct err *err)
{
    struct buf below = { 0 }, made = { 0 }, source = { 0 };
    struct stat st;
    int rc = buf_printf(&below, "%s/%s", relative, name) != 0 || buf_puts(&made, target) != 0 ||
                     target_part(p, name, &made) != 0 ||
                     buf_printf(&source, "%s%s", layer, below.data) != 0
                 ? err_set(err, "out of memory")
                 : 0;
    if (rc == 0 && stat(source.data, &st) != 0)
        rc = err_set(err, "cannot read the template %s: %s", source.data, strerror(errno));
    if (rc == 0 && S_ISDIR(st.st_mode))
        rc = write_folder(p, layer, below.data, made.data, err);
    else if (rc == 0 && access(made.data, F_OK) != 0) /* else an earlier layer had it */
        rc = write_file(p, below.data, made.data, err);
    buf_fini(&below);
    buf_fini(&made);
    buf_fini(&source);
    return rc;
}

static int write_folder(const struct project *p, const char *layer, const char *relative,
                        const char *target, struct err *err)
{
    char path[PATH_MAX * 2];
    snprintf(path, sizeof path, "%s%s", layer, relative);
    DIR *dir = opendir(path);
    if (dir == NULL && errno == ENOENT)
        return 0; /* there need not be each layer */
    if (dir == NULL)
        return err_set(err, "cannot read the templates in %s: %s", path, strerror(errno));
    int rc = 0;
    if (mkdir(target, 0777) != 0 && errno != EEXIST)
        rc = err_set(err, "cannot make %s: %s", target, strerror(errno));
    for (struct dirent *e; rc == 0 && (e = readdir(dir)) != NULL;)
        if (e->d_name[0] != '.')
            rc = write_entry(p, layer, relative, target, e->d_name, err);
    closedir(dir);
    return rc;
}

static int write_project(struct project *p, struct err *err)
{
    snprintf(p->made, sizeof p->made, ".%s.%ld.new", p->name, (long)getpid());
    int rc = 0;
    for (size_t i = 0; i < LAYERS && rc == 0; i++)
        rc = write_folder(p, p->layers[i], "", p->made, err);
    /* rename() would take the place of an empty folder. */
    if (rc == 0 && renameat2(AT_FDCWD, p->made, AT_FDCWD, p->name, RENAME_NOREPLACE) != 0)
        rc = err_set(err, "cannot make %s: %s", p->name, strerror(errno));
    if (rc != 0)
        folder_remove(p->made);
    return rc;
}

/* ---- What is asked for ----------------------------------------------------------------------- */

static bool name_is_valid(const char *name)
{
    size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-");
    return name[0] >= 'a' && name[0] <= 'z' && name[len] == '\0' && len <= NAME_MAX_LEN &&
           name[len - 1] != '-';
}

static const struct language *find_language(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(languages); i++)
        if (strcmp(languages[i].name, name) == 0)
            return &languages[i];
    return NULL;
}

/* Without what would end a line or a field of debian/control. */
static void copy_plain(char *out, size_t size, const char *text)
{
    size_t n = 0;
    for (; *text != '\0' && *text != ',' && n + 1 < size; text++)
        if ((unsigned char)*text >= ' ' && strchr("<>@", *text) == NULL)
            out[n++] = *text;
    out[n] = '\0';
}

/* As Debian's tools do it: DEBFULLNAME and DEBEMAIL, else who is at work. */
static void find_author(struct project *p)
{
    const char *full = getenv("DEBFULLNAME"), *email = getenv("DEBEMAIL");
    const struct passwd *pw = getpwuid(getuid());
    const char *user = pw != NULL ? pw->pw_name : "nobody";
    if (full == NULL || full[0] == '\0')
        full =
            pw != NULL && pw->pw_gecos != NULL && pw->pw_gecos[0] != '\0' && pw->pw_gecos[0] != ','
                ? pw->pw_gecos
                : user;
    copy_plain(p->author, sizeof p->author, full);
    if (email != NULL && email[0] != '\0' && strpbrk(email, "<> \n") == NULL)
        snprintf(p->email, sizeof p->email, "%s", email);
    else
        snprintf(p->email, sizeof p->email, "%s@localhost", user);
}

static int find_templates(struct project *p, struct err *err)
{
    const char *env = getenv("GRAFT_TEMPLATES");
    snprintf(p->templates, sizeof p->templates, "%s",
             env != NULL && env[0] != '\0' ? env : installed_templates);
    const char *const forms[LAYERS][2] = {
        { p->lang->name, p->kind }, { p->lang->name, "" }, { "common", "" }, { p->kind, "" }
    };
    for (size_t i = 0; i < LAYERS; i++) {
        int n = snprintf(p->layers[i], sizeof p->layers[i], "%s/%s%s%s", p->templates, forms[i][0],
                         forms[i][1][0] != '\0' ? "-" : "", forms[i][1]);
        if (n < 0 || (size_t)n >= sizeof p->layers[i])
            return err_set(err, "the path of the templates is too long: %.100s…", p->templates);
    }
    if (access(p->layers[0], R_OK | X_OK) != 0)
        return err_set(err,
                       "no templates in %s: install graft's development files (Debian: graft-dev), "
                       "or have GRAFT_TEMPLATES name their folder",
                       p->layers[0]);
    return 0;
}

static int usage(const char *what, const char *found, const char *expected)
{
    fprintf(stderr, "graftctl: new: %s '%s': expected %s\n", what, found, expected);
    return 2;
}

int new_plugin(const char *name, const char *lang, bool middleware)
{
    struct project p = { .name = name, .kind = middleware ? "middleware" : "handler" };
    struct err err;
    struct stat st;
    if (!name_is_valid(name))
        return usage("no name for a plugin", name,
                     "a to z, then a to z, 0 to 9 and '-', at most 64, no '-' at the end");
    p.lang = find_language(lang != NULL ? lang : "c");
    if (p.lang == NULL)
        return usage("unknown language", lang, "c, c++ or rust");
    snprintf(p.ident, sizeof p.ident, "%s", name);
    for (char *c = p.ident; *c != '\0'; c++)
        *c = *c == '-' ? '_' : *c;
    find_author(&p);
    time_t now = time(NULL);
    struct tm tm;
    gmtime_r(&now, &tm);
    strftime(p.date, sizeof p.date, "%a, %d %b %Y %H:%M:%S +0000", &tm);
    strftime(p.year, sizeof p.year, "%Y", &tm);
    int rc = find_templates(&p, &err);
    if (rc == 0 && lstat(name, &st) == 0)
        rc = err_set(&err, "%s is here already: choose another name, or remove it first", name);
    if (rc == 0)
        rc = write_project(&p, &err);
    if (rc != 0) {
        fprintf(stderr, "graftctl: new: %s\n", err.text);
        return 1;
    }
    printf("%s: a %s in %s. Next:\n\n    cd %s\n    make dev      # serves it, and swaps it in on "
           "every save\n    make check    # tries it\n",
           name, p.kind, p.lang->shown, name);
    return 0;
}
