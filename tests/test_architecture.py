"""The way through the house is one direction, and every room is small."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import guidxmage

ROOT = Path(guidxmage.__file__).parent
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))

# From the ground up. What stands in one line knows nothing of its neighbours, only what is below.
HOUSE = [
    ["moved", "errors"],
    ["files"],
    ["reports"],
    ["provenance"],
    ["inputs", "outputs", "view"],
    ["objects", "models"],
    ["engine"],
    ["attribution"],
    ["proof", "viewer"],
    ["explanation"],
    ["explainer"],
    ["analysis", "adversarial"],
    ["interfaces", "hardening", "export"],
    ["evaluation"],
    ["dataset"],
    ["jobs"],
    ["serving"],
    ["cli"],
]
ENGINE = [
    ["kernels"],
    ["trail"],
    ["calls"],
    ["rules"],
    ["program"],
    ["capture", "cuda", "linear_regions"],
    ["symbolic"],
]
ATTRIBUTION = [
    ["exactness", "spreading", "targets", "uses"],
    ["depths", "output_space"],
    ["placement"],
    ["attribution", "meaning_archive", "placement_archive", "run"],
    ["archive", "assemble", "change_space"],
    ["later", "multi_input"],
]
PROOF = [["modular", "rational"], ["rounding"], ["region", "evidence"], ["certificate"]]
STOREYS = {
    "guidxmage": HOUSE,
    "guidxmage.engine": ENGINE,
    "guidxmage.attribution": ATTRIBUTION,
    "guidxmage.proof": PROOF,
}


def _name(path: Path) -> str:
    parts = [ROOT.name, *path.with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in FILES}


def _packages(module: str) -> set[str]:
    """The packages that a module lies in, and itself where it is one."""
    parts = module.split(".")
    return {".".join(parts[:n]) for n in range(1, len(parts) + 1)} - {module}


def _imports(module: str) -> set[str]:
    """All that a module imports: at its top, in functions and for type checkers alone.

    The packages of what is imported run, too; but for those that the module lies in itself.
    """
    found: set[str] = set()
    tree = ast.parse((ROOT / MODULES[module]).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports relatively"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else str(node.module) for name in inside}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    own = {name for name in found if name in MODULES}
    every = own.union(*map(_packages, own)) if own else own
    return every - _packages(module) - {"guidxmage", module} | (own & _packages(module))


GRAPH = {module: _imports(module) for module in MODULES}


def test_there_is_no_circle() -> None:
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_a_circle_would_be_seen() -> None:
    """Also where it is closed by an import in a function, or by a package's face."""
    assert "guidxmage.models" in GRAPH["guidxmage.explainer"], "imported in a function"
    assert "guidxmage.proof.certificate" in GRAPH["guidxmage.explanation"], "for type checkers"
    assert "guidxmage.engine.rules" in GRAPH["guidxmage.engine.program.program"], "a face"
    back = {**GRAPH, "guidxmage.errors": {"guidxmage.explainer"}}
    with pytest.raises(CycleError):
        TopologicalSorter(back).prepare()


@pytest.mark.parametrize("package", STOREYS)
def test_lower_floors_do_not_know_of_higher_ones(package: str) -> None:
    floor = {name: number for number, floor in enumerate(STOREYS[package]) for name in floor}
    depth = package.count(".") + 1

    def room(module: str) -> str:
        return module.split(".")[depth]

    for module in MODULES:
        if not module.startswith(f"{package}."):
            continue
        assert room(module) in floor, f"{module} stands on no floor"
        for other in GRAPH[module]:
            if other.startswith(f"{package}.") and room(other) != room(module):
                assert floor[room(other)] < floor[room(module)], f"{module} imports {other}"


def test_nobody_imports_the_face() -> None:
    """`guidxmage` itself has the public names; inside everything is imported where it lives."""
    assert all("guidxmage" not in imported for imported in GRAPH.values())


def test_the_root_holds_packages_and_the_public_doors() -> None:
    loose = {path.stem for path in FILES if len(path.parts) == 1}
    assert loose == {"__init__", "errors", "explainer", "explanation"}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_modules_are_short(path: Path) -> None:
    assert len((ROOT / path).read_text(encoding="utf-8").splitlines()) <= 400


def test_functions_can_be_seen_whole() -> None:
    """At most 60 lines; the commands' lists of options may be longer."""
    for path in FILES:
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
