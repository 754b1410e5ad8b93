/* See installed.h. Compiled once for each set of paths. */
#include "ctl/installed.h"

const char installed_templates[] = GRAFT_TEMPLATEDIR;
const char installed_graftd[] = GRAFT_SBINDIR "/graftd";
