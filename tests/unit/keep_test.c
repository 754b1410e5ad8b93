/* plugin/keep*.c: the store of good versions, its files, its index, and what others may do to it.
 */
#include "so.h"

#include "base/inbox.h"
#include "base/json.h"
#include "plugin/keep_private.h"
#include "plugin/verdict.h"

#include <sha2.h>
#include <sys/resource.h>

static struct stage *stage;
static char state[256];

/* A staged file, and what it would be kept as. */
struct file {
    struct kept kept;
    char path[300];
};

static struct file make_file(const char *plugin, unsigned number, const char *config)
{
    static char version[8][16], files[8][80];
    static unsigned next;
    unsigned at = next++ % 8;
    struct file f = { .kept = { .stored = false } };
    char text[64];
    snprintf(text, sizeof text, "the file of build %u", number);
    snprintf(f.path, sizeof f.path, "%s/build%u", so_folder(), number);
    unlink(f.path);
    so_write(f.path, text, strlen(text));
    must(chmod(f.path, 0600) == 0);
    snprintf(f.kept.identity.plugin, sizeof f.kept.identity.plugin, "%s", plugin);
    SHA256Data((const uint8_t *)text, strlen(text), f.kept.identity.sha256);
    SHA256Data((const uint8_t *)config, strlen(config), f.kept.identity.config_sha256);
    snprintf(version[at], sizeof version[at], "%u.0", number);
    snprintf(files[at], sizeof files[at], "%s.so", plugin);
    f.kept.version = version[at];
    f.kept.file = files[at];
    f.kept.config = (char *)(uintptr_t)config;
    return f;
}

static void add_good(struct keep *k, struct file *f)
{
    f->kept.from = f->path;
    keep_good(k, &f->kept);
}

static bool flush(struct keep *k)
{
    struct err err = { "" };
    int rc = keep_flush(k, &err);
    if (rc != 0)
        fprintf(stderr, "# %s\n", err.text);
    return rc == 0;
}

static struct keep *open_keep(void)
{
    struct err err;
    if (state[0] == '\0')
        snprintf(state, sizeof state, "%s/state", so_folder());
    if (stage == NULL)
        must(stage_open(&stage, so_path("stage"), &err) == 0);
    struct keep *k = keep_open(state, stage, -1);
    must(k != NULL);
    return k;
}

static void close_all(struct keep *k)
{
    keep_close(k);
    stage_close(stage);
    stage = NULL;
}

static const char *in_state(const char *name)
{
    static char path[400];
    snprintf(path, sizeof path, "%s/%s", state, name);
    return path;
}

/* The newest good version's word, or "none". */
static const char *newest(struct keep *k, const char *plugin)
{
    static char word[64];
    struct kept kept;
    if (!keep_find(k, plugin, NULL, &kept))
        return "none";
    snprintf(word, sizeof word, "%s", kept.version);
    kept_fini(&kept);
    return word;
}

static bool says(const char *text, const char *part)
{
    if (strstr(text, part) != NULL)
        return true;
    fprintf(stderr, "# \"%s\" does not say \"%s\"\n", text, part);
    return false;
}

TEST(what_is_written_is_there_after_a_restart)
{
    char reason[QUARANTINE_REASON_MAX];
    struct keep *k = open_keep();
    struct file one = make_file("shop", 1, "{}"),
                two = make_file("shop", 2, "{\"a\":[1,\"\xc3\xa4\"]}"),
                bad = make_file("shop", 3, "{}"), other = make_file("other", 4, "{}");
    struct kept kept;
    is_str(keep_path(k), state);
    add_good(k, &one);
    add_good(k, &two);
    add_good(k, &other);
    keep_quarantine(k, &bad.kept.identity, "it was slow", "{\"p99\":[1,2]}");
    ok(!keep_crash(k, &two.kept.identity, 5000, 1000, NULL));
    ok(flush(k));
    keep_close(k);
    k = open_keep();
    is_str(newest(k, "shop"), "2.0");
    is_str(newest(k, "other"), "4.0");
    must(keep_find(k, "shop", &two.kept.identity, &kept));
    is_str(kept.version, "1.0");
    is_str(kept.config, "{}");
    ok(kept.stored);
    kept_fini(&kept);
    must(keep_find_file(k, two.kept.identity.sha256, NULL, &kept));
    is_str(kept.config, "{\"a\":[1,\"\xc3\xa4\"]}");
    is_str(kept.file, "shop.so");
    kept_fini(&kept);
    ok(!keep_find_file(k, two.kept.identity.sha256, one.kept.identity.config_sha256, &kept));
    ok(keep_is_quarantined(k, &bad.kept.identity, reason));
    is_str(reason, "it was slow");
    ok(!keep_is_quarantined(k, &one.kept.identity, reason));
    ok(keep_crash(k, &two.kept.identity, 5900, 1000, NULL)); /* the first was before the restart */
    ok(keep_is_quarantined(k, &two.kept.identity, reason));
    ok(says(reason, "crashed the server twice within 1000 ms"));
    is_str(newest(k, "shop"), "1.0");
    close_all(k);
}

/* The identity comes from a process that was crashing: whatever it says, the index is read again.
 */
