"""Contributions as an attribution method, called as Captum's methods are; Captum is not needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from guidxmage.engine.capture.as_found import running
from guidxmage.engine.capture.user_model import untouched
from guidxmage.errors import InputError
from guidxmage.explainer import Explainer
from guidxmage.inputs.input_space import Batch, dtype_and_device
from guidxmage.inputs.multi_input import (
    Shapes,
    Wrapped,
    checked_inputs,
    packed,
    packed_reference,
    unpacked,
)

Tensors = tuple[Tensor, ...]


class ExactContributions:
    """A = Δ ⊙ (X − R) for every input, by the conventions of `captum.attr.InputXGradient`.

    model: any nn.Module in evaluation mode; it is never changed. batch_rows: as for `Explainer`.
    On a piecewise-linear network without baselines the values are those of InputXGradient; what
    they leave of the score is the bias, which `Explainer.explain` gives with its split.
    """

    def __init__(self, model: nn.Module, *, batch_rows: int = 32) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(f"a torch.nn.Module is expected, not {type(model).__name__}")
        self.model = model
        self._batch_rows = batch_rows
        self._explainers: dict[Shapes | None, Explainer] = {}

    @overload
    def attribute(
        self,
        inputs: Tensor,
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        baselines: Any = None,
    ) -> Tensor: ...

    @overload
    def attribute(
        self,
        inputs: Tensors,
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        baselines: Any = None,
    ) -> Tensors: ...

    def attribute(
        self,
        inputs: Tensor | Tensors,
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        baselines: Any = None,
    ) -> Tensor | Tensors:
        """Contributions of the inputs' shape, a tuple where a tuple was given; batch first.

        target: an int, a tuple of ints for outputs with more dimensions, a tensor of one or of B
        ints, a list of B ints or tuples, or None where the network gives one score for each row.
        additional_forward_args: one or a tuple of constants that the network is called with after
        the inputs; tensors with B rows belong to the images, which are then captured one by one.
        baselines: the reference R, a number or tensor, or one for each input; 0 if not given.
        Raises InputError for anything else, UnsupportedOperatorError as `Explainer` does.
        """
        constants = _as_tuple(additional_forward_args)
        if isinstance(baselines, np.ndarray):  # numbers here, while `explain` takes it for a photo
            baselines = torch.from_numpy(baselines)
        with untouched(self.model):
            dtype, device = dtype_and_device(self.model)
            tensors = checked_inputs(_as_tuple(inputs), torch.empty(0, dtype=dtype, device=device))
            shapes = tuple(tuple(tensor.shape[1:]) for tensor in tensors)
            of_rows = len(tensors[0]) > 1 and any(_has_rows(c, tensors[0]) for c in constants)
            # Constants of the images need all of them; otherwise one tells the output's shape.
            output = self._output([t if of_rows else t[:1] for t in tensors], constants)
            chosen = flat_targets(target, (len(tensors[0]), *output.shape[1:]))
            X, R = tensors[0], baselines
            if len(tensors) > 1:
                X, R = packed(tensors), packed_reference(baselines, shapes, tensors[0])
            found = (
                self._row_by_row(X, R, chosen, constants=constants, shapes=shapes, output=output)
                if of_rows
                else self._contributions(self._explainer(shapes, constants), X, R, chosen)
            )
        if len(tensors) > 1:
            return unpacked(found, shapes)
        return (found,) if isinstance(inputs, tuple) else found

    def _output(self, tensors: Sequence[Tensor], constants: tuple[Any, ...]) -> Tensor:
        with running(self.model):
            output = self.model(*(tensor.clone() for tensor in tensors), *constants)
        if not isinstance(output, Tensor) or output.ndim == 0 or len(output) != len(tensors[0]):
            raise InputError("the network must return a tensor with one row of scores per image")
        return output

    def _explainer(self, shapes: Shapes, constants: tuple[Any, ...]) -> Explainer:
        """Kept from call to call, with its captured programs, unless there are constants."""
        key = shapes if len(shapes) > 1 else None
        if constants:
            return Explainer(Wrapped(self.model, key, constants), batch_rows=self._batch_rows)
        if key not in self._explainers:
            if len(self._explainers) >= 4:
                self._explainers.pop(next(iter(self._explainers)))
            self._explainers[key] = Explainer(Wrapped(self.model, key), batch_rows=self._batch_rows)
        explainer = self._explainers[key]
        explainer.model.training = self.model.training
        return explainer

    def _contributions(self, explainer: Explainer, X: Tensor, R: Any, target: list[int]) -> Tensor:
        size = (int(X.shape[-2]) if X.ndim > 2 else 1, int(X.shape[-1]))
        batch = Batch(X, (None,) * len(X), (size,) * len(X), batched=True)
        return explainer.attribute(batch, target, R).contributions

    def _row_by_row(
        self,
        X: Tensor,
        R: Any,
        target: list[int],
        *,
        constants: tuple[Any, ...],
        shapes: Shapes,
        output: Tensor,
    ) -> Tensor:
        found = []
        for row in range(len(X)):
            own = tuple(c[row : row + 1] if _has_rows(c, X) else c for c in constants)
            explainer = self._explainer(shapes, own)
            with running(explainer.model):
                alone = explainer.run(X[row : row + 1]).flatten()
            if not _alike(alone, output[row].flatten()):
                raise InputError(
                    "an additional argument with as many rows as there are images is not one row "
                    "for each image to this network; explain the images one by one"
                )
            part = R[row : row + 1] if isinstance(R, Tensor) and len(R) == len(X) else R
            found.append(
                self._contributions(explainer, X[row : row + 1], part, target[row : row + 1])
            )
        return torch.cat(found)


def flat_targets(target: Any, shape: tuple[int, ...]) -> list[int]:
    """Captum's forms of `target` for outputs of `shape` (B, …): an index into each flattened row.

    Raises InputError for a target that does not select exactly one score of every row.
    """
    rows, *sizes = shape
    if isinstance(target, Tensor):
        target = target.tolist() if target.ndim else target.item()
        target = target[0] if isinstance(target, list) and len(target) == 1 else target
    if target is None:
        if any(n != 1 for n in sizes):
            raise InputError(
                f"the network gives scores of shape {tuple(sizes)} for each image; name one with "
                "target"
            )
        return [0] * rows
    if isinstance(target, list):
        if len(target) != rows:
            raise InputError(f"{len(target)} targets were given for {rows} images")
        return [_flat_index(one, sizes) for one in target]
    return [_flat_index(target, sizes)] * rows


def _flat_index(target: Any, sizes: Sequence[int]) -> int:
    indices = target if isinstance(target, tuple) else (target,)
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in indices)
    if not whole or len(indices) != len(sizes):
        raise InputError(
            f"target {target!r} does not select one of the scores of shape {tuple(sizes)} that "
            "the network gives for each image"
        )
    flat = 0
    for index, size in zip(indices, sizes, strict=True):
        if not -size <= index < size:
            raise InputError(f"target {target!r} is out of range for scores {tuple(sizes)}")
        flat = flat * size + index % size
    return flat


def _as_tuple(given: Any) -> tuple[Any, ...]:
    if given is None:
        return ()
    return given if isinstance(given, tuple) else (given,)


def _has_rows(constant: Any, X: Tensor) -> bool:
    return isinstance(constant, Tensor) and constant.ndim > 0 and len(constant) == len(X)


def _alike(a: Tensor, b: Tensor) -> bool:
    tolerance = torch.finfo(b.dtype).eps ** 0.5
    near = a.shape == b.shape and torch.allclose(a, b, tolerance, tolerance * float(b.abs().max()))
    return bool(near)
