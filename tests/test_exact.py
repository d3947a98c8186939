"""The certified minimum, checked against brute force that shares no code with it."""

from __future__ import annotations

from itertools import pairwise, product
from math import inf

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog, nnls
from torch import Tensor, nn

from guidxmage import Explainer, InputError, UnsupportedOperatorError
from guidxmage.adversarial import CertifiedMinimum, certify
from guidxmage.adversarial.certified.enclosure import Enclosure
from guidxmage.adversarial.certified.nearest_point import Box, length, nearest
from tests.blobs import trained_on_blobs
from tests.networks import SMALL_NETWORKS

Array = NDArray[np.float64]


# --- brute force: every pattern of a fully connected network -------------------------------------


def tiny(seed: int, inputs: int = 3, *widths: int) -> nn.Sequential:
    """A network with random weights, larger than usual, so that its regions are small."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    sizes = [inputs, *(widths or (5, 3))]
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    layers.append(nn.Linear(sizes[-1], 3))
    model = nn.Sequential(*layers).double().eval().requires_grad_(False)
    for layer in layers:
        if isinstance(layer, nn.Linear):
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * 1.5)
            layer.bias.copy_(torch.randn(layer.bias.shape, generator=generator) * 0.7)
    return model


def image(seed: int, inputs: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(100 + seed)
    x = torch.rand(1, 1, 1, inputs, generator=generator, dtype=torch.float64)
    return x.where(x > 0.3, 0)  # some pixels at the end of the box


def regions(model: nn.Sequential) -> list[tuple[Array, Array, Array, Array]]:
    """For each pattern of ReLUs: G Z + h ≥ 0 where it holds, logits W Z + c there."""
    linears = [layer for layer in model if isinstance(layer, nn.Linear)]
    found = []
    for pattern in product((0.0, 1.0), repeat=sum(layer.out_features for layer in linears[:-1])):
        W, c = np.eye(linears[0].in_features), np.zeros(linears[0].in_features)
        rows, constants, used = [], [], 0
        for layer in linears:
            weight, bias = layer.weight.numpy(), layer.bias.numpy()
            W, c = weight @ W, weight @ c + bias
            if layer is not linears[-1]:
                on = np.array(pattern[used : used + len(c)])
                used += len(c)
                rows.append((2 * on - 1)[:, None] * W)
                constants.append((2 * on - 1) * c)
                W, c = on[:, None] * W, on * c
        found.append((np.concatenate(rows), np.concatenate(constants), W, c))
    return found


def least(G: Array, h: Array, norm: str) -> float:
    """The least ‖δ‖ with G δ ≥ h: Lawson & Hanson's least distance programme, or one for HiGHS."""
    n = G.shape[1]
    if norm == "l2":
        E = np.concatenate([G.T, h[None]])
        f = np.append(np.zeros(n), 1.0)
        u, residual = nnls(E, f, maxiter=1000)
        r = E @ u - f
        return inf if residual < 1e-9 else float(np.linalg.norm(r[:n] / r[n]))
    rows = np.concatenate([np.pad(-G, ((0, 0), (0, 1))), np.pad(np.eye(n), ((0, 0), (0, 1)))])
    rows = np.concatenate([rows, np.pad(-np.eye(n), ((0, 0), (0, 1)))])
    rows[len(G) :, -1] = -1
    solved = linprog(
        np.append(np.zeros(n), 1),
        A_ub=rows,
        b_ub=np.append(-h, np.zeros(2 * n)),
        bounds=[(None, None)] * n + [(0, None)],
    )
    return float(solved.fun) if solved.status == 0 else inf


def brute_force(
    model: nn.Sequential, X: Tensor, norm: str, target: int | None = None, free: Array | None = None
) -> float:
    x = X.flatten().numpy()
    free = np.ones(len(x), dtype=bool) if free is None else free
    label = int(model(X).argmax())
    box = np.concatenate([np.eye(len(x)), -np.eye(len(x))])[:, free]
    edges = np.concatenate([-x, x - 1])
    sizes = []
    for G, h, W, c in regions(model):
        winners = [target] if target is not None else [k for k in range(3) if k != label]
        for winner in winners:
            losers = [k for k in range(3) if k != winner] if target is not None else [label]
            D, e = W[winner] - W[losers], c[winner] - c[losers]
            A = np.concatenate([G[:, free], D[:, free], box])
            b = np.concatenate([-(G @ x + h), -(D @ x + e), edges])
            sizes.append(least(A, b, norm))
    return min(sizes)


