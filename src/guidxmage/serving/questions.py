"""Answers about an explained photo: erase and check, attack an area, explain another class."""

from __future__ import annotations

import math
import threading
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from guidxmage.adversarial.heuristic.attack import attack
from guidxmage.adversarial.heuristic.result import AttackResult
from guidxmage.analysis.erasing import check_unchanged, erase, shown
from guidxmage.attribution.attribution import Attribution
from guidxmage.attribution.targets import Contrast
from guidxmage.errors import GuidXmageError, InputError
from guidxmage.explainer import Explainer
from guidxmage.explanation import Explanation
from guidxmage.inputs.photo_map import planes_of
from guidxmage.serving.asked import Attack, Erase, Explain, Mask, Size, read_question
from guidxmage.viewer.answers import Answer, Say, Stop
from guidxmage.viewer.scene import Scene

MOST_TARGETS, MOST_BYTES, FEW_TARGETS = 64, 2**31, 3
"""Targets of one photo that are held at once, and about the memory of more than a few of them."""
HELD = 4
"""Bytes in memory for each byte that is shown of a target: its explanation has the numbers, too."""
_NORMS = {"l2": "L2", "linf": "L∞", "l1": "L1", "l0": "pixels"}


class Questioned(Protocol):
    """A photo that is asked about.

    explanation: of the targets that were explained at first; added: of those asked for since;
    scene: what is shown of all of them. lock: taken by whoever changes it.
    """

    explanation: Explanation
    scene: Scene
    added: list[Explanation]
    lock: threading.Lock


def answer(explainer: Explainer, held: Questioned, question: Any, say: Say, stop: Stop) -> Answer:
    """The answer to a question, which comes from outside (docs/viewer.md has the format).

    say is told what is done; stop is called between the steps and may raise. Raises InputError for
    a question that is none, and GuidXmageError for what cannot be answered.
    """
    asked = read_question(question)
    if isinstance(asked, Explain):
        return _explained(explainer, held, asked, (say, stop))
    part = _part(held, asked.target)
    if isinstance(asked, Erase):
        return _erased(part, asked, (say, stop))
    return _attacked(explainer, part, asked, (say, stop))


def _part(held: Questioned, number: int) -> Explanation:
    with held.lock:
        parts = [*held.explanation.split(), *held.added]
    if number >= len(parts):
        raise InputError(f"there is no target number {number}; there are {len(parts)}")
    return parts[number]


def _size(part: Explanation) -> Size:
    height, width = part.input.shape[-2:]
    return int(height), int(width)


# --- erase and check -----------------------------------------------------------------------------


def _erased(part: Explanation, asked: Erase, steps: tuple[Say, Stop]) -> Answer:
    say, stop = steps
    area = asked.area.mask(_size(part))
    fill: Any = asked.fill
    if asked.fill == "photo":
        if asked.photo is None:
            raise InputError('fill "photo" needs the photo’s pixels')
        fill = _pixels(part, asked.photo.colours(area))
    stop()
    say("asking the network about the erased picture", None)
    found = erase(part, area, fill)
    values = {
        "kind": "erase",
        "fill": asked.fill,
        "pixels": found.pixels,
        **{
            name: _number(getattr(found, name))
            for name in ("before", "predicted", "after", "predicted_change", "real_change")
        },
        "gap": _number(found.gap),
        "bound": _number(found.bound),
        "decisions": found.decisions,
        "flipped": found.flipped,
        "flipped_by_layer": [[site, n, of] for site, (n, of) in found.flipped_by_layer.items()],
        "answer_before": list(found.answer_before),
        "answer_after": list(found.answer_after),
        "sentence": found.sentence,
    }
    return Answer(values, {} if found.picture is None else {"picture": found.picture})


def _pixels(part: Explanation, colours: np.ndarray[Any, Any]) -> Tensor:
    """Colours (H, W, 3) as an image of the explained space."""
    known, channels = part.preprocessing, part.input.shape[0]
    if known is None or channels not in (1, 3):
        raise InputError("how a photo becomes this network's input is not known")
    planes = torch.from_numpy(colours.astype(np.float64) / 255).permute(2, 0, 1)
    if channels == 1:  # as Pillow weighs colours
        planes = (planes * planes.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)[None]
    return planes if part.space != "input" else known.from_pixels(planes)


