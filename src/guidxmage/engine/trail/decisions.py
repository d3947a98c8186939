"""The decisions taken at one call site, packed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from math import prod
from operator import and_, or_

import torch
from torch import Tensor

from guidxmage.engine.kernels.bits import (
    pack_above,
    pack_bits,
    pack_interval,
    unpack_bits,
    unpack_channels_last,
)
from guidxmage.errors import InputError
from guidxmage.reports.short_repr import short_repr

# Kinds of entries that take eight bytes for every number.
BYTES = ("told", "whole", "byte", "real")


@dataclass(frozen=True)
class Decisions:
    """The decisions taken at one call site on B images.

    `kind` is "bits" (one plane: on/off or first/second; two planes: inside, above), "index" (which
    operand of a window or reduction was taken, one plane per binary digit, lowest first), "told"
    (whole numbers that Python was told, eight bytes each, and branched on), or "whole", "byte" or
    "real" (numbers that change by steps only, as they are, eight bytes each).
    `shape` is the shape per image; `planes` holds packed bytes, each (B, ⌈n/8⌉). `merged`: the
    operator has parts of images in its first dimension, and unpacked planes have them there too.
    """

    kind: str
    shape: tuple[int, ...]
    planes: tuple[Tensor, ...]
    merged: bool = False

    __repr__ = short_repr

    @classmethod
    def from_bits(cls, *planes: Tensor) -> Decisions:
        """Pack boolean planes of one shape (B, …)."""
        return cls("bits", tuple(planes[0].shape[1:]), tuple(pack_bits(p) for p in planes))

    @classmethod
    def from_limit(cls, values: Tensor, limit: float = 0) -> Decisions:
        """One plane, set where values (B, …) are above the limit."""
        return cls("bits", tuple(values.shape[1:]), (pack_above(values, limit),))

    @classmethod
    def from_interval(cls, values: Tensor, low: float, high: float) -> Decisions:
        """Two planes: where values (B, …) are inside (low, high), and where at or above high."""
        return cls("bits", tuple(values.shape[1:]), pack_interval(values, low, high))

    @classmethod
    def from_index(cls, index: Tensor, choices: int) -> Decisions:
        """Store an integer tensor (B, …) of values below `choices` in as few bits as they need."""
        digits = max(1, (choices - 1).bit_length())
        values = index.to(torch.uint8 if choices <= 256 else torch.int32)
        planes = tuple(pack_bits((values >> digit & 1).bool()) for digit in range(digits))
        return cls("index", tuple(index.shape[1:]), planes)

    @classmethod
    def of_numbers(cls, values: Tensor) -> Decisions:
        """Store whole or floating numbers (B, …) as they are."""
        real = values.is_floating_point()
        kind = "byte" if values.dtype == torch.uint8 else "real" if real else "whole"
        wide = values.new_empty(values.shape, dtype=torch.float64 if real else torch.int64)
        stored = wide.copy_(values).reshape(len(wide), -1).view(torch.uint8)
        return cls(kind, tuple(values.shape[1:]), (stored,))

    def numbers(self) -> Tensor:
        """What `of_numbers` was given, (B, *shape): int64, uint8 or float64."""
        dtype = torch.float64 if self.kind == "real" else torch.int64
        values = self.planes[0].contiguous().view(dtype).reshape(self.images, *self.shape)
        values = values.to(torch.uint8) if self.kind == "byte" else values  # it may be a mask
        return values.flatten(0, 1) if self.merged else values

    @property
    def images(self) -> int:
        """Number of images B."""
        return self.planes[0].shape[0]

    @property
    def count(self) -> int:
        """Number of decisions per image."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes stored, all images together."""
        return sum(plane.numel() for plane in self.planes)

    def plane(self, number: int = 0, *, channels_last: bool = False) -> Tensor:
        """One plane of bits as uint8 zeros and ones, shape (B, *shape)."""
        if channels_last and len(self.shape) == 3:
            return unpack_channels_last(self.planes[number], self.shape)
        bits = unpack_bits(self.planes[number], self.shape)
        return bits.flatten(0, 1) if self.merged else bits

    def per_image(self, rows: int) -> Decisions:
        """The same with one entry for each of `rows` images."""
        if self.images == rows:
            return self
        shape = (self.images // rows, *self.shape)
        if self.kind in BYTES:
            stored = tuple(plane.reshape(rows, -1) for plane in self.planes)
            return Decisions(self.kind, shape, stored, merged=True)
        planes = (unpack_bits(plane, self.shape).reshape(rows, *shape) for plane in self.planes)
        return Decisions(self.kind, shape, tuple(pack_bits(p.bool()) for p in planes), merged=True)

    def index(self) -> Tensor:
        """The chosen operands as int64, shape (B, *shape)."""
        dtype = torch.uint8 if len(self.planes) <= 8 else torch.int32
        value = self.plane(0).to(dtype)
        for digit in range(1, len(self.planes)):
            value |= self.plane(digit).to(dtype) << digit
        return value.long()

    def matches(self, other: Decisions | None) -> bool:
        """Whether the other is of the same kind and shape, so that the two can be compared."""
        return other is not None and (self.kind, self.shape) == (other.kind, other.shape)

    def differs(self, other: Decisions) -> Tensor:
        """Where two records of the same site decide differently, bool (B, *shape)."""
        if not self.matches(other):
            raise InputError("the two trails come from different networks or image sizes")
        if self.kind in BYTES:
            differ = (self.planes[0] != other.planes[0]).unflatten(1, (-1, 8)).any(2)
            return differ.reshape(-1, *self.shape)
        pairs = zip(self.planes, other.planes, strict=True)
        packed = reduce(or_, (mine ^ theirs for mine, theirs in pairs))
        return unpack_bits(packed, self.shape).bool()

    def same(self, other: Decisions) -> Tensor:
        """Whether each image takes exactly the same decisions, bool (B,); no unpacking."""
        if not self.matches(other):
            raise InputError("the two trails come from different networks or image sizes")
        pairs = zip(self.planes, other.planes, strict=True)
        return reduce(and_, ((mine == theirs).all(dim=1) for mine, theirs in pairs))

    def choice(self, rows: Tensor, position: Tensor) -> Tensor:
        """What images `rows` (n,) decided at flat positions (n,), as its planes' digits: (n,)."""
        byte, shift = position // 8, 7 - position % 8
        digits = (plane[rows, byte].long() >> shift & 1 for plane in self.planes)
        return sum((digit << n for n, digit in enumerate(digits)), torch.zeros_like(position))

    def with_choice(self, rows: Tensor, position: Tensor, choice: Tensor) -> Decisions:
        """The same decisions but for one of each image in `rows`, which becomes `choice` (n,)."""
        byte, shift = position // 8, 7 - position % 8
        planes = []
        for number, plane in enumerate(self.planes):
            others = plane[rows, byte].long() & ~(1 << shift)
            changed = plane.clone()
            changed[rows, byte] = (others | (choice >> number & 1) << shift).to(torch.uint8)
            planes.append(changed)
        return self.with_planes(tuple(planes))

    def with_planes(self, planes: tuple[Tensor, ...]) -> Decisions:
        """The same site with other stored bytes (a slice, another device)."""
        return replace(self, planes=planes)
