/*
 * What an upgrade starts the next process with: program, configuration, user, sockets, folders. All
 * of it is duplicates or can be taken back.
 *
 * The server process has asked for it, and may be anybody's by now. Where the supervisor has kept
 * root's rights, they are used for what root alone could have written (root_owns): a port below
 * 1024 or another user that such a configuration names, for the program that graftd was started
 * from. All else is done with the rights of the user that it works as.
 */
#include "run/supervisor_private.h"

#include "base/memfd.h"
#include "plugin/keep.h"
#include "run/cores.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Whoever may write to that file could have us run anything. */
static int open_program(struct supervisor_upgrade *up, struct err *err)
{
    struct stat st;
    up->foreign.text[0] = '\0';
    root_owns(up->path, &up->foreign);
    up->exe = open(up->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (up->exe < 0 || fstat(up->exe, &st) != 0)
        return err_set(err, "cannot open %s: %s", up->path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return err_set(err, "%s: expected a program, found something else", up->path);
    if (faccessat(AT_FDCWD, up->path, X_OK, AT_EACCESS) != 0 || (st.st_mode & 0111) == 0)
        return err_set(err, "%s is not executable: install it with mode 0755", up->path);
    if ((st.st_uid != 0 && st.st_uid != geteuid()) || (st.st_mode & 022) != 0)
        return err_set(
            err,
            "%s: expected a file of root or of graftd's user that nobody else may write: "
            "chown it, and install it with mode 0755",
            up->path);
    return 0;
}

/* Where root's rights are kept, the text is not the server process's to say, which may be anybody's
   by now: what is root's is read again. What is not is believed as it always was: root's rights are
   not used for it. */
static int load_config(struct supervisor *sv, struct wire_message *m, struct err *err)
{
    struct supervisor_upgrade *up = &sv->up;
    const struct options *opt = sv->held.options;
    struct buf text = { 0 };
    up->foreign_config.text[0] = '\0';
    root_owns(opt->config_file != NULL ? opt->config_file : config_default_path(),
              &up->foreign_config);
    if (root_is_kept() && up->foreign_config.text[0] == '\0')
        up->config = config_load(opt, environ, err);
    else if (m->nfds == 0 || memfd_read(m->fds[0], CONFIG_FILE_MAX, &text, err) == 0)
        up->config =
            config_load_text(opt, environ, m->nfds > 0 ? text.data : NULL, text.len, true, err);
    if (up->config != NULL)
        up->config_fd = memfd_of_text("graft-config", up->config->text, up->config->text_len, err);
    buf_fini(&text);
    return up->config != NULL && up->config_fd >= 0 ? 0 : -1;
}

/* Another user is become for what root has written alone. */
static int judge_sources(const struct supervisor *sv, struct err *err)
{
    const struct supervisor_upgrade *up = &sv->up;
    if (strcmp(up->path, sv->program) != 0)
        return err_set(err, "%s is not what graftd was started from (%s)", up->path, sv->program);
    const char *why = up->foreign.text[0] != '\0' ? up->foreign.text : up->foreign_config.text;
    return why[0] == '\0' ? 0 : err_set(err, "%s", why);
}

static bool is_same_user(const struct user *a, const struct user *b)
{
    return a->uid == b->uid && a->gid == b->gid && strcmp(a->name, b->name) == 0;
}

static int judge_user(struct supervisor *sv, struct err *err)
{
    struct supervisor_upgrade *up = &sv->up;
    const char *name = up->config->user;
    struct err why;
    if (user_find(&up->user, name, err) != 0)
        return -1;
    if (root_is_kept() && (name[0] == '\0' || up->user.uid == 0))
        return err_set(err,
                       "user is \"%s\" now: an upgrade makes no server root again: restart the "
                       "service",
                       name);
    if (!root_is_kept() || is_same_user(&up->user, &sv->held.user) || judge_sources(sv, &why) == 0)
        return 0;
    return err_set(err,
                   "user is \"%s\" now, and root's rights are not used for what others could "
                   "have written: %s: mend that, or restart the service",
                   name, why.text);
}

/* 0, with `ids` for whom there is something to become. */
static int choose_user(struct supervisor *sv, struct err *err)
{
    struct supervisor_upgrade *up = &sv->up;
    if (judge_user(sv, err) != 0)
        return -1;
    if (up->user.name[0] == '\0' || up->user.uid == 0 || (!root_is_kept() && geteuid() != 0))
        return 0;
    up->ids = root_ids_find(up->user.name, up->user.uid, up->user.gid, err);
    return up->ids != NULL ? 0 : -1;
}

/* Sockets and folders that the supervisor goes on with. */
static void note_not_applied(struct supervisor *sv)
{
    struct supervisor_upgrade *up = &sv->up;
    const char *names[32];
    struct buf list = { 0 };
    int n = config_restart_keys_changed(sv->held.config, up->config, names, ARRAY_LEN(names));
    for (int i = 0; i < n && i < (int)ARRAY_LEN(names); i++)
        if (!config_upgrade_applies(names[i]))
            buf_printf(&list, "%s%s", list.len > 0 ? ", " : "", names[i]);
    if (list.len > 0)
        snprintf(up->note, sizeof up->note, "changed, but takes effect only at a restart: %.180s",
                 list.data);
    buf_fini(&list);
}

/* New ports below 1024 are root's to open. */
static int follow_listeners(struct supervisor *sv, struct err *err)
{
    struct supervisor_upgrade *up = &sv->up;
    const char *why = up->foreign_config.text;
    root_lends_ports(why[0] == '\0');
    int rc = listeners_follow(&up->listeners, sv->held.listeners, up->config, up->workers, err);
    root_lends_ports(false);
    bool for_root = rc != 0 && root_is_kept() && strstr(err->text, strerror(EACCES)) != NULL;
    return for_root && why[0] != '\0' ? err_set(err, "%s (%s)", err->text, why) : rc;
}

/* The process that serves needs them no more: its swaps are held, its store is written. */
static int give_folders(struct supervisor *sv, struct err *err)
{
    struct supervisor_upgrade *up = &sv->up;
    up->gift = (struct root_gift){ .from = sv->held.user.uid };
    if (up->ids == NULL || up->user.uid == sv->held.user.uid)
        return 0;
    if (stage_give(sv->held.stage, &up->gift, up->ids, err) != 0)
        return -1;
    return keep_give(up->config->state_dir, sv->held.state_lock, &up->gift, up->ids, err);
}

int supervisor_prepare(struct supervisor *sv, struct wire_message *m, struct err *err)
{
    struct supervisor_upgrade *up = &sv->up;
    const char *binary = m->body.upgrade.binary;
    snprintf(up->path, sizeof up->path, "%s", binary[0] != '\0' ? binary : sv->path);
    if (open_program(up, err) != 0 || load_config(sv, m, err) != 0 || choose_user(sv, err) != 0)
        return -1;
    note_not_applied(sv);
    if (strcmp(up->config->state_dir, sv->held.config->state_dir) != 0)
        up->state_lock = keep_lock(up->config->state_dir);
    up->workers = up->config->workers > 0 ? up->config->workers : cores_usable();
    if (follow_listeners(sv, err) != 0)
        return -1;
    if (supervisor_copy_blocks(&up->blocks, &sv->blocks) != 0)
        return err_set(err, "the shared blocks cannot be handed on: %s", strerror(errno));
    return give_folders(sv, err);
}

void supervisor_unprepare(struct supervisor *sv)
{
    struct supervisor_upgrade *up = &sv->up;
    if (up->listeners != NULL)
        listeners_drop(up->listeners, sv->held.listeners);
    config_free(up->config);
    supervisor_free_blocks(&up->blocks);
    if (up->config_fd >= 0)
        close(up->config_fd);
    if (up->exe >= 0)
        close(up->exe);
    up->listeners = NULL;
    up->config = NULL;
    if (up->state_lock >= 0)
        close(up->state_lock);
    up->config_fd = up->exe = up->state_lock = -1;
    root_take_back(&up->gift);
    free(up->ids);
    up->ids = NULL;
}

/* ---- Another user -------------------------------------------------------------------------- */

/* What the user that we worked as has made and the new one goes on with. */
static void pass_on(struct supervisor *sv)
{
    const struct user *from = &sv->held.user, *to = &sv->up.user;
    struct err err;
    for (unsigned i = 0; i < sv->held.listeners->n; i++)
        if (!sv->held.listeners->all[i].goes_on)
            listener_unlink(&sv->held.listeners->all[i]); /* who may, that is still we */
    listeners_give(sv->held.listeners, to->uid, to->gid);
    listeners_give(sv->up.listeners, to->uid, to->gid);
    if (place_pass(&sv->held.control, from->uid, to->uid, to->gid, &err) != 0)
        log_msg(LOG_WARN, "control", "%s", err.text);
    if (log_pass(from->uid, to->uid, to->gid) < 0)
        log_msg(LOG_WARN, "config", "%s cannot be given to %s: reopening it will fail",
                sv->held.config->log.file, to->name);
}

void supervisor_change_user(struct supervisor *sv)
{
    struct supervisor_upgrade *up = &sv->up;
    struct err err;
    if (up->ids == NULL)
        return;
    if (up->user.uid != sv->held.user.uid)
        pass_on(sv);
    if (root_keep(up->ids, &err) == 0)
        sv->held.user = up->user;
    else
        log_msg(LOG_ERROR, "upgrade", "the supervisor: %s", err.text);
    root_forget_gift(&up->gift);
    free(up->ids);
    up->ids = NULL;
}
