"""Explanations of networks with several input tensors: f(X₁, X₂, …) = Σᵢ ΣAᵢ + bias.

The tensors are laid end to end, explained as one, and cut apart again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor

from guidxmage.attribution.archive import read_result, restored, write_explanation
from guidxmage.attribution.attribution import Attribution
from guidxmage.engine.symbolic import Replay, StepLength
from guidxmage.engine.trail.trail import Trail
from guidxmage.errors import InputError
from guidxmage.files.untrusted import listed, shape_of
from guidxmage.inputs.input_space import Batch, InputSpace
from guidxmage.inputs.multi_input import (
    Shapes,
    checked_inputs,
    packed,
    packed_reference,
    unpacked,
)
from guidxmage.reports.short_repr import short_repr

if TYPE_CHECKING:
    from typing_extensions import Self

Tensors = tuple[Tensor, ...]
SCHEMA = "guid-xmage/joint-explanation/1"
# What an Explanation of one image can do and that of several tensors cannot.
_OF_ONE_IMAGE = frozenset(
    ["figure", "panels", "objects", "regions", "picture", "pictures", "pixel_contributions"]
)


@dataclass(frozen=True, eq=False)
class JointModel:
    """f(Z₁, Z₂, …) = Σᵢ ⟨Δᵢ, Zᵢ⟩ + b; every Z is a tuple of tensors (B, …), as X was given.

    Its methods are those of `SymbolicModel`.
    """

    whole: Attribution
    shapes: Shapes

    __repr__ = short_repr

    @property
    def weights(self) -> Tensors:
        """Δ for each input, (B, [K,] …)."""
        return unpacked(self.whole.weights, self.shapes)

    @property
    def bias(self) -> Tensor:
        """b, (B, [K])."""
        return self.whole.symbolic_model.bias

    def __call__(self, Z: Tensors, *, check: bool = True) -> Tensor:
        """The scores; with `check`, Z must follow the trail, else OffTrailError is raised."""
        return self.whole.symbolic_model(self._packed(Z), check=check)

    def follows(self, Z: Tensors) -> Tensor:
        """Whether Z follows the trail, bool (B,)."""
        return self.whole.symbolic_model.follows(self._packed(Z))

    def replay(self, Z: Tensors) -> Replay:
        """The scores beside the network's own."""
        return self.whole.symbolic_model.replay(self._packed(Z))

    def step_length(self, direction: Tensors) -> StepLength | tuple[StepLength, ...]:
        """How far one may go along a direction in all inputs at once."""
        return self.whole.symbolic_model.step_length(self._packed(direction))

    def _packed(self, Z: Any) -> Tensor:
        tensors = checked_inputs(_as_tuple(Z, len(self.shapes)), self.whole.weights)
        for tensor, shape in zip(tensors, self.shapes, strict=True):
            if tensor.shape[1:] != shape:
                raise InputError(f"Z has an input of {tuple(tensor.shape[1:])}, not {shape}")
        vector = packed(tensors)
        return vector if self.whole.batched or len(vector) > 1 else vector[0]


