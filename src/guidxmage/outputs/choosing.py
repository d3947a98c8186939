"""From what people ask of an output to targets: objects, tuples, and words of the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidxmage.errors import InputError
from guidxmage.outputs.boxes import MEASURES
from guidxmage.outputs.classes import class_name, word_for
from guidxmage.outputs.detections import Box, BoxSide, kept_boxes
from guidxmage.outputs.kinds import Boxes, Embedding, Output, Regression, Scores, Segmentation
from guidxmage.outputs.likeness import Similarity
from guidxmage.outputs.meaning import Asked, Meaning, Seen
from guidxmage.outputs.places import Mask, Pixel, answers, scores_at_places
from guidxmage.outputs.reading import parted
from guidxmage.outputs.target import Target
from guidxmage.outputs.values import Value


@dataclass(frozen=True)
class Entry:
    """One number of an output (C, …) by its index, as Captum's tuples name it."""

    index: tuple[int, ...]

    def of(self, output: Output, seen: Seen) -> Asked:
        """See `Target`."""
        if len(seen.outputs) != 1:
            raise InputError(f"{output} has several tensors; an index {self.index} names one")
        (values,) = seen.outputs
        inside = len(self.index) == values.ndim and all(
            0 <= n < size for n, size in zip(self.index, values.shape, strict=True)
        )
        if not inside:
            sizes = ", ".join(map(str, values.shape))
            raise InputError(f"there is no entry {self.index}; the output is (batch, {sizes})")
        (cotangent,) = seen.nothing()
        cotangent[self.index] = 1
        choice = {"kind": "entry", "index": list(self.index)}
        return seen.asked([cotangent], Meaning(f"output {self.index}", choice=choice))


@dataclass(frozen=True)
class Number:
    """One number by its place among all outputs, end to end."""

    place: int

    def of(self, output: Output, seen: Seen) -> Asked:  # noqa: ARG002
        """See `Target`."""
        total = sum(map(prod, seen.shapes))
        if not 0 <= self.place < total:
            raise InputError(f"there is no number {self.place}; the output has 0 to {total - 1}")
        flat = seen.outputs[0].new_zeros(total)
        flat[self.place] = 1
        choice = {"kind": "number", "place": self.place}
        meaning = Meaning(f"output number {self.place}", choice=choice)
        return seen.asked(parted(flat, seen.shapes), meaning)


@dataclass(frozen=True, eq=False)
class Cotangent:
    """Any linear functional of one output, of its own shape, or of all of them end to end, (N,)."""

    values: Tensor

    def of(self, output: Output, seen: Seen) -> Asked:  # noqa: ARG002
        """See `Target`."""
        if not torch.isfinite(self.values).all():
            raise InputError("the cotangent holds NaN or Inf")
        (wanted, *others) = seen.shapes
        if tuple(self.values.shape) == (sum(map(prod, seen.shapes)),):  # all of them, end to end
            parts = parted(self.values.to(seen.outputs[0]), seen.shapes)
            return seen.asked(parts, Meaning("cotangent", choice={"kind": "cotangent"}))
        if others or tuple(self.values.shape) != wanted:
            raise InputError(
                f"a cotangent of shape {tuple(self.values.shape)} does not fit the output, which "
                f"is of shape {' and '.join(map(str, seen.shapes))}"
            )
        values = self.values.to(seen.outputs[0])
        return seen.asked([values], Meaning("cotangent", choice={"kind": "cotangent"}))


def wanted(target: Any, output: Output, seen: Seen) -> tuple[list[Target], bool]:
    """The targets that are meant, and whether a list of them was asked for. Raises InputError.

    target: a target, or a list of them or ("targets", [...]); words as in FORMS; an index into the
    output, as (channel, y, x), or a number's place among all outputs end to end; a float tensor of
    the output's shape; or "top1", what it has first.
    """
    if isinstance(target, Tensor | np.ndarray) and torch.as_tensor(target).is_floating_point():
        return [Cotangent(torch.as_tensor(target))], False
    if isinstance(target, tuple) and len(target) == 2 and _is_word(target[0], "targets"):
        if not isinstance(target[1], list | tuple):
            raise InputError(f'a list of targets is written ("targets", [...]), not {target!r}')
        target = list(target[1])
    if isinstance(target, list):
        if not target:
            raise InputError("the list of targets is empty; name at least one")
        return [_one(part, output, seen) for part in target], True
    parts = _parted(target) if isinstance(target, str) and ":" in target else []
    if len(parts) > 1:
        return [_one(part.strip(), output, seen) for part in parts], True
    return [_one(target, output, seen)], False


def _is_word(given: Any, word: str) -> bool:
    return isinstance(given, str) and given == word


def files_named(target: Any) -> list[Path]:
    """The images that a target names by their paths, in order."""
    if isinstance(target, str):
        return [
            file
            for part in _parted(target)
            if part.strip().startswith("like:")
            for file in files_named(_like(part.strip().removeprefix("like:")))
        ]
    if isinstance(target, Similarity):
        both = (target.other, target.rather_than)
        return [Path(one) for one in both if isinstance(one, str | Path)]
    if isinstance(target, list | tuple):
        return [file for part in target for file in files_named(part)]
    return []


def _parted(text: str) -> list[str]:
    """A list of words; a comma between numbers belongs to one of them, as in pixel:10,20."""
    parts: list[str] = []
    for part in text.split(","):
        if parts and part.strip().partition(":")[0] not in _WORDS:
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    return parts


