"""Numeric gates: what the trail records of an operator that is smooth instead of deciding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from guidxmage.errors import InputError
from guidxmage.reports.short_repr import short_repr

# How smooth operators are made affine. "secant": a line through the origin's value, statistics,
# attention and gating factors frozen at what they are on X. "tangent": the first-order expansion.
CONVENTIONS = ("secant", "tangent")
FAMILIES = ("activations", "normalisation", "products")
Conventions = Mapping[str, str]


def conventions(given: str | Mapping[str, str]) -> dict[str, str]:
    """The convention of every family of operators, from one for all or one by family.

    Raises InputError for a name that is unknown.
    """
    if not isinstance(given, str | Mapping):
        raise InputError(
            f"gates is {given!r}; give one convention for all operators, or one by family"
        )
    chosen = dict.fromkeys(FAMILIES, given) if isinstance(given, str) else dict(given)
    for family, convention in chosen.items():
        if family not in FAMILIES:
            raise InputError(f"gates names {family!r}; choose from {', '.join(FAMILIES)}")
        if convention not in CONVENTIONS:
            raise InputError(f"gates is {convention!r}; choose {' or '.join(CONVENTIONS)}")
    return {family: chosen.get(family, CONVENTIONS[0]) for family in FAMILIES}


@dataclass(frozen=True)
class Gates:
    """The numbers that make one call affine at B images.

    `planes` are floating tensors (B, …). Where the operator works on parts of images in its first
    dimension (windows), `merged` is set, planes are (B, parts, …), and `tensors` joins the two.
    """

    convention: str
    planes: tuple[Tensor, ...]
    merged: bool = False

    __repr__ = short_repr

    @property
    def images(self) -> int:
        """Number of images B."""
        return len(self.planes[0]) if self.planes else 0

    @property
    def count(self) -> int:
        """Numbers stored per image."""
        return sum(prod(plane.shape[1:]) for plane in self.planes)

    @property
    def nbytes(self) -> int:
        """Bytes stored, all images together."""
        return sum(plane.numel() * plane.itemsize for plane in self.planes)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The planes with the first dimension that the operator's output has."""
        return tuple(p.flatten(0, 1) for p in self.planes) if self.merged else self.planes

    def per_image(self, rows: int) -> Gates:
        """The same with one entry for each of `rows` images."""
        if any(plane.ndim == 0 for plane in self.planes):
            planes = tuple(plane if plane.ndim else plane[None] for plane in self.planes)
            return replace(self, planes=planes).per_image(rows)
        if self.images in (rows, 0):
            return self
        return replace(
            self, planes=tuple(p.unflatten(0, (rows, -1)) for p in self.planes), merged=True
        )

    def with_planes(self, planes: tuple[Tensor, ...]) -> Gates:
        """Other images or another device."""
        return replace(self, planes=planes)

    def matches(self, other: Gates) -> bool:
        """Whether the other has the same convention and shapes, so that the two can be compared."""
        mine, theirs = ([tuple(p.shape[1:]) for p in g.planes] for g in (self, other))
        return (self.convention, mine) == (other.convention, theirs)

    def same(self, other: Gates) -> Tensor:
        """Whether each image has the very same numbers, bool (B,)."""
        if not self.matches(other):
            raise InputError("the two trails come from different networks or conventions")
        verdict = torch.ones(max(self.images, other.images), dtype=torch.bool)
        for a, b in zip(self.planes, other.planes, strict=True):
            equal = a == b
            verdict &= equal.reshape(len(equal), -1).all(1).cpu()
        return verdict
