"""The whole score on the picture: a network cut at a depth, its score put where it comes from.

Cut behind a layer, the score is the sum of the activations there times their cotangents, and of the
constants behind it times theirs. Both lie at positions of feature maps, and so on the picture:

    score = Σ_positions ⟨g, a⟩ + Σ_sites behind the cut Σ_positions β + unplaced

Cut at the input it is A with all its bias placed, cut at the last feature map the signed class
activation map. β are the bias terms of FullGrad (Srinivas & Fleuret, 2019) without absolute values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from guidxmage.attribution.depths import Depth, ProgramCut
from guidxmage.attribution.exactness import ROUNDING_DEVIATIONS
from guidxmage.attribution.spreading import Layout
from guidxmage.engine.calls.call import Call
from guidxmage.engine.calls.constants import Constant
from guidxmage.engine.program.bias import Rounding, by_row, inner
from guidxmage.engine.program.places import INPUT, places_of
from guidxmage.engine.program.program import Program
from guidxmage.engine.symbolic import drop_axes, pull_targets
from guidxmage.engine.trail.trail import Trail
from guidxmage.errors import InputError
from guidxmage.view.reflecting import reflecting

# Of a Gaussian, in sides of the picture: a wider one gives the mean.
_EVEN = 4


class Activations:
    """The values of a recorded run at some cuts: shown to `Program.record` as `visit`."""

    def __init__(self, cuts: Sequence[ProgramCut], images: Tensor) -> None:
        self._wanted = frozenset(id_ for one in cuts for id_ in one.cut.live)
        self._rows = len(images)
        self.values = {0: images} if 0 in self._wanted else {}

    def __call__(self, call: Call, value: Tensor) -> None:
        """Keep the output of a call where it is wanted."""
        if call.id in self._wanted:  # what comes later may overwrite it
            self.values[call.id] = by_row(value, value.new_zeros(1), self._rows)[0].clone()


@dataclass(frozen=True)
class Placing:
    """Looks on while cotangents are pulled, and puts the score on the picture at every cut."""

    cuts: tuple[ProgramCut, ...]
    values: Mapping[int, Tensor]

    @property
    def program(self) -> Program:
        """The program in which all of the cuts are."""
        return self.cuts[0].program

    def of(self, trail: Trail, rows: int) -> Placed:
        """For one pull."""
        program = self.program
        own = program.bound(trail, 1) if program.kept else program
        return Placed(self, own, rows)

    def read(self, watched: Mapping[str, Tensor]) -> list[Found]:
        """What the pulls found, for each cut."""
        return [Found.of(one.depth, f"{n}.", watched) for n, one in enumerate(self.cuts)]

    def image(self, number: int) -> Placing:
        """For one of the images alone."""
        values = {id_: value[number : number + 1] for id_, value in self.values.items()}
        return Placing(self.cuts, values)


class Placed:
    """One pull of R rows: sums of what the constants add, by layout, and the maps at each cut."""

    def __init__(self, given: Placing, program: Program, rows: int) -> None:
        self._given, self._rows = given, rows
        self._layouts = _layouts(program)
        self._picture = program.input_shape[1:]
        self._sums: dict[object, tuple[Layout, Tensor]] = {}  # since the last cut
        self._map: Tensor | None = None  # of all constants behind the last cut
        self._unplaced: dict[str, Tensor] = {}
        self._found: dict[str, Tensor] = {}
        self._reached: dict[str, int] = {}  # cuts, and how many calls had rounded by then
        self._rounding: Rounding | None = None
        self._like: Tensor | None = None

    def constants(self, call: Call, g: Tensor, constants: list[Constant]) -> None:
        """What a call adds at each position of its output."""
        layout = self._layouts[call.id]
        for constant in constants:
            if layout is None:
                share = inner(*by_row(g, constant.weighed, self._rows))
                self._unplaced[constant.site] = self._unplaced.get(constant.site, 0) + share
            else:
                self._add(layout, constant.site, self._at_positions(layout, g, constant))

    def _at_positions(self, layout: Layout, g: Tensor, constant: Constant) -> Tensor:
        planes = tuple(range(2, g.ndim))
        if g.ndim > 2 and g.shape[0] == self._rows and layout.axes == planes:
            return constant.at_positions(g)
        own, value = by_row(g, constant.weighed, self._rows)
        return layout.summed(own * value)

    def _add(self, layout: Layout, site: str, sums: Tensor) -> None:
        sums, without = layout.parted(sums)
        if without is not None:
            self._unplaced[site] = self._unplaced.get(site, 0) + without
        known = self._sums.get(layout.key)
        self._sums[layout.key] = (layout, sums if known is None else known[1] + sums)

    def reached(self, id_: int, waiting: Mapping[int, Tensor], rounding: Rounding) -> None:
        """Make the maps of the cuts behind this value."""
        for number, one in enumerate(self._given.cuts):
            if one.cut.after == id_:
                self._cut(f"{number}.", one, waiting, rounding)

    def _cut(
        self, name: str, one: ProgramCut, waiting: Mapping[int, Tensor], rounding: Rounding
    ) -> None:
        like = next(iter(self._given.values.values()))  # nothing may wait: all is constant then
        placed = self._placed_bias(like)
        whole, unplaced = placed, dict(self._unplaced)
        for id_, g in waiting.items():
            own, without = self._activations(id_, g)
            whole = whole if own is None else whole + own
            if without is not None:
                key = f"activations of {one.cut.site}"
                unplaced[key] = unplaced.get(key, 0) + without
        self._reached[name] = len(rounding)
        self._rounding, self._like = rounding, like
        self._found |= {
            f"{name}placed": placed,
            f"{name}whole": whole,
            **{f"{name}unplaced.{site}": share for site, share in unplaced.items()},
        }

    def _placed_bias(self, like: Tensor) -> Tensor:
        """The map of the constants behind the cut, what was found since the last one added."""
        if self._map is None:
            size = (self._rows, *self._picture)
            self._map = torch.zeros(size, dtype=torch.float64, device=like.device)
        if self._sums:
            self._map = self._map.clone()
        for layout, sums in self._sums.values():
            self._map += layout.spread(sums)
        self._sums = {}
        return self._map

    def _activations(self, id_: int, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """⟨g, a⟩ of one live value on the picture, and what of it has no place."""
        value = self._given.values[id_]
        own = by_row(g, g.new_zeros(1), self._rows)[0]
        layout = self._layouts[id_]
        if layout is None:
            return None, self.products(own, value, inner)
        sums = self.products(own, value, layout.inner)
        placed, without = layout.parted(sums)
        return layout.spread(placed), without

    def products(self, g: Tensor, value: Tensor, of: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Of each row of g (R, …) and its image's value, (B, …).

        Row by row: no products of whole batches are laid down.
        """
        return torch.cat([of(g[row : row + 1], _row(value, row)) for row in range(self._rows)])

    def found(self) -> dict[str, Tensor]:
        """For each cut, by its number: whole, placed, unplaced by site, and its rounding."""
        if self._rounding is not None and self._like is not None:
            counts, like = list(self._reached.values()), self._like.new_empty(self._rows, 1)
            totals = self._rounding.totals(like, counts)
            for name, (variance, worst) in zip(self._reached, totals, strict=True):
                self._found |= {f"{name}variance": variance, f"{name}worst": worst}
        return self._found


