"""Arithmetic modulo a prime with float64 tensors that hold whole numbers.

Every float is m·2^e, a rational number; where p is no divisor of 2 it has a residue modulo p.
Residues are kept centred, |r| ≤ p/2 (and a few more, where a quotient is rounded the wrong way), so
that a sum of K products of two stays below K·p²/4: exact in float64 while that is below 2^53.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any

import torch
from torch import Tensor

_LARGEST_EXACT = 2**53
_LEAST_BITS, _MOST_BITS = 12, 20
# Of float64: the smallest subnormal is 2^-1074, and mantissas are taken as 53-bit integers.
_LEAST_EXPONENT, _LARGEST_EXPONENT = -1140, 1030


@dataclass(frozen=True)
class Field:
    """The whole numbers modulo a prime p > 2."""

    p: int

    @cached_property
    def _powers(self) -> Tensor:
        """2^e for every exponent of a float64, as residues."""
        exponents = range(_LEAST_EXPONENT, _LARGEST_EXPONENT + 1)
        powers = [float(pow(2, e, self.p)) for e in exponents]
        return self.reduce(torch.tensor(powers, dtype=torch.float64))

    def residues(self, values: Tensor) -> Tensor:
        """Finite floats or whole numbers of any shape as residues, float64, on the CPU."""
        values = values.detach().cpu()
        if not values.is_floating_point():
            return self.reduce((values.long() % self.p).double())
        mantissa, exponent = torch.frexp(values)
        digits = 53 if values.dtype == torch.float64 else 24
        whole = mantissa.double().mul_(2.0**digits)
        if digits == 53:  # times a power it must stay below 2^53
            whole = self.reduce(whole)
        power = self._powers[exponent.long().sub_(digits + _LEAST_EXPONENT)]
        return self.reduce(whole.mul_(power))

    @cached_property
    def _kept(self) -> dict[tuple[Any, ...], tuple[Tensor, Tensor]]:
        return {}

    def constant(self, weight: Tensor) -> Tensor:
        """The residues of a weight, kept for the next program that holds the same memory."""
        key = (weight.data_ptr(), weight.shape, weight.stride(), weight.dtype, weight._version)
        if key not in self._kept:  # the weight is kept, too: its memory cannot become another's
            self._kept[key] = weight, self.residues(weight)
        return self._kept[key][1]

    def residue(self, value: float) -> int:
        """A single number's residue, centred."""
        return int(self.residues(torch.tensor(value, dtype=torch.float64)))

    def reduce(self, values: Tensor) -> Tensor:
        """Whole numbers below 2^53 in float64, as centred residues.

        By a rounded quotient: `torch.remainder` takes six times as long.
        """
        quotient = torch.mul(values, 1 / self.p).round_()
        return torch.sub(values, quotient, alpha=self.p, out=quotient)

    def inverse(self, whole: int) -> int:
        """1/whole, centred. Raises ZeroDivisionError for a multiple of p."""
        if whole % self.p == 0:
            raise ZeroDivisionError(f"{whole} has no inverse modulo {self.p}")
        found = pow(whole, -1, self.p)
        return found - self.p if found > self.p // 2 else found

    def inverses(self, residues: Tensor) -> Tensor:
        """1/residues, entry by entry, by Fermat's little theorem."""
        found, square, exponent = torch.ones_like(residues), residues, self.p - 2
        while exponent:
            if exponent & 1:
                found = self.reduce(found * square)
            square, exponent = self.reduce(square * square), exponent >> 1
        return found

    def inner(self, a: Tensor, b: Tensor) -> int:
        """Σ a·b over all entries, both residues."""
        products = self.reduce(a * b).flatten()
        return int(sum(int(part.sum()) for part in products.split(2**30))) % self.p


def random_field(terms: int, draw: Random) -> Field:
    """A field of a random prime in which sums of `terms` products are exact."""
    bits = _MOST_BITS
    while bits > _LEAST_BITS and terms * 4 ** (bits - 1) >= _LARGEST_EXACT:
        bits -= 1
    if terms * 4 ** (bits - 1) >= _LARGEST_EXACT:
        raise OverflowError(f"sums of {terms} products are too long")
    while True:
        p = draw.randrange(2 ** (bits - 1) + 1, 2**bits, 2)
        if all(p % d for d in range(3, int(p**0.5) + 1, 2)):
            return Field(p)
