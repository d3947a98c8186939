"""The attacks of other libraries, with the settings they are compared in.

Each takes (network, images in [0, 1], labels) and returns the perturbed images.
"""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from math import inf
from typing import Any

import torch
from measured import Attack
from torch import Tensor, nn

from guidxmage.models.torchvision_import import import_torchvision

NORMS = ("l2", "linf", "l1", "l0")
LIBRARIES = {"foolbox": "foolbox", "adv-lib": "adv_lib"}


@dataclass(frozen=True)
class Competitor:
    """An attack of a library, by the name it has in the table."""

    library: str
    name: str
    norm: str
    run: Attack
    # Its first call compiles; this is kept out of the times.
    warm_up: bool = False


def competitors(norm: str, large: bool) -> tuple[list[Competitor], list[str]]:
    """What is compared for a norm, and why libraries are left out. `large`: fewer steps."""
    found: list[Competitor] = []
    missing = []
    for library, build in (("foolbox", _foolbox), ("adv-lib", _adv_lib)):
        try:
            attacks = build(norm, large)
        except ImportError as error:
            missing.append(f"{library}: {error}")
            continue
        found += [
            Competitor(library, name, norm, run, name.startswith("Brendel"))
            for name, run in attacks.items()
        ]
    if not any(one.warm_up for one in found) and not large and _importable("numba") is None:
        missing.append("foolbox's Brendel-Bethge attacks: numba is not installed")
    return found, missing


def versions() -> dict[str, str]:
    """Of the libraries that are installed."""
    stated = {}
    for name in ("foolbox", "adv-lib", "numba"):
        try:
            stated[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return stated


def _importable(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError:
        return None


# --- foolbox -------------------------------------------------------------------------------------


def _foolbox(norm: str, large: bool) -> dict[str, Attack]:
    from foolbox import attacks

    made: dict[str, Any] = {}
    rounds, each, constant = (3, 50, 1.0) if large else (9, 1000, 1e-3)
    searched = {"binary_search_steps": rounds, "steps": each, "initial_const": constant}
    if norm == "l2":
        made["DeepFool"] = partial(attacks.L2DeepFoolAttack, steps=50)
        made["DDN 100"] = partial(attacks.DDNAttack, steps=100)
        if not large:
            made["DDN 1000"] = partial(attacks.DDNAttack, steps=1000)
        made[f"C&W {rounds}×{each}"] = partial(attacks.L2CarliniWagnerAttack, **searched)
    if norm == "linf":
        made["DeepFool"] = partial(attacks.LinfDeepFoolAttack, steps=50)
    if norm == "l1":
        made[f"EAD {rounds}×{each}"] = partial(attacks.EADAttack, decision_rule="L1", **searched)
    if not large:
        names = {"l2": "L2", "linf": "LInf", "l1": "L1", "l0": "L0"}
        made["FMN 1000"] = partial(getattr(attacks, f"{names[norm]}FMNAttack"), steps=1000)
        if _importable("numba") is not None:
            name = {**names, "linf": "Linfinity"}[norm]
            make = getattr(attacks, f"{name}BrendelBethgeAttack")
            start = attacks.DDNAttack(steps=100)
            made["Brendel-Bethge 300"] = partial(make, init_attack=start, steps=300)
    return {name: partial(_run_foolbox, make) for name, make in made.items()}


def _run_foolbox(make: Callable[[], Any], network: nn.Module, X: Tensor, labels: Tensor) -> Tensor:
    import foolbox

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = foolbox.PyTorchModel(network, bounds=(0, 1), device=X.device)
        criterion = foolbox.criteria.Misclassification(labels)
        samples: Tensor = make()(model, X, criterion, epsilons=None)[1]
    return samples


# --- adv-lib -------------------------------------------------------------------------------------


def _adv_lib(norm: str, large: bool) -> dict[str, Attack]:
    library = _import_adv_lib()
    p = {"l2": 2, "linf": inf, "l1": 1, "l0": 0}[norm]
    steps = 100 if large else 1000
    made: dict[str, Callable[..., Tensor]] = {
        f"FMN {steps} from DDN 100": partial(_fmn_from_ddn, library, norm=p, steps=steps)
    }
    if norm == "l0":
        made[f"σ-zero {steps}"] = partial(library.sigma_zero, num_steps=steps)
    if not large:
        made.update(_long(library, norm, p))
    elif norm == "l2":
        # Its DeepFool takes the gradient of every class, 1000 here.
        made["SuperDeepFool, 10 classes"] = partial(_ten_classes, library.sdf)
    return {name: partial(_run_adv_lib, attack) for name, attack in made.items()}


def _long(library: Any, norm: str, p: float) -> dict[str, Callable[..., Tensor]]:
    """What is run on the small networks alone."""
    made: dict[str, Callable[..., Tensor]] = {"FMN 1000": partial(library.fmn, norm=p, steps=1000)}
    if norm in ("l2", "linf"):
        made["DeepFool"] = partial(library.df, norm=p)
        made["trust region 1000"] = partial(library.tr, p=p, adaptive=True, iter=1000)
    if norm in ("l2", "l1"):
        made["ALMA 1000"] = partial(library.alma, num_steps=1000, distance=norm)
    if norm == "l2":
        made["SuperDeepFool"] = library.sdf
        made["DDN 1000"] = partial(library.ddn, steps=1000, levels=None)
        made["PDGD 1000"] = partial(library.pdgd, num_steps=1000)
        made["C&W 9×1000"] = partial(library.carlini_wagner_l2, max_iterations=1000)
    else:
        made["PDPGD 1000"] = partial(library.pdpgd, norm=p, num_steps=1000)
    if norm == "l0":
        made["VFGA"] = partial(library.vfga, targeted=False)
    else:
        fab = partial(library.fab, norm=p, n_iter=100)
        made["FAB 100"] = fab
        made["FAB targeted 9×100"] = partial(fab, targeted_restarts=True)
    return made


def _fmn_from_ddn(
    library: Any, network: nn.Module, X: Tensor, labels: Tensor, *, norm: float, steps: int
) -> Tensor:
    """FMN from adversarial images; without them it may find none."""
    start = library.ddn(network, X, labels, steps=100, levels=None)
    samples: Tensor = library.fmn(network, X, labels, norm=norm, steps=steps, starting_points=start)
    return samples


def _run_adv_lib(attack: Any, network: nn.Module, X: Tensor, labels: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        samples: Tensor = attack(network, X, labels)
    return samples


def _import_adv_lib() -> Any:
    """adv_lib.attacks; visdom, which it uses for plots alone, need not be there."""
    if _importable("visdom") is None:
        stand_in = types.ModuleType("visdom")
        stand_in.Visdom = object  # type: ignore[attr-defined]
        sys.modules["visdom"] = stand_in
    import_torchvision()
    import adv_lib.attacks

    return adv_lib.attacks


class _Selected(nn.Module):
    """A network's scores of some classes."""

    def __init__(self, network: nn.Module, classes: Tensor) -> None:
        super().__init__()
        self.network, self.classes = network, classes

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)[:, self.classes]
        return logits


def _ten_classes(attack: Any, network: nn.Module, X: Tensor, labels: Tensor) -> Tensor:
    """An attack on each image with the ten classes alone that it scores highest, its own first."""
    samples = []
    for x in X.split(1):
        with torch.no_grad():
            classes = network(x)[0].topk(10).indices
        own = torch.zeros(1, dtype=labels.dtype, device=labels.device)
        samples.append(attack(_Selected(network, classes), x, own).detach())
    return torch.cat(samples)
