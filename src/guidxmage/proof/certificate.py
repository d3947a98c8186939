"""The four claims behind "exact", each with its own evidence, for one explanation."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from textwrap import wrap
from typing import Any

from torch import Tensor, nn

from guidxmage.attribution.attribution import TENSORS, Attribution
from guidxmage.attribution.exactness import exactness_of
from guidxmage.engine.capture.capture import capture
from guidxmage.engine.capture.user_model import untouched
from guidxmage.engine.program.precision import widened
from guidxmage.engine.program.program import Program
from guidxmage.engine.symbolic import Network
from guidxmage.errors import InputError, UnsupportedOperatorError
from guidxmage.proof.evidence.judges import Finding, judged
from guidxmage.proof.evidence.remade import Remade, RemadeTarget
from guidxmage.proof.modular.identity import Identity, ModularNetwork
from guidxmage.proof.rounding.deviations import RoundingModel
from guidxmage.proof.rounding.fidelity import ModelFidelity, TrailFidelity, fidelity_of
from guidxmage.proof.rounding.numeric import Exact, Numeric, ledger, measured, with_ledger
from guidxmage.provenance import fingerprint
from guidxmage.provenance.versions import __version__
from guidxmage.reports.short_repr import WIDTH

SCHEMA = "guid-xmage/certificate/2"
# What the exact rationals of a network are found for; more takes minutes.
_MOST_DECISIONS, _MOST_INPUTS = 3_000, 4_000


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
    """What was found for each claim, and about every number.

    identity: the algebra; numeric: what rounding did; trail: which decisions are in doubt, None for
    networks with smooth operators; same_trail: whether recording the image again gives the same
    trail, bit for bit; model: whether the captured program is the network; rationals: exact
    fractions of small networks; findings: one for every field of the explanation and of its
    symbolic model. fingerprints: SHA-256 of model, image and trail. seconds: all that it took, with
    its share of what several images and targets have in common.
    """

    identity: Identity
    numeric: Numeric
    trail: TrailFidelity | None
    same_trail: bool
    model: ModelFidelity
    rationals: Rationals
    findings: tuple[Finding, ...]
    fingerprints: dict[str, str | None]
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
        if not self.model.difference <= self.model.explained:
            found.append(f"the module's logits differ by {self.model.difference:.2g}")
        found += [f"{one.name}: {one.detail}" for one in self.findings if one.passed is False]
        return tuple(found)

    @property
    def not_evidence(self) -> tuple[str, ...]:
        """What is stated and cannot be judged, and why not."""
        return tuple(f"{one.name}: {one.detail}" for one in self.findings if one.passed is None)

    def __str__(self) -> str:
        verdict = "certified" if self.holds else f"NOT certified ({'; '.join(self.reasons)})"
        return (
            f"{verdict}: {self._algebra()}; {self._numbers()}; {self._doubts()}; {self._logits()}"
        )

    def __repr__(self) -> str:
        return "\n".join(wrap(f"Certificate: {self}", WIDTH, subsequent_indent="  "))

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
    explanation: Attribution, *, primes: int = 3, seed: int | None = None
) -> list[Certificate]:
    """One certificate for each image and target.

    The network is captured once more for it, apart from the capture that the explanation was made
    with. seed: of the primes and the random images; by default drawn by the system.
    Raises InputError for an explanation that was loaded without its explainer, and for one whose
    parts do not have the same axes.
    """
    network = explanation.symbolic_model.network
    if network is None or network.model is None:
        raise InputError(
            "an explanation that was loaded from a file, or by pickle, does not know its network; "
            "load it with Explanation.load(folder, explainer)"
        )
    _check_axes(explanation, network)
    exactness = exactness_of(
        smooth=bool(network.program.smooth),
        residual=explanation.residual,
        bound=explanation.residual_bound,
    )
    with untouched(network.model):
        X = explanation.input if explanation.batched else explanation.input[None]
        witness = _Witness(network, network.model, network.to_input(X), primes, seed)
        images = explanation if explanation.batched else [explanation]
        return [found for image in images for found in witness.certificates(image, exactness)]


def _check_axes(explanation: Attribution, network: Network) -> None:
    """Raise InputError where the arrays' axes are not those that the symbolic model states."""
    model, program = explanation.symbolic_model, network.program
    targets, images, classes = model.cotangent.shape
    per_image = (images,) if model.batched else ()
    per_target = (*per_image, targets) if model.several else per_image
    Z = explanation.input.shape[len(per_image) :]
    shapes = {"logits": (*per_image, classes), "input": (*per_image, *Z)}
    shapes |= dict.fromkeys(("weights", "contributions"), (*per_target, *Z))
    alone = (model.batched or images == 1) and (model.several or targets == 1)
    counts = {explanation.trail.rows, len(explanation.pictures), images}
    wrong = [n for n in TENSORS if getattr(explanation, n).shape != shapes.get(n, per_target)]
    if model.weights.shape != shapes["weights"] or model.bias.shape != per_target:
        wrong.append("symbolic_model")
    if any(value.shape != per_target for value in explanation.bias_by_layer.values()):
        wrong.append("bias_by_layer")
    if wrong or not alone or len(counts) > 1 or classes != program.classes:
        what = ", ".join(wrong) or "trail, pictures and cotangent"
        raise InputError(
            f"the explanation does not fit together: {what} differ from the axes that its symbolic "
            f"model states ({images} images, {targets} targets, {classes} classes)"
        )