TEST(a_crash_without_a_whole_identity_costs_nothing_that_is_kept)
{
    static const struct identity strange[] = {
        { "shop", "", "" }, /* of a file that the roster had no room for */
        { "shop", "0123", "zz" },
        { "", "", "" },
    };
    struct file one = make_file("shop", 1, "{}");
    struct keep *k = open_keep();
    add_good(k, &one);
    for (size_t i = 0; i < ARRAY_LEN(strange) + 1; i++) {
        struct identity id = i < ARRAY_LEN(strange) ? strange[i] : one.kept.identity;
        if (i == ARRAY_LEN(strange))
            memcpy(id.plugin, "\xff\x01\"", 4);
        ok(!keep_crash(k, &id, 5000, 1000, NULL));
        ok(!keep_crash(k, &id, 5001, 1000, "{}"));
        is(keep_quarantined(k), 0);
        ok(flush(k));
        keep_close(k);
        k = open_keep();
        is_str(newest(k, "shop"), "1.0");
        ok(access(in_state("index.json.bad"), F_OK) != 0);
    }
    close_all(k);
}

TEST(what_is_on_trial_is_known_after_a_restart)
{
    struct keep *k = open_keep();
    struct file one = make_file("shop", 1, "{}"), two = make_file("shop", 2, "{}"),
                other = make_file("other", 4, "{}");
    struct trial trial = { .identity = two.kept.identity, .weight = 30, .held = true }, found;
    add_good(k, &one);
    ok(keep_trial(k, &trial));
    ok(!keep_trial(k, &trial)); /* no news */
    trial.shadow_asked = true;
    ok(keep_trial(k, &trial)); /* 0 %, but by hand */
    trial.shadow = 50;
    ok(keep_trial(k, &trial));
    ok(!keep_trial(k, &trial));
    trial = (struct trial){ .identity = other.kept.identity, .weight = 5 };
    ok(keep_trial(k, &trial));
    ok(flush(k));
    keep_close(k);
    k = open_keep();
    must(keep_is_on_trial(k, &two.kept.identity, &found));
    is(found.weight, 30);
    ok(found.held);
    ok(found.shadow_asked);
    is(found.shadow, 50);
    must(keep_is_on_trial(k, &other.kept.identity, &found));
    is(found.weight, 5);
    ok(!found.held);
    ok(!found.shadow_asked);
    is(found.shadow, 0);
    ok(!keep_is_on_trial(k, &one.kept.identity, &found));
    add_good(k, &two);
    ok(!keep_is_on_trial(k, &two.kept.identity, &found)); /* judged */
    keep_quarantine(k, &other.kept.identity, "bad", NULL);
    ok(!keep_is_on_trial(k, &other.kept.identity, &found));
    ok(flush(k));
    keep_close(k);
    k = open_keep();
    ok(!keep_is_on_trial(k, &two.kept.identity, &found));
    close_all(k);
}

/* The index is of before, or of nothing. */
TEST(what_is_on_trial_is_known_after_a_crash)
{
    static struct verdict_area area;
    struct keep *k = open_keep();
    struct file one = make_file("shop", 1, "{}");
    struct trial trial = { .identity = one.kept.identity, .weight = 30, .held = true }, found;
    for (unsigned i = 0; i <= 3; i++) { /* not asked for, 0, 50 and 100 % */
        trial.shadow_asked = i > 0;
        trial.shadow = i > 0 ? (i - 1) * 50 : 0;
        verdicts_open(&area);
        ok(keep_trial(k, &trial));
        keep_close(k);
        verdicts_open(&area);
        k = open_keep();
        must(keep_is_on_trial(k, &one.kept.identity, &found));
        is(found.weight, 30);
        is(found.shadow_asked, trial.shadow_asked);
        is(found.shadow, trial.shadow);
    }
    verdicts_open(NULL);
    close_all(k);
}

/* It is copied and written some time after the answer; what was written in between had neither its
 * trial nor it. */
TEST(what_was_promoted_is_known_after_a_crash_before_its_file_is_copied)
{
    static struct verdict_area area;
    struct keep *k = open_keep();
    struct file one = make_file("shop", 1, "{}"), two = make_file("shop", 2, "{}");
    struct trial trial = { .identity = two.kept.identity, .weight = 30 };
    verdicts_open(&area);
    add_good(k, &one);
    ok(keep_trial(k, &trial));
    ok(flush(k));
    is(area.added - area.written, 0);
    must(unlink(two.path) == 0 && symlink("x", two.path) == 0); /* cannot be copied */
    for (int crash = 0; crash < 2;
         crash++) { /* also one that comes before the next process has it */
        add_good(k, &two);
        ok(!flush(k));
        ok(area.added > area.written);
        keep_close(k);
        verdicts_open(&area);
        k = open_keep();
        ok(keep_is_judged(k, &two.kept.identity));
        ok(!keep_is_on_trial(k, &two.kept.identity, &trial));
    }
    must(unlink(two.path) == 0);
    two = make_file("shop", 2, "{}");
    add_good(k, &two);
    ok(flush(k));
    is(area.added - area.written, 0);
    verdicts_open(NULL);
    close_all(k);
}

