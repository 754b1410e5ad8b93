"""The code blocks of the README and the guides, and the marks of those that are not run."""
import glob
import os
import re
from collections import namedtuple

SRCDIR = os.environ["TEST_SRCDIR"]
PAGES = [os.path.join(SRCDIR, "README.md"), *sorted(glob.glob(os.path.join(SRCDIR, "docs/*.md")))]
# where: page:line; mark: what the comment in the line above says, or "".
Block = namedtuple("Block", "where language text mark")


def blocks(path):
    """Those of a page. One is fenced, or four columns in after an empty line; its mark is a comment of one line, with
    nothing but empty lines in between."""
    with open(path, encoding="utf-8") as file:
        lines = [*file.read().split("\n"), ""]
    found, at = [], 0
    while at < len(lines):
        begin, language, taken = at, lines[at][3:], []
        if lines[at].startswith("```"):
            at += 1
            while lines[at] != "```":
                taken.append(lines[at])
                at += 1
        elif lines[at].startswith("    ") and (at == 0 or not lines[at - 1]):
            language = ""
            while at < len(lines) and (lines[at].startswith("    ") or not lines[at]):
                taken.append(lines[at][4:])
                at += 1
            at -= 1
        if taken:
            text = "\n".join(taken).strip("\n") + "\n"
            above = next((line for line in reversed(lines[:begin]) if line), "")
            mark = re.fullmatch(r"<!-- (.*) -->", above)
            found.append(Block(f"{os.path.basename(path)}:{begin + 1}", kind(language, text), text, mark[1] if mark else ""))
        at += 1
    return found


def kind(language, text):
    if language:
        return language
    if "#include <graft/" in text:
        return "c"
    if text.startswith('{"level"'):
        return "log"  # a line of it, folded
    return "json" if re.match(r'\{|"[a-z_]+": ', text) else ""


def marks():
    """How many comments there are on the pages."""
    found = 0
    for path in PAGES:
        with open(path, encoding="utf-8") as file:
            found += len(re.findall(r"^<!--", file.read(), re.M))
    return found


ALL = [block for path in PAGES for block in blocks(path)]
