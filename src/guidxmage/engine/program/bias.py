"""What a transposed run adds up on its way: every site's share of the bias, and the rounding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidxmage.engine.calls.constants import Constant, Switched


class Biases:
    """⟨g, constant⟩ of every call site.

    Where a constant has one value per channel, g is summed over positions first and the products
    of all sites are taken together at the end.
    """

    def __init__(self) -> None:
        self._sites: list[str] = []
        self._known: dict[str, Tensor] = {}
        self._summed: list[Tensor] = []
        self._vectors: list[Tensor] = []

    def add(
        self, g: Tensor, constants: list[Constant], rows: int, summed: Tensor | None = None
    ) -> bool:
        """The share of one call whose output has cotangent g (R, …), or (R·parts, …).

        summed: g's sums over positions (R, C), where they are known. Returns whether g itself is
        kept until the end, and so must stay as it is.
        """
        keeps = False
        whole = g.ndim > 1 and g.shape[0] == rows  # each row is one image's
        for constant in reversed(constants):
            self._sites.append(constant.site)
            if isinstance(constant, Switched) and whole:
                self._known[constant.site] = constant.inner(g)
                continue
            vector = constant.channels
            if vector is None or not whole or vector.shape[0] != g.shape[1]:
                self._known[constant.site] = inner(*by_row(g, constant.weighed, rows))
                continue
            if summed is None:
                summed = g.sum(list(range(2, g.ndim))) if g.ndim > 2 else g
            keeps = keeps or summed is g
            self._summed.append(summed)
            self._vectors.append(vector)
        return keeps

    def totals(self, like: Tensor) -> tuple[tuple[str, ...], Tensor]:
        """Call sites in order of execution, and their shares (R, sites) float64 beside `like`."""
        if not self._sites:
            return (), like.new_empty(len(like), 0, dtype=torch.float64)
        sites = tuple(reversed(self._sites))
        if like.device.type != "cpu":
            waiting = iter(self._sums().unbind(1) if self._vectors else ())
            columns = [
                self._known[site] if site in self._known else next(waiting) for site in self._sites
            ]
            return sites, torch.stack(columns[::-1], 1)
        shares = np.empty((len(like), len(sites)))
        given = np.array([site in self._known for site in self._sites])
        if self._vectors:
            shares[:, ~given] = self._sums().numpy()
        for number in np.flatnonzero(given):
            shares[:, number] = self._known[self._sites[number]].numpy()
        return sites, torch.from_numpy(shares[:, ::-1].copy())

    def _sums(self) -> Tensor:
        """Σ g·constant (R, n) of the constants with one value per channel."""
        products = torch.cat([part.double() for part in self._summed], 1)
        products = products * torch.cat(self._vectors)
        sizes = [vector.shape[0] for vector in self._vectors]
        if products.device.type != "cpu":
            return torch.stack([part.sum(1) for part in products.split(sizes, 1)], 1)
        starts = np.cumsum([0, *sizes[:-1]])
        return torch.from_numpy(np.add.reduceat(products.numpy(), starts, axis=1))


def by_row(g: Tensor, constant: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Both with one entry a row, where parts of images share the first dimension, or all of it."""
    if constant.ndim < g.ndim:
        constant = constant.reshape(*[1] * (g.ndim - constant.ndim), *constant.shape)
    if g.ndim > 0 and g.shape[0] == rows:
        return g, constant
    if g.ndim == 0:
        return g.reshape(rows), constant.reshape(1)
    parts = constant[None] if constant.shape[0] == 1 else constant.unflatten(0, (rows, -1))
    return g.unflatten(0, (rows, -1)), parts


def inner(g: Tensor, constant: Tensor) -> Tensor:
    """⟨g, constant⟩ for each row, the constant broadcast to g's shape; float64 (R,)."""
    blind = [d for d in range(1, g.ndim) if constant.shape[d] == 1]
    if blind:
        g, constant = g.sum(blind), constant.squeeze(blind)
    return (g.double() * constant.double()).reshape(g.shape[0], -1).sum(1)


def position_map(g: Tensor, constant: Tensor) -> Tensor:
    """What a constant adds at each position, summed over channels: (R, *positions)."""
    product = (g * constant).double()
    return product.sum(1) if product.ndim > 2 else product


@dataclass(frozen=True)
class Noise:
    """How one call rounds.

    The `values` that it computes for an image are off by about √terms times the unit roundoff times
    their size: the 2-norms of the output and of what constants add to it (`spread`); or, where it
    does not `sums`, `gain` times that of the input. Where products cancel, the output says too
    little: at worst, `gain` times the input counts there, too, which bounds all products together.
    """

    terms: float
    values: int
    spread: float
    gain: float
    sums: bool


class Rounding:
    """How large Σ ⟨g, δ⟩ over the rounding errors δ of all calls is, likely and at worst.

    After Higham & Mary, A New Approach to Probabilistic Rounding Error Analysis (2019): a sum of
    K products errs by about u·√K times its size. Likely: all errors are independent, and spread
    over the values of a call as these and the cotangents are on average. At worst: all pull in one
    direction, as those do that maxima have chosen. `kept` is where the program keeps what is the
    same in every run.
    """

    def __init__(self, kept: dict[Any, Any]) -> None:
        self._kept = kept
        self._cotangents: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._inputs: list[Tensor] = []
        self._noise: list[Noise] = []

    def add(self, cotangent: Tensor, output: Tensor | None, given: Tensor, noise: Noise) -> None:
        """Norms of one call's cotangent (R,), and of its recorded output and input (B,).

        R is a multiple of B. output: where `noise.sums`.
        """
        self._cotangents.append(cotangent)
        self._outputs.append(given if output is None else output)
        self._inputs.append(given)
        self._noise.append(noise)

    def __len__(self) -> int:
        """How many calls were added so far."""
        return len(self._noise)

    def total(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The variance if likely, and the sum at worst; (R,) float64, in units of the roundoff."""
        variance, worst = self._parts(like)
        return variance.sum(0), worst.sum(0)

    def totals(self, like: Tensor, counts: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """`total` of so many calls only, those that were added first."""
        variance, worst = self._parts(like)
        return [(variance[:count].sum(0), worst[:count].sum(0)) for count in counts]

    def _parts(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """What each call adds, (calls, R)."""
        if not self._noise:
            nothing = like.new_zeros(0, like.shape[0], dtype=torch.float64)
            return nothing, nothing
        terms, values, spread, gain, sums = self._noise_beside(like).t()[:, :, None]
        outputs = sums * torch.stack(self._outputs).double() + spread
        products = gain * torch.stack(self._inputs).double()
        cotangents = torch.stack(self._cotangents).double()
        repeats = cotangents.shape[1] // outputs.shape[1]
        likely = cotangents * (outputs + (1 - sums) * products).repeat(1, repeats)
        worst = cotangents * (outputs + products).repeat(1, repeats)
        return terms / values * likely.square(), terms.sqrt() * worst

    def _noise_beside(self, like: Tensor) -> Tensor:
        """The noise where the cotangents lie; a copy to a GPU would wait in every run."""
        name = ("noise", *self._noise)
        if name not in self._kept:
            numbers = [(o.terms, o.values, o.spread, o.gain, float(o.sums)) for o in self._noise]
            self._kept[name] = like.new_tensor(numbers, dtype=torch.float64)
        found: Tensor = self._kept[name]
        return found


def spread_of(constant: Tensor) -> float:
    """Root mean square of a constant."""
    return float(torch.linalg.vector_norm(constant)) / constant.numel() ** 0.5
