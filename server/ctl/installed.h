/* Where the build has put what graftctl uses; tests/graftctl knows the build tree's instead. */
#ifndef GRAFT_CTL_INSTALLED_H
#define GRAFT_CTL_INSTALLED_H

extern const char installed_templates[]; /* folder of `graftctl new` */
extern const char installed_graftd[];

#endif
