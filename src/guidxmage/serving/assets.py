"""What the page is made of, read once: its own files and those of the viewer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

from guidxmage.viewer.page_files import viewer_css, viewer_module

_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Asset:
    """One file: its bytes, its type, and the tag by which a browser knows it again."""

    content: bytes
    kind: str
    tag: str


def page_assets() -> dict[str, Asset]:
    """All files by their names."""
    folder = resources.files("guidxmage.serving").joinpath("page")
    own = [file for file in folder.iterdir() if f".{file.name.rsplit('.', 1)[-1]}" in _KINDS]
    texts = {file.name: file.read_text(encoding="utf-8") for file in own}
    texts |= {"viewer.js": viewer_module(), "viewer.css": viewer_css()}
    return {name: _asset(name, text.encode()) for name, text in texts.items()}


def _asset(name: str, content: bytes) -> Asset:
    digest = hashlib.sha256(content).hexdigest()
    return Asset(content, _KINDS["." + name.rsplit(".", 1)[-1]], f'"{digest[:20]}"')
