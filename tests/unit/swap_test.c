/* plugin/swap.c and all below it: plugins that live, fail and leave, without a server. */
#include "swap_rig.h"

#define DIR_ONLY "{\"plugin_dir\":\"@DIR@\"}"
#define WITH(config)                                                                               \
    "{\"plugin_dir\":\"@DIR@\",\"plugins\":{\"one\":{\"config\":{\"trace\":\"@TRACE@\"," config    \
    "\"until\":\"@UNTIL@\"}}}}"

static void open_with_one(const char *config, struct rig_so *so)
{
    rig_open(config);
    *so = rig_build("one", "");
    rig_put(so, "one.so", 1);
    ok(rig_reload());
    is(rig->generation, 1);
    is(rig->nchanged, 1);
}

TEST(first_load_serves)
{
    struct rig_so so;
    open_with_one(WITH(""), &so);
    const struct version *v = rig_version("one", VERSION_ACTIVE);
    must(v != NULL);
    is_str(rig_trace(), "one 00000001 init;one 00000001 ready;one 00000001 worker_init;"
                        "one 00000001 worker_init;one 00000001 start;");
    is(strncmp(v->id, v->sha256, 12), 0);
    ok(load_is_mapped(v->staged.path));
    rig_close();
}

TEST(first_load_of_an_empty_folder)
{
    rig_open(DIR_ONLY);
    ok(rig_reload());
    is(rig->generation, 1);
    is(rig_versions(), 0);
    rig_close();
}

TEST(a_swap_replaces_and_unmaps)
{
    struct rig_so so;
    char old[PATH_MAX];
    open_with_one(WITH(""), &so);
    snprintf(old, sizeof old, "%s", rig_version("one", VERSION_ACTIVE)->staged.path);
    rig_trace();
    rig_put(&so, "one.so", 2);
    ok(rig_reload());
    is(rig->generation, 2);
    rig_until(rig_versions() == 1);
    is_str(rig_trace(), "one 00000002 init;one 00000002 ready;one 00000002 worker_init;"
                        "one 00000002 worker_init;one 00000002 start;one 00000001 cool;"
                        "one 00000001 worker_fini;one 00000001 worker_fini;one 00000001 fini;");
    ok(!load_is_mapped(old));
    is(access(old, F_OK), -1);
    is(rig_staged(), 1);
    ok(rig_reload()); /* the same file: nothing to do */
    is(rig->generation, 2);
    is(rig->nunchanged, 1);
    rig_close();
}

/* ---- Pins ------------------------------------------------------------------------------------ */

struct pinning {
    struct msg msg;
    struct version *version;
    struct loop *loop;
    bool unpin;
    int done;
};

static void pinning_runs(struct msg *m)
{
    struct pinning *p = container_of(m, struct pinning, msg);
    if (p->unpin)
        version_unpin(&p->version, p->loop);
    else
        version_pin(p->version, p->loop->number);
    __atomic_store_n(&p->done, 1, __ATOMIC_RELEASE);
}

static void pin(struct pinning *p, struct version *v, unsigned worker, bool unpin)
{
    *p = (struct pinning){ .version = v, .loop = &rig->loops[worker], .unpin = unpin };
    p->msg.fn = pinning_runs;
    loop_post(p->loop, &p->msg);
    rig_until(__atomic_load_n(&p->done, __ATOMIC_ACQUIRE));
}

TEST(a_pin_holds_the_old_version)
{
    struct rig_so so;
    struct pinning p;
    struct err err;
    open_with_one(WITH(""), &so);
    struct version *v = rig_version("one", VERSION_ACTIVE);
    pin(&p, v, 1, false);
    rig_put(&so, "one.so", 2);
    ok(rig_reload());
    rig_turn(100);
    is(v->state, VERSION_COOLING);
    ok(load_is_mapped(v->staged.path));
    is_str(retire_waits_for(v), "requests");
    ok(strstr(rig_trace(), "one 00000001 fini") == NULL);
    is(swap_retire(rig->swap, "one", v->id, &err), 0);
    is(swap_retire(rig->swap, "one", "nonsense", &err), -1);
    pin(&p, v, 1, true);
    rig_until(rig_versions() == 1);
    ok(strstr(rig_trace(), "one 00000001 fini") != NULL);
    rig_close();
}

