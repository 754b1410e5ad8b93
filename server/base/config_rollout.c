/*
 * plugins.NAME.rollout: how a changed file of that plugin comes to serve step by step, and what
 * turns it back. One configuration, one thread.
 */
#include "base/config_private.h"

#include <stdlib.h>

#define RATIO_MAX   1000
#define STEP_MS_MAX 604800000 /* a week */

static const struct config_rollout usual = { .steps = { 5, 25, 50 },
                                             .nsteps = 3,
                                             .step_ms = 30000,
                                             .min_requests = 200,
                                             .max_error_rate = 0.01,
                                             .max_error_ratio = 2.0,
                                             .max_p99_ratio = 1.5,
                                             .advance = true };

static int read_steps(struct config_rollout *r, struct json_value v, struct err *err)
{
    static const char expected[] = "steps: expected 1 to 16 rising whole numbers from 0 to 99";
    if (config_expect(v, JSON_ARRAY, expected, err) != 0)
        return -1;
    size_t n = json_count(v);
    if (n == 0 || n > CONFIG_STEPS_MAX)
        return json_fail(v, err, "%s, found %zu of them", expected, n);
    for (size_t i = 0; i < n; i++) {
        int64_t step;
        struct json_value at = json_at(v, i);
        struct str text = json_text(at);
        if (json_int(at, &step) != 0 || step < 0 || step > 99 ||
            (i > 0 && step <= (int64_t)r->steps[i - 1]))
            return json_fail(at, err, "%s, found %.*s", expected, (int)text.len, text.ptr);
        r->steps[i] = (unsigned)step;
    }
    r->nsteps = (unsigned)n;
    return 0;
}

static int read_number(uint64_t *out, struct json_value v, const char *key, uint64_t min,
                       uint64_t max, struct err *err)
{
    int64_t n;
    struct str text = json_text(v);
    if (json_int(v, &n) != 0 || n < (int64_t)min || n > (int64_t)max)
        return json_fail(v, err, "%s: expected a whole number from %llu to %llu, found %.*s", key,
                         (unsigned long long)min, (unsigned long long)max, (int)text.len, text.ptr);
    *out = (uint64_t)n;
    return 0;
}

/* The reader of the document has proved that a number is written as JSON wants it. */
static int read_fraction(double *out, struct json_value v, const char *key, double min, double max,
                         struct err *err)
{
    char number[64];
    struct str text = json_text(v);
    if (json_type(v) == JSON_NUMBER && text.len < sizeof number) {
        memcpy(number, text.ptr, text.len);
        number[text.len] = '\0';
        *out = strtod(number, NULL); /* the locale is C's */
        if (*out >= min && *out <= max)
            return 0;
    }
    return json_fail(v, err, "%s: expected a number from %g to %g, found %.*s", key, min, max,
                     (int)(text.len < 64 ? text.len : 64), text.ptr);
}

static bool field_name(struct str s)
{
    for (size_t i = 0; i < s.len; i++)
        if (!strchr("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
                    s.ptr[i]) ||
            s.ptr[i] == '\0')
            return false;
    return s.len > 0 && s.len <= 256;
}

static int read_sticky(struct config_rollout *r, struct json_value v, struct err *err)
{
    static const char expected[] = "sticky: expected \"none\", \"cookie\", \"header:NAME\" or "
                                   "\"peer\"";
    struct str text = { NULL, 0 };
    if (config_expect(v, JSON_STRING, expected, err) != 0)
        return -1;
    json_string(v, &text);
    if (str_eq(text, STR("none"))) {
        r->sticky = CONFIG_STICKY_NONE;
    } else if (str_eq(text, STR("cookie"))) {
        r->sticky = CONFIG_STICKY_COOKIE;
    } else if (str_eq(text, STR("peer"))) {
        r->sticky = CONFIG_STICKY_PEER;
    } else if (text.len > 7 && memcmp(text.ptr, "header:", 7) == 0 &&
               field_name((struct str){ text.ptr + 7, text.len - 7 })) {
        r->sticky = CONFIG_STICKY_HEADER;
        return config_copy(&r->header, text.ptr + 7, err);
    } else {
        return json_fail(v, err, "%s, found \"%.80s\"", expected, text.ptr);
    }
    return 0;
}

static int read_member(struct config_rollout *r, struct str key, struct json_value v,
                       struct err *err)
{
    uint64_t ms = 0;
    if (str_eq(key, STR("steps")))
        return read_steps(r, v, err);
    if (str_eq(key, STR("sticky")))
        return read_sticky(r, v, err);
    if (str_eq(key, STR("min_requests")))
        return read_number(&r->min_requests, v, "min_requests", 1, 1u << 30, err);
    if (str_eq(key, STR("max_error_rate")))
        return read_fraction(&r->max_error_rate, v, "max_error_rate", 0, 1, err);
    if (str_eq(key, STR("max_error_ratio")))
        return read_fraction(&r->max_error_ratio, v, "max_error_ratio", 1, RATIO_MAX, err);
    if (str_eq(key, STR("max_p99_ratio")))
        return read_fraction(&r->max_p99_ratio, v, "max_p99_ratio", 1, RATIO_MAX, err);
    if (str_eq(key, STR("shadow"))) {
        uint64_t percent = 0;
        int rc = read_number(&percent, v, "shadow", 0, 100, err);
        r->shadow = (unsigned)percent;
        return rc;
    }
    if (str_eq(key, STR("auto")))
        return config_expect(v, JSON_BOOL, "auto: expected true or false", err) != 0
                   ? -1
                   : json_bool(v, &r->advance);
    if (read_number(&ms, v, "step_ms", 100, STEP_MS_MAX, err) != 0)
        return -1;
    r->step_ms = (unsigned)ms;
    return 0;
}

int config_read_rollout(struct config_rollout **out, struct json_value v, struct err *err)
{
    static const struct str known[] = { { "steps", 5 },
                                        { "step_ms", 7 },
                                        { "min_requests", 12 },
                                        { "max_error_rate", 14 },
                                        { "max_error_ratio", 15 },
                                        { "max_p99_ratio", 13 },
                                        { "sticky", 6 },
                                        { "shadow", 6 },
                                        { "auto", 4 } };
    if (config_expect(v, JSON_OBJECT, "rollout: expected an object", err) != 0 ||
        config_check_keys(v, known, ARRAY_LEN(known), err) != 0)
        return -1;
    struct config_rollout *r = *out = malloc(sizeof *r);
    if (r == NULL)
        return config_no_memory(err);
    *r = usual;
    for (size_t i = 0; i < json_count(v); i++)
        if (read_member(r, json_key_at(v, i), json_at(v, i), err) != 0)
            return -1;
    return 0;
}

void config_rollout_free(struct config_rollout *r)
{
    if (r != NULL)
        free(r->header);
    free(r);
}
