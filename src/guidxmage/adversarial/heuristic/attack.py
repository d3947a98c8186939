"""The attack: the smallest perturbation that changes what a network says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from guidxmage.adversarial.heuristic.best_points import Found
from guidxmage.adversarial.heuristic.confirm import Samples, confirm
from guidxmage.adversarial.heuristic.gradient_budget import Account, SpentError
from guidxmage.adversarial.heuristic.grid_budget import COUNTING, GridAccount
from guidxmage.adversarial.heuristic.l2_linf import search_dense
from guidxmage.adversarial.heuristic.notes import notes_for
from guidxmage.adversarial.heuristic.problem import Problem, norms, pose, spread
from guidxmage.adversarial.heuristic.result import AttackResult, Optimality
from guidxmage.adversarial.heuristic.sparse import search_l1, search_pixels
from guidxmage.adversarial.heuristic.target_model import (
    TargetModel,
    as_explainer,
    refuse_other_outputs,
)
from guidxmage.engine.capture.as_found import running
from guidxmage.engine.linear_regions.walk import walk
from guidxmage.errors import InputError
from guidxmage.explainer import Explainer
from guidxmage.inputs.input_space import Images

NORMS = ("l2", "linf", "l1", "l0", "erase")
_WAYS = {"l1": search_l1, "l0": search_pixels, "erase": search_pixels}
# An entry as near to a limit of the box is held by it: the last digits are rounding.
_AT_LIMIT = 1e-6
_DUAL = {"l2": "l2", "linf": "l1", "l1": "linf"}


def attack(
    model: nn.Module | Explainer,
    images: Images,
    labels: Any = None,
    *,
    norm: str = "l2",
    targets: Any = None,
    mask: Tensor | None = None,
    budget: int = 40,
    quantise: bool = False,
    seed: int = 0,
    count_regions: int = 0,
    progress: Callable[[float], None] | None = None,
) -> AttackResult:
    """The smallest perturbations of images in [0, 1] that change the network's answer.

    model: a module on images in [0, 1], or an Explainer (its preprocessing is part of the attacked
    function). images: as for `Explainer.explain`; tensors (B, C, H, W). labels: the classes to
    leave, by default the network's own answers; an image that is not classified so has norm 0.
    targets: classes to reach instead. Both are a class index or name, or (B,) indices. norm: "l2",
    "linf", "l1", "l0" (fewest pixels changed) or "erase" (fewest pixels set to 0). mask: bool
    (H, W), (B, H, W) or (B, C, H, W), True where pixels may change. budget: gradients per image.
    quantise: results lie on the 8-bit grid. count_regions: walk the line to each result through at
    most that many regions and count them. progress: called with the share of the budget that is
    spent, 0–1, before each gradient; what it raises ends the attack.

    Images that cannot be attacked (values outside [0, 1], NaN scores, a mask without pixels, a
    target that is the label) fail with a note and leave the others alone. Raises InputError where
    none is left, and for unusable arguments. The network and the global random state are untouched.
    """
    explainer = as_explainer(model)
    refuse_other_outputs(explainer)
    if norm not in NORMS:
        raise InputError(f"norm {norm!r} is unknown; choose one of {', '.join(NORMS)}")
    if budget < 1:
        raise InputError(f"a budget of {budget} gradients is too small; give at least 1")
    with running(explainer.model):
        X = explainer.read(images)
        X = X if X.ndim == 4 else X[None]
        refuse_other_outputs(explainer, X)
        target_model = TargetModel(explainer, X)
        problem, already, refused = pose(target_model, X, (labels, targets), norm, mask)
        rows = torch.tensor([n for n in range(len(X)) if n not in refused], device=X.device)
        if not len(rows):
            raise InputError(next(iter(refused.values())))
        problem, already = problem.rows(rows), already[rows]
        open_ = (~already).nonzero()[:, 0]
        samples: list[Samples] = [[(0.0, image)] for image in problem.X]
        if len(open_):
            kind = GridAccount if quantise else Account
            account = kind(target_model, problem.rows(open_), budget)
            account.tell(progress)
            _search(account, seed)
            for place, row in enumerate(open_.tolist()):
                samples[row] = account.samples(place)
        result = _report(target_model, problem, samples, already, (quantise, count_regions))
        return result.placed(rows, X, refused) if refused else result


# --- the search ----------------------------------------------------------------------------------


def _search(account: Account, seed: int) -> None:
    """Spend the budget."""
    with suppress(SpentError):
        way = _WAYS.get(account.problem.norm, search_dense)
        way(account, account.problem, seed)


# --- the report ----------------------------------------------------------------------------------


def _report(
    target_model: TargetModel,
    problem: Problem,
    samples: Sequence[Samples],
    already: Tensor,
    how: tuple[bool, int],
) -> AttackResult:
    quantised, cap = how
    forwards, backwards = (
        target_model.forwards / len(samples),
        target_model.backwards / len(samples),
    )
    fixed = already | torch.full_like(already, quantised or problem.norm in COUNTING)
    found, margin = confirm(target_model, problem, samples, fixed)
    success = torch.isfinite(found.size)
    failed = spread(~success, found.Z)
    nan = float("nan")
    Z = torch.where(failed, torch.full_like(found.Z, nan), found.Z)
    delta = Z.double() - problem.X.double()
    measured = {
        name: torch.where(success, norms(delta, name), nan).to(Z)
        for name in ("l0", "l1", "l2", "linf")
    }
    key = "l0" if problem.norm == "erase" else problem.norm
    own = _classes(target_model, problem.X)
    return AttackResult(
        adversarial=Z,
        original=problem.X,
        norm_name=problem.norm,
        norm=measured[key],
        norms=measured,
        success=success,
        already=already,
        from_class=own,
        to_class=_classes(target_model, found.Z),
        margin=torch.where(success, margin, nan),
        forwards=forwards,
        backwards=backwards,
        decisions_flipped=_flipped(target_model, problem.X, found.Z, success),
        regions_crossed=_regions(target_model, problem.X, found.Z, success, cap),
        optimality=_optimality(target_model, problem, found, success & ~already),
        quantised=quantised,
        evidence="region"
        if target_model.piecewise_linear
        else f"not available: {target_model.reason}",
        notes=notes_for(target_model, problem, success, already),
    )


def _classes(target_model: TargetModel, images: Tensor) -> Tensor:
    """What the network calls each image alone: in a batch the last bit may be another."""
    return torch.cat([target_model.logits(image[None]).argmax(1) for image in images])


def _flipped(target_model: TargetModel, X: Tensor, Z: Tensor, success: Tensor) -> Tensor | None:
    before, after = target_model.trail(X), target_model.trail(Z)
    if before is None or after is None:
        return None
    return torch.where(success, before.distance(after).total.to(X), float("nan"))


def _regions(
    target_model: TargetModel, X: Tensor, Z: Tensor, success: Tensor, cap: int
) -> Tensor | None:
    """Regions on each line from X to Z, at most `cap`; None where they are not counted."""
    if cap < 1 or target_model.network is None:
        return None
    counts = torch.where(success, 0.0, float("nan")).to(X)
    rows = success.nonzero()[:, 0]
    if len(rows):
        lines = target_model.network.lines(X[rows], Z[rows] - X[rows])
        low = torch.zeros(len(rows), dtype=torch.float64, device=X.device)
        for stretch in walk(target_model.network.program, lines, low, low + 1, cap=cap):
            # A line to itself ends where it begins; slivers are several flips at one point.
            apart = stretch.high - stretch.low > 4 * torch.finfo(torch.float64).eps
            counts[rows[stretch.rows[apart]]] += 1
    return counts


def _optimality(
    target_model: TargetModel, problem: Problem, found: Found, rows: Tensor
) -> Optimality:
    """See `Optimality`; NaN for rows without a perturbation and for norms that count pixels."""
    nan = torch.full_like(found.size, float("nan"))
    index = rows.nonzero()[:, 0]
    empty = torch.zeros_like(rows) if target_model.piecewise_linear else None
    if problem.norm not in _DUAL or not len(index):
        return Optimality(nan, nan, nan, nan, empty)
    part, Z = problem.rows(index), found.Z[index]
    local = target_model.local(Z, part.goal)
    delta = Z - part.X
    at_low, at_high = part.low + _AT_LIMIT >= Z, part.high - _AT_LIMIT <= Z
    held = (at_low & (local.normal < 0)) | (at_high & (local.normal > 0))
    free = ~held if part.mask is None else ~held & part.mask
    w, d = local.normal * free, delta * free
    product = norms(w, _DUAL[part.norm]) * norms(d, part.norm)
    alignment = (w * d).flatten(1).sum(1) / product.clamp_min(1e-30)
    closest = part.X + part.step(local.normal, local.value, Z)
    least = part.size(closest)
    follows = empty
    if empty is not None:
        network = target_model.network
        assert network is not None
        same = network.record(closest)[1].same(network.record(Z)[1])
        follows = empty.index_copy(0, index, same.to(empty.device))
    return Optimality(
        nan.index_copy(0, index, alignment),
        nan.index_copy(0, index, (held & (delta != 0)).flatten(1).sum(1).to(nan)),
        nan.index_copy(0, index, least),
        nan.index_copy(0, index, part.size(Z) / least.clamp_min(1e-30) - 1),
        follows,
    )
