/*
 * The table of keys: one line says what a key may be, where it goes, what else sets it, what holds
 * without it and what it means. The reader, the variables, the flags, graftd -h and the man page
 * all come from here. Constant; any thread.
 */
#include "base/config_private.h"

#include <inttypes.h>
#include <stdio.h>

#define AT(member) offsetof(struct config, member), sizeof(((struct config *)0)->member)
#define NOWHERE    0, 0
#define MS_MAX     604800000 /* a week */
#define BYTES_MAX  (1u << 30)
#define PARSER_MAX 8191 /* htparser's buffer is 8192 bytes, compiled in */
#define BODY_MAX   ((uint64_t)1 << 40)
#define FILES_MAX  1000000u
#define SUN_PATH   107

/* name, type, member, smallest, largest, variable, flag, default, meaning, bits */
const struct config_key config_keys[] = {
    { "listen", &config_listen, NOWHERE, 0, 0, "GRAFT_LISTEN", "--listen", "127.0.0.1:8080",
      "addresses served: host:port, [v6]:port, :port (every address), unix:/path or fd:N",
      CONFIG_RESTART },
    { "plugin_dir", &config_path, AT(plugin_dir), 0, 4095, "GRAFT_PLUGIN_DIR", "--plugins",
      config_default_plugin_dir, "folder in which plugins (*.so) are found", 0 },
    { "stage_dir", &config_folder, AT(stage_dir), 0, 4095, "GRAFT_STAGE_DIR", NULL, "",
      "folder for the staged copies; \"\": the first fit one of $CACHE_DIRECTORY, "
      "/var/cache/graft, "
      "$XDG_CACHE_HOME/graft, $TMPDIR, /tmp",
      CONFIG_RESTART },
    { "state_dir", &config_folder, AT(state_dir), 0, 4095, "GRAFT_STATE_DIR", NULL, "",
      "folder for good files kept and the quarantine; \"\": $STATE_DIRECTORY, else /var/lib/graft",
      CONFIG_RESTART },
    { "workers", &config_number, AT(workers), 0, 1024, "GRAFT_WORKERS", "--workers", "0",
      "worker threads; 0 = one per usable core", CONFIG_RESTART },
    { "offload.threads", &config_number, AT(offload_threads), 1, 1024, "GRAFT_OFFLOAD_THREADS",
      NULL, "4", "threads of the pool for blocking work", CONFIG_RESTART },
    { "offload.queue", &config_number, AT(offload_queue), 1, 1u << 20, "GRAFT_OFFLOAD_QUEUE", NULL,
      "1024", "jobs that may wait for the pool", CONFIG_RESTART },
    { "watch", &config_bool, AT(watch), 0, 0, "GRAFT_WATCH", "--watch", "false",
      "swap by itself when the plugin folder changes", 0 },
    { "control", &config_socket, AT(control), 0, SUN_PATH, "GRAFT_CONTROL", "--control", "",
      "control socket; \"\": $RUNTIME_DIRECTORY/control.sock, else in /run/graft, "
      "$XDG_RUNTIME_DIR/graft or /tmp/graft-UID",
      CONFIG_RESTART },
    { "control_groups", &config_groups, NOWHERE, 0, 0, "GRAFT_CONTROL_GROUPS", NULL, NULL,
      "groups that may connect to the control socket and ask what is (status, ready, ps, routes)",
      CONFIG_RESTART },
    { "ops", &config_ops, AT(ops), 0, 0, "GRAFT_OPS", "--ops", "127.0.0.1:9180",
      "address of health, metrics and status; \"\" = none", CONFIG_RESTART },
    { "supervise", &config_bool, AT(supervise), 0, 0, "GRAFT_SUPERVISE", NULL, "true",
      "run under a supervisor that restarts a crashed server", CONFIG_RESTART },
    { "crash_window_ms", &config_number, AT(crash_window_ms), 1, MS_MAX, "GRAFT_CRASH_WINDOW_MS",
      NULL, "60000", "a server process that crashes sooner is started again later and later", 0 },
    { "watchdog_ms", &config_number, AT(watchdog_ms), 1000, MS_MAX, "GRAFT_WATCHDOG_MS", NULL,
      "5000", "a worker that stands still for so long is reported", 0 },
    { "watchdog_kill", &config_bool, AT(watchdog_kill), 0, 0, "GRAFT_WATCHDOG_KILL", NULL, "false",
      "end the process then, as by a crash: the supervisor starts another one", 0 },
    { "user", &config_text, AT(user), 0, 256, "GRAFT_USER", NULL, "",
      "user to become when started as root; \"\" = none", CONFIG_RESTART },
    { "server_header", &config_header, AT(server_header), 0, 256, "GRAFT_SERVER_HEADER", NULL,
      "graft", "value of the Server field; \"\" = no such field", 0 },
    { "plugins", &config_plugins, NOWHERE, 0, 0, "GRAFT_PLUGINS", NULL, NULL,
      "by name: {\"config\": object, \"mount\": \"/prefix\", \"enabled\": bool, \"required\": "
      "bool, \"rollout\": object}",
      0 },
    { "middleware", &config_names, NOWHERE, 0, 0, "GRAFT_MIDDLEWARE", NULL, NULL,
      "plugins around every request, outermost first", 0 },
    { "routes", &config_routes, NOWHERE, 0, 0, "GRAFT_ROUTES", NULL, NULL,
      "[{\"match\": \"GET /pattern\", \"middleware\": [\"name\"], \"plugin\": \"name\"}]: "
      "middleware "
      "where the match covers",
      0 },
    { "signatures", &config_signatures, NOWHERE, 0, 0, "GRAFT_SIGNATURES", NULL, NULL,
      "{\"required\": bool, \"keys\": [minisign public key, or path of its .pub file]}: who must "
      "have signed plugin files",
      0 },

    { "version_header_from", &config_networks, NOWHERE, 0, 0, "GRAFT_VERSION_HEADER_FROM", NULL,
      NULL,
      "addresses and networks (and \"unix\") whose X-Graft-Version: NAME=ID chooses a version", 0 },

    { "limits.head_bytes", &config_number, AT(limits.head_bytes), 64, 1u << 20,
      "GRAFT_LIMITS_HEAD_BYTES", NULL, "16384", "request line and header fields together", 0 },
    { "limits.field_bytes", &config_number, AT(limits.field_bytes), 16, PARSER_MAX,
      "GRAFT_LIMITS_FIELD_BYTES", NULL, "8000", "one header field", 0 },
    { "limits.target_bytes", &config_number, AT(limits.target_bytes), 16, PARSER_MAX,
      "GRAFT_LIMITS_TARGET_BYTES", NULL, "8000", "the request target", 0 },
    { "limits.headers", &config_number, AT(limits.headers), 1, 10000, "GRAFT_LIMITS_HEADERS", NULL,
      "100", "header fields of a request", 0 },
    { "limits.body_bytes", &config_number, AT(limits.body_bytes), 0, BODY_MAX,
      "GRAFT_LIMITS_BODY_BYTES", NULL, "8388608", "a buffered request body", 0 },
    { "limits.send_bytes", &config_number, AT(limits.send_bytes), 1, BYTES_MAX,
      "GRAFT_LIMITS_SEND_BYTES", NULL, "262144",
      "response bytes that wait before a writer is told to stop", 0 },
    { "limits.connections", &config_number, AT(limits.connections), 1, FILES_MAX,
      "GRAFT_LIMITS_CONNECTIONS", NULL, "65536", "open connections; past it accepting pauses", 0 },
    { "limits.pipeline", &config_number, AT(limits.pipeline), 1, 65536, "GRAFT_LIMITS_PIPELINE",
      NULL, "64", "pipelined requests answered in one turn of a connection", 0 },
    { "limits.versions", &config_number, AT(limits.versions), 1, 1000, "GRAFT_LIMITS_VERSIONS",
      NULL, "8", "loaded versions of one plugin", 0 },

    { "timeouts_ms.head", &config_number, AT(timeouts_ms.head), 1, MS_MAX, "GRAFT_TIMEOUTS_MS_HEAD",
      NULL, "10000", "until a request head is complete", 0 },
    { "timeouts_ms.idle", &config_number, AT(timeouts_ms.idle), 1, MS_MAX, "GRAFT_TIMEOUTS_MS_IDLE",
      NULL, "75000", "between two requests of a connection", 0 },
    { "timeouts_ms.body", &config_number, AT(timeouts_ms.body), 1, MS_MAX, "GRAFT_TIMEOUTS_MS_BODY",
      NULL, "30000", "for a buffered body; without progress for a streamed one", 0 },
    { "timeouts_ms.write", &config_number, AT(timeouts_ms.write), 1, MS_MAX,
      "GRAFT_TIMEOUTS_MS_WRITE", NULL, "30000", "without progress while sending", 0 },
    { "timeouts_ms.handler", &config_number, AT(timeouts_ms.handler), 1, MS_MAX,
      "GRAFT_TIMEOUTS_MS_HANDLER", NULL, "30000", "until the response head is sent", 0 },
    { "timeouts_ms.load", &config_number, AT(timeouts_ms.load), 1, MS_MAX, "GRAFT_TIMEOUTS_MS_LOAD",
      NULL, "30000", "for one callback on the loader thread", 0 },
    { "timeouts_ms.adopt", &config_number, AT(timeouts_ms.adopt), 1, MS_MAX,
      "GRAFT_TIMEOUTS_MS_ADOPT", NULL, "1000", "for every worker to take a new generation", 0 },
    { "timeouts_ms.handover", &config_number, AT(timeouts_ms.handover), 1, MS_MAX,
      "GRAFT_TIMEOUTS_MS_HANDOVER", NULL, "100",
      "for handing state to a new version; its requests wait so long at most", 0 },
    { "timeouts_ms.retire", &config_number, AT(timeouts_ms.retire), 0, MS_MAX,
      "GRAFT_TIMEOUTS_MS_RETIRE", NULL, "0",
      "until what a cooling version still serves is aborted; 0 = never", 0 },
    { "timeouts_ms.upgrade", &config_number, AT(timeouts_ms.upgrade), 1, MS_MAX,
      "GRAFT_TIMEOUTS_MS_UPGRADE", NULL, "60000",
      "for the new process of graftctl upgrade to get ready", 0 },

    { "drain.delay_ms", &config_number, AT(drain.delay_ms), 0, MS_MAX, "GRAFT_DRAIN_DELAY_MS", NULL,
      "0", "accepting goes on that long after the signal, while /readyz says 503", 0 },
    { "drain.idle_ms", &config_number, AT(drain.idle_ms), 0, MS_MAX, "GRAFT_DRAIN_IDLE_MS", NULL,
      "1000", "idle connections stay readable that long", 0 },
    { "drain.timeout_ms", &config_number, AT(drain.timeout_ms), 0, MS_MAX, "GRAFT_DRAIN_TIMEOUT_MS",
      NULL, "30000", "what is left that long after the signal is cut", 0 },

    { "log.level", &config_level, AT(log.level), 0, 0, "GRAFT_LOG_LEVEL", NULL, "info",
      "least important level that is written: debug, info, warn or error", 0 },
    { "log.format", &config_format, AT(log.json), 0, 0, "GRAFT_LOG_FORMAT", NULL, "json",
      "json, or text for people (text also when stderr is a terminal and nothing is set)", 0 },
    { "log.file", &config_folder, AT(log_file), 0, 4095, "GRAFT_LOG_FILE", NULL, "",
      "file to append to; \"\" = stderr", 0 },
    { "log.access", &config_bool, AT(log_access), 0, 0, "GRAFT_LOG_ACCESS", NULL, "false",
      "one access event a request", 0 },
};
const size_t config_key_count = ARRAY_LEN(config_keys);

_Static_assert(ARRAY_LEN(config_keys) <= 64, "config.keys_set has a bit for each key");

const struct config_key *config_key_find(struct str name)
{
    for (size_t i = 0; i < config_key_count; i++) {
        if (str_eq(name, str_of(config_keys[i].name)))
            return &config_keys[i];
    }
    return NULL;
}

void config_key_expected(const struct config_key *key, char *out, size_t size)
{
    if (key->type->name != NULL)
        snprintf(out, size, "%s", key->type->name);
    else
        snprintf(out, size, "a whole number from %" PRIu64 " to %" PRIu64, key->min, key->max);
}

void config_describe(void (*fn)(const struct config_doc *doc, void *arg), void *arg)
{
    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *k = &config_keys[i];
        char type[96];
        config_key_expected(k, type, sizeof(type));
        struct config_doc doc = { .key = k->name,
                                  .type = type,
                                  .variable = k->variable,
                                  .flag = k->flag ? k->flag + 2 : NULL,
                                  .flag_shown = k->flag,
                                  .is_switch = k->type == &config_bool,
                                  .fallback = k->fallback,
                                  .meaning = k->meaning };
        fn(&doc, arg);
    }
}
