"""A network of any outputs as what is captured: those that are explained, laid end to end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from guidxmage.errors import InputError

Pick = str | int | Callable[[Any], Any] | None
"""Which tensor of an output is meant: a key or attribute, an index, a function of the output, or
the output itself."""
Shapes = tuple[tuple[int, ...], ...]


class Reading(nn.Module):
    """A network, and which of its outputs are explained: (B, N) numbers for each image.

    picks: one for each output, in the order in which they are laid end to end. The modules of the
    network keep their names.
    """

    def __init__(self, model: nn.Module, picks: Sequence[Pick]) -> None:
        super().__init__()
        self.training = model.training
        self.model = model
        self._picks = tuple(picks)

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """Those of the network by the names that they have there."""
        yield prefix, self
        yield from self.model.named_modules(memo, prefix, remove_duplicate)

    def outputs(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs that are explained, (B, …) each. Raises InputError where there is none."""
        output = self.model(*inputs)
        return tuple(_picked(output, pick, len(inputs[0])) for pick in self._picks)

    def forward(self, *inputs: Tensor) -> Tensor:
        """The same end to end, (B, N)."""
        rows = len(inputs[0])
        found = [output.reshape(rows, -1) for output in self.outputs(*inputs)]
        return found[0] if len(found) == 1 else torch.cat(found, 1)


def parted(flat: Tensor, shapes: Shapes) -> tuple[Tensor, ...]:
    """The outputs of one image, (*shape) each, from (N,)."""
    parts = flat.split([prod(shape) for shape in shapes])
    return tuple(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))


def laid(parts: Sequence[Tensor]) -> Tensor:
    """The inverse of `parted`."""
    return torch.cat([part.flatten() for part in parts])


def _picked(output: Any, pick: Pick, rows: int) -> Tensor:
    found = _part(output, pick)
    if not isinstance(found, Tensor):
        inside = found is not None and _offered(found) != _what(found)
        hint = "; give the one that is meant, as in Scores(pick)" if inside and pick is None else ""
        raise InputError(
            f"output {_named(pick)} is {_what(found)} where a tensor is expected"
            f"{f'; there is {_offered(found)}' if inside else ''}{hint}"
        )
    if not found.is_floating_point():
        raise InputError(f"output {_named(pick)} holds {found.dtype}, which has no slope")
    if found.ndim < 1 or found.shape[0] != rows:
        raise InputError(
            f"output {_named(pick)} is of shape {tuple(found.shape)} for {rows} images; the first "
            "dimension must be the batch"
        )
    return found


def _part(output: Any, pick: Pick) -> Any:
    if pick is None:
        return output
    if callable(pick):
        return pick(output)
    try:
        if isinstance(pick, int) or isinstance(output, Mapping):
            return output[pick]
        return getattr(output, pick)
    except (KeyError, IndexError, AttributeError, TypeError) as error:
        raise InputError(
            f"the network's output has no {_named(pick)}; there is {_offered(output)}"
        ) from error


def _named(pick: Pick) -> str:
    if callable(pick):
        return f"of {getattr(pick, '__name__', 'the function')}"
    return "itself" if pick is None else repr(pick)


def _what(found: Any) -> str:
    return f"a {type(found).__name__}"


def _offered(output: Any) -> str:
    """What there is to be picked."""
    if isinstance(output, Tensor):
        return f"one tensor of shape {tuple(output.shape)}"
    if isinstance(output, Mapping):
        return " and ".join(repr(key) for key in output)
    if names := _fields(output):
        return " and ".join(map(repr, names))
    if isinstance(output, Sequence) and not isinstance(output, str):
        return f"index 0 to {len(output) - 1}" if output else "nothing in it"
    return _what(output)


def _fields(output: Any) -> list[str]:
    """Of a named tuple or a dataclass."""
    if dataclasses.is_dataclass(output):
        return [field.name for field in dataclasses.fields(output)]
    return list(getattr(output, "_fields", ()))