def _row(values: Tensor, row: int) -> Tensor:
    """The image of one row (target·B + image)."""
    image = row % len(values)
    return values[image : image + 1]


def _layouts(program: Program) -> dict[int, Layout | None]:
    def make() -> dict[int, Layout | None]:
        known: dict[object, Layout] = {}
        found: dict[int, Layout | None] = {}
        for id_, places in places_of(program).items():
            layout = Layout.of(places, program.input_shape[1:])
            found[id_] = None if layout is None else known.setdefault(layout.key, layout)
        return found

    made: dict[int, Layout | None] = make() if program.bound_ids else program.once("layouts", make)
    return made


@dataclass(frozen=True, eq=False, repr=False)
class Placement:
    """The whole score on the picture, the network cut at one depth.

    Below, [B,] is there for a batch of images and [K,] for a list of targets, in that order; all
    numbers are float64.

    whole ([B,] [K,] H, W): the map whose sum is the score but for `unplaced` ([B,] [K]), what sits
    at no position of a feature map; unplaced_by_layer: call site → its part. placed_bias ([B,] [K,]
    H, W): of `whole`, the shares of the bias behind the cut; the rest are the activations there, at
    depth "input" the contributions. residual = score − Σ whole − unplaced, beside residual_bound,
    what rounding explains. sigma: of the Gaussian through which `smoothed` draws the map, in
    pixels, see `Depth`.
    """

    depth: Depth
    whole: Tensor
    placed_bias: Tensor
    unplaced: Tensor
    unplaced_by_layer: dict[str, Tensor]
    residual: Tensor
    residual_bound: Tensor
    sigma: float
    leading: int = 0

    def __repr__(self) -> str:
        return f"Placement at {self.depth}"

    def smoothed(self, sigma: float | None = None) -> Tensor:
        """`whole` through a Gaussian with a reflecting border, which keeps its sum.

        sigma in pixels; by default one stride of the depth. Raises InputError for a negative one.
        """
        return smoothed(self.whole, self.sigma if sigma is None else sigma, self.leading)

    def beside(self, contributions: Tensor) -> Placement:
        """With the bias that is left beside pixel contributions (…, H, W), at depth "input"."""
        if self.depth.site != INPUT:
            return self
        return replace(self, placed_bias=self.whole - contributions.double())

    def part(self, index: int) -> Placement:
        """Of one image of a batch, or one target of a list."""
        return Placement(
            self.depth,
            self.whole[index],
            self.placed_bias[index],
            self.unplaced[index],
            {site: share[index] for site, share in self.unplaced_by_layer.items()},
            self.residual[index],
            self.residual_bound[index],
            self.sigma,
            self.leading - 1,
        )


