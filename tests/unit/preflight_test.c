/* plugin/preflight.c, plugin/elf_image.c and plugin/needed.c on files that real compilers made. */
#include "plugin/preflight.h"
#include "plugin/elf_image.h"
#include "so.h"

#include <dlfcn.h>
#include <link.h>

static struct err err;
static struct preflight_report report;

static bool says(const char *text, const char *part)
{
    bool found = strstr(text, part) != NULL;
    if (!found)
        fprintf(stderr, "# \"%s\" does not say \"%s\"\n", text, part);
    return found;
}

/* The refusal, or "". */
static const char *refusal(const char *path)
{
    err.text[0] = '\0';
    int rc = preflight(path, NULL, &err);
    is(rc, err.text[0] == '\0' ? 0 : -1);
    return err.text;
}

static const char *built(const char *source, const char *flags)
{
    return refusal(so_build("p.so", source, flags));
}

static const char *plain(const char *flags)
{
    return built(SO_PLUGIN("plain"), flags);
}

/* A good plugin in memory, to be damaged. */
static unsigned char *good_image(size_t *len)
{
    return so_read(so_build("good.so", SO_PLUGIN("good"), ""), len);
}

static const char *image_refusal(const void *image, size_t len)
{
    err.text[0] = '\0';
    preflight_image(image, len, NULL, &err);
    return err.text;
}

TEST(a_good_plugin_passes)
{
    const char *path = so_build("good.so", SO_PLUGIN("good"), "");
    is(preflight(path, &report, &err), 0);
    is(report.count, 0);
    preflight_report_fini(&report);
    is_str(plain("-Wl,--hash-style=sysv"), "");
    is_str(plain("-Wl,--hash-style=both"), "");
    is_str(plain("-Wl,-z,now -Wl,-z,relro -s"), "");
    is_str(plain("-lm -lpthread -Wl,--no-as-needed -levent_core"), "");
}

TEST(section_headers_are_not_needed)
{
    size_t len;
    unsigned char *data = good_image(&len);
    ElfW(Ehdr) eh;
    memcpy(&eh, data, sizeof eh);
    eh.e_shoff = 0;
    eh.e_shnum = eh.e_shstrndx = 0;
    memcpy(data, &eh, sizeof eh);
    is_str(image_refusal(data, len), "");
    free(data);
}

TEST(files_that_are_no_elf)
{
    const char *path = so_path("p.so");
    so_write(path, "", 0);
    is_str(refusal(path), "empty file: expected a shared object (ELF)");
    so_write(path, "#!/bin/sh\n", 10);
    ok(says(refusal(path), "not ELF: it begins with bytes 23 21 2f 62"));
    so_write(path, "\x7f", 1);
    ok(says(refusal(path), "truncated: "));
    ok(says(refusal(so_path("nowhere.so")), "cannot open it: No such file or directory"));
    ok(says(refusal(so_folder()), "not a regular file"));
    mkfifo(so_path("fifo.so"), 0600);
    ok(says(refusal(so_path("fifo.so")), "not a regular file"));
}

TEST(truncated_files)
{
    size_t len;
    unsigned char *data = good_image(&len);
    ok(says(image_refusal(data, len - 1), "truncated: its section headers would reach byte"));
    for (size_t cut = 1; cut < len; cut += 97) {
        unsigned char *exact = malloc(cut);
        must(exact != NULL);
        memcpy(exact, data, cut);
        ok(image_refusal(exact, cut)[0] != '\0');
        free(exact);
    }
    free(data);
}

TEST(other_machines)
{
    size_t len;
    unsigned char *data = good_image(&len);
    ElfW(Ehdr) eh, other;
    memcpy(&eh, data, sizeof eh);
    other = eh;
    other.e_machine = EM_AARCH64 == eh.e_machine ? EM_X86_64 : EM_AARCH64;
    memcpy(data, &other, sizeof eh);
#ifdef __x86_64__
    is_str(image_refusal(data, len),
           "built for aarch64 (64-bit, little-endian), this graftd is x86-64 (64-bit, "
           "little-endian): build it for this machine");
#else
    ok(says(image_refusal(data, len), "built for "));
#endif
    other = eh;
    other.e_ident[EI_CLASS] = ELFCLASS32;
    memcpy(data, &other, sizeof eh);
    ok(says(image_refusal(data, len), "(32-bit, "));
    other = eh;
    other.e_ident[EI_DATA] = ELFDATA2MSB;
    memcpy(data, &other, sizeof eh);
    ok(says(image_refusal(data, len), "big-endian"));
    free(data);
}

