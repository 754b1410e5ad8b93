#!/usr/bin/env python3
# every compiler and every page: the SDK's header, the shipped plugins and the guide's examples
"""Compiles, with the flags that graft.pc gives and with warnings as errors, what a plugin's author
starts from: the shipped plugins (C), a plugin in C++, and each code block of the guide. Then loads
each result and reads its descriptor. A compiler that is not installed is skipped."""
import ctypes
import os
import re
import shutil
import subprocess
import sys
import tempfile

SRC = os.environ["TEST_SRCDIR"]
WARN = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Wmissing-declarations",
        "-Wformat=2", "-Werror"]
C = [(cc, std) for cc in ("gcc", "clang") for std in ("c11", "gnu11", "gnu17")]
CXX = [(cc, std) for cc in ("g++", "clang++") for std in ("c++17", "gnu++17", "c++20", "gnu++20")]
count = failed = 0


def report(ok, name, why=""):
    global count, failed
    count += 1
    failed += not ok
    print(f"{'ok' if ok else 'not ok'} {count} - {name}", flush=True)
    for line in why.splitlines() if not ok else []:
        print(f"# {line}")


def pkg_config(*args):
    return subprocess.run(["pkg-config", *args, "graft"], check=True, capture_output=True,
                          text=True).stdout.split()


class Descriptor(ctypes.Structure):
    """The beginning of graft_plugin."""
    _fields_ = [("size", ctypes.c_uint32), ("needs", ctypes.c_uint32),
                ("route_size", ctypes.c_uint32), ("flags", ctypes.c_uint32),
                ("name", ctypes.c_char_p), ("version", ctypes.c_char_p)]


def descriptor_of(so):
    """In a process of its own, since nothing here unloads it: 'SIZE NEEDS ROUTE_SIZE NAME'."""
    run = subprocess.run([sys.executable, __file__, "--descriptor", so], capture_output=True,
                         text=True)
    return run.stdout.strip() or run.stderr


def compile_one(compiler, std, source, out, flags=()):
    command = [compiler, f"-std={std}", *WARN, *flags, *pkg_config("--cflags", "--libs"), "-o", out,
               source]
    if compiler == "g++":
        command += pkg_config("--variable=gxxflags")
    run = subprocess.run(command, capture_output=True, text=True)
    return run.returncode == 0, " ".join(command) + "\n" + run.stdout + run.stderr


def build_and_load(compiler, std, source, out, name):
    flags = ["-D_GNU_SOURCE"] if std == "c11" else []
    ok, why = compile_one(compiler, std, source, out, flags)
    if ok:
        pointer = ctypes.sizeof(ctypes.c_void_p)
        expected = f"{4 * 4 + 19 * pointer} 1 {4 * pointer} {name}"
        found = descriptor_of(out)
        ok, why = found == expected, f"descriptor: {found}, expected {expected}"
    return ok, why


def shipped(folder):
    for compiler, std in C:
        if not shutil.which(compiler):
            print(f"# {compiler} is not installed: skipped")
            continue
        for name in ("hello", "echo", "request-id", "access-log", "slow", "counter"):
            ok, why = build_and_load(compiler, std, f"{SRC}/plugins/{name}/{name}.c",
                                     f"{folder}/{name}.so", name)
            report(ok, f"{name} with {compiler} -std={std}", why)


def cxx(folder):
    for compiler, std in CXX:
        if not shutil.which(compiler):
            print(f"# {compiler} is not installed: skipped")
            continue
        ok, why = build_and_load(compiler, std, f"{SRC}/tests/plugins/cxx_hello.cc",
                                 f"{folder}/cxx.so", "cxx-hello")
        report(ok, f"cxx_hello with {compiler} -std={std}", why)
        if ok and shutil.which("readelf"):
            symbols = subprocess.run(["readelf", "-W", "--dyn-syms", f"{folder}/cxx.so"],
                                     capture_output=True, text=True).stdout
            report("UNIQUE" not in symbols, f"no unique symbol from {compiler} -std={std}", symbols)
        ok, why = build_and_load(compiler, std, f"{SRC}/examples/cxx/notes.cc", f"{folder}/notes.so", "notes")
        report(ok, f"examples/cxx/notes.cc, on graft.hpp, with {compiler} -std={std}", why)


