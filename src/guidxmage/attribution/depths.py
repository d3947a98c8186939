"""Where a network can be cut, and which cut is meant by a name or a stride."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from math import prod
from typing import Any

import numpy as np
from torch import Tensor

from guidxmage.attribution.spreading import Layout
from guidxmage.engine.calls.call import Call
from guidxmage.engine.program.places import (
    INPUT,
    SPOKEN_FOR,
    Cut,
    faithful,
    live_behind,
    places_of,
    plain_cuts,
    site_name,
)
from guidxmage.engine.program.program import Program
from guidxmage.engine.rules import is_stepwise
from guidxmage.errors import InputError

# The default depth has about this stride, in pixels: see docs/depths.md.
_STRIDE = 16
# Below it a cut has no more to say than the image itself.
_SMALLEST_STRIDE = 4
# What a map is drawn with has as many cells along the shortest side, at most.
_CELLS = 14
# No stride is as large.
_LARGEST = 1e9
# Strides of maps that are not a whole part of the picture: 224 pixels in 13 cells.
_CLOSE = 1.25
# A block that widens its input so many times does so in its first few calls.
_WIDER, _LOOK_BACK = 4, 4


@dataclass(frozen=True)
class Depth:
    """A place at which a network can be cut.

    site: the call site whose value is the last before the cut, "input" for the image. grid: how
    many cells the picture has there in each direction, (H, W) for a photo; stride: pixels from cell
    to cell, the geometric mean over the directions. sigma: of the Gaussian that a map of this depth
    is drawn through, in pixels: the stride, and at least a fourteenth of the shortest side, since
    what cancels within less says nothing.
    """

    site: str
    grid: tuple[int, ...]
    stride: float
    sigma: float

    def __str__(self) -> str:
        return f"{self.site}: {'×'.join(map(str, self.grid))} cells, stride {self.stride:g}"


@dataclass(frozen=True)
class ProgramCut:
    """A depth in a program: what is live there. program: that in which it can be cut."""

    depth: Depth
    cut: Cut
    program: Program


def depths_of(program: Program) -> list[Depth]:
    """The depths at which one value of the network lies on the picture, from the image on."""
    return [found.depth for found in _plain(program)]


def _plain(program: Program) -> list[ProgramCut]:
    def make() -> list[tuple[Depth, Cut]]:
        return [(_depth(program, cut), cut) for cut in plain_cuts(program)]

    found: list[tuple[Depth, Cut]] = program.once("depths", make)
    return [ProgramCut(depth, cut, program) for depth, cut in found]


def _depth(program: Program, cut: Cut) -> Depth:
    """Of the coarsest value that is live there and lies on the picture."""
    picture = program.input_shape[1:]
    grids = [_grid(program, id_) for id_ in cut.live]
    grid = min((one for one in grids if one is not None), key=prod, default=None)
    if grid is None:
        raise InputError(
            f"behind '{cut.site}' nothing lies on the picture any more; depths() lists where the "
            "network can be cut"
        )
    stride = (prod(picture) / prod(grid)) ** (1 / len(picture))
    sigma = max(stride, min(n for n in picture if n > 1 or max(picture) == 1) / _CELLS)
    return Depth(cut.site, grid, round(stride, 4), round(sigma, 4))


def _grid(program: Program, id_: int) -> tuple[int, ...] | None:
    layout = Layout.of(places_of(program)[id_], program.input_shape[1:])
    return None if layout is None else layout.grid


def chosen(program: Program, depth: Any) -> list[ProgramCut]:
    """The cuts that a user means: a depth, or a list of them. Raises InputError."""
    if len(program.input_shape) < 2:
        raise InputError("only images can be cut at a depth; this network's input has no positions")
    if not _plain(program):
        raise InputError("an image of a single pixel has no places on which a score could lie")
    wanted = list(depth) if isinstance(depth, list | tuple) else [depth]
    if not wanted:
        raise InputError("the list of depths is empty; name at least one")
    found: list[ProgramCut] = []
    for one in wanted:
        cuts = (
            every_stride(program) if isinstance(one, str) and one == "all" else [_one(program, one)]
        )
        found += [cut for cut in cuts if cut.depth not in [known.depth for known in found]]
    return found


def _one(program: Program, depth: Any) -> ProgramCut:
    if isinstance(depth, Depth):
        return _at_site(program, depth.site)
    if isinstance(depth, str):
        return default_cut(program) if depth == "default" else _named(program, depth)
    stride = _number(depth)
    if stride is not None:
        return _of_stride(program, stride)
    raise InputError(
        f"depth {depth!r} is not understood; give 'input', a layer's name, a stride such as 16, "
        "'default', 'all', or a list of them"
    )


def _number(depth: Any) -> float | None:
    """A stride, also one of NumPy's or a tensor's; None for what is no number."""
    if isinstance(depth, Tensor | np.generic) and depth.ndim == 0:
        depth = depth.item()
    if not isinstance(depth, int | float) or isinstance(depth, bool):
        return None
    return math.inf if abs(depth) >= _LARGEST else float(depth)


def default_cut(program: Program) -> ProgramCut:
    """The last cut of about stride 16; the input of networks for small pictures."""
    near = [one for one in every_stride(program) if one.depth.stride <= _STRIDE * _CLOSE]
    return near[-1] if near[-1].depth.stride >= _SMALLEST_STRIDE else near[0]


def every_stride(program: Program) -> list[ProgramCut]:
    """The input, and for each grid the cut behind the last block."""
    cuts = _plain(program)
    grids = dict.fromkeys(one.depth.grid for one in cuts if one.cut.after != 0)
    found = [one for one in cuts if one.cut.after == 0]
    for grid in grids:
        own = [one for one in cuts if one.depth.grid == grid and one.cut.after != 0]
        own = [one for one in own if _is_complete(program, one)] or own
        found.append(own[-1] if own[-1] is cuts[-1] else _before_widening(program, own))
    return found


def _is_complete(program: Program, one: ProgramCut) -> bool:
    """Whether every number there has a place; a transformer's class token has none."""
    layout = Layout.of(places_of(program)[one.cut.after], program.input_shape[1:])
    return layout is not None and layout.placeless is None


