/*
 * main() of a fuzz target in a build without libFuzzer: runs it once over each of its inputs and
 * speaks TAP. The inputs of tests/fuzz/foo_fuzz are the files in the folders seeds/foo, corpus/foo
 * and regression/foo below tests/fuzz of the source tree, $TEST_SRCDIR; or those named on the
 * command line. A child does the work; where it dies, that input has failed and another goes on.
 */
#include <dirent.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static char **inputs;
static unsigned ninputs;

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

static bool replay(const char *path)
{
    size_t len;
    uint8_t *data = file_read(path, &len);
    if (data != NULL)
        LLVMFuzzerTestOneInput(data, len);
    free(data);
    return data != NULL;
}

static void report(bool good, unsigned i)
{
    printf("%s %u - %s\n", good ? "ok" : "not ok", i + 1, inputs[i]);
    fflush(stdout);
}

static void add(const char *path)
{
    inputs = realloc(inputs, (ninputs + 1) * sizeof *inputs);
    if (inputs == NULL || (inputs[ninputs++] = strdup(path)) == NULL)
        abort();
}

static void add_folder(const char *srcdir, const char *kind, const char *target)
{
    char folder[4096], path[8192];
    snprintf(folder, sizeof folder, "%s/tests/fuzz/%s/%s", srcdir, kind, target);
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (e->d_name[0] != '.')
            add(path);
    }
    if (dir != NULL)
        closedir(dir);
}

static void add_all(const char *program)
{
    const char *srcdir = getenv("TEST_SRCDIR"), *slash = strrchr(program, '/');
    char target[256];
    snprintf(target, sizeof target, "%s", slash != NULL ? slash + 1 : program);
    char *suffix = strstr(target, "_fuzz");
    if (suffix != NULL)
        *suffix = '\0';
    static const char *const kinds[] = { "seeds", "corpus", "regression" };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        add_folder(srcdir != NULL ? srcdir : ".", kinds[i], target);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        add(argv[i]);
    if (argc < 2)
        add_all(argv[0]);
    unsigned *at =
        mmap(NULL, sizeof *at, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return 1;
    bool failed = ninputs == 0;
    while (*at < ninputs) {
        pid_t child = fork();
        if (child == 0) {
            for (; *at < ninputs && replay(inputs[*at]); ++*at)
                report(true, *at);
            exit(*at < ninputs);
        }
        int status = -1;
        waitpid(child, &status, 0);
        failed = failed || status != 0;
        if (*at < ninputs)
            report(false, (*at)++);
    }
    printf("1..%u\n", ninputs);
    return failed;
}
