/* The descriptor as it comes through graft-probe's pipe: what the reader accepts must be sound, and
   come out the same when it is written again. */
#include "fuzz.h"
#include "plugin/probe_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct descriptor d;
    struct err err = { "" };
    struct buf again = { 0 };
    if (descriptor_decode(data, len, &d, &err) != 0) {
        if (err.text[0] == '\0')
            abort();
        return 0;
    }
    if (descriptor_check(&d, &err) != 0 || descriptor_encode(&d, &again) != 0 || again.len != len ||
        memcmp(again.data, data, len) != 0)
        abort();
    buf_fini(&again);
    descriptor_fini(&d);
    return 0;
}
