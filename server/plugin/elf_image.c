/*
 * Reading ELF that may be hostile.
 *
 * elf_measure proves, with our own arithmetic, that both header tables lie in the file; only then
 * does libelf see it (it sizes its own tables by what the header claims). What the dynamic section
 * points to is bounded by the segment that it lies in. Keeps no state; any thread.
 */
#include "plugin/elf_image.h"

#include <link.h>
#include <stdio.h>
#include <string.h>

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define OUR_DATA ELFDATA2LSB
#else
#define OUR_DATA ELFDATA2MSB
#endif
#if UINTPTR_MAX > 0xffffffffu
#define OUR_CLASS ELFCLASS64
#else
#define OUR_CLASS ELFCLASS32
#endif

#if defined(__x86_64__)
#define OUR_MACHINE EM_X86_64
#elif defined(__aarch64__)
#define OUR_MACHINE EM_AARCH64
#elif defined(__riscv)
#define OUR_MACHINE EM_RISCV
#elif defined(__powerpc__)
#define OUR_MACHINE (sizeof(void *) == 8 ? EM_PPC64 : EM_PPC)
#elif defined(__s390__)
#define OUR_MACHINE EM_S390
#elif defined(__arm__)
#define OUR_MACHINE EM_ARM
#elif defined(__i386__)
#define OUR_MACHINE EM_386
#elif defined(__loongarch__)
#define OUR_MACHINE 258
#elif defined(__mips__)
#define OUR_MACHINE EM_MIPS
#else
#error "elf_image.c: tell which EM_... number this machine has"
#endif

/* ---- Measuring ------------------------------------------------------------------------------- */

struct reach {
    uint64_t end; /* the farthest so far */
    const char *what;
};

static void reach_to(struct reach *r, uint64_t offset, uint64_t size, const char *what)
{
    uint64_t end = offset + size < offset ? UINT64_MAX : offset + size;
    if (size > 0 && end > r->end) {
        r->end = end;
        r->what = what;
    }
}

/* `count` entries at `offset`: true when the whole table lies in the file, else noted in r. */
static bool table_fits(struct reach *r, size_t file_size, uint64_t offset, uint64_t count,
                       uint64_t entry, const char *what)
{
    uint64_t size = count > UINT64_MAX / entry ? UINT64_MAX : count * entry;
    reach_to(r, offset, size, what);
    return offset <= file_size && size <= file_size - offset;
}

/* How many section headers: an ELF header's 0 means "see the first of them". False: it is out of
   the file. */
static bool count_sections(const char *data, size_t size, const ElfW(Ehdr) * eh, struct reach *r,
                           uint64_t *count)
{
    ElfW(Shdr) first;
    *count = eh->e_shnum;
    if (eh->e_shoff == 0)
        return true;
    if (!table_fits(r, size, eh->e_shoff, 1, sizeof(first), "section headers"))
        return false;
    memcpy(&first, data + eh->e_shoff, sizeof(first));
    if (*count == 0)
        *count = first.sh_size;
    return true;
}

static void measure_segments(const char *data, const ElfW(Ehdr) * eh, struct reach *r)
{
    for (size_t i = 0; i < eh->e_phnum; i++) {
        ElfW(Phdr) ph;
        memcpy(&ph, data + eh->e_phoff + i * sizeof(ph), sizeof(ph));
        if (ph.p_type != PT_NULL)
            reach_to(r, ph.p_offset, ph.p_filesz, "segments");
    }
}

static void measure_sections(const char *data, const ElfW(Ehdr) * eh, uint64_t count,
                             struct reach *r)
{
    for (uint64_t i = 1; i < count; i++) {
        ElfW(Shdr) sh;
        memcpy(&sh, data + eh->e_shoff + i * sizeof(sh), sizeof(sh));
        if (sh.sh_type != SHT_NULL && sh.sh_type != SHT_NOBITS)
            reach_to(r, sh.sh_offset, sh.sh_size, "sections");
    }
}

