#!/usr/bin/env python3
"""Makes the documentation site: site.py SOURCE FOLDER. SOURCE is the project's top folder.

What the pages are made of is what else is read: Markdown by cmark-gfm, man pages by mandoc, the SDK's reference from
the comments of graft.h. Nothing in it is loaded from elsewhere, and the same sources make the same bytes."""
import html
import os
import posixpath
import re
import shutil
import subprocess
import sys
import sdk_reference

# Name of the page, its sources, its title in the navigation. A folder's README.md files are one page.
PARTS = (
    ("", (("index.html", ("README.md",), "graft"),)),
    ("Plugins", (("plugin-guide.html", ("docs/PLUGIN-GUIDE.md",), "Writing plugins"),
                 ("rust.html", ("docs/RUST.md",), "Plugins in Rust"),
                 ("sdk-reference.html", ("sdk/include/graft/graft.h",), "SDK reference"),
                 ("plugins.html", ("plugins",), "Example plugins"))),
    ("Server", (("operations.html", ("docs/OPERATIONS.md",), "Operations"),
                ("deployment.html", ("docs/DEPLOYMENT.md",), "Deployment"),
                ("kubernetes.html", ("packaging/kubernetes/README.md",), "Kubernetes"),
                ("architecture.html", ("docs/ARCHITECTURE.md",), "Architecture"),
                ("results.html", ("bench/RESULTS.md",), "Measurements"),
                ("copyright.html", ("LICENSE",), "License"))),
    ("Man pages", (("graftd.8.html", ("docs/graftd.8",), "graftd(8)"),
                   ("graftctl.1.html", ("docs/graftctl.1",), "graftctl(1)"),
                   ("graft.json.5.html", ("docs/graft.json.5",), "graft.json(5)"))),
)
PAGES = [page for _, pages in PARTS for page in pages]
TOOLS = (("cmark-gfm", "cmark-gfm"), ("mandoc", "mandoc"))  # and Debian's packages


def run(*command, text=None):
    return subprocess.run(command, input=text, stdout=subprocess.PIPE, check=True, encoding="utf-8").stdout


def plain(markup):
    return html.unescape(re.sub(r"<[^>]*>", "", markup))


def anchors(markup):
    """Each heading with the id that GitHub gives it; those below the first level once more, for a table of contents."""
    seen, contents = {}, []

    def heading(match):
        name = re.sub(r"[^\w\- ]", "", plain(match[2]).lower()).replace(" ", "-")
        seen[name] = seen.get(name, -1) + 1
        name += f"-{seen[name]}" if seen[name] else ""
        if match[1] == "2":
            contents.append((name, re.sub(r"</?a\b[^>]*>", "", match[2])))
        return f'<h{match[1]} id="{name}"><a class="place" href="#{name}">{match[2]}</a></h{match[1]}>'
    return re.sub(r"<h([1-6])>(.*?)</h\1>", heading, markup, flags=re.S), contents


def relinked(markup, source):
    """Links to other sources lead to their pages; where there is none, the text stays without a link."""
    pages = {path: name for name, paths, _ in PAGES for path in paths}

    def link(match):
        target, _, place = html.unescape(match[1]).partition("#")
        if re.match(r"[a-z]+:", target) or not target:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        name = pages.get(path)
        if name is None:
            return match[2]
        return f'<a href="{html.escape(name + ("#" + place if place else ""))}">{match[2]}</a>'
    return re.sub(r'<a href="([^"]*)">(.*?)</a>', link, markup, flags=re.S)


def man_references(markup):
    """`graftd(8)` and `man graftd` lead to the man page."""
    names = {re.sub(r"\.\d\.html$", "", name): name for name, paths, _ in PAGES if paths[0].endswith(("1", "5", "8"))}
    each = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    markup = re.sub(rf"<b>({each})</b>\((\d)\)", lambda m: f'<a href="{names[m[1]]}"><b>{m[1]}</b>({m[2]})</a>', markup)
    return re.sub(rf"<code>man (?:\d )?({each})</code>", lambda m: f'<a href="{names[m[1]]}">{m[0]}</a>', markup)


