/*
 * Settings: graft.json, GRAFT_* variables and flags, checked. One table (config_keys.c) feeds the
 * reader of the file, the variables, the flags, graftd -h and the man page. A struct config never
 * changes once it is loaded: HUP loads another one. Any thread may read it; who owns it frees it.
 */
#ifndef GRAFT_BASE_CONFIG_H
#define GRAFT_BASE_CONFIG_H

#include "base/addr.h"
#include "base/base.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/log.h"

#include <stdio.h>

#define CONFIG_MAGIC     0x6366672eu
#define CONFIG_FILE_MAX  (4u << 20) /* bytes; a larger file is refused */
#define CONFIG_NAME_MAX  64         /* of a plugin */
#define CONFIG_SHA256LEN 65         /* 64 hex digits and NUL */

struct options;

/* An entry of "plugins". Plugins without an entry have none here: see config_plugin. */
struct config_plugin {
    char *name;
    char *config;                         /* compact JSON text of the object, "{}" when absent */
    char config_sha256[CONFIG_SHA256LEN]; /* of that text */
    char *mount;                          /* "" or "/x[/y]" */
    bool enabled;
    bool required;
    bool required_written; /* the entry says so itself */
    bool written;          /* false only for what config_plugin returns for an unnamed plugin */
};

/* An entry of "routes". */
struct config_route {
    char *method;  /* NULL = every method */
    char *pattern; /* "/a/:x", "/prefix/[*]" or "/prefix/[*]rest" ([*]: a star) */
    char **middleware;
    size_t middleware_count;
    char *plugin; /* NULL = whoever serves it */
};

struct config_limits {
    size_t head_bytes, field_bytes, target_bytes, headers;
    uint64_t body_bytes;
    size_t send_bytes;
    unsigned connections, pipeline, versions;
};

struct config_timeouts {
    unsigned head, idle, body, write, handler, load, adopt, handover, retire;
};

struct config_drain {
    unsigned delay_ms, idle_ms, timeout_ms;
};

struct config {
    unsigned magic;
    char *path; /* the file that was read; NULL = none */
    char *text; /* what was in it, with a NUL behind; NULL = no file */
    size_t text_len;

    struct addr *listen;
    size_t listen_count; /* at least 1 */
    char *plugin_dir;
    char *stage_dir;  /* "" = the default search */
    char *state_dir;  /* "" = the default search */
    unsigned workers; /* 0 = one per usable core */
    unsigned offload_threads, offload_queue;
    bool watch;
    char *control;        /* "" = the default search */
    char *ops;            /* "" = none */
    struct addr ops_addr; /* valid unless ops is "" */
    bool supervise;
    unsigned crash_window_ms;
    unsigned watchdog_ms;
    bool watchdog_kill;
    char *user;          /* "" = stay who we are */
    char *server_header; /* "" = none */

    struct config_plugin *plugins; /* in file order */
    size_t plugin_count;
    char **middleware; /* outermost first */
    size_t middleware_count;
    struct config_route *routes; /* in file order */
    size_t route_count;

    struct config_limits limits;
    struct config_timeouts timeouts_ms;
    struct config_drain drain;
    struct log_settings log; /* .file is log_file */
    char *log_file;          /* "" = stderr */
    bool log_access;

    uint64_t keys_set; /* bit i: key i of the table was set by file, variable or flag */
};

/* Reads the file (-c, else the default one if it is there), then the variables in envp (environ as
   it was at the start), then the flags. NULL and err on the first fault: "file:line:column:
   expected, found, what to do". Blocks only for names in addresses. */
struct config *config_load(const struct options *opt, char *const *envp, struct err *err);
/* The same, but what is in the file is known already: `text` (NULL: there is no file). Without
   `resolve` it does not block: names in addresses stay what they are. */
struct config *config_load_text(const struct options *opt, char *const *envp, const char *text,
                                size_t len, bool resolve, struct err *err);
void config_free(struct config *cfg); /* takes NULL */

/* As config_load from a text alone: no file, no variables, no flags, no name resolved. */
struct config *config_from_text(const char *name, const char *text, size_t len, struct err *err);

/* The entry of that plugin, or one that says what holds for a plugin that is not named: no mount,
   enabled, required, config "{}". Never NULL. */
const struct config_plugin *config_plugin(const struct config *cfg, const char *name);

/* Calls for every variable GRAFT_... that is no setting: for a line at debug, once the log runs. */
void config_unknown_variables(char *const *envp, void (*fn)(const char *name, void *arg),
                              void *arg);

/* Calls for every key that was set and belongs to a feature that is not there yet. */
void config_not_in_effect(const struct config *cfg, void (*fn)(const char *key, void *arg),
                          void *arg);

/* The keys whose value differs and takes effect only at a restart (listen, workers, user, ops,
   control, stage_dir, offload ...): at most max names are stored; returns how many differ. */
int config_restart_keys_changed(const struct config *a, const struct config *b, const char *names[],
                                size_t max);

/* Every key in the order of the table, for help and man page. A member of an object is named
   "limits.head_bytes". Strings live during the call only, but for those of the table: key,
   variable, flag, flag_shown, fallback, meaning. */
struct config_doc {
    const char *key;
    const char *type;       /* "a whole number from 0 to 1024" */
    const char *variable;   /* NULL: none */
    const char *flag;       /* "workers"; NULL: none */
    const char *flag_shown; /* "--workers" */
    bool is_switch;         /* the flag takes no argument */
    const char *fallback;   /* what holds without it, as text; NULL: nothing */
    const char *meaning;
};
void config_describe(void (*fn)(const struct config_doc *doc, void *arg), void *arg);

/* The file that is read without -c, if it is there. */
const char *config_default_path(void);

#endif