def check(certificate: CertifiedMinimum, model: nn.Module, X: Tensor, expected: float) -> None:
    assert certificate.proved
    assert certificate.reason == ""
    assert certificate.lower_bound <= certificate.upper_bound
    if expected == inf:
        assert certificate.adversarial is None
        assert certificate.lower_bound == inf
        assert certificate.to_class == -1
        return
    assert certificate.lower_bound == pytest.approx(expected, rel=2e-6)
    assert certificate.upper_bound == pytest.approx(expected, rel=2e-6)
    Z = certificate.adversarial
    assert Z is not None
    assert 0 <= float(Z.min()) <= float(Z.max()) <= 1
    assert length((Z - X[0]).flatten().numpy(), certificate.norm_name) == pytest.approx(
        certificate.size, abs=1e-15
    )
    assert int(model(Z[None]).argmax()) == certificate.to_class != certificate.from_class


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("seed", range(6))
def test_brute_force_agrees(seed: int, norm: str) -> None:
    model, X = tiny(seed), image(seed)
    check(certify(model, X, norm=norm), model, X, brute_force(model, X, norm))


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("seed", [1, 2])
def test_brute_force_agrees_with_a_mask(seed: int, norm: str) -> None:
    model, X = tiny(seed, 4, 4, 3), image(seed, 4)
    free = np.array([True, False, True, True])
    certificate = certify(model, X, norm=norm, mask=torch.from_numpy(free).reshape(1, 4))
    check(certificate, model, X, brute_force(model, X, norm, free=free))
    if certificate.adversarial is not None:
        assert bool((certificate.adversarial == X[0])[0, 0, ~free].all())


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("seed", [0, 3, 4])
def test_brute_force_agrees_for_each_target(seed: int, norm: str) -> None:
    model, X = tiny(seed, 3, 6), image(seed)
    label = int(model(X).argmax())
    sizes = []
    for target in (k for k in range(3) if k != label):
        certificate = certify(model, X, norm=norm, target=target)
        check(certificate, model, X, brute_force(model, X, norm, target))
        assert certificate.to_class in (target, -1)
        sizes.append(certificate.size)
    assert min(sizes) == pytest.approx(certify(model, X, norm=norm).size, rel=2e-6)


# --- other decisions: a grid over two inputs -----------------------------------------------------


