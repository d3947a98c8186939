"""Names of files and folders that every file system takes, and names as they can be printed."""

from __future__ import annotations

import hashlib
import re
import unicodedata

LONGEST = 255
"""Bytes that a file system takes for one name."""
_NOT_IN_NAMES = frozenset('<>:"/\\|?*')
# Device names of Windows, whatever follows a dot.
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?$", re.I)
# Marks that turn the direction of the text around them.
_TURNING = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def folder_name(stem: str) -> str:
    """A photo's stem as the name of a folder that every file system takes.

    Unchanged where it can be. Control characters, bytes that are no text and what Windows does not
    allow become "_"; dots and spaces at its ends go; names of devices get a "_"; what is longer
    than 255 bytes is cut. What nothing is left of is called "photo".
    """
    name = "".join("_" if _is_unsafe(character) else character for character in stem)
    name = name.strip(". ") or "photo"
    name = name + "_" if _RESERVED.match(name) else name
    return _cut(name, LONGEST)


def with_suffix(name: str, digest: str) -> str:
    """The name with some digits of a digest, cut so that it is not too long."""
    return f"{_cut(name, LONGEST - len(digest) - 1)}-{digest}"


def folded(name: str) -> str:
    """What two names have in common that some file system takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def digest_of(name: str, digits: int) -> str:
    """Digits that stand for a name, the same for names that some file system takes for one."""
    return hashlib.sha256(folded(name).encode("utf-8", "surrogateescape")).hexdigest()[:digits]


def shown(text: object) -> str:
    r"""A path or a sentence as one line of text that every terminal and JSON file takes.

    Control characters, line ends and bytes that are no text stand as \n, \x1b or \udcff.
    """
    return "".join(_escaped(c) if _is_control(c) else c for c in str(text))


def brief(text: object, longest: int = 120) -> str:
    """The first line of what others wrote, as `shown` shows it, cut where it is long."""
    line = shown(str(text).strip().partition("\n")[0][: longest + 1])
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def free_name(stem: str, taken: set[str]) -> str:
    """A name that is not taken yet, and now is: the stem, or the stem with a number."""
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}-{number}", number + 1
    taken.add(name)
    return name


def _is_control(character: str) -> bool:
    kind = unicodedata.category(character)
    return kind in ("Cc", "Cs", "Zl", "Zp") or character in _TURNING


def _is_unsafe(character: str) -> bool:
    return _is_control(character) or character in _NOT_IN_NAMES


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _cut(name: str, longest: int) -> str:
    """At most so many bytes of UTF-8, whole characters, no dot or space at the end."""
    content = name.encode("utf-8")[:longest]
    return content.decode("utf-8", "ignore").rstrip(". ") or "photo"
