"""The rule table: what every loop over a program needs to know about an operator.

A rule is four short functions, side by side:

    record(frame, *args)     run the operator for real; a decision operator also returns Decisions
    push(frame, *args)       the linear part, applied to directions, under the recorded decisions
    pull(frame, g, *args)    its transpose: one cotangent per active input, in order of appearance
    constant(frame, *args)   what the operator adds whatever its input: its output at input zero

A decision operator has a fifth, for walking along lines from region to region:

    crossings(frame, *args)  where along a line its decisions flip first, in every row

Arguments come as the operator's own, with three readings of an *active* input (a value computed
from the image): the value itself in `record`, the direction in `push`, a `Hole` that knows only
its shape in `pull` and `constant`. In `crossings` it is B values and, below them, B directions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Call, Frame, Hole, Ref, leaves
from guidxmage.engine.rules.rows import RowTest, reshaped

Function = Callable[..., Any]


@dataclass(frozen=True)
class Rule:
    """How one operator is recorded, pushed, pulled, and what it adds by itself.

    For the bound on rounding: `terms` is the number of products summed for one output value,
    forward and transposed; `gain`, at most how many times larger than the input these products are,
    all together, in 2-norms; `sums` tells whether the output's own norm counts as well, as it does
    where many terms of one sign add up. `growth`: at most how many times larger than its inputs the
    output is, in 2-norms; where it is None the output is measured if its norm is needed.
    `refuse` returns why a particular call cannot be treated, or None. `choices` names what a
    decision may choose, by number; where it is empty the choice is a position. `jumps` tells
    whether a call's value jumps where its decision flips. `family`: of smooth operators that share
    a convention; `pull` may give None for an input that the convention freezes. `switched` gives a
    plane of decisions and a number where the constant is just their product. `measures`: asked
    for it by the frame, `record` leaves its input's norms there, and `pull` the sums and norms of
    what it sends back. `rows` tells of a call whether it keeps the images of a batch apart; where
    it is None, nothing is known and images are run one by one.
    """

    kind: str
    push: Function
    pull: Function
    record: Function | None = None
    constant: Function | None = None
    terms: Function | None = None
    gain: Function | None = None
    sums: bool = True
    growth: Function | None = None
    refuse: Callable[[Call], str | None] | None = None
    crossings: Function | None = None
    choices: tuple[str, ...] = ()
    jumps: Callable[[Call], bool] | None = None
    family: str = ""
    switched: Callable[..., tuple[int, float] | None] | None = None
    measures: bool = False
    rows: RowTest | None = None


RULES: dict[str, Rule] = {}
# Rules for calls in which several operands depend on the image, by operator.
PRODUCTS: dict[str, Rule] = {}
# Rules for calls that only folding makes.
FOLDED: dict[str, Rule] = {}


def register(names: str, rule: Rule, table: dict[str, Rule] = RULES) -> None:
    """Enter a rule for each operator name, e.g. "aten.relu.default"; names are space-separated."""
    for name in names.split():
        if name in table:
            raise KeyError(f"{name} already has a rule")
        table[name] = rule


# A constant that takes its shape from the batch size: it depends on no image.
_SOURCE = Rule(
    "affine",
    push=lambda f, *args, **kw: torch.zeros_like(f.call.run(*args)),
    pull=lambda f, g, *args, **kw: [],
    constant=lambda f, *args, **kw: f.call.run(*args),
    rows=reshaped,
)


def rule_of(call: Call) -> Rule | None:
    """The rule for a call, None where its operator has none."""
    if not call.inputs:
        return _SOURCE
    if call.op in PRODUCTS and _is_product(call):
        return PRODUCTS[call.op]
    return RULES.get(call.op) or FOLDED.get(call.op)


# Operators that are captured under the name of another.
RENAMED = {"aten.batch_norm.default": "aten._native_batch_norm_legit_no_training.default"}


def has_rule(operator: Any) -> bool:
    """Whether calls of an ATen operator may have a rule."""
    name = str(operator)
    return RENAMED.get(name, name) in RULES or name in PRODUCTS


def _is_product(call: Call) -> bool:
    """More than one operand depends on the image, or what is divided by does."""
    return len(call.inputs) > 1 or (".div." in call.op and not isinstance(call.args[0], Ref))


def holes(args: Sequence[Any]) -> list[Hole]:
    """The active inputs among arguments, in order; lists of tensors are searched too."""
    return [one for one in leaves(args) if isinstance(one, Hole)]


def fill(args: Sequence[Any], values: Sequence[Tensor]) -> list[Any]:
    """Arguments with their holes replaced, in order, by values."""
    queue = iter(values)

    def filled(arg: Any) -> Any:
        if isinstance(arg, Hole):
            return next(queue)
        if isinstance(arg, list | tuple):
            return [filled(item) for item in arg]
        return arg

    return [filled(arg) for arg in args]


def transpose_of(push: Function) -> Function:
    """A pull for any push: the vector-Jacobian product of that linear map."""

    def pull(frame: Frame, g: Tensor, *args: Any, **options: Any) -> list[Tensor]:
        with torch.enable_grad():
            inputs = [hole.zeros().requires_grad_() for hole in holes(args)]
            output = push(frame, *fill(args, inputs), **options)
            return list(torch.autograd.grad(output, inputs, g))

    return pull


def linear(push: Function, **extras: Any) -> Rule:
    """A rule for an operator that is linear in all its active inputs and adds nothing."""
    return Rule("affine", push, extras.pop("pull", None) or transpose_of(push), **extras)