# --- attack this area ----------------------------------------------------------------------------


def _attacked(
    explainer: Explainer, part: Explanation, asked: Attack, steps: tuple[Say, Stop]
) -> Answer:
    say, stop = steps
    area = None if asked.area is None else asked.area.mask(_size(part))
    X = _attackable(part)
    check_unchanged(part)
    mask = None if area is None else torch.from_numpy(area).to(X.device)
    words = f"looking for the smallest change, with up to {asked.budget} gradients"

    def progress(share: float) -> None:
        stop()
        say(words, share)

    progress(0.0)
    result = attack(
        explainer,
        X[None],
        int(part.logits.argmax()),
        norm=asked.norm,
        mask=mask,
        budget=asked.budget,
        quantise=_has_levels(part),
        progress=progress,
    )
    stop()
    success = bool(result.success[0])
    sample = result.adversarial[0]
    certificate = None
    if success:
        say("certifying what the network says of the changed picture", None)
        certificate = _certificate(explainer, sample, int(result.to_class[0]))
        stop()
    values = _attack_values(part, asked, result, area)
    return Answer(
        {**values, "certificate": certificate}, _attack_arrays(part, X, sample) if success else {}
    )


def _attackable(part: Explanation) -> Tensor:
    """The image in the explainer's own space, where an attack works."""
    if part.space == "photo":
        raise InputError(
            "an attack changes the pixels that the network sees, not those of the photo at its own "
            'size; explain the photo in the space "pixels" to attack it'
        )
    return _own_image(part)


def _own_image(part: Explanation) -> Tensor:
    """What the explainer was given, where that is what the network sees."""
    if not is_carried(part):
        return part.input
    picture = part.pictures[0]
    if picture is not None:
        return planes_of(picture).to(part.input)
    assert part.preprocessing is not None
    return part.preprocessing.to_pixels(part.input).clamp(0, 1)


def is_carried(part: Attribution) -> bool:
    """Whether the explainer's space is "pixels" and the explanation is of the network's input."""
    known = part.preprocessing
    return (
        part.space == "input" and known is not None and (any(known.mean) or set(known.std) != {1.0})
    )


def _has_levels(part: Explanation) -> bool:
    """Whether the image is a picture of whole grey levels, so that a PNG should keep the result."""
    return part.space == "pixels" or part.pictures[0] is not None


def _certificate(explainer: Explainer, sample: Tensor, new: int) -> str | None:
    """The certificate of the changed picture's new class in a line, or why there is none."""
    try:
        return str(explainer.explain(sample, new).certificate()[0])
    except GuidXmageError as error:
        return f"not certified: {error}"


def _attack_values(
    part: Explanation, asked: Attack, result: AttackResult, area: Mask | None
) -> dict[str, Any]:
    plain = result.summary(0)
    success, norms = plain["success"], plain["norms"]
    before, after = (
        [index, _named(part, index)] for index in (plain["from_class"], int(result.to_class[0]))
    )
    notes = [plain["note"]] if plain["note"] else []
    if result.evidence != "region":
        notes.append(f"evidence about the region: {result.evidence}")
    if is_carried(part):
        notes.append("sizes are of pixels in [0, 1], not of the normalised input")
    where = "anywhere" if area is None else f"within {int(area.sum()):,} pixels"
    sentence = f"no change {where} was found that makes it another class than {before[1]}"
    flipped = plain["decisions_flipped"]
    if success:
        sentence = (
            f"{before[1]} → {after[1]} by a change {where}: L2 {norms['l2']:.4g}, L∞ "
            f"{norms['linf'] * 255:.4g}/255, {int(norms['l0']):,} pixels changed"
        )
        if flipped is not None:
            sentence += f"; {int(flipped):,} decisions flipped"
    return {
        "kind": "attack",
        "success": success,
        "note": "; ".join(notes),
        "norm": asked.norm,
        "size": plain["size"],
        "norms": norms,
        "from": before,
        "to": after if success else None,
        "margin": plain["margin"],
        "flipped": None if flipped is None else int(flipped),
        "sentence": sentence,
    }


