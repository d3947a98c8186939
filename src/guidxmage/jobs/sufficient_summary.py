"""What is said of a photo's sufficient pixels: arrays, numbers, sentences, pictures' levels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from guidxmage.adversarial.certified.sufficient import SufficientPixels
from guidxmage.errors import UnsupportedOperatorError
from guidxmage.explainer import Explainer
from guidxmage.outputs.classes import class_name
from guidxmage.view.sufficient import IRRELEVANT, NEEDED, UNKNOWN

EXAMPLES = "counterexamples"
KINDS = {"unknown": UNKNOWN, "needed": NEEDED, "irrelevant": IRRELEVANT}
"""What a verdict is in the arrays."""
EXACT = "the PNG itself is a counterexample, pixel for pixel"
INEXACT = "not in 8 bits: rounded, it is no counterexample; see arrays.npz"


def arrays_of(explainer: Explainer, found: SufficientPixels) -> dict[str, Any]:
    """The arrays of a result: everything that a claim is about, in float64."""
    units = np.array([KINDS[verdict] for verdict in found.verdicts], dtype=np.uint8)
    by_part = np.append(units, np.uint8(UNKNOWN))  # −1 is what was left out
    examples = found.counterexamples.double()
    classes = [int(explainer.logits(Z).argmax()) for Z in examples]
    return {
        "image": found.image.double().numpy(),
        "parts": found.parts.numpy().astype(np.int64),
        "unit_verdicts": units,
        "verdicts": by_part[found.parts.numpy()],
        "counterexamples": examples.numpy(),
        "counterexample_of": found.counterexample_of.numpy().astype(np.int64),
        "counterexample_class": np.array(classes, dtype=np.int64),
    }


def summary(explainer: Explainer, found: SufficientPixels, scores: Tensor) -> dict[str, Any]:
    """What is claimed of one photo, and how it was come by, as JSON values."""
    verdicts = {word: found.verdicts.count(word) for word in KINDS}
    pixels = {word: int(getattr(found, word).sum()) for word in KINDS}
    rival = found.rather_than
    return {
        "epsilon": found.epsilon,
        "norm": found.norm,
        "from_class": found.from_class,
        "from_name": class_name(found.from_class, explainer.labels),
        "rather_than": rival,
        "rather_than_name": None if rival < 0 else class_name(rival, explainer.labels),
        "score": float(scores[found.from_class]),
        "shape": list(found.image.shape),
        "units": len(found.verdicts),
        "names": list(found.names),
        "objects": [
            {"name": name, "verdict": verdict, "suffices": alone, "cannot_flip": inert}
            for name, verdict, alone, inert in zip(
                found.names, found.verdicts, found.suffices, found.cannot_flip, strict=True
            )
        ]
        if found.names
        else None,
        "counts": verdicts,
        "pixels": pixels,
        "size": found.size,
        "minimal": found.minimal,
        "sums": _sums(explainer, found),
        "claim": claim_words(explainer, found),
        "queries": found.queries,
        "nodes": found.nodes,
        "relus": found.relus,
        "reason": found.reason,
    }


def claim_words(explainer: Explainer, found: SufficientPixels) -> str:
    """What was proved, in a sentence."""
    free = int(found.irrelevant.sum())
    own = class_name(found.from_class, explainer.labels)
    if not free:
        return "nothing: no unit was proved irrelevant"
    rival = found.rather_than
    stays = (
        f"the class stays {own}"
        if rival < 0
        else f"{class_name(rival, explainer.labels)} does not pass {own}"
    )
    return (
        f"{free:,} pixels may change together by at most {found.epsilon:g} each, within [0, 1], in "
        f"any way, the other {found.size:,} fixed, and {stays}"
    )


def _sums(explainer: Explainer, found: SufficientPixels) -> dict[str, float] | None:
    """What the pixels of each kind contribute to the score, or to the difference of two.

    None for a network that cannot be explained.
    """
    own, rival = found.from_class, found.rather_than
    asked: Any = own if rival < 0 else ("contrast", own, rival)
    try:
        explained = explainer.explain(found.image, asked)
    except UnsupportedOperatorError:
        return None
    sums = explained.contributions.double().sum(0).cpu()
    parts = {word: float(sums[getattr(found, word)].sum()) for word in KINDS}
    return {**parts, "bias": float(explained.bias)}


# --- counterexamples -----------------------------------------------------------------------------


def examples_of(explainer: Explainer, found: SufficientPixels) -> list[dict[str, Any]]:
    """What is said of each counterexample, `levels` (H, W[, C]) uint8 or None among it."""
    told = []
    for number, Z in enumerate(found.counterexamples.double()):
        unit = int(found.counterexample_of[number])
        index = int(explainer.logits(Z).argmax())
        levels = in_eight_bits(explainer, found, number)
        told.append(
            {
                "unit": unit,
                "unit_name": found.names[unit] if found.names else None,
                "class": index,
                "name": class_name(index, explainer.labels),
                "largest_change": float((Z - found.image).abs().max()),
                "pixels_changed": int((found.image != Z).any(0).sum()),
                "png": None if levels is None else f"{EXAMPLES}/{number:04}.png",
                "note": INEXACT if levels is None else EXACT,
                "levels": levels,
            }
        )
    return told


def in_eight_bits(
    explainer: Explainer, found: SufficientPixels, number: int
) -> npt.NDArray[np.uint8] | None:
    """A counterexample as whole grey levels (H, W[, C]) that is one itself; None where it is not.

    Levels are rounded towards the photo where the nearest would be farther off than ε.
    """
    X, Z = found.image.double(), found.counterexamples[number].double()
    if X.shape[0] not in (1, 3) or not torch.equal((X * 255).round() / 255, X):
        return None
    levels = (Z * 255).round()
    if found.norm == "linf":
        most = np.floor(found.epsilon * 255 + 1e-9)
        own = (X * 255).round()
        levels = levels.clamp(own - most, own + most).clamp(0, 255)
    rounded = levels / 255
    if found.norm == "l2" and float((rounded - X).norm()) > found.epsilon:
        return None
    scores = explainer.logits(rounded)
    if not reaches(scores, found.from_class, found.rather_than):
        return None
    pixels: npt.NDArray[np.uint8] = levels.to(torch.uint8).permute(1, 2, 0).numpy()
    return pixels.squeeze(-1) if pixels.shape[2] == 1 else pixels


def reaches(scores: Tensor, own: int, rather_than: int) -> bool:
    """Whether scores (classes,) are another answer: any class, or the given one, passes `own`."""
    if rather_than >= 0:
        return bool(scores[rather_than] > scores[own])
    others = torch.cat([scores[:own], scores[own + 1 :]])
    return bool(others.max() > scores[own])
