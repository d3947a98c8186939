"""The four claims behind "exact", each with its own evidence, for one explanation."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from guidxmage import __version__, fingerprint
from guidxmage.engine.capture import capture
from guidxmage.engine.deployment import untouched
from guidxmage.engine.precision import widened
from guidxmage.engine.program import Program
from guidxmage.engine.symbolic import Network
from guidxmage.engine.trail import Trail
from guidxmage.errors import InputError, UnsupportedOperatorError
from guidxmage.explanation import Explanation
from guidxmage.proof.fidelity import (
    ModelFidelity,
    TrailFidelity,
    model_fidelity,
    trail_fidelity,
)
from guidxmage.proof.modular import Identity, prove_identity
from guidxmage.proof.numeric import Numeric, exact_run, measured

SCHEMA = "guid-xmage/certificate/1"
# What the exact rationals of a network are found for; more takes minutes.
_MOST_DECISIONS, _MOST_INPUTS = 3_000, 4_000
# Relative to float64: a larger difference is no rounding.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-9}


@dataclass(frozen=True)
class Rationals:
    """Δ and b against exact fractions: the largest difference of a weight, and that of b.

    Of the float64 run of a small network; both are None elsewhere, and `reason` says why.
    """

    weights: float | None
    bias: float | None
    reason: str = ""


@dataclass(frozen=True)
class Certificate:
    """What was found for each claim.

    identity: the algebra; numeric: what rounding did, None where no float64 run was possible;
    trail: which decisions are in doubt, None for networks with smooth operators; same_trail:
    whether recording the image again gives the same trail; model: whether the captured program is
    the network; rationals: exact fractions of small networks. fingerprints: SHA-256 of model, image
    and trail.
    """

    identity: Identity
    numeric: Numeric
    trail: TrailFidelity | None
    same_trail: bool
    model: ModelFidelity
    rationals: Rationals
    fingerprints: dict[str, str | None]
    tolerance: float
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against the explanation; a claim that was left out does not."""
        return not self.reasons

    @property
    def reasons(self) -> tuple[str, ...]:
        """What speaks against it, a sentence each."""
        found = []
        if self.identity.holds is False:
            found.append(f"the algebraic identity fails: {self.identity.reason}")
        if not self.same_trail:
            found.append("recording the image again gives another trail")
        worst = max(self.numeric.weights, self.numeric.contributions)
        if not worst <= self.tolerance:
            found.append(f"the weights are {worst:.2g} off, relative to float64")
        if not self.model.identical and self.model.difference > self.tolerance:
            found.append(f"the module's logits differ by {self.model.difference:.2g}")
        return tuple(found)

    def __str__(self) -> str:
        verdict = "certified" if self.holds else f"NOT certified ({'; '.join(self.reasons)})"
        return (
            f"{verdict}: {self._algebra()}; {self._numbers()}; {self._doubts()}; {self._logits()}"
        )

    def _algebra(self) -> str:
        if self.identity.holds is None:
            return f"identity not checked ({self.identity.reason})"
        word = "holds" if self.identity.holds else "FAILS"
        return f"identity {word} modulo {len(self.identity.primes)} primes"

    def _numbers(self) -> str:
        n = self.numeric
        return f"Δ within {n.weights:.1e} of float64, score within {abs(n.score):.1e}"

    def _doubts(self) -> str:
        if self.trail is None:
            return "smooth: exact at this image alone"
        t = self.trail
        return (
            f"{t.ambiguous:,} of {t.decisions:,} decisions ambiguous, {t.changed:,} taken "
            "otherwise in the other precision"
        )

    def _logits(self) -> str:
        if self.model.identical:
            return "program and module agree bit for bit"
        return f"program and module differ by {self.model.difference:.1e}"

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return {
            "schema": SCHEMA,
            "version": __version__,
            "line": str(self),
            "holds": self.holds,
            "reasons": list(self.reasons),
            **found,
        }


def certify(
    explanation: Explanation, *, primes: int = 3, seed: int | None = None
) -> list[Certificate]:
    """One certificate for each image and target.

    The network is captured once more for it, apart from the capture that the explanation was made
    with. seed: of the primes and the random images; by default drawn by the system.
    Raises InputError for an explanation that was loaded without its explainer.
    """
    network = explanation.symbolic_model.network
    if network is None or network.model is None:
        raise InputError(
            "an explanation that was loaded from a file does not know its network; load it with "
            "Explanation.load(folder, explainer)"
        )
    with untouched(network.model):
        fresh = capture(network.model, _given(explanation, network), network.program.conventions)
        wide = widened(network.program)
        return [_certify(part, network, fresh, wide, primes, seed) for part in explanation.split()]


