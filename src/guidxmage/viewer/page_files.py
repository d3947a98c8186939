"""The viewer's own files, and its modules joined into one: as a module, and as a plain script.

A page from disk may load no modules, and a notebook takes a single one. So the modules are written
in a form in which nothing is needed to join them: they import names as they are, export
declarations, and no two of them have a name in common.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

ENTRY = "viewer"
"""The module with the viewer's door."""
_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([a-z_]+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async function|function|class|const|let)\b)", re.MULTILINE)
_EXPORTED = re.compile(
    r"^export (?:async function|function|class|const|let) (\w+)", re.MULTILINE | re.ASCII
)
_NOTHING = re.compile(r"^export \{\};\n", re.MULTILINE)


def asset(name: str) -> str:
    """The text of one of the viewer's files."""
    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")


def viewer_css() -> str:
    """The viewer's style sheet."""
    return asset("viewer.css")


def viewer_module() -> str:
    """The viewer as one ES module, which exports `mount`."""
    return module_of(ENTRY)


def viewer_script() -> str:
    """The viewer as a plain script, which puts `mount` into `window.guidXmage`."""
    return script_of(ENTRY)


def module_of(entry: str) -> str:
    """A module and all that it imports as one ES module with its exports."""
    return f"{_joined(entry)}\nexport {{ {', '.join(exports_of(entry))} }};\n"


def script_of(entry: str) -> str:
    """A module and all that it imports as a plain script: its exports are in `window.guidXmage`."""
    exports = ", ".join(exports_of(entry))
    body = _joined(entry)
    return (
        f'(() => {{\n"use strict";\n{body}\n'
        f"window.guidXmage = {{ ...window.guidXmage, {exports} }};\n}})();\n"
    )


def exports_of(name: str) -> list[str]:
    """The names that a module exports."""
    return _EXPORTED.findall(asset(f"{name}.js"))


def in_order(entry: str) -> list[str]:
    """A module and all that it imports, each behind what it imports itself.

    Raises ValueError where modules import each other in a circle.
    """
    found: dict[str, None] = {}

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise ValueError(f"modules in a circle: {' → '.join((*above, name))}")
        for _, other in _IMPORT.findall(asset(f"{name}.js")):
            if other not in found:
                visit(other, (*above, name))
        found.setdefault(name)

    visit(entry, ())
    return list(found)


@cache
def _joined(entry: str) -> str:
    return "\n".join(_bare(name) for name in in_order(entry))


def _bare(name: str) -> str:
    """A module's text without imports and exports."""
    text = _IMPORT.sub("", asset(f"{name}.js"))
    return _EXPORT.sub("", _NOTHING.sub("", text))


def inline(script: str) -> str:
    """A script as it can stand inside a page: nothing in it ends the element that holds it."""
    return re.sub(r"<(?=/script|!--|script)", r"\\x3c", script, flags=re.IGNORECASE)
