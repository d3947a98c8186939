"""What an evaluation measures, and how much of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import torch

from guidxmage.errors import SettingError
from guidxmage.evaluation.measures import MEASURES, Measure, choose_measures
from guidxmage.evaluation.methods import METHODS, Method, check_installed, choose_methods
from guidxmage.files.schema import (
    CountOrNone,
    Seed,
    check,
    known_names,
    some_of,
    whole,
)

QUICK_METHODS = ("guid-xmage", "grad-cam", "grad-cam++", "input-x-gradient", "random", "edges")
QUICK_MEASURES = ("directional", "completeness", "complexity", "localisation", "objects")
DTYPES = {"float32": torch.float32, "float64": torch.float64}
Methods = Annotated[tuple[str, ...], some_of(METHODS), known_names(METHODS, "method")]
MethodsOrNone = Annotated[tuple[str, ...], some_of(METHODS, 0), known_names(METHODS, "method")]
Measures = Annotated[tuple[str, ...], some_of(MEASURES), known_names(MEASURES, "measure")]


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

    methods: Methods = QUICK_METHODS
    measures: Measures = QUICK_MEASURES
    views: Annotated[int, whole(1, 10_000)] = 1
    all_views: MethodsOrNone = ()
    seed: Seed = 0
    dtype: Literal["float32", "float64"] = "float32"
    pixels: Annotated[int, whole(1, 10**15)] = 400_000_000
    deep: CountOrNone = 10
    costs: CountOrNone = 3
    target: Literal["top1", "label"] = "top1"

    def __post_init__(self) -> None:
        check(self)
        for name in self.all_views:
            if name not in self.methods:
                words = f"holds {name!r}, which is not among the methods; add it to them"
                raise SettingError("all_views", words)

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


def names_from(given: str, known: Sequence[str], quick: Sequence[str] = ()) -> tuple[str, ...]:
    """Names from a list with commas; "all" for all known ones, "quick" for some."""
    if given == "quick" and quick:
        return tuple(quick)
    if given == "all":
        return tuple(known)
    return tuple(name.strip() for name in given.split(",")) if given.strip() else ()
