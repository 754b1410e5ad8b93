/*
 * Filling a struct err. The arguments may point into the very text that is being replaced
 * (err_set(err, "%s: ...", err->text)), so the new text is made beside it first. Any thread.
 */
#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Says in the text itself that it was cut. */
static void mark_cut(char *text, size_t size)
{
    memcpy(text + size - 4, "...", 4);
}

int err_vset(struct err *err, const char *fmt, va_list ap)
{
    if (err == NULL)
        return -1;
    char text[sizeof(err->text)];
    int n = vsnprintf(text, sizeof(text), fmt, ap);
    if (n < 0)
        text[0] = '\0';
    else if ((size_t)n >= sizeof(text))
        mark_cut(text, sizeof(text));
    memcpy(err->text, text, strlen(text) + 1);
    return -1;
}

int err_set(struct err *err, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    err_vset(err, fmt, ap);
    va_end(ap);
    return -1;
}

int err_prefix(struct err *err, const char *fmt, ...)
{
    if (err == NULL)
        return -1;
    struct err prefix;
    va_list ap;
    va_start(ap, fmt);
    err_vset(&prefix, fmt, ap);
    va_end(ap);
    return err_set(err, "%s: %s", prefix.text, err->text);
}

bool err_is_lack(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOMEM || error == ENOSPC ||
           error == EDQUOT;
}
