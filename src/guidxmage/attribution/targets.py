"""What is to be explained: a class, the best few, all of them, a contrast, or any cotangent."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidxmage.errors import InputError
from guidxmage.outputs.meaning import Meaning


@dataclass(frozen=True)
class Contrast:
    """Why `a` rather than `b`: explains logit a − logit b. Each is a class, "top1" or "top2"."""

    a: Any
    b: Any


@dataclass(frozen=True)
class Targets:
    """K targets for each of B images.

    cotangent (K, B, classes); classes and against (K, B) int64, −1 where there is none;
    `several` tells whether the caller asked for a list of targets (the target axis is kept).
    meanings: of each image and target, (B) (K), where they are not classes; choices: whether what
    was chosen for it would be chosen of other outputs (N,). Both are empty for classes.
    """

    cotangent: Tensor
    classes: Tensor
    against: Tensor
    several: bool
    meanings: tuple[tuple[Meaning, ...], ...] = ()
    choices: tuple[tuple[Callable[[Tensor], bool], ...], ...] = ()

    def __len__(self) -> int:
        return len(self.cotangent)


def as_labels(labels: Any) -> tuple[str, ...] | None:
    """Class names as they are kept. Raises InputError for what is no list of them."""
    if labels is not None and (not isinstance(labels, Sequence) or isinstance(labels, str | bytes)):
        raise InputError(f"labels is {labels!r}; give a list of class names")
    return None if labels is None else tuple(map(str, labels))


def choose_targets(
    target: Any, logits: Tensor, labels: Sequence[str] | None = None, *, batched: bool = True
) -> Targets:
    """Translate a target specification for logits (B, classes).

    Accepted: "top1" … "topK", ("top", k), "all", a class index or name, ("classes", […]),
    Contrast(a, b) or ("contrast", a, b), a sequence of indices (one per image of a batch; several
    targets for a single image), or a float cotangent of shape (classes,) or (B, classes); one that
    picks a class, or subtracts one from another, is named as that.
    Raises InputError for anything else and for classes that do not exist.
    """
    if isinstance(target, Tensor | np.ndarray):
        tensor = torch.as_tensor(target)
        if tensor.is_floating_point():
            return _cotangent(tensor, logits)
        target = tensor.tolist()
    target = _normalised(target)
    if isinstance(target, Contrast):
        first, second = (_class_of(part, logits, labels) for part in (target.a, target.b))
        return _of_classes(first[None], logits, several=False, against=second[None])
    if isinstance(target, tuple):
        kind, argument = target
        if kind == "top":
            return _of_classes(_best(argument, logits), logits, several=True)
        chosen = [_class_of(part, logits, labels) for part in argument]
        if not chosen:
            raise InputError("the list of targets is empty; name at least one class")
        return _of_classes(torch.stack(chosen), logits, several=True)
    if isinstance(target, list):
        return _of_sequence(target, logits, labels, batched)
    if target == "all":
        everything = torch.arange(logits.shape[1], device=logits.device)
        return _of_classes(everything[:, None].expand(-1, len(logits)), logits, several=True)
    return _of_classes(_class_of(target, logits, labels)[None], logits, several=False)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]{1,18}", text) is not None


def _normalised(target: Any) -> Any:
    """("contrast", a, b) → Contrast; "top5" → ("top", 5); other sequences → list."""
    if isinstance(target, str):
        digits = target.lower().removeprefix("top").removeprefix("-")
        if target.lower().startswith("top") and _is_number(digits) and int(digits) != 1:
            return ("top", int(digits))
        return target
    if not isinstance(target, Sequence):
        return target
    head = target[0] if len(target) else None
    if head == "contrast" and len(target) == 3:
        return Contrast(target[1], target[2])
    if head in ("top", "classes") and len(target) == 2:
        return (head, target[1])
    return list(target)


def _of_sequence(
    target: list[Any], logits: Tensor, labels: Sequence[str] | None, batched: bool
) -> Targets:
    if not batched:
        return choose_targets(("classes", target), logits, labels)
    one_for_each(target, len(logits))
    own = [_class_of(part, row[None], labels) for part, row in zip(target, logits, strict=True)]
    return _of_classes(torch.cat(own)[None], logits, several=False)


def is_per_image(target: Any) -> bool:
    """Whether a target of a batch is a list with an entry for every image."""
    if isinstance(target, Tensor | np.ndarray):
        return bool(target.ndim == (2 if torch.as_tensor(target).is_floating_point() else 1))
    return isinstance(_normalised(target), list)


def one_for_each(target: Any, images: int) -> None:
    """Raises InputError where a list of targets has not one entry for every image."""
    if len(target) != images:
        raise InputError(
            f"{len(target)} targets were given for {images} images; give one class per image, "
            'or ("classes", […]) for several classes of every image'
        )


def refuse_uneven(asked: Iterable[tuple[int, bool]]) -> None:
    """Raises InputError for other numbers of targets in a batch: how many, and whether a list."""
    if len(set(asked)) > 1:
        raise InputError("each image of a batch has the same number of targets, or a single one")


def _best(k: Any, logits: Tensor) -> Tensor:
    classes = logits.shape[1]
    if not isinstance(k, int) or not 1 <= k <= classes:
        raise InputError(f"cannot take the {k} best of {classes} classes; give 1 to {classes}")
    return logits.topk(k, dim=1).indices.t()


def _class_of(target: Any, logits: Tensor, labels: Sequence[str] | None) -> Tensor:
    """The class meant, for every image: (B,) int64."""
    classes = logits.shape[1]
    if isinstance(target, str):
        ranked = {"top1": 1, "top-1": 1, "top2": 2, "top-2": 2}.get(target.lower())
        if ranked:
            return _best(ranked, logits)[-1]
        target = int(target) if _is_number(target) else _named(target, labels)
    if isinstance(target, bool) or not isinstance(target, int | np.integer):
        raise InputError(
            f"target {target!r} is not understood; give a class index or name, "
            '"top1", ("top", k), "all", or ("contrast", a, b)'
        )
    if not 0 <= target < classes:
        raise InputError(
            f"target {target} is out of range: the network has classes 0 to {classes - 1}"
        )
    return torch.full((len(logits),), int(target), device=logits.device)


def _named(name: str, labels: Sequence[str] | None) -> int:
    if labels is None:
        raise InputError(f"target {name!r} is a name but no class names are known; give its index")
    lowered = [label.lower() for label in labels]
    if name.lower() in lowered:
        return lowered.index(name.lower())
    close = difflib.get_close_matches(name.lower(), lowered, n=3)
    hint = f"; did you mean {', '.join(repr(c) for c in close)}?" if close else ""
    raise InputError(f"no class is called {name!r}{hint}")


def _of_classes(
    classes: Tensor, logits: Tensor, *, several: bool, against: Tensor | None = None
) -> Targets:
    cotangent = torch.nn.functional.one_hot(classes, logits.shape[1]).to(logits.dtype)
    if against is None:
        return Targets(cotangent, classes, torch.full_like(classes, -1), several)
    minus = torch.nn.functional.one_hot(against, logits.shape[1]).to(logits.dtype)
    return Targets(cotangent - minus, classes, against, several)


def _cotangent(vector: Tensor, logits: Tensor) -> Targets:
    if vector.shape not in (logits.shape, logits.shape[1:]):
        raise InputError(
            f"a cotangent of shape {tuple(vector.shape)} does not fit {logits.shape[1]} classes; "
            f"give shape ({logits.shape[1]},) or ({len(logits)}, {logits.shape[1]})"
        )
    if not torch.isfinite(vector).all():
        raise InputError("the cotangent holds NaN or Inf")
    cotangent = vector.to(logits).expand(1, *logits.shape)
    return Targets(cotangent, *classes_of(cotangent), several=False)


def classes_of(cotangent: Tensor) -> tuple[Tensor, Tensor]:
    """The class that a cotangent (…, classes) picks, and the one that it subtracts, int64 (…).

    −1 where there is none: of a class alone, against; of any other cotangent, both.
    """
    ones, minus = cotangent == 1, cotangent == -1
    rest = ~(ones | minus | (cotangent == 0)).all(-1)
    plain = ~rest & (ones.sum(-1) == 1) & (minus.sum(-1) <= 1)
    classes = torch.where(plain, ones.int().argmax(-1), -1)
    against = torch.where(plain & minus.any(-1), minus.int().argmax(-1), -1)
    return classes, against