TEST(busy_and_then_by_itself)
{
    struct rig_so so;
    struct pinning p[3];
    struct version *held[3];
    open_with_one("{\"plugin_dir\":\"@DIR@\",\"limits\":{\"versions\":3}}", &so);
    for (unsigned i = 0; i < 3; i++) {
        held[i] = rig_version("one", VERSION_ACTIVE);
        pin(&p[i], held[i], 0, false);
        rig_put(&so, "one.so", i + 2);
        is(rig_reload(), i < 2);
    }
    is_str(rig->word, "busy");
    ok(rig_says(rig->reason, held[0]->id));
    ok(rig_says(rig->reason, "limits.versions"));
    is(swap_generation(rig->swap), 3);
    pin(&p[0], held[0], 0, true);
    rig_until(swap_generation(rig->swap) == 4); /* nobody asked again */
    is(swap_counts(rig->swap)->busy, 1);
    rig_close();
}

/* ---- Failures -------------------------------------------------------------------------------- */

static const char *second(const char *what, const char *how)
{
    static char text[1024];
    snprintf(text, sizeof text,
             "{\"plugin_dir\":\"@DIR@\",\"timeouts_ms\":{\"load\":1500,\"adopt\":2000},"
             "\"plugins\":{\"two\":{\"config\":{\"trace\":\"@TRACE@\",\"%s\":\"%s\","
             "\"until\":\"@UNTIL@\"}}}}",
             what, how);
    return text;
}

/* "one" serves; "two" is dropped in and fails; then what was undone is compared. */
static void fails(const char *callback, const char *says, const char *trace)
{
    struct rig_so one, two;
    open_with_one(second("fail", callback), &one);
    two = rig_build("two", "");
    rig_put(&two, "two.so", 7);
    rig_put(&one, "one.so", 2); /* all or nothing */
    ok(!rig_reload());
    is_str(rig->word, "failed");
    ok(rig_says(rig->error, says));
    ok(rig_says(rig->error, "two.so: "));
    is(swap_generation(rig->swap), 1);
    rig_until(rig_versions() == 1);
    is_str(rig_trace(), trace);
    is(rig_staged(), 1);
    ok(rig_reload()); /* reported again, not part of it: the other one is swapped */
    is(rig->nfailed, 1);
    is(rig->nchanged, 1);
    ok(rig_says(rig->error, says));
    ok(!rig_swap((struct swap_ask){ .retry = true }));
    rig_until(rig_versions() == 1 && rig_staged() == 1);
    rig_close();
}

TEST(init_fails)
{
    fails("init", "init failed: init was told to", "two 00000007 init;");
}

TEST(ready_fails)
{
    fails("ready", "ready was told to", "two 00000007 init;two 00000007 ready;two 00000007 fini;");
}

TEST(start_fails)
{
    fails("start", "start was told to",
          "two 00000007 init;two 00000007 ready;two 00000007 worker_init;"
          "two 00000007 worker_init;two 00000007 start;two 00000007 worker_fini;"
          "two 00000007 worker_fini;two 00000007 fini;");
}

TEST(worker_init_fails)
{
    struct rig_so one, two;
    open_with_one(second("fail", "worker_init"), &one);
    two = rig_build("two", "");
    rig_put(&two, "two.so", 7);
    ok(!rig_reload());
    ok(rig_says(rig->error, "worker_init was told to"));
    rig_until(rig_versions() == 1);
    const char *trace = rig_trace();
    ok(strstr(trace, "worker_fini") == NULL);
    ok(rig_says(trace, "two 00000007 fini;"));
    rig_close();
}

static void hangs(const char *callback, const char *trace)
{
    struct rig_so one, two;
    char says[64];
    open_with_one(second("hang", callback), &one);
    two = rig_build("two", "");
    rig_put(&two, "two.so", 7);
    ok(!rig_reload());
    snprintf(says, sizeof says, "%s has not returned within", callback);
    ok(rig_says(rig->error, says));
    ok(rig_version("two", VERSION_STUCK) != NULL);
    rig_put(&one, "one.so", 2);
    ok(rig_reload()); /* another loader goes on */
    is(rig->nchanged, 1);
    rig_release_hang();
    rig_until(rig_versions() == 1);
    is_str(rig_trace(), trace);
    is(rig_staged(), 1);
    rig_close();
}

