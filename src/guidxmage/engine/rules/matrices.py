"""Products with constant matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Call, Frame, Hole, is_active
from guidxmage.engine.kernels import loops
from guidxmage.engine.rules import rows
from guidxmage.engine.rules.affine import largest_line
from guidxmage.engine.rules.places import multiplied, over_features
from guidxmage.engine.rules.table import Plain, Rule, Traits, linear, register

# --- linear --------------------------------------------------------------------------------------


def _refuse_active_weight(call: Call) -> str | None:
    return "both factors depend on the image" if len(call.inputs) > 1 else None


def _refuse_weight_of_image(call: Call) -> str | None:
    active = any(map(is_active, call.args[1:]))
    return "its weight depends on the image" if active else None


def _trailing(vector: Tensor | None, ndim: int) -> Tensor | None:
    return None if vector is None else vector.reshape(*[1] * (ndim - 1), -1)


def linear_pull(
    f: Frame, g: Tensor, x: Hole, weight: Tensor, bias: Tensor | None = None
) -> list[Tensor]:
    """g @ weight, by whichever way reads less memory."""
    if not _reads_few_rows(g, weight):
        return [g @ weight]
    rows = g.reshape(-1, len(weight))
    summed = loops.sum_of_rows(rows, weight)
    return [(sum_of_rows(rows, weight) if summed is None else summed).reshape(x.shape)]


def _reads_few_rows(g: Tensor, weight: Tensor) -> bool:
    """Whether summing the weight's rows where g is not zero touches less memory than all of it.

    One-hot targets and ReLUs leave most of a classifier's cotangents zero.
    """
    usual = g.device.type == "cpu" and g.dtype == torch.float32 and weight.is_contiguous()
    if not usual or weight.numel() < _LARGE_WEIGHT or g.numel() > 64 * len(weight):
        return False
    # How much slower picking rows reads a weight than a product does.
    slower = 4 / 3 if loops.compiled() is not None else 3
    return int(torch.count_nonzero(g)) * slower <= len(weight)


# Entries; a smaller weight stays in the caches and is multiplied at once.
_LARGE_WEIGHT = 2**20


def sum_of_rows(g: Tensor, weight: Tensor) -> Tensor:
    """g @ weight (R, inputs), from the rows of the weight that some g picks.

    Every row of the weight is cut into parts, one for each thread.
    """
    outputs, inputs = weight.shape
    parts = next(p for p in range(torch.get_num_threads(), 0, -1) if inputs % p == 0)
    row, column = g.nonzero(as_tuple=True)
    counts = torch.bincount(row, minlength=len(g))
    first = counts.cumsum(0) - counts
    summed = torch.nn.functional.embedding_bag(
        torch.cat([column * parts + part for part in range(parts)]),
        weight.view(outputs * parts, inputs // parts),
        torch.cat([first + part * len(column) for part in range(parts)]),
        mode="sum",
        per_sample_weights=g[row, column].repeat(parts),
    )
    return summed.view(parts, len(g), -1).transpose(0, 1).reshape(len(g), inputs)


register(
    "aten.linear.default",
    Rule(
        "affine",
        push=lambda f, x, weight, bias=None: torch.nn.functional.linear(x, weight),
        pull=linear_pull,
        constant=lambda f, x, weight, bias=None: _trailing(bias, len(f.shape)),
        terms=lambda f, x, weight, bias=None, **kw: sum(weight.shape),
        gain=lambda f, x, weight, bias=None, **kw: largest_line(weight),
        refuse=_refuse_weight_of_image,
        rows=rows.with_dimensions(2),
        places=over_features,
        plain=Plain(pull=lambda f, g, x, weight, bias=None: [g @ weight]),
    ),
    traits=Traits(residues="weights", exact=True, fresh=True),
)


def _refuse_other_factor(call: Call) -> str | None:
    alone = len(call.inputs) == 1 and is_active(call.args[1])
    return None if alone else "another part than its left factor depends on the image"


register(
    "aten.addmm.default",
    Rule(
        "affine",
        push=lambda f, bias, x, weight: x @ weight,
        pull=lambda f, g, bias, x, weight: [g @ weight.t()],
        constant=lambda f, bias, x, weight: _trailing(bias, 2),
        terms=lambda f, bias, x, weight, **kw: sum(weight.shape),
        gain=lambda f, bias, x, weight, **kw: largest_line(weight),
        refuse=_refuse_other_factor,
        rows=rows.added_product,
        places=multiplied,
    ),
    traits=Traits(residues="weights", exact=True),
)


def _matmul_terms(f: Frame, a: Any, b: Any) -> int:
    weight = b if isinstance(b, Tensor) else a
    return sum(weight.shape[-2:])


def product_pull(g: Tensor, a: Any, b: Any) -> Tensor:
    """The cotangent of the factor of a @ b that is a hole; a vector is a row or a column."""
    left, right = len(a.shape) == 1, len(b.shape) == 1
    g = g.unsqueeze(-2) if left else g
    g = g.unsqueeze(-1) if right else g
    if isinstance(a, Hole):
        factor = b[:, None] if right else b
        sent, hole = g @ factor.transpose(-2, -1), a
        sent = sent.squeeze(-2) if left else sent
    else:
        factor = a[None] if left else a
        sent, hole = factor.transpose(-2, -1) @ g, b
        sent = sent.squeeze(-1) if right else sent
    return sent.sum_to_size(hole.shape)


register(
    "aten.matmul.default aten.mm.default",
    linear(
        lambda f, a, b: a @ b,
        plain=Plain(pull=lambda f, g, a, b: [product_pull(g, a, b)]),
        terms=_matmul_terms,
        gain=lambda f, a, b, **kw: largest_line(b if isinstance(b, Tensor) else a),
        refuse=_refuse_active_weight,
        rows=rows.multiplied,
        places=multiplied,
    ),
    traits=Traits(residues="weights", exact=True),
)


# --- sums by letters -----------------------------------------------------------------------------

Lettered = tuple[Any, str]


def why_not_by_letters(letters: Sequence[str], output: str) -> str | None:
    """Why an equation cannot be transposed by exchanging its letters, or None."""
    plain = bool(output) and all(one.isalpha() for one in (*letters, output))
    if not plain:
        return "its equation does not name every dimension"
    if any(len(set(one)) < len(one) for one in (*letters, output)):
        return "its equation takes a diagonal"
    return None


def einsum_pull(g: Tensor, output: str, fixed: Sequence[Lettered], part: Lettered) -> Tensor:
    """The cotangent of one operand of an einsum, from g and the other operands."""
    hole, letters = part
    known = set(output).union(*(own for _, own in fixed))
    kept = "".join(letter for letter in letters if letter in known)
    equation = ",".join([output, *(own for _, own in fixed)])
    found = torch.einsum(f"{equation}->{kept}", g, *(one for one, _ in fixed))
    for place, letter in enumerate(letters):
        if letter not in known:  # it was summed over
            found = found.unsqueeze(place)
    return found.expand(hole.shape)
