"""What an evaluation measures, and how much of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from guidxmage.errors import InputError
from guidxmage.evaluation.measures import MEASURES, Measure, choose_measures
from guidxmage.evaluation.methods import METHODS, Method, check_installed, choose_methods

QUICK_METHODS = ("guid-xmage", "grad-cam", "grad-cam++", "input-x-gradient", "random", "edges")
QUICK_MEASURES = ("directional", "completeness", "complexity", "localisation", "objects")
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Settings:
    """All that the figures depend on besides networks and photos.

    methods, measures: names. views: of each photo, the photo itself and crops of it. all_views:
    the methods that are given all of them, by default every one; the others see the photos
    themselves. deep: photos on which the costly measures are taken; costs: photos on which seconds
    and memory are measured. seed: of the crops, of random regions and maps, and of the bootstrap.
    dtype: in which methods compute their maps; claims are always tested in float64. pixels: a
    method is given no more views of a network than it can handle with so many pixels run through
    the network, but one at least. target: "top1" explains the class that the network chooses,
    "label" the photo's own.
    """

    methods: tuple[str, ...] = QUICK_METHODS
    measures: tuple[str, ...] = QUICK_MEASURES
    views: int = 1
    all_views: tuple[str, ...] = ()
    seed: int = 0
    dtype: str = "float32"
    pixels: int = 400_000_000
    deep: int = 10
    costs: int = 3
    target: str = "top1"

    def __post_init__(self) -> None:
        choose_methods((*self.methods, *self.all_views))
        for name in self.measures:
            if name not in MEASURES:
                choose_measures([name])
        if self.views < 1 or min(self.deep, self.costs) < 0 or self.pixels < 1 or self.seed < 0:
            raise InputError("views and pixels are at least 1, the other numbers at least 0")
        if self.dtype not in DTYPES:
            raise InputError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        if self.target not in ("top1", "label"):
            raise InputError(f"target {self.target!r} is neither top1 nor label")
        if not self.methods or not self.measures:
            raise InputError("an evaluation needs at least one method and one measure")

    @property
    def everywhere(self) -> tuple[str, ...]:
        """The methods that are given every view."""
        return self.all_views or self.methods

    def covers(self, record: Mapping[str, Any]) -> bool:
        """Whether a record's method and view are among those that are asked for."""
        method, view = record["method"], record["view"]
        seen = not view or (view < self.views and method in self.everywhere)
        return method in self.methods and seen

    def chosen_methods(self) -> list[Method]:
        """The methods. Raises MissingExtraError where a library is not installed."""
        methods = choose_methods(self.methods)
        check_installed(methods)
        return methods

    def chosen_measures(self) -> list[Measure]:
        """The measures. Raises MissingExtraError where a library is not installed."""
        return choose_measures(self.measures)

    def fixed(self) -> dict[str, Any]:
        """What has to be the same for records to stand side by side: all but their number."""
        growing = {"methods", "all_views", "views"}
        return {name: value for name, value in asdict(self).items() if name not in growing}


def all_methods() -> tuple[str, ...]:
    """Every method's name."""
    return tuple(METHODS)


def all_measures() -> tuple[str, ...]:
    """Every measure's name."""
    return tuple(MEASURES)


def checked_names(
    given: str, known: Sequence[str], what: str, quick: Sequence[str] = ()
) -> tuple[str, ...]:
    """Names from a list with commas, "all" for all of them, "quick" for some. Raises InputError."""
    if given == "quick":
        return tuple(quick)
    if given == "all":
        return tuple(known)
    names = tuple(name.strip() for name in given.split(",") if name.strip())
    for name in names:
        if name not in known:
            raise InputError(f"there is no {what} {name!r}; choose from {', '.join(known)}")
    return names
