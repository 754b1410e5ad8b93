/*
 * The preflight's checks, one function each, and the list of their findings.
 *
 * All checks run also after one has refused the file, so that graftctl check can show everything
 * at once. What is looked for is what the dynamic loader will look at, in the order of the table
 * below.
 */
#include "plugin/preflight.h"

#include "plugin/descriptor.h"
#include "plugin/elf_image.h"
#include "plugin/preflight_report.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX_BYTES (1024u * 1024 * 1024)

/* As long as a descriptor may sensibly be: graft_plugin has some hundred bytes. */
#define DESCRIPTOR_MAX_BYTES 65536u

#ifndef DF_1_PIE
#define DF_1_PIE 0x08000000
#endif

/* ---- Findings -------------------------------------------------------------------------------- */

void preflight_add(struct preflight_report *report, enum preflight_severity severity,
                   const char *fmt, ...)
{
    char *text = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&text, fmt, ap);
    va_end(ap);
    struct preflight_finding *grown =
        n < 0 ? NULL : realloc(report->findings, (report->count + 1) * sizeof(*grown));
    if (grown == NULL) {
        if (n >= 0)
            free(text);
        report->no_memory = true;
        return;
    }
    report->findings = grown;
    report->findings[report->count++] = (struct preflight_finding){ severity, text };
}

void preflight_report_fini(struct preflight_report *report)
{
    for (size_t i = 0; i < report->count; i++)
        free(report->findings[i].text);
    free(report->findings);
    memset(report, 0, sizeof(*report));
}

static int first_refusal(const struct preflight_report *report, struct err *err)
{
    for (size_t i = 0; i < report->count; i++)
        if (report->findings[i].severity == PREFLIGHT_REFUSAL)
            return err_set(err, "%s", report->findings[i].text);
    return report->no_memory ? err_set(err, "out of memory during the preflight") : 0;
}

/* ---- Checks ---------------------------------------------------------------------------------- */

static void check_pie(const struct elf_image *img, struct preflight_report *report)
{
    if ((img->flags_1 & DF_1_PIE) != 0)
        REFUSE(report, "an executable (PIE), expected a shared object: link it with cc -shared");
}

/* N of a defined "graft_plugin_vN", or -1. */
static long contract_of(const char *name, const GElf_Sym *sym)
{
    static const char prefix[] = "graft_plugin_v";
    if (strncmp(name, prefix, sizeof(prefix) - 1) != 0 || sym->st_shndx == SHN_UNDEF)
        return -1;
    const char *digits = name + sizeof(prefix) - 1;
    size_t len = strspn(digits, "0123456789");
    return len > 0 && len < 8 && digits[len] == '\0' ? strtol(digits, NULL, 10) : -1;
}

static void check_descriptor_symbol(const struct elf_image *img, const GElf_Sym *sym,
                                    struct preflight_report *report)
{
    static const char cure[] = "define it with GRAFT_PLUGIN(...)";
    if (GELF_ST_TYPE(sym->st_info) != STT_OBJECT)
        REFUSE(report,
               DESCRIPTOR_SYMBOL " has ELF type %d, expected a data object (STT_OBJECT): %s",
               (int)GELF_ST_TYPE(sym->st_info), cure);
    else if (sym->st_size < DESCRIPTOR_MIN_SIZE || sym->st_size > DESCRIPTOR_MAX_BYTES)
        REFUSE(report, DESCRIPTOR_SYMBOL " has %" PRIu64 " bytes, expected at least %zu: %s",
               (uint64_t)sym->st_size, (size_t)DESCRIPTOR_MIN_SIZE, cure);
    else if (!elf_image_mapped(img, sym->st_value, sym->st_size))
        REFUSE(report, DESCRIPTOR_SYMBOL " lies outside of the file's segments: damaged: build it "
                                         "again");
}