def _attack_arrays(part: Explanation, X: Tensor, sample: Tensor) -> dict[str, np.ndarray[Any, Any]]:
    delta = sample.double() - X.double()
    changed = sample
    if is_carried(part) and part.preprocessing is not None:
        changed = part.preprocessing.from_pixels(sample)
        delta = delta / torch.tensor(part.preprocessing.std).to(delta)[:, None, None]
    arrays = {"delta": np.ascontiguousarray(delta.float().cpu().numpy())}
    picture = shown(part, changed)
    return arrays if picture is None else {"picture": picture, **arrays}


# --- explain another class -----------------------------------------------------------------------


def _explained(
    explainer: Explainer, held: Questioned, asked: Explain, steps: tuple[Say, Stop]
) -> Answer:
    say, stop = steps
    first = held.explanation.split()[0]
    _check_classes(asked, first.logits.numel())
    with held.lock:
        known = _number_of(held, asked)
        if known is None:
            _check_room(held.scene)
    if known is None:
        stop()
        say(f"explaining {_named(first, asked.target)}", None)
        found = _another(explainer, first, asked)
        stop()
        with held.lock:
            known = _number_of(held, asked)  # somebody else may have asked meanwhile
            if known is None:
                known = len(held.scene.manifest["targets"])
                held.scene = held.scene.with_target(found)
                held.added.append(found)
    scene = held.scene
    names = [name for name in scene.arrays if name.split(".")[1:2] == [str(known)]]
    values = {"kind": "explain", "number": known, "entry": scene.manifest["targets"][known]}
    return Answer(values, {name: scene.arrays[name] for name in names})


def _check_room(scene: Scene) -> None:
    count = len(scene.manifest["targets"])
    own = sum(values.nbytes for name, values in scene.arrays.items() if "." in name)
    # The next one takes as much as those before it.
    full = count >= FEW_TARGETS and HELD * own * (count + 1) > MOST_BYTES * count
    if full or count >= MOST_TARGETS:
        raise InputError(
            f"{count} targets of this photo are held already, and more would take too much "
            "memory; explain it anew for others"
        )


def _check_classes(asked: Explain, classes: int) -> None:
    for index in (asked.target, asked.against):
        if index >= classes:
            raise InputError(f"there is no class {index}: the network has 0 to {classes - 1}")
    if asked.target == asked.against:
        raise InputError("a class is not compared with itself; choose another one")


def _number_of(held: Questioned, asked: Explain) -> int | None:
    """The number of a target that is held already."""
    for number, entry in enumerate(held.scene.manifest["targets"]):
        if (entry["target"], entry["against"]) == (asked.target, asked.against):
            return number
    return None


def _another(explainer: Explainer, first: Explanation, asked: Explain) -> Explanation:
    """The same image explained once more, for another target."""
    image: Any = first.pictures[0] if first.space == "photo" else _own_image(first)
    if image is None:
        raise InputError("the explanation of a photo's own pixels lacks the photo")
    target = asked.target if asked.against < 0 else Contrast(asked.target, asked.against)
    space: Any = first.space
    found: Explanation = explainer.explain(
        image,
        target,
        reference=0.0 if first.reference is None else first.reference,
        space=space,
        depth=[one.depth.site for one in first.placements] or None,
    )
    apart = float((found.logits.double() - first.logits.double()).abs().max())
    if not apart <= 2 * float(first.residual_bound + found.residual_bound):
        raise InputError(
            "the network is not as it was when the photo was explained: it gives other scores; "
            "explain the photo again"
        )
    return found


# --- plain values --------------------------------------------------------------------------------


def _named(part: Explanation, index: int) -> str:
    known = part.labels is not None and 0 <= index < len(part.labels)
    return part.labels[index] if known and part.labels else f"class {index}"


def _number(value: float) -> float | None:
    """JSON knows of no NaN and no infinity."""
    return value if math.isfinite(value) else None
