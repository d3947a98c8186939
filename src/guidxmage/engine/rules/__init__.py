"""One table of rules, grouped by family; importing this package fills it."""

from guidxmage.engine.rules import affine, convolution, decisions, pooling, shapes
from guidxmage.engine.rules.table import RULES, rule_of

__all__ = ["RULES", "affine", "convolution", "decisions", "pooling", "rule_of", "shapes"]
