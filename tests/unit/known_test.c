/* plugin/known.c: which failures are remembered, and which are tried again. */
#include "tap.h"

#include "plugin/known.h"

static struct known k;

static void add(const char *key, const char *stage, const char *error)
{
    known_failure_add(&k, &(struct known_failure){ .key = (char *)(uintptr_t)key,
                                                   .stage = (char *)(uintptr_t)stage,
                                                   .error = (char *)(uintptr_t)error });
}

TEST(a_failure_is_remembered_and_forgotten)
{
    known_init(&k);
    add("a", "init", "a.so: init failed: no");
    must(known_failure(&k, "a") != NULL);
    is_str(known_failure(&k, "a")->error, "a.so: init failed: no");
    ok(known_failure(&k, "b") == NULL);
    known_failure_forget(&k, "a");
    ok(known_failure(&k, "a") == NULL);
    is(k.nfailures, 0);
    known_fini(&k);
}

TEST(what_the_machine_was_short_of_is_never_held_against_a_file)
{
    known_init(&k);
    for (int i = 0; i < 3; i++) {
        add("a", "dlopen", "a.so: dlopen: /s/a.1.so: cannot allocate memory in static TLS block");
        add("b", "stage", "b.so: Too many open files");
        add("c", "dlopen", "c.so: dlopen: /s/c.1.so: failed to map segment from shared object");
        ok(!known_failure(&k, "a") && !known_failure(&k, "b") && !known_failure(&k, "c"));
    }
    add("a", "init", "a.so: init failed: out of memory"); /* the plugin's own words */
    ok(known_failure(&k, "a") != NULL);
    known_fini(&k);
}

TEST(a_dlopen_that_fails_for_what_the_file_holds_is_remembered)
{
    known_init(&k);
    add("a", "dlopen", "a.so: dlopen: /s/a.1.so: undefined symbol: there_is_none");
    ok(known_failure(&k, "a") != NULL);
    add("b", "dlopen", "b.so: dlopen: libb.so: version `B_2' not found (required by /s/b.1.so)");
    ok(known_failure(&k, "b") != NULL);
    known_fini(&k);
}

TEST(another_dlopen_that_fails_is_remembered_the_second_time)
{
    known_init(&k);
    add("a", "dlopen", "a.so: dlopen: libx.so: cannot open shared object file: No such file");
    ok(known_failure(&k, "a") == NULL);
    add("b", "dlopen", "b.so: dlopen: libx.so: cannot open shared object file: No such file");
    ok(known_failure(&k, "b") == NULL);
    add("a", "dlopen", "a.so: dlopen: libx.so: cannot open shared object file: No such file");
    ok(known_failure(&k, "a") != NULL);
    ok(known_failure(&k, "b") == NULL);
    known_fini(&k);
}

TEST(no_more_than_known_max_are_kept)
{
    char key[32];
    known_init(&k);
    for (int i = 0; i < KNOWN_MAX + 10; i++) {
        snprintf(key, sizeof key, "%d", i);
        add(key, "init", "no");
    }
    is(k.nfailures, KNOWN_MAX);
    ok(known_failure(&k, "9") == NULL && known_failure(&k, "10") != NULL);
    known_fini(&k);
}
