"""Texts of figures in characters that can be drawn: by another font, or transliterated.

Matplotlib's own font has no Chinese, Japanese or Korean, and draws an empty box for what it lacks.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, fontManager, get_font
from matplotlib.text import Text

_SPOKEN = ("HANGUL SYLLABLE ", "HIRAGANA LETTER ", "KATAKANA LETTER ")
# A font whose every character is a box that names its script: it draws what nobody can read.
_BOXES = "Last Resort"
# What shows nothing by itself: marks, spaces, controls.
_SILENT = ("M", "Z", "C")


class DrawableFigure(Figure):
    """A figure whose texts are seen to when it is drawn, whoever draws it."""

    def draw(self, renderer: Any) -> None:
        """Draw all of it."""
        make_drawable(self)
        super().draw(renderer)


def make_drawable(figure: Figure) -> None:
    """Give every text of a figure fonts that have its characters, or others in their place."""
    for text in figure.findobj(Text):
        make_drawable_text(text)


def make_drawable_text(text: Text) -> None:
    """The same of one text."""
    said = text.get_text()
    if said.isascii():
        return
    path = str(findfont(text.get_fontproperties()))
    missing = {one for one in said if one != "\n" and not _has(path, one)}
    if not missing:
        return
    fonts = {one: _family_with(one) for one in missing}
    # In bold, a family may have fewer of them.
    fonts = {one: name if name and _draws(text, name, one) else None for one, name in fonts.items()}
    families = [str(name) for name in text.get_fontfamily()]
    more = [name for name in dict.fromkeys(fonts.values()) if name and name not in families]
    if more:
        text.set_fontfamily([*families, *more])
    lost = {one for one, family in fonts.items() if family is None}
    if lost:
        text.set_text(transliterated(said, lost))


def _draws(text: Text, family: str, character: str) -> bool:
    """Whether a family has a character in the style and weight of a text."""
    wanted = text.get_fontproperties().copy()
    wanted.set_family([family])
    return _has(str(findfont(wanted)), character)


def transliterated(text: str, lost: set[str]) -> str:
    """A text without some characters: by their sound where it is known, else by their number."""
    parts = []
    for character in text:
        if character not in lost:
            parts.append(character)
            continue
        said = _sound(character)
        if parts and said.startswith("U+") and parts[-1].startswith("U+"):
            said = f" {said}"
        parts.append(said)
    return "".join(parts)


def _sound(character: str) -> str:
    name = unicodedata.name(character, "")
    for kind in _SPOKEN:
        if name.startswith(kind):
            return name.removeprefix(kind).removeprefix("SMALL ").lower()
    if unicodedata.category(character).startswith(_SILENT):
        return ""
    plain = unicodedata.normalize("NFKD", character)
    return plain if plain.isascii() else f"U+{ord(character):04X}"


def _has(path: str, character: str) -> bool:
    """Whether a font file has a character."""
    try:
        font: Any = get_font(path)
        return bool(font.get_char_index(ord(character)))
    except (OSError, RuntimeError):  # no font, or one of another kind
        return False


@cache
def _family_with(character: str) -> str | None:
    """An installed font that has a character, upright and of usual weight where there is one."""

    def unusual(entry: Any) -> tuple[bool, bool, str]:
        return entry.style != "normal", entry.weight not in (400, "normal", "regular"), entry.name

    readable = [entry for entry in fontManager.ttflist if not entry.name.startswith(_BOXES)]
    fonts = sorted(readable, key=unusual)
    return next((str(entry.name) for entry in fonts if _has(entry.fname, character)), None)
