"""One run of a network, operator by operator, as it happened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Operation:
    """One operator of a run.

    args, kwargs: with a `Ref` where an active value stood and a `Held` where a constant tensor did.
    outputs: the number of each value it returned, None where that is not followed; several: it
    returned them as a list or tuple. shapes: of the values. path: of the module that called it.
    told: what Python was told of active values by it, or None.
    """

    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[int | None, ...]
    shapes: tuple[tuple[int, ...], ...]
    several: bool
    path: str
    told: Any = None


@dataclass
class Tape:
    """A whole run on `rows` images: its operations in order, and what it returned.

    result: the output as a Ref, or a Held where it does not depend on the images. written: the
    user's own tensors that it wrote to, with what they held before. drawn: whether NumPy's or
    Python's random numbers were drawn.
    """

    rows: int
    operations: list[Operation] = field(default_factory=list)
    output: Any = None
    result: Any = None
    written: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    drawn: bool = False
