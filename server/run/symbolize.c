/* See symbolize.h. */
#include "run/symbolize.h"

#include "base/str.h"

#include <fcntl.h>
#include <gelf.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILES_MAX   32
#define UNSIZED_MAX 4096             /* bytes of a function whose symbol does not say */
#define BYTES_MAX   ((off_t)1 << 30) /* of a file that is opened */

/* One mapping of code. */
struct code {
    uint64_t start, end, offset;
    const char *path; /* in the maps' text, up to path_len */
    size_t path_len;
};

struct file {
    const char *path;
    size_t path_len;
    int fd; /* -1: cannot be read */
    Elf *elf;
};

struct work {
    struct code *code; /* by address */
    size_t ncode, cap;
    struct file files[FILES_MAX];
    size_t nfiles;
    const char *stage;
};

/* ---- Maps ------------------------------------------------------------------------------------ */

/* "start-end r-xp offset dev inode   /path" */
static void add_line(struct work *w, const char *line, size_t len)
{
    char text[160];
    unsigned long long start, end, offset;
    char perms[5];
    int at = 0;
    snprintf(text, sizeof text, "%.*s", (int)(len < sizeof text ? len : sizeof text - 1), line);
    if (sscanf(text, "%llx-%llx %4s %llx %*s %*s %n", &start, &end, perms, &offset, &at) != 4 ||
        perms[2] != 'x' || at <= 0 || (size_t)at >= len || line[at] != '/' || start >= end)
        return;
    if (w->ncode == w->cap) {
        size_t cap = w->cap > 0 ? w->cap * 2 : 64;
        struct code *more = realloc(w->code, cap * sizeof *more);
        if (more == NULL)
            return;
        w->code = more;
        w->cap = cap;
    }
    w->code[w->ncode++] = (struct code){ start, end, offset, line + at, len - (size_t)at };
}

static int by_address(const void *a, const void *b)
{
    const struct code *x = a, *y = b;
    return x->start < y->start ? -1 : x->start > y->start;
}

static void read_maps(struct work *w, const char *maps, size_t len)
{
    while (len > 0) {
        const char *end = memchr(maps, '\n', len);
        if (end == NULL)
            break; /* cut */
        add_line(w, maps, (size_t)(end - maps));
        len -= (size_t)(end - maps) + 1;
        maps = end + 1;
    }
    if (w->ncode > 1)
        qsort(w->code, w->ncode, sizeof *w->code, by_address);
}

static const struct code *find_code(const struct work *w, uint64_t address)
{
    size_t low = 0, high = w->ncode;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (address < w->code[mid].start)
            high = mid;
        else if (address >= w->code[mid].end)
            low = mid + 1;
        else
            return &w->code[mid];
    }
    return NULL;
}

static bool is_staged(const struct work *w, const struct code *c)
{
    size_t n = strlen(w->stage);
    return c->path_len > n + 1 && memcmp(c->path, w->stage, n) == 0 && c->path[n] == '/';
}

/* ---- Files ----------------------------------------------------------------------------------- */

static int open_code(const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0 || !S_ISREG(st.st_mode)) /* a device may act on being opened */
        return -1;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= BYTES_MAX)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

static struct file *file_of(struct work *w, const struct code *c)
{
    char path[PATH_MAX];
    for (size_t i = 0; i < w->nfiles; i++)
        if (w->files[i].path_len == c->path_len &&
            memcmp(w->files[i].path, c->path, c->path_len) == 0)
            return &w->files[i];
    if (w->nfiles == FILES_MAX || c->path_len >= sizeof path)
        return NULL;
    struct file *f = &w->files[w->nfiles++];
    *f = (struct file){ .path = c->path, .path_len = c->path_len };
    memcpy(path, c->path, c->path_len);
    path[c->path_len] = '\0';
    f->fd = open_code(path);
    f->elf = f->fd >= 0 ? elf_begin(f->fd, ELF_C_READ, NULL) : NULL;
    return f;
}