/* The header is complete and of our class: r gets all that it announces. */
static void measure_tables(const char *data, size_t size, const ElfW(Ehdr) * eh, struct reach *r)
{
    uint64_t sections;
    if (eh->e_phoff > 0 &&
        table_fits(r, size, eh->e_phoff, eh->e_phnum, sizeof(ElfW(Phdr)), "program headers"))
        measure_segments(data, eh, r);
    if (count_sections(data, size, eh, r, &sections) && eh->e_shoff > 0 &&
        table_fits(r, size, eh->e_shoff, sections, sizeof(ElfW(Shdr)), "section headers"))
        measure_sections(data, eh, sections, r);
}

enum elf_reach elf_measure(const void *data, size_t size, uint64_t *end, const char **what)
{
    static const char nothing[SELFMAG] = { 0 };
    struct reach r = { 0, "ELF header" };
    ElfW(Ehdr) eh;
    size_t magic = size < SELFMAG ? size : SELFMAG;
    if (magic == 0 || (memcmp(data, ELFMAG, magic) != 0 && memcmp(data, nothing, magic) != 0))
        return ELF_OTHER;
    *end = sizeof(eh);
    *what = r.what;
    if (memcmp(data, nothing, magic) == 0 || size < sizeof(eh))
        return ELF_SHORT;
    memcpy(&eh, data, sizeof(eh));
    if (eh.e_ident[EI_CLASS] != OUR_CLASS || eh.e_ident[EI_DATA] != OUR_DATA)
        return ELF_OTHER;
    measure_tables(data, size, &eh, &r);
    *end = r.end;
    *what = r.what;
    return r.end > size ? ELF_SHORT : ELF_WHOLE;
}

/* ---- Is it for us? --------------------------------------------------------------------------- */

static const char *machine_name(unsigned machine, unsigned elf_class, char spare[24])
{
    static const struct {
        unsigned machine;
        const char *name;
    } names[] = { { EM_X86_64, "x86-64" }, { EM_AARCH64, "aarch64" }, { EM_386, "i386" },
                  { EM_ARM, "arm" },       { EM_RISCV, "riscv" },     { EM_PPC64, "ppc64" },
                  { EM_PPC, "ppc" },       { EM_S390, "s390" },       { EM_MIPS, "mips" },
                  { 258, "loongarch" },    { EM_SPARCV9, "sparc64" }, { EM_BPF, "bpf" } };
    if (machine == EM_X86_64 && elf_class == ELFCLASS32)
        return "x32";
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (names[i].machine == machine)
            return names[i].name;
    snprintf(spare, 24, "machine %u", machine);
    return spare;
}

static int wrong_machine(const unsigned char *ident, unsigned machine, struct err *err)
{
    char theirs[24], ours[24];
    const char *name = machine_name(machine, ident[EI_CLASS], theirs);
    return err_set(err,
                   "built for %s (%s-bit, %s-endian), this graftd is %s (%d-bit, %s-endian): build "
                   "it for this machine",
                   name, ident[EI_CLASS] == ELFCLASS32 ? "32" : "64",
                   ident[EI_DATA] == ELFDATA2MSB ? "big" : "little",
                   machine_name(OUR_MACHINE, OUR_CLASS, ours), (int)(sizeof(void *) * 8),
                   OUR_DATA == ELFDATA2MSB ? "big" : "little");
}

/* e_machine in the file's own byte order. */
static unsigned machine_of(const unsigned char *data)
{
    const unsigned char *m = data + offsetof(ElfW(Ehdr), e_machine); /* the same in both classes */
    return data[EI_DATA] == ELFDATA2MSB ? (unsigned)m[0] << 8 | m[1] : (unsigned)m[1] << 8 | m[0];
}