TEST(init_hangs)
{
    hangs("init", "two 00000007 init;two 00000007 fini;");
}

TEST(start_hangs)
{
    hangs("start", "two 00000007 init;two 00000007 ready;two 00000007 worker_init;"
                   "two 00000007 worker_init;two 00000007 start;two 00000007 cool;"
                   "two 00000007 worker_fini;two 00000007 worker_fini;two 00000007 fini;");
}

static void end_hangs(const char *callback)
{
    struct rig_so one, two;
    open_with_one(second("hang", callback), &one);
    two = rig_build("two", "");
    rig_put(&two, "two.so", 7);
    ok(rig_reload());
    rig_put(&two, "two.so", 8);
    ok(rig_reload()); /* the swap stands */
    rig_until(rig_version("two", VERSION_STUCK) != NULL);
    ok(rig_says(rig_version("two", VERSION_STUCK)->reason, callback));
    is(swap_stuck(rig->swap), 1);
    rig_put(&one, "one.so", 2);
    ok(rig_reload());
    rig_release_hang();
    rig_until(rig_versions() == 2);
    ok(rig_says(rig_trace(), "two 00000007 fini"));
    is(rig_staged(), 2);
    rig_close();
}

TEST(cool_hangs)
{
    end_hangs("cool");
}

TEST(fini_hangs)
{
    end_hangs("fini");
}

TEST(a_hang_in_dlopen_refuses_later_swaps)
{
    struct rig_so one, two;
    char flags[512];
    open_with_one("{\"plugin_dir\":\"@DIR@\",\"timeouts_ms\":{\"load\":1500}}", &one);
    snprintf(flags, sizeof flags, "-DCONSTRUCT='\"%s\"'", rig->until);
    two = rig_build("two", flags);
    rig_put(&two, "two.so", 1);
    ok(!rig_reload());
    ok(rig_says(rig->error, "dlopen has not returned within"));
    rig_put(&one, "one.so", 2);
    ok(!rig_reload());
    ok(rig_says(rig->reason, "plugin \"two\""));
    ok(rig_says(rig->reason, "holds the C library's loader lock"));
    ok(rig_version("one", VERSION_ACTIVE) != NULL);
    rig_release_hang();
    rig_until(rig_versions() == 1);
    ok(rig_reload());
    is(rig->nchanged, 1);
    rig_close();
}

static void set(void *arg)
{
    *(bool *)arg = true;
}

TEST(a_drain_does_not_wait_for_a_hang_in_dlopen)
{
    struct rig_so one, two;
    char flags[512];
    bool over = false;
    open_with_one("{\"plugin_dir\":\"@DIR@\",\"timeouts_ms\":{\"load\":1500},\"plugins\":{"
                  "\"one\":{\"config\":{\"trace\":\"@TRACE@\"}}}}",
                  &one);
    snprintf(flags, sizeof flags, "-DCONSTRUCT='\"%s\"'", rig->until);
    two = rig_build("two", flags);
    rig_put(&two, "two.so", 1);
    ok(!rig_reload());
    swap_drain_fini(rig->swap, set, &over);
    rig_until(over);
    ok(rig_says(rig_trace(), "one 00000001 fini"));
    rig_close();
}

TEST(timeouts_retire_cuts)
{
    struct rig_so one;
    struct pinning p;
    open_with_one("{\"plugin_dir\":\"@DIR@\",\"timeouts_ms\":{\"retire\":100}}", &one);
    struct version *v = rig_version("one", VERSION_ACTIVE);
    pin(&p, v, 1, false);
    rig_put(&one, "one.so", 2);
    ok(rig_reload());
    is(rig_cuts, 0);
    rig_until(rig_cuts == RIG_WORKERS && v->cuts == 0);
    ok(v->cells[1].cutting);
    is(v->state, VERSION_COOLING); /* never the code beneath it */
    pin(&p, v, 1, true);
    rig_until(rig_versions() == 1);
    rig_close();
}

