"""The projections against linear and quadratic programmes, and against all subsets of pixels."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from torch import Tensor

from guidxmage.adversarial.projection import project
from guidxmage.errors import InputError
from tests.test_laws import properties

seeds = st.integers(0, 10_000)


def problem(seed: int, shape: tuple[int, ...] = (3, 2, 2, 3)) -> tuple[Tensor, Tensor, Tensor]:
    """Images, normals with some zeros, and what share of the largest gain is needed (some > 1)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=generator, dtype=torch.float64)
    w = torch.randn(shape, generator=generator, dtype=torch.float64)
    w[torch.rand(shape, generator=generator) < 0.2] = 0
    share = torch.rand(shape[0], generator=generator, dtype=torch.float64) * 1.2
    return x, w, share


def most(x: Tensor, w: Tensor) -> Tensor:
    return (w.abs() * torch.where(w > 0, 1 - x, x)).flatten(1).sum(1)


def offset(x: Tensor, w: Tensor, need: Tensor) -> Tensor:
    return -(w * x).flatten(1).sum(1) - need


def optimum(norm: str, x: np.ndarray, w: np.ndarray, need: float) -> float:
    """The smallest norm, by another solver."""
    n = len(w)
    box = [(-v, 1 - v) for v in x]
    if norm == "l1":
        split = [(0, 1 - v) for v in x] + [(0, v) for v in x]
        return float(linprog(np.ones(2 * n), A_ub=[np.r_[-w, w]], b_ub=[-need], bounds=split).fun)
    if norm == "linf":
        eye = np.eye(n)
        rows = np.vstack([np.r_[-w, 0], np.c_[eye, -np.ones(n)], np.c_[-eye, -np.ones(n)]])
        limits = np.r_[-need, np.zeros(2 * n)]
        cost = np.r_[np.zeros(n), 1]
        return float(linprog(cost, A_ub=rows, b_ub=limits, bounds=[*box, (0, None)]).fun)
    constraint = {"type": "ineq", "fun": lambda z: w @ z - need, "jac": lambda z: w}
    solved = minimize(
        lambda z: z @ z,
        np.zeros(n),
        jac=lambda z: 2 * z,
        bounds=box,
        constraints=[constraint],
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    return float(solved.fun**0.5)


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
@given(seed=seeds)
@properties
def test_convex_norms(norm: str, seed: int) -> None:
    x, w, share = problem(seed)
    need = share * most(x, w)
    found = project(x, w, offset(x, w, need), norm)
    assert torch.equal(found.feasible, share <= 1)
    for row in found.feasible.nonzero()[:, 0]:
        delta = found.delta[row].flatten().numpy()
        pixels, normal = x[row].flatten().numpy(), w[row].flatten().numpy()
        assert (pixels + delta >= -1e-12).all()
        assert (pixels + delta <= 1 + 1e-12).all()
        assert normal @ delta >= float(need[row]) - 1e-10
        size = np.linalg.norm(delta, ord={"l1": 1, "l2": 2, "linf": np.inf}[norm])
        best = optimum(norm, pixels, normal, float(need[row]))
        assert size <= best * (1 + 1e-6) + 1e-9


@pytest.mark.parametrize("norm", ["l0", "erase"])
@given(seed=seeds)
@properties
def test_fewest_pixels(norm: str, seed: int) -> None:
    x, w, share = problem(seed, (2, 2, 1, 6))
    ends = torch.zeros_like(x) if norm == "erase" else (w > 0).double()
    gains = ((ends - x) * w).sum(1).flatten(1)
    need = share * gains.clamp_min(0).sum(1)
    found = project(x, w, offset(x, w, need), norm)
    for row in range(2):
        sizes = [
            size
            for size in range(7)
            for chosen in combinations(range(6), size)
            if gains[row, list(chosen)].sum() >= need[row] - 1e-12
        ]
        assert bool(found.feasible[row]) == bool(sizes)
        if sizes:
            changed = int((found.delta[row] != 0).any(0).sum())
            assert changed <= min(sizes)
            assert (w[row] * found.delta[row]).sum() >= need[row] - 1e-10


@pytest.mark.parametrize("norm", ["l0", "erase", "l1", "l2", "linf"])
def test_rows_are_independent_and_masks_hold(norm: str) -> None:
    x, w, share = problem(3)
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    b = offset(x, w, share * 0.2 * most(x, w))
    together = project(x, w, b, norm, mask=mask)
    assert (together.delta[~mask] == 0).all()
    for row in range(len(x)):
        own = slice(row, row + 1)
        alone = project(x[own], w[own], b[own], norm, mask=mask[own])
        assert torch.allclose(alone.delta[0], together.delta[row], rtol=1e-12, atol=1e-14)


def test_what_holds_already_is_left_alone() -> None:
    x, w, _ = problem(5)
    found = project(x, w, offset(x, w, torch.full((3,), -1.0, dtype=torch.float64)), "l2")
    assert (found.delta == 0).all()
    assert found.feasible.all()


def test_a_plane_without_normal_cannot_be_reached() -> None:
    x, w, _ = problem(5)
    found = project(x, 0 * w, torch.full((3,), -1.0, dtype=torch.float64), "l2")
    assert not found.feasible.any()
    assert (found.delta == 0).all()


def test_nan_is_refused() -> None:
    x, w, _ = problem(5)
    with pytest.raises(InputError, match="NaN"):
        project(x, w * float("nan"), torch.zeros(3, dtype=torch.float64), "l2")
    with pytest.raises(InputError, match="unknown"):
        project(x, w, torch.zeros(3, dtype=torch.float64), "l3")
