/* A folder that graftctl has made. */
#ifndef GRAFT_CTL_FOLDER_H
#define GRAFT_CTL_FOLDER_H

/* With all that is in it; links are removed, not followed. What cannot be removed stays. */
void folder_remove(const char *path);

#endif