TEST(init_fails_and_leaves_a_thread)
{
    struct rig_so one, two;
    open_with_one("{\"plugin_dir\":\"@DIR@\",\"plugins\":{\"two\":{\"config\":{"
                  "\"fail\":\"init\",\"thread\":true}}}}",
                  &one);
    two = rig_build("two", "");
    rig_put(&two, "two.so", 1);
    ok(!rig_reload());
    rig_until(rig_version("two", VERSION_STUCK) != NULL);
    rig_close();
}

TEST(worker_fini_hangs)
{
    struct rig_so one, two;
    open_with_one(second("hang", "worker_fini"), &one);
    two = rig_build("two", "");
    rig_put(&two, "two.so", 7);
    ok(rig_reload());
    rig_put(&two, "two.so", 8);
    ok(rig_reload()); /* the swap stands */
    rig_until(rig_version("two", VERSION_STUCK) != NULL);
    ok(rig_says(rig_version("two", VERSION_STUCK)->reason, "worker_fini has not returned"));
    rig_put(&one, "one.so", 2);
    ok(!rig_reload()); /* no worker is left that could */
    ok(rig_says(rig->reason, "stands in worker_fini of plugin \"two\""));
    rig_release_hang();
    rig_until(rig_versions() == 2);
    rig_close();
}

TEST(worker_init_hangs)
{
    struct rig_so one, two;
    open_with_one(second("hang", "worker_init"), &one);
    two = rig_build("two", "");
    rig_put(&two, "two.so", 7);
    ok(!rig_reload());
    ok(rig_says(rig->reason, "stands in worker_init of plugin \"two\""));
    rig_until(rig_version("two", VERSION_STUCK) != NULL);
    rig_release_hang();
    rig_until(rig_versions() == 1);
    ok(rig_says(rig_trace(), "two 00000007 fini"));
    rig_close();
}

TEST(thread_outlives_fini)
{
    struct rig_so one;
    open_with_one(WITH("\"thread\":true,"), &one);
    struct version *v = rig_version("one", VERSION_ACTIVE);
    rig_put(&one, "one.so", 2);
    ok(rig_reload());
    rig_until(v->state == VERSION_STUCK);
    ok(rig_says(v->reason, "1 thread that appeared during init still lives after fini"));
    ok(load_is_mapped(v->staged.path));
    rig_close();
}

TEST(the_first_load_lists_all_reasons)
{
    rig_open("{\"plugin_dir\":\"@DIR@\",\"plugins\":{\"one\":{\"config\":{\"fail\":\"init\"}},"
             "\"two\":{\"config\":{\"fail\":\"ready\"}}}}");
    struct rig_so one = rig_build("one", ""), two = rig_build("two", "");
    rig_put(&one, "one.so", 1);
    rig_put(&two, "two.so", 1);
    so_write(so_path("plugins/text.so"), "not a plugin at all, only some text", 35);
    ok(!rig_reload());
    ok(rig_says(rig->reason, "one.so: init failed"));
    ok(rig_says(rig->reason, "two.so: ready"));
    ok(rig_says(rig->reason, "text.so: "));
    rig_until(rig_versions() == 0);
    rig_close();
}

TEST(the_first_load_forgives_what_is_not_required)
{
    rig_open("{\"plugin_dir\":\"@DIR@\",\"plugins\":{"
             "\"one\":{\"config\":{\"fail\":\"worker_init\"},\"required\":false}}}");
    struct rig_so one = rig_build("one", ""), two = rig_build("two", "");
    rig_put(&one, "one.so", 1);
    rig_put(&two, "two.so", 1);
    ok(rig_reload());
    is(rig->nfailed, 1);
    is(rig->nchanged, 1);
    ok(rig_version("two", VERSION_ACTIVE) != NULL);
    rig_until(rig_versions() == 1);
    rig_close();
}

