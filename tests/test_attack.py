"""The attack: what it finds is adversarial, small, inside box and mask, and honestly reported."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor, nn

from guidxmage import Explainer, InputError
from guidxmage.adversarial import NORMS, attack
from guidxmage.adversarial.heuristic.problem import norms
from guidxmage.adversarial.heuristic.projection import project
from tests.networks import SMALL_NETWORKS

CLASSES = 4


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A small convolutional network with overlapping pools, trained on blobs in a corner each."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 36, CLASSES),
        )
        x, y = corners(256, 0)
        optimiser = torch.optim.Adam(model.parameters(), 5e-3)
        for _ in range(60):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimiser.step()
    return model.eval().requires_grad_(False)


def corners(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, 12, 12, generator=generator) * 0.5
    y = torch.randint(0, CLASSES, (count,), generator=generator)
    for image, label in zip(x, y.tolist(), strict=True):
        row, column = divmod(label, 2)
        image[0, 6 * row : 6 * row + 6, 6 * column : 6 * column + 6] += 0.3
    return x, y


@pytest.fixture(scope="module")
def samples(network: nn.Module) -> tuple[Tensor, Tensor]:
    x, y = corners(12, 1)
    right = network(x).argmax(1) == y
    return x[right][:8], y[right][:8]


@pytest.mark.parametrize("norm", NORMS)
def test_every_success_is_one(
    norm: str, network: nn.Module, samples: tuple[Tensor, Tensor]
) -> None:
    x, y = samples
    result = attack(network, x, y, norm=norm, budget=24)
    assert result.success.float().mean() >= (0.5 if norm == "erase" else 1.0)
    exact = copy.deepcopy(network).double()
    for row in result.success.nonzero()[:, 0]:
        z = result.adversarial[row : row + 1]
        assert float(z.min()) >= 0
        assert float(z.max()) <= 1
        assert int(network(z).argmax()) != int(y[row])
        assert int(exact(z.double()).argmax()) == int(result.to_class[row]) != int(y[row])
        assert result.margin[row] > 0
    failed = ~result.success
    assert torch.isnan(result.adversarial[failed]).all()
    assert torch.isnan(result.norm[failed]).all()
    assert result.backwards <= 24


@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
def test_on_an_affine_network_it_is_the_optimum(norm: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Flatten(), nn.Linear(20, 3)).double().eval()
    x = torch.rand(6, 1, 4, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    result = attack(model, x, norm=norm, budget=30)

    weight, scores = model[1].weight.detach(), model(x).detach()
    best = torch.full((6,), torch.inf, dtype=torch.float64)
    own = scores.argmax(1)
    for rival in range(3):
        w = (weight[rival] - weight[own]).view(x.shape)
        value = scores[:, rival] - scores.gather(1, own[:, None])[:, 0]
        b = value - (w * x).flatten(1).sum(1)
        found = project(x, w, b, norm)
        size = norms(found.delta, norm)
        best = torch.where((own != rival) & found.feasible, torch.minimum(best, size), best)
    reachable = torch.isfinite(best)
    assert torch.equal(result.success, reachable)
    ratio = result.norm[reachable] / best[reachable]
    assert float(ratio.max()) <= 1 + 1e-6
    assert float(ratio.min()) >= 1 - 1e-9
    if norm == "l2":
        assert float(result.optimality.alignment[reachable].min()) > 1 - 1e-6
        assert float(result.optimality.region_gap[reachable].abs().max()) < 1e-5


def test_targets_are_reached(network: nn.Module, samples: tuple[Tensor, Tensor]) -> None:
    x, y = samples
    wanted = (y + 1) % CLASSES
    result = attack(network, x, y, targets=wanted, budget=40)
    assert result.success.all()
    assert torch.equal(network(result.adversarial).argmax(1), wanted)


@pytest.mark.parametrize("norm", ["l2", "l0"])
def test_masks_hold(norm: str, network: nn.Module, samples: tuple[Tensor, Tensor]) -> None:
    x, y = samples
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[:, :7] = True
    result = attack(network, x, y, norm=norm, mask=mask, budget=40)
    assert result.success.any()
    changed = (result.adversarial != x) & result.success[:, None, None, None]
    assert not changed[..., 7:].any()


@pytest.mark.parametrize("norm", ["l2", "linf", "l1", "l0"])
def test_the_8_bit_grid(norm: str, network: nn.Module, samples: tuple[Tensor, Tensor]) -> None:
    x, y = samples
    x = (x * 255).round() / 255
    result = attack(network, x, y, norm=norm, budget=60, quantise=True)
    assert result.success.all()
    assert result.backwards <= 60
    levels = (result.adversarial * 255).round()
    assert torch.equal(levels.to(torch.uint8).float() / 255, result.adversarial)
    assert (network(levels / 255).argmax(1) != y).all()
    free = attack(network, x, y, norm=norm, budget=60)
    assert float((result.norm / free.norm).median()) < 1.25


@pytest.mark.parametrize("norm", ["l2", "linf", "l1", "l0"])
def test_what_the_mask_keeps_is_not_rounded_to_the_grid(
    norm: str, network: nn.Module, samples: tuple[Tensor, Tensor]
) -> None:
    x = samples[0] * 0.97 + 0.0012  # hardly a pixel is a whole grey level
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[:, :8] = True
    result = attack(network, x, norm=norm, mask=mask, budget=60, quantise=True)
    assert result.success.sum() > 4
    good = result.success
    assert torch.equal(result.adversarial[good][..., 8:], x[good][..., 8:])
    moved = result.adversarial[good][..., :8]
    if norm != "l0":  # which leaves pixels alone
        assert torch.allclose(moved * 255, (moved * 255).round(), atol=1e-4)


def test_a_single_logit_is_told() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1)).eval()
    with pytest.raises(InputError, match="single logit, that is one class"):
        attack(model, torch.rand(2, 1, 4, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [200.0, 2000.0])
def test_a_saturated_softmax_is_told(dtype: torch.dtype, scale: float) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)
    logits = nn.Sequential(*layers).to(dtype)
    with torch.no_grad():
        logits[3].weight.mul_(scale)
    x = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=dtype)
    result = attack(nn.Sequential(*layers, nn.Softmax(1)).eval(), x, budget=20)
    for row in (~result.success).nonzero()[:, 0].tolist():
        assert "saturated" in result.notes[row]
        assert "before the softmax" in result.notes[row]
    assert attack(logits.eval(), x, budget=20).success.sum() >= 3
    assert scale < 1000 or not result.success.all()


BUDGETS = (1, 7, 15, 16, 23, 40, 41, 77, 100, 170)


@pytest.mark.parametrize("norm", [*NORMS, "masked", "targeted", "grid"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_larger_budget_never_gives_a_larger_norm(
    norm: str, seed: int, network: nn.Module, samples: tuple[Tensor, Tensor]
) -> None:
    """By construction: a budget begins with all steps of a smaller one."""
    x, y = samples[0][:3], samples[1][:3]
    options: dict = {"norm": norm if norm in NORMS else "l2", "seed": seed}
    if norm == "masked":
        options["mask"] = torch.arange(12) < 7
        options["mask"] = options["mask"].expand(12, 12)
    if norm == "targeted":
        options["targets"] = (y + 1) % CLASSES
    if norm == "grid":
        options["quantise"] = True
    before = torch.full((3,), torch.inf)
    for budget in BUDGETS:
        result = attack(network, x, y, budget=budget, **options)
        assert result.backwards <= budget
        size = result.norm.nan_to_num(torch.inf)
        assert bool((size <= before).all()), (budget, size, before)
        before = size
    assert torch.isfinite(before).any()


def test_runs_repeat(network: nn.Module, samples: tuple[Tensor, Tensor]) -> None:
    first, again = (attack(network, *samples, budget=24) for _ in range(2))
    assert torch.equal(first.adversarial, again.adversarial)


def test_misclassified_images_have_norm_zero(
    network: nn.Module, samples: tuple[Tensor, Tensor]
) -> None:
    x, y = samples
    wrong = y.clone()
    wrong[0] = (y[0] + 1) % CLASSES
    result = attack(network, x, wrong, budget=24)
    assert result.already.tolist() == [True, *[False] * (len(x) - 1)]
    assert result.norm[0] == 0
    assert "already" in result.notes[0]
    assert torch.equal(result.adversarial[0], x[0])


def test_a_constant_network_cannot_be_attacked() -> None:
    model = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(9, 3)).eval()
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    result = attack(model, torch.rand(2, 1, 3, 3), budget=8)
    assert not result.success.any()
    assert torch.isnan(result.norm).all()
    assert "no adversarial" in result.notes[1]


def test_a_network_with_smooth_gates_is_attacked_without_region_evidence() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.GELU(), nn.Flatten(), nn.Linear(48, 3)).eval()
    x = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    result = attack(model, x, budget=30)
    assert result.success.any()
    assert result.evidence.startswith("not available: ")
    assert "gelu" in result.evidence
    assert result.decisions_flipped is None
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["residual", "dense"])
def test_branching_networks(name: str) -> None:
    model = SMALL_NETWORKS[name]()
    channels = next(m for m in model.modules() if isinstance(m, nn.Conv2d)).in_channels
    dtype = next(model.parameters()).dtype
    x = torch.rand(3, channels, 16, 16, generator=torch.Generator().manual_seed(0), dtype=dtype)
    result = attack(model, x, budget=24)
    assert result.success.any()
    assert result.evidence == "region"


def test_pixels_of_a_preprocessed_network() -> None:
    """With a preprocessing the box is that of the photograph, not of the normalised input."""
    explainer = Explainer.load()
    photo = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    result = attack(explainer, photo, budget=8)
    assert result.success.all()
    assert int(explainer.logits(result.adversarial).argmax()) != int(result.from_class[0])
    assert float(result.adversarial.min()) >= 0


def test_regions_on_the_way_are_counted(network: nn.Module, samples: tuple) -> None:
    result = attack(network, samples[0], budget=12, count_regions=5000)
    assert result.regions_crossed is not None
    # By dense sampling, which steps over the shortest regions only.
    exact = Explainer(network, dtype=torch.float64)
    ends = samples[0][:1].double(), result.adversarial[:1].double()
    line = ends[0] + torch.linspace(0, 1, 4001).view(-1, 1, 1, 1).double() * (ends[1] - ends[0])
    trail = exact.network(samples[0].shape[1:]).record(line)[1]
    changes = 1 + int((~trail.take(slice(0, 4000)).same(trail.take(slice(1, 4001)))).sum())
    assert changes <= int(result.regions_crossed[0]) <= 1.1 * changes
    few = attack(network, samples[0], budget=12, count_regions=3)
    assert ((few.regions_crossed >= 1) & (few.regions_crossed <= 3)).all()
    assert attack(network, samples[0][:1], budget=12).regions_crossed is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "l7"}, "norm 'l7' is unknown"),
        ({"budget": 0}, "too small"),
        ({"labels": 9}, "label: target 9 is out of range"),
        ({"targets": "cat"}, "target: target 'cat' is a name but no class names"),
        ({"targets": ("top", 2)}, "one class for each image"),
        ({"targets": torch.tensor([0, 1, 2])}, "3 targets were given"),
        ({"mask": torch.zeros(12, 12)}, "boolean"),
        ({"mask": torch.zeros(12, 12, dtype=torch.bool)}, "leaves no pixel free"),
        ({"mask": torch.ones(5, 5, dtype=torch.bool)}, "does not fit"),
    ],
)
def test_bad_input(options: dict, message: str, network: nn.Module, samples: tuple) -> None:
    with pytest.raises(InputError, match=message):
        attack(network, samples[0], **options)


def test_images_outside_the_box_are_refused(network: nn.Module) -> None:
    with pytest.raises(InputError, match="does not lie in"):
        attack(network, torch.full((1, 1, 12, 12), 1.5))


class Nan(nn.Module):
    """Returns NaN for images with a white corner."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        white = (x[:, 0, 0, :1] == 1).float()
        return self.network(x) + 0 * (white / (1 - white))


