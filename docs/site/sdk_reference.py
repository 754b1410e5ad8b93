#!/usr/bin/env python3
"""Makes the SDK's reference from the comments of its header: sdk_reference.py HEADER prints what is on its page.

The comment above a function, a type or a macro is its text here; a member's stands above it or
behind it. What is public and has no comment, or can be called and does not say on which threads,
is an error: each is named on stderr, the status is 1 and nothing is printed. Names that end in '_'
are the header's own."""
import html
import re
import sys
from collections import namedtuple

Item = namedtuple("Item", "kind name code text members minor")
Member = namedtuple("Member", "name code text group")
Section = namedtuple("Section", "title text items")

TOKEN = re.compile(r"(?P<comment>/\*.*?\*/)|(?P<directive>^#(?:[^\n]*\\\n)*[^\n]*)|(?P<blank>\n[ \t]*(?=\n))"
                   r"|(?P<string>\"(?:[^\"\\]|\\.)*\")|(?P<char>.)", re.S | re.M)
PRINTF = re.compile(r"\s*GRAFT_PRINTF_\(\d+, \d+\)\s*")


def words(comment):
    """The text of a comment: its lines without stars, paragraphs kept."""
    lines = [re.sub(r"^\s*\*? ?", "", line) for line in comment[2:-2].replace("\\\n", "\n").split("\n")]
    return "\n".join(line.rstrip() for line in lines).strip()


def split_members(body, end):
    """The members of a struct (end ';') or the values of an enum (end ',')."""
    found, above, code, depth = [], "", "", 0
    for match in TOKEN.finditer(body):
        kind, text = match.lastgroup, match.group()
        if kind == "comment" and code.strip():  # behind the last value of an enum, which has no comma
            found.append((code, above, words(text)))
            above, code = "", ""
        elif kind == "comment":
            line = body[body.rfind("\n", 0, match.start()) + 1:match.start()]
            if found and line.strip():  # behind a member, on its line
                found[-1] = (*found[-1][:2], words(text))
            else:
                above = words(text)
        elif kind == "blank":
            above = above if code.strip() else ""
        else:
            depth += (text == "(") - (text == ")")
            if text == end and depth == 0:
                found.append((code, above, ""))
                above, code = "", ""
            else:
                code += text
    if code.strip():
        found.append((code, above, ""))
    return [member(*each) for each in found]


def member(code, above, behind):
    """Where there is a comment behind it, too, the one above is the heading of a group."""
    code = " ".join(PRINTF.sub(" ", code).split())
    pointer = re.search(r"\(\*(\w+)\)", code)
    names = [pointer[1]] if pointer else re.findall(r"\w+(?=\s*(?:,|$))", code.split("=")[0])
    return Member(", ".join(names), code, behind or above, above if behind else "")


def declaration(code, text, minor):
    """The item that a declaration at the top level is; None for one that is only announced."""
    code = PRINTF.sub("", code).strip()
    function = re.match(r"static inline (.*?\b(graft_\w+)\((.*?)\))\s*\{", code, re.S)
    if function:
        return Item("function", function[2], " ".join(function[1].split()), text, [], minor)
    body = re.match(r"(?:typedef )?(struct|enum)\s*(\w*)\s*\{(.*)\}\s*\w*;$", code, re.S)
    if body and "\n" not in code and body[1] == "enum":
        values = [value.split("=")[0].strip() for value in body[3].split(",")]
        return Item("values", values[0], code, text, [], minor)
    if body:
        members = split_members(body[3], ";" if body[1] == "struct" else ",")
        return Item(body[1], body[2], f"{body[1]} {body[2]}", text, members, minor)
    callback = re.match(r"typedef \w+ (\w+)\(.*\);$", code, re.S)
    return Item("callback", callback[1], " ".join(code.split()), text, [], minor) if callback else None


def macro(directive, above, minor):
    """The item that a #define is, or None."""
    found = re.match(r"#define (GRAFT_\w+)(\([^)]*\))?\s+\S", directive)
    if not found or found[1].endswith("_"):
        return None
    behind = re.search(r"/\*.*?\*/", directive, re.S)
    value = re.sub(r"/\*.*?\*/", "", directive[len("#define ") + len(found[1]):], flags=re.S)
    value = value.replace("\\\n", " ").strip()
    code = found[1] + (found[2] or " " + value)
    return Item("macro", found[1], code, words(behind[0]) if behind else above, [], minor)


