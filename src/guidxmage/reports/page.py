"""A report in Markdown as one HTML page that stands alone."""

from __future__ import annotations

import base64
from pathlib import Path
from urllib.parse import unquote

from jinja2 import Environment, PackageLoader
from markdown_it import MarkdownIt
from markupsafe import Markup

from guidxmage.files.atomic import write_atomically

REPORT, PAGE = "REPORT.md", "report.html"


def write_report(out: Path, text: str) -> Path:
    """Write a report in Markdown and as a page into its folder; the Markdown's path.

    The first line is the title. Pictures are taken from the folder into the page, and links to
    another report lead to its page.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text.replace(REPORT, PAGE))
    for token in tokens:
        for child in token.children or ():
            if child.type == "image":
                content = (out / unquote(str(child.attrs["src"]))).read_bytes()
                coded = base64.b64encode(content).decode()
                child.attrs["src"] = f"data:image/png;base64,{coded}"
    template = Environment(loader=PackageLoader(__package__), autoescape=True).get_template(PAGE)
    body = Markup(parser.renderer.render(tokens, parser.options, {}))
    title = "".join(child.content for child in tokens[1].children or ())
    write_atomically(out / REPORT, text.encode())
    write_atomically(out / PAGE, template.render(title=title, body=body).encode())
    return out / REPORT
