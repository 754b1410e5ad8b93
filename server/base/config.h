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
#include "base/cidr.h"
#include "base/err.h"
#include "base/log.h"
#include "base/minisign.h"

#include <stdio.h>
#include <sys/types.h>

#define CONFIG_MAGIC     0x6366672eu
#define CONFIG_FILE_MAX  (4u << 20) /* bytes; a larger file is refused */
#define CONFIG_NAME_MAX  64         /* of a plugin */
#define CONFIG_SHA256LEN 65         /* 64 hex digits and NUL */

#define CONFIG_GROUPS_MAX 64

struct options;

/* plugins.NAME.rollout: a changed file gets a share of the requests first. */
#define CONFIG_STEPS_MAX 16
enum config_sticky {
    CONFIG_STICKY_NONE,
    CONFIG_STICKY_COOKIE,
    CONFIG_STICKY_HEADER,
    CONFIG_STICKY_PEER
};
struct config_rollout {
    unsigned steps[CONFIG_STEPS_MAX]; /* percent of the requests, rising, below 100 */
    unsigned nsteps;                  /* at least 1 */
    unsigned step_ms;                 /* each lasts that long at least */
    uint64_t min_requests;            /* of either version, before one is judged */
    double max_error_rate, max_error_ratio, max_p99_ratio; /* plugin/judge.h */
    enum config_sticky sticky;
    char *header;    /* CONFIG_STICKY_HEADER: its name; else NULL */
    bool advance;    /* "auto": the verdict is carried out; else only told */
    unsigned shadow; /* percent of the stable version's requests that are tried on it too */
};

/* An entry of "plugins". Plugins without an entry have none here: see config_plugin. */
struct config_plugin {
    char *name;
    char *config;                         /* compact JSON text of the object, "{}" when absent */
    char config_sha256[CONFIG_SHA256LEN]; /* of that text */
    char *mount;                          /* "" or "/x[/y]" */
    bool enabled;
    bool required;
    bool required_written;          /* the entry says so itself */
    struct config_rollout *rollout; /* NULL: a changed file is a switch */
    bool written; /* false only for what config_plugin returns for an unnamed plugin */
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

/* A public key of "signatures": its text, or the file that holds it. */
struct config_key_text {
    char *text;
    bool known; /* false: a file that config_from_text did not read */
    struct minisign_key key;
};

/* What signatures plugin files must have. Neither required nor keys: nobody looks for any. */
struct config_signatures {
    bool required;
    struct config_key_text *keys;
    size_t key_count;
    char sha256[CONFIG_SHA256LEN]; /* of all of that: the same demands, the same hash */
};

/* An entry of "control_groups". */
struct config_group {
    char *name; /* as written: a name or a number */
    gid_t gid;
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

    struct config_signatures signatures;
    struct config_group *control_groups; /* may ask the control socket, and change nothing */
    size_t control_group_count;

    struct config_limits limits;
    struct config_timeouts timeouts_ms;
    struct config_drain drain;
    struct log_settings log; /* .file is log_file */
    char *log_file;          /* "" = stderr */
    bool log_access;

    struct cidr *version_header_from; /* clients whose X-Graft-Version is heard */
    size_t version_header_from_count;

    uint64_t keys_set; /* bit i: key i of the table was set by file, variable or flag */
};

/* Reads the file (-c, else the default one if it is there), then the variables in envp (environ as
   it was at the start), then the flags. NULL and err on the first fault: "file:line:column:
   expected, found, what to do". Blocks for names (addresses, groups) and for files of keys. */
struct config *config_load(const struct options *opt, char *const *envp, struct err *err);
/* The same, but what is in the file is known already: `text` (NULL: there is no file). Without
   `resolve` it does not block: names in addresses stay what they are. */
struct config *config_load_text(const struct options *opt, char *const *envp, const char *text,
                                size_t len, bool resolve, struct err *err);
void config_free(struct config *cfg); /* takes NULL */

/* As config_load from a text alone: no other file, no variables, no flags, no name resolved. */
struct config *config_from_text(const char *name, const char *text, size_t len, struct err *err);

/* The entry of that plugin, or one that says what holds for a plugin that is not named: no mount,
   enabled, required, config "{}". Never NULL. */
const struct config_plugin *config_plugin(const struct config *cfg, const char *name);

/* The demands of "graftctl check --key": a signature by one of these keys, each as in
   signatures.keys. `out` is the caller's to free; -1 and err when one is no key. */
int config_signatures_of(struct config_signatures *out, const char *const *keys, size_t count,
                         struct err *err);
void config_signatures_free(struct config_signatures *s);

/* Calls for every variable GRAFT_... that is no setting: for a line at debug, once the log runs. */
void config_unknown_variables(char *const *envp, void (*fn)(const char *name, void *arg),
                              void *arg);

/* Calls for every key that was set and belongs to a feature that is not there yet. */
void config_not_in_effect(const struct config *cfg, void (*fn)(const char *key, void *arg),
                          void *arg);

/* The keys whose value differs and takes effect only at a restart (listen, workers, user, ops,
   control, stage_dir, state_dir, offload ...): at most max names are stored; returns how many
   differ. */
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