static int check_ident(const unsigned char *data, size_t size, struct err *err)
{
    if (size == 0)
        return err_set(err, "empty file: expected a shared object (ELF)");
    if (memcmp(data, ELFMAG, size < SELFMAG ? size : SELFMAG) != 0)
        return err_set(err,
                       "not ELF: it begins with bytes %02x %02x %02x %02x, expected 7f 45 4c "
                       "46: build it with cc -shared",
                       data[0], size > 1 ? data[1] : 0u, size > 2 ? data[2] : 0u,
                       size > 3 ? data[3] : 0u);
    if (size < EI_NIDENT + 4)
        return err_set(err, "truncated: %zu bytes are less than an ELF header: copy it again",
                       size);
    unsigned machine = machine_of(data);
    if (data[EI_CLASS] != OUR_CLASS || data[EI_DATA] != OUR_DATA || machine != OUR_MACHINE)
        return wrong_machine(data, machine, err);
    return 0;
}

static int check_type(unsigned type, struct err *err)
{
    static const char cure[] = "expected a shared object (ET_DYN): link it with cc -shared";
    if (type == ET_DYN)
        return 0;
    return err_set(err, "%s, %s",
                   type == ET_REL    ? "an object file (ET_REL)"
                   : type == ET_EXEC ? "an executable (ET_EXEC)"
                   : type == ET_CORE ? "a core dump (ET_CORE)"
                                     : "of an unknown ELF type",
                   cure);
}

static int check_header(const void *data, size_t size, struct err *err)
{
    uint64_t end;
    const char *what;
    ElfW(Ehdr) eh;
    if (check_ident(data, size, err) != 0)
        return -1;
    if (elf_measure(data, size, &end, &what) == ELF_SHORT)
        return err_set(err,
                       "truncated: its %s would reach byte %llu, the file has %zu: copy it again",
                       what, (unsigned long long)end, size);
    memcpy(&eh, data, sizeof(eh));
    if (eh.e_version != EV_CURRENT || eh.e_ident[EI_VERSION] != EV_CURRENT)
        return err_set(err, "ELF version %u, expected %d: damaged: build it again", eh.e_version,
                       EV_CURRENT);
    if (check_type(eh.e_type, err) != 0)
        return -1;
    if (eh.e_phoff == 0 || eh.e_phnum == 0 || eh.e_phnum == PN_XNUM ||
        eh.e_phentsize != sizeof(ElfW(Phdr)) ||
        (eh.e_shoff != 0 ? eh.e_shentsize != sizeof(ElfW(Shdr)) : eh.e_shnum != 0))
        return err_set(
            err, "no usable headers (%u program headers of %u bytes): damaged: build it again",
            eh.e_phnum, eh.e_phentsize);
    return 0;
}

/* ---- What the dynamic section points to ------------------------------------------------------ */

bool elf_image_segment(const struct elf_image *img, size_t i, GElf_Phdr *out)
{
    return i < img->phnum && gelf_getphdr(img->elf, (int)i, out) != NULL;
}

bool elf_image_dynamic(const struct elf_image *img, size_t i, GElf_Dyn *out)
{
    return i < img->ndynamic && gelf_getdyn(img->dynamic, (int)i, out) != NULL;
}

bool elf_image_symbol(const struct elf_image *img, size_t i, GElf_Sym *out)
{
    return i < img->nsymbols && gelf_getsym(img->symbols, (int)i, out) != NULL;
}

const char *elf_image_string(const struct elf_image *img, uint64_t offset)
{
    return offset < img->strings_len ? img->strings + offset : NULL;
}

bool elf_image_mapped(const struct elf_image *img, uint64_t address, uint64_t size)
{
    GElf_Phdr ph;
    for (size_t i = 0; elf_image_segment(img, i, &ph); i++)
        if (ph.p_type == PT_LOAD && address >= ph.p_vaddr && address - ph.p_vaddr <= ph.p_memsz &&
            size <= ph.p_memsz - (address - ph.p_vaddr))
            return true;
    return false;
}

/* Where the byte at `address` lies in the file, and how many of its segment follow there. */
static bool find_in_file(const struct elf_image *img, uint64_t address, size_t *offset,
                         size_t *avail)
{
    GElf_Phdr ph;
    for (size_t i = 0; elf_image_segment(img, i, &ph); i++) {
        if (ph.p_type != PT_LOAD || address < ph.p_vaddr || address - ph.p_vaddr >= ph.p_filesz)
            continue;
        *offset = (size_t)(ph.p_offset + (address - ph.p_vaddr)); /* measured: in the file */
        *avail = (size_t)(ph.p_filesz - (address - ph.p_vaddr));
        return true;
    }
    return false;
}