class _Pooled(nn.Module):
    """Two pixels, seen through a max-pool, a ReLU6 and a leaky ReLU with a way around."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn(2, 12, generator=generator) * 2)
        self.second = nn.Parameter(torch.randn(6, 4, generator=generator) * 1.5)
        self.last = nn.Parameter(torch.randn(4, 3, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        pooled = nn.functional.max_pool1d(x.flatten(1) @ self.first, 2)
        hidden = nn.functional.relu6(pooled @ self.second)
        return (hidden + nn.functional.leaky_relu(hidden - 1, 0.2)) @ self.last


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("seed", [0, 1, 4])
def test_a_grid_agrees_for_pools_and_clamps(seed: int, norm: str) -> None:
    model, X = _Pooled(seed).double().eval().requires_grad_(False), image(seed, 2)
    side = torch.linspace(0, 1, 1501, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side).reshape(-1, 1, 1, 2)
    changed = model(grid).argmax(1) != model(X).argmax()
    away = (grid[changed] - X).flatten(1)
    sizes = torch.linalg.vector_norm(away, ord=2 if norm == "l2" else inf, dim=1)
    certificate = certify(model, X, norm=norm)
    assert certificate.proved
    assert certificate.lower_bound <= sizes.min()
    assert certificate.size == pytest.approx(float(sizes.min()), abs=4 / 1500)


# --- the search ----------------------------------------------------------------------------------


def _convolution() -> nn.Module:
    layers = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2, 1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))


@pytest.fixture(scope="module")
def trained() -> tuple[Explainer, Tensor]:
    """A small network trained on noisy blobs, and images of them."""
    return trained_on_blobs(_convolution, 5)


def test_bounds_close_in_monotonically(trained: tuple[Explainer, Tensor]) -> None:
    explainer, images = trained
    heard: list[tuple[int, float, float]] = []
    one = certify(explainer, images[1], progress=lambda *news: heard.append(news))
    assert one.proved
    assert tuple(heard) == one.history
    nodes, lower, upper = (np.array(column) for column in zip(*one.history, strict=True))
    assert (np.diff(nodes) >= 0).all()
    assert (np.diff(lower) >= 0).all()
    assert (np.diff(upper) <= 0).all()
    assert (lower <= upper).all()
    assert (lower[-1], upper[-1]) == (one.lower_bound, one.upper_bound)


def test_a_search_that_is_stopped_claims_no_proof(trained: tuple[Explainer, Tensor]) -> None:
    explainer, images = trained
    stopped = 0
    for X in images[:10]:
        part, whole = certify(explainer, X, max_nodes=1), certify(explainer, X)
        assert whole.proved
        assert part.lower_bound <= whole.size <= part.upper_bound
        if part.left:
            stopped += 1
            assert not part.proved
            assert "1 branches" in part.reason
    assert stopped
    hurried = certify(explainer, images[1], seconds=1e-9)
    assert not hurried.proved
    assert "seconds" in hurried.reason
    assert hurried.lower_bound <= certify(explainer, images[1]).size <= hurried.upper_bound


def test_a_better_start_is_taken_and_a_wrong_one_is_not(
    trained: tuple[Explainer, Tensor],
) -> None:
    explainer, images = trained
    whole = certify(explainer, images[0])
    quick = certify(explainer, images[0], upper=whole.adversarial, max_nodes=1)
    assert quick.upper_bound <= whole.upper_bound
    assert np.isnan(quick.attack_size)
    same = certify(explainer, images[0], upper=images[0])
    assert same.size == pytest.approx(whole.size, rel=1e-6)


def test_what_is_wrong_already_needs_no_change() -> None:
    model, X = tiny(0), image(0)
    own = int(model(X).argmax())
    certificate = certify(model, X, label=(own + 1) % 3)
    assert certificate.proved
    assert certificate.size == certificate.lower_bound == 0
    assert certificate.adversarial is not None
    assert torch.equal(certificate.adversarial, X[0])


def test_bad_input_is_refused() -> None:
    model, X = tiny(0), image(0)
    with pytest.raises(InputError, match="'l1' cannot be certified"):
        certify(model, X, norm="l1")
    with pytest.raises(InputError, match="one image"):
        certify(model, X.repeat(2, 1, 1, 1))
    with pytest.raises(InputError, match="above 0"):
        certify(model, X, seconds=0)
    with pytest.raises(InputError, match="class"):
        certify(model, X, target=7)
    with pytest.raises(UnsupportedOperatorError, match=r"threshold"):
        certify(SMALL_NETWORKS["threshold"](), torch.rand(1, 3, 16, 16))
    with pytest.raises(UnsupportedOperatorError, match=r"gelu"):
        certify(nn.Sequential(nn.Flatten(), nn.GELU(), nn.Linear(4, 2)).eval(), X[..., [0] * 4])


# --- the parts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_nearest_point_is_feasible_and_its_multipliers_prove_it(norm: str) -> None:
    rng = np.random.default_rng(0)
    for n, m in ((3, 2), (8, 5), (40, 12)):
        x = rng.random(n) * (rng.random(n) > 0.4)
        box = Box(-x, 1 - x)
        C = rng.normal(size=(m, n))
        C /= np.linalg.norm(C, axis=1, keepdims=True)
        d = 0.8 * C @ rng.uniform(box.low, box.high)
        found = nearest(C, d, box, norm, beta=np.zeros(m), most=inf)
        assert (C @ found.delta - d).min() > -1e-9
        assert found.size == pytest.approx(length(found.delta, norm), rel=1e-9)
        assert (found.beta >= 0).all()
        G = np.concatenate([C, np.eye(n), -np.eye(n)])
        h = np.concatenate([d, box.low, -box.high])
        assert found.size == pytest.approx(least(G, h, norm), rel=1e-7)
        early = nearest(C, d, box, norm, beta=np.zeros(m), most=found.size / 2)
        assert early.beyond
        assert early.size <= found.size * (1 + 1e-9)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("capped", [False, True])
def test_no_point_of_an_enclosure_is_above_its_ceilings(norm: str, capped: bool) -> None:
    rng = np.random.default_rng(1)
    x = rng.random(6) * (rng.random(6) > 0.4)
    box, radius = Box(-x, 1 - x), 0.4
    c = rng.normal(size=6)
    points = rng.normal(size=(200_000, 6))
    scale = np.abs(points).max(1) if norm == "linf" else np.linalg.norm(points, axis=1)
    points *= (radius * rng.random(len(points)) ** 0.1 / scale)[:, None]
    points = np.clip(points, box.low, box.high)
    d = float(np.quantile(points @ c, 0.7))
    if capped:
        points = points[points @ c >= d]
    A = rng.normal(size=(30, 7))
    reached = (A[:, 1:] @ points.T).max(1)
    ceilings = Enclosure(box, norm, radius, (c, d) if capped else None).ceilings(A) - A[:, 0]
    assert (ceilings >= reached).all()
    assert (ceilings <= 1.25 * np.abs(reached) + 0.05).all()  # and not by much
