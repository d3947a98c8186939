"""One table of rules, grouped by family; importing this package fills it."""

from guidxmage.engine.rules import (
    activations,
    affine,
    conv_transpose,
    convolution,
    decisions,
    extremes,
    matrices,
    normalisation,
    padding,
    pooling,
    products,
    shapes,
)
from guidxmage.engine.rules.table import PRODUCTS, RULES, has_rule, rule_of, traits_of

__all__ = [
    "PRODUCTS",
    "RULES",
    "activations",
    "affine",
    "conv_transpose",
    "convolution",
    "decisions",
    "extremes",
    "has_rule",
    "matrices",
    "normalisation",
    "padding",
    "pooling",
    "products",
    "rule_of",
    "shapes",
    "traits_of",
]
