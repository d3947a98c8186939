"""Every relative link of the pages leads to a file that is there, and to a heading of it."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(ROOT)
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/**/*.md"))
)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def _prose(path: Path) -> str:
    """A page without its blocks of code."""
    return _FENCED.sub("", path.read_text(encoding="utf-8"))


def _anchors(path: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.*)$", _prose(path), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        name = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        again = next(n for n in count() if (f"{name}-{n}" if n else name) not in found)
        found.add(f"{name}-{again}" if again else name)
    return found


def _broken(page: Path, prose: str) -> list[str]:
    """The links in a page's prose that lead nowhere."""
    found = []
    for link in _LINK.findall(prose):
        path, _, anchor = link.partition("#")
        target = (ROOT / page.parent / path) if path else ROOT / page
        web = re.match(r"[a-z]+:", link)
        if not web and (not target.exists() or (anchor and anchor not in _anchors(target))):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    assert not _broken(page, _prose(ROOT / page))


def test_broken_links_are_seen() -> None:
    page = Path("docs/concepts.md")
    good = "[a](#input--gradient) [b](../README.md#use-it) [c](https://example.org) [d](images)"
    assert not _broken(page, good)
    bad = "[a](nowhere.md) ![b](images/none.png) [c](#none) [d](speed.md#none)"
    assert _broken(page, bad) == ["nowhere.md", "images/none.png", "#none", "speed.md#none"]