class Edge(nn.Module):
    """Class 1 wins where two planes are positive: its boundary has an edge towards the image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b, c = x.flatten(1).unbind(1)
        u, v = a + 0.3 * c - 0.8, 0.9 * b - 0.2 * c - 0.5
        least = u - (u - v).relu()
        return torch.stack([torch.zeros_like(least), least], 1)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_edges_between_regions_are_met(norm: str) -> None:
    x = torch.tensor([0.2, 0.1, 0.4], dtype=torch.float64).reshape(1, 1, 1, 3)
    result = attack(Edge().eval(), x, norm=norm, budget=100)
    corner = np.array([[1, 0, 0.3], [0, 0.9, -0.2]])
    need = np.array([0.8, 0.5]) - corner @ x.flatten().numpy()
    constraints = {"type": "ineq", "fun": lambda d: corner @ d - need}
    start = np.array([0.6, 0.6, 0.0])
    if norm == "l2":
        best = minimize(lambda d: d @ d, start, constraints=constraints, options={"ftol": 1e-15})
        best_size = float(np.linalg.norm(best.x))
    else:
        rows = np.concatenate([np.pad(-corner, ((0, 0), (0, 1))), *_within_t(3)])
        ends = np.concatenate([-need, np.zeros(6)])
        bounds = [(None, None)] * 3 + [(0, None)]
        best_size = float(linprog([0, 0, 0, 1], A_ub=rows, b_ub=ends, bounds=bounds).fun)
    assert float(result.norm[0]) == pytest.approx(best_size, rel=2e-6)
    assert float(result.norm[0]) >= best_size * (1 - 1e-9)


def _within_t(n: int) -> tuple[np.ndarray, np.ndarray]:
    ones = -np.ones((n, 1))
    return np.hstack([np.eye(n), ones]), np.hstack([-np.eye(n), ones])


def test_bad_images_leave_the_others_alone(network: nn.Module, samples: tuple) -> None:
    x, y = (part.clone() for part in samples)
    x[1] = 1.2
    x[3, 0, 0, 0] = 1.0
    mask = torch.ones(len(x), 12, 12, dtype=torch.bool)
    mask[4] = False
    targets = (y + 1) % CLASSES
    targets[5] = y[5]
    result = attack(Nan(network).eval(), x, y, targets=targets, mask=mask, budget=24)
    assert {row: note.split(" ")[1] for row, note in result.notes.items()} == {
        1: "image",
        3: "network",
        4: "mask",
        5: "target",
    }
    good = torch.tensor([0, 2, 6, 7])
    assert result.success.tolist() == [n in good.tolist() for n in range(8)]
    assert torch.isnan(result.norm[[1, 3, 4, 5]]).all()
    assert torch.isnan(result.adversarial[[1, 3, 4, 5]]).all()
    assert result.to_class[[1, 3, 4, 5]].tolist() == [-1] * 4
    assert torch.equal(result.to_class[good], targets[good])
    assert torch.equal(result.original, x)
    alone = attack(network, x[good], targets=targets[good], budget=24)
    assert torch.allclose(result.norm[good], alone.norm, rtol=5e-3)
    assert result.summary(3)["size"] is None


def test_the_network_and_the_random_state_are_left_alone(
    network: nn.Module, samples: tuple[Tensor, Tensor]
) -> None:
    before = [p.clone() for p in network.parameters()]
    state = torch.random.get_rng_state()
    attack(network, samples[0], budget=70)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(m._forward_hooks for m in network.modules())


@pytest.mark.parametrize("budget", [8, 12, 24, 40, 60, 100])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_under_a_mask_an_affine_network_gives_up_its_optimum(budget: int, norm: str) -> None:
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mean = x.flatten(1).mean(1)
            return torch.stack([mean, 0.5 + 0 * mean], 1)

    X = torch.full((2, 3, 8, 8), 0.55)
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:] = True
    found = attack(Mean().eval(), X, mask=mask, norm=norm, budget=budget)
    # Three quarters of the entries have to fall by 0.05 · 4/3 each.
    least = {"linf": 0.05 * 4 / 3, "l2": 0.05 * 4 / 3 * 144**0.5}[norm]
    assert found.norm.tolist() == pytest.approx([least] * 2, rel=2e-4)


@pytest.mark.parametrize("quantise", [False, True])
def test_progress_is_told_and_may_end_the_attack(
    network: nn.Module, samples: tuple[Tensor, Tensor], quantise: bool
) -> None:
    model = network
    X = samples[0][:2]
    told: list[float] = []
    result = attack(model, X, budget=12, quantise=quantise, progress=told.append)
    assert told[0] == 0
    assert told == sorted(told)
    assert told[-1] < 1
    plain = attack(model, X, budget=12, quantise=quantise)
    assert torch.equal(plain.adversarial.nan_to_num(), result.adversarial.nan_to_num())

    def enough(share: float) -> None:
        if share > 0.4:
            raise KeyboardInterrupt

    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        attack(model, X, budget=12, quantise=quantise, progress=enough)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