static void check_descriptor(const struct elf_image *img, struct preflight_report *report)
{
    GElf_Sym sym;
    long other = -1;
    for (size_t i = 0; elf_image_symbol(img, i, &sym); i++) {
        const char *name = elf_image_string(img, sym.st_name);
        long contract = name != NULL ? contract_of(name, &sym) : -1;
        if (contract == GRAFT_ABI) {
            check_descriptor_symbol(img, &sym, report);
            return;
        }
        if (contract >= 0)
            other = contract;
    }
    if (other >= 0)
        REFUSE(report,
               "contract %ld (graft_plugin_v%ld), this graftd offers %d: rebuild it with the SDK "
               "of this graftd or %s graftd",
               other, other, GRAFT_ABI, other > GRAFT_ABI ? "upgrade" : "downgrade");
    else
        REFUSE(report, "no descriptor: it does not define the symbol " DESCRIPTOR_SYMBOL
                       ": is it a graft plugin? Define it with GRAFT_PLUGIN(...) from "
                       "<graft/graft.h>, outside of any namespace");
}

/* Such a symbol has one home in the process: v2's code would run on v1's variables, and neither
   could ever be unloaded. */
static void check_unique(const struct elf_image *img, struct preflight_report *report)
{
    GElf_Sym sym;
    const char *first = NULL;
    size_t count = 0;
    for (size_t i = 0; elf_image_symbol(img, i, &sym); i++) {
        if (GELF_ST_BIND(sym.st_info) != STB_GNU_UNIQUE)
            continue;
        const char *name = elf_image_string(img, sym.st_name);
        if (count++ == 0 && name != NULL)
            first = name;
    }
    if (count > 0)
        REFUSE(report,
               "%zu symbol%s bound STB_GNU_UNIQUE (%.200s%s), expected none: every version would "
               "share it and none could be unloaded: compile with g++ -fno-gnu-unique "
               "(pkg-config --variable=gxxflags graft)",
               count, count == 1 ? "" : "s", first != NULL ? first : "?",
               count == 1 ? "" : ", ...");
}

static void check_textrel(const struct elf_image *img, struct preflight_report *report)
{
    if (img->textrel || (img->flags & DF_TEXTREL) != 0)
        REFUSE(report, "text relocations (DT_TEXTREL), expected none: compile every part of it, "
                       "also static libraries, with -fPIC (pkg-config --cflags graft)");
}

static void check_stack(const struct elf_image *img, struct preflight_report *report)
{
    GElf_Phdr ph;
    bool found = false;
    for (size_t i = 0; elf_image_segment(img, i, &ph); i++) {
        if (ph.p_type != PT_GNU_STACK)
            continue;
        found = true;
        if ((ph.p_flags & PF_X) != 0) {
            REFUSE(report, "asks for an executable stack (PT_GNU_STACK with PF_X): link with -z "
                           "noexecstack, and mend the assembler file or nested function that asks "
                           "for it");
            return;
        }
    }
    if (!found)
        REFUSE(report, "asks for an executable stack (no PT_GNU_STACK header): link with -z "
                       "noexecstack");
}

static void check_flags(const struct elf_image *img, struct preflight_report *report)
{
    if ((img->flags_1 & DF_1_NODELETE) != 0)
        REFUSE(report, "marked DF_1_NODELETE, so it could never be unloaded: link without -z "
                       "nodelete");
    if ((img->flags_1 & DF_1_NOOPEN) != 0)
        REFUSE(report, "marked DF_1_NOOPEN, so it cannot be loaded: link without -z nodlopen");
    if ((img->flags & DF_STATIC_TLS) != 0)
        WARN(report, "uses initial-exec thread-local storage (DF_STATIC_TLS): space for it is "
                     "short, and a swap fails when many versions are loaded: compile without "
                     "-ftls-model=initial-exec");
}

static void check_path(const char *tag, const char *path, struct preflight_report *report)
{
    if (path == NULL)
        return;
    if (strstr(path, "$ORIGIN") != NULL || strstr(path, "${ORIGIN}") != NULL) {
        REFUSE(report,
               "%s \"%.200s\" with $ORIGIN: plugins are loaded from a private copy, so a library "
               "beside the plugin would not be found: link it statically, or give an absolute path "
               "(-Wl,-rpath,/opt/...)",
               tag, path);
        return;
    }
    for (const char *dir = path;; dir++) {
        if (*dir != '/' && *dir != '$') {
            WARN(report,
                 "%s \"%.200s\" has a relative or empty folder: what it finds depends on "
                 "where graftd was started: give absolute paths",
                 tag, path);
            return;
        }
        dir += strcspn(dir, ":");
        if (*dir == '\0')
            return;
    }
}

static void check_paths(const struct elf_image *img, struct preflight_report *report)
{
    check_path("RPATH", img->rpath, report);
    check_path("RUNPATH", img->runpath, report);
}