TEST(other_kinds_of_elf)
{
    const char *cc = so_env("TEST_CC", "cc");
    ok(says(refusal(so_compile(cc, "p.c", "int x;", "p.so", "-c")),
            "an object file (ET_REL), expected a shared object (ET_DYN): link it with cc -shared"));
    static const char program[] = "int main(void) { return 0; }";
    ok(says(refusal(so_compile(cc, "p.c", program, "p.so", "-no-pie -fno-pie")),
            "an executable (ET_EXEC)"));
    ok(says(refusal(so_compile(cc, "p.c", program, "p.so", "-pie -fPIE")), "an executable (PIE)"));
}

TEST(the_descriptor)
{
    ok(says(built("int nothing;", ""), "no descriptor: it does not define the symbol "
                                       "graft_plugin_v1"));
    ok(says(built("__attribute__((visibility(\"default\"))) const long graft_plugin_v2[20];", ""),
            "contract 2 (graft_plugin_v2), this graftd offers 1"));
    ok(says(built("__attribute__((visibility(\"default\"))) void graft_plugin_v1(void) { }", ""),
            "expected a data object"));
    ok(says(
        built("__attribute__((visibility(\"default\"))) const char graft_plugin_v1[24] = \"x\";",
              ""),
        "graft_plugin_v1 has 24 bytes, expected at least"));
    ok(says(built("extern const char graft_plugin_v1[]; const char *f(void);"
                  "__attribute__((visibility(\"default\"))) const char *f(void)"
                  "{ return graft_plugin_v1; }",
                  ""),
            "no descriptor"));
    ok(says(built("const int graft_plugin_v1_is_not_it[64];", "-fvisibility=default"),
            "no descriptor"));
}

TEST(relocations_and_stack)
{
#ifdef __x86_64__
    ok(says(built("__asm__(\".text\\n.globl t\\nt: movabs $graft_outside, %rax\\n\");"
                  "__attribute__((visibility(\"default\"))) int graft_outside;\n" SO_PLUGIN("p"),
                  "-Wl,-z,notext"),
            "text relocations (DT_TEXTREL)"));
#endif
    ok(says(plain("-Wl,-z,execstack"), "asks for an executable stack (PT_GNU_STACK with PF_X)"));
    size_t len;
    unsigned char *data = good_image(&len);
    ElfW(Ehdr) eh;
    memcpy(&eh, data, sizeof eh);
    for (unsigned i = 0; i < eh.e_phnum; i++) {
        ElfW(Phdr) ph;
        memcpy(&ph, data + eh.e_phoff + i * sizeof ph, sizeof ph);
        if (ph.p_type == PT_GNU_STACK)
            ph.p_type = PT_NOTE;
        memcpy(data + eh.e_phoff + i * sizeof ph, &ph, sizeof ph);
    }
    ok(says(image_refusal(data, len), "executable stack (no PT_GNU_STACK header)"));
    free(data);
}

TEST(flags_that_forbid_unloading)
{
    ok(says(plain("-Wl,-z,nodelete"), "DF_1_NODELETE"));
    ok(says(plain("-Wl,-z,nodlopen"), "DF_1_NOOPEN"));
}

TEST(search_paths)
{
    ok(says(plain("-Wl,-rpath,'$ORIGIN/lib' -Wl,--enable-new-dtags"),
            "RUNPATH \"$ORIGIN/lib\" with $ORIGIN"));
    ok(says(plain("-Wl,-rpath,'/opt/x:${ORIGIN}' -Wl,--disable-new-dtags"),
            "RPATH \"/opt/x:${ORIGIN}\" with $ORIGIN"));
    is_str(plain("-Wl,-rpath,/opt/graft/lib"), "");
    is(preflight(so_build("p.so", SO_PLUGIN("p"), "-Wl,-rpath,/opt/x:lib"), &report, &err), 0);
    is(report.count, 1);
    is(report.findings[0].severity, PREFLIGHT_WARNING);
    ok(says(report.findings[0].text, "relative or empty folder"));
    preflight_report_fini(&report);
}

static bool have_cxx(void)
{
    return system("command -v c++ >/dev/null 2>&1") == 0;
}

