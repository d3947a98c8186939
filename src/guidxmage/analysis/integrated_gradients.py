"""Integrated gradients from the regions of a line: a sum of pieces where others take samples.

On the line from a baseline R to X a piecewise-linear network has finitely many regions, and in each
of them Δ is constant. So the integral of Sundararajan et al. (Axiomatic Attribution for Deep
Networks, 2017) is the finite sum (X − R) ⊙ Σ_k Δ_k·(s_{k+1} − s_k), and its completeness,
Σ = f(X) − f(R), holds to rounding.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from guidxmage.attribution.exactness import NOT_EXACT
from guidxmage.engine.capture.user_model import untouched
from guidxmage.engine.linear_regions.walk import Lines, record, walk
from guidxmage.engine.program.program import Program
from guidxmage.engine.symbolic import pull_targets
from guidxmage.engine.trail.trail import Trail
from guidxmage.errors import InputError
from guidxmage.explainer import Explainer
from guidxmage.explanation import Explanation
from guidxmage.inputs.input_space import Images, as_numbers, unexpanded
from guidxmage.reports.short_repr import short_repr

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PIECES = 2000
# Intervals that are halved at once.
_AT_ONCE = 8


@dataclass(frozen=True)
class IntegratedGradients:
    """The result: `explanation` has Δ averaged over the line, and f(R) as its bias.

    pieces: regions, or intervals where the line was sampled; exact: every region was walked; gap:
    what is missing to completeness, score − f(R) − Σ, for each target (K,). Where `exact` is False
    a small gap says that the sum is nearly right, and nothing about single pixels. knots (n,) from
    0, the baseline, to 1, the image, and the scores there, (n, K), float64: affine between them
    where `exact`.
    """

    explanation: Explanation
    pieces: int
    exact: bool
    gap: Tensor
    knots: Tensor
    scores: Tensor

    __repr__ = short_repr

    @property
    def slopes(self) -> Tensor:
        """How fast the scores rise between the knots, (n − 1, K): what is integrated."""
        return self.scores.diff(dim=0) / self.knots.diff()[:, None]

    def figure(self, *, marks: Sequence[float] = (), words: str = "") -> Figure:
        """The first target's score along the line, and its slope.

        marks: places s on the line to be marked on the slope, with `words` that say what they are.
        """
        from guidxmage.view.integral import Integral, draw_integral

        first = self.explanation.split()[0]
        integral = Integral(
            title=f"{first.model_name}: {first.target_name}",
            knots=self.knots.numpy(),
            scores=self.scores[:, 0].numpy(),
            exact=self.exact,
            marks=tuple(marks),
            words=words,
        )
        return draw_integral(integral)


def integrated_gradients(
    explainer: Explainer,
    image: Images,
    target: Any = "top1",
    *,
    baseline: Tensor | float | None = None,
    pieces: int = PIECES,
    sampled: bool = False,
) -> IntegratedGradients:
    """Integrated gradients of one image, in the explainer's own space.

    baseline: R, a number or a tensor that broadcasts to (C, H, W); by default 0, black pixels where
    the preprocessing is known. pieces: regions to walk at most. With `sampled` the line is cut into
    that many intervals instead, where completeness is missing most, and Δ is taken at their
    middles: not exact, but possible on large networks, whose lines cross millions of regions. Use a
    float64 explainer; float32 blurs where regions end.
    Raises InputError for a batch, a baseline that does not fit and a line of too many regions,
    UnsupportedOperatorError for networks without regions unless `sampled`.
    """
    if pieces < 1:
        raise InputError(f"a line has at least one piece; {pieces} were asked for")
    # Only Δ and the bound on rounding are of use, which black leaves as they are for any baseline.
    at_image = explainer.explain(image, target, reference=0.0)
    if at_image.batched:
        raise InputError("integrated gradients are taken of one image at a time")
    with untouched(explainer.model):
        X = at_image.input[None]
        R = _baseline(baseline, X)
        network = explainer.network(X)
        lines = network.lines(R.contiguous(), X - R)
        way = _sampled if sampled else _walked
        cotangent = at_image.symbolic_model.cotangent
        found = way(network.program, lines, cotangent, pieces)
        found = replace(found, mean=explainer.to_space(found.mean[0]))
    return _assembled(at_image, R, found, exact=not sampled)


def _baseline(baseline: Tensor | float | None, X: Tensor) -> Tensor:
    R = as_numbers(0.0 if baseline is None else baseline, X)
    try:
        R = R.expand(X.shape)
    except RuntimeError as error:
        raise InputError(
            f"a baseline of shape {tuple(R.shape)} does not fit an image {tuple(X.shape[1:])}"
        ) from error
    if not bool(torch.isfinite(unexpanded(R)).all()):
        raise InputError("the baseline holds NaN or Inf")
    return R


@dataclass(frozen=True)
class _Way:
    """From R to X in a number of pieces: mean Δ ([1,] K, …), knots (n,), scores there (n, K)."""

    mean: Tensor
    pieces: int
    knots: Tensor
    scores: Tensor


def _walked(program: Program, lines: Lines, cotangent: Tensor, pieces: int) -> _Way:
    """Mean Δ over all regions of a line."""
    start = torch.zeros(1, dtype=torch.float64, device=lines.start.device)
    total, count = None, 0
    knots, scores = [0.0], [record(program, lines, start)[0]]
    for stretch in walk(program, lines, start, start + 1, cap=pieces):
        length = float(stretch.high - stretch.low)
        if bool(stretch.capped):
            raise InputError(
                f"the line from the baseline to the image crosses more than {pieces:,} regions: "
                f"{pieces:,} reach s = {float(stretch.high):.3g} of 1; allow more pieces, or have "
                "the line sampled (adaptive-ig)"
            )
        if length == 0:
            continue
        part = length * _pulled(program, stretch.trail, cotangent).double()
        total, count = (part if total is None else total + part), count + 1
        knots.append(float(stretch.high))
        scores.append(stretch.piece.value + stretch.high * stretch.piece.slope)
    assert total is not None
    logits = torch.cat(scores).double() @ cotangent[:, 0].double().t()
    return _Way(total, count, torch.tensor(knots, dtype=torch.float64), logits.cpu())


def _pulled(program: Program, trail: Trail, cotangent: Tensor) -> Tensor:
    """Δ (1, K, …) on the network's input."""
    return pull_targets(program, trail, cotangent).weights


