/* [loader] The system's libraries that a plugin needs, loaded before it. */
#ifndef GRAFT_PLUGIN_PRELOAD_H
#define GRAFT_PLUGIN_PRELOAD_H

/* Those that are not mapped yet, of the staged copy `path`; they stay for ever. What cannot be
   found or loaded is left for the plugin's own dlopen to tell. */
void preload_system_libraries(const char *path);

#endif
