"""The last digits: the exact point at which the boundary is crossed, confirmed in float64."""

from __future__ import annotations

import copy
from math import isnan

import torch
from torch import Tensor, nn

from guidxmage.adversarial.heuristic.cutting_planes import CuttingPlanes
from guidxmage.adversarial.heuristic.problem import Problem, dot, spread
from guidxmage.adversarial.heuristic.search import Found
from guidxmage.adversarial.heuristic.target_model import TargetModel
from guidxmage.engine.linear_regions.boundary import cross_boundary
from guidxmage.engine.linear_regions.walk import Lines

# Shares of its perturbation by which a sample on the boundary is moved beyond it.
_BEYOND = (0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)


_HALVINGS = 16

# How many times what a region's model asks for is tried where the search has not crossed.
_SURELY = 1e-3
_FORCES = tuple(1.5**n for n in range(1, 26))


def force(target_model: TargetModel, problem: Problem, found: Found, steps: int = 2) -> Found:
    """Cross the boundary at any price where the search ended on the near side.

    The step of the last region's model is asked for more and more, up to what box and mask allow;
    with a second of the `steps`, the models of two regions are also met together.
    """
    rows = (~torch.isfinite(found.size)).nonzero()[:, 0]
    if not len(rows):
        return found
    part, Z = problem.rows(rows), found.Z[rows]
    planes = CuttingPlanes.empty(len(rows), Z, 2)
    best = Found.nothing(part)
    for number in range(min(2, max(1, steps))):
        local = target_model.local(Z, part.goal)
        need = dot(local.normal, Z - part.X) - local.value
        planes = planes.add(_free(part, local.normal), need + _SURELY * need.abs())
        if number == 0:
            best = best.better(_asked_for_more(target_model, part, local.normal, need))
        Z = _least_l2(part, planes)
        crossed = part.goal.margin(target_model.logits(Z)) > 0
        best = best.better(Found(Z, torch.where(crossed, part.size(Z), torch.inf)))
    return found.better(_at(found, rows, best.Z, best.size))


def _asked_for_more(
    target_model: TargetModel, part: Problem, normal: Tensor, need: Tensor
) -> Found:
    found = Found.nothing(part)
    open_ = torch.ones_like(need).bool()
    for factor in _FORCES:
        P = part.X + part.step(normal, -factor * need.abs(), part.X)
        reached = open_ & (part.goal.margin(target_model.logits(P)) > 0)
        found = found.better(Found(P, torch.where(reached, part.size(P), torch.inf)))
        open_ = open_ & ~reached
        if not bool(open_.any()):
            break
    return found


def _free(part: Problem, normal: Tensor) -> Tensor:
    return normal if part.mask is None else normal * part.mask


def _least_l2(part: Problem, planes: CuttingPlanes) -> Tensor:
    """The point of least l2 norm that all models put beyond the boundary."""
    low, high = ((end - part.X.double()).flatten(1) for end in (part.low, part.high))
    delta = planes.least_l2(low, high).view_as(part.X)
    return (part.X.double() + delta).to(part.X).clamp(part.low, part.high)