TEST(duplicate_name)
{
    struct rig_so one;
    open_with_one(DIR_ONLY, &one);
    rig_put(&one, "other.so", 2);
    ok(!rig_reload());
    ok(rig_says(rig->reason, "duplicate name \"one\""));
    ok(rig_says(rig->reason, "other.so"));
    ok(rig_says(rig->reason, "one.so"));
    is(swap_generation(rig->swap), 1);
    rig_until(rig_versions() == 1 && rig_staged() == 1);
    ok(rig_reload());     /* known by now */
    rig_remove("one.so"); /* the same plugin from another file */
    ok(rig_reload());
    is(swap_generation(rig->swap), 2);
    rig_close();
}

TEST(route_conflict)
{
    struct rig_so one, two;
    open_with_one(DIR_ONLY, &one);
    two = rig_build("two", "-DROUTE='\"/one\"'");
    rig_put(&two, "two.so", 1);
    ok(!rig_reload());
    ok(rig_says(rig->error, "route conflict"));
    ok(rig_says(rig->error, "plugin \"one\""));
    ok(rig_says(rig->error, "plugin \"two\""));
    ok(rig_reload());
    /* A mount mends it: what failed for the configuration's sake is tried again with another. */
    ok(rig_swap((struct swap_ask){
        .config =
            rig_config("{\"plugin_dir\":\"@DIR@\",\"plugins\":{\"two\":{\"mount\":\"/b\"}}}") }));
    is(rig->nchanged, 1);
    is(swap_generation(rig->swap), 2);
    rig_close();
}

/* ---- Vanished -------------------------------------------------------------------------------- */

TEST(a_vanished_plugin_leaves)
{
    struct rig_so one, two;
    open_with_one(DIR_ONLY, &one);
    two = rig_build("two", "");
    rig_put(&two, "two.so", 1);
    ok(rig_reload());
    rig_remove("two.so");
    ok(rig_reload());
    is(rig->nchanged, 1);
    rig_until(rig_versions() == 1);
    rig_remove("one.so");
    ok(!rig_reload());
    ok(rig_says(rig->reason, "--allow-empty"));
    ok(rig_version("one", VERSION_ACTIVE) != NULL);
    ok(rig_swap((struct swap_ask){ .allow_empty = true }));
    rig_until(rig_versions() == 0);
    rig_close();
}

TEST(a_plugin_that_is_named_does_not_vanish)
{
    struct rig_so one, two;
    open_with_one("{\"plugin_dir\":\"@DIR@\",\"middleware\":[\"one\"]}", &one);
    two = rig_build("two", "");
    rig_put(&two, "two.so", 1);
    ok(rig_reload());
    rig_remove("one.so");
    ok(!rig_reload());
    ok(rig_says(rig->reason, "middleware[0] names it"));
    ok(rig_version("one", VERSION_ACTIVE) != NULL);
    so_write(so_path("plugins/one.so"), "bad", 3); /* has not vanished */
    ok(!rig_reload());
    ok(rig_reload());
    ok(rig_version("one", VERSION_ACTIVE) != NULL);
    rig_close();
}

TEST(the_watch_looks_twice)
{
    struct rig_so one, two;
    struct err err;
    open_with_one(DIR_ONLY, &one);
    two = rig_build("two", "");
    must(swap_watch_start(rig->swap, &err) == 0);
    rig_put(&two, "two.so", 1);
    rig_until(swap_generation(rig->swap) == 2);
    uint64_t removed = clock_us();
    rig_remove("two.so");
    rig_until(swap_generation(rig->swap) == 3);
    ok(clock_us() - removed >= 1000000);
    rig_until(rig_versions() == 1);
    rig_remove("one.so"); /* a moment's absence is none */
    rig_turn(400);
    rig_put(&one, "one.so", 1);
    rig_turn(1500);
    is(swap_generation(rig->swap), 3);
    swap_watch_stop(rig->swap);
    rig_close();
}

TEST(the_watch_follows_swapped_links)
{
    struct rig_so one;
    struct err err;
    rig_open(DIR_ONLY);
    one = rig_build("one", "");
    must(mkdir(so_path("a"), 0755) == 0 && mkdir(so_path("b"), 0755) == 0);
    rig_put(&one, "one.so", 1);
    must(rename(so_path("plugins/one.so"), so_path("a/one.so")) == 0);
    rig_put(&one, "one.so", 2);
    must(rename(so_path("plugins/one.so"), so_path("b/one.so")) == 0);
    must(symlink("a", so_path("now")) == 0);
    must(symlink("../now/one.so", so_path("plugins/one.so")) == 0);
    ok(rig_reload());
    must(swap_watch_start(rig->swap, &err) == 0);
    must(symlink("b", so_path("next")) == 0);
    must(rename(so_path("next"), so_path("now")) == 0);
    rig_until(swap_generation(rig->swap) == 2);
    swap_watch_stop(rig->swap);
    rig_close();
}

