"""Few pixels and small l1: exchanges leave poor pixels, and several classes are kept in mind."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor, nn

from guidxmage.adversarial import attack
from guidxmage.adversarial.heuristic.best_points import Found
from guidxmage.adversarial.heuristic.exchange import Exchange
from guidxmage.adversarial.heuristic.gradient_budget import Account
from guidxmage.adversarial.heuristic.l1 import Slim
from guidxmage.adversarial.heuristic.problem import Problem
from guidxmage.adversarial.heuristic.target_model import Goal, TargetModel, as_explainer

SIDE = 4


class Summed(nn.Module):
    """Class 1 where a weighted sum of the pixels is above 1, else class 0."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.last = nn.Linear(SIDE * SIDE, 2)
        with torch.no_grad():
            self.last.weight.copy_(torch.stack([torch.zeros_like(weights), weights]))
            self.last.bias.copy_(torch.tensor([1.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(x.flatten(1))
        return logits


def account_of(network: nn.Module, X: Tensor, norm: str, budget: int) -> Account:
    model = TargetModel(as_explainer(network.eval().requires_grad_(False)), X)
    goal = Goal(model.logits(X).argmax(1), targeted=False)
    return Account(model, Problem(X, goal, norm), budget)


def test_pixels_that_gain_little_give_way_to_others() -> None:
    """Six pixels of 0.18 are all needed together; two of 0.6 are enough."""
    weights = torch.full((SIDE * SIDE,), 0.18)
    weights[10:13] = 0.6
    X = torch.zeros(2, 1, SIDE, SIDE)
    account = account_of(Summed(weights), X, "l0", 8)
    poor = X.clone()
    poor.flatten(1)[:, :6] = 1
    best = Found(poor, torch.full((2,), 6.0))
    search = Exchange.start(best)
    for _ in range(6):
        best, search = search.step(account, account.problem, best)
        search = search.resumed(best, best.Z)
    assert best.size.tolist() == [2, 2]
    assert account.best.size.tolist() == [2, 2]
    assert bool(account.reached(account.problem, best.Z).all())
    assert account.left == 2  # a gradient a step


def test_a_search_that_is_stuck_goes_on_from_elsewhere() -> None:
    """With equal weights no exchange gains anything: the kicked point is taken next."""
    X = torch.zeros(1, 1, SIDE, SIDE)
    account = account_of(Summed(torch.full((SIDE * SIDE,), 0.3)), X, "l0", 8)
    best = X.clone()
    best.flatten(1)[:, :4] = 1
    found = Found(best, torch.full((1,), 4.0))
    search = Exchange.start(found)
    for _ in range(2):
        found, search = search.step(account, account.problem, found)
    assert bool(search.stuck.all())
    assert torch.equal(search.resumed(found, X).Z, X)
    assert found.size.tolist() == [4]


def test_fewest_pixels_are_those_of_all_subsets() -> None:
    """On images of nine pixels all sets of at most four are tried, with all ends of the box."""
    equal = []
    for seed in range(6):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            layers = nn.Linear(9, 12), nn.ReLU(), nn.Linear(12, 3)
            network = nn.Sequential(nn.Flatten(), *layers).eval().requires_grad_(False)
            x = torch.rand(1, 1, 3, 3)
        found = attack(network, x, norm="l0", budget=100)
        least = fewest(network, x, 4)
        if bool(found.success[0]) and least:
            equal.append(int(found.norm[0]) <= least)
    assert len(equal) >= 3
    assert sum(equal) >= len(equal) - 1


def fewest(network: nn.Module, x: Tensor, most: int) -> int:
    """The least number of pixels that change the answer when each goes to 0 or 1; 0 for none."""
    own = int(network(x).argmax())
    for count in range(1, most + 1):
        points = []
        for chosen in combinations(range(9), count):
            for ends in range(2**count):
                point = x.flatten().clone()
                for place, pixel in enumerate(chosen):
                    point[pixel] = ends >> place & 1
                points.append(point)
        if bool((network(torch.stack(points)).argmax(1) != own).any()):
            return count
    return 0


def test_samples_of_several_classes_are_kept_in_order() -> None:
    X = torch.zeros(2, 1, SIDE, SIDE)
    account = account_of(Summed(torch.ones(SIDE * SIDE)), X, "l1", 8)
    slim = Slim(account, account.problem, 0)
    for size in (3.0, 1.0, 5.0, 2.0, 4.0):
        slim.add(Found(X + size / SIDE**2, torch.tensor([size, 6 - size])))
    assert [found.size.tolist() for found in slim.tried] == [[1, 1], [2, 2], [3, 3], [4, 4]]
    assert float(slim.found.Z[0, 0, 0, 0]) == 1 / SIDE**2
    slim.take(Found(X + 0.01, torch.tensor([0.5, 3.5])), place=2)
    assert [found.size.tolist() for found in slim.tried] == [[0.5, 1], [1, 2], [2, 3], [4, 4]]
