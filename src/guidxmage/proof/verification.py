"""A saved explanation made again from the image and the model, and compared."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guidxmage import fingerprint
from guidxmage.archive import damage
from guidxmage.engine.deployment import untouched
from guidxmage.engine.symbolic import pull_targets
from guidxmage.errors import InputError
from guidxmage.explainer import Explainer
from guidxmage.explanation import Explanation
from guidxmage.files import MANIFEST
from guidxmage.proof.certificate import chain_rule

# Relative to the largest entry; on the same machine the numbers are the same bit for bit.
_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; passed is None where it could not be, and detail says why."""

    name: str
    passed: bool | None
    detail: str


@dataclass(frozen=True)
class Verification:
    """All checks of one result."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.passed is not False for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "schema": "guid-xmage/verification/1",
            "passed": self.passed,
            "checks": [asdict(check) for check in self.checks],
        }


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a saved explanation. Raises InputError where there is none."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(found, dict) or "fingerprints" not in found:
            raise InputError(
                f"{folder} states no fingerprints; it was not written by this version's explain"
            )
        return found
    except FileNotFoundError as error:
        raise InputError(f"{folder} holds no saved explanation: no {MANIFEST}") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{folder / MANIFEST} cannot be read: {error}") from error


def verify(folder: Path, explainer: Explainer, photo: Path | None = None) -> Verification:
    """Check a result with an explainer of the model that it is said to come from.

    photo: the file that was explained; without it the image stored with the result is used.
    Raises InputError where the folder holds no explanation with arrays.
    """
    manifest = read_manifest(folder)
    if "integrated_gradients" in manifest:
        raise InputError(
            f"{folder} holds integrated gradients, which are of a line; what is verified are "
            "explanations of one region"
        )
    damaged = damage(folder)
    checks = [Check("files", not damaged, "; ".join(damaged) or "as they were written")]
    checks.append(_model(manifest, explainer))
    if damaged:
        return Verification((*checks, Check("numbers", None, "not checked: the files are damaged")))
    explanation = Explanation.load(folder, explainer)
    checks.append(_photo(manifest, explanation, explainer, photo))
    if checks[1].passed is False:  # of another model nothing else can be right
        return Verification(tuple(checks))
    with untouched(explainer.model):
        checks += _numbers(manifest, explanation)
    for number, certificate in enumerate(explanation.certificate()):
        name = "certificate" if not explanation.several else f"certificate {number}"
        checks.append(Check(name, certificate.holds, str(certificate)))
    return Verification(tuple(checks))


def _model(manifest: dict[str, Any], explainer: Explainer) -> Check:
    stated, own = manifest["fingerprints"]["model"], fingerprint.of_model(explainer.model)
    if stated is None:
        return Check("model", None, "the result does not say which weights it was made with")
    words = f"SHA-256 {own[:16]}…"
    if stated != own:
        words += f" is not {stated[:16]}…: these are not the weights that were explained"
    return Check("model", stated == own, words)


def _photo(
    manifest: dict[str, Any], explanation: Explanation, explainer: Explainer, photo: Path | None
) -> Check:
    """Whether the image that was explained is the photo's."""
    stored = fingerprint.of_tensor(explanation.input)
    if stored != manifest["fingerprints"]["image"]:
        return Check("image", False, "the stored image is not the one whose fingerprint is stated")
    if photo is None:
        return Check("image", None, "the photo is not at hand; the stored image was used")
    expected = manifest.get("photo_sha256")
    if expected is not None and fingerprint.of_file(photo) != expected:
        return Check("image", False, f"{photo} is not the file that was explained")
    space: Any = explanation.space
    read = explainer.explain(photo, 0, space=space).input
    same = torch.equal(read, explanation.input.to(read))
    return Check("image", same, f"{photo}" if same else f"{photo} is read otherwise")


def _numbers(manifest: dict[str, Any], explanation: Explanation) -> list[Check]:
    """Trail, weights, bias and score once more, and the sum."""
    network = explanation.symbolic_model.network
    assert network is not None
    Z = explanation.input if explanation.batched else explanation.input[None]
    recording = network.program.record(network.to_input(Z))
    same = fingerprint.of_trail(explanation.trail) == manifest["fingerprints"]["trail"]
    same = same and bool(recording.trail.same(explanation.trail).all())
    words = f"{explanation.trail.count:,} decisions, each as recorded"
    if not same:
        words = "the image takes other decisions than were stored"
    cotangent = explanation.symbolic_model.cotangent
    pulled = pull_targets(network.program, recording.trail, cotangent.to(recording.logits))
    carried, shift = _carried(network.to_input, Z, pulled.weights)
    bias = sum(pulled.bias_by_site.values(), torch.zeros_like(shift)) + shift
    model = explanation.symbolic_model
    shape = (*carried.shape[:2], *explanation.weights.shape[-(carried.ndim - 2) :])
    tolerance = _TOLERANCE[network.program.dtype]
    pairs = {
        "weights": (explanation.weights.reshape(shape), carried),
        "bias": (model.bias.reshape(bias.shape), bias),
        "logits": (explanation.logits.reshape(recording.logits.shape), recording.logits),
    }
    found = [Check("trail", same, words)]
    found += [_compared(name, *pair, tolerance) for name, pair in pairs.items()]
    within = bool((explanation.residual.abs() <= explanation.residual_bound).all())
    worst = float(explanation.residual.abs().max())
    total = explanation.contributions.sum(dtype=torch.float64) + explanation.bias.sum()
    gap = float((explanation.score.double().sum() - total - explanation.residual.sum()).abs())
    closes = within and gap <= tolerance * max(1.0, float(explanation.score.abs().sum()))
    return [*found, Check("sum", closes, f"score − Σ A − bias = {worst:.1e}")]


def _carried(to_input: Any, Z: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (B, K, …) on the input as weights on the explained images, with what b gains."""
    parts, shifts = [], []
    for image, own in zip(Z, weights, strict=True):
        rule = chain_rule(to_input, image[None])
        mapped = [rule(one[None].double()) for one in own]
        parts.append(torch.cat([w for w, _ in mapped]))
        shifts.append(torch.tensor([s for _, s in mapped], dtype=torch.float64))
    return torch.stack(parts), torch.stack(shifts)


def _compared(name: str, stored: Tensor, again: Tensor, tolerance: float) -> Check:
    difference = float((stored.double() - again.double()).abs().max())
    size = float(again.double().abs().max())
    if difference == 0:
        return Check(name, True, "the same")
    words = f"off by {difference:.1e}, the largest is {size:.2g}"
    return Check(name, difference <= tolerance * max(size, 1e-30), words)