def _given(explanation: Explanation, network: Network) -> Tensor:
    """The images (B, …) as the network took them."""
    images = explanation.input if explanation.batched else explanation.input[None]
    return network.to_input(images)


def _certify(  # noqa: PLR0917
    part: Explanation,
    network: Network,
    fresh: Program,
    wide: Program,
    primes: int,
    seed: int | None,
) -> Certificate:
    began = time.perf_counter()
    assert network.model is not None
    program, trail = network.program, part.trail
    Z = part.input[None]
    X = network.to_input(Z)
    cotangent = part.symbolic_model.cotangent[0]
    again = fresh.record(X, norms=False)
    identity = prove_identity(
        fresh, program, (again.trail, trail), cotangent[0], primes=primes, seed=seed
    )
    smooth = bool(program.smooth)
    numeric = _numeric(part, network, wide, X, Z, cotangent)
    fidelity = None if smooth else trail_fidelity(program, wide, trail, X, cotangent)
    return Certificate(
        identity=identity,
        numeric=numeric,
        trail=fidelity,
        same_trail=bool(again.trail.same(trail).all()),
        model=model_fidelity(network.model, program, X, part.logits),
        rationals=_rationals(part, wide, X, cotangent[0]),
        fingerprints={
            "model": fingerprint.of_model(network.model),
            "image": fingerprint.of_tensor(part.input),
            "trail": fingerprint.of_trail(trail),
        },
        tolerance=TOLERANCE[program.dtype],
        seconds=time.perf_counter() - began,
    )


def _numeric(  # noqa: PLR0917
    part: Explanation, network: Network, wide: Program, X: Tensor, Z: Tensor, cotangent: Tensor
) -> Numeric:
    model = part.symbolic_model
    to_space = chain_rule(network.to_input, Z)
    printed = (part.weights[None], float(model.bias), float(part.score))
    if not wide.smooth:
        given = (X, Z)
        return measured(network.program, wide, part.trail, given, printed, cotangent, to_space)[0]
    own = wide.record(X.double(), norms=False).trail
    exact = exact_run(wide, own, X.double(), cotangent.double())
    weights, shift = to_space(exact.weights)
    difference = part.weights[None].double() - weights
    size = float(torch.linalg.vector_norm(weights)) or 1.0
    shown = float(torch.linalg.vector_norm(weights * Z.double())) or 1.0
    return Numeric(
        weights=float(torch.linalg.vector_norm(difference)) / size,
        weights_largest=float(difference.abs().max()),
        contributions=float(torch.linalg.vector_norm(difference * Z.double())) / shown,
        bias=float(model.bias) - exact.bias - shift,
        score=float(part.score) - exact.score,
        ledger={},
        unexplained=float("nan"),
        bound=float("nan"),
    )


def chain_rule(
    to_input: Callable[[Tensor], Tensor], Z: Tensor
) -> Callable[[Tensor], tuple[Tensor, float]]:
    """Weights on the network's input as weights on Z, and what the affine map adds to b."""

    def there(weights: Tensor) -> tuple[Tensor, float]:
        wide = Z.detach().double()
        with torch.enable_grad():
            leaf = wide.clone().requires_grad_()
            seen = to_input(leaf)
            if not seen.requires_grad:  # a map that leaves autograd, or none at all
                return weights, 0.0
            (carried,) = torch.autograd.grad((seen.double() * weights).sum(), leaf)
        moved = float((seen.detach().double() * weights).sum() - (wide * carried).sum())
        return carried, moved

    return there


def _rationals(part: Explanation, wide: Program, X: Tensor, cotangent: Tensor) -> Rationals:
    """Exact fractions, where the network is small enough and the weights are its input's own."""
    if wide.smooth:
        return Rationals(None, None, "smooth operators have no exact rationals")
    if part.trail.count > _MOST_DECISIONS or X.numel() > _MOST_INPUTS:
        return Rationals(None, None, "the network is too large for exact rationals")
    from guidxmage.proof.smt import claim_of, printed_difference

    try:
        claim = claim_of(wide, X[0].double(), cotangent, trail=_comparable(part.trail, wide))
    except (InputError, UnsupportedOperatorError) as error:
        return Rationals(None, None, str(error))
    exact = exact_run(wide, part.trail, X.double(), cotangent.double()[None])
    found = printed_difference(claim, exact.weights[0], exact.bias, 1.0)
    return Rationals(float(found.largest), float(found.bias))


def _comparable(trail: Trail, program: Program) -> Trail:
    return replace(trail, header=dict(program.header))