/* ---- Workers that do not answer -------------------------------------------------------------- */

struct blocking {
    struct msg msg;
    struct version *version;
    struct loop *loop;
    unsigned ms;
    int done;
};

static void block(struct msg *m)
{
    struct blocking *b = container_of(m, struct blocking, msg);
    __atomic_store_n(&b->done, 1, __ATOMIC_RELEASE);
    adopt_doing(b->loop, b->version, "handler");
    usleep(b->ms * 1000);
    adopt_doing(b->loop, NULL, NULL);
}

static void block_worker(struct blocking *b, unsigned worker, unsigned ms)
{
    *b = (struct blocking){ .version = rig_version("one", VERSION_ACTIVE),
                            .loop = &rig->loops[worker],
                            .ms = ms };
    b->msg.fn = block;
    loop_post(b->loop, &b->msg);
}

TEST(an_unanswered_prepare_is_undone)
{
    struct rig_so one;
    struct blocking b;
    open_with_one("{\"plugin_dir\":\"@DIR@\",\"timeouts_ms\":{\"adopt\":200}}", &one);
    block_worker(&b, 1, 1500);
    rig_until(__atomic_load_n(&b.done, __ATOMIC_ACQUIRE));
    rig_put(&one, "one.so", 2);
    ok(!rig_reload());
    is_str(rig->word, "failed");
    ok(rig_says(rig->reason, "worker 1 has not answered within 200 ms"));
    ok(rig_says(rig->reason, "stands in handler of plugin \"one\""));
    ok(rig_version("one", VERSION_FAILED) != NULL);
    rig_until(rig_versions() == 1);
    ok(rig_reload()); /* it was not its failure */
    is(rig->generation, 2);
    rig_close();
}

TEST(an_unanswered_adopt_is_pending)
{
    struct rig_so one;
    struct blocking b;
    open_with_one("{\"plugin_dir\":\"@DIR@\",\"timeouts_ms\":{\"adopt\":150},"
                  "\"plugins\":{\"one\":{\"config\":{\"slow\":\"start\"}}}}",
                  &one);
    rig_put(&one, "one.so", 2);
    rig_ask((struct swap_ask){ 0 });
    rig_turn(200); /* prepared; start sleeps 400 ms */
    block_worker(&b, 0, 1500);
    rig_until(rig->answered);
    ok(!rig->ok);
    is_str(rig->word, "pending");
    ok(rig_says(rig->reason, "worker 0 has not answered within 150 ms"));
    rig_put(&one, "one.so", 3);
    ok(!rig_reload());
    is_str(rig->word, "pending");
    rig_until(swap_generation(rig->swap) == 2);
    rig_until(swap_generation(rig->swap) == 3); /* its scan follows */
    rig_close();
}

/* ---- graft_every ----------------------------------------------------------------------------- */

TEST(every_begins_when_the_old_one_has_cooled)
{
    struct rig_so one;
    open_with_one(WITH("\"every\":20,\"slow\":\"cool\","), &one);
    rig_turn(150);
    ok(rig_says(rig_trace(), "one 00000001 every"));
    rig_put(&one, "one.so", 2);
    ok(rig_reload());
    rig_until(rig_versions() == 1);
    rig_turn(150);
    const char *trace = rig_trace(), *cool = strstr(trace, "one 00000001 cool");
    const char *next = strstr(trace, "one 00000002 every");
    must(cool != NULL && next != NULL);
    ok(next > cool);
    ok(strstr(cool, "one 00000001 every") == NULL);
    rig_close();
}

/* ---- The drain ------------------------------------------------------------------------------- */