def markdown(text, source):
    shown = run("cmark-gfm", "-e", "table", text=re.sub(r"<!--.*?-->\n?", "", text, flags=re.S))
    shown = re.sub(r"<table>.*?</table>", r'<div class="wide">\g<0></div>', shown, flags=re.S)
    return man_references(relinked(shown, source))


def read(*path):
    with open(os.path.join(*path), encoding="utf-8") as file:
        return file.read()


def readmes(top, folder):
    """The README.md files one folder below, one after the other; each with its headings a level lower."""
    for name in sorted(os.listdir(os.path.join(top, folder))):
        path = f"{folder}/{name}/README.md"
        if os.path.exists(os.path.join(top, path)):
            yield re.sub(r"<(/?)h([1-5])>", lambda m: f"<{m[1]}h{int(m[2]) + 1}>", markdown(read(top, path), path))


def content(top, sources, title):
    """What is on a page, and its contents: (id, markup) of each part."""
    source = sources[0]
    if source.endswith(".md"):
        return anchors(markdown(read(top, source), source))
    if source.endswith(".h"):
        sections = sdk_reference.parse(read(top, source))
        wrong = sdk_reference.complaints(sections)
        if wrong:
            sys.exit("\n".join(f"{source}: {line}" for line in wrong))
        return f"<h1>{title}</h1>\n{sdk_reference.content(sections)}", []
    if source == "LICENSE":
        return f"<h1>{title}</h1>\n<pre>{html.escape(read(top, source), quote=False)}</pre>\n", []
    if os.path.isdir(os.path.join(top, source)):
        return anchors(f"<h1>{title}</h1>\n" + "".join(readmes(top, source)))
    shown = run("mandoc", "-T", "html", "-O", "fragment", os.path.join(top, source))
    shown = re.sub(r"<table class=\"(?:head|foot)\">.*?</table>\n", "", shown, flags=re.S)
    shown = re.sub(r"<(/?)h([12])\b", lambda m: f"<{m[1]}h{int(m[2]) + 1}", shown)
    contents = re.findall(r'<h2 class="Sh" id="([^"]*)"><a [^>]*>(.*?)</a>', shown)
    return f"<h1>{title}</h1>\n{man_references(shown)}", contents


def navigation(current):
    out = ['<nav class="pages" aria-label="Pages">\n']
    for part, pages in PARTS:
        out.append(f"<p>{part}</p>\n" if part else "")
        out.append("<ul>\n")
        for name, _, title in pages:
            here = ' aria-current="page"' if name == current else ""
            out.append(f'<li><a href="{name}"{here}>{title}</a></li>\n')
        out.append("</ul>\n")
    return "".join(out) + "</nav>\n"


def page(name, title, shown, contents):
    listed = "".join(f'<li><a href="#{place}">{text}</a></li>\n' for place, text in contents)
    listed = f'<details class="contents">\n<summary>On this page</summary>\n<ul>\n{listed}</ul>\n</details>\n' if contents[2:] else ""
    first, after = re.match(r"(.*?</h1>\n?)(.*)", shown, re.S).groups()
    whole = title if name == "index.html" else f"{title} - graft"
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{whole}</title>\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n<link rel="stylesheet" href="site.css">\n</head>\n<body>\n'
            f"{navigation(name)}<main>\n{first}{listed}{after}</main>\n</body>\n</html>\n")


def main():
    top, folder = sys.argv[1:]
    lacking = [package for tool, package in TOOLS if shutil.which(tool) is None]
    if lacking:
        sys.exit(f"make html: needs {' and '.join(lacking)}: apt-get install {' '.join(lacking)}")
    os.makedirs(folder, exist_ok=True)
    for name, sources, title in PAGES:
        made = page(name, title, *content(top, sources, title))
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(made)
    shutil.copyfile(os.path.join(os.path.dirname(os.path.abspath(__file__)), "site.css"), os.path.join(folder, "site.css"))


if __name__ == "__main__":
    main()
