/*
 * One look at the plugin folder: what is there, compared with what serves and what is known. New
 * files are staged, preflighted and probed; none of their code runs in this process. A job for the
 * loader: the control thread fills the first part, the loader the second, scan_fini frees both.
 */
#ifndef GRAFT_PLUGIN_SCAN_H
#define GRAFT_PLUGIN_SCAN_H

#include "base/config.h"
#include "plugin/descriptor.h"
#include "plugin/keep.h"
#include "plugin/known.h"
#include "plugin/loader.h"
#include "plugin/probe.h"
#include "plugin/signature.h"
#include "plugin/stage.h"

enum found_kind {
    FOUND_SAME,   /* the identity that serves */
    FOUND_NEW,    /* staged and described: to be loaded */
    FOUND_FAILED, /* cannot be used; not known before */
    FOUND_FAILED_AGAIN,
    FOUND_DISABLED,   /* plugins.NAME.enabled is false */
    FOUND_QUARANTINED /* not to be loaded, and no kept version takes its place */
};

struct found {
    enum found_kind kind;
    char *path, *file;        /* folder and name; the name alone */
    char sha256[65];          /* "" when it could not be read */
    char *plugin;             /* NULL: not known */
    struct staged *staged;    /* FOUND_NEW */
    char signer[SIGNER_SIZE]; /* FOUND_NEW: whose signature was verified; "" = nobody's */
    struct descriptor desc;   /* FOUND_NEW: from the probe. FOUND_QUARANTINED: may be there */
    const char *stage;   /* failed: "scan", "stage", "signature", "preflight", "probe"; or what is
                            remembered */
    char *stage_copy;    /* its memory, when remembered */
    char *error;         /* failed: why; begins with the file's name */
    char key[KNOWN_KEY]; /* failed: to be remembered under; "" = not to be */
    char *quarantined;   /* why the file is; NULL: it is not */
    bool kept;           /* FOUND_NEW: staged from the store, in place of the file */
    bool waits;          /* kept: the file is not judged yet, and is to be a canary; */
    struct trial trial;  /* it was one like that; plugin "": by its rollout, from the first step */
    char *config_text, config_sha256[65]; /* kept: what it runs with */
};

struct scan_active {
    const char *plugin, *sha256, *config_sha256; /* a version's, which lives as long as the scan */
    const char *copy;                            /* its staged file */
};

struct scan {
    struct job job;
    /* Control's part. */
    struct stage *stage;
    struct probe *probe;
    struct known *known;
    const struct config *config;
    struct keep *keep;      /* may be NULL */
    bool retry;             /* what failed before or is quarantined is tried again */
    const char *retry_only; /* NULL, or the plugin that `retry` is about */
    bool stand_ins;         /* of what is quarantined and has no good version, routes are wanted */
    bool first;             /* nothing serves yet: what is not judged waits beside the good one */
    bool salvage;           /* first, again: good versions serve in place of files that failed */
    bool new_config;        /* what serves is held against its demands, and warned of */
    struct scan_active *active;
    size_t nactive;
    struct kept revert; /* scan_revert_work: what is to be staged, */
    char *revert_path;  /* and the path that it stands for */
    /* The loader's. job.rc -1: the folder could not be read. */
    struct found *found;
    size_t nfound, cap;
};

/* Whether a file of this name is a plugin: NAME.so, and no dot before it. Any thread. */
bool scan_takes(const char *name);

void scan_work(struct job *job);        /* [loader] */
void scan_revert_work(struct job *job); /* [loader] finds `revert` alone */
void scan_fini(struct scan *s); /* what is staged and not taken (staged = NULL) stays on disk */

/* scan_kept.c, for scan.c. [loader] */
bool scan_is_quarantined(struct scan *s, struct found *f, const struct config_plugin *cfg);
bool scan_describe_good(struct scan *s, struct found *f); /* without a probe; false: it needs one */
/* In place of quarantined files, where nothing serves, and, at the start, of files that are not judged
   yet, or that failed just now (`salvage`). -1: it cannot be said now which can be used. */
int scan_serve_kept(struct scan *s, struct err *err);

#endif
