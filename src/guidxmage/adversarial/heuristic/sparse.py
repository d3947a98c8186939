"""Fewest pixels: change or erase as few pixels as possible, guided by the region models."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from guidxmage.adversarial.heuristic.best_points import Found
from guidxmage.adversarial.heuristic.exit_classes import Ways
from guidxmage.adversarial.heuristic.gradient_budget import Account
from guidxmage.adversarial.heuristic.l1 import Slim
from guidxmage.adversarial.heuristic.problem import Problem
from guidxmage.adversarial.heuristic.quantise import take_back

# Classes that are followed at once, and pixels that are tried one by one at most.
_SLOTS, _SINGLE = 3, 64


class Sparse:
    """A search for few pixels: in every slot a class, the models that rank its pixels, its best.

    A region model says how much every pixel gains when it goes to the end of the box (for "erase":
    to 0, which is exactly −A). The pixels that gain most are changed, as few as the network itself
    needs, and those that turn out not to be needed are put back; then the model of the region this
    leads to, averaged with those before, ranks the pixels anew.
    """

    def __init__(self, account: Account, problem: Problem, generator: torch.Generator) -> None:
        self.account, self.problem, self.generator = account, problem, generator
        self.ways = Ways(account, problem)
        self.normals: list[Tensor] = []
        self.found: list[Found] = []

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

    def put_back(self, slot: int, rounds: int = 2) -> None:
        """Put pixels of a slot's best back that are not needed."""
        slot = min(slot, len(self.found) - 1)
        self.found[slot] = self._less(self.found[slot], rounds)

    def round(self, slot: int, *, partly: bool = False) -> None:
        """Rank the pixels anew at a slot's best, or where a random part of it is put back."""
        slot = min(slot, len(self.found) - 1)
        best = self.found[slot]
        at = self._partly_back(best) if partly else best.Z
        normal = self.account.local(at, self.problem.goal).normal
        self.normals[slot] = (self.normals[slot] + normal) / 2
        self.found[slot] = best.better(self._less(self._prefix(self.normals[slot]), 2))

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
        ends = torch.where(w > 0, problem.high, torch.where(w < 0, problem.low, problem.X))
        if problem.norm == "erase":
            ends = problem.on_free(torch.zeros_like(problem.X), problem.X)
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
        near = found.size <= (account.best.size + 1).clamp(max=_SINGLE)
        rows = near.nonzero()[:, 0]
        if not len(rows):
            return found
        fewer = _one_by_one(account, problem.rows(rows), Found(found.Z[rows], found.size[rows]))
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

    def from_l1() -> None:
        if problem.norm == "l0":
            next(parts)
            one.start(slim.found.Z, len(one.found) - 1)
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
    one.round(0, partly=True)
    one.rank(4)
    from_l1()
    for slot in (0, 1, 0, 2, 0, 1, 0):
        one.round(slot, partly=True)
        one.sort()
    slim.dense.rescue(60)
    one.rank(2)
    while True:
        from_l1()
        for slot in (0, 1, 0, 2) * 3:
            one.round(slot, partly=True)
        one.sort()


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


def _one_by_one(account: Account, part: Problem, found: Found) -> Found:
    """Put single pixels back as long as the goal stays reached, the surest first.

    A pixel that could not be put back once is not tried again: fewer pixels leave less room.
    """
    open_ = (found.Z != part.X).any(1)
    while bool(open_.any()):
        rows, *place = open_.nonzero().unbind(1)
        many, Z = part.rows(rows), found.Z[rows].clone()
        number = torch.arange(len(rows), device=rows.device)
        Z[number, :, place[0], place[1]] = part.X[rows, :, place[0], place[1]]
        margin = many.goal.margin(account.logits(Z))
        best = torch.full_like(found.size, -torch.inf).scatter_reduce(0, rows, margin, "amax")
        kept = number[(margin > 0) & (margin == best[rows])]
        where, nothing = rows[kept], torch.full_like(found.size, torch.inf)
        fewer = nothing.index_copy(0, where, many.rows(kept).size(Z[kept]))
        found = found.better(Found(found.Z.index_copy(0, where, Z[kept]), fewer))
        open_ = open_.index_put((rows, *place), margin > 0) & (found.Z != part.X).any(1)
    return found


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