static void close_files(struct work *w)
{
    for (size_t i = 0; i < w->nfiles; i++) {
        elf_end(w->files[i].elf);
        if (w->files[i].fd >= 0)
            close(w->files[i].fd);
    }
}

/* Whether what stands before the return address `at` (an offset in the file) is a call. */
static bool follows_call(const struct file *f, uint64_t at)
{
#if defined(__x86_64__)
    unsigned char b[7];
    if (f->fd < 0 || at < sizeof b || pread(f->fd, b, sizeof b, (off_t)(at - sizeof b)) != sizeof b)
        return false;
    if (b[2] == 0xe8) /* call rel32 */
        return true;
    for (unsigned back = 2; back <= 7; back++) { /* call r/m64: ff /2, with 0 to 5 bytes behind */
        const unsigned char *p = b + 7 - back;
        unsigned mod = p[1] >> 6, rm = p[1] & 7u;
        unsigned sib = mod != 3 && rm == 4, disp = mod == 1 ? 1 : mod == 2 ? 4 : 0;
        if (mod == 0 && rm == 5)
            disp = 4;
        if (p[0] == 0xff && ((unsigned)p[1] >> 3 & 7u) == 2 && 2 + sib + disp == back)
            return true;
    }
    return false;
#elif defined(__aarch64__)
    uint32_t word;
    if (f->fd < 0 || at < 4 || pread(f->fd, &word, 4, (off_t)(at - 4)) != 4)
        return false;
    return (word & 0xfc000000u) == 0x94000000u || (word & 0xfffffc1fu) == 0xd63f0000u;
#else
    (void)f;
    (void)at;
    return false;
#endif
}

/* ---- Symbols --------------------------------------------------------------------------------- */

static bool address_in_file(Elf *elf, uint64_t offset, uint64_t *address)
{
    size_t n = 0;
    GElf_Phdr p;
    if (elf_getphdrnum(elf, &n) != 0)
        return false;
    for (size_t i = 0; i < n && i < 1024; i++) {
        if (gelf_getphdr(elf, (int)i, &p) == NULL || p.p_type != PT_LOAD || offset < p.p_offset ||
            offset - p.p_offset >= p.p_filesz)
            continue;
        *address = offset - p.p_offset + p.p_vaddr;
        return true;
    }
    return false;
}

/* The function at `address` in one table of symbols: the nearest that begins before it. */
static void look_in(Elf *elf, Elf_Scn *scn, const GElf_Shdr *sh, uint64_t address, char out[128],
                    uint64_t *begin)
{
    Elf_Data *data = elf_getdata(scn, NULL);
    size_t n = data != NULL && sh->sh_entsize > 0 ? data->d_size / sh->sh_entsize : 0;
    GElf_Sym sym;
    for (size_t i = 0; i < n && i < 1u << 22; i++) {
        if (gelf_getsym(data, (int)i, &sym) == NULL || GELF_ST_TYPE(sym.st_info) != STT_FUNC ||
            sym.st_value > address || sym.st_value < *begin ||
            address - sym.st_value >= (sym.st_size > 0 ? sym.st_size : UNSIZED_MAX))
            continue;
        const char *name = elf_strptr(elf, sh->sh_link, sym.st_name);
        if (name == NULL || name[0] == '\0')
            continue;
        snprintf(out, 128, "%s", name);
        *begin = sym.st_value;
    }
}

/* "function+0x12", or "+0x1234" from the file's begin. */
static void name_function(struct file *f, uint64_t offset, char out[160])
{
    char name[128] = "";
    uint64_t address = offset, begin = 0;
    if (f != NULL && f->elf != NULL && address_in_file(f->elf, offset, &address)) {
        GElf_Shdr sh;
        for (Elf_Scn *s = NULL; (s = elf_nextscn(f->elf, s)) != NULL;)
            if (gelf_getshdr(s, &sh) != NULL &&
                (sh.sh_type == SHT_SYMTAB || sh.sh_type == SHT_DYNSYM))
                look_in(f->elf, s, &sh, address, name, &begin);
    }
    snprintf(out, 160, "%s+0x%" PRIx64, name, name[0] != '\0' ? address - begin : address);
}

