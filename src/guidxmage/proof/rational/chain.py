"""A proof in steps: one linear identity for each layer, from the class score back to the image.

The state between two steps is a function of the network's values, F = Σ G_n·v_n + β. It starts as
the target, Σ cotangent_k·logit_k. A step replaces the outputs of one layer by what that layer is
under the recorded decisions, y = W v + c, and asserts that the state does not change:

    ⟨G, W v + c⟩ + ⟨H, v⟩ = ⟨H', v⟩ + (β' − β),   H' = H + Wᵀ G

for every v, where H are the weights that v had already. The next step starts from H', β'. The last
state knows the image only: ⟨Δ, Z⟩ + b. It is compared with the claim. All numbers are exact; a step
is proved when the negation of the identity is unsatisfiable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from guidxmage.proof.rational.deadline import NEVER, Deadline
from guidxmage.proof.rational.formula import ZERO, Line, Names, rational, script, term
from guidxmage.proof.rational.network import Choices, Layer, Rational


@dataclass(frozen=True)
class ChainStep:
    """One identity: its name for a file, and the SMT-LIB text that is to be unsatisfiable."""

    name: str
    text: str


def exact_model(
    network: Rational,
    choices: Choices,
    cotangent: Sequence[Fraction],
    deadline: Deadline = NEVER,
) -> Line:
    """The symbolic model f_t(Z) = ⟨Δ, Z⟩ + b along a trail, in rational numbers."""
    state = _start(network, cotangent)
    for layer in reversed(network.layers):
        state = _replaced(state, layer, network.decided(layer, choices), deadline)
    return state


def chain(
    network: Rational,
    choices: Choices,
    cotangent: Sequence[Fraction],
    claim: Line,
    deadline: Deadline = NEVER,
) -> list[ChainStep]:
    """All steps of the proof that the target is `claim` for every Z that follows the trail."""
    names = Names(network.inputs)
    state = _start(network, cotangent)
    steps: list[ChainStep] = []
    for layer in reversed(network.layers):
        lines = network.decided(layer, choices)
        after = _replaced(state, layer, lines, deadline)
        if _outputs(state, layer, len(lines)):
            steps.append(_step(len(steps), (layer, lines), (state, after), names, deadline))
        state = after
    steps.append(_last(len(steps), state, claim, names))
    return steps


def _start(network: Rational, cotangent: Sequence[Fraction]) -> Line:
    return Line({n: c for n, c in zip(network.logits, cotangent, strict=True) if c})


def _outputs(state: Line, layer: Layer, count: int) -> dict[int, Fraction]:
    """The weights that the state has for a layer's outputs."""
    numbers = range(layer.first, layer.first + count)
    return {n: state.row[n] for n in numbers if n in state.row}


def _replaced(state: Line, layer: Layer, lines: Sequence[Line], deadline: Deadline) -> Line:
    """The state with a layer's outputs replaced by their lines."""
    row, constant = dict(state.row), state.constant
    for number, line in enumerate(deadline.watch(lines)):
        weight = row.pop(layer.first + number, None)
        if weight is None:
            continue
        constant += weight * line.constant
        for n, c in line.row.items():
            row[n] = row.get(n, ZERO) + weight * c
    return Line({n: c for n, c in row.items() if c}, constant)


def _step(
    number: int,
    replaced: tuple[Layer, Sequence[Line]],
    states: tuple[Line, Line],
    names: Names,
    deadline: Deadline,
) -> ChainStep:
    (layer, lines), (before, after) = replaced, states
    weights = _outputs(before, layer, len(lines))
    used = {n: lines[n - layer.first] for n in weights}
    inputs = sorted({n for line in used.values() for n in line.row})
    commands = [f"(declare-fun {names[n]} () Real)" for n in inputs]
    commands += [
        f"(define-fun {names[n]} () Real {term(line, names)})"
        for n, line in deadline.watch(used.items())
    ]
    left = Line({**weights, **_of(before.row, inputs)})
    right = Line(_of(after.row, inputs), after.constant - before.constant)
    commands.append(f"(assert (not (= {term(left, names)} {term(right, names)})))")
    comments = [
        f"Step {number}: {layer.site} ({layer.op}), its decisions as recorded.",
        "v and x: the layer's inputs, any numbers; the defined values are its outputs.",
        "unsat: the weights on the right are those on the left carried through the layer.",
    ]
    return ChainStep(_file_name(number, layer.site), script(comments, commands))


def _last(number: int, state: Line, claim: Line, names: Names) -> ChainStep:
    inputs = sorted({*state.row, *claim.row})
    commands = [f"(declare-fun {names[n]} () Real)" for n in inputs]
    commands.append(f"(assert (not (= {term(state, names)} {term(claim, names)})))")
    comments = [
        f"Step {number}: what is left of the network is the claim <Delta, Z> + b.",
        f"b = {rational(claim.constant)}",
    ]
    return ChainStep(_file_name(number, "claim"), script(comments, commands))


def _of(row: Mapping[int, Fraction], numbers: Sequence[int]) -> dict[int, Fraction]:
    return {n: row[n] for n in numbers if n in row}


def _file_name(number: int, site: str) -> str:
    safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in site)
    return f"{number:03}-{safe}.smt2"
