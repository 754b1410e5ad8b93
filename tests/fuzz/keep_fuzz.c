/* The index of the state folder: what is accepted is written again and read as the same. */
#include "fuzz.h"
#include "plugin/keep_private.h"

static void write_model(const struct keep_model *m, struct buf *out)
{
    HOLDS(keep_index_write(m, out) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct keep_model m;
    struct buf once = { 0 }, twice = { 0 };
    struct err err = { "" };
    bool newer;
    char *text = fuzz_copy(data, len);
    keep_model_init(&m);
    int rc = keep_index_read("index", text, len, &m, &newer, &err);
    free(text);
    if (rc != 0) {
        HOLDS(err.text[0] != '\0' && m.nplugins == 0 && m.quarantine.count == 0);
        keep_model_fini(&m);
        return 0;
    }
    write_model(&m, &once);
    keep_model_fini(&m);
    keep_model_init(&m);
    HOLDS(keep_index_read("again", once.data, once.len, &m, &newer, &err) == 0);
    write_model(&m, &twice);
    HOLDS(once.len == twice.len && memcmp(once.data, twice.data, once.len) == 0);
    keep_model_fini(&m);
    buf_fini(&once);
    buf_fini(&twice);
    return 0;
}
