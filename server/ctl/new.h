/* graftctl new NAME: the folder of a new plugin. */
#ifndef GRAFT_CTL_NEW_H
#define GRAFT_CTL_NEW_H

#include "base/base.h"

/* `lang`: NULL = "c". The exit status: 0; 1: it could not be made, and nothing is left of it; 2: no
   such language, or no valid name. */
int new_plugin(const char *name, const char *lang, bool middleware);

#endif
