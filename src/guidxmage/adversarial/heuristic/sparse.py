"""Fewest pixels: change or erase as few pixels as possible, guided by the region models."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from guidxmage.adversarial.heuristic.best_points import Found
from guidxmage.adversarial.heuristic.exchange import SINGLE, Exchange, ends_of, one_by_one
from guidxmage.adversarial.heuristic.exit_classes import Ways
from guidxmage.adversarial.heuristic.gradient_budget import Account
from guidxmage.adversarial.heuristic.l1 import Slim
from guidxmage.adversarial.heuristic.problem import Problem
from guidxmage.adversarial.heuristic.quantise import take_back

# Classes that are followed at once.
_SLOTS = 3


class Sparse:
    """A search for few pixels: in every slot a class, the models that rank its pixels, its best.

    A region model says how much every pixel gains when it goes to the end of the box (for "erase":
    to 0, which is exactly −A). The pixels that gain most are changed, as few as the network itself
    needs, and those that turn out not to be needed are put back; then the model of the region this
    leads to, averaged with those before, ranks the pixels anew. Later pixels are exchanged.
    """

    def __init__(self, account: Account, problem: Problem, generator: torch.Generator) -> None:
        self.account, self.problem, self.generator = account, problem, generator
        self.ways = Ways(account, problem)
        self.normals: list[Tensor] = []
        self.found: list[Found] = []
        self.exchanges: dict[int, Exchange] = {}

    def rank(self, more: int) -> None:
        """Choose among so many further classes by the pixels that the network needs for each."""
        first = len(self.ways.models)
        self.ways.rank(more)
        normals = [model.normal for model in self.ways.models[first:]]
        if not normals and not self.normals:  # there is one way only
            normals = [self.account.local(self.problem.X, self.problem.goal).normal]
        tried = [self._prefix(normal) for normal in normals]
        for found in tried:
            self.account.offer(self.problem, found)
        self.normals, self.found = [*self.normals, *normals], [*self.found, *tried]
        self.sort()

    def sort(self) -> None:
        """The best class of each image first; the last of too many are left."""
        order = torch.stack([found.size for found in self.found], 1).argsort(dim=1, stable=True)
        rows, points = self.problem.numbers, torch.stack([f.Z for f in self.found], 1)
        ranks = torch.stack(self.normals, 1)
        sizes = torch.stack([found.size for found in self.found], 1)
        chosen = [order[:, slot] for slot in range(min(_SLOTS, len(self.found)))]
        self.normals = [ranks[rows, one] for one in chosen]
        self.found = [Found(points[rows, one], sizes[rows, one]) for one in chosen]
        self.exchanges = {}

    def put_back(self, slot: int, rounds: int = 2) -> None:
        """Put pixels of a slot's best back that are not needed."""
        slot = min(slot, len(self.found) - 1)
        self.found[slot] = self._less(self.found[slot], rounds)

    def round(self, slot: int) -> None:
        """Rank the pixels anew at a slot's best."""
        slot = min(slot, len(self.found) - 1)
        best = self.found[slot]
        normal = self.account.local(best.Z, self.problem.goal).normal
        self.normals[slot] = (self.normals[slot] + normal) / 2
        self.found[slot] = best.better(self._less(self._prefix(self.normals[slot]), 2))

    def exchange(self, slot: int, steps: int) -> None:
        """Look for fewer pixels near a slot's best."""
        if slot >= len(self.found):
            slot = 0
        for _ in range(steps):
            best = self.found[slot]
            known = self.exchanges.get(slot)
            known = known.resumed(best, self._partly_back(best)) if known else Exchange.start(best)
            found = known.step(self.account, self.problem, best)
            self.found[slot], self.exchanges[slot] = found

    def start(self, Z: Tensor, slot: int) -> Found:
        """Begin a slot anew with the ranking of the regions of other points, where it is better."""
        normal = self.account.local(Z, self.problem.goal).normal
        slot = min(slot, len(self.found) - 1)
        found = self._less(self._prefix(normal), 2)
        better = (found.size < self.found[slot].size).view(-1, 1, 1, 1)
        self.normals[slot] = torch.where(better, normal, self.normals[slot])
        self.found[slot] = self.found[slot].better(found)
        return found

    def _partly_back(self, found: Found) -> Tensor:
        """Images with a random part of their changed pixels put back."""
        count, _, *sides = found.Z.shape
        generator, device = self.generator, found.Z.device
        draw = torch.rand(count, 1, *sides, generator=generator, device=device)
        share = torch.rand(count, 1, 1, 1, generator=generator, device=device)
        return torch.where(draw < share, self.problem.X, found.Z)

    def _prefix(self, normal: Tensor) -> Found:
        """The shortest prefix of the ranking by gain that reaches the goal."""
        problem, account = self.problem, self.account
        w = problem.free(normal)
        ends = ends_of(problem, w)
        gain = (w * (ends - problem.X)).sum(1).flatten(1)
        rank = gain.argsort(1, descending=True).argsort(1)
        count = _shortest_prefix(account, problem, ends, rank, (gain > 0).sum(1))
        Z = _prefix(problem.X, ends, rank, count)
        return Found(Z, torch.where(account.reached(problem, Z), problem.size(Z), torch.inf))

    def _less(self, found: Found, rounds: int) -> Found:
        """Put back what is not needed: many pixels at once, then one by one."""
        account, problem = self.account, self.problem
        account.offer(problem, found)
        found = take_back(account, problem, found, problem.X, rounds)
        account.offer(problem, found)
        near = found.size <= (account.best.size + 1).clamp(max=SINGLE)
        rows = near.nonzero()[:, 0]
        if not len(rows):
            return found
        fewer = one_by_one(account, problem.rows(rows), Found(found.Z[rows], found.size[rows]))
        account.offer(problem.rows(rows), fewer)
        return Found(
            found.Z.index_copy(0, rows, fewer.Z), found.size.index_copy(0, rows, fewer.size)
        )


