"""One table of rules, grouped by family; importing this package fills it."""

from guidxmage.engine.rules import (
    activations,
    affine,
    convolution,
    decisions,
    normalisation,
    pooling,
    products,
    shapes,
)
from guidxmage.engine.rules.table import PRODUCTS, RULES, rule_of

__all__ = [
    "PRODUCTS",
    "RULES",
    "activations",
    "affine",
    "convolution",
    "decisions",
    "normalisation",
    "pooling",
    "products",
    "rule_of",
    "shapes",
]