static void check_imports(const struct elf_image *img, struct preflight_report *report)
{
    static const char prefix[] = "__cxa_thread_atexit";
    GElf_Sym sym;
    for (size_t i = 0; elf_image_symbol(img, i, &sym); i++) {
        const char *name = elf_image_string(img, sym.st_name);
        if (name == NULL || sym.st_shndx != SHN_UNDEF ||
            strncmp(name, prefix, sizeof(prefix) - 1) != 0)
            continue;
        report->stays_mapped = true;
        WARN(report,
             "imports %s: a thread_local with a destructor keeps the version mapped after it is "
             "over (it will show as stuck): do without the destructor, or keep such data in what "
             "worker_init makes",
             name);
        return;
    }
}

static void (*const checks[])(const struct elf_image *, struct preflight_report *) = {
    check_pie,   check_descriptor, check_unique, check_textrel,
    check_stack, check_flags,      check_paths,  check_imports,
};

/* ---- Entry ----------------------------------------------------------------------------------- */

static int check_image(const void *image, size_t size, bool with_needed,
                       struct preflight_report *report, struct err *err)
{
    struct elf_image img;
    struct err why = { "" };
    if (elf_image_open(&img, image, size, &why) != 0) {
        REFUSE(report, "%s", why.text);
        return first_refusal(report, err);
    }
    for (size_t i = 0; i < ARRAY_LEN(checks); i++)
        checks[i](&img, report);
    if (with_needed)
        preflight_needed(&img, report);
    elf_image_close(&img);
    return first_refusal(report, err);
}

int preflight_image(const void *image, size_t size, struct preflight_report *report,
                    struct err *err)
{
    struct preflight_report own = { 0 };
    if (report != NULL)
        *report = own;
    int rc = check_image(image, size, false, report != NULL ? report : &own, err);
    preflight_report_fini(&own);
    return rc;
}

/* A device may act on being opened: looked at before, and again on what was opened. */
static int open_regular(const char *path, struct stat *st, struct err *err)
{
    if (stat(path, st) != 0)
        return err_set(err, "cannot open it: %s", strerror(errno));
    int fd = S_ISREG(st->st_mode) ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY) : -1;
    if (S_ISREG(st->st_mode) && fd < 0)
        return err_set(err, "cannot open it: %s", strerror(errno));
    if (fd >= 0 && fstat(fd, st) == 0 && S_ISREG(st->st_mode))
        return fd;
    if (fd >= 0)
        close(fd);
    return err_set(err, "not a regular file");
}

static int read_all(int fd, char *to, size_t size, struct err *err)
{
    for (size_t got = 0; got < size;) {
        ssize_t n = pread(fd, to + got, size - got, (off_t)got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return err_set(err,
                           n < 0 ? "cannot read it: %s" : "it became shorter while it was read%s",
                           n < 0 ? strerror(errno) : "");
        got += (size_t)n;
    }
    return 0;
}

void *preflight_read_file(const char *path, size_t *size, struct err *err)
{
    struct stat st;
    int fd = open_regular(path, &st, err);
    if (fd < 0)
        return NULL;
    char *data = NULL;
    if (st.st_size > FILE_MAX_BYTES)
        err_set(err, "has %jd bytes, at most %u are read", (intmax_t)st.st_size, FILE_MAX_BYTES);
    else if ((data = malloc(st.st_size > 0 ? (size_t)st.st_size : 1)) == NULL)
        err_set(err, "out of memory: %jd bytes to read", (intmax_t)st.st_size);
    *size = (size_t)st.st_size;
    if (data != NULL && read_all(fd, data, *size, err) != 0) {
        free(data);
        data = NULL;
    }
    close(fd);
    return data;
}

int preflight(const char *path, struct preflight_report *report, struct err *err)
{
    struct preflight_report own = { 0 };
    struct err why = { "" };
    size_t size = 0;
    int rc;
    if (report != NULL)
        *report = own;
    struct preflight_report *to = report != NULL ? report : &own;
    void *image = preflight_read_file(path, &size, &why);
    if (image == NULL) {
        REFUSE(to, "%s", why.text);
        rc = first_refusal(to, err);
    } else {
        rc = check_image(image, size, true, to, err);
    }
    free(image);
    preflight_report_fini(&own);
    return rc;
}