def search_pixels(account: Account, problem: Problem, seed: int) -> None:
    """Offer samples of ever fewer pixels until the budget is spent.

    Ranks start from X's own region, for the classes that the network reaches with fewest pixels,
    and for "l0" also from the smallest l1 perturbations, which are sparse too.
    """
    one = Sparse(account, problem, torch.Generator(device=problem.X.device).manual_seed(seed))
    slim = Slim(account, problem, seed)
    parts = slim.parts()

    def from_l1(places: int = 1) -> None:
        if problem.norm == "l0":
            next(parts)
            for place in range(places):
                found = slim.tried[min(place, len(slim.tried) - 1)]
                one.start(found.Z, max(0, len(one.found) - 1 - place))
        one.sort()

    one.rank(3)
    one.put_back(0)
    one.round(0)
    one.put_back(1)
    one.round(1)
    one.sort()
    one.round(0)
    slim.dense.rescue(12)
    from_l1()
    one.exchange(0, 5)
    from_l1(2)
    for slot, steps in enumerate((10, 8, 8)):
        one.exchange(slot, steps)
    one.sort()
    one.exchange(0, 4)
    slim.dense.rescue(60)
    one.rank(2)
    while True:
        from_l1(3)
        for slot, steps in enumerate((20, 15, 15)):
            one.exchange(slot, steps)
        one.sort()
        one.exchange(0, 10)


def search_l1(account: Account, problem: Problem, seed: int) -> None:
    """Offer ever smaller samples in l1 until the budget is spent; few pixels help here, too."""
    slim = Slim(account, problem, seed)
    generator = torch.Generator(device=problem.X.device).manual_seed(seed)
    one = Sparse(account, replace(problem, norm="l0"), generator)

    def sparser(found: Found) -> Found:
        if not one.found:
            one.rank(3)
        fewest = one.start(found.Z, 0)
        size = torch.where(torch.isfinite(fewest.size), problem.size(fewest.Z), torch.inf)
        return Found(fewest.Z, size)

    for _ in slim.parts(sparser):
        pass


def _shortest_prefix(
    account: Account, problem: Problem, ends: Tensor, rank: Tensor, most: Tensor
) -> Tensor:
    """How many of the first pixels reach the goal: doubled until they do, then bisected."""
    low, high = torch.zeros_like(most), torch.ones_like(most)
    settled = torch.zeros_like(most).bool()
    for _ in range(40):
        tried = torch.where(settled, (low + high) // 2, torch.minimum(high, most))
        Z = _prefix(problem.X, ends, rank, tried)
        reached = problem.goal.margin(account.logits(Z)) > 0
        high = torch.where(reached, tried, high)
        low = torch.where(reached, low, tried)
        settled = settled | reached | (tried >= most)
        high = torch.where(settled, high, torch.minimum(2 * high, most))
        if bool((settled & (high - low <= 1)).all()):
            break
    return high


def _prefix(X: Tensor, ends: Tensor, rank: Tensor, count: Tensor) -> Tensor:
    """X with the first `count` (n,) pixels of the ranking (n, H·W) moved to `ends`."""
    chosen = (rank < count[:, None]).view(len(X), 1, *X.shape[2:])
    return torch.where(chosen, ends, X)
