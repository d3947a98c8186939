"""What may look on while a program is pulled: it reads cotangents and leaves them as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from guidxmage.engine.calls.call import Call
from guidxmage.engine.calls.constants import Constant
from guidxmage.engine.program.bias import Rounding, by_row, position_map
from guidxmage.engine.trail.trail import Trail


class Watching(Protocol):
    """One pull of R rows that is looked on."""

    def reached(self, id_: int, waiting: Mapping[int, Tensor], rounding: Rounding) -> None:
        """All behind value `id_` is done, 0 is the image; waiting: cotangents that go on."""

    def constants(self, call: Call, g: Tensor, constants: list[Constant]) -> None:
        """A call adds these constants, and the cotangent of its output is g (R, …)."""

    def found(self) -> dict[str, Tensor]:
        """What was made of it, (R, …) each, by name."""


class Watch(Protocol):
    """What looks on: one for all pulls of some images."""

    def of(self, trail: Trail, rows: int) -> Watching:
        """For one pull of that many rows along a trail."""

    def image(self, number: int) -> Watch:
        """For one of the images alone."""


class PositionMaps:
    """What each call site's constants add at each position: site → (R, *positions)."""

    def __init__(self, rows: int = 0) -> None:
        self._rows = rows
        self._maps: dict[str, Tensor] = {}

    def of(self, trail: Trail, rows: int) -> PositionMaps:  # noqa: ARG002
        """For one pull."""
        return PositionMaps(rows)

    def image(self, number: int) -> PositionMaps:  # noqa: ARG002
        """The same: it depends on no image."""
        return self

    def reached(self, id_: int, waiting: Mapping[int, Tensor], rounding: Rounding) -> None:
        """Nothing is looked at between calls."""

    def constants(self, call: Call, g: Tensor, constants: list[Constant]) -> None:  # noqa: ARG002
        """Map what a call adds, summed over channels."""
        for constant in reversed(constants):
            whole = by_row(g, constant.weighed, self._rows)
            self._maps[constant.site] = position_map(*whole)

    def found(self) -> dict[str, Tensor]:
        """The maps in order of execution."""
        return dict(reversed(self._maps.items()))