static uint32_t word_at(const struct elf_image *img, size_t offset)
{
    uint32_t w;
    memcpy(&w, img->data + offset, sizeof(w));
    return w;
}

/* DT_GNU_HASH: symbols before `first` are not hashed (undefined ones); the last hashed one ends its
   bucket's chain. False: the table is damaged. */
static bool count_gnu_hash(const struct elf_image *img, uint64_t address, uint64_t *count)
{
    size_t at, avail;
    if (!find_in_file(img, address, &at, &avail) || avail < 16)
        return false;
    uint64_t buckets = word_at(img, at), first = word_at(img, at + 4), bloom = word_at(img, at + 8);
    uint64_t skip = 16 + bloom * sizeof(ElfW(Addr));
    if (skip > avail || buckets > (avail - skip) / 4)
        return false;
    size_t bucket = at + (size_t)skip, chain = bucket + (size_t)buckets * 4;
    uint64_t chains = (avail - skip) / 4 - buckets, last = 0;
    for (uint64_t i = 0; i < buckets; i++) {
        uint32_t b = word_at(img, bucket + (size_t)i * 4);
        last = b > last ? b : last;
    }
    *count = first;
    if (last == 0)
        return true;
    if (last < first)
        return false;
    for (uint64_t i = last - first; i < chains; i++) {
        if ((word_at(img, chain + (size_t)i * 4) & 1u) != 0) {
            *count = first + i + 1;
            return true;
        }
    }
    return false;
}

/* DT_HASH: as many chains as symbols. */
static bool count_hash(const struct elf_image *img, uint64_t address, uint64_t *count)
{
    size_t at, avail;
    if (!find_in_file(img, address, &at, &avail) || avail < 8)
        return false;
    *count = word_at(img, at + 4);
    return true;
}

/* The entries of the dynamic section that are needed once. 0 = not there. */
struct entries {
    uint64_t strtab, strsz, symtab, hash, gnu_hash;
    bool has_soname, has_rpath, has_runpath;
    uint64_t soname, rpath, runpath;
};

static void note_entry(struct elf_image *img, struct entries *e, const GElf_Dyn *d)
{
    switch (d->d_tag) {
    case DT_STRTAB:
        e->strtab = d->d_un.d_ptr;
        break;
    case DT_STRSZ:
        e->strsz = d->d_un.d_val;
        break;
    case DT_SYMTAB:
        e->symtab = d->d_un.d_ptr;
        break;
    case DT_HASH:
        e->hash = d->d_un.d_ptr;
        break;
    case DT_GNU_HASH:
        e->gnu_hash = d->d_un.d_ptr;
        break;
    case DT_SONAME:
        e->has_soname = true;
        e->soname = d->d_un.d_val;
        break;
    case DT_RPATH:
        e->has_rpath = true;
        e->rpath = d->d_un.d_val;
        break;
    case DT_RUNPATH:
        e->has_runpath = true;
        e->runpath = d->d_un.d_val;
        break;
    case DT_TEXTREL:
        img->textrel = true;
        break;
    case DT_FLAGS:
        img->flags |= d->d_un.d_val;
        break;
    case DT_FLAGS_1:
        img->flags_1 |= d->d_un.d_val;
        break;
    default:
        break;
    }
}

static int damaged(struct err *err, const char *what)
{
    return err_set(err, "damaged: %s points outside of the file: build it again", what);
}

static int unreadable(struct err *err, const char *what)
{
    const char *why = elf_errmsg(-1);
    bool no_memory = why != NULL && strcmp(why, "out of memory") == 0;
    return err_set(err, "libelf cannot read %s: %s%s", what, why != NULL ? why : "no reason given",
                   no_memory ? "" : ": build it again");
}

