"""What of a network's outputs is explained, and what is asked of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from guidxmage.attribution.targets import (
    Targets,
    choose_targets,
    classes_of,
    is_per_image,
    one_for_each,
    refuse_uneven,
)
from guidxmage.engine.capture.as_found import running
from guidxmage.errors import InputError
from guidxmage.inputs.input_space import InputSpace, refuse_nonfinite
from guidxmage.outputs.choosing import offered, wanted
from guidxmage.outputs.classes import class_name
from guidxmage.outputs.kinds import Output, Scores, as_output
from guidxmage.outputs.meaning import Asked, Meaning, Seen
from guidxmage.outputs.reading import Reading, Shapes, parted
from guidxmage.outputs.target import Target


@dataclass(frozen=True)
class Outputs:
    """The outputs of B images end to end, (B, N), and what is known of them.

    shapes: of each output of one image; size: (height, width) of the network's input; embed: the
    outputs of another image, (N,); space: that of the images.
    """

    flat: Tensor
    shapes: Shapes
    size: tuple[int, ...]
    labels: Sequence[str] | None
    embed: Callable[[Any], Tensor]
    space: InputSpace

    def seen(self, row: int) -> Seen:
        """Those of one image."""
        known = self.space.preprocessing
        crop = None if self.space.name != "pixels" or known is None else known.crop_labels
        outputs = parted(self.flat[row], self.shapes)
        return Seen(outputs, tuple(map(int, self.size)), self.labels, self._embedded, crop)

    def _embedded(self, image: Any) -> tuple[Tensor, ...]:
        flat = self.embed(image)
        if flat.ndim != 1:
            raise InputError(f"one image is compared with, not {len(flat)}")
        if len(flat) != _count(self.shapes):
            raise InputError(
                f"an embedding of {len(flat)} numbers is compared with one of {_count(self.shapes)}"
            )
        return parted(flat, self.shapes)


class OutputSpace:
    """The outputs of a network that are explained; by default its class scores (B, classes)."""

    def __init__(self, output: object) -> None:
        self.output: Output | None = as_output(output)
        self._shapes: dict[tuple[int, ...], Shapes] = {}

    @property
    def kind(self) -> str:
        """Its name: "scores", "labels" where each stands for itself, "boxes", …"""
        if self.output is None or isinstance(self.output, Scores):
            several = self.output is not None and self.output.multi_label
            return "labels" if several else "scores"
        return type(self.output).__name__.lower()

    def around(self, model: nn.Module) -> nn.Module:
        """The network as it is explained."""
        return model if self.output is None else self.output.around(model)

    def shapes(self, model: nn.Module, given: Tensor, numbers: int | None = None) -> Shapes:
        """Of each output of one image, for inputs (B, C, …).

        numbers: how many there are of an image, where that is known: it may depend on the image.
        """
        if not isinstance(model, Reading):
            return ()
        size = tuple(given.shape[1:])
        if size not in self._shapes or numbers not in (None, _count(self._shapes[size])):
            with running(model):
                outputs = model.outputs(given[:1].clone())
            self._shapes[size] = tuple(tuple(one.shape[1:]) for one in outputs)
        return self._shapes[size]

    def choose(self, target: Any, found: Outputs, *, batched: bool) -> Targets:
        """The targets that are meant, for each of the images. Raises InputError."""
        if self.output is None or self._are_scores(target, found):
            return choose_targets(target, found.flat, found.labels, batched=batched)
        per_image = batched and self._is_per_image(target, found.shapes)
        if isinstance(target, Tensor | np.ndarray) and not _is_floating(target):
            target = target.tolist()
        rows = [
            wanted(target[row] if per_image else target, self.output, found.seen(row))
            for row in range(len(found.flat))
        ]
        refuse_uneven((len(targets), several) for targets, several in rows)
        asked = [
            [one.of(self.output, found.seen(row)) for one in targets]
            for row, (targets, _) in enumerate(rows)
        ]
        choices = tuple(
            tuple(
                _Choice(self.output, one, given.meaning, found)
                for one, given in zip(targets, own, strict=True)
            )
            for (targets, _), own in zip(rows, asked, strict=True)
        )
        return replace(_targets(asked, several=rows[0][1]), choices=choices)

    def parts(
        self, target: Any, model: nn.Module, given: Tensor, batched: bool
    ) -> Callable[[int, Tensor], Any]:
        """What of a target is meant for some of the inputs (B, C, …), by the number of their first.

        Raises InputError for a list that has not an entry for each of a batch.
        """
        each = batched and self._is_per_image(target, self.shapes(model, given))
        if each:
            one_for_each(target, len(given))
        return lambda first, X: target[first : first + len(X)] if each else target

    def _is_per_image(self, target: Any, shapes: Shapes) -> bool:
        if self.holds_scores(shapes):
            return is_per_image(target)
        if not isinstance(target, Tensor | np.ndarray):
            return isinstance(target, list)
        size = tuple(target.shape)
        if not _is_floating(target):
            return len(size) == 1
        whole = [(_count(shapes),), *(shapes if len(shapes) == 1 else ())]
        return size not in whole and size[1:] in whole

    def holds_scores(self, shapes: Shapes) -> bool:
        """Whether outputs of these shapes are class scores, one for each class."""
        plain = isinstance(self.output, Scores) and all(len(shape) <= 1 for shape in shapes)
        return self.output is None or plain

    def _are_scores(self, target: Any, found: Outputs) -> bool:
        """Whether these are class scores, of which a class or a contrast is asked."""
        return self.holds_scores(found.shapes) and not isinstance(target, Target)

    def offered(self, found: Outputs) -> list[tuple[str, str]]:
        """What the first of the images offers: the words to ask for it, and what that is."""
        refuse_nonfinite(found.flat[:1], 0)
        if self.output is None or self._are_scores(None, found):
            best = found.flat[0].topk(min(10, found.flat.shape[1]))
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            named = [(n, class_name(n, found.labels), value) for n, value in pairs]
            return [(name if found.labels else str(n), f"{v:.6g}") for n, name, v in named]
        return offered(self.output, found.seen(0))


@dataclass(frozen=True)
class _Choice:
    """Whether of other outputs (N,) the same would be chosen as was of an image's."""

    output: Output
    target: Target
    meaning: Meaning
    found: Outputs

    def __call__(self, flat: Tensor) -> bool:
        if _count(self.found.shapes) != len(flat):
            return False
        other = replace(self.found, flat=flat.detach()[None]).seen(0)
        try:
            return self.target.of(self.output, other).meaning.choice == self.meaning.choice
        except InputError:  # there is no such box, or no such pixel
            return False


def _count(shapes: Shapes) -> int:
    """How many numbers outputs of these shapes hold."""
    return sum(map(prod, shapes))


def _is_floating(given: Tensor | npt.NDArray[Any]) -> bool:
    return torch.as_tensor(given).is_floating_point()


def _targets(asked: list[list[Asked]], *, several: bool) -> Targets:
    """B images' K targets each."""
    cotangent = torch.stack([torch.stack([one.cotangent for one in row]) for row in asked], 1)
    meanings = tuple(tuple(one.meaning for one in row) for row in asked)
    return Targets(cotangent, *classes_of(cotangent), several, meanings)
