"""The scores along a line between two images, exactly, region by region."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from guidxmage.attribution.targets import choose_targets
from guidxmage.engine.capture.user_model import untouched
from guidxmage.engine.linear_regions.walk import Flip, Stretch, record, walk
from guidxmage.engine.symbolic import Network
from guidxmage.engine.trail.distance import Distance
from guidxmage.errors import InputError
from guidxmage.explainer import Explainer
from guidxmage.inputs.input_space import Images

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = "guid-xmage/ray/1"
SAMPLES, BEST = 33, 3
"""Points at which the whole line is sampled, and how many classes of each are kept."""

# Regions shorter than this are several decisions that flip at once, told apart by rounding.
_SLIVER = 4 * torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class ClassChange:
    """Where the best class changes: at s, from class `before` to class `after`."""

    s: float
    before: int
    after: int


@dataclass(frozen=True)
class Ray:
    """The network on the line a + s·(b − a), from s = 0 as far as it was walked.

    knots (n + 2,): 0, the n breakpoints, the end of the walk, float64. Between knots i and i + 1
    the logits of `classes` (k of them) are starts[i] + (s − knots[i])·slopes[i], (n + 1, k). Where
    none were asked for, they are the three best at each sample and whatever leads in between.
    flips: the decision that flips at each breakpoint. class_changes: where the best of *all*
    classes changes, `first_class` being the best at s = 0. capped: the walk stopped before s = 1
    because `cap` regions were entered. samples (m,) and sampled (m, k): the network's own logits at
    even steps over the whole line, for the part that was not walked. distance: the decisions that
    differ between the two images, and so must flip on the way.
    """

    knots: Tensor
    classes: tuple[int, ...]
    starts: Tensor
    slopes: Tensor
    flips: tuple[Flip, ...]
    first_class: int
    class_changes: tuple[ClassChange, ...]
    capped: bool
    cap: int
    samples: Tensor
    sampled: Tensor
    distance: Distance
    labels: tuple[str, ...] | None
    model_name: str
    weights_source: str
    space: str
    dtype: str

    @property
    def breakpoints(self) -> Tensor:
        """Where a decision flips, (n,), ascending; equal where several flip at once."""
        return self.knots[1:-1]

    @property
    def end(self) -> float:
        """How far the line was walked: 1 unless capped."""
        return float(self.knots[-1])

    @property
    def capped_at(self) -> float | None:
        """Where the walk stopped at its cap, None where it reached s = 1."""
        return self.end if self.capped else None

    @property
    def regions(self) -> int:
        """Regions of the walked part; those of zero length, at simultaneous flips, not counted."""
        return max(1, int((self.knots.diff() > _SLIVER).sum()))

    @property
    def logits(self) -> Tensor:
        """The logits at the knots, (n + 2, k): with them, linear interpolation is exact."""
        last = self.starts[-1] + self.slopes[-1] * (self.knots[-1] - self.knots[-2])
        return torch.cat([self.starts, last[None]])

    def scores(self, s: float | Sequence[float] | Tensor) -> Tensor:
        """The logits of `classes` at s, (…, k) for s of shape (…); exact, by the region's function.

        Raises InputError where s lies outside of the walked part.
        """
        at = torch.as_tensor(s, dtype=torch.float64)
        if not bool(((at >= 0) & (at <= self.end)).all()):
            raise InputError(f"the line was walked from s = 0 to {self.end:.6g}; ask within")
        number = torch.searchsorted(self.knots[1:-1].contiguous(), at, right=True)
        return self.starts[number] + (at - self.knots[number])[..., None] * self.slopes[number]

    def class_name(self, index: int) -> str:
        """The label of a class, or its number in words."""
        known = self.labels is not None and index < len(self.labels)
        return self.labels[index] if known and self.labels else f"class {index}"

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, ready for JSON."""
        return {
            "schema": SCHEMA,
            "model": {"name": self.model_name, "weights": self.weights_source},
            "space": self.space,
            "dtype": self.dtype,
            "classes": [{"class": n, "name": self.class_name(n)} for n in self.classes],
            "regions": self.regions,
            "capped": self.capped,
            "capped_at": self.capped_at,
            "cap": self.cap,
            "end": self.end,
            "first_class": self.first_class,
            "class_changes": [
                {**asdict(change), "name": self.class_name(change.after)}
                for change in self.class_changes
            ],
            "decisions_that_differ": {
                "total": int(self.distance.total),
                "by_layer": {
                    site: int(number) for site, number in self.distance.by_layer.items() if number
                },
            },
            "breakpoints": [
                {**asdict(flip), "position": list(flip.position)} for flip in self.flips
            ],
            "knots": self.knots.tolist(),
            "logits": self.logits.tolist(),
            "samples": {"s": self.samples.tolist(), "logits": self.sampled.tolist()},
        }

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)

    def __repr__(self) -> str:
        stopped = f", capped at s = {self.end:.6g}" if self.capped else ""
        regions = f"{self.regions:,} region{'s' if self.regions > 1 else ''}"
        lines = [f"Ray of {self.model_name}: {regions}{stopped}"]
        lines.append(f"  s = 0: {self.class_name(self.first_class)}")
        lines += [f"  s = {c.s:.9g}: {self.class_name(c.after)}" for c in self.class_changes]
        return "\n".join(lines)

    def figure(self, *, ends: tuple[str, str] = ("a", "b"), curves: int = 6) -> Figure:
        """The exact profiles of the best classes, with class changes and region boundaries.

        ends: what the two images are called; curves: how many classes are drawn at most, 1 to 8.
        Those that lead somewhere come first, then those with the highest scores.
        """
        from guidxmage.view.profile import COLORS, Leader, Profile, draw_profile

        if not 1 <= curves <= len(COLORS):
            raise InputError(f"1 to {len(COLORS)} curves can be told apart, not {curves}")
        best = [(0.0, self.first_class), *((c.s, c.after) for c in self.class_changes)]
        highest = torch.cat([self.logits, self.sampled]).amax(0).tolist()
        leading = [number for _, number in best]
        order = sorted(
            range(len(self.classes)),
            key=lambda n: (self.classes[n] not in leading, -highest[n]),
        )
        kept = sorted(order[:curves])
        drawn = {self.classes[n]: curve for curve, n in enumerate(kept)}
        profile = Profile(
            title=f"{self.model_name}: from {ends[0]} to {ends[1]}",
            names=[self.class_name(self.classes[n]) for n in kept],
            knots=self.knots.numpy(),
            scores=self.logits[:, kept].numpy(),
            leaders=[Leader(s, self.class_name(n), drawn.get(n)) for s, n in best],
            regions=self.regions,
            capped_at=self.capped_at,
            differing=int(self.distance.total.sum()),
            samples=self.samples.numpy(),
            sampled=self.sampled[:, kept].numpy(),
        )
        return draw_profile(profile)


