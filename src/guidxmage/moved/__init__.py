"""Where modules lay in version 0.1.0: their old names are found for one more release."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_OWN = "guidxmage."
# Old name → new name, both within `guidxmage`. "engine.trail", "files", "inputs" and "objects" are
# packages now and answer for their old selves with `names_of`.
MODULES = {
    "adversarial.exact": "adversarial.certified.certify",
    "adversarial.foolbox_attack": "interfaces.foolbox",
    "adversarial.photos": "jobs.attack_photos",
    "adversarial.result": "adversarial.heuristic.result",
    "annotations": "objects.annotations",
    "archive": "attribution.archive",
    "assembly": "attribution.assemble",
    "batch": "jobs.explain_photos",
    "coverage": "evaluation.coverage",
    "drawing": "jobs.drawing",
    "engine.decisions": "engine.trail.decisions",
    "engine.gates": "engine.trail.gates",
    "engine.trail": "engine.trail.trail",
    "evaluation.figures": "evaluation.report.figures",
    "evaluation.photos": "evaluation.data.photos",
    "exactness": "attribution.exactness",
    "files": "files.atomic",
    "fingerprint": "provenance.fingerprint",
    "hardening.cifar": "hardening.data.cifar10",
    "hardening.folders": "hardening.data.image_folder",
    "hardening.garments": "hardening.data.garments",
    "hardening.suppression": "hardening.samples.suppression",
    "images": "inputs.photos",
    "inputs": "inputs.input_space",
    "integrated": "analysis.integrated_gradients",
    "joint": "explanation",
    "locks": "files.locks",
    "names": "files.names",
    "objects": "objects.table",
    "photo_results": "jobs.photo_results",
    "preprocessing": "inputs.preprocessing",
    "proof.radius": "proof.region.radius",
    "proof.reach": "proof.region.reach",
    "proof.smt": "proof.rational.smt",
    "proof.statements": "proof.evidence.statements",
    "proof.vnnlib": "proof.rational.vnnlib",
    "ray": "analysis.ray",
    "regions": "objects.label_map",
    "result_folder": "files.result_folder",
    "segmentation": "objects.segmentation",
    "source_code": "provenance.source_code",
    "spaces": "attribution.change_space",
    "targets": "attribution.targets",
    "trails": "analysis.trail_comparison",
    "untrusted": "files.untrusted",
    "versions": "provenance.versions",
    "wrapped": "inputs.multi_input",
}

# What also has another name there.
RENAMED = {"regions": {"Regions": "LabelMap"}}


class _Finder(MetaPathFinder, Loader):
    """Finds moved modules; the last of Python's finders, so asked for what is nowhere else."""

    def find_spec(self, fullname: str, *_: Any) -> ModuleSpec | None:
        """The spec of a moved module, None for any other."""
        moved = fullname.startswith(_OWN) and fullname.removeprefix(_OWN) in MODULES
        return ModuleSpec(fullname, self) if moved else None

    def exec_module(self, module: ModuleType) -> None:
        """Fill a module with the names of the one at its new place."""
        new = _new_place(module.__name__)
        _warn(module.__name__, new.__name__)
        own = {name: value for name, value in vars(new).items() if not name.startswith("__")}
        renamed = RENAMED.get(module.__name__.removeprefix(_OWN), {})
        vars(module).update(own, **{old: own[name] for old, name in renamed.items()})


def find_moved_modules() -> None:
    """Make `import` find modules by their old names."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def names_of(package: str) -> Callable[[str], Any]:
    """The `__getattr__` of a package that was a module: its names of then."""

    def find(name: str) -> Any:
        if not name.startswith("__"):
            new = _new_place(package)
            if name in vars(new):
                _warn(f"{package}.{name}", f"{new.__name__}.{name}")
                return vars(new)[name]
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find


def moved_function(old: str, new: str) -> Callable[..., Any]:
    """The function that does what a method did; for the body of that method."""
    _warn(old, new, stacklevel=4)
    module, _, name = new.rpartition(".")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


def _new_place(old: str) -> ModuleType:
    return import_module(_OWN + MODULES[old.removeprefix(_OWN)])


def _warn(old: str, new: str, stacklevel: int = 3) -> None:
    warnings.warn(
        f"{old} has moved to {new}; the old name goes with the next release",
        DeprecationWarning,
        stacklevel=stacklevel,
    )
