"""Write docs/operators.md, the table of operators, from the rules themselves.

python docs/make_operators.py [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from guidxmage.engine.rules import PRODUCTS, RULES
from guidxmage.engine.rules.table import Derived, Rule

PAGE = Path(__file__).with_name("operators.md")
FAMILIES = {
    "convolution": "Convolutions",
    "conv_transpose": "Transposed convolutions",
    "matrices": "Constant matrices",
    "affine": "Weights and arithmetic",
    "decisions": "Decisions by thresholds",
    "extremes": "Maxima and minima",
    "ordering": "Order and rank",
    "remainders": "Remainders, shrinking and bounds from the image",
    "comparisons": "Comparisons, rounding and positions",
    "gathering": "Gathering, scattering, sampling and blends",
    "activations": "Smooth activations",
    "normalisation": "Normalisation by the image's own statistics",
    "products": "Products of two values that depend on the image",
    "attention": "Attention",
    "pooling": "Pooling and resampling",
    "shapes": "Shapes",
    "padding": "Padding",
}
INTRODUCTION = """# Operators

<!-- Written by `python docs/make_operators.py`; do not edit. -->

A network is captured as a list of ATen calls. These {count} operators have a rule. An operator that
PyTorch makes of others is taken apart. Any other operator of PyTorch's own that has a derivative is
expanded to first order at the image: the score is reproduced there, no region is claimed ("at
input"), and the images of a batch are run one by one. What remains, complex numbers and parts in
another precision, is refused, and the message names the operator and the module that calls it.

- **kind** – *affine*: the operator is applied as it is, and its constants go to the bias.
  *decision*: what it decided on the image is written into the trail, and what is left is affine.
  *gate*: the operator is smooth; numbers written into the trail make it affine at the image.
  *step*: the value changes by steps only, as masks, positions and rounded numbers do. Along a
  trail, which keeps it, it is a constant: `x * (x > 0)` is x times a constant mask.
- **constant** – whether a call may add something to the bias.
- **transpose** – *written* by hand, or *derived* from the forward rule as its vector-Jacobian
  product.
- **other calls** – whether some calls are not treated by this rule: they are expanded instead,
  where they have a derivative.

Operators in one row share one rule. The rules are in `src/guidxmage/engine/rules/`.
"""
HEADINGS = ("operator", "kind", "constant", "transpose", "other calls")


def page() -> str:
    """The whole page."""
    sections = [INTRODUCTION.format(count=len({*RULES, *PRODUCTS}))]
    for module, title in FAMILIES.items():
        lines = [HEADINGS, ("---",) * len(HEADINGS), *_rows(module)]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        sections.append(f"## {title}\n\n{table}\n")
    return "\n".join(sections)


def _rows(module: str) -> Iterable[tuple[str, ...]]:
    """One row for each rule of a module, in the order of the table."""
    names: dict[int, list[str]] = {}
    rules: dict[int, Rule] = {}
    for name, rule in (*RULES.items(), *PRODUCTS.items()):
        if _module(rule) == module:
            names.setdefault(id(rule), []).append(name)
            rules[id(rule)] = rule
    for key, rule in rules.items():
        derived = isinstance(rule.pull, Derived)
        yield (
            ", ".join(f"`{name.removeprefix('aten.')}`" for name in names[key]),
            rule.kind,
            "yes" if rule.constant else "",
            "derived" if derived else "written",
            "some calls" if rule.refuse else "",
        )


def _module(rule: Rule) -> str:
    module = rule.push.__module__.rpartition(".")[2]
    return "activations" if module == "smooth" else module


def main(arguments: list[str]) -> int:
    """Write the page; with --check only tell whether it is up to date."""
    homeless = {
        name for name, rule in (*RULES.items(), *PRODUCTS.items()) if _module(rule) not in FAMILIES
    }
    assert not homeless, f"no section of the page holds {sorted(homeless)}"
    if "--check" in arguments:
        current = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page()
        print(f"{PAGE.name} is {'up to date' if current else 'out of date'}")
        return 0 if current else 1
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