/* The first PT_DYNAMIC, up to DT_NULL. */
static int open_dynamic(struct elf_image *img, struct entries *e, struct err *err)
{
    GElf_Phdr ph;
    GElf_Dyn d;
    size_t i = 0;
    while (elf_image_segment(img, i, &ph) && ph.p_type != PT_DYNAMIC)
        i++;
    if (i == img->phnum)
        return err_set(err,
                       "no dynamic section: expected a shared object: link it with cc -shared");
    img->ndynamic = (size_t)(ph.p_filesz / sizeof(ElfW(Dyn)));
    if (img->ndynamic == 0)
        return err_set(err, "an empty dynamic section: damaged: build it again");
    img->dynamic = elf_getdata_rawchunk(img->elf, (int64_t)ph.p_offset,
                                        img->ndynamic * sizeof(ElfW(Dyn)), ELF_T_DYN);
    if (img->dynamic == NULL)
        return unreadable(err, "its dynamic section");
    for (i = 0; elf_image_dynamic(img, i, &d) && d.d_tag != DT_NULL; i++)
        note_entry(img, e, &d);
    img->ndynamic = i;
    return 0;
}

static int open_strings(struct elf_image *img, const struct entries *e, struct err *err)
{
    size_t at, avail;
    img->strings = "";
    if (e->strtab == 0 || e->strsz == 0)
        return 0;
    if (!find_in_file(img, e->strtab, &at, &avail) || e->strsz > avail ||
        img->data[at + e->strsz - 1] != '\0')
        return damaged(err, "its dynamic string table");
    img->strings = img->data + at;
    img->strings_len = (size_t)e->strsz;
    if ((e->has_soname && (img->soname = elf_image_string(img, e->soname)) == NULL) ||
        (e->has_rpath && (img->rpath = elf_image_string(img, e->rpath)) == NULL) ||
        (e->has_runpath && (img->runpath = elf_image_string(img, e->runpath)) == NULL))
        return damaged(err, "a name in its dynamic section");
    return 0;
}

static int open_symbols(struct elf_image *img, const struct entries *e, struct err *err)
{
    size_t at, avail;
    uint64_t count = 0;
    if (e->symtab == 0 || (e->hash == 0 && e->gnu_hash == 0))
        return 0;
    bool counted = e->gnu_hash != 0 ? count_gnu_hash(img, e->gnu_hash, &count)
                                    : count_hash(img, e->hash, &count);
    if (!counted)
        return damaged(err, "its symbol hash table");
    if (!find_in_file(img, e->symtab, &at, &avail) || count > avail / sizeof(ElfW(Sym)) ||
        count > INT32_MAX)
        return damaged(err, "its dynamic symbol table");
    if (count == 0)
        return 0;
    img->symbols =
        elf_getdata_rawchunk(img->elf, (int64_t)at, (size_t)count * sizeof(ElfW(Sym)), ELF_T_SYM);
    if (img->symbols == NULL)
        return unreadable(err, "its dynamic symbol table");
    img->nsymbols = (size_t)count;
    return 0;
}

int elf_image_open(struct elf_image *img, const void *data, size_t size, struct err *err)
{
    struct entries e = { 0 };
    *img = (struct elf_image){ .data = data, .size = size };
    if (check_header(data, size, err) != 0)
        return -1;
    elf_version(EV_CURRENT);
    union {
        const void *read;
        char *libelf; /* it only writes where the byte order differs */
    } bytes = { .read = data };
    img->elf = elf_memory(bytes.libelf, size);
    if (img->elf == NULL || elf_kind(img->elf) != ELF_K_ELF ||
        elf_getphdrnum(img->elf, &img->phnum) != 0)
        unreadable(err, "it");
    else if (open_dynamic(img, &e, err) == 0 && open_strings(img, &e, err) == 0 &&
             open_symbols(img, &e, err) == 0)
        return 0;
    elf_image_close(img);
    return -1;
}

void elf_image_close(struct elf_image *img)
{
    elf_end(img->elf); /* accepts NULL */
    memset(img, 0, sizeof(*img));
}