def cxx_refusals():
    """graft.hpp where it cannot work says why, and nothing else."""
    for compiler in filter(shutil.which, ("g++", "clang++")):
        for flags, text in ((["-std=c++14"], "graft.hpp needs C++17 or later"),
                            (["-std=c++17", "-fno-exceptions"], "graft.hpp needs exceptions")):
            run = subprocess.run([compiler, *flags, *pkg_config("--cflags"), "-fsyntax-only", "-include",
                                  "graft/graft.hpp", "-xc++", "/dev/null"], capture_output=True, text=True)
            errors = re.findall(r"error: .*", run.stderr)
            report(len(errors) == 1 and text in errors[0], f"{compiler} {' '.join(flags)}: {text}", run.stderr)


def run_test_program(compiler, std, source, out):
    """A block that includes the harness is a program, and all of its checks hold."""
    pc = [subprocess.run(["pkg-config", which, "graft-harness"], check=True, capture_output=True,
                         text=True).stdout.split() for which in ("--cflags", "--libs")]
    made = subprocess.run([compiler, f"-std={std}", *WARN, *os.environ["TEST_CFLAGS"].split(), *pc[0],
                           "-o", out, source, *pc[1]], capture_output=True, text=True)
    if made.returncode != 0:
        return False, made.stdout + made.stderr
    run = subprocess.run([out], capture_output=True, text=True, timeout=60)
    return run.returncode == 0, run.stdout + run.stderr


def guide(folder):
    with open(f"{SRC}/docs/PLUGIN-GUIDE.md", encoding="utf-8") as page:
        blocks = re.findall(r"^```(c|cpp)\n(.*?)^```$", page.read(), re.M | re.S)
    report(len(blocks) >= 10, f"the guide has {len(blocks)} code blocks")
    for number, (language, text) in enumerate(blocks, 1):
        source = f"{folder}/block{number}.{'cc' if language == 'cpp' else 'c'}"
        with open(source, "w", encoding="utf-8") as out:
            out.write(text)
        for compiler, std in (C if language == "c" else CXX):
            if std in ("c11", "gnu++20") or not shutil.which(compiler):
                continue
            if "<graft/harness.h>" in text:
                # a sanitizer's runtime is that of the compiler that made the harness
                if os.environ["TEST_SANITIZER"] == "none" or compiler == os.environ["TEST_CC"]:
                    ok, why = run_test_program(compiler, std, source, f"{folder}/block")
                    report(ok, f"block {number} of the guide, a test, with {compiler} -std={std}", why)
                continue
            ok, why = compile_one(compiler, std, source, f"{folder}/block.so")
            report(ok, f"block {number} of the guide with {compiler} -std={std}", why)


def refusals(folder):
    """GRAFT_NEEDS is what the descriptor says, also more than this header's minor."""
    source = f"{SRC}/plugins/hello/hello.c"
    for needs in ("0", "99"):
        ok, why = compile_one("cc", "gnu11", source, f"{folder}/needs.so", [f"-DGRAFT_NEEDS={needs}"])
        said = descriptor_of(f"{folder}/needs.so").split()[1] if ok else None
        report(said == needs, f"GRAFT_NEEDS={needs} is what the descriptor says", why)


if sys.argv[1:2] == ["--descriptor"]:
    d = Descriptor.in_dll(ctypes.CDLL(sys.argv[2], os.RTLD_NOW | os.RTLD_LOCAL), "graft_plugin_v1")
    print(d.size, d.needs, d.route_size, d.name.decode())
    sys.exit(0)

with tempfile.TemporaryDirectory(prefix="graft-sdk-") as temp:
    shipped(temp)
    cxx(temp)
    cxx_refusals()
    guide(temp)
    refusals(temp)
print(f"1..{count}")
sys.exit(1 if failed else 0)
