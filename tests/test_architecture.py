"""The way through the house is one direction, and every room is small."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import guidxmage

ROOT = Path(guidxmage.__file__).parent
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))

# From the lowest floor up; a module may import, at its top, only from its own floor and below.
FLOORS = [
    [
        *("errors", "names", "locks", "pickles", "versions", "schema", "source_code"),
        *("untrusted", "exactness"),
    ],
    ["files", "result_folder", "photo_results"],
    ["images", "preprocessing", "annotations", "raster", "segmentation", "regions", "objects"],
    ["models"],
    ["engine"],
    ["inputs", "targets", "fingerprint"],
    [
        "wrapped",
        "explanation",
        "archive",
        "assembly",
        "spaces",
        "joint",
        "explainer",
        "ray",
        "trails",
        "coverage",
        "integrated",
    ],
    ["proof"],
    ["interfaces"],
    ["view"],
    ["adversarial"],
    ["hardening", "evaluation"],
    ["drawing", "batch", "jobs"],
    ["cli"],
]
_FLOOR = {name: number for number, floor in enumerate(FLOORS) for name in floor}


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _imported_at_the_top(path: Path) -> set[str]:
    """Modules of this package imported when `path` is imported (not inside functions)."""
    names: set[str] = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.startswith("guidxmage.")}


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_lower_floors_do_not_import_higher_ones(path: Path) -> None:
    own = path.parts[0].removesuffix(".py")
    if own == "__init__":
        assert not _imported_at_the_top(path)
        return
    assert own in _FLOOR, f"{own} stands on no floor"
    for module in _imported_at_the_top(path):
        assert _FLOOR[_room(module)] <= _FLOOR[own], f"{path} imports {module}"


def test_the_view_draws_panels_and_knows_no_explanations() -> None:
    for path in (p for p in MODULES if p.parts[0] == "view"):
        rooms = {_room(module) for module in _imported_at_the_top(path)}
        assert rooms <= {"view", "errors", "exactness", "files", "images", "objects", "regions"}


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_modules_are_short(path: Path) -> None:
    assert len((ROOT / path).read_text(encoding="utf-8").splitlines()) <= 400


def test_functions_can_be_seen_whole() -> None:
    """At most 60 lines; the commands' lists of options may be longer."""
    for path in MODULES:
        if path.parts[0] == "cli":
            continue
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"


def test_public_names_exist_and_are_documented() -> None:
    for name in guidxmage.__all__:
        value = getattr(guidxmage, name)
        assert name.startswith("__") or value.__doc__
    with pytest.raises(AttributeError, match="no attribute 'Explanier'"):
        guidxmage.__getattr__("Explanier")
