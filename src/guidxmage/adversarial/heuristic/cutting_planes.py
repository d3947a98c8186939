"""The smallest step across several half-spaces at once, within a box.

Where the boundary of a class has an edge that points towards the image, the closest point lies on
the edge, and the models of the regions on both sides are needed to find it (the cutting planes of
Kelley 1960). All rows are solved together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

_NEWTON, _TRIALS, _BISECTIONS = 30, 30, 22


@dataclass(frozen=True)
class _Shape:
    """How δ follows from the dual's point: shrunk by τ (n, 1), then clamped to the box."""

    low: Tensor
    high: Tensor
    tau: Tensor | None

    def point(self, raw: Tensor) -> Tensor:
        """δ (n, D)."""
        return self._shrunk(raw).clamp(self.low, self.high)

    def free(self, raw: Tensor) -> Tensor:
        """Where δ moves with `raw`."""
        shrunk = self._shrunk(raw)
        moves = (shrunk > self.low) & (shrunk < self.high)
        return moves if self.tau is None else moves & (shrunk != 0)

    def _shrunk(self, raw: Tensor) -> Tensor:
        return raw if self.tau is None else raw - raw.clamp(-self.tau, self.tau)


@dataclass(frozen=True)
class CuttingPlanes:
    """Half-spaces ⟨W_k, δ⟩ ≥ d_k: W (n, K, D), d (n, K), the unused ones with d = −inf.

    In float64 throughout: neighbouring regions have nearly parallel normals.
    """

    W: Tensor
    d: Tensor

    @classmethod
    def empty(cls, rows: int, like: Tensor, places: int) -> CuttingPlanes:
        """No half-spaces for perturbations of the size of `like` (n, C, H, W)."""
        W = like.new_zeros(rows, places, like[0].numel(), dtype=torch.float64)
        return cls(W, torch.full_like(W[:, :, 0], -torch.inf))

    def add(self, w: Tensor, d: Tensor) -> CuttingPlanes:
        """One more for every row, w (n, C, H, W) and d (n,); the oldest gives way."""
        w, d = w.flatten(1).double(), d.double()
        size = w.norm(dim=1).clamp_min(1e-30)
        W = torch.cat([self.W[:, 1:], (w / size[:, None])[:, None]], 1)
        return replace(self, W=W, d=torch.cat([self.d[:, 1:], (d / size)[:, None]], 1))

    def only_newest(self, rows: Tensor) -> CuttingPlanes:
        """Forget all but the newest half-space of some rows, bool (n,)."""
        d = self.d.clone()
        d[:, :-1] = torch.where(rows[:, None], -torch.inf, d[:, :-1])
        return replace(self, d=d)

    def least_l2(self, low: Tensor, high: Tensor) -> Tensor:
        """The δ (n, D) of least l2 norm that reaches all, low ≤ δ ≤ high, or does what it can."""
        return self._nearest(low, high)[0]

    def nearby_l1(self, low: Tensor, high: Tensor, known: Tensor, tau: Tensor) -> Tensor:
        """The δ (n, D) of least ‖δ‖₁ + ‖δ − known‖² / 2τ that reaches all, τ (n,) (proximal step).

        The larger τ, the farther δ may go from what is known.
        """
        return self._nearest(low, high, known, tau[:, None])[0]

    def least_linf(self, low: Tensor, high: Tensor, known: Tensor) -> Tensor:
        """The same for linf: of all that have the least norm, the one next to a known δ (n, D).

        Nothing larger than the known one is looked for.
        """
        d = self.d - torch.einsum("nkd,nd->nk", self.W, known)
        moved = replace(self, d=torch.where(torch.isfinite(self.d), d, self.d))

        def within(size: Tensor) -> tuple[Tensor, Tensor]:
            bound = size[:, None]
            return moved._nearest(low.maximum(-bound) - known, high.minimum(bound) - known)

        large = known.abs().amax(1)
        small = torch.zeros_like(large)
        for _ in range(_BISECTIONS):
            middle = (small + large) / 2
            reached = within(middle)[1]
            large = torch.where(reached, middle, large)
            small = torch.where(reached, small, middle)
        return (known + within(large)[0]).clamp(low, high)

    def _nearest(
        self, low: Tensor, high: Tensor, centre: Tensor | float = 0.0, tau: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """δ of least ‖δ − centre‖² / 2 + τ‖δ‖₁; also whether all half-spaces are reached, (n,).

        Active-set Newton ascent on the dual: δ is what `_point` makes of centre + ⟨β, W⟩.
        """
        shape = _Shape(low, high, tau)
        used = torch.isfinite(self.d)
        d = torch.where(used, self.d, 0)
        beta = torch.zeros_like(d)
        slack = 1e-11 * (1 + d.abs())
        most = torch.maximum((low - centre).square(), (high - centre).square()).sum(1) / 2
        shrinks = 0.0 if tau is None else tau
        most = most + (torch.maximum(-low, high) * shrinks).sum(1)
        for _ in range(_NEWTON):
            raw = centre + torch.einsum("nk,nkd->nd", beta, self.W)
            delta = shape.point(raw)
            lacks = self._lacks(delta, used, d)
            active = used & ((beta > 0) | (lacks > 0))
            settled = ((lacks.abs() <= slack) | ~active).all(1)
            # A dual value above that of any point in the box: nothing reaches all.
            dual = ((delta - centre).square() / 2 + delta.abs() * shrinks).sum(1)
            dual = dual + (beta * lacks).sum(1)
            if bool((settled | (dual > most)).all()):
                break
            gradient = torch.where(active, lacks, 0)
            step = self._newton(gradient, active, shape.free(raw))
            step = torch.where((beta <= 0) & (step < 0), 0, step)
            uphill = (step * gradient).sum(1, keepdim=True) > 0
            step = torch.where(uphill, step, gradient)
            step = torch.where((beta <= 0) & (step < 0), 0, step)
            length = self._line_search(raw, step, beta, d, shape)
            beta = (beta + length[:, None] * step).clamp_min(0)
        delta = shape.point(centre + torch.einsum("nk,nkd->nd", beta, self.W))
        return delta, (self._lacks(delta, used, d) <= 10 * slack).all(1)

    def _lacks(self, delta: Tensor, used: Tensor, d: Tensor) -> Tensor:
        """What each half-space lacks at δ, the gradient of the dual."""
        return torch.where(used, d - torch.einsum("nkd,nd->nk", self.W, delta), 0)

    def _newton(self, gradient: Tensor, active: Tensor, free: Tensor) -> Tensor:
        eye = torch.eye(gradient.shape[1], dtype=gradient.dtype, device=gradient.device)
        H = torch.einsum("nkd,njd->nkj", self.W * free[:, None], self.W)
        H = torch.where(active[:, :, None] & active[:, None], H, 0)
        H = H + eye * torch.where(active, 1e-10, 1.0)[:, None]
        step: Tensor = torch.linalg.solve(H, gradient)
        return step

    def _line_search(
        self, raw: Tensor, step: Tensor, beta: Tensor, d: Tensor, shape: _Shape
    ) -> Tensor:
        """How far along a step the dual rises, (n,): its slope falls and can be bisected."""
        moved, gain = torch.einsum("nk,nkd->nd", step, self.W), (step * d).sum(1)
        low = torch.zeros_like(gain)
        high = torch.where(step < 0, beta / -step, torch.inf).amin(1)
        length = high.clamp(max=1)
        for trial in range(_TRIALS):
            at = raw + length[:, None] * moved
            free = shape.free(at)
            slope = gain - (moved * shape.point(at)).sum(1)
            low = torch.where(slope > 0, length, low)
            high = torch.where(slope > 0, high, length)
            if bool(((slope.abs() <= 1e-13 * gain.abs()) | (low >= high)).all()):
                break
            newton = length + slope / (moved.square() * free).sum(1).clamp_min(1e-300)
            # Newton's method alone may creep along the pieces; every other trial halves.
            inside = (newton > low) & (newton < high.clamp(max=1e6)) & (trial % 2 == 0)
            middle = torch.where(torch.isfinite(high), (low + high) / 2, 4 * length)
            length = torch.where(inside, newton, middle)
        return torch.where(low >= high, high, length)
