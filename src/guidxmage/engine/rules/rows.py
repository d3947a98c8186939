"""When an operator keeps the images of a batch apart: the tests that rules name.

In a program for any number of images the first dimension of every value counts them: R rows, or
R·p where an operator works on p parts of each, which lie one after the other. An operator keeps
images apart if each row of its output is computed from the same rows of its inputs, by the same
function. A test reads that off a call and the shapes of its active inputs, whose first dimensions
are known to count images.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from guidxmage.engine.calls.call import Call, Kept, Ref

Shape = tuple[Any, ...]
RowTest = Callable[[Call, Sequence[Shape]], bool]


def elementwise(call: Call, shapes: Sequence[Shape]) -> bool:
    """Every active input has a row for each row of the output, at the same place."""
    ndim, rows = len(call.shape), call.shape[0]
    return all(len(shape) == ndim and shape[0] == rows for shape in shapes)


def reshaped(call: Call, shapes: Sequence[Shape]) -> bool:
    """The order of the numbers stays, so what belongs to an image stays together."""
    return True


def never(call: Call, shapes: Sequence[Shape]) -> bool:
    """It always works across the first dimension."""
    return False


def with_dimensions(least: int) -> RowTest:
    """Elementwise, on values of so many dimensions at least: with fewer, the first is another."""
    return lambda call, shapes: elementwise(call, shapes) and len(call.shape) >= least


def spatial(call: Call, shapes: Sequence[Shape]) -> bool:
    """Works on images of as many dimensions as its name says, with a batch before them."""
    found = re.search(r"(\d)d", call.op)
    return found is not None and all(len(shape) == int(found[1]) + 2 for shape in shapes)


def weighted(call: Call, shapes: Sequence[Shape]) -> bool:
    """A convolution of a batch by a constant weight."""
    weight = call.args[1]
    return isinstance(weight, Tensor) and all(len(shape) == weight.ndim for shape in shapes)


def along(place: int, default: Any = None) -> RowTest:
    """Works along the dimensions in argument number `place`; without any, along all."""

    def test(call: Call, shapes: Sequence[Shape]) -> bool:
        dims = call.args[place] if len(call.args) > place else default
        listed = [dims] if isinstance(dims, int) else list(dims or ())
        ndim = max(len(shape) for shape in shapes)
        same = all(shape[0] == call.shape[0] for shape in shapes) if call.shape else False
        return bool(listed) and same and all(dim % ndim != 0 for dim in listed)

    return test


def sliced(call: Call, shapes: Sequence[Shape]) -> bool:
    """x[:, a:b] and the like; or all of the first dimension."""
    return along(1, 0)(call, shapes) or _takes_all(*call.args[2:5])


def repeated(call: Call, shapes: Sequence[Shape]) -> bool:
    """Each number several times, one after the other: along the first, parts of an image."""
    return len(call.args) > 2 and call.args[2] is not None


def joined(call: Call, shapes: Sequence[Shape]) -> bool:
    """cat or stack along another dimension than the first."""
    dim = call.args[1] if len(call.args) > 1 else 0
    return dim % len(call.shape) != 0 and all(shape[0] == call.shape[0] for shape in shapes)


def written_into(call: Call, shapes: Sequence[Shape]) -> bool:
    """slice_scatter or select_scatter along another dimension than the first."""
    dim = call.args[2] if len(call.args) > 2 else 0
    apart = dim % len(call.shape) != 0 or ("slice" in call.op and _takes_all(*call.args[3:6]))
    return apart and all(shape[0] == call.shape[0] for shape in shapes)


def _takes_all(start: Any = None, end: Any = None, step: Any = 1) -> bool:
    """Whether a slice is the whole dimension, as `x[:, 0] = …` writes for the images."""
    return not start and (end is None or end == sys.maxsize) and step == 1


def permuted(call: Call, shapes: Sequence[Shape]) -> bool:
    """The first dimension stays the first."""
    return bool(call.args[1][0] % len(call.shape) == 0)


def swapped(call: Call, shapes: Sequence[Shape]) -> bool:
    """Two other dimensions than the first."""
    ndim = len(call.shape)
    return all(dim % ndim != 0 for dim in call.args[1:3])


def swapped_away(place: int, first: int = 0, second: int = 1) -> RowTest:
    """Two dimensions, from argument number `place` on, that are others than the first."""

    def test(call: Call, shapes: Sequence[Shape]) -> bool:
        dims = [*call.args[place : place + 2], *(first, second)[len(call.args[place:]) :]]
        ndim = max(len(call.shape), *(len(shape) for shape in shapes))
        return bool(call.shape) and call.shape[0] == shapes[0][0] and all(d % ndim for d in dims)

    return test


def indexed(call: Call, shapes: Sequence[Shape]) -> bool:
    """x[:, index, …]; indices that are not neighbours move to the front."""
    given = call.args[1]
    taken = [n for n, index in enumerate(given) if index is not None]
    if not taken or taken[0] == 0 or any(isinstance(given[n], Ref | Kept) for n in taken):
        return False
    return taken == list(range(taken[0], taken[-1] + 1))


def padded(call: Call, shapes: Sequence[Shape]) -> bool:
    """No padding of the first dimension."""
    pad = call.args[1]
    return elementwise(call, shapes) and len(pad) // 2 < len(call.shape)


def normalised(call: Call, shapes: Sequence[Shape]) -> bool:
    """Over the last dimensions, the first not among them."""
    return elementwise(call, shapes) and len(call.args[1]) < len(call.shape)


def multiplied(call: Call, shapes: Sequence[Shape]) -> bool:
    """A matrix product in which rows are a batch, or the lines of the left factor."""
    left, right = (call.args[n] for n in (0, 1))
    active = [isinstance(factor, Ref | Kept) for factor in (left, right)]
    if not call.shape or any(shape[0] != call.shape[0] for shape in shapes):
        return False
    if all(active):
        return all(len(shape) >= 3 for shape in shapes) and len(shapes[0]) == len(shapes[1])
    own, other = len(shapes[0]), (right if active[0] else left)
    if not isinstance(other, Tensor) or other.ndim > max(own, 2):
        return False
    lines = 2 if active[0] else 3
    return own >= lines and (other.ndim < max(own, 3) or other.shape[0] == 1)


def added_product(call: Call, shapes: Sequence[Shape]) -> bool:
    """addmm whose left factor alone is active."""
    return [isinstance(arg, Ref) for arg in call.args[:3]] == [False, True, False]


def summed_by_letters(call: Call, shapes: Sequence[Shape]) -> bool:
    """einsum whose active operands, and its output, all begin with the same letter."""
    inputs, _, output = call.args[0].replace(" ", "").partition("->")
    terms = inputs.split(",")
    if not output or "." in call.args[0] or len(terms) != len(call.args[1]):
        return False
    rows = output[0]
    for term, operand in zip(terms, call.args[1], strict=True):
        if isinstance(operand, Ref):
            if not term.startswith(rows) or rows in term[1:]:
                return False
        elif rows in term:
            return False
    return rows not in output[1:]


def attended(call: Call, shapes: Sequence[Shape]) -> bool:
    """Attention whose queries, keys and values are batches."""
    ndim, rows = len(call.shape), call.shape[0]
    mask = call.args[3] if len(call.args) > 3 else None
    plain = not isinstance(mask, Tensor) or mask.ndim < ndim or mask.shape[0] == 1
    alike = all(len(shape) == ndim and shape[0] == rows for shape in shapes)
    return ndim >= 3 and plain and alike