TEST(trials_are_one_of_each_plugin_and_bounded)
{
    struct trials t = { .n = 0 };
    struct trial trial = { .weight = 0 };
    for (unsigned i = 0; i < TRIALS_MAX + 4; i++) {
        snprintf(trial.identity.plugin, sizeof trial.identity.plugin, "p%u", i);
        ok(trials_set(&t, &trial));
    }
    is(t.n, TRIALS_MAX);
    is_str(t.list[0].identity.plugin, "p4"); /* the oldest went */
    trial.weight = 1;
    ok(trials_set(&t, &trial));
    is(t.n, TRIALS_MAX);
    snprintf(trial.identity.sha256, sizeof trial.identity.sha256, "another");
    ok(trials_find(&t, &trial.identity) == NULL);
    ok(trials_set(&t, &trial)); /* in the place of the plugin's other one */
    is(t.n, TRIALS_MAX);
    ok(trials_end(&t, &trial.identity));
    ok(!trials_end(&t, &trial.identity));
    is(t.n, TRIALS_MAX - 1);
}

TEST(two_good_versions_and_no_file_more)
{
    struct keep *k = open_keep();
    struct file f[5];
    for (unsigned i = 0; i < 5; i++) {
        f[i] = make_file("shop", i, "{}");
        add_good(k, &f[i]);
        ok(flush(k));
    }
    char path[500];
    for (unsigned i = 0; i < 5; i++) {
        snprintf(path, sizeof path, "%s/files/%s", state, f[i].kept.identity.sha256);
        is(access(path, F_OK), i >= 3 ? 0 : -1);
    }
    add_good(k, &f[3]); /* again: it is the newest now, and its predecessor stays */
    is_str(newest(k, "shop"), "3.0");
    struct kept kept;
    must(keep_find(k, "shop", &f[3].kept.identity, &kept));
    is_str(kept.version, "4.0");
    kept_fini(&kept);
    keep_quarantine(k, &f[3].kept.identity, "bad", NULL);
    is_str(newest(k, "shop"), "4.0");
    add_good(k, &f[3]); /* somebody tried it again, and it served */
    is(keep_quarantined(k), 0);
    close_all(k);
}

TEST(one_file_with_two_configurations)
{
    struct keep *k = open_keep();
    struct file a = make_file("shop", 1, "{}"), b = make_file("shop", 1, "{\"x\":1}");
    struct kept kept;
    add_good(k, &a);
    add_good(k, &b);
    keep_quarantine(k, &b.kept.identity, "bad", NULL);
    ok(flush(k));
    keep_close(k);
    k = open_keep();
    must(keep_find(k, "shop", NULL, &kept));
    is_str(kept.config, "{}");
    kept_fini(&kept);
    close_all(k);
}

TEST(staging_proves_the_hash)
{
    struct keep *k = open_keep();
    struct file a = make_file("shop", 1, "{}");
    struct staged *staged = calloc(1, sizeof *staged);
    struct kept kept;
    struct err err;
    char path[500];
    must(staged != NULL);
    add_good(k, &a);
    ok(flush(k));
    must(keep_find(k, "shop", NULL, &kept));
    is(keep_stage(k, &kept, stage, "shop.so", staged, &err), 0);
    is_str(staged->sha256, a.kept.identity.sha256);
    ok(says(staged->path, "/shop/"));
    stage_remove(stage, staged);
    snprintf(path, sizeof path, "%s/files/%s", state, a.kept.identity.sha256);
    must(chmod(path, 0600) == 0);
    so_write(path, "another file", 12);
    is(keep_stage(k, &kept, stage, "shop.so", staged, &err), 1);
    ok(says(err.text, "has been changed"));
    must(unlink(path) == 0 && symlink(a.path, path) == 0);
    is(keep_stage(k, &kept, stage, "shop.so", staged, &err), 1);
    ok(says(err.text, "not in the store"));
    kept_fini(&kept);
    free(staged);
    close_all(k);
}

TEST(files_that_are_gone_are_not_good_any_more)
{
    struct keep *k = open_keep();
    struct file a = make_file("shop", 1, "{}"), b = make_file("shop", 2, "{}");
    char path[500];
    add_good(k, &a);
    add_good(k, &b);
    ok(flush(k));
    keep_close(k);
    snprintf(path, sizeof path, "%s/files/%s", state, b.kept.identity.sha256);
    must(unlink(path) == 0);
    k = open_keep();
    is_str(newest(k, "shop"), "1.0");
    keep_close(k);
    snprintf(path, sizeof path, "%s/files/%s", state, a.kept.identity.sha256);
    must(unlink(path) == 0);
    k = open_keep();
    is_str(newest(k, "shop"), "none");
    close_all(k);
}

/* ---- Killed while it writes ------------------------------------------------------------------ */

static unsigned steps_left;

static void end_here(const char *name)
{
    (void)name;
    if (steps_left-- == 0)
        _exit(7);
}

/* In a process that ends before its n-th step. True: it came through. */
static bool second_write(unsigned n)
{
    int status;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        struct keep *k = keep_open(state, stage, -1);
        struct file two = make_file("shop", 2, "{}"), one = make_file("shop", 1, "{}");
        steps_left = n;
        keep_folder_step = end_here;
        add_good(k, &two);
        keep_quarantine(k, &one.kept.identity, "bad", NULL);
        _exit(flush(k) ? 0 : 1);
    }
    must(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    ok(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 7);
    return WEXITSTATUS(status) == 0;
}