def smoothed(values: Tensor, sigma: float, leading: int = 0) -> Tensor:
    """A map (*leading axes, *picture) through a Gaussian that reflects at the border, float64.

    sigma: in pixels. Raises InputError for one that is no number of them, and MissingExtraError
    without scipy.
    """
    real = isinstance(sigma, int | float) and not isinstance(sigma, bool)
    if not real or not 0 <= sigma < math.inf:
        raise InputError(f"sigma is {sigma!r}; give a number of pixels, 0 or more")
    if sigma == 0:
        return values.double()
    axes = range(leading, values.ndim)
    wide = [axis for axis in axes if sigma > _EVEN * values.shape[axis]]
    found = values.double().mean(wide, keepdim=True).expand(values.shape) if wide else values
    narrow = [axis for axis in axes if axis not in wide]
    drawn = reflecting(found.double().cpu().numpy(), [sigma] * len(narrow), narrow)
    return torch.from_numpy(drawn).to(values.device)


@dataclass(frozen=True)
class Found:
    """What one pull found at one cut, for B images and K targets: (B, K, …) float64 each.

    variance and worst: of the rounding of all behind the cut, in units of the roundoff.
    """

    depth: Depth
    whole: Tensor
    placed_bias: Tensor
    unplaced: dict[str, Tensor]
    variance: Tensor
    worst: Tensor

    @classmethod
    def of(cls, depth: Depth, name: str, watched: Mapping[str, Tensor]) -> Found:
        """From what a pull's `watched` has under a cut's name."""
        start = f"{name}unplaced."
        unplaced = {key[len(start) :]: v for key, v in watched.items() if key.startswith(start)}
        own = [watched[name + key] for key in ("whole", "placed", "variance", "worst")]
        return cls(depth, own[0], own[1], unplaced, own[2], own[3])


def joined_cuts(chunks: Sequence[Sequence[Found]]) -> list[Found]:
    """The same cuts of several chunks of images, one after the other."""
    return [_joined(parts) for parts in zip(*chunks, strict=True)]


def _joined(parts: Sequence[Found]) -> Found:
    first = parts[0]
    if len(parts) == 1:
        return first
    tensors = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name in ("whole", "placed_bias", "variance", "worst")
    }
    unplaced = {site: torch.cat([part.unplaced[site] for part in parts]) for site in first.unplaced}
    return Found(first.depth, unplaced=unplaced, **tensors)


def placement(found: Found, score: Tensor, unit: float, batched: bool, several: bool) -> Placement:
    """The answer at one depth; score (B, K), unit: the roundoff of the network's numbers."""
    nothing = torch.zeros_like(score, dtype=torch.float64)
    unplaced = sum(found.unplaced.values(), nothing)
    residual = score.double() - found.whole.flatten(2).sum(2) - unplaced
    return Placement(
        depth=found.depth,
        whole=drop_axes(found.whole, batched, several),
        placed_bias=drop_axes(found.placed_bias, batched, several),
        unplaced=drop_axes(unplaced, batched, several),
        unplaced_by_layer={s: drop_axes(v, batched, several) for s, v in found.unplaced.items()},
        residual=drop_axes(residual, batched, several),
        residual_bound=drop_axes(_bound(found, score, residual, unit), batched, several),
        sigma=found.depth.sigma,
        leading=int(batched) + int(several),
    )


def _bound(found: Found, score: Tensor, residual: Tensor, unit: float) -> Tensor:
    """As of an explanation: the likely one, or where the residual is beyond it the one at worst.

    Beside the layers there are roundings of the printed score and of the sums at each position.
    """
    shares = found.whole.flatten(2).square().sum(2) + found.placed_bias.flatten(2).square().sum(2)
    others = score.double().square() + 4 * shares
    deviations = ROUNDING_DEVIATIONS * unit
    likely = (found.variance + others).sqrt() * deviations
    at_worst = (found.worst + others.sqrt()) * deviations
    return torch.where(residual.abs() <= likely, likely, torch.maximum(likely, at_worst))


def place(
    cuts: Sequence[ProgramCut],
    given: Tensor,
    cotangent: Tensor,
    rows: int,
    trail: Trail | None = None,
) -> list[Found]:
    """Run images (B, C, …) and pull cotangents (K, B, classes), for these cuts alone.

    trail: along which to pull; by default the images' own.
    """
    found: dict[Depth, Found] = {}
    for program, own in by_program(cuts):
        activations = Activations(own, given)
        recording = program.record(given, visit=activations)
        watch = Placing(tuple(own), activations.values)
        along = recording.trail if trail is None else trail
        pulled = pull_targets(program, along, cotangent, recording.norms, rows=rows, watch=watch)
        found |= {one.depth: one for one in watch.read(pulled.watched)}
    return [found[one.depth] for one in cuts]


def by_program(cuts: Sequence[ProgramCut]) -> list[tuple[Program, list[ProgramCut]]]:
    """The cuts of each program."""
    programs = {id(one.program): one.program for one in cuts}
    return [
        (program, [one for one in cuts if one.program is program]) for program in programs.values()
    ]
