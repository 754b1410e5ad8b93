/*
 * An ELF file in memory, read as the dynamic loader reads it: program headers, the dynamic section
 * and what that points to. Section headers are only measured. The bytes may be anything: every
 * offset, size and count is checked before libelf or we follow it.
 *
 * One owner, any thread. The bytes stay the caller's and must outlive the image.
 */
#ifndef GRAFT_PLUGIN_ELF_IMAGE_H
#define GRAFT_PLUGIN_ELF_IMAGE_H

#include "base/base.h"
#include "base/err.h"

#include <gelf.h>

/*
 * How far the file must reach for all that its headers announce. ELF_SHORT: it ends before that
 * (`end` and `what` say where and what), so it is truncated or still being written; a file that
 * begins with zero bytes counts as not yet written. ELF_OTHER: not ELF, or not for this class
 * of machine, so nothing can be said.
 */
enum elf_reach { ELF_WHOLE, ELF_SHORT, ELF_OTHER };
enum elf_reach elf_measure(const void *data, size_t size, uint64_t *end, const char **what);

struct elf_image {
    const char *data;
    size_t size;
    Elf *elf;
    size_t phnum;
    Elf_Data *dynamic, *symbols; /* NULL: none */
    size_t ndynamic, nsymbols;
    const char *strings; /* ends in NUL; "" when there is none */
    size_t strings_len;
    uint64_t flags, flags_1;     /* DT_FLAGS, DT_FLAGS_1 */
    bool textrel;                /* DT_TEXTREL */
    const char *soname;          /* in `strings`, or NULL */
    const char *rpath, *runpath; /* in `strings`, or NULL */
};

/* 0, or -1: not a shared object that this process could load; err says what it is instead. */
int elf_image_open(struct elf_image *img, const void *data, size_t size, struct err *err);
void elf_image_close(struct elf_image *img);

/* Item i < phnum, ndynamic, nsymbols; false when libelf will not give it. */
bool elf_image_segment(const struct elf_image *img, size_t i, GElf_Phdr *out);
bool elf_image_dynamic(const struct elf_image *img, size_t i, GElf_Dyn *out);
bool elf_image_symbol(const struct elf_image *img, size_t i, GElf_Sym *out);

/* NUL-terminated; NULL when the offset lies outside of the string table. */
const char *elf_image_string(const struct elf_image *img, uint64_t offset);

/* Whether [address, address + size) lies in one loaded segment's memory. */
bool elf_image_mapped(const struct elf_image *img, uint64_t address, uint64_t size);

#endif
