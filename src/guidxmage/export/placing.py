"""The whole score on the picture, in a graph: a depth that is fixed when it is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from guidxmage.attribution.depths import Depth, ProgramCut, chosen, unfolded
from guidxmage.attribution.placement import Found, Placed, Placing
from guidxmage.attribution.spreading import Layout
from guidxmage.engine.calls.constants import Constant
from guidxmage.engine.program.places import Cut, live_behind
from guidxmage.engine.program.plain import Forward
from guidxmage.engine.program.program import Program
from guidxmage.errors import InputError


@dataclass(frozen=True)
class GraphCut:
    """Where a graph's network is cut, in its own calls, of which none is folded."""

    one: ProgramCut

    @classmethod
    def of(cls, program: Program, depth: Any) -> GraphCut:
        """depth: as in `Explainer.explain`, but a single one. Raises InputError."""
        found = chosen(program, depth)
        if len(found) != 1:
            raise InputError(f"a graph has one depth, not {len(found)}; name one of them")
        own, cut = unfolded(program), found[0].cut
        live = cut.live
        if cut.after != 0:
            number = next(n for n, call in enumerate(own.calls) if call.id == cut.after)
            live = live_behind(own.calls, own.result)[number]
        return cls(ProgramCut(found[0].depth, Cut(cut.site, cut.after, live), own))

    @property
    def depth(self) -> Depth:
        """The depth in words and numbers."""
        return self.one.depth

    @property
    def kept(self) -> tuple[int, ...]:
        """The values that are needed on the way back, by call."""
        return self.one.cut.live

    def watching(self, run: Forward, rows: int, repeats: int) -> PlainPlaced:
        """What looks on at one pull of so many rows, `repeats` targets of each image."""
        return PlainPlaced(Placing((self.one,), run.values), self.one.program, rows, repeats)


class PlainPlaced(Placed):
    """`Placed` for any number of images at once."""

    def __init__(self, given: Placing, program: Program, rows: int, repeats: int) -> None:
        super().__init__(given, program, rows)
        self._repeats = repeats

    def products(self, g: Tensor, value: Tensor, of: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Of all rows of g (R, …) and their images' values, (B, …), together."""
        return of(g, value.repeat(self._repeats, *[1] * (value.ndim - 1)))

    def _at_positions(self, layout: Layout, g: Tensor, constant: Constant) -> Tensor:
        """Products of matrices, not of channels laid last: other runtimes are faster at these."""
        vector = constant.channels
        planes = tuple(range(2, g.ndim))
        fits = layout.axes == planes != () and g.shape[0] == self._rows
        if not fits or vector is None or vector.shape[0] != g.shape[1]:
            return super()._at_positions(layout, g, constant)
        sums = vector.to(g.dtype)[None] @ g.flatten(2)
        return sums.reshape(g.shape[0], *g.shape[2:]).double()

    def read(self, depth: Depth, images: int) -> Found:
        """What was found, (B, K, …)."""
        split = {
            name: value.unflatten(0, (self._repeats, images)).transpose(0, 1)
            for name, value in self.found().items()
        }
        return Found.of(depth, "0.", split)
