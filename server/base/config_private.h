/* Between config*.c only: the table of keys, and what reads values by it. */
#ifndef GRAFT_BASE_CONFIG_PRIVATE_H
#define GRAFT_BASE_CONFIG_PRIVATE_H

#include "base/config.h"
#include "base/json.h"

/* Where values are read to, and how. */
struct config_reader {
    struct config *cfg;
    struct err *err;
    bool resolve;      /* may ask the resolver for names in addresses */
    bool append;       /* a list setting comes again: add to it */
    char *const *envp; /* variables that count before the file */
};

struct config_key;

/* What a key's value may be. Setters leave in err "expected ..., found ...", without the place: the
   caller knows it. */
struct config_type {
    const char *name;    /* "a string"; NULL: a number between min and max */
    enum json_type json; /* what stands in the file */
    /* From a flag, a variable or a default; for a simple value (read is NULL) from the file too:
       a string decoded, a number or word as written. NULL: JSON text in a variable, too. */
    int (*set)(struct config_reader *r, const struct config_key *key, const char *text);
    int (*read)(struct config_reader *r, const struct config_key *key, struct json_value v);
};

#define CONFIG_RESTART 1u /* a change takes effect at the next start */
#define CONFIG_LATER   2u /* the feature is not there yet */

struct config_key {
    const char *name; /* "workers", "limits.head_bytes" */
    const struct config_type *type;
    size_t offset, size; /* of the member of struct config */
    uint64_t min, max;   /* of a number; max: of a string's length too */
    const char *variable, *flag;
    const char *fallback; /* as text, for `set`; NULL: nothing is set */
    const char *meaning;
    unsigned bits;
};

/* config_keys.c */
extern const struct config_key config_keys[];
extern const size_t config_key_count;
const struct config_key *config_key_find(struct str name);
/* "a whole number from 0 to 1024" */
void config_key_expected(const struct config_key *key, char *out, size_t size);

/* config_types.c */
extern const struct config_type config_bool, config_number, config_text, config_folder, config_path,
    config_socket, config_header, config_listen, config_ops, config_level, config_format,
    config_networks;
int config_copy(char **out, const char *text, struct err *err); /* frees what was there */
int config_no_memory(struct err *err);

/* config_plugins.c */
extern const struct config_type config_plugins, config_names, config_routes;
void config_plugins_free(struct config *cfg);
/* Every key of `v` must be one of these. */
int config_check_keys(struct json_value v, const struct str *known, size_t count, struct err *err);

/* config_rollout.c; *out is to be freed also after -1 */
int config_read_rollout(struct config_rollout **out, struct json_value v, struct err *err);
void config_rollout_free(struct config_rollout *r); /* takes NULL */
void config_strings_free(char **strings, size_t count);

/* config_trust.c */
extern const struct config_type config_signatures, config_groups;
void config_trust_free(struct config *cfg);
bool config_groups_equal(const struct config *a, const struct config *b);

/* config_read.c: everything that stands in the file. */
int config_read(struct config_reader *r, const char *name, const char *text, size_t len);
/* One key's value, that `name` ("variable GRAFT_PLUGINS") has as JSON. */
int config_read_value(struct config_reader *r, const struct config_key *key, const char *name,
                      const char *text);
/* -1: `key` (its place is told) is none of the known names. */
int config_unknown(struct json_value key, struct str name, const struct str *known, size_t count,
                   struct err *err);
/* -1 and a message unless v has that type. `what` is expected. */
int config_expect(struct json_value v, enum json_type type, const char *what, struct err *err);

/* config.c */
/* The value of a variable, or NULL when it is not set. Of two the first counts, as for getenv. */
const char *config_variable(char *const *envp, const char *name);
extern const char config_default_file[], config_default_plugin_dir[];

#endif
