/* plugin/probe.c with graft-probe itself ($TEST_PROBE) on plugins compiled here. */
#include "plugin/probe.h"
#include "so.h"

#include <sys/resource.h>

#define TIMEOUT_MS 30000

static struct err err;
static struct descriptor desc;

static struct probe *opened(void)
{
    struct probe *probe = probe_open(so_env("TEST_PROBE", "./graft-probe"), &err);
    if (probe == NULL)
        fprintf(stderr, "# %s\n", err.text);
    must(probe != NULL);
    return probe;
}

static int probed(const char *so, unsigned timeout_ms)
{
    struct probe *probe = opened();
    err.text[0] = '\0';
    int rc = probe_run(probe, so, timeout_ms, &desc, &err);
    probe_close(probe);
    return rc;
}

/* What the probe says of a plugin with this constructor. */
static const char *constructed(const char *body, unsigned timeout_ms)
{
    char source[4096];
    snprintf(source, sizeof source,
             "#define _GNU_SOURCE\n#include <errno.h>\n#include <fcntl.h>\n#include <signal.h>\n"
             "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
             "#include <sys/resource.h>\n#include <unistd.h>\n"
             "static __attribute__((constructor)) void construct(void) { %s }\n" SO_PLUGIN("sin"),
             body);
    int rc = probed(so_build("sin.so", source, ""), timeout_ms);
    if (rc == 0)
        descriptor_fini(&desc);
    ok((rc == 0) == (err.text[0] == '\0'));
    return err.text;
}

static bool says(const char *text, const char *part)
{
    bool found = strstr(text, part) != NULL;
    if (!found)
        fprintf(stderr, "# \"%s\" does not say \"%s\"\n", text, part);
    return found;
}

TEST(reports_what_the_plugin_says)
{
    const char *so = so_build(
        "hello.so",
        "#include <graft/graft.h>\n"
        "static graft_next h(graft_req *r, void *s) { return GRAFT_DONE; }\n"
        "static int init(graft_self *s, void **p) { return 0; }\n"
        "GRAFT_PLUGIN(.name = \"hello\", .version = \"1.0\", .summary = \"Hi.\", .init = init,\n"
        "  .flags = GRAFT_NEED_BODY, .scratch_size = 8, .on_request = h,\n"
        "  .routes = (const graft_route[]){ { \"GET\", \"/hello\", h, 0 },\n"
        "    { 0, \"/up/*rest\", h, GRAFT_STREAM }, { 0 } })\n",
        "");
    is(probed(so, TIMEOUT_MS), 0);
    is_str(err.text, "");
    is_str(desc.name, "hello");
    is_str(desc.version, "1.0");
    is_str(desc.summary, "Hi.");
    is(desc.size, sizeof(graft_plugin));
    is(desc.flags, GRAFT_NEED_BODY);
    is(desc.scratch_size, 8);
    is(desc.callbacks, DESCRIPTOR_INIT | DESCRIPTOR_ON_REQUEST);
    ok(desc.init == NULL);
    is(desc.route_count, 2);
    is_str(desc.routes[0].method, "GET");
    is_str(desc.routes[0].pattern, "/hello");
    ok(desc.routes[1].method == NULL && desc.routes[1].handler == NULL);
    is(desc.routes[1].flags, GRAFT_STREAM);
    descriptor_fini(&desc);
}

TEST(no_child_is_left)
{
    is(probed(so_build("a.so", SO_PLUGIN("a"), ""), TIMEOUT_MS), 0);
    descriptor_fini(&desc);
    is(waitpid(-1, NULL, WNOHANG), -1);
    is(errno, ECHILD);
}

#define CURE ": do that work in init, which can fail with a reason"

TEST(crashes)
{
    is_str(constructed("*(volatile int *)0 = 1;", TIMEOUT_MS),
           "a constructor crashed: SIGSEGV" CURE);
    is_str(constructed("abort();", TIMEOUT_MS), "a constructor crashed: SIGABRT" CURE);
    is_str(constructed("raise(SIGFPE);", TIMEOUT_MS), "a constructor crashed: SIGFPE" CURE);
    is_str(constructed("raise(SIGRTMIN);", TIMEOUT_MS), "a constructor crashed: signal 34" CURE);
    ok(says(constructed("raise(SIGKILL);", TIMEOUT_MS), "constructor was killed: SIGKILL"));
    is(waitpid(-1, NULL, WNOHANG), -1);
}

TEST(exits)
{
    is_str(constructed("exit(3);", TIMEOUT_MS), "a constructor called exit(3)" CURE);
    is_str(constructed("_exit(0);", TIMEOUT_MS), "a constructor called exit(0)" CURE);
    is_str(constructed("if (fork() != 0) _exit(7); else sleep(1000);", TIMEOUT_MS),
           "a constructor called exit(7)" CURE);
}

