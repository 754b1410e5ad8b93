/* "Did you mean ...?": the known word that a mistyped one is closest to. Any thread. */
#ifndef GRAFT_BASE_NEAREST_H
#define GRAFT_BASE_NEAREST_H

#include "base/str.h"

/* One of names, or {NULL, 0} when none is near: at most a third of the word may differ, counting a
   byte added, left out, replaced, or two neighbours exchanged as one. Case does not count. */
struct str nearest(struct str word, const struct str *names, size_t count);

#endif
