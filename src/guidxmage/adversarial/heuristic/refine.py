"""The last digits: the exact point at which the boundary is crossed, and the closest one on it."""

from __future__ import annotations

import torch
from torch import Tensor

from guidxmage.adversarial.heuristic.best_points import Found
from guidxmage.adversarial.heuristic.cutting_planes import CuttingPlanes
from guidxmage.adversarial.heuristic.gradient_budget import Account
from guidxmage.adversarial.heuristic.problem import Problem, dot, spread
from guidxmage.engine.linear_regions.boundary import cross_boundary
from guidxmage.engine.linear_regions.walk import Lines
from guidxmage.errors import UnsupportedOperatorError

_HALVINGS = 16


def _free(part: Problem, normal: Tensor) -> Tensor:
    return normal if part.mask is None else normal * part.mask


def _least_l2(part: Problem, planes: CuttingPlanes) -> Tensor:
    """The point of least l2 norm that all models put beyond the boundary."""
    low, high = ((end - part.X.double()).flatten(1) for end in (part.low, part.high))
    delta = planes.least_l2(low, high).view_as(part.X)
    return (part.X.double() + delta).to(part.X).clamp(part.low, part.high)


def shorten(account: Account, problem: Problem, found: Found) -> Found:
    """Shorten each perturbation to where its line from X crosses the boundary.

    The recordings narrow the bracket, and the regions left in it are walked in closed form; on
    networks that are not piecewise linear the bracket is bisected.
    """
    rows = torch.isfinite(found.size).nonzero()[:, 0]
    if not len(rows):
        return found
    if account.target_model.network is None:
        return _bisected(account, problem, found)
    part, Z = problem.rows(rows), found.Z[rows]
    origin = account.target_model.to_input(part.X)
    lines = Lines(origin, account.target_model.to_input(Z) - origin)
    logits = account.logits(Z)
    up, down = part.goal.pair(logits, torch.full_like(part.goal.classes, -1))
    contrast = torch.zeros_like(logits).scatter_(1, down[:, None], 1)
    contrast = contrast.scatter_add_(1, up[:, None], -torch.ones_like(contrast[:, :1]))
    ends = torch.zeros(len(rows), dtype=torch.float64, device=Z.device)
    try:
        crossed = cross_boundary(
            account.target_model.network.program,
            lines,
            contrast,
            ends,
            ends + 1,
            rows=max(1, account.target_model.chunk // 2),
        )
    except UnsupportedOperatorError:  # the network jumps, and no line can be walked
        return _bisected(account, problem, found)
    account.target_model.forwards += int(crossed.forward_passes.sum())
    share = torch.where(crossed.found, crossed.s, 1.0).to(Z)
    for beyond in (0.0, 1e-6, 1e-4):
        P = part.X + spread((share * (1 + beyond)).clamp(max=1), Z) * (Z - part.X)
        reached = part.goal.margin(account.logits(P)) > 0
        size = torch.where(reached, part.size(P), torch.inf)
        kept = found.better(in_place(found, rows, P, size))
        found = kept
        if bool(reached.all()):
            break
    return found


def _bisected(account: Account, problem: Problem, found: Found) -> Found:
    low, high = torch.zeros_like(found.size), torch.ones_like(found.size)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        P = problem.X + spread(middle, found.Z) * (found.Z - problem.X)
        reached = (problem.goal.margin(account.logits(P)) > 0) & torch.isfinite(found.size)
        high, low = torch.where(reached, middle, high), torch.where(reached, low, middle)
    P = problem.X + spread(high, found.Z) * (found.Z - problem.X)
    reached = (problem.goal.margin(account.logits(P)) > 0) & torch.isfinite(found.size)
    return found.better(Found(P, torch.where(reached, problem.size(P), torch.inf)))


# What a step onto a region's boundary is lengthened by, so that rounding does not undo it.
_ROUNDING = {torch.float32: 1e-6, torch.float64: 1e-10}
_SHARES = (1.0, 0.5, 0.25, 0.125)
_PLACES = 6
# For linf every step with several models is a linear programme, which takes many times as long as
# a gradient: tiny images only.
_FEW = 64


def beyond_rounding(need: Tensor) -> Tensor:
    """A little more than what is needed, so that rounding does not undo a step."""
    return need + _ROUNDING.get(need.dtype, 1e-3) * need.abs()


def _takes_planes(problem: Problem) -> bool:
    """Whether the models of several regions are met together."""
    return problem.norm == "l2" or (problem.norm == "linf" and problem.X[0].numel() <= _FEW)


def polish(account: Account, problem: Problem, found: Found, steps: int) -> Found:
    """Move samples on the boundary towards the closest point of their own region's boundary.

    The whole way where the network confirms it, else half of it, and so on: the norm falls all
    along the way. On one region, as of an affine network, the first step ends at the optimum. For
    l2 and linf the half-space of a region where the way failed is added to those before, so that
    edges between regions are met as well.
    """
    rows = torch.isfinite(found.size).nonzero()[:, 0]
    if not len(rows):
        return found
    part, best = problem.rows(rows), Found(found.Z[rows], found.size[rows])
    planes = CuttingPlanes.empty(len(rows), part.X, _PLACES)
    Z, stale, together = best.Z, torch.zeros_like(rows), _takes_planes(problem)
    for _ in range(steps):
        local = account.local(Z, part.goal)
        need = dot(local.normal, Z - part.X) - local.value
        need = beyond_rounding(need)
        planes = planes.add(_free(part, local.normal), need)
        closest = _closest(part, planes, (local.normal, need), best)
        before, best, reached = best, *approach(account, part, best, closest)
        account.offer(part, best)
        improved = best.size < before.size * (1 - 1e-9)
        # Models that do not bound the norm from below, or nothing but the last digits: begin anew.
        again = reached | (part.size(closest) >= best.size * (1 - 1e-9))
        planes = planes.only_newest(again)
        Z = torch.where(spread(again, Z), best.Z, closest)
        stale = torch.where(improved, 0, stale + (again | (not together)))
        if bool((stale > together).all()):
            break
    return found.better(in_place(found, rows, best.Z, best.size))


def _closest(
    part: Problem, planes: CuttingPlanes, model: tuple[Tensor, Tensor], best: Found
) -> Tensor:
    """The point closest to X that all models put on the boundary."""
    if not _takes_planes(part):
        w, need = model
        return part.X + part.step(w, -need, part.X)
    if part.norm == "l2":
        return _least_l2(part, planes)
    X = part.X.double()
    low, high = ((end - X).flatten(1) for end in (part.low, part.high))
    delta = planes.least_linf(low, high, (best.Z - X).flatten(1)).view_as(X)
    return (X + delta).to(part.X).clamp(part.low, part.high)


def approach(account: Account, part: Problem, best: Found, closest: Tensor) -> tuple[Found, Tensor]:
    """As far from the best points towards others as the network confirms; whether all the way."""
    start, open_ = best.Z, torch.ones_like(best.size).bool()
    all_the_way = ~open_
    for share in _SHARES:
        P = (start + share * (closest - start)).clamp(part.low, part.high)
        reached = open_ & (part.goal.margin(account.logits(P)) > 0)
        best = best.better(Found(P, torch.where(reached, part.size(P), torch.inf)))
        open_ = open_ & ~reached
        all_the_way = all_the_way | (reached & (share == 1))
        if not bool(open_.any()):
            break
    return best, all_the_way


def in_place(found: Found, rows: Tensor, Z: Tensor, size: Tensor) -> Found:
    """Points for some rows only, as if the others had found nothing."""
    nothing = torch.full_like(found.size, torch.inf)
    return Found(found.Z.index_copy(0, rows, Z), nothing.index_copy(0, rows, size))
