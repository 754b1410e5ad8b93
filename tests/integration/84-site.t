#!/usr/bin/env python3
# The documentation site: every guide and man page is in it, each link leads somewhere, nothing is loaded from elsewhere
import glob
import os
import re
import shutil
import subprocess
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *
from htmlpage import Page

if SANITIZER != "none":
    skip_all("it is about the docs: as good without a sanitizer")
MAKER = os.path.join(SRCDIR, "docs/site/site.py")


def made(top=SRCDIR, **env):
    """(folder, what was run): the site of these sources."""
    folder = os.path.join(tempdir(), "html")
    return folder, subprocess.run([sys.executable, "-B", MAKER, top, folder], capture_output=True, text=True, check=False,
                                  env={**os.environ, **env})


def pages(folder):
    found = {}
    for path in sorted(glob.glob(os.path.join(folder, "*.html"))):
        with open(path, encoding="utf-8") as file:
            found[os.path.basename(path)] = file.read()
    return found


def wrong_links(folder, parsed):
    """Links that lead nowhere, and what is loaded from elsewhere."""
    wrong = []
    for name, page in parsed.items():
        for link in page.links + page.loads:
            path, _, place = link.partition("#")
            if re.match(r"https?:", path) and link not in page.loads:
                continue  # to other people's pages, which a reader may follow
            if link in page.loads and os.path.isfile(os.path.join(folder, link)):
                continue
            if (path or name) not in parsed or place and place not in parsed[path or name].ids:
                wrong.append(f"{name}: {link}")
    return wrong


LACKING = [tool for tool in ("cmark-gfm", "mandoc") if shutil.which(tool) is None]


@case("without the tools it says which package is missing")
def _():
    folder = tempdir()
    folder, run = made(PATH=folder)
    is_((run.returncode, run.stderr), (1, "make html: needs cmark-gfm and mandoc: apt-get install cmark-gfm mandoc\n"), "said")
    ok(not os.path.exists(folder), "nothing is made")


@case("every page is sound")
def _():
    if LACKING:
        return skip("wants " + " and ".join(LACKING), "the site")
    folder, run = made()
    is_((run.returncode, run.stderr), (0, ""), "it is made")
    found = pages(folder)
    parsed = {name: Page(text) for name, text in found.items()}
    for name, page in parsed.items():
        is_(page.bad, [], f"{name}: every element is closed")
        is_(len(page.ids), len(set(page.ids)), f"{name}: no place is there twice")
        is_(re.findall(r"```|\]\(|^#+ |<!--|\*\*\w|raw HTML omitted", page.text, re.M), [], f"{name}: no Markdown is left")
        is_(found[name].count(f'<a href="{name}" aria-current="page">'), 1, f"{name}: it is marked in the navigation")
        is_(sorted(set(found) - set(page.links)), [], f"{name}: it leads to every other page")
        is_(page.loads, ["site.css"], f"{name}: it loads its style and nothing else")
        is_(len(re.findall("<h1[ >]", found[name])), 1, f"{name}: one heading of the first level")
    is_(wrong_links(folder, parsed), [], f"{sum(len(page.links) for page in parsed.values())} links lead to a place")
    with open(os.path.join(folder, "site.css"), encoding="utf-8") as file:
        is_(re.findall(r"@import|url\(", file.read()), [], "the style loads nothing")
    parsed["index.html"].links += ["nowhere.html", "operations.html#nowhere", "#nowhere"]
    parsed["index.html"].loads += ["https://example.com/a.js"]
    is_(len(wrong_links(folder, parsed)), 4, "what leads nowhere, or is loaded from elsewhere, would be found")

    again, _ = made()
    is_(pages(again), found, "made once more: the same bytes")


@case("every guide, man page and public name has its place")
def _():
    if LACKING:
        return skip("wants " + " and ".join(LACKING), "the site")
    folder, _ = made()
    found = pages(folder)
    for path in [os.path.join(SRCDIR, "README.md"), *glob.glob(os.path.join(SRCDIR, "docs/*.md")),
                 *glob.glob(os.path.join(SRCDIR, "plugins/*/README.md"))]:
        with open(path, encoding="utf-8") as file:
            text = re.sub(r"```.*?```", "", file.read(), flags=re.S)
        missed = [title for title in re.findall(r"^#+ (.*)$", text, re.M)
                  if not any(f">{shown(title)}</a></h" in page for page in found.values())]
        is_(missed, [], f"{os.path.relpath(path, SRCDIR)}: each of its headings is on a page")
    for path in glob.glob(os.path.join(SRCDIR, "docs/*.[1-8]")):
        page = " ".join(found[os.path.basename(path) + ".html"].split())
        with open(path, encoding="utf-8") as file:
            titles = re.findall(r'^\.S[HS] "?(.*?)"?$', file.read(), re.M)
        is_([title for title in titles if f">{title}</a></h" not in page], [], f"{os.path.basename(path)}: each of its headings")
        others = [os.path.basename(other) for other in glob.glob(os.path.join(SRCDIR, "docs/*.[1-8]")) if other != path]
        is_([other for other in others if f'<a href="{other}.html"><b>' not in page], [], "it leads to the other man pages")
    like(found["sdk-reference.html"], r'<section id="graft_reply">|<section id="graft_text">', "the header's names")


def shown(title):
    title = title.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", title)


@case("a header with a function that is not explained makes no site")
def _():
    if LACKING:
        return skip("wants " + " and ".join(LACKING), "the site")
    top = os.path.join(tempdir(), "top")
    for name in ("docs", "plugins", "bench/RESULTS.md", "packaging/kubernetes/README.md", "sdk/include", "README.md", "LICENSE"):
        source, target = os.path.join(SRCDIR, name), os.path.join(top, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copytree(source, target) if os.path.isdir(source) else shutil.copy(source, target)
    path = os.path.join(top, "sdk/include/graft/graft.h")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    before = "/* Wrappers of later minors"
    os.chmod(path, 0o644)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text.replace(before, "static inline int graft_new(graft_req *req)\n{\n    return !req;\n}\n\n" + before, 1))
    _, run = made(top)
    is_((run.returncode, run.stderr), (1, "sdk/include/graft/graft.h: graft_new: no comment\n"), "it is named")


main()
