/*
 * A library looks for its symbols first in what it was loaded for. libstdc++.so, loaded for a
 * plugin in C++, finds its own templates' weak symbols in that plugin, and is bound to the plugin's
 * copies: it stays (system libraries do), so the plugin could never be unmapped, and later plugins
 * would run on that one's code. Loaded by itself first, it is bound to itself.
 */
#include "plugin/preload.h"

#include "plugin/preflight_report.h"

#include <dlfcn.h>
#include <link.h>
#include <stdlib.h>

/* One that is not the system's goes again: it leaves with the versions that use it. */
static void preload(const char *name)
{
    void *dl = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
    if (dl == NULL)
        dl = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (dl == NULL)
        return;
    const struct link_map *map = NULL;
    if (dlinfo(dl, RTLD_DI_LINKMAP, &map) == 0 && preflight_system_library(map->l_name)) {
        void *kept = dlopen(map->l_name, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
        if (kept != NULL)
            dlclose(kept);
    }
    dlclose(dl);
}

void preload_system_libraries(const char *path)
{
    struct elf_image img;
    struct err err;
    size_t size = 0;
    void *data = preflight_read_file(path, &size, &err);
    if (data != NULL && elf_image_open(&img, data, size, &err) == 0) {
        GElf_Dyn d;
        for (size_t i = 0; elf_image_dynamic(&img, i, &d); i++) {
            const char *needed = d.d_tag == DT_NEEDED ? elf_image_string(&img, d.d_un.d_val) : NULL;
            char found[PATH_MAX];
            if (needed != NULL &&
                (!preflight_resolve(&img, needed, found) || preflight_system_library(found)))
                preload(needed);
        }
        elf_image_close(&img);
    }
    free(data);
}
