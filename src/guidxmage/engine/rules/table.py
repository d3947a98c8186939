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
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Call, Frame, Hole, Ref, leaves
from guidxmage.engine.rules.choices import Choice
from guidxmage.engine.rules.rows import RowTest, reshaped

Function = Callable[..., Any]


@dataclass(frozen=True)
class Traits:
    """What capture, certificate and solver need to know of an operator beside its functions.

    residues: which of its constants the certificate replaces by residues: its "weights", the two
    constant factors of a "product", "terms" that are added, "fillings" that are put in a place,
    "bounds" that keep their order, a "padding", a "norm" or "nothing"; "" where the operator has no
    counterpart modulo primes, and `unproved` says why. averages: it divides by whole numbers.
    factors: plain numbers among its arguments are factors. exact: applied to a unit vector it
    rounds nothing. moves: it hands numbers on, one for one, or drops some. blends: its coefficients
    lie between 0 and 1. scales: its values are factors of others, and frozen then; carries: it
    hands such factors on. fresh: its output is newly allocated, so that the next one may overwrite
    it as the user's in-place ReLU would. sized: it may be given the number of images as a size.
    """

    residues: str = ""
    unproved: str = ""
    averages: bool = False
    factors: bool = False
    exact: bool = False
    moves: bool = False
    blends: bool = False
    scales: bool = False
    carries: bool = False
    fresh: bool = False
    sized: bool = False


BY_AUTOGRAD = "it is transposed by autograd, which cannot be exported"
UNWRITTEN = "its transpose is not written in operators that can be exported"


@dataclass(frozen=True)
class Plain:
    """A rule in operators that leave Python: no backward kernel, no packed weight, no question put
    to a number.

    Given where `record` or `pull` are otherwise; what is missing here is as it is there. record:
    the value and the decisions, not packed; pull: as the rule's. refused: why there is no such
    form, in words that follow the operator's name; refuse gives that, or None, of a call and the
    convention of its family.
    """

    record: Function | None = None
    pull: Function | None = None
    refused: str = ""
    refuse: Callable[[Call, str], str | None] | None = None


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
    plane of decisions and a number where the constant is just their product. `stepwise` tells
    whether a call's value changes by steps only, as masks and indices do: along a trail it is a
    constant. `rows` tells of a call whether it keeps the images of a batch apart; where it is None,
    nothing is known and images are run one by one. `choice`: what a decision operator chooses
    between. `traits`: all else that is to be known. `places`: where what it computes lies on the
    picture, see places.py; None where that is where its input does. `plain`: how it is written in
    operators that can be exported; None where its functions are of such operators already, and its
    decisions follow from `choice`.
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
    stepwise: Callable[[Call], bool] | None = None
    rows: RowTest | None = None
    choice: Choice | None = None
    traits: Traits = Traits()
    places: Function | None = None
    plain: Plain | None = None


RULES: dict[str, Rule] = {}
# Rules for calls in which several operands depend on the image, by operator.
PRODUCTS: dict[str, Rule] = {}
# Rules for calls that only folding makes.
FOLDED: dict[str, Rule] = {}


def register(
    names: str,
    rule: Rule,
    table: dict[str, Rule] = RULES,
    *,
    choice: Choice | None = None,
    traits: Traits | None = None,
) -> None:
    """Enter a rule for each operator name, e.g. "aten.relu.default"; names are space-separated.

    choice and traits are put into the rule where they are given.
    """
    rule = replace(rule, choice=choice or rule.choice, traits=traits or rule.traits)
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
    traits=Traits(residues="fillings", sized=True),
)


def _nothing(*_: Any, **__: Any) -> list[Tensor]:
    return []


# What is computed of masks, indices and the like alone: it has no linear part.
_STEPWISE = Rule("affine", push=_nothing, pull=_nothing)
# For operators that have no rule of their own.
OTHERS: list[Callable[[Call], Rule | None]] = []


def rule_of(call: Call) -> Rule | None:
    """The rule for a call, None where its operator has none."""
    if not call.inputs:
        return _STEPWISE if call.keeps else _SOURCE
    product = call.op in PRODUCTS and _is_several(call)
    found = PRODUCTS[call.op] if product else RULES.get(call.op) or FOLDED.get(call.op)
    if found is not None and not (found.refuse and found.refuse(call)):
        alone = found.kind == "gate" and call.shape == ()  # gates are kept by images and places
        if not alone:
            return found
    return next((rule for other in OTHERS if (rule := other(call)) is not None), found)


def is_stepwise(call: Call) -> bool:
    """Whether a call's value changes by steps only."""
    rule = rule_of(call)
    if rule is None or rule is _STEPWISE:
        return rule is not None
    return rule.stepwise is not None and rule.stepwise(call)


# Operators that are captured under the name of another.
RENAMED = {"aten.batch_norm.default": "aten._native_batch_norm_legit_no_training.default"}


def traits_of(call: Call) -> Traits:
    """The traits of a call's operator; none where it has no rule."""
    rule = rule_of(call)
    return Traits() if rule is None else rule.traits


def has_rule(operator: Any) -> bool:
    """Whether calls of an ATen operator may have a rule."""
    name = str(operator)
    return RENAMED.get(name, name) in RULES or name in PRODUCTS


def _is_several(call: Call) -> bool:
    """More than one operand depends on the image, or another one than the first alone does."""
    return len(call.inputs) > 1 or (
        call.op.startswith(("aten.div.", "aten.clamp.")) and not isinstance(call.args[0], Ref)
    )


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


@dataclass(frozen=True)
class Derived:
    """A pull for any push: the vector-Jacobian product of that linear map, by autograd."""

    push: Function

    def __call__(self, frame: Frame, g: Tensor, *args: Any, **options: Any) -> list[Tensor]:
        """One cotangent for each active input."""
        with torch.enable_grad():
            inputs = [hole.zeros().requires_grad_() for hole in holes(args)]
            output = self.push(frame, *fill(args, inputs), **options)
            return list(torch.autograd.grad(output, inputs, g))


def transpose_of(push: Function) -> Function:
    """A pull for any push, derived from it."""
    return Derived(push)


def linear(push: Function, **extras: Any) -> Rule:
    """A rule for an operator that is linear in all its active inputs and adds nothing."""
    return Rule("affine", push, extras.pop("pull", None) or transpose_of(push), **extras)
