"""The figure of a photo's sufficient pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from guidxmage.adversarial.certified.sufficient import SufficientPixels
from guidxmage.explainer import Explainer
from guidxmage.outputs.classes import class_name
from guidxmage.view.files import save_figure
from guidxmage.view.sufficient import (
    IRRELEVANT,
    NEEDED,
    SHOWN,
    UNKNOWN,
    Counterexample,
    Decided,
    percent,
    sufficient_figure,
)


def draw(explainer: Explainer, found: SufficientPixels, scores: Tensor, path: Path) -> None:
    """Draw a result into a file; scores (classes,) are the network's own of the photo."""
    verdicts = np.full(tuple(found.parts.shape), UNKNOWN, dtype=np.uint8)
    verdicts[found.needed.numpy()] = NEEDED
    verdicts[found.irrelevant.numpy()] = IRRELEVANT
    decided = Decided(
        image=_image(found.image),
        verdicts=verdicts,
        name=class_name(found.from_class, explainer.labels),
        score=float(scores[found.from_class]),
        counts={
            NEEDED: found.verdicts.count("needed"),
            IRRELEVANT: found.verdicts.count("irrelevant"),
            UNKNOWN: found.verdicts.count("unknown"),
        },
        parts=found.parts.numpy() if found.names else None,
        names=found.names,
    )
    examples = [_example(explainer, found, number) for number in _chosen(found)]
    save_figure(sufficient_figure(decided, examples, title(explainer, found), lines(found)), path)


def title(explainer: Explainer, found: SufficientPixels) -> str:
    """What was proved, in a few words."""
    own = class_name(found.from_class, explainer.labels)
    within = f"within {norm_words(found.norm)} {radius_words(found.epsilon)}"
    total, size = found.parts.numel(), found.size
    if found.rather_than >= 0:
        own = f"{own} rather than {class_name(found.rather_than, explainer.labels)}"
    if not size:
        return f"{own}: no change of the picture {within} changes the answer"
    if size == total:
        units = f"all {len(found.verdicts):,} {'objects' if found.names else 'pixels'} are needed"
        undecided = "nothing proved" if "unknown" in found.verdicts else units
        return f"{own}: {undecided} {within}"
    small = ", none of them to spare" if found.minimal else ""
    return f"{own}: {size:,} of {total:,} pixels fix the answer {within}{small}"


def lines(found: SufficientPixels) -> list[str]:
    """How much was decided, in what time, and why no more."""
    count = len(found.verdicts)
    known = count - found.verdicts.count("unknown")
    unit = "objects" if found.names else "pixels"
    relus = f"{found.relus:,} ReLUs" if found.relus else "a network without bounds"
    first = (
        f"{known:,} of {count:,} {unit} decided ({percent(known, count)}) in {found.seconds:.1f} s"
        f"   ·   {found.queries:,} questions, {found.nodes:,} branches, {relus}"
    )
    return [first, f"stopped: {found.reason}"] if found.reason else [first]


def norm_words(norm: str) -> str:
    """A norm as it is written."""
    return {"linf": "l∞", "l2": "l2"}.get(norm, norm)


def radius_words(epsilon: float) -> str:
    """ε as grey levels where it is a whole number of them, or nearly a fraction of it."""
    levels = epsilon * 255
    return f"{round(levels)}/255" if abs(levels - round(levels)) < 1e-9 else f"{epsilon:g}"


def _chosen(found: SufficientPixels) -> list[int]:
    """Which counterexamples are shown: the first, and the first that is of another part of it."""
    count = len(found.counterexamples)
    return sorted({0, count // 2})[:SHOWN] if count else []


def _example(explainer: Explainer, found: SufficientPixels, number: int) -> Counterexample:
    Z = found.counterexamples[number]
    scores = explainer.logits(Z)
    index = int(scores.argmax())
    return Counterexample(
        image=_image(Z),
        name=class_name(index, explainer.labels),
        score=float(scores[index]),
        unit=(found.parts == found.counterexample_of[number]).numpy(),
    )


def _image(X: Tensor) -> npt.NDArray[np.floating[Any]]:
    """An image (C, H, W) as (H, W, 1 or 3); of other numbers of channels, their average."""
    if X.shape[0] not in (1, 3):
        X = X.mean(0, keepdim=True)
    return np.asarray(X.double().permute(1, 2, 0).numpy())
