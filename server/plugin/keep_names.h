/* The names in the store's folder, for keep_place.c and keep_folder.c only. */
#ifndef GRAFT_PLUGIN_KEEP_NAMES_H
#define GRAFT_PLUGIN_KEEP_NAMES_H

#define FOLDER    (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
#define LOCK      ".lock"
#define OWNER     ".owner"
#define INDEX     "index.json"
#define INDEX_NEW ".index.json.new"
#define INDEX_BAD "index.json.bad"
#define FILES     "files"

#endif
