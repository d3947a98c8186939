"""The identity f_t(Z) = ⟨Δ, Z⟩ + b, proved modulo random primes; ImageNet networks take a second.

Both sides are polynomials of degree one in the pixels of Z, with rational coefficients. A random Z
in the field of p elements tells different ones apart with probability 1 − 1/p, unless p divides a
denominator or every difference; so three random primes leave a wrong Δ or b about one chance in
10^17 to pass (Schwartz 1980, Zippel 1979).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from guidxmage.engine.program.program import Program
from guidxmage.engine.trail.trail import Trail
from guidxmage.errors import UnsupportedOperatorError
from guidxmage.proof.modular.field import Field, random_field
from guidxmage.proof.modular.forward import logits_of
from guidxmage.proof.modular.operators import longest_sum, without_rule
from guidxmage.proof.modular.residues import ResidueProgram

# Rows that are pulled at once.
_ROWS = 8


@dataclass(frozen=True)
class Identity:
    """The outcome: `holds` is None where the network cannot be checked in this way, see `reason`.

    primes: with each, what f_t(Z) and ⟨Δ, Z⟩ + b are modulo it; seed: what Z and the primes were
    drawn from; seconds: for all of it.
    """

    holds: bool | None
    reason: str
    primes: tuple[tuple[int, int, int], ...]
    seed: int
    seconds: float


class ModularNetwork:
    """A network modulo some random primes: its weights' residues serve all images and targets.

    forward: the capture that is run plainly; backward: the one whose pull is checked. They may be
    two captures of the same model: then a fault in either of them is noticed, too. seed: what the
    primes and the random images are drawn from, by default the system's own choice.
    """

    def __init__(
        self, forward: Program, backward: Program, *, primes: int = 3, seed: int | None = None
    ) -> None:
        self.seed = secrets.randbits(63) if seed is None else seed
        self._forward, self._backward = forward, backward
        self._draw, self._primes = Random(self.seed), primes
        self._fields: list[tuple[Field, ResidueProgram]] = []

    def identities(self, trails: tuple[Trail, Trail], cotangents: Tensor) -> list[Identity]:
        """Check the pull against a plain run for each of K scores (K, classes) of one image.

        trails: of that image, for the plain run and for the pull. Unfolded operators are compared;
        what folding rounds is the numeric claim's.
        """
        began, count = time.perf_counter(), len(cotangents)
        refused = without_rule(self._backward.calls) or without_rule(self._forward.calls)
        if refused is not None:
            reason = f"{refused.op} at '{refused.site}' has no modular counterpart"
            return [self._unchecked(reason, began)] * count
        try:
            sides = [self._sides(*pair, trails, cotangents) for pair in self._drawn()]
        except (UnsupportedOperatorError, LookupError, OverflowError) as error:
            return [self._unchecked(str(error), began)] * count
        seconds = (time.perf_counter() - began) / count
        return [self._identity([own[k] for own in sides], seconds) for k in range(count)]

    def _unchecked(self, reason: str, began: float) -> Identity:
        return Identity(None, reason, (), self.seed, time.perf_counter() - began)

    def _identity(self, found: Sequence[tuple[int, int, int]], seconds: float) -> Identity:
        holds = all(one == other for _, one, other in found)
        reason = "" if holds else "the pull and a plain run of the network differ"
        return Identity(holds, reason, tuple(found), self.seed, seconds)

    def _drawn(self) -> list[tuple[Field, ResidueProgram]]:
        """The fields, each with the network's residues in it; drawn when they are first needed."""
        if not self._fields:
            terms = max(longest_sum(self._forward), longest_sum(self._backward))
            fields = [random_field(terms, self._draw) for _ in range(self._primes)]
            self._fields = [(field, ResidueProgram.of(self._backward, field)) for field in fields]
        return self._fields

    @torch.no_grad()
    def _sides(
        self,
        field: Field,
        backward: ResidueProgram,
        trails: tuple[Trail, Trail],
        cotangents: Tensor,
    ) -> list[tuple[int, int, int]]:
        """p, f_t(Z) and ⟨Δ, Z⟩ + b modulo p for one random Z and each cotangent."""
        forward, p = self._forward, field.p
        generator = torch.Generator().manual_seed(self._draw.getrandbits(63))
        Z = torch.randint(0, p, (1, *forward.input_shape), generator=generator).double()
        Z, weights = field.reduce(Z), field.residues(cotangents)
        plain, pull = (trail.to("cpu") for trail in trails)
        logits = logits_of(forward, plain, Z, field)
        found = []
        for own in weights.split(_ROWS if backward.batched else 1):
            pulled = backward.pull(pull, own)
            deltas = field.reduce(pulled.weights)
            for row, delta, shares in zip(own, deltas, pulled.shares, strict=True):
                right = field.inner(delta, Z[0]) + sum(int(share) for share in shares)
                found.append((p, field.inner(row, logits[0]), right % p))
        return found


def prove_identity(
    forward: Program,
    backward: Program,
    trails: tuple[Trail, Trail],
    cotangent: Tensor,
    *,
    primes: int = 3,
    seed: int | None = None,
) -> Identity:
    """`ModularNetwork.identities` for one score (classes,)."""
    network = ModularNetwork(forward, backward, primes=primes, seed=seed)
    return network.identities(trails, cotangent[None])[0]