TEST(a_kill_at_any_step_leaves_the_old_or_the_new)
{
    unsigned n = 0, olds = 0;
    for (bool through = false; !through; n++) {
        char reason[QUARANTINE_REASON_MAX];
        struct file zero = make_file("shop", 0, "{}"), one = make_file("shop", 1, "{}");
        struct staged *staged = calloc(1, sizeof *staged);
        struct kept kept;
        struct err err;
        struct keep *k = open_keep();
        must(n < 100 && staged != NULL);
        add_good(k, &zero);
        add_good(k, &one);
        ok(flush(k));
        keep_close(k);
        through = second_write(n);
        k = open_keep();
        ok(keep_path(k) != NULL);
        bool is_new = keep_is_quarantined(k, &one.kept.identity, reason);
        olds += !is_new;
        is_str(newest(k, "shop"), is_new ? "2.0" : "1.0");
        ok(is_new || !through);
        must(keep_find(k, "shop", NULL, &kept));
        is(keep_stage(k, &kept, stage, "shop.so", staged, &err), 0);
        stage_remove(stage, staged);
        kept_fini(&kept);
        free(staged);
        close_all(k);
        so_sweep();
        state[0] = '\0';
    }
    ok(n >= 8);
    ok(olds >= 5);
}

/* ---- Two server processes -------------------------------------------------------------------- */

static int state_lock;
static bool taken_over;

/* What follows a crash while the process that crashed has not ended: another one opens the store,
   and writes. */
static void take_over(const char *name)
{
    (void)name;
    if (taken_over || steps_left-- != 0)
        return;
    taken_over = true;
    struct file one = make_file("shop", 1, "{}"), three = make_file("shop", 3, "{}");
    struct keep *k = keep_open(state, stage, state_lock);
    is_str(keep_path(k), state); /* not kept from it by the lock */
    keep_quarantine(k, &one.kept.identity, "crashed", NULL);
    add_good(k, &three);
    ok(flush(k));
    keep_close(k);
}

/* Named after what broke: a crash was noted, and the process that had crashed wrote its index over
   it, so that three crashes did not quarantine. */
TEST(what_a_newer_process_has_written_is_not_undone_by_an_older_one)
{
    for (taken_over = true; taken_over;) {
        static unsigned n;
        char reason[QUARANTINE_REASON_MAX];
        struct keep *k = open_keep(), *old;
        struct file one = make_file("shop", 1, "{}"), two = make_file("shop", 2, "{}");
        struct kept kept;
        keep_close(k);
        state_lock = keep_lock(state);
        ok(state_lock >= 0);
        old = keep_open(state, stage, state_lock);
        add_good(old, &one);
        ok(flush(old));
        add_good(old, &two);
        steps_left = n++;
        taken_over = false;
        keep_folder_step = take_over;
        ok(flush(old)); /* for the old one it is no error */
        keep_folder_step = NULL;
        ok(flush(old));
        keep_close(old);
        k = keep_open(state, stage, state_lock);
        is_str(newest(k, "shop"), taken_over ? "3.0" : "2.0");
        is(keep_is_quarantined(k, &one.kept.identity, reason), taken_over);
        while (keep_find(k, "shop", NULL, &kept)) { /* each of them is there, whole */
            struct staged staged;
            struct err err;
            is(keep_stage(k, &kept, stage, "shop.so", &staged, &err), 0);
            stage_remove(stage, &staged);
            keep_forget(k, &kept.identity);
            kept_fini(&kept);
        }
        close(state_lock);
        close_all(k);
        so_sweep();
        state[0] = '\0';
        must(n < 100);
    }
}

static void only_open(const char *name)
{
    (void)name;
    if (!taken_over)
        keep_close(keep_open(state, stage, state_lock));
    taken_over = true;
}

/* Named after what broke: what an older process could not write any more, it called written; had
   the newer one died before it had written, a quarantine that was answered would have been lost. */
TEST(what_another_process_has_taken_over_is_not_called_written)
{
    static struct verdict_area area;
    struct keep *k = open_keep(), *old;
    struct file one = make_file("shop", 1, "{}");
    keep_close(k);
    verdicts_open(&area);
    state_lock = keep_lock(state);
    old = keep_open(state, stage, state_lock);
    keep_quarantine(old, &one.kept.identity, "bad", NULL);
    is(area.added - area.written, 1);
    keep_folder_step = only_open;
    taken_over = false;
    ok(flush(old));
    ok(taken_over);
    keep_folder_step = NULL;
    is(area.added - area.written, 1);
    keep_close(old);
    k = keep_open(state, stage, state_lock); /* the next one: reads it and writes it */
    is(keep_quarantined(k), 1);
    ok(flush(k));
    is(area.added - area.written, 0);
    verdicts_open(NULL);
    close(state_lock);
    close_all(k);
}

