"""What can be asked of an output, beyond class scores: linear functionals of it.

What chooses (the pixels of a class, the rival of each, the box that was kept) is written down in
the `Meaning`: for these choices the explanation is exact by definition, and a replay tells where
another image would have chosen otherwise.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from guidxmage.errors import InputError
from guidxmage.outputs.kinds import Output
from guidxmage.outputs.meaning import Asked, Seen


@runtime_checkable
class Target(Protocol):
    """What can be asked of an output."""

    def of(self, output: Output, seen: Seen) -> Asked:
        """The cotangent and what it means. Raises InputError for what the output does not have."""


def needs(output: Output, kind: type[Output], target: object) -> None:
    """Raises InputError where a target is asked of another kind of output."""
    if not isinstance(output, kind):
        raise InputError(
            f"{type(target).__name__} is asked of {kind.__name__}; this explainer's output is "
            f"{type(output).__name__}: build it with output={kind.__name__}(…)"
        )


def checked_dimensions(values: Tensor, count: int, kind: str, shape: str) -> Tensor:
    """An output of one image, where it has so many dimensions; else raises InputError."""
    if values.ndim != count:
        raise InputError(
            f"{kind} is of shape {shape}, but the output picked is (batch, "
            f"{', '.join(map(str, values.shape))})"
        )
    return values