def _sampled(program: Program, lines: Lines, cotangent: Tensor, pieces: int) -> _Way:
    """Mean Δ from the middles of intervals; those that miss completeness most are halved."""
    look = _Sampler(program, lines, cotangent)
    ends, _ = look.scores([0.0, 1.0]), None
    waiting = look.intervals([(0.0, 1.0, ends[0], ends[1])])
    heapq.heapify(waiting)
    while len(waiting) < pieces:
        worst = [
            heapq.heappop(waiting)
            for _ in range(min(_AT_ONCE, len(waiting), pieces - len(waiting)))
        ]
        halves = []
        for one in worst:
            middle = (one.low + one.high) / 2
            halves += [
                (one.low, middle, one.start, one.value),
                (middle, one.high, one.value, one.end),
            ]
        for one in look.intervals(halves):
            heapq.heappush(waiting, one)
    total = sum(((one.high - one.low) * one.weights for one in waiting), torch.zeros(()))
    waiting.sort(key=lambda one: one.low)
    scores = torch.stack([*(one.start for one in waiting), ends[1]])
    knots = torch.tensor([*(one.low for one in waiting), 1.0], dtype=torch.float64)
    return _Way(torch.as_tensor(total)[None], len(waiting), knots, scores.double().cpu())


@dataclass
class _Interval:
    """A part of the line: scores (K,) at its ends and in its middle, and Δ (K, …) there."""

    low: float
    high: float
    start: Tensor
    end: Tensor
    value: Tensor
    weights: Tensor
    missing: float

    def __lt__(self, other: _Interval) -> bool:
        return self.missing > other.missing  # the heap's first is the worst


class _Sampler:
    """Runs the network at points of a line."""

    def __init__(self, program: Program, lines: Lines, cotangent: Tensor) -> None:
        self.program, self.lines, self.cotangent = program, lines, cotangent

    def scores(self, at: list[float]) -> Tensor:
        """The scores (n, K) at some points."""
        return self._recorded(at)[0]

    def _recorded(self, at: list[float]) -> tuple[Tensor, Trail]:
        s = torch.tensor(at, dtype=torch.float64, device=self.lines.start.device)
        every = self.lines.take(torch.zeros(len(at), dtype=torch.long, device=s.device))
        logits, trail = record(self.program, every, s)
        return logits @ self.cotangent[:, 0].t(), trail

    def intervals(self, spans: list[tuple[float, float, Tensor, Tensor]]) -> list[_Interval]:
        """The intervals of some spans, looked at in their middles."""
        values, trail = self._recorded([(low + high) / 2 for low, high, _, _ in spans])
        cotangent = self.cotangent.expand(-1, len(spans), -1)
        weights = pull_targets(self.program, trail, cotangent, rows=16).weights
        found = []
        for (low, high, start, end), value, own in zip(spans, values, weights, strict=True):
            slope = (own * self.lines.direction).flatten(1).sum(1)
            missing = float((end - start - slope * (high - low)).abs().max())
            found.append(_Interval(low, high, start, end, value, own, missing))
        return found


def _assembled(
    at_image: Explanation, R: Tensor, found: _Way, *, exact: bool
) -> IntegratedGradients:
    """Mean Δ (K, …) as an explanation whose bias is the score at the baseline R (1, …)."""
    way = at_image.input - R[0]
    weights, first = found.mean, found.scores[0].to(found.mean.device)
    if not at_image.several:
        weights, first = weights[0], first[0]
    exact_sum = weights.double() * way.double()
    contributions = exact_sum.to(at_image.weights.dtype)
    total = contributions.flatten(-way.ndim).sum(-1, dtype=torch.float64)
    bias = first.double()
    residual = at_image.score.double() - total - bias
    roundings = torch.finfo(at_image.weights.dtype).eps * contributions.double().abs()
    bound = at_image.residual_bound + roundings.flatten(-way.ndim).sum(-1)
    within = bool((residual.abs() <= bound).all())
    stated = ("on the line" if within else NOT_EXACT) if exact else "nowhere: sampled"
    explanation = replace(
        at_image,
        weights=weights.to(at_image.weights.dtype),
        contributions=contributions,
        bias=bias,
        bias_by_layer={"score at the baseline": bias},
        reference=unexpanded(R)[0] if bool(unexpanded(R).any()) else None,
        residual=residual,
        residual_bound=bound,
        exactness=stated,
        symbolic_model=replace(
            at_image.symbolic_model,
            weights=weights.to(at_image.weights.dtype),
            bias=at_image.score.double()
            - (weights.double() * at_image.input.double()).flatten(-way.ndim).sum(-1),
            network=None,
        ),
    )
    gap = residual.reshape(-1)
    return IntegratedGradients(explanation, found.pieces, exact, gap, found.knots, found.scores)


METHODS: dict[str, Callable[..., IntegratedGradients]] = {
    "exact-ig": integrated_gradients,
    "adaptive-ig": lambda *args, **options: integrated_gradients(*args, sampled=True, **options),
}
