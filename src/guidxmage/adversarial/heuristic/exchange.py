"""Samples of one pixel fewer: changed pixels are exchanged for others until the network yields.

A local search with a fixed number of changed pixels. Where no single pixel of a sample can be put
back, one is put back all the same, and then pixels that gain little give way to others that gain
more, as the model of the present region says and the network confirms, until the goal is reached
again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from guidxmage.adversarial.heuristic.best_points import Found
from guidxmage.adversarial.heuristic.gradient_budget import Account
from guidxmage.adversarial.heuristic.problem import Problem, spread

# Samples of more pixels are not searched one pixel at a time.
SINGLE = 64
# Exchanges that are tried with one gradient: how many pixels, and how many of the worst changed and
# of the best unchanged are passed over; then the same with all kept pixels aimed anew.
_TRIED = ((0, 0, 0), (1, 0, 0), (2, 0, 0), (4, 0, 0), (8, 0, 0), (1, 0, 1), (1, 1, 0))
_AIMED = ((0, 0, 0), (1, 0, 0))
# So many of a large sample's pixels, one in this number, are put back at first.
_STRIDE = 16


@dataclass(frozen=True)
class Exchange:
    """Where the search for fewer pixels has got to, for n rows.

    Z has `stride` pixels fewer than the sample of `size` pixels (n,), and `margin` is what the
    network says of it; `stuck` where the last step has not raised it.
    """

    Z: Tensor
    size: Tensor
    margin: Tensor
    stride: Tensor
    stuck: Tensor

    @classmethod
    def start(cls, best: Found) -> Exchange:
        """At samples."""
        stride = (best.size.nan_to_num(posinf=0) // _STRIDE).clamp_min(1)
        margin = torch.full_like(best.size, -torch.inf)
        return cls(best.Z, best.size, margin, stride, torch.zeros_like(margin).bool())

    def resumed(self, best: Found, kicked: Tensor) -> Exchange:
        """The next step's start: anew at better samples; where it is stuck, from other points.

        kicked (n, C, H, W): samples with a part of their pixels put back. A large stride is halved
        before.
        """
        improved = self.size != best.size
        short = self.stuck & (self.stride > 1)
        again = improved | short
        Z = torch.where(spread(self.stuck, self.Z), kicked, self.Z)
        margin = torch.where(self.stuck | again, -torch.inf, self.margin)
        stride = torch.where(short, (self.stride // 2).clamp_min(1), self.stride)
        Z = torch.where(spread(again, Z), best.Z, Z)
        return Exchange(Z, best.size, margin, stride, torch.zeros_like(again))

    def step(self, account: Account, problem: Problem, best: Found) -> tuple[Found, Exchange]:
        """The better samples, and where the search has got to, for one gradient."""
        normal = account.local(self.Z, problem.goal).normal
        Z, margin = self.Z, self.margin
        for P in self._exchanged(problem, normal):
            there = problem.goal.margin(account.logits(P))
            higher = there > margin
            Z, margin = torch.where(spread(higher, Z), P, Z), torch.where(higher, there, margin)
        after = Exchange(Z, self.size, margin, self.stride, ~(margin > self.margin))
        found = Found(Z, torch.where(margin > 0, problem.size(Z), torch.inf))
        account.offer(problem, found)
        rows = (found.size <= SINGLE).nonzero()[:, 0]
        if len(rows):
            part = problem.rows(rows)
            fewer = one_by_one(account, part, Found(found.Z[rows], found.size[rows]))
            account.offer(part, fewer)
            found = Found(
                found.Z.index_copy(0, rows, fewer.Z), found.size.index_copy(0, rows, fewer.size)
            )
        return best.better(found), after

    def _exchanged(self, problem: Problem, normal: Tensor) -> Iterator[Tensor]:
        """Points with the number of pixels that is aimed at."""
        w, Z, X = problem.free(normal), self.Z, problem.X
        ends = ends_of(problem, w)
        changed = (Z != X).any(1).flatten(1)
        gain = (w * (ends - Z)).sum(1).flatten(1)
        worth = (w * (Z - X)).sum(1).flatten(1)
        gain, worth = gain.masked_fill(changed, -torch.inf), worth.masked_fill(~changed, torch.inf)
        first, last = _ranks(gain, descending=True), _ranks(worth, descending=False)
        count = changed.sum(1)
        aim = (self.size.nan_to_num(posinf=0) - self.stride).clamp_min(1).long()
        fewer, more = (count - aim).clamp_min(0), (aim - count).clamp_min(0)
        for number, ways in enumerate((_TRIED, _AIMED)):
            for pixels, worst, top in ways:
                swapped = (count // 2).clamp(max=pixels)
                back = changed & (last >= worst) & (last < (worst + fewer + swapped)[:, None])
                taken = (gain > 0) & (first >= top) & (first < (top + more + swapped)[:, None])
                if number:
                    taken = taken | (changed & ~back)
                P = torch.where(back.view_as(X[:, :1]), X, Z)
                yield torch.where(taken.view_as(X[:, :1]), ends, P)


def ends_of(problem: Problem, w: Tensor) -> Tensor:
    """Where pixels go: to the end of the box that a model wants, for "erase" to 0."""
    if problem.norm == "erase":
        return problem.on_free(torch.zeros_like(problem.X), problem.X)
    return torch.where(w > 0, problem.high, torch.where(w < 0, problem.low, problem.X))


def _ranks(values: Tensor, *, descending: bool) -> Tensor:
    order = values.argsort(1, descending=descending)
    places = torch.arange(values.shape[1], device=values.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def one_by_one(account: Account, part: Problem, found: Found) -> Found:
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