@dataclass(frozen=True, eq=False)
class JointAttribution:
    """Why the network gave these inputs these scores: the numbers.

    whole: the `Attribution` of all inputs laid end to end, (B, N). shapes: of the inputs, without
    the batch. What belongs to an input is a tuple with one tensor for each; everything else is as
    in `Attribution`.
    """

    whole: Attribution
    shapes: Shapes

    @property
    def weights(self) -> Tensors:
        """Δ for each input, ([B,] [K,] …)."""
        return unpacked(self.whole.weights, self.shapes)

    @property
    def contributions(self) -> Tensors:
        """A for each input, ([B,] [K,] …)."""
        return unpacked(self.whole.contributions, self.shapes)

    @property
    def input(self) -> Tensors:
        """X, ([B,] …)."""
        return unpacked(self.whole.input, self.shapes)

    @property
    def sums(self) -> Tensors:
        """What each input adds to the score, ([B,] [K]) float64."""
        axes = self.whole.batched + self.whole.several
        return tuple(a.flatten(axes).sum(-1, dtype=torch.float64) for a in self.contributions)

    @property
    def symbolic_model(self) -> JointModel:
        """What is left of the network for these inputs."""
        return JointModel(self.whole, self.shapes)

    @property
    def logits(self) -> Tensor:
        """The network's own scores, ([B,] classes)."""
        return self.whole.logits

    @property
    def target(self) -> Tensor:
        """The class explained, ([B,] [K])."""
        return self.whole.target

    @property
    def score(self) -> Tensor:
        """f_t(X), ([B,] [K])."""
        return self.whole.score

    @property
    def bias(self) -> Tensor:
        """The rest of the score, ([B,] [K]) float64."""
        return self.whole.bias

    @property
    def bias_by_layer(self) -> dict[str, Tensor]:
        """The bias by call site."""
        return self.whole.bias_by_layer

    @property
    def residual(self) -> Tensor:
        """Score − Σ contributions of all inputs − bias, ([B,] [K]) float64."""
        return self.whole.residual

    @property
    def residual_bound(self) -> Tensor:
        """What rounding explains of the residual."""
        return self.whole.residual_bound

    @property
    def exactness(self) -> str:
        """Where the symbolic model is exact."""
        return self.whole.exactness

    @property
    def trail(self) -> Trail:
        """The decisions taken."""
        return self.whole.trail

    def __getattr__(self, name: str) -> Any:
        if name in _OF_ONE_IMAGE:
            raise InputError(
                f"{name} is for one image; this network has {len(self.shapes)} inputs: draw "
                "their contributions singly with guidxmage.view.distribution_map"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: int) -> Self:
        """One row of the batch, or one target of a list for a single row."""
        return replace(self, whole=self.whole[index])

    def __iter__(self) -> Iterator[Self]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        names = " and ".join("×".join(map(str, shape)) for shape in self.shapes)
        return f"{self.whole!r}\n  inputs {names}"


def write_joint(joint: JointAttribution, folder: Path) -> None:
    """Write manifest and arrays into an existing folder; the manifest has the inputs' shapes."""
    shapes = [list(shape) for shape in joint.shapes]
    write_explanation(joint.whole, folder, {"schema": SCHEMA, "inputs": shapes})


def read_joint(folder: Path) -> JointAttribution:
    """Read what `write_joint` wrote; the symbolic model is without its network.

    Raises InputError when the folder holds none, a damaged one, or one of one input.
    """
    name = f"the explanation in {folder}"
    manifest, arrays = read_result(folder, (SCHEMA,))
    whole = restored(manifest, arrays, folder)
    inputs = listed(manifest, "inputs", list, name)
    shapes = tuple(shape_of({"inputs": shape}, "inputs", name) for shape in inputs)
    if sum(map(prod, shapes)) != whole.input.shape[-1]:
        raise InputError(f"{name}: the inputs {inputs} do not fill its arrays")
    return JointAttribution(whole, shapes)


def refuse_for_several(own: InputSpace, space: str | None, depth: Any) -> None:
    """Raises InputError where several inputs cannot be explained as it is asked for."""
    if depth is not None:
        raise InputError("a network of several inputs has no picture; leave depth out")
    if own.name != "input" or own.preprocessing is None or space not in (None, "input"):
        raise InputError(
            "several inputs are explained as the network takes them; build the Explainer "
            "without preprocessing and leave space out"
        )


def is_several(image: Any) -> TypeGuard[tuple[Tensor, ...]]:
    """Whether what is to be explained is the tuple of a network's several input tensors."""
    return isinstance(image, tuple) and any(isinstance(one, Tensor) for one in image)


def attribute_together(
    attribute_of: Callable[[Shapes], Callable[[Batch, Any, Tensor | None], Attribution]],
    inputs: Sequence[Any],
    target: Any,
    reference: Any,
    like: Tensor,
) -> JointAttribution:
    """Attribute tensors (B, …) of a network's several inputs, in the dtype and place of `like`.

    attribute_of: what attributes inputs of these shapes, laid end to end.
    """
    tensors = checked_inputs(inputs, like)
    shapes = tuple(tuple(tensor.shape[1:]) for tensor in tensors)
    vector = packed(tensors)
    rows = len(vector)
    batch = Batch(vector, (None,) * rows, ((1, vector.shape[1]),) * rows, batched=True)
    R = packed_reference(reference, shapes, vector)
    return JointAttribution(attribute_of(shapes)(batch, target, R), shapes)


def _as_tuple(Z: Any, count: int) -> tuple[Any, ...]:
    if not isinstance(Z, tuple | list) or len(Z) != count:
        raise InputError(f"a tuple of {count} tensors is expected, one for each input")
    return tuple(Z)