def trace_ray(
    explainer: Explainer,
    a: Images,
    b: Images,
    *,
    targets: Any = None,
    cap: int = 10_000,
    progress: Callable[[int, float], None] | None = None,
) -> Ray:
    """The exact profile of the scores along the line from image a (s = 0) to image b (s = 1).

    The line is walked from region to region; in each the scores are affine in s. targets: the
    classes to keep, as `choose_targets` takes them; by default those that lead somewhere on the
    walked part and the three best at 33 points of the line. At most `cap` regions are entered, each
    an affine run of the network: the result says where it stopped. `progress` is called with their
    number and s.
    A float64 explainer resolves the breakpoints of deep networks; float32 blurs them.
    Raises InputError for images that do not fit, UnsupportedOperatorError as `Explainer.explain`
    does.
    """
    with untouched(explainer.model):
        ends = explainer.read_batch(a), explainer.read_batch(b)
        shapes = [tuple(end.tensor.shape[not end.batched :]) for end in ends]
        if shapes[0] != shapes[1] or ends[0].batched or ends[1].batched:
            raise InputError(
                "a ray joins two single images that come out at one size, not "
                f"{' and '.join('×'.join(map(str, shape)) for shape in shapes)}"
            )
        return _traced(
            explainer.network(ends[0].tensor),
            (ends[0].tensor, ends[1].tensor),
            targets=targets,
            cap=cap,
            labels=explainer.labels,
            progress=progress,
            origin=(explainer.name, explainer.weights_source, explainer.space),
        )