TEST(unique_symbols)
{
    if (!have_cxx())
        return;
    static const char source[] =
        "#include <graft/graft.h>\n"
        "template <int N> int &counter() { static int n = N; return n; }\n"
        "__attribute__((visibility(\"default\"))) int use() { return counter<1>()++ + "
        "counter<2>()++; }\n"
        "GRAFT_PLUGIN(.name = \"p\")\n";
    static const char flags[] = "-std=gnu++20 -shared -fPIC";
    char all[256];
    const char *text = refusal(so_compile("g++ -fgnu-unique", "p.cc", source, "p.so", flags));
    ok(says(text, "2 symbols bound STB_GNU_UNIQUE (_ZZ7counterI"));
    ok(says(text, "-fno-gnu-unique (pkg-config --variable=gxxflags graft)"));
    snprintf(all, sizeof all, "%s -fno-gnu-unique", flags);
    is_str(refusal(so_compile("g++", "p.cc", source, "p.so", all)), "");
}

TEST(thread_local_destructors_are_warned_of)
{
    if (!have_cxx())
        return;
    is(preflight(so_compile("c++", "p.cc",
                            "#include <graft/graft.h>\n"
                            "struct S { int n; ~S(); }; S::~S() { n = 0; }\n"
                            "thread_local S s;\n"
                            "__attribute__((visibility(\"default\"))) int use() { return s.n++; }\n"
                            "GRAFT_PLUGIN(.name = \"p\")\n",
                            "p.so", "-std=gnu++20 -shared -fPIC -fvisibility=hidden"),
                 &report, &err),
       0);
    is(report.count, 1);
    ok(report.stays_mapped);
    is(report.findings[0].severity, PREFLIGHT_WARNING);
    ok(says(report.findings[0].text, "imports __cxa_thread_atexit"));
    preflight_report_fini(&report);
}

TEST(all_findings_are_reported_the_first_refusal_first)
{
    const char *path =
        so_build("p.so", "int nothing;", "-Wl,-z,nodelete -Wl,-z,execstack -Wl,-rpath,'$ORIGIN'");
    is(preflight(path, &report, &err), -1);
    is(report.count, 4);
    is_str(err.text, report.findings[0].text);
    ok(says(report.findings[0].text, "no descriptor"));
    ok(says(report.findings[1].text, "stack"));
    ok(says(report.findings[2].text, "NODELETE"));
    ok(says(report.findings[3].text, "$ORIGIN"));
    preflight_report_fini(&report);
    is(report.count, 0);
}

/* ---- Dependencies ---------------------------------------------------------------------------- */

TEST(system_folders)
{
    ok(preflight_system_library("/usr/lib/libx.so.1"));
    ok(preflight_system_library("/lib/libx.so.1"));
    ok(preflight_system_library("/usr/lib64/libx.so.1"));
    ok(preflight_system_library("/usr/lib/x86_64-linux-gnu/libx.so.1"));
    ok(preflight_system_library("/lib/aarch64-linux-gnu/libx.so.1"));
    ok(preflight_system_library("/usr/lib/x86_64-linux-gnu/glibc-hwcaps/x86-64-v3/libx.so.1"));
    ok(!preflight_system_library("/usr/lib/graft/plugins/libx.so.1"));
    ok(!preflight_system_library("/usr/lib/x86_64-linux-gnu/graft/plugins/libx.so.1"));
    ok(!preflight_system_library("/usr/local/lib/libx.so.1"));
    ok(!preflight_system_library("/opt/lib/libx.so.1"));
    ok(!preflight_system_library("/usr/libexec/libx.so.1"));
    ok(!preflight_system_library("libx.so.1"));
    ok(!preflight_system_library(""));
}

#define LIB_FLAGS "-fvisibility=default -Wl,-soname,libgraftunit.so.1"

/* A plugin that needs libgraftunit.so.1 from the folder `dir` (below ours), where it is made. */
static const char *dependent(const char *dir, int answer)
{
    char source[256], name[256], flags[2048];
    mkdir(so_path(dir), 0755);
    snprintf(source, sizeof source, "int unit_answer(void) { return %d; }", answer);
    snprintf(name, sizeof name, "%s/libgraftunit.so.1", dir);
    char lib[512];
    snprintf(lib, sizeof lib, "%s", so_build(name, source, LIB_FLAGS));
    snprintf(flags, sizeof flags, "-Wl,--no-as-needed '%s' -Wl,-rpath,'%s' -Wl,--enable-new-dtags",
             lib, so_path(dir));
    snprintf(name, sizeof name, "%s/plugin.so", dir);
    return so_build(name, SO_PLUGIN("dep"), flags);
}

TEST(a_private_library_that_is_not_loaded_is_fine)
{
    is_str(refusal(dependent("a", 1)), "");
}

