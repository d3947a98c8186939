"""The kinds of outputs: class scores, numbers with units, dense classes, boxes, embeddings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import isabstract
from math import inf, isnan
from typing import Literal

import numpy as np
from torch import nn

from guidxmage.errors import InputError
from guidxmage.outputs.boxes import FORMATS, Format
from guidxmage.outputs.reading import Pick, Reading


class Output(ABC):
    """What is read of what a network gives out."""

    @property
    @abstractmethod
    def picks(self) -> tuple[Pick, ...]:
        """One for each tensor that is explained."""

    def around(self, model: nn.Module) -> Reading:
        """The network with these outputs alone, end to end."""
        return Reading(model, self.picks)


@dataclass(frozen=True)
class OneTensor(Output):
    """A single tensor of what a network gives out.

    pick: a key or attribute, an index, a function of the network's output, or None for the output
    itself.
    """

    pick: Pick = None

    @property
    def picks(self) -> tuple[Pick, ...]:
        """The one."""
        return (self.pick,)


@dataclass(frozen=True)
class Scores(OneTensor):
    """Class scores (B, classes), or (B,) of a single one.

    multi_label: whether each score stands for itself, so that no class has a probability among all.
    """

    multi_label: bool = False


@dataclass(frozen=True)
class Regression(OneTensor):
    """Numbers (B, n), or (B,), each with a name and a unit.

    names: one for each number; units: one for each, or one for all. Raises InputError where these
    do not fit together.
    """

    names: Sequence[str] = ()
    units: Sequence[str] | str = ""

    def __post_init__(self) -> None:
        names = (self.names,) if isinstance(self.names, str) else self.names
        object.__setattr__(self, "names", _texts(names, "names"))
        if isinstance(self.units, str):
            return
        object.__setattr__(self, "units", _texts(self.units, "units"))
        if len(self.units) != len(self.names):
            raise InputError(f"{len(self.units)} units were given for {len(self.names)} names")

    def unit(self, number: int) -> str:
        """The unit of one of the numbers."""
        if isinstance(self.units, str):
            return self.units
        return self.units[number] if number < len(self.units) else ""


@dataclass(frozen=True)
class Segmentation(OneTensor):
    """A score of each class at each place, (B, classes, h, w), which may be coarser than the image.

    With a single class its score is positive where it is there.
    """


@dataclass(frozen=True)
class Boxes(Output):
    """Boxes (B, N, 4) and their class scores (B, N, classes) before any of them is dropped.

    boxes, scores: which outputs they are, as `Pick`; a function of the output may also turn them
    into these shapes, and is explained along with the network. form: what the four numbers are;
    unit: "pixels" of the network's input, or "share" of its width and height. threshold: the score
    above which a box counts; overlap: intersection over union above which the worse of two boxes
    of a class is dropped, None for none (a set, as DETR gives it); most: how many are kept.
    background: a class that is no object, as −1 for the last.
    """

    boxes: Pick = "boxes"
    scores: Pick = "scores"
    form: Format = "xyxy"
    unit: Literal["pixels", "share"] = "pixels"
    threshold: float = 0.0
    overlap: float | None = 0.5
    most: int = 100
    background: int | None = None

    def __post_init__(self) -> None:
        if self.form not in FORMATS:
            raise InputError(f"form is {self.form!r}; choose one of {', '.join(FORMATS)}")
        if self.unit not in ("pixels", "share"):
            raise InputError(f'unit is {self.unit!r}; choose "pixels" or "share"')
        if not _number(self.threshold) or self.threshold == inf:
            raise InputError(f"threshold is {self.threshold!r}; give a score")
        if self.overlap is not None and not (_number(self.overlap) and 0 <= self.overlap <= 1):
            raise InputError(f"overlap is {self.overlap!r}; give a number from 0 to 1, or None")
        if not _whole(self.most) or self.most < 1:
            raise InputError(f"most is {self.most!r}; give a whole number, 1 or more")
        if self.background is not None and not _whole(self.background):
            raise InputError(f"background is {self.background!r}; give the number of a class")

    @property
    def picks(self) -> tuple[Pick, ...]:
        """The boxes and their scores."""
        return (self.boxes, self.scores)


@dataclass(frozen=True)
class Embedding(OneTensor):
    """A vector (B, n) that is compared with others."""


def _texts(given: object, what: str) -> tuple[str, ...]:
    if not isinstance(given, Sequence) or not all(isinstance(one, str) for one in given):
        raise InputError(f"{what} is {given!r}; give a list of texts")
    return tuple(given)


def _number(given: object) -> bool:
    whole = isinstance(given, int | float | np.number) and not isinstance(given, bool)
    return whole and not isnan(given)  # type: ignore[arg-type]


def _whole(given: object) -> bool:
    return isinstance(given, int | np.integer) and not isinstance(given, bool)


KINDS: dict[str, type[Output]] = {
    "scores": Scores,
    "regression": Regression,
    "segmentation": Segmentation,
    "boxes": Boxes,
    "embedding": Embedding,
}
"""By their names on the command line."""


def as_output(given: object) -> Output | None:
    """What `Explainer(output=…)` means; None for class scores as the network gives them.

    Raises InputError.
    """
    if given is None or isinstance(given, Output):
        return given
    if isinstance(given, str) and given in KINDS:
        return KINDS[given]()
    if isinstance(given, str | int) and not isinstance(given, bool):
        return Scores(given)
    if isinstance(given, type) and issubclass(given, Output) and not isabstract(given):
        return given()
    if callable(given) and given is not Output:
        return Scores(given)
    raise InputError(
        f"output is {given!r}; give a key, an index or a function of what the network returns, or "
        "one of guidxmage.outputs: Scores, Regression, Segmentation, Boxes, Embedding"
    )
