"""Networks of other forms as what is captured: one tensor in, one row of scores for each image."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from guidxmage.errors import InputError
from guidxmage.inputs.input_space import as_numbers

Shapes = tuple[tuple[int, ...], ...]


class Wrapped(nn.Module):
    """A network of any tensors as a classifier of a single one.

    shapes: of its several inputs, without the batch, which come laid end to end as (B, N); None
    where it takes one input, as it is. constants: what `model` is called with after its inputs.
    Scores (B,) become (B, 1), and (B, n, m, …) become (B, n·m·…).
    """

    def __init__(
        self, model: nn.Module, shapes: Shapes | None = None, constants: Sequence[Any] = ()
    ) -> None:
        super().__init__()
        self.training = model.training
        self.model = model
        self.shapes = shapes
        self._constants = list(constants)
        for number, constant in enumerate(constants):
            if isinstance(constant, Tensor):
                self.register_buffer(f"constant_{number}", constant.detach(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B, classes)."""
        inputs = (x,) if self.shapes is None else unpacked(x, self.shapes)
        constants = [
            getattr(self, f"constant_{number}") if isinstance(constant, Tensor) else constant
            for number, constant in enumerate(self._constants)
        ]
        scores: Tensor = self.model(*inputs, *constants)
        if scores.ndim == 1:
            return scores[:, None]
        return scores if scores.ndim == 2 else scores.flatten(1)


def packed(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors (B, …), which may differ in shape, laid end to end: (B, N)."""
    return torch.cat([tensor.flatten(1) for tensor in tensors], 1)


def unpacked(vector: Tensor, shapes: Shapes) -> tuple[Tensor, ...]:
    """The inverse of `packed` for tensors (…, *shape), from (…, N)."""
    parts = vector.split([prod(shape) for shape in shapes], -1)
    lead = vector.shape[:-1]
    return tuple(
        part.reshape(*lead, *shape).contiguous() for part, shape in zip(parts, shapes, strict=True)
    )


def checked_inputs(tensors: Sequence[Any], like: Tensor) -> tuple[Tensor, ...]:
    """Input tensors, each with the batch first, in the dtype and on the device of `like`.

    Raises InputError for anything else, for NaN or Inf, and for batches of different sizes.
    """
    if not tensors:
        raise InputError("there is no input tensor; give at least one")
    for tensor in tensors:
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.ndim < 2:
            what = f"{tensor.dtype} {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else tensor
            raise InputError(
                "inputs are tensors of floats with the batch as first dimension, not "
                f"{what if isinstance(what, str) else type(what).__name__}"
            )
        if tensor.numel() == 0 or not torch.isfinite(tensor).all():
            raise InputError("an input is empty or holds NaN or Inf")
    rows = sorted({len(tensor) for tensor in tensors})
    if len(rows) > 1:
        raise InputError(
            f"the input tensors have batches of {' and '.join(map(str, rows))}; the first "
            "dimension of each is the batch"
        )
    return tuple(tensor.detach().to(like.device, like.dtype) for tensor in tensors)


def packed_reference(reference: Any, shapes: Shapes, like: Tensor) -> Tensor | None:
    """References of several inputs, a number for all or one for each, laid end to end as `like`.

    Raises InputError where one does not fit its input.
    """
    if reference is None:
        return None
    given = reference if isinstance(reference, tuple) else (reference,) * len(shapes)
    if len(given) != len(shapes):
        raise InputError(f"{len(given)} references were given for {len(shapes)} inputs")
    fitted = []
    for one, shape in zip(given, shapes, strict=True):
        if isinstance(one, str) and one != "zero":
            raise InputError(f"the reference of several inputs is no {one!r}; give numbers")
        R = as_numbers(0.0 if one is None or isinstance(one, str) else one, like)
        try:
            fitted.append(R.expand(len(like), *shape))
        except RuntimeError as error:
            raise InputError(
                f"the reference of shape {tuple(R.shape)} does not fit inputs of {shape}"
            ) from error
    return packed(fitted)