def shorten(target_model: TargetModel, problem: Problem, found: Found) -> Found:
    """Shorten each perturbation to where its line from X crosses the boundary.

    The recordings narrow the bracket, and the regions left in it are walked in closed form; on
    networks that are not piecewise linear the bracket is bisected.
    """
    rows = torch.isfinite(found.size).nonzero()[:, 0]
    if not len(rows):
        return found
    if target_model.network is None:
        return _bisected(target_model, problem, found)
    part, Z = problem.rows(rows), found.Z[rows]
    origin = target_model.to_input(part.X)
    lines = Lines(origin, target_model.to_input(Z) - origin)
    logits = target_model.logits(Z)
    up, down = part.goal.pair(logits, torch.full_like(part.goal.classes, -1))
    contrast = torch.zeros_like(logits).scatter_(1, down[:, None], 1)
    contrast = contrast.scatter_add_(1, up[:, None], -torch.ones_like(contrast[:, :1]))
    ends = torch.zeros(len(rows), dtype=torch.float64, device=Z.device)
    crossed = cross_boundary(
        target_model.network.program,
        lines,
        contrast,
        ends,
        ends + 1,
        rows=max(1, target_model.chunk // 2),
    )
    target_model.forwards += int(crossed.forward_passes.sum())
    share = torch.where(crossed.found, crossed.s, 1.0).to(Z)
    for beyond in (0.0, 1e-6, 1e-4):
        P = part.X + spread((share * (1 + beyond)).clamp(max=1), Z) * (Z - part.X)
        reached = part.goal.margin(target_model.logits(P)) > 0
        size = torch.where(reached, part.size(P), torch.inf)
        kept = found.better(_at(found, rows, P, size))
        found = kept
        if bool(reached.all()):
            break
    return found


def _bisected(target_model: TargetModel, problem: Problem, found: Found) -> Found:
    low, high = torch.zeros_like(found.size), torch.ones_like(found.size)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        P = problem.X + spread(middle, found.Z) * (found.Z - problem.X)
        reached = (problem.goal.margin(target_model.logits(P)) > 0) & torch.isfinite(found.size)
        high, low = torch.where(reached, middle, high), torch.where(reached, low, middle)
    P = problem.X + spread(high, found.Z) * (found.Z - problem.X)
    reached = (problem.goal.margin(target_model.logits(P)) > 0) & torch.isfinite(found.size)
    return found.better(Found(P, torch.where(reached, problem.size(P), torch.inf)))


# What a step onto a region's boundary is lengthened by, so that rounding does not undo it.
_ROUNDING = {torch.float32: 1e-6, torch.float64: 1e-10}
_SHARES = (1.0, 0.5, 0.25, 0.125)
_PLACES = 6
# For linf every step with several models is a linear programme: small images only.
_FEW = 512


def _takes_planes(problem: Problem) -> bool:
    """Whether the models of several regions are met together."""
    return problem.norm == "l2" or (problem.norm == "linf" and problem.X[0].numel() <= _FEW)


def polish(target_model: TargetModel, problem: Problem, found: Found, steps: int) -> Found:
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
        local = target_model.local(Z, part.goal)
        need = dot(local.normal, Z - part.X) - local.value
        need = need + _ROUNDING.get(Z.dtype, 1e-3) * need.abs()
        planes = planes.add(_free(part, local.normal), need)
        closest = _closest(part, planes, (local.normal, need), best)
        before, best, reached = best, *_approach(target_model, part, best, closest)
        improved = best.size < before.size * (1 - 1e-9)
        # Models that do not bound the norm from below, or nothing but the last digits: begin anew.
        again = reached | (part.size(closest) >= best.size * (1 - 1e-9))
        planes = planes.only_newest(again)
        Z = torch.where(spread(again, Z), best.Z, closest)
        stale = torch.where(improved, 0, stale + (again | (not together)))
        if bool((stale > together).all()):
            break
    return found.better(_at(found, rows, best.Z, best.size))


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


def _approach(
    target_model: TargetModel, part: Problem, best: Found, closest: Tensor
) -> tuple[Found, Tensor]:
    """As far from the best points towards others as the network confirms; whether all the way."""
    start, open_ = best.Z, torch.ones_like(best.size).bool()
    all_the_way = ~open_
    for share in _SHARES:
        P = (start + share * (closest - start)).clamp(part.low, part.high)
        reached = open_ & (part.goal.margin(target_model.logits(P)) > 0)
        best = best.better(Found(P, torch.where(reached, part.size(P), torch.inf)))
        open_ = open_ & ~reached
        all_the_way = all_the_way | (reached & (share == 1))
        if not bool(open_.any()):
            break
    return best, all_the_way


def _at(found: Found, rows: Tensor, Z: Tensor, size: Tensor) -> Found:
    """Points for some rows only, as if the others had found nothing."""
    nothing = torch.full_like(found.size, torch.inf)
    return Found(found.Z.index_copy(0, rows, Z), nothing.index_copy(0, rows, size))


def confirm(
    target_model: TargetModel, problem: Problem, found: Found, fixed: Tensor
) -> tuple[Found, Tensor]:
    """What the network confirms for each image alone, and in float64; also the margins, float64.

    A sample on the boundary to the last bit is moved beyond it by the least of a few shares of its
    perturbation that both confirm, unless it is `fixed` (n,). Others are lost: size inf.
    """
    exact = copy.deepcopy(target_model.model).double()
    points, sizes, margins = [], [], []
    lost = found.size.new_tensor(torch.inf)
    for row in range(len(found.Z)):  # one image at a time is the point here
        one = problem.rows(torch.tensor([row], device=found.Z.device))
        point, margin = found.Z[row : row + 1], float("nan")
        if torch.isfinite(found.size[row]):
            shares = _BEYOND[:1] if bool(fixed[row]) else _BEYOND
            point, margin = _confirmed(target_model, exact, one, point, shares)
        points.append(point)
        margins.append(margin)
        sizes.append(lost if isnan(margin) else one.size(point)[0])
    return Found(torch.cat(points), torch.stack(sizes)), torch.tensor(margins).double()


def _confirmed(
    target_model: TargetModel, exact: nn.Module, one: Problem, Z: Tensor, shares: tuple[float, ...]
) -> tuple[Tensor, float]:
    for share in shares:
        moved = (one.X + (1 + share) * (Z - one.X)).clamp(one.low, one.high) if share else Z
        plain = float(one.goal.margin(target_model.logits(moved)))
        with torch.no_grad():
            margin = float(one.goal.margin(exact(target_model.to_input(moved.double()))))
        if plain > 0 and margin > 0:
            return moved, margin
    return Z, float("nan")