/* ---- Frames ---------------------------------------------------------------------------------- */

static const char *last_part(const struct code *c, int *len)
{
    size_t at = c->path_len;
    while (at > 0 && c->path[at - 1] != '/')
        at--;
    *len = c->path_len - at < 100 ? (int)(c->path_len - at) : 100;
    return c->path + at;
}

/* The code at `pc`; NULL: there is none. `back` is 1 for a return address: the call stands before
   it, perhaps as a function's last. */
static const struct code *code_at(struct work *w, uint64_t pc, unsigned back, struct file **file)
{
    const struct code *c = find_code(w, pc);
    *file = c != NULL ? file_of(w, c) : NULL;
    if (c == NULL ||
        (back > 0 && (*file == NULL || !follows_call(*file, pc - c->start + c->offset))))
        return NULL;
    return c;
}

static void put_staged(const struct work *w, const struct code *c, char out[256])
{
    size_t below = strlen(w->stage) + 1;
    snprintf(out, 256, "%.*s", (int)(c->path_len - below), c->path + below);
}

static void add_frame(struct work *w, struct symbolized *out, uint64_t pc, unsigned back)
{
    struct file *f;
    const struct code *c = code_at(w, pc, back, &f);
    char function[160];
    int len;
    if (c == NULL)
        return;
    name_function(f, pc - back - c->start + c->offset, function);
    const char *name = last_part(c, &len);
    if (out->n < SYMBOLIZE_FRAMES)
        snprintf(out->frames[out->n++], sizeof out->frames[0], "%.*s: %s", len, name, function);
    if (out->function[0] != '\0' || !is_staged(w, c))
        return;
    memcpy(out->function, function, sizeof out->function);
    put_staged(w, c, out->staged);
}

static bool is_full(const struct symbolized *out)
{
    return out->n == SYMBOLIZE_FRAMES && out->function[0] != '\0';
}

/* From the top of the stack's copy: 0 when it is at its end. */
static uintptr_t next_word(const struct crash_frame *at, const unsigned char *stack, size_t *i)
{
    size_t len = at->stack_len <= CRASH_STACK_MAX ? at->stack_len : 0;
    uintptr_t word = 0;
    while (word == 0 && *i + sizeof word <= len) {
        memcpy(&word, stack + *i, sizeof word);
        *i += sizeof word;
    }
    return word;
}

static bool begin(struct work *w, const struct crash_frame *at, const char *maps)
{
    if (elf_version(EV_CURRENT) == EV_NONE)
        return false;
    read_maps(w, maps, at->maps_len <= CRASH_MAPS_MAX ? at->maps_len : 0);
    return true;
}

static void end(struct work *w)
{
    close_files(w);
    free(w->code);
}

void symbolize(const struct crash_frame *at, const unsigned char *stack, const char *maps,
               const char *stage, struct symbolized *out)
{
    struct work w = { .stage = stage };
    size_t i = 0;
    memset(out, 0, sizeof *out);
    if (!begin(&w, at, maps))
        return;
    add_frame(&w, out, at->pc, 0);
    for (uintptr_t word; !is_full(out) && (word = next_word(at, stack, &i)) != 0;)
        if (find_code(&w, word) != NULL)
            add_frame(&w, out, word, 1);
    end(&w);
}

void symbolize_staged(const struct crash_frame *at, const unsigned char *stack, const char *maps,
                      const char *stage, char staged[256])
{
    struct work w = { .stage = stage };
    struct file *f;
    size_t i = 0;
    staged[0] = '\0';
    if (!begin(&w, at, maps))
        return;
    const struct code *c = find_code(&w, at->pc);
    if (c == NULL || !is_staged(&w, c))
        c = NULL;
    for (uintptr_t word; c == NULL && (word = next_word(at, stack, &i)) != 0;) {
        c = find_code(&w, word);
        if (c == NULL || !is_staged(&w, c) || code_at(&w, word, 1, &f) == NULL)
            c = NULL;
    }
    if (c != NULL)
        put_staged(&w, c, staged);
    end(&w);
}
