"""Markdown from templates and tables. What is filled in stays text, whoever named it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from html import escape
from typing import Any

from markupsafe import Markup

# What begins a tag of HTML, and what makes a link or a picture of brackets.
_ACTIVE = re.compile(r"<|(?<=\])\(")


def rendered(package: str, name: str, **values: Any) -> Markup:
    """A template of a package's folder "templates", filled in; one blank line between paragraphs.

    Texts among the values are written so that they add neither HTML nor links. Tables and what
    was rendered before are taken as they are.
    """
    # Only reports need it; tables are also shown by objects and in notebooks.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package),
        undefined=StrictUndefined,
        finalize=_plain,
    )
    environment.filters["code"] = code
    text = environment.get_template(name).render(values)
    return Markup(re.sub(r"\n{3,}", "\n\n", text).strip() + "\n")


def table(
    head: Sequence[Any], rows: Iterable[Sequence[Any]], words: Collection[int] = (0,)
) -> Markup:
    """A table in Markdown; empty without rows. words: the columns that do not hold numbers."""
    cells = [[_plain(one).replace("|", "\\|") for one in line] for line in (head, *rows)]
    cells.insert(1, ["---" if place in words else "---:" for place in range(len(head))])
    return Markup("\n".join(f"| {' | '.join(line)} |" for line in cells if len(cells) > 2))


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The same in HTML."""

    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(one)}</{tag}>" for one in cells) + "</tr>"

    body = "".join(line("td", cells) for cells in rows)
    return f"<table><thead>{line('th', head)}</thead><tbody>{body}</tbody></table>"


def code(text: str) -> Markup:
    """A text in the type of code."""
    return Markup(f"`{' '.join(text.replace('`', chr(39)).split())}`")


def _plain(value: Any) -> Any:
    if isinstance(value, Markup):
        return value
    return _ACTIVE.sub(r"\\\g<0>", " ".join(str(value).splitlines()))
