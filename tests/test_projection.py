"""The projections against linear and quadratic programmes, and against all subsets of pixels."""

from __future__ import annotations

from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from torch import Tensor

from guidxmage.adversarial.heuristic.cutting_planes import CuttingPlanes
from guidxmage.adversarial.heuristic.projection import nearby_l1, project
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


# --- several half-spaces -------------------------------------------------------------------------


def _half_spaces(seed: int, size: int, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, half-spaces ⟨W, δ⟩ ≥ d, and a δ within the box that reaches them all."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(3, 1, 1, size, generator=generator, dtype=torch.float64)
    W = torch.randn(3, count, size, generator=generator, dtype=torch.float64)
    inside = torch.rand(3, size, generator=generator, dtype=torch.float64) - x.flatten(1)
    d = torch.einsum("nkd,nd->nk", W, 0.7 * inside)
    return x, W, d, 0.7 * inside


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize(("size", "count"), [(3, 2), (12, 4), (60, 6)])
def test_bundles_agree_with_a_solver(norm: str, size: int, count: int) -> None:
    for seed in range(4):
        x, W, d, known = _half_spaces(seed, size, count)
        planes = CuttingPlanes.empty(3, x, 6)
        for k in range(count):
            planes = planes.add(W[:, k].view(3, 1, 1, size), d[:, k])
        low, high = -x.flatten(1), 1 - x.flatten(1)
        least = {"l2": planes.least_l2, "linf": partial(planes.least_linf, known=known)}
        found = least[norm](low, high)
        assert bool(((found >= low) & (found <= high)).all())
        for row in range(3):
            args = (W[row].numpy(), d[row].numpy(), low[row].numpy(), high[row].numpy())
            best = _solved(norm, *args)
            assert (W[row] @ found[row] - d[row]).min() > -1e-8
            size_found = float(
                torch.linalg.vector_norm(found[row], 2 if norm == "l2" else torch.inf)
            )
            assert size_found == pytest.approx(best, rel=2e-6 if norm == "l2" else 1e-5, abs=2e-6)


def _solved(norm: str, W: Any, d: Any, low: Any, high: Any) -> float:
    n = W.shape[1]
    if norm == "linf":
        rows = np.block([[-W, np.zeros((len(d), 1))], [np.eye(n), -np.ones((n, 1))]])
        rows = np.concatenate([rows, np.block([-np.eye(n), -np.ones((n, 1))])])
        bounds = [*zip(low, high, strict=True), (0, None)]
        ends = np.concatenate([-d, np.zeros(2 * n)])
        return float(linprog(np.append(np.zeros(n), 1), A_ub=rows, b_ub=ends, bounds=bounds).fun)
    found = minimize(
        lambda v: v @ v,
        np.zeros(n),
        jac=lambda v: 2 * v,
        bounds=list(zip(low, high, strict=True)),
        constraints={"type": "ineq", "fun": lambda v: W @ v - d, "jac": lambda v: W},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    return float(np.sqrt(found.fun))


@given(seed=seeds, share=st.floats(0.05, 0.95), tau=st.sampled_from([0.01, 0.1, 1.0]))
@properties
def test_proximal_steps_agree_with_a_solver(seed: int, share: float, tau: float) -> None:
    x, w, _ = problem(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    delta = (torch.rand(x.shape, generator=generator, dtype=torch.float64) - x) * 0.7
    need, taus = share * most(x, w), torch.full((len(x),), tau, dtype=torch.float64)
    found = nearby_l1(x, delta, (w, need), taus, (0.0, 1.0))
    assert bool(((x + found >= -1e-12) & (x + found <= 1 + 1e-12)).all())
    assert bool(((w * found).flatten(1).sum(1) >= need - 1e-9).all())
    cost = found.flatten(1).abs().sum(1) + (found - delta).flatten(1).square().sum(1) / (2 * tau)
    for row in range(len(x)):
        args = [part[row].flatten().numpy() for part in (x, w, delta)]
        assert float(cost[row]) == pytest.approx(_proximal(*args, float(need[row]), tau), rel=1e-6)


def _proximal(x: Any, w: Any, delta: Any, need: float, tau: float) -> float:
    """The least value, δ′ = p − q with p, q ≥ 0, by a quadratic programme."""
    n = len(x)

    def value(z: Any) -> Any:
        return z.sum() + ((z[:n] - z[n:] - delta) ** 2).sum() / (2 * tau)

    def slope(z: Any) -> Any:
        pull = (z[:n] - z[n:] - delta) / tau
        return 1 + np.r_[pull, -pull]

    rows = np.r_[w, -w]
    reach = {"type": "ineq", "fun": lambda z: rows @ z - need, "jac": lambda z: rows}
    solved = minimize(
        value,
        np.r_[np.where(w > 0, 1 - x, 0), np.where(w < 0, x, 0)],
        jac=slope,
        bounds=[(0, 1 - v) for v in x] + [(0, v) for v in x],
        constraints=reach,
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    return float(solved.fun)


def test_bundles_forget_the_oldest() -> None:
    x, W, d, _ = _half_spaces(0, 5, 3)
    planes = CuttingPlanes.empty(3, x, 2)
    for k in range(3):
        planes = planes.add(W[:, k].view(3, 1, 1, 5), d[:, k])
    assert torch.allclose(planes.W, torch.nn.functional.normalize(W[:, 1:], dim=2))
    newest = planes.only_newest(torch.tensor([True, False, True]))
    assert torch.isfinite(newest.d).sum(1).tolist() == [1, 2, 1]


@given(seed=seeds)
@properties
def test_proximal_steps_across_several_half_spaces(seed: int) -> None:
    """Against a quadratic programme in the positive and negative parts of δ."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(1, 1, 2, 3, generator=generator, dtype=torch.float64)
    W = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    inside = torch.rand(6, generator=generator, dtype=torch.float64) - x.flatten()
    d = W @ inside * 0.7  # reached by a point of the box
    known = torch.randn(6, generator=generator, dtype=torch.float64) * 0.2
    tau = torch.rand(1, generator=generator, dtype=torch.float64) + 0.05
    planes = CuttingPlanes.empty(1, x, 4)
    for w, need in zip(W, d, strict=True):
        planes = planes.add(w.view_as(x), need.view(1))
    low, high = -x.flatten(1), 1 - x.flatten(1)
    found = planes.nearby_l1(low, high, known[None], tau)[0]
    assert float((d - W @ found).max()) < 1e-7
    assert bool(((found >= low) & (found <= high)).all())

    def cost(delta: np.ndarray) -> float:
        far = delta - known.numpy()
        return float(np.abs(delta).sum() + far @ far / (2 * float(tau)))

    parts = minimize(
        lambda p: p.sum() + ((p[:6] - p[6:] - known.numpy()) ** 2).sum() / (2 * float(tau)),
        np.full(12, 0.1),
        bounds=[(0, v) for v in [*high[0].tolist(), *(-low[0]).tolist()]],
        constraints={"type": "ineq", "fun": lambda p: W.numpy() @ (p[:6] - p[6:]) - d.numpy()},
        options={"ftol": 1e-12, "maxiter": 500},
    )
    if parts.success:
        assert cost(found.numpy()) <= cost(parts.x[:6] - parts.x[6:]) + 1e-5