def _traced(
    network: Network,
    ends: tuple[Tensor, Tensor],
    *,
    targets: Any,
    cap: int,
    labels: tuple[str, ...] | None,
    progress: Callable[[int, float], None] | None,
    origin: tuple[str, str, str],
) -> Ray:
    """Walk from one image (1, C, H, W) of the explained space to another."""
    lines = network.lines(ends[0], ends[1] - ends[0])
    samples = torch.linspace(0, 1, SAMPLES, dtype=torch.float64, device=lines.start.device)
    every = lines.take(torch.zeros(SAMPLES, dtype=torch.long, device=samples.device))
    logits, trails = record(network.program, every, samples, rows=8)
    if not bool(torch.isfinite(logits).all()):
        raise InputError("the network returns NaN or Inf on the line between the two images")
    classes = _classes(targets, logits, labels)
    log = _Log(int(logits[0].argmax()), None if targets is None else classes)
    low = samples[:1]
    for taken, stretch in enumerate(
        walk(network.program, lines, low, low + 1, trail=trails.image(0), cap=cap), start=1
    ):
        log.add(network, stretch)
        if progress is not None:
            progress(taken, float(stretch.high))
    if targets is None:
        classes = tuple(sorted({*classes, *(change.after for change in log.changes)}))
    return Ray(
        knots=torch.tensor([*log.low, log.high], dtype=torch.float64),
        classes=classes,
        starts=log.kept(log.starts, classes),
        slopes=log.kept(log.slopes, classes),
        flips=tuple(log.flips),
        first_class=int(logits[0].argmax()),
        class_changes=tuple(log.changes),
        capped=log.capped,
        cap=cap,
        samples=samples.cpu(),
        sampled=logits[:, list(classes)].double().cpu(),
        distance=trails.image(0).distance(trails.image(SAMPLES - 1)),
        labels=labels,
        model_name=origin[0],
        weights_source=origin[1],
        space=origin[2],
        dtype=str(network.program.dtype).removeprefix("torch."),
    )


def _classes(targets: Any, logits: Tensor, labels: Sequence[str] | None) -> tuple[int, ...]:
    """The classes to keep: those asked for, or the best at each sample (m, classes) of the line."""
    if targets is None:
        best = logits.topk(min(BEST, logits.shape[1]), dim=1).indices
        return tuple(best.unique().tolist())
    chosen = choose_targets(targets, logits[:1], labels, batched=False)
    if bool((chosen.classes < 0).any()) or bool((chosen.against >= 0).any()):
        raise InputError("a ray keeps the scores of classes; name classes rather than contrasts")
    return tuple(dict.fromkeys(chosen.classes[:, 0].tolist()))


class _Log:
    """What a walk along one line leaves, stretch by stretch: of some classes, or of all (None)."""

    def __init__(self, leader: int, classes: tuple[int, ...] | None) -> None:
        self.leader, self.classes = leader, classes
        self.low: list[float] = []
        self.high = 0.0
        self.starts: list[Tensor] = []
        self.slopes: list[Tensor] = []
        self.flips: list[Flip] = []
        self.changes: list[ClassChange] = []
        self.capped = False

    def add(self, network: Network, stretch: Stretch) -> None:
        piece = stretch.piece
        value, slope = (part[0].double().cpu() for part in (piece.value, piece.slope))
        low, high = float(stretch.low), float(stretch.high)
        self.low.append(low)
        self.high = high
        own = slice(None) if self.classes is None else list(self.classes)
        self.starts.append((value + slope * low)[own].clone())
        self.slopes.append(slope[own].clone())
        for change in leaders(self.leader, value, slope, (low, high)):
            self.changes.append(change)
            self.leader = change.after
        self.capped = bool(stretch.capped)
        if bool(stretch.leaves) and not self.capped:
            (flip,) = piece.ahead.describe(network.program, stretch.trail)
            assert flip is not None
            self.flips.append(flip)

    def kept(self, rows: list[Tensor], classes: tuple[int, ...]) -> Tensor:
        """The entries of some classes in all of the logged rows, (stretches, k)."""
        own = slice(None) if self.classes is not None else list(classes)
        return torch.stack([row[own] for row in rows])


def leaders(
    leader: int, value: Tensor, slope: Tensor, span: tuple[float, float]
) -> list[ClassChange]:
    """Where the largest of value + s·slope (classes,) changes for s in a span, from a leader."""
    now, high = span
    found: list[ClassChange] = []
    # A leader at both ends leads between them; only a steeper class overtakes.
    while int((value + slope * high).argmax()) != leader:
        rate = slope - slope[leader]
        s = torch.where(rate > 0, (value[leader] - value) / rate, torch.inf).clamp(min=now)
        now = float(s.min())
        if now > high:
            break
        level = torch.where(s == now, slope, -torch.inf)
        found.append(ClassChange(now, leader, int(level.argmax())))
        leader = found[-1].after
    return found