/* As a process does whose predecessor has yielded; all is written then. Closes it. */
static void take_and_close(struct keep *k)
{
    struct inbox inbox;
    struct err err;
    struct loader *loader;
    struct event_base *base = event_base_new();
    thread_kind = THREAD_CONTROL;
    must(base != NULL && inbox_open(&inbox) == 0);
    must(loader_open(&loader, base, &inbox, 1000, &err) == 0);
    must(keep_start(k, loader, base, &inbox, NULL, NULL, &err) == 0);
    is(keep_take(k, &err), 0);
    while (keep_writes(k)) {
        inbox_run(&inbox);
        usleep(1000);
    }
    keep_close(k);
    loader_close(&loader);
    inbox_close(&inbox);
    event_base_free(base);
}

/* Named after what broke: a new graftd that could not read the index took it away from the one that
   served, although it never got ready. */
TEST(who_only_looks_on_leaves_an_index_that_it_cannot_read)
{
    struct file one = make_file("shop", 1, "{}");
    struct keep *k = open_keep(), *behind;
    keep_close(k);
    state_lock = keep_lock(state);
    k = keep_open(state, stage, state_lock);
    so_write(in_state("index.json"), "{\"graft_state\":1}", 17);
    must(chmod(in_state("index.json"), 0600) == 0);
    behind = keep_open_behind(state, stage, state_lock);
    is_str(newest(behind, "shop"), "none");
    is(access(in_state("index.json"), F_OK), 0);
    is(access(in_state("index.json.bad"), F_OK), -1);
    keep_close(behind); /* it did not get ready */
    behind = keep_open_behind(state, stage, state_lock);
    add_good(behind, &one);
    take_and_close(behind);
    is(access(in_state("index.json.bad"), F_OK), 0); /* it was its own then */
    keep_close(k);
    k = keep_open(state, stage, state_lock);
    is_str(newest(k, "shop"), "1.0");
    close(state_lock);
    close_all(k);
}

/* The folder was moved away and made anew: the lock of the other one is none of this. */
TEST(a_lock_of_another_folder_is_not_taken_for_ours)
{
    char moved[400];
    struct keep *k = open_keep(), *second;
    keep_close(k);
    state_lock = keep_lock(state);
    snprintf(moved, sizeof moved, "%s.moved", state);
    must(rename(state, moved) == 0);
    k = keep_open(state, stage, state_lock);
    is_str(keep_path(k), state);
    second = keep_open(state, stage, -1);
    ok(keep_path(second) == NULL); /* locked by k */
    keep_close(second);
    close(state_lock);
    close_all(k);
}

TEST(an_index_that_is_cut_anywhere_is_refused_and_set_aside)
{
    struct keep_model m;
    struct buf text = { 0 };
    struct file a = make_file("shop", 1, "{\"x\":1}"), bad = make_file("shop", 2, "{}");
    bool newer;
    struct err err;
    a.kept.synced = true;
    keep_model_init(&m);
    must(keep_model_good(&m, &a.kept));
    must(quarantine_add(&m.quarantine, &bad.kept.identity, "bad", "[1]", 5));
    must(keep_index_write(&m, &text) == 0);
    keep_model_fini(&m);
    for (size_t len = 0; len + 1 < text.len; len++) {
        keep_model_init(&m);
        err.text[0] = '\0';
        is(keep_index_read("index", text.data, len, &m, &newer, &err), -1);
        ok(err.text[0] != '\0');
        is(m.nplugins + m.quarantine.count, 0);
        keep_model_fini(&m);
    }
    struct keep *k = open_keep();
    keep_close(k);
    so_write(in_state("index.json"), text.data, text.len / 2);
    must(chmod(in_state("index.json"), 0600) == 0);
    k = open_keep();
    is_str(keep_path(k), state);
    is(access(in_state("index.json"), F_OK), -1);
    is(access(in_state("index.json.bad"), F_OK), 0);
    buf_fini(&text);
    close_all(k);
}

/* Named after what broke: a configuration may be nested as deep as a file of JSON allows, and
   stands deeper in the index, which then could not be read again. */
TEST(a_configuration_as_deep_as_can_be_is_read_again)
{
    char config[160];
    struct err err;
    const unsigned deep = JSON_DEPTH_MAX - 4; /* in plugins.NAME.config, one of them the object */
    size_t n = (size_t)snprintf(config, sizeof config, "{\"a\":");
    memset(config + n, '[', deep);
    memset(config + n + deep, ']', deep);
    snprintf(config + n + 2 * deep, 2, "}");
    char file[256];
    snprintf(file, sizeof file, "{\"plugins\":{\"shop\":{\"config\":%s}}}", config);
    struct json *doc = json_parse("file", file, strlen(file), &err);
    must(doc != NULL);
    json_free(doc);
    struct file a = make_file("shop", 1, config);
    struct keep *k = open_keep();
    add_good(k, &a);
    ok(flush(k));
    keep_close(k);
    k = open_keep();
    is_str(newest(k, "shop"), "1.0");
    close_all(k);
}

/* ---- Hostile folders ------------------------------------------------------------------------- */

#define H1 "4e07408562bedb8b60ce05c1decfe3ad16b72230967de01f640b7e4729b49fce"
#define H2 "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a" /* of {} */
#define GOOD(config_hash, version, file, config)                                                   \
    "{\"sha256\":\"" H1 "\",\"config_sha256\":\"" config_hash "\",\"version\":\"" version          \
    "\",\"file\":\"" file "\",\"since_ms\":1,\"config\":" config "}"
