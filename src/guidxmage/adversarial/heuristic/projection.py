"""The smallest step across a half-space within a box, exactly, for every norm."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guidxmage.errors import InputError

_EXPANSIONS, _BISECTIONS = 20, 30


@dataclass(frozen=True)
class Projection:
    """delta (N, C, H, W), and feasible (N,): whether the half-space is reached within the box.

    Where it is not, delta does as much as the box allows.
    """

    delta: Tensor
    feasible: Tensor


def project(
    x: Tensor,
    w: Tensor,
    b: Tensor,
    norm: str,
    *,
    low: float = 0.0,
    high: float = 1.0,
    mask: Tensor | None = None,
) -> Projection:
    """Minimise ‖δ‖ subject to ⟨w, x + δ⟩ + b ≥ 0, low ≤ x + δ ≤ high, δ = 0 outside the mask.

    x, w (N, C, H, W), b (N,), mask bool that broadcasts to x or None. norm: "l2", "linf", "l1";
    "l0" counts pixels (all channels of a position), and of the solutions that change the same
    pixels takes the one of least l2; "erase" counts pixels that are set to 0. Every answer is the
    exact optimum up to rounding. Raises InputError for NaN or an unknown norm.
    """
    if not bool(torch.isfinite(w).all() and torch.isfinite(x).all() and torch.isfinite(b).all()):
        raise InputError("the half-space or the image holds NaN or Inf")
    ways = {"l2": _l2, "linf": _linf, "l1": _l1, "l0": _l0, "erase": _erase}
    if norm not in ways:
        raise InputError(f"norm {norm!r} is unknown; choose one of {', '.join(ways)}")
    if mask is not None:
        w = w * mask
    need = -(b + _dot(w, x))
    # Products of the tiny weights of a saturated network would underflow.
    scale = w.abs().flatten(1).amax(1).clamp_min(torch.finfo(w.dtype).tiny)
    w, need = w / _spread(scale, w), (need / scale).clamp(max=torch.finfo(w.dtype).max)
    delta = ways[norm](x, w, need.clamp_min(0), (low, high))
    if mask is not None:  # erasing goes by pixels, a mask may go by channels
        delta = delta * mask
    # The last bits of the sum are not worth calling a solution infeasible.
    slack = 1e-4 if x.dtype == torch.float32 else 1e-9
    size = (w * delta).abs().flatten(1).sum(1)
    feasible = _dot(w, delta) >= need - slack * torch.maximum(size, need.abs())
    return Projection(torch.where(_spread(need > 0, x), delta, 0), feasible)


def _l2(x: Tensor, w: Tensor, need: Tensor, box: tuple[float, float]) -> Tensor:
    """δ = clip(τ·w), by the optimality conditions."""
    return _ray_within_box(x, w, w, need, box)


def _linf(x: Tensor, w: Tensor, need: Tensor, box: tuple[float, float]) -> Tensor:
    """δ = clip(τ·sign w)."""
    return _ray_within_box(x, w, w.sign(), need, box)


def _ray_within_box(
    x: Tensor, w: Tensor, v: Tensor, need: Tensor, box: tuple[float, float]
) -> Tensor:
    """δ = clip(τ·v) with the least τ ≥ 0 for which ⟨w, δ⟩ = need.

    The gain is concave and piecewise linear in τ, so that Newton's method from 0 never steps past
    the root and ends on its piece after finitely many steps.
    """
    room = torch.where(v > 0, box[1] - x, x - box[0]).clamp_min(0)
    end = torch.where(v != 0, room / v.abs(), 0)  # where an entry meets the box
    rate = w * v
    tau = torch.zeros_like(need)
    while True:
        free = end > _spread(tau, x)
        gain = (rate * torch.minimum(end, _spread(tau, x))).flatten(1).sum(1)
        slope = (rate * free).flatten(1).sum(1)
        step = torch.where(slope > 0, (need - gain) / slope.clamp_min(1e-38), 0)
        moved = torch.maximum(tau + step, tau)
        # Below the resolution of the sum a step is noise.
        if not bool(((moved - tau) > 4 * torch.finfo(x.dtype).eps * moved).any()):
            return v * torch.minimum(end, _spread(moved, x))
        tau = moved


def _l1(x: Tensor, w: Tensor, need: Tensor, box: tuple[float, float]) -> Tensor:
    """The entries that gain most per unit go to the box one after the other, the last in part."""
    room = torch.where(w > 0, box[1] - x, x - box[0]).clamp_min(0)
    gain = (w.abs() * room).flatten(1)
    order = w.abs().flatten(1).argsort(1, descending=True)
    share = _fractions(gain.gather(1, order), need)
    shares = torch.zeros_like(gain).scatter_(1, order, share).view(x.shape)
    return shares * room * w.sign()


def _fractions(gain: Tensor, need: Tensor) -> Tensor:
    """How much of each gain (N, n), taken in order, makes up the need: ones, a fraction, zeros."""
    before = gain.double().cumsum(1) - gain.double()
    left = need.double()[:, None] - before
    return (left / gain.double().clamp_min(1e-300)).clamp(0, 1).to(gain.dtype)


def nearby_l1(
    x: Tensor,
    delta: Tensor,
    half_space: tuple[Tensor, Tensor],
    tau: Tensor,
    box: tuple[float, float],
) -> Tensor:
    """Minimise ‖δ′‖₁ + ‖δ′ − δ‖² / 2τ subject to ⟨w, δ′⟩ ≥ need and the box (a proximal step).

    x, delta (N, C, H, W); half_space: w (N, C, H, W), need (N,); tau (N,): the larger, the farther
    δ′ may go from δ. The solution is a soft threshold of δ + τλw; λ is bisected. Where the box is
    too small, δ′ does almost as much as it allows.
    """
    w, need = half_space
    t = _spread(tau, x)
    low, high = box[0] - x, box[1] - x

    def moved(factor: Tensor) -> Tensor:
        raw = delta + t * _spread(factor, x) * w
        soft = raw.sign() * (raw.abs() - t).clamp_min(0)
        return torch.minimum(torch.maximum(soft, low), high)

    least = torch.zeros_like(need)
    most = 1 / w.flatten(1).abs().amax(1).clamp_min(1e-30)
    for _ in range(_EXPANSIONS):
        reached = _dot(w, moved(most)) >= need
        if bool(reached.all()):
            break
        least, most = torch.where(reached, least, most), torch.where(reached, most, 3 * most)
    for _ in range(_BISECTIONS):
        middle = (least + most) / 2
        reached = _dot(w, moved(middle)) >= need
        least, most = torch.where(reached, least, middle), torch.where(reached, middle, most)
    return moved(most)


def _l0(x: Tensor, w: Tensor, need: Tensor, box: tuple[float, float]) -> Tensor:
    """The pixels that gain most when all their channels go to the box."""
    room = torch.where(w > 0, box[1] - x, x - box[0]).clamp_min(0)
    gain = (w.abs() * room).sum(1, keepdim=True)
    return _l2(x, w * _chosen(gain, need), need, box)


def _erase(x: Tensor, w: Tensor, need: Tensor, box: tuple[float, float]) -> Tensor:
    """The pixels that gain most when they are set to 0: their gain is −A."""
    gain = -(w * x).sum(1, keepdim=True)
    return -x * _chosen(gain.clamp_min(0), need)


def _chosen(gain: Tensor, need: Tensor) -> Tensor:
    """1 for the fewest pixels whose gains (N, 1, …) make up the need, else 0."""
    flat = gain.flatten(1)
    order = flat.argsort(1, descending=True)
    taken = (_fractions(flat.gather(1, order), need) > 0).to(gain.dtype)
    chosen = torch.zeros_like(flat).scatter_(1, order, taken)
    return (chosen * (flat > 0)).view(gain.shape)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _spread(rows: Tensor, like: Tensor) -> Tensor:
    return rows.view(-1, *[1] * (like.ndim - 1))
