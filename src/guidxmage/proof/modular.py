"""The identity f_t(Z) = ⟨Δ, Z⟩ + b, proved modulo random primes; ImageNet networks take seconds.

Both sides are polynomials of degree one in the pixels of Z, with rational coefficients. A random Z
in the field of p elements tells different ones apart with probability 1 − 1/p, unless p divides a
denominator or every difference; so three random primes leave a wrong Δ or b about one chance in
10^17 to pass (Schwartz 1980, Zippel 1979).
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from guidxmage.engine.program import Program
from guidxmage.engine.trail import Trail
from guidxmage.errors import UnsupportedOperatorError
from guidxmage.proof.field import Field, random_field
from guidxmage.proof.forward import logits_of
from guidxmage.proof.residues import ResidueProgram, longest_sum, without_rule


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


def prove_identity(
    forward: Program,
    backward: Program,
    trails: tuple[Trail, Trail],
    cotangent: Tensor,
    *,
    primes: int = 3,
    seed: int | None = None,
) -> Identity:
    """Check the product's pull of `backward` against a plain run of `forward`, modulo primes.

    trails: of one image, for the plain run and for the pull. They and the programs may be of two
    captures of the same model: then a fault in either of them is noticed, too. cotangent (classes,)
    is the score's. Unfolded operators are compared; what folding rounds is the numeric claim's.
    """
    began = time.perf_counter()
    seed = secrets.randbits(64) if seed is None else seed
    refused = without_rule(backward) or without_rule(forward)
    if refused is not None:
        reason = f"{refused.op} at '{refused.site}' has no modular counterpart"
        return Identity(None, reason, (), seed, time.perf_counter() - began)
    draw = Random(seed)
    found = []
    try:
        for _ in range(primes):
            field = random_field(longest_sum(forward), draw)
            generator = torch.Generator().manual_seed(draw.getrandbits(63))
            sides = _sides(forward, backward, trails, cotangent, field, generator)
            found.append((field.p, *sides))
    except (UnsupportedOperatorError, LookupError, OverflowError) as error:
        return Identity(None, str(error), (), seed, time.perf_counter() - began)
    holds = all(one == other for _, one, other in found)
    reason = "" if holds else "the pull and a plain run of the network differ"
    return Identity(holds, reason, tuple(found), seed, time.perf_counter() - began)


@torch.no_grad()
def _sides(  # noqa: PLR0917
    forward: Program,
    backward: Program,
    trails: tuple[Trail, Trail],
    cotangent: Tensor,
    field: Field,
    generator: torch.Generator,
) -> tuple[int, int]:
    """f_t(Z) and ⟨Δ, Z⟩ + b modulo p for one random Z."""
    p, shape = field.p, (1, *forward.input_shape)
    Z = field.reduce(torch.randint(0, p, shape, generator=generator).double())
    weights = field.residues(cotangent.detach().cpu())[None]
    plain = field.inner(weights, logits_of(forward, trails[0], Z, field))
    pulled = ResidueProgram.of(backward, field).pull(trails[1], weights)
    bias = sum(int(v) for v in pulled.bias_by_site.values())
    return plain, (field.inner(field.reduce(pulled.weights), Z) + bias) % p