#define PLUGIN(name, good) "{\"plugin\":\"" name "\",\"good\":[" good "]}"
#define INDEX(plugins, quarantine, crashes)                                                        \
    "{\"graft_state\":1,\"plugins\":[" plugins "],\"quarantine\":[" quarantine                     \
    "],\"crashes\":[" crashes "]}"
#define BAD(name, config_hash)                                                                     \
    "{\"plugin\":\"" name "\",\"sha256\":\"" H1 "\",\"config_sha256\":\"" config_hash              \
    "\",\"when_ms\":1,\"reason\":\"r\"}"
#define CRASH(name)                                                                                \
    "{\"plugin\":\"" name "\",\"sha256\":\"" H1 "\",\"config_sha256\":\"" H2 "\",\"when_ms\":1}"
#define CANARY(shadow)                                                                             \
    "{\"graft_state\":1,\"plugins\":[],\"quarantine\":[],\"crashes\":[],\"canaries\":[{"           \
    "\"plugin\":\"a\",\"sha256\":\"" H1 "\",\"config_sha256\":\"" H2                               \
    "\",\"weight\":7,\"held\":true" shadow "}]}"

static const char *read_text_index(const char *text)
{
    static struct err err;
    struct keep_model m;
    bool newer;
    keep_model_init(&m);
    err.text[0] = '\0';
    int rc = keep_index_read("index", text, strlen(text), &m, &newer, &err);
    keep_model_fini(&m);
    return rc == 0 ? "good" : newer ? "newer" : err.text;
}

TEST(an_index_that_we_did_not_write)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        { INDEX("", "", ""), "good" },
        { INDEX(PLUGIN("shop", GOOD(H2, "1", "shop.so", "{}")), BAD("a", H2), CRASH("b")), "good" },
        { "", "index:" },
        { "[]", "it is not ours" },
        { "{\"graft_state\":\"1\"}", "it is not ours" },
        { "{\"graft_state\":0}", "it is not ours" },
        { "{\"graft_state\":2,\"what\":1}", "newer" },
        { "{\"graft_state\":1,\"plugins\":[],\"quarantine\":[]}", "expected a member \"crashes\"" },
        { "{\"graft_state\":1,\"plugins\":{},\"quarantine\":[],\"crashes\":[]}", "array" },
        { "{\"graft_state\":1,\"plugins\":[],\"quarantine\":7,\"crashes\":[]}", "array" },
        { "{\"graft_state\":1,\"plugins\":[],\"quarantine\":[],\"crashes\":[],\"x\":1}",
          "found \"x\"" },
        { "{\"graft_state\":1,\"plugins\":[],\"quarantine\":[],\"crashes\":[],\"canaries\":1}",
          "array" },
        { "{\"graft_state\":1,\"plugins\":[],\"quarantine\":[],\"crashes\":[],\"canaries\":[{}]}",
          "expected a member \"plugin\"" },
        { CANARY(""), "good" }, /* of before shares of shadows were kept */
        { CANARY(",\"shadow\":0"), "good" },
        { CANARY(",\"shadow\":100"), "good" },
        { CANARY(",\"shadow\":101"), "expected 0 to 100" },
        { CANARY(",\"shadow\":-1"), "expected 0 to 100" },
        { CANARY(",\"shadow\":true"), "expected 0 to 100" },
        { "{\"graft_state\":1,\"plugins crashes\":[],\"quarantine\":[],\"crashes\":[]}",
          "found \"plugins crashes\"" },
        { INDEX("1", "", ""), "expected an object" },
        { INDEX(PLUGIN("Shop", ""), "", ""), "bad name" },
        { INDEX(PLUGIN("../etc", ""), "", ""), "bad name" },
        { INDEX(PLUGIN("a\\u0000b", ""), "", ""), "cannot be part of a string" },
        { INDEX(PLUGIN("shop", GOOD(H1, "1", "shop.so", "{}")), "", ""), "is not config_sha256" },
        { INDEX(PLUGIN("shop", GOOD(H2, "1", "shop.so", "[]")), "", ""), "an object" },
        { INDEX(PLUGIN("shop", GOOD(H2, "1", "../shop.so", "{}")), "", ""), "name of a file" },
        { INDEX(PLUGIN("shop", GOOD(H2, "1", ".so", "{}")), "", ""), "name of a file" },
        { INDEX(PLUGIN("shop", GOOD(H2, "a\\nb", "shop.so", "{}")), "", ""), "bad version" },
        { INDEX(PLUGIN("shop", GOOD("zz", "1", "shop.so", "{}")), "", ""), "64 hex digits" },
        { INDEX(PLUGIN("shop", GOOD(H2, "1", "shop.so", "{}") ",1,2"), "", ""), "at most 2" },
        { INDEX(PLUGIN("shop", GOOD(H2, "1", "a.so", "{}")) "," PLUGIN("shop",
                                                                       GOOD(H2, "1", "a.so", "{}")),
                "", ""),
          "twice" },
        { INDEX("", BAD("a", H2) "," BAD("a", H2), ""), "twice" },
        { INDEX(PLUGIN("shop", GOOD(H2, "1", "a.so", "{}")), BAD("shop", H2), ""), "twice" },
        { INDEX("", "", CRASH("a") "," CRASH("a")), "twice" },
        { INDEX("", "{\"plugin\":\"a\"}", ""), "expected a member \"sha256\"" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        ok(says(read_text_index(cases[i].text), cases[i].says));
}

