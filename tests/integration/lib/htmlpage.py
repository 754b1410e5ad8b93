"""A page of HTML: what a test wants to know of it."""
import html.parser

EMPTY = ("meta", "link", "br", "hr", "img", "col")  # elements that have no end


class Page(html.parser.HTMLParser):
    """ids: its places; links: where it leads; loads: what a browser fetches for it; text: what is read, without code;
    bad: elements that are not closed, or not in order."""
    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.loads, self.bad, self.text = [], [], [], [], [], ""
        self.feed(text)
        self.close()
        self.bad += self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs["href"]] if tag == "a" and "href" in attrs else []
        self.loads += [attrs[name] for name in ("src", "srcset", "data") if name in attrs]
        self.loads += [attrs["href"]] if tag == "link" else []
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in EMPTY and (not self.open or self.open.pop() != tag):
            self.bad.append("/" + tag)

    def handle_data(self, data):
        if not {"pre", "code", "script"} & set(self.open):
            self.text += data