/* Hangs in its constructor, and is told so; on a busy machine the probe may take long to start. */
static bool hangs(const char *body)
{
    for (unsigned ms = 300; ms < 20000; ms *= 4) {
        char text[128];
        const char *said = constructed(body, ms);
        snprintf(text, sizeof text, "a constructor did not return within %u ms" CURE, ms);
        if (strstr(said, "graft-probe did not start within") == NULL)
            return is_str(said, text);
    }
    return false;
}

TEST(hangs)
{
    ok(hangs("for (;;) pause();"));
    ok(hangs("for (;;);"));
    /* It also holds the pipe open in a child, and cannot be asked to end. */
    ok(hangs("fork(); sigset_t all; sigfillset(&all); sigprocmask(SIG_BLOCK, &all, 0);"
             "for (;;) pause();"));
    is(waitpid(-1, NULL, WNOHANG), -1);
}

TEST(what_a_constructor_started_ends_with_it)
{
    char body[512], text[32] = "";
    const char *file = so_path("child");
    snprintf(body, sizeof body,
             "int fd = open(\"%s\", O_RDWR | O_CREAT, 0600); pid_t p = fork();"
             "if (p == 0) for (;;) pause(); dprintf(fd, \"%%d\", (int)p);",
             file);
    is_str(constructed(body, TIMEOUT_MS), "");
    int fd = open(file, O_RDONLY);
    must(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
    close(fd);
    pid_t child = (pid_t)atoi(text);
    must(child > 1);
    for (int i = 0; i < 1000 && kill(child, 0) == 0; i++) { /* killed; its new parent reaps it */
        char stat_path[64], line[256] = "";
        snprintf(stat_path, sizeof stat_path, "/proc/%d/stat", (int)child);
        fd = open(stat_path, O_RDONLY);
        if (fd < 0 || read(fd, line, sizeof line - 1) <= 0 || strstr(line, ") Z ") != NULL)
            child = 0;
        if (fd >= 0)
            close(fd);
        if (child == 0)
            break;
        usleep(10000);
    }
    ok(child == 0 || kill(child, 0) != 0);
}

TEST(says_what_dlopen_says)
{
    const char *so = so_build("undefined.so",
                              "int nowhere_to_be_found(void);\nint f(void);\n"
                              "int f(void) { return nowhere_to_be_found(); }\n" SO_PLUGIN("u"),
                              "-fvisibility=default");
    is(probed(so, TIMEOUT_MS), -1);
    ok(says(err.text, "undefined symbol: nowhere_to_be_found"));
    is(probed("/nowhere/at/all.so", TIMEOUT_MS), -1);
    ok(says(err.text, "/nowhere/at/all.so: cannot open shared object file"));
    so_write(so_path("text.so"), "hello\n", 6);
    is(probed(so_path("text.so"), TIMEOUT_MS), -1);
    ok(says(err.text, "text.so: "));
}

TEST(says_what_is_wrong_with_the_descriptor)
{
    is(probed(so_build("bad.so", SO_PLUGIN("Bad Name/../x"), ""), TIMEOUT_MS), -1);
    ok(says(err.text, "bad name \"Bad Name/../x\""));
    is(probed(so_build("none.so", "int nothing;", ""), TIMEOUT_MS), -1);
    ok(says(err.text, "no symbol graft_plugin_v1"));
}

TEST(a_descriptor_that_leads_nowhere_crashes_there)
{
    is(probed(so_build("wild.so",
                       "#include <graft/graft.h>\n"
                       "GRAFT_PLUGIN(.name = \"wild\", .summary = (const char *)8)\n",
                       ""),
              TIMEOUT_MS),
       -1);
    ok(says(err.text, "reading its descriptor crashed: SIGSEGV"));
}

TEST(nothing_of_ours_reaches_the_child)
{
    signal(SIGPIPE, SIG_IGN);
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    setenv("SECRET", "1", 1);
    int leak = open("/dev/null", O_RDONLY); /* not close-on-exec */
    is_str(constructed("sigset_t now; sigprocmask(0, 0, &now);"
                       "for (int s = 1; s < 32; s++) if (sigismember(&now, s)) _exit(41);"
                       "if (signal(SIGPIPE, SIG_DFL) != SIG_DFL) _exit(42);"
                       "for (int fd = 4; fd < 1024; fd++)"
                       "  if (fcntl(fd, F_GETFD) >= 0 && !(fcntl(fd, F_GETFD) & FD_CLOEXEC))"
                       "    _exit(43);"
                       "struct rlimit r; getrlimit(RLIMIT_CORE, &r); if (r.rlim_cur) _exit(44);"
                       "getrlimit(RLIMIT_CPU, &r); if (r.rlim_cur != 31) _exit(45);"
                       "if (getpgrp() != getpid()) _exit(46);"
                       "if (getenv(\"SECRET\") || getenv(\"HOME\") || !getenv(\"PATH\")) _exit(47);"
                       "if (write(1, \"x\", 1) != 1 || read(0, &now, 1) != 0) _exit(48);",
                       TIMEOUT_MS),
           "");
    close(leak);
}

TEST(works_without_standard_descriptors)
{
    const char *so = so_build("a.so", SO_PLUGIN("a"), "");
    int saved[3];
    for (int i = 0; i < 3; i++)
        saved[i] = fcntl(i, F_DUPFD_CLOEXEC, 100);
    for (int i = 0; i < 3; i++)
        close(i);
    int rc = probed(so, TIMEOUT_MS);
    for (int i = 0; i < 3; i++) {
        dup2(saved[i], i);
        close(saved[i]);
    }
    is(rc, 0);
    is_str(err.text, "");
    descriptor_fini(&desc);
}

TEST(a_constructor_that_writes_to_the_pipe_convinces_nobody)
{
    is_str(constructed("write(3, \"0123456789abcdef0123456789abcdef\", 32); pause();", TIMEOUT_MS),
           "graft-probe's report makes no sense: does a constructor write to descriptors that it "
           "did not open?");
    ok(says(
        constructed("unsigned f[2] = { 4, 5 }; write(3, f, 8); write(3, \"hello\", 5); _exit(0);",
                    TIMEOUT_MS),
        "cannot be read"));
    ok(says(constructed("unsigned f[2] = { 3, 0 }; write(3, f, 8); _exit(0);", TIMEOUT_MS),
            "without saying why"));
    ok(says(constructed("unsigned f[2] = { 4, 0xffffffff }; write(3, f, 8); _exit(0);", TIMEOUT_MS),
            "makes no sense"));
    ok(says(constructed("close(3);", TIMEOUT_MS), "closed a descriptor that is not its own"));
}

TEST(a_long_report_arrives_whole)
{
    const char *so = so_build("long.so",
                              "#include <graft/graft.h>\n"
                              "static graft_next h(graft_req *r, void *s) { return GRAFT_DONE; }\n"
                              "static char text[4000][64];\nstatic graft_route routes[4001];\n"
                              "#include <stdio.h>\n"
                              "static __attribute__((constructor)) void fill(void)\n"
                              "{ for (int i = 0; i < 4000; i++) {\n"
                              "    sprintf(text[i], \"/a-rather-long-route-number/%d\", i);\n"
                              "    routes[i] = (graft_route){ \"GET\", text[i], h, 0 }; } }\n"
                              "GRAFT_PLUGIN(.name = \"long\", .routes = routes)\n",
                              "");
    is(probed(so, TIMEOUT_MS), 0);
    is_str(err.text, "");
    is(desc.route_count, 4000);
    is_str(desc.routes[3999].pattern, "/a-rather-long-route-number/3999");
    descriptor_fini(&desc);
}

TEST(says_that_the_probe_cannot_run)
{
    ok(probe_open("/nowhere/graft-probe", &err) == NULL);
    ok(says(err.text, "cannot open the probe /nowhere/graft-probe: No such file or directory"));
    const char *script = so_path("not-a-program");
    so_write(script, "nothing\n", 8);
    chmod(script, 0755);
    struct probe *probe = probe_open(script, &err);
    must(probe != NULL);
    is(probe_run(probe, "/x.so", 1000, &desc, &err), -1);
    ok(says(err.text, "cannot run graft-probe"));
    probe_close(probe);
    probe = probe_open("/bin/true", &err);
    must(probe != NULL);
    is(probe_run(probe, "/x.so", 10000, &desc, &err), -1);
    ok(says(err.text, "graft-probe did not start (status 0)"));
    probe_close(probe);
    probe_close(NULL);
}

TEST(an_upgrade_under_it_changes_nothing)
{
    char command[1024];
    const char *own = so_path("graft-probe"), *so = so_build("a.so", SO_PLUGIN("a"), "");
    snprintf(command, sizeof command, "cp '%s' '%s'", so_env("TEST_PROBE", "./graft-probe"), own);
    must(system(command) == 0);
    struct probe *probe = probe_open(own, &err);
    must(probe != NULL && unlink(own) == 0);
    so_write(own, "another\n", 8);
    is(probe_run(probe, so, TIMEOUT_MS, &desc, &err), 0);
    descriptor_fini(&desc);
    probe_close(probe);
}