class _Witness:
    """What is known of a network for all images and targets that are certified together."""

    def __init__(
        self, network: Network, model: nn.Module, given: Tensor, primes: int, seed: int | None
    ) -> None:
        began = time.perf_counter()
        program = network.program
        self.network, self.model = network, model
        self.fresh = capture(model, given, program.conventions)
        self.wide = widened(program)
        self.modular = ModularNetwork(self.fresh, program, primes=primes, seed=seed)
        self.rounding = RoundingModel(self.wide)
        self.fingerprint = fingerprint.of_model(model)
        self._seconds = (time.perf_counter() - began) / len(given)

    def certificates(self, image: Attribution, exactness: str) -> Iterator[Certificate]:
        """One for each target of a single image; exactness is what it must state."""
        began = time.perf_counter()
        remade = Remade.of(image, self.network, self.model, self.fresh, self.wide)
        cotangents = image.symbolic_model.cotangent[:, 0]
        identities = self.modular.identities(remade.trails, cotangents)
        parts = image.split()
        shared = (self._seconds + time.perf_counter() - began) / len(parts)
        for number, (part, identity) in enumerate(zip(parts, identities, strict=True)):
            began = time.perf_counter()
            found = self._certificate(remade, part, number, identity, exactness)
            yield replace(found, seconds=shared + time.perf_counter() - began)

    def _certificate(
        self, image: Remade, part: Attribution, number: int, identity: Identity, exactness: str
    ) -> Certificate:
        target = image.target(part, number, self.rounding)
        return Certificate(
            identity=identity,
            numeric=self._numeric(image, part, target),
            trail=self._doubts(image, part, target),
            same_trail=image.same_trail,
            model=image.model,
            rationals=_rationals(part, image, self.wide, target.exact),
            findings=judged(target.evidence(part, image, exactness)),
            fingerprints={
                "model": self.fingerprint,
                "image": fingerprint.of_tensor(part.input),
                "trail": fingerprint.of_planes(part.trail, part.trail.gates),
            },
            seconds=0.0,
        )

    def _numeric(self, image: Remade, part: Attribution, target: RemadeTarget) -> Numeric:
        printed = (part.weights[None], float(part.symbolic_model.bias), float(part.score))
        bias = sum(target.sites.values())
        found = measured(target.exact, (target.weights[None], bias), part.input[None], printed)
        if self.wide.smooth:
            return found
        values, cotangents = image.runs.deployed.values, target.exact.cotangents
        return with_ledger(found, *ledger(self.wide, image.exact_trail, values, cotangents))

    def _doubts(
        self, image: Remade, part: Attribution, target: RemadeTarget
    ) -> TrailFidelity | None:
        if image.doubts is None:
            return None
        recorded, cotangent = image.runs.deployed.trail, part.symbolic_model.cotangent[0]
        known = target.exact.weights if image.same_trail else None
        return fidelity_of(image.doubts, recorded, self.wide, cotangent, known)


def _rationals(part: Attribution, image: Remade, wide: Program, exact: Exact) -> Rationals:
    """Exact fractions, where the network is small enough and the weights are its input's own."""
    if wide.smooth:
        return Rationals(None, None, "smooth operators have no exact rationals")
    if part.trail.count > _MOST_DECISIONS or image.X.numel() > _MOST_INPUTS:
        return Rationals(None, None, "the network is too large for exact rationals")
    from guidxmage.proof.rational.smt import claim_of, printed_difference

    cotangent, trail = part.symbolic_model.cotangent[0, 0], image.exact_trail
    try:
        claim = claim_of(wide, image.X[0].double(), cotangent, trail=trail)
    except (InputError, UnsupportedOperatorError) as error:
        return Rationals(None, None, str(error))
    found = printed_difference(claim, exact.weights[0], exact.bias, 1.0)
    return Rationals(float(found.largest), float(found.bias))