TEST(a_drain_cools_and_finishes_all)
{
    struct rig_so one, two;
    struct pinning p;
    bool cooled = false, over = false;
    open_with_one(WITH(""), &one);
    two = rig_build("two", "");
    rig_put(&two, "two.so", 1);
    ok(rig_reload());
    struct version *v = rig_version("one", VERSION_ACTIVE);
    pin(&p, v, 0, false);
    rig_trace();
    swap_drain_begin(rig->swap);
    ok(!rig_reload());
    is_str(rig->word, "draining");
    swap_drain_cooling(rig->swap);
    swap_drain_cool(rig->swap, set, &cooled);
    rig_until(cooled);
    is_str(rig_trace(), "one 00000001 cool;");
    swap_drain_fini(rig->swap, set, &over);
    rig_turn(100);
    ok(!over);
    is(swap_drain_cut(rig->swap), 1);
    pin(&p, v, 0, true);
    rig_until(over);
    is(rig_versions(), 0);
    is(rig_staged(), 0);
    swap_close(&rig->swap);
    rig_close();
}

TEST(a_drain_abandons_a_swap)
{
    struct rig_so one;
    bool over = false;
    open_with_one("{\"plugin_dir\":\"@DIR@\","
                  "\"plugins\":{\"one\":{\"config\":{\"slow\":\"ready\"}}}}",
                  &one);
    rig_put(&one, "one.so", 2);
    rig_ask((struct swap_ask){ 0 });
    rig_turn(150);
    swap_drain_begin(rig->swap);
    is_str(rig->word, "draining");
    rig_until(!swap_running(rig->swap));
    is(swap_generation(rig->swap), 1);
    swap_drain_fini(rig->swap, set, &over);
    rig_until(over);
    is(rig_versions(), 0);
    rig_close();
}

/* ---- Many ------------------------------------------------------------------------------------ */

static long resident_kb(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    must(f != NULL && fscanf(f, "%*d %ld", &pages) == 1);
    fclose(f);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static unsigned open_fds(void)
{
    unsigned n = 0;
    DIR *dir = opendir("/proc/self/fd");
    must(dir != NULL);
    while (readdir(dir) != NULL)
        n++;
    closedir(dir);
    return n;
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

TEST_WITHIN(a_thousand_swaps_leave_nothing, 300)
{
    enum { WARM = 600 }; /* the known names fill up to their bound */
    struct rig_so one, two;
    const char *env = getenv("TEST_SWAPS");
    unsigned count = WARM + (env != NULL ? (unsigned)atoi(env) : 500);
    uint64_t *duration = calloc(count, sizeof *duration), *publish = calloc(count, sizeof *publish);
    unsigned fds = 0, maps = 0;
    long kb = 0;
    open_with_one(DIR_ONLY, &one);
    two = rig_build("two", "");
    rig_put(&two, "two.so", 1);
    ok(rig_reload());
    for (unsigned i = 0; i < count; i++) {
        rig_put(&one, "one.so", i + 2);
        if (!rig_reload())
            fail(rig->reason);
        duration[i] = rig->duration_us;
        publish[i] = rig->publish_us;
        if (i + 1 != WARM && i + 1 != count)
            continue;
        rig_until(rig_versions() == 2);
        rig_until(!keep_writes(rig->keep)); /* it has files open meanwhile */
        if (i + 1 == WARM) {
            fds = open_fds();
            maps = rig_count_in("/proc/self/maps", "");
            kb = resident_kb();
        }
    }
    is(swap_generation(rig->swap), count + 2);
    is(open_fds(), fds);
    ok(rig_count_in("/proc/self/maps", "") <= maps + 4); /* malloc's arenas may grow */
    is(rig_count_in("/proc/self/maps", ".so") > 0, 1);
    is(rig_staged(), 2);
    qsort(duration, count, sizeof *duration, by_size);
    qsort(publish, count, sizeof *publish, by_size);
    fprintf(stderr, "# %u swaps: median %llu us, publish %llu us, resident +%ld KB\n", count,
            (unsigned long long)duration[count / 2], (unsigned long long)publish[count / 2],
            resident_kb() - kb);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    ok(resident_kb() - kb < 1024);
#endif
    free(duration);
    free(publish);
    rig_close();
}