def _before_widening(program: Program, cuts: Sequence[ProgramCut]) -> ProgramCut:
    """The last cut; but the output of a block, where the next one has begun to widen it.

    In networks of inverted residuals the last map of a grid belongs to the block of the next.
    """
    shapes = program.shapes(1)
    numbers = [prod(shapes[one.cut.after]) for one in cuts[-_LOOK_BACK:]]
    narrow = [n for n, count in enumerate(numbers) if count * _WIDER <= numbers[-1]]
    return cuts[-_LOOK_BACK:][narrow[-1]] if narrow else cuts[-1]


def _of_stride(program: Program, stride: float) -> ProgramCut:
    cuts = every_stride(program)
    fitting = [one for one in cuts if stride / _CLOSE < one.depth.stride < stride * _CLOSE]
    if stride == 1 and fitting:
        return fitting[0]
    if not fitting:
        strides = ", ".join(f"{s:g}" for s in sorted({d.stride for d in depths_of(program)}))
        raise InputError(f"this network has no cut of stride {stride:g}; it has {strides}")
    closest = min(abs(one.depth.stride - stride) for one in fitting)
    return [one for one in fitting if abs(one.depth.stride - stride) == closest][-1]


def _named(program: Program, name: str) -> ProgramCut:
    """Behind the last call of a layer, or of the layers within it.

    A name that a call has itself means that call, and those of the same layer that follow at once.
    """
    if name == INPUT or "#" in name or name in SPOKEN_FOR.values():
        return _at_site(program, name)
    calls = _with_values(program)
    own = [call for call in calls if _within(call.site, name)]
    if not own:
        raise _unknown(program, name)
    first = next((n for n, call in enumerate(calls) if call.site == name), None)
    if first is not None:
        own = list(takewhile(lambda call: _within(call.site, name), calls[first:]))
    return _behind(program, own[-1].id)


def _at_site(program: Program, site: str) -> ProgramCut:
    """Behind the call of exactly that site."""
    listed = [one for one in _plain(program) if one.depth.site == site]
    if listed:
        return listed[-1]
    own = [call for call in _with_values(program) if site_name(call.site) == site]
    if not own:
        raise _unknown(program, site)
    return _behind(program, own[-1].id)


def _with_values(program: Program) -> list[Call]:
    """The calls that compute numbers from the image; positions and masks are no activations."""
    return [call for call in program.calls if call.reads and not is_stepwise(call)]


def _unknown(program: Program, name: str) -> InputError:
    sites = [call.site for call in program.calls]
    close = difflib.get_close_matches(name, _with_parents(sites), n=3)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return InputError(
        f"no operator of the network belongs to a layer called {name!r}; {hint}depths() lists "
        "where it can be cut"
    )


def _within(site: str, name: str) -> bool:
    return site == name or site.startswith((f"{name}.", f"{name}#"))


def _with_parents(sites: Sequence[str]) -> list[str]:
    parts = {".".join(site.split(".")[:n]) for site in sites for n in range(1, 9)}
    return sorted(parts)


def _behind(program: Program, id_: int) -> ProgramCut:
    """The cut behind a value: in the program as it is pulled, where the value is known there."""
    own = program if id_ in faithful(program) else unfolded(program)
    calls = own.symbolic_calls
    number = next(n for n, call in enumerate(calls) if call.id == id_)
    live = live_behind(calls, own.result)[number]
    if own is program and not faithful(program).issuperset(live):
        return _behind(unfolded(program), id_)
    site = site_name(next(call.site for call in program.calls if call.id == id_))
    cut = Cut(site, id_, live)
    return ProgramCut(_depth(own, cut), cut, own)


def unfolded(program: Program) -> Program:
    """The program pulled through the user's own calls, of which every value is known."""
    if program.symbolic_calls is program.calls:
        return program
    made: Program = program.once("unfolded", lambda: replace(program, symbolic_calls=program.calls))
    return made
