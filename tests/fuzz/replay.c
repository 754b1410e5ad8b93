/*
 * main() of a fuzz target in a build without libFuzzer: runs it once over each of its inputs and
 * speaks TAP. The inputs of tests/fuzz/foo_fuzz are the files in the folders seeds/foo, corpus/foo
 * and regression/foo below tests/fuzz of the source tree, $TEST_SRCDIR. An input that crashes the
 * target ends the program before its plan, and the last comment names it.
 */
#include <dirent.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static unsigned tests;

/* The whole file in a block of exactly its size, so that AddressSanitizer sees a read past it. */
static uint8_t *file_read(const char *path, size_t *len)
{
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        return NULL;
    long size = fseek(f, 0, SEEK_END) == 0 ? ftell(f) : -1;
    uint8_t *data = size >= 0 ? malloc((size_t)size + (size == 0)) : NULL;
    rewind(f);
    if (data != NULL && fread(data, 1, (size_t)size, f) != (size_t)size) {
        free(data);
        data = NULL;
    }
    *len = (size_t)size;
    fclose(f);
    return data;
}

static void replay_file(const char *path)
{
    size_t len;
    uint8_t *data = file_read(path, &len);
    printf("# %s\n", path);
    fflush(stdout);
    if (data != NULL)
        LLVMFuzzerTestOneInput(data, len);
    printf("%s %u\n", data != NULL ? "ok" : "not ok", ++tests);
    free(data);
}

static void replay_folder(const char *srcdir, const char *kind, const char *target)
{
    char folder[4096], path[8192];
    snprintf(folder, sizeof folder, "%s/tests/fuzz/%s/%s", srcdir, kind, target);
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        replay_file(path);
    }
    if (dir != NULL)
        closedir(dir);
}

int main(int argc, char **argv)
{
    const char *srcdir = getenv("TEST_SRCDIR");
    const char *slash = strrchr(argv[0], '/');
    char target[256];
    snprintf(target, sizeof target, "%s", slash != NULL ? slash + 1 : argv[0]);
    char *suffix = strstr(target, "_fuzz");
    if (suffix != NULL)
        *suffix = '\0';
    for (int i = 1; i < argc; i++)
        replay_file(argv[i]);
    static const char *const kinds[] = { "seeds", "corpus", "regression" };
    for (size_t i = 0; argc < 2 && i < sizeof kinds / sizeof kinds[0]; i++)
        replay_folder(srcdir != NULL ? srcdir : ".", kinds[i], target);
    printf("1..%u\n", tests);
    return tests == 0;
}