TEST(a_newer_format_is_left_alone)
{
    struct keep *k = open_keep();
    keep_close(k);
    so_write(in_state("index.json"), "{\"graft_state\":2}", 17);
    must(chmod(in_state("index.json"), 0600) == 0);
    k = open_keep();
    ok(keep_path(k) == NULL);
    struct file a = make_file("shop", 1, "{}");
    add_good(k, &a);
    ok(flush(k));
    is_str(newest(k, "shop"), "1.0");
    char text[32] = "";
    FILE *f = fopen(in_state("index.json"), "r");
    must(f != NULL && fgets(text, sizeof text, f) != NULL);
    fclose(f);
    is_str(text, "{\"graft_state\":2}");
    close_all(k);
}

/* Each must end in a store that works until the restart. */
static void unfit(void)
{
    struct keep *k = open_keep();
    struct file a = make_file("shop", 1, "{}");
    ok(keep_path(k) == NULL);
    add_good(k, &a);
    ok(flush(k));
    is_str(newest(k, "shop"), "1.0");
    close_all(k);
    so_sweep();
    state[0] = '\0';
}

TEST(without_a_state_folder_it_lasts_as_long_as_the_stage_folder)
{
    struct file a = make_file("shop", 1, "{}"), bad = make_file("shop", 2, "{}");
    char reason[QUARANTINE_REASON_MAX];
    unsetenv("STATE_DIRECTORY");
    snprintf(state, sizeof state, "%s/state", so_folder());
    so_write(state, "a file", 6);
    struct keep *k = open_keep();
    ok(keep_path(k) == NULL);
    add_good(k, &a);
    keep_quarantine(k, &bad.kept.identity, "bad", NULL);
    ok(flush(k));
    keep_close(k);
    k = open_keep(); /* another process with the same stage folder */
    is_str(newest(k, "shop"), "1.0");
    ok(keep_is_quarantined(k, &bad.kept.identity, reason));
    close_all(k);
    k = open_keep();
    is_str(newest(k, "shop"), "none");
    close_all(k);
}

/* Named after what broke: without a descriptor to spare, what is quarantined until the restart was
   given up, and the start went on. */
