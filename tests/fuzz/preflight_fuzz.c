/*
 * The preflight of an arbitrary file: everything but the search for its dependencies' files, which
 * would only fuzz the file system. Also the measuring that staging does. The bytes stand in a block
 * of exactly their size, so that a read past their end shows.
 */
#include "fuzz.h"
#include "plugin/elf_image.h"
#include "plugin/preflight.h"

/* What needed.c reads of an image. */
static void walk(const void *image, size_t len)
{
    struct elf_image img;
    struct err err;
    GElf_Dyn d;
    size_t total = 0;
    if (elf_image_open(&img, image, len, &err) != 0)
        return;
    for (size_t i = 0; elf_image_dynamic(&img, i, &d); i++) {
        const char *text = elf_image_string(&img, d.d_un.d_val);
        total += text != NULL ? strlen(text) : 0;
    }
    total += (img.rpath != NULL ? strlen(img.rpath) : 0) +
             (img.runpath != NULL ? strlen(img.runpath) : 0) +
             (img.soname != NULL ? strlen(img.soname) : 0);
    elf_image_close(&img);
    HOLDS(total != SIZE_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct preflight_report report;
    struct err err = { "" };
    uint64_t end = 0;
    const char *what = NULL;
    char *image = fuzz_copy(data, len);
    enum elf_reach reach = elf_measure(image, len, &end, &what);
    HOLDS(reach == ELF_OTHER || (what != NULL && (reach == ELF_WHOLE) == (end <= len)) ||
          (len >= 4 && memcmp(data, "\0\0\0\0", 4) == 0));
    int rc = preflight_image(image, len, &report, &err);
    bool refused = false;
    for (size_t i = 0; i < report.count; i++)
        refused = refused || report.findings[i].severity == PREFLIGHT_REFUSAL;
    HOLDS(refused == (rc != 0) && refused == (err.text[0] != '\0'));
    preflight_report_fini(&report);
    walk(image, len);
    free(image);
    return 0;
}