def _one(target: Any, output: Output, seen: Seen) -> Target:
    if isinstance(target, Target) and not isinstance(target, type):
        return target
    if isinstance(target, str):
        if target.lower() == "top1":
            return first_of(output, seen)
        return _from_words(target, output, seen)
    if isinstance(target, int | np.integer) and not isinstance(target, bool):
        return Number(int(target))
    whole = isinstance(target, list | tuple | torch.Size) and all(
        isinstance(n, int | np.integer) and not isinstance(n, bool) for n in target
    )
    if whole:
        return Entry(tuple(int(n) for n in target))
    raise InputError(
        f"target {target!r} is not understood; give one of guidxmage.outputs, an index into the "
        f"output, or words: {FORMS}"
    )


FORMS = '"box:0", "box:0:left", "mask:dog", "pixel:120,80", "like:other.jpg", "value:age"'


def _from_words(text: str, output: Output, seen: Seen) -> Target:
    kind, _, rest = text.partition(":")
    if kind == "mask" and rest in (seen.labels or ()):  # a name may have a colon in it
        return Mask(rest)
    if kind not in _WORDS:
        if isinstance(output, Regression):
            return Value(text)
        raise InputError(f"target {text!r} is not understood; write {FORMS}")
    return _WORDS[kind](rest)


def _is_place(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _box(rest: str) -> Target:
    number, _, side = rest.partition(":")
    if not _is_place(number):
        raise InputError(f"box {number!r} is no number; write box:0, box:0:left, box:0:suppressed")
    if side == "suppressed":
        return Box(int(number), rather_than="suppressed")
    if _is_place(side):
        return Box(int(number), rather_than=int(side))
    if side and side not in MEASURES:
        raise InputError(f"a box has no {side!r}; choose one of {', '.join(MEASURES)}, suppressed")
    return BoxSide(int(number), side) if side else Box(int(number))


def _mask(rest: str) -> Target:
    name, _, against = rest.partition(":")
    return Mask(name, against=against) if against else Mask(name)


def _pixel(rest: str) -> Target:
    place, _, name = rest.partition(":")
    numbers = [n.strip() for n in place.split(",")]
    if len(numbers) != 2 or not all(map(_is_place, numbers)):
        raise InputError(f"pixel {place!r} is no place; write pixel:Y,X")
    return Pixel(int(numbers[0]), int(numbers[1]), name or None)


def _like(rest: str) -> Target:
    other, _, against = rest.partition(":rather:")
    return Similarity(other, against or None)


def _value(rest: str) -> Target:
    return Value(rest)


_WORDS: dict[str, Callable[[str], Target]] = {
    "box": _box,
    "mask": _mask,
    "pixel": _pixel,
    "like": _like,
    "value": _value,
}


def first_of(output: Output, seen: Seen) -> Target:
    """What is explained where nothing was asked for. Raises InputError where there is none."""
    if isinstance(output, Boxes):
        return Box(0)
    if isinstance(output, Segmentation):
        return Mask(_most_seen(seen))
    if isinstance(output, Regression):
        return Value(0)
    if isinstance(output, Embedding):
        raise InputError("what is this image to be like? give target=Similarity(image or vector)")
    return Entry(tuple(int(n) for n in np.unravel_index(_best(seen), seen.shapes[0])))


def _best(seen: Seen) -> int:
    return int(seen.outputs[0].flatten().argmax())


def _most_seen(seen: Seen) -> int:
    """The class with the most places but for the first, which is the background by custom."""
    values, _ = scores_at_places(seen)
    if len(values) == 1:
        return 1 if bool((values > 0).any()) else 0
    counts = answers(values).flatten().bincount(minlength=len(values))
    return int(counts[1:].argmax()) + 1 if int(counts[1:].sum()) else 0


def _offer(kind: str, number: int, labels: Sequence[str] | None, what: str) -> tuple[str, str]:
    """Words for a class or a value, beside what it is: with its name where they are a number."""
    word = word_for(number, labels)
    named = labels is not None and number < len(labels) and labels[number] not in ("", word)
    return f"{kind}:{word}", f"{class_name(number, labels)}, {what}" if named else what


def offered(output: Output, seen: Seen) -> list[tuple[str, str]]:
    """What an image offers: the words to ask for it, and what that is."""
    labels = seen.labels
    if isinstance(output, Boxes):
        boxes = [
            (
                f"box:{n}",
                f"{class_name(one.class_, labels)} {one.score:.4g} at "
                f"{', '.join(f'{side:.0f}' for side in one.sides)}",
            )
            for n, one in enumerate(kept_boxes(output, seen))
        ]
        return [*boxes, *([("box:0:left", "a side of it, in pixels")] if boxes else [])]
    if isinstance(output, Segmentation):
        values, seen = scores_at_places(seen)
        counts = answers(values).flatten().bincount()
        order = [int(n) for n in counts.argsort(descending=True) if counts[n]]
        total = int(counts.sum())
        return [
            _offer("mask", n, seen.labels, f"{100 * int(counts[n]) / total:.1f} % of the picture")
            for n in order
        ]
    if isinstance(output, Regression):
        return [
            _offer("value", n, output.names, f"{float(value):.6g} {output.unit(n)}".strip())
            for n, value in enumerate(seen.outputs[0].flatten()[:100])
        ]
    if isinstance(output, Embedding):
        return [
            ("like:PHOTO", "the cosine with another photo"),
            ("like:PHOTO:rather:PHOTO", "which of two photos is the more alike"),
        ]
    assert isinstance(output, Scores)
    return [(str(list(shape)), "an index into it") for shape in seen.shapes]
