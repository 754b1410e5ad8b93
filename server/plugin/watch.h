/*
 * The folder watch: inotify on the plugin folder, on all folders above it, and the same for the
 * links that lead to it and to the files in it, and for where they lead. Changes within 200 ms are
 * one; what has changed is for the scan to find out, by hashes. Control thread.
 */
#ifndef GRAFT_PLUGIN_WATCH_H
#define GRAFT_PLUGIN_WATCH_H

#include "base/err.h"
#include "plugin/swap.h"

struct watch;

/* Watches the folder of the swap's configuration, and asks that swap. */
int watch_open(struct watch **out, struct swap *s, struct event_base *base, struct err *err);
void watch_close(struct watch **wp); /* takes NULL */
void watch_refresh(struct watch *w); /* the configuration may name another folder; takes NULL */

#endif
