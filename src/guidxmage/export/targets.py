"""What an exported graph explains: the best classes, one that is given to it, or a contrast."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guidxmage.attribution.targets import Contrast, choose_targets
from guidxmage.errors import InputError

GIVEN = "given"
CLASS_INPUT, AGAINST_INPUT = "class_index", "against_index"


@dataclass(frozen=True)
class GraphTarget:
    """The targets of every image in a graph, K of them.

    kind: "top" (the K best), "class" (`classes`, fixed), "given" (an input `class_index` (B,)), or
    "contrast" of two of these (`a` minus `b`), each of one class. several: whether the outputs have
    a target axis.
    """

    kind: str
    count: int = 1
    classes: tuple[int, ...] = ()
    several: bool = False
    place: int = 0
    sides: tuple[GraphTarget, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs that it adds to the graph, int64 (B,)."""
        if self.kind == "contrast":
            sides = zip(self.sides, (CLASS_INPUT, AGAINST_INPUT), strict=True)
            return tuple(name for side, name in sides if side.kind == GIVEN)
        return (CLASS_INPUT,) if self.kind == GIVEN else ()

    def choose(self, logits: Tensor, given: Mapping[str, Tensor | None]) -> tuple[Tensor, Tensor]:
        """Classes, int64 (K, B), of a contrast the first; and cotangents (K, B, classes).

        given: the graph's further inputs by name.
        """
        if self.kind == "contrast":
            first, second = (
                side._classes(logits, given[name])
                for side, name in zip(self.sides, (CLASS_INPUT, AGAINST_INPUT), strict=True)
            )
            one, other = _one_hot(first, logits), _one_hot(second, logits)
            # Rather than a class that does not exist is as little as that class itself.
            there = one.sum(-1, keepdim=True) * other.sum(-1, keepdim=True)
            return first, (one - other) * there
        classes = self._classes(logits, given[CLASS_INPUT])
        return classes, _one_hot(classes, logits)

    def _classes(self, logits: Tensor, given: Tensor | None) -> Tensor:
        if self.kind == GIVEN:
            if given is None:
                raise InputError("this graph explains a class that it is given; give one an image")
            return given[None]
        if self.kind == "top":
            best = logits.topk(self.place + self.count, dim=1).indices.t()
            return best[self.place :]
        fixed = torch.tensor(self.classes, device=logits.device)
        return fixed[:, None].expand(-1, logits.shape[0])

    @property
    def words(self) -> str:
        """For the metadata."""
        if self.kind == "contrast":
            return f"{self.sides[0].words} rather than {self.sides[1].words}"
        if self.kind == GIVEN:
            return GIVEN
        if self.kind == "top":
            return "the second best" if self.place else f"the {self.count} best"
        return ", ".join(map(str, self.classes))


def graph_target(target: Any, classes: int, labels: Sequence[str] | None = None) -> GraphTarget:
    """Translate a target: as `Explainer.explain` takes it, and "given" for an input of the graph.

    In a contrast "given" may stand for either side. Raises InputError for what a graph cannot be
    asked for, such as a target of each image by itself.
    """
    if isinstance(target, tuple) and len(target) == 3 and target[0] == "contrast":
        target = Contrast(target[1], target[2])
    if isinstance(target, Contrast):
        sides = tuple(_side(side, classes, labels) for side in (target.a, target.b))
        return GraphTarget("contrast", sides=sides)
    if isinstance(target, str) and target == GIVEN:
        return GraphTarget(GIVEN)
    if not isinstance(target, str | int | tuple):
        raise InputError(
            'a graph explains the same of every image: give a class, "given" for a class that is '
            'an input, ("top", k), ("classes", […]) or ("contrast", a, b)'
        )
    # Of scores that fall from class to class the k best are the first k.
    falling = -torch.arange(classes, dtype=torch.float64)[None]
    asked = choose_targets(target, falling, labels, batched=False)
    found = tuple(int(n) for n in asked.classes[:, 0])
    if _is_rank(target):
        return GraphTarget("top", len(found), several=asked.several)
    return GraphTarget("class", len(found), found, asked.several)


def _side(target: Any, classes: int, labels: Sequence[str] | None) -> GraphTarget:
    """One class of a contrast."""
    ranks = {"top1": 0, "top-1": 0, "top2": 1, "top-2": 1}
    if isinstance(target, str) and target.lower() in ranks:
        return GraphTarget("top", place=ranks[target.lower()])
    found = graph_target(target, classes, labels)
    if found.several or found.kind == "contrast":
        raise InputError("a contrast is between two classes; give one class on either side")
    return found


def _is_rank(target: Any) -> bool:
    head = target[0] if isinstance(target, tuple) and target else target
    return isinstance(head, str) and re.fullmatch(r"top(-?\d+)?", head.lower()) is not None


def _one_hot(classes: Tensor, logits: Tensor) -> Tensor:
    """By comparison: an index that is out of range picks nothing, and no graph fails on it."""
    numbers = torch.arange(logits.shape[1], device=logits.device)
    return (classes[..., None] == numbers).to(logits.dtype)
