/*
 * The request target: path, query and segments. The path is split at '/' first, then each segment
 * is percent-decoded, then dot segments are removed; "%2F" stays encoded (as capitals), so that it
 * never becomes a border between segments. Empty segments are kept: "/a/", "/a" and "/a//" are
 * three paths. A path without escapes and dot segments is not copied. Any thread.
 */
#ifndef GRAFT_HTTP_TARGET_H
#define GRAFT_HTTP_TARGET_H

#include "base/arena.h"
#include "base/base.h"
#include "base/str.h"
#include "http/head.h"

#define TARGET_MAX_SEGMENTS 1024 /* more are 414: 8000 slashes shall not cost 256 KB */

struct segment {
    struct str raw;     /* as sent */
    struct str decoded; /* "%2F" left as it is */
};

struct target {
    struct str path;          /* normalised, starts with '/'; "*" for the asterisk-form */
    struct str query;         /* raw, without '?'; absent when there is none, "" for a bare '?' */
    struct segment *segments; /* what stands between the slashes: "/" has one, which is empty */
    unsigned nsegments;       /* 0 only for the asterisk-form */
    bool asterisk;
};

/* Origin-form, absolute-form (its authority is skipped) or "*". 0, or -1: 400 for a broken escape,
   %00, '#', or a path that climbs above the root; 414; 500 no memory. Borrows from `raw`. */
int target_parse(struct arena *a, struct str raw, struct target *out, struct head_verdict *v);

/* The first query field of that name, decoded ('+' is a space, broken escapes stay as they are);
   absent when there is none (or no memory), {"",0} when it is empty or has no '='. */
struct str target_query_get(struct arena *a, struct str query, const char *name);

/* For a :param: everything decoded, "%2F" too. Borrows raw_segment when nothing is escaped. */
struct str target_decode_all(struct arena *a, struct str raw_segment);

/* The authority of an absolute-form target and what follows it (path and query, may be "");
   false when `raw` is not "http://" or "https://" and so on. Judges nothing else. */
bool target_split_absolute(struct str raw, struct str *authority, struct str *rest);

#endif