TEST(the_same_private_library_again_is_fine)
{
    const char *path = dependent("a", 1);
    void *dl = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    must(dl != NULL);
    is_str(refusal(path), "");
    dlclose(dl);
}

TEST(another_library_under_a_loaded_name_is_refused)
{
    char first[512];
    snprintf(first, sizeof first, "%s", dependent("a", 1));
    void *dl = dlopen(first, RTLD_NOW | RTLD_LOCAL);
    must(dl != NULL);
    const char *second = dependent("b", 2);
    const char *text = refusal(second);
    ok(says(text, "depends on libgraftunit.so.1, which is /"));
    ok(says(text, "/b/libgraftunit.so.1, but another file (/"));
    ok(says(text, "/a/libgraftunit.so.1) is loaded under that name"));
    ok(says(text, "give the new library a SONAME of its own"));
    is(preflight(second, &report, &err), -1);
    is(report.count, 1);
    preflight_report_fini(&report);
    dlclose(dl);
    is_str(refusal(second), "");
}

TEST(a_private_library_replaced_where_it_lies_is_refused)
{
    char first[512], lib[512];
    snprintf(first, sizeof first, "%s", dependent("a", 1));
    snprintf(lib, sizeof lib, "%s", so_path("a/libgraftunit.so.1"));
    void *dl = dlopen(first, RTLD_NOW | RTLD_LOCAL);
    must(dl != NULL);
    must(rename(so_build("new.so", "int unit_answer(void) { return 3; }", LIB_FLAGS), lib) == 0);
    ok(says(refusal(first), "(deleted)"));
    dlclose(dl);
}

TEST(libraries_of_libraries_are_followed)
{
    char flags[2048], lib[512];
    void *dl = dlopen(dependent("a", 1), RTLD_NOW | RTLD_LOCAL);
    must(dl != NULL);
    dependent("b", 2);
    snprintf(flags, sizeof flags,
             "-Wl,--no-as-needed '%s' -Wl,-rpath,'%s' -Wl,-soname,libmiddle.so.1",
             so_path("b/libgraftunit.so.1"), so_path("b"));
    snprintf(lib, sizeof lib, "%s", so_build("libmiddle.so.1", "int middle;", flags));
    snprintf(flags, sizeof flags, "-Wl,--no-as-needed '%s' -Wl,-rpath,'%s'", lib, so_folder());
    ok(says(refusal(so_build("p.so", SO_PLUGIN("p"), flags)),
            "depends on libgraftunit.so.1, which is "));
    dlclose(dl);
}

TEST(a_hostile_search_path_opens_no_device)
{
    char flags[2048];
    so_build("libnull.so", "int n;", "-Wl,-soname,null");
    snprintf(flags, sizeof flags, "-Wl,--no-as-needed '%s' -Wl,-rpath,/dev:/proc/self/fd",
             so_path("libnull.so"));
    is_str(plain(flags), "");
}

/* ---- Hostile --------------------------------------------------------------------------------- */

TEST_WITHIN(no_flipped_bit_crashes_it, 300)
{
    size_t len;
    unsigned char *data = good_image(&len);
    unsigned refused = 0;
    for (size_t i = 0; i < len && i < 8192; i++) {
        unsigned char was = data[i];
        static const unsigned char values[] = { 0x00, 0x01, 0x7f, 0x80, 0xff };
        for (size_t v = 0; v < sizeof values; v++) {
            data[i] = values[v];
            refused += image_refusal(data, len)[0] != '\0';
        }
        data[i] = was;
    }
    ok(refused > 100);
    is_str(image_refusal(data, len), "");
    free(data);
}

TEST(measures_how_far_a_file_must_reach)
{
    size_t len;
    uint64_t end;
    const char *what;
    unsigned char *data = good_image(&len);
    is(elf_measure(data, len, &end, &what), ELF_WHOLE);
    is(end, len);
    is(elf_measure(data, len - 1, &end, &what), ELF_SHORT);
    is(end, len);
    is(elf_measure("", 0, &end, &what), ELF_OTHER);
    is(elf_measure("text", 4, &end, &what), ELF_OTHER);
    is(elf_measure("\x7f"
                   "EL",
                   3, &end, &what),
       ELF_SHORT);
    is_str(what, "ELF header");
    ElfW(Ehdr) eh;
    memcpy(&eh, data, sizeof eh);
    eh.e_shoff = UINT64_MAX - 8;
    memcpy(data, &eh, sizeof eh);
    is(elf_measure(data, len, &end, &what), ELF_SHORT);
    is_str(what, "section headers");
    free(data);
}