def parse(text):
    """The sections of a header, with their items."""
    text = re.sub(r"^#ifdef __cplusplus\nextern.*?^#endif\n|^#ifdef __cplusplus\n\}\n#endif\n", "", text, flags=re.S | re.M)
    sections, above, code, depth, minor = [Section("The header", "", [])], "", "", 0, 0
    for match in TOKEN.finditer(text):
        kind, token = match.lastgroup, match.group()
        if depth == 0 and not code.strip() and kind != "char":
            title = re.match(r"/\* -{3,} *(.*?) *-{3,}\s*(.*)\*/$", token, re.S) if kind == "comment" else None
            if title:
                rest = words("/*" + title[2] + "*/")
                sections.append(Section(title[1], re.sub(r"^-+\s*", "", rest), []))
                above = ""
            elif kind == "comment" and "graft.h:" in token and not sections[0].text:
                sections[0] = Section("The header", words(token), [])
            elif kind == "comment":
                above = words(token)
            elif kind == "blank":
                above = ""
            else:
                needs = re.match(r"#if GRAFT_NEEDS >= (\d+)", token)
                minor = int(needs[1]) if needs else 0 if token == "#endif" else minor
                item = macro(token, above, minor) if kind == "directive" else None
                if item:
                    sections[-1].items.append(item)
                above = "" if item else above
            continue
        code += token
        depth += (token == "{") - (token == "}")
        inline = code.lstrip().startswith(("static inline", "GRAFT_PRINTF_"))
        if depth == 0 and token == ("}" if inline else ";"):
            item = declaration(code, above, minor)
            if item:
                sections[-1].items.append(item)
            code, above = "", ""
    return [section for section in sections if section.items or section.text]


def complaints(sections):
    """What is public and not explained, a line each."""
    found = []
    for item in (item for section in sections for item in section.items):
        if not item.text:
            found.append(f"{item.name}: no comment")
        elif item.kind in ("function", "callback") and not re.search(r"\[(loader|worker|pool|any)\]", item.text):
            found.append(f"{item.name}: the comment does not say on which threads")
        for each in item.members:
            where = f"{item.name}.{each.name}"
            if not each.text:
                found.append(f"{where}: no comment")
            elif re.search(r"\(\*|^graft_handler ", each.code) and not re.search(r"\[(loader|worker|pool|any)\]", each.text):
                found.append(f"{where}: the comment does not say on which threads")
    return found


def prose(text, known):
    """A comment as HTML: paragraphs, lists, names that lead to their places."""
    def link(match):
        return f'<a href="#{match[0]}">{match[0]}</a>' if match[0] in known else match[0]
    out = []
    for paragraph in re.split(r"\n\s*\n", text):
        shown = html.escape(paragraph, quote=False)
        shown = re.sub(r"`([^`]+)`", r"<code>\1</code>", shown)
        shown = re.sub(r"\bgraft_\w+|\bGRAFT_\w+", link, shown)
        first, *points = re.split(r"(?:^|\n)\s*- ", shown)
        out.append(f"<p>{first.strip()}</p>\n" if first.strip() else "")
        out.append("<ul>\n" + "".join(f"<li>{point.strip()}</li>\n" for point in points) + "</ul>\n" if points else "")
    return "".join(out)


def show_item(item, known):
    since = f' <span class="since">minor {item.minor}</span>' if item.minor else ""
    out = [f'<section id="{item.name}">\n<h3>{item.name}{since}</h3>\n<pre>{html.escape(item.code, quote=False)}</pre>\n',
           prose(item.text, known)]
    if item.members:
        out.append("<dl>\n")
        for each in item.members:
            out.append(f'<dt class="group">{html.escape(each.group, quote=False)}</dt>\n' if each.group else "")
            out.append(f"<dt><code>{html.escape(each.code, quote=False)}</code></dt>\n<dd>{prose(each.text, known)}</dd>\n")
        out.append("</dl>\n")
    return "".join(out) + "</section>\n"


def content(sections):
    """What a page about the header has: all names, and then each with its text."""
    known = {item.name for section in sections for item in section.items}
    out = ["<ul>\n"]
    for number, section in enumerate(sections):
        names = ", ".join(f'<a href="#{item.name}">{item.name}</a>' for item in section.items)
        out.append(f'<li><a href="#part{number}">{html.escape(section.title)}</a>: {names}</li>\n')
    out.append("</ul>\n")
    for number, section in enumerate(sections):
        out.append(f'<h2 id="part{number}">{html.escape(section.title)}</h2>\n{prose(section.text, known) if section.text else ""}')
        out += [show_item(item, known) for item in section.items]
    return "".join(out)


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        sections = parse(file.read())
    wrong = complaints(sections)
    for line in wrong:
        print(f"{sys.argv[1]}: {line}", file=sys.stderr)
    if not wrong:
        sys.stdout.write(content(sections))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
