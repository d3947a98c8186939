"""Every operator says everything about itself, in one place."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from guidxmage.engine.capture.capture import capture
from guidxmage.engine.rules import PRODUCTS, RULES
from guidxmage.engine.rules.choices import AboveLimit, BetweenBounds, OfTwo, TwoSlopes
from guidxmage.engine.rules.plain import why_not_plain
from guidxmage.engine.rules.table import FOLDED, Derived, Rule, Traits, register
from guidxmage.proof.rational.operators import decisions_of

ROOT = Path(__file__).parent.parent
RULES_FOLDER = ROOT / "src" / "guidxmage" / "engine" / "rules"
RESIDUES = {"weights", "product", "terms", "fillings", "bounds", "padding", "norm", "nothing"}
EVERY = {**PRODUCTS, **RULES, **FOLDED}


@pytest.mark.parametrize("name", RULES)
def test_what_the_certificate_makes_of_an_operator_is_said(name: str) -> None:
    """Smooth operators have no counterpart modulo primes; others have one, or say why not."""
    rule = RULES[name]
    if rule.kind == "gate":
        assert not rule.traits.residues
    else:
        assert (rule.traits.residues in RESIDUES) != bool(rule.traits.unproved)


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.kind == "decision"])
def test_what_a_decision_chooses_between_is_said(name: str) -> None:
    """Or why it is not: then nothing is certified, and no line is walked."""
    rule = RULES[name]
    assert rule.record is not None
    assert (rule.choice is not None and rule.crossings is not None) or rule.traits.unproved


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.kind == "affine"])
def test_coefficients_are_known_or_it_is_said_why_not(name: str) -> None:
    traits = RULES[name].traits
    assert traits.exact or traits.averages or traits.unproved


@pytest.mark.parametrize("name", EVERY)
def test_whether_images_stay_apart_is_said(name: str) -> None:
    assert name in FOLDED or EVERY[name].rows is not None


@pytest.mark.parametrize("name", EVERY)
def test_how_an_operator_leaves_python_is_said(name: str) -> None:
    """Or in words why it cannot: nothing is found out when a graph is half made."""
    rule = EVERY[name]
    why = why_not_plain(rule)
    if why is not None:
        assert re.fullmatch(r"[a-z][^.]+", why)
        return
    assert not isinstance(rule.pull, Derived) or (rule.plain and rule.plain.pull)
    if rule.kind == "decision":
        said = rule.plain is not None and rule.plain.record is not None
        assert said or isinstance(rule.choice, TwoSlopes | AboveLimit | BetweenBounds | OfTwo)


def test_no_trait_is_for_nothing() -> None:
    """Every trait that there is belongs to some operator, and is asked for somewhere."""
    used = {
        field.name
        for field in fields(Traits)
        if any(getattr(rule.traits, field.name) for rule in EVERY.values())
    }
    assert used == {field.name for field in fields(Traits)}
    source = "\n".join(
        path.read_text(encoding="utf-8")
        for path in (ROOT / "src").rglob("*.py")
        if path.name != "table.py"
    )
    asked = used - {"unproved"}  # it is for readers, and for the tests above
    assert all(re.search(rf"\.{name}\b", source) for name in asked)


def test_an_operator_has_one_rule() -> None:
    with pytest.raises(KeyError, match="already has a rule"):
        register("aten.relu.default", Rule("affine", lambda: None, lambda: None))


def test_the_example_of_the_guide_is_the_rule_itself() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(register\(.*?)```", guide, re.DOTALL)
    assert len(example.splitlines()) <= 15
    name = re.search(r'"(aten\.[\w.]+)"', example)[1]  # type: ignore[index]
    assert name in RULES
    sources = [path.read_text(encoding="utf-8") for path in RULES_FOLDER.glob("*.py")]
    assert sum(example in source for source in sources) == 1
    assert sum(f'"{name}' in source for source in sources) == 1


@pytest.mark.parametrize(
    ("function", "bounds"),
    [
        (lambda x: torch.nn.functional.hardtanh(x, -0.5, 0.75), (-0.5, 0.75)),
        (torch.nn.functional.relu6, (0.0, 6.0)),
        (lambda x: x.clamp(-0.5, 0.75), (-0.5, 0.75)),
        (lambda x: x.clamp_min(0.25), (0.25, 0.25)),
        (torch.relu, (0.0, 0.0)),
        (torch.abs, (0.0, 0.0)),
    ],
)
def test_what_lies_on_a_limit_is_chosen_as_the_recorded_run_does(
    function: Callable[[Tensor], Tensor], bounds: tuple[float, float]
) -> None:
    """The choice that is said once must be the operator's own, also where values are equal."""

    class Limits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("none", torch.zeros((), dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return function(x) + self.none

    values = [bounds[0], bounds[1], bounds[0] - 1, bounds[1] + 1]
    image = torch.tensor([values], dtype=torch.float64)
    program = capture(Limits().eval(), image)
    call = next(c for c in program.calls if (RULES[c.op]).kind == "decision")
    recorded = program.record(image).trail[call.site]
    planes = [recorded.plane(n)[0].tolist() for n in range(len(recorded.planes))]
    taken = [sum(int(bit) << n for n, bit in enumerate(own)) for own in zip(*planes, strict=True)]
    exact = [Fraction(value) for value in values]
    found = [one.choose(exact) for one in decisions_of(call, program, [0])]
    assert found == taken