TEST(without_descriptors_what_lasts_until_the_restart_is_not_given_up)
{
    struct stat st;
    struct err err;
    struct rlimit limit;
    unsetenv("STATE_DIRECTORY");
    if (stat("/var/lib/graft", &st) == 0)
        return; /* that would be used */
    must(stage_open(&stage, so_path("stage"), &err) == 0);
    struct keep *k = keep_open("", stage, -1);
    ok(keep_path(k) == NULL && !keep_lacks(k, &err));
    keep_close(k);
    int next = dup(0);
    must(next > 0 && close(next) == 0 && getrlimit(RLIMIT_NOFILE, &limit) == 0);
    for (int more = 0; more < 4; more++) { /* for so many there is room: too few */
        limit.rlim_cur = (rlim_t)(next + more);
        must(setrlimit(RLIMIT_NOFILE, &limit) == 0);
        k = keep_open("", stage, -1);
        ok(keep_lacks(k, &err));
        keep_close(k);
    }
    limit.rlim_cur = limit.rlim_max;
    must(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    close_all(NULL);
}

TEST(folders_that_are_not_ours)
{
    struct keep *k;
    snprintf(state, sizeof state, "%s/state", so_folder());
    must(symlink("/tmp", state) == 0);
    unfit();
    snprintf(state, sizeof state, "%s/state", so_folder());
    so_write(state, "a file", 6);
    unfit();
    snprintf(state, sizeof state, "%s/state", so_folder());
    must(mkdir(state, 0755) == 0);
    so_write(in_state("somebody's"), "x", 1);
    unfit(); /* its mode is not ours to change */
    snprintf(state, sizeof state, "%s/state", so_folder());
    must(mkdir(state, 0700) == 0);
    so_write(in_state("files"), "x", 1);
    unfit();
    snprintf(state, sizeof state, "%s/state", so_folder());
    must(mkdir(state, 0700) == 0 && symlink("/tmp", in_state("files")) == 0);
    unfit();
    snprintf(state, sizeof state, "%s/state", so_folder());
    must(mkdir(state, 0700) == 0 && mkdir(in_state(".lock"), 0700) == 0);
    unfit();
    k = open_keep(); /* in use by another */
    struct keep *second = open_keep();
    ok(keep_path(k) != NULL && keep_path(second) == NULL);
    keep_close(second);
    close_all(k);
    must(chmod(state, 0755) == 0);
    k = open_keep(); /* nothing in it but ours: made private again */
    ok(keep_path(k) != NULL);
    struct stat st;
    must(stat(state, &st) == 0);
    is(st.st_mode & 0777, 0700);
    close_all(k);
}

TEST(an_index_that_is_no_file_of_ours)
{
    struct keep *k = open_keep();
    keep_close(k);
    must(mkfifo(in_state("index.json"), 0600) == 0);
    k = open_keep(); /* and does not wait for a writer */
    ok(keep_path(k) != NULL);
    keep_close(k);
    must(unlink(in_state("index.json.bad")) == 0);
    must(symlink("/etc/passwd", in_state("index.json")) == 0);
    k = open_keep();
    ok(keep_path(k) != NULL);
    keep_close(k);
    so_write(in_state("index.json"), "{}", 2);
    must(chmod(in_state("index.json"), 0666) == 0);
    k = open_keep();
    is(access(in_state("index.json"), F_OK), -1);
    keep_close(k);
    int fd = open(in_state("index.json"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    must(fd >= 0 && ftruncate(fd, (off_t)KEEP_INDEX * 4) == 0 && close(fd) == 0);
    k = open_keep();
    ok(keep_path(k) != NULL);
    is_str(newest(k, "shop"), "none");
    close_all(k);
}

TEST(what_no_index_names_is_removed_at_the_start)
{
    struct keep *k = open_keep();
    struct file a = make_file("shop", 1, "{}");
    add_good(k, &a);
    ok(flush(k));
    keep_close(k);
    so_write(in_state("files/.new"), "half", 4);
    so_write(in_state("files/" H1), "a copy that no index came to name", 33);
    k = open_keep();
    is(access(in_state("files/.new"), F_OK), -1);
    is(access(in_state("files/" H1), F_OK), -1);
    is_str(newest(k, "shop"), "1.0");
    close_all(k);
}

/* ---- A disk that takes nothing --------------------------------------------------------------- */

static void allow_bytes(rlim_t bytes)
{
    struct rlimit limit;
    must(getrlimit(RLIMIT_FSIZE, &limit) == 0);
    limit.rlim_cur = bytes;
    must(setrlimit(RLIMIT_FSIZE, &limit) == 0);
}

TEST(a_full_disk_is_told_and_mends_itself)
{
    struct keep *k = open_keep();
    struct file a = make_file("shop", 1, "{}"), b = make_file("shop", 2, "{}");
    struct err err;
    signal(SIGXFSZ, SIG_IGN);
    add_good(k, &a);
    ok(flush(k));
    add_good(k, &b);
    allow_bytes(5);
    is(keep_flush(k, &err), -1);
    ok(says(err.text, state));
    is_str(newest(k, "shop"), "2.0"); /* what is known does not change */
    is(access(in_state("files/.new"), F_OK), -1);
    is(access(in_state(".index.json.new"), F_OK), -1);
    keep_close(k);
    k = open_keep();
    is_str(newest(k, "shop"), "1.0"); /* what was written before is whole */
    add_good(k, &b);
    is(keep_flush(k, &err), -1);
    allow_bytes(RLIM_INFINITY);
    ok(flush(k));
    keep_close(k);
    k = open_keep();
    is_str(newest(k, "shop"), "2.0");
    close_all(k);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* which take what there is */

/* Bytes of address space that are in use. */
static rlim_t in_use(void)
{
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    must(f != NULL && fscanf(f, "%lu", &pages) == 1);
    fclose(f);
    return (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE);
}

/* Named after what broke: an index that was well, and for which there was no memory, was moved away
   as a bad one, and with it all that was quarantined. */
TEST(an_index_for_which_there_is_no_memory_is_not_set_aside)
{
    char text[400], plugin[32];
    struct rlimit limit;
    struct err err;
    unsigned lacking = 0;
    struct keep *k = open_keep();
    struct file a = make_file("shop", 1, "{}");
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    for (unsigned i = 0; i < QUARANTINE_MAX; i++) {
        struct identity id = a.kept.identity;
        snprintf(plugin, sizeof plugin, "p%u", i);
        memcpy(id.plugin, plugin, sizeof plugin);
        keep_quarantine(k, &id, text, NULL);
    }
    ok(flush(k));
    keep_close(k);
    must(getrlimit(RLIMIT_AS, &limit) == 0);
    for (rlim_t more = 0; more < 64; more++) {
        limit.rlim_cur = in_use() + more * 64 * 1024;
        must(setrlimit(RLIMIT_AS, &limit) == 0);
        k = keep_open(state, stage, -1);
        limit.rlim_cur = limit.rlim_max;
        must(setrlimit(RLIMIT_AS, &limit) == 0);
        must(k != NULL);
        bool lacks = keep_lacks(k, &err);
        lacking += lacks;
        ok(lacks || keep_quarantined(k) == QUARANTINE_MAX);
        keep_close(k);
        must(access(in_state("index.json.bad"), F_OK) != 0);
    }
    ok(lacking > 0);
    k = open_keep();
    is(keep_quarantined(k), QUARANTINE_MAX);
    close_all(k);
}
#endif

TEST(a_store_that_is_not_there)
{
    struct kept kept;
    char reason[QUARANTINE_REASON_MAX];
    struct file a = make_file("shop", 1, "{}");
    add_good(NULL, &a);
    keep_quarantine(NULL, &a.kept.identity, "bad", NULL);
    ok(!keep_crash(NULL, &a.kept.identity, 1, 1, NULL));
    ok(!keep_find(NULL, "shop", NULL, &kept));
    ok(!keep_find_file(NULL, a.kept.identity.sha256, NULL, &kept));
    ok(!keep_is_quarantined(NULL, &a.kept.identity, reason));
    is(keep_quarantined(NULL), 0);
    keep_close(NULL);
}
