"""A trail packed in a graph of ordinary operators, byte for byte as `Trail` packs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from guidxmage.engine.calls.call import Call
from guidxmage.engine.program.program import Program
from guidxmage.engine.rules import rule_of
from guidxmage.engine.rules.choices import OfWindows
from guidxmage.engine.trail.decisions import Decisions
from guidxmage.errors import InputError


@dataclass(frozen=True)
class _Site:
    """A call that decides: number of its table of positions, None where it decides by bits."""

    call: int
    table: int | None


class PlainTrail(nn.Module):
    """Packs what a run of a `PlainProgram` decided, uint8 (B, bytes).

    The planes of all call sites in order of execution, each of ⌈n/8⌉ bytes, the first decision in
    the highest bit. sites: call site → its decisions on some image, whose shape and number of
    planes are those of every image. Raises InputError for a network that decides nothing, or
    whose trail has more than decisions.
    """

    weights: Tensor

    def __init__(self, program: Program) -> None:
        super().__init__()
        if program.kept:
            raise InputError(
                "the trail of this network has masks or positions besides its decisions, which "
                "are not packed; leave out trail"
            )
        blank = torch.zeros(1, *program.input_shape, dtype=program.dtype, device=program.device)
        self.sites = program.record(blank, norms=False).trail.decisions
        if not self.sites:
            raise InputError("the network decides nothing, so that it has no trail to give out")
        self._sites: list[_Site] = []
        for call in program.calls:
            if call.site in self.sites:
                self._sites.append(self._site(program, call))
        weights = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.float32)
        self.register_buffer("weights", weights[:, None].to(program.device))

    def forward(self, entries: Mapping[int, Any], rows: int) -> Tensor:
        """entries: the dense decisions of B images by call; rows: B."""
        packed = [
            self._packed(plane.reshape(rows, -1))
            for site in self._sites
            for plane in self._planes(site, entries[site.call])
        ]
        return torch.cat(packed, 1)

    def _site(self, program: Program, call: Call) -> _Site:
        """Notes which digits each position has, where a call decides on positions."""
        entry: Decisions = self.sites[call.site]
        if entry.kind == "bits":
            return _Site(call.id, None)
        rule = rule_of(call)
        number = len(list(self.buffers()))
        if rule is not None and isinstance(rule.choice, OfWindows):
            shapes, dims = program.shapes(1), rule.choice.dims
            plane, out = shapes[call.inputs[0]][-dims:], shapes[call.id][-dims:]
            windows = rule.choice.geometry(plane, out, call.args[1:])
            self.register_buffer(f"base_{number}", windows.base.to(program.device))
            positions = windows.positions.long()
        else:  # the position itself is kept
            positions = torch.arange(2 ** len(entry.planes))
        digits = torch.arange(len(entry.planes))
        table = (positions[:, None] >> digits & 1).float()
        self.register_buffer(f"digits_{number}", table.to(program.device))
        return _Site(call.id, number)

    def _planes(self, site: _Site, entry: Decisions) -> list[Tensor]:
        if site.table is None:
            return [plane.to(self.weights.dtype) for plane in entry.planes]
        base = getattr(self, f"base_{site.table}", None)
        position = entry.planes[0] if base is None else entry.planes[0] - base
        digits = nn.functional.embedding(position, getattr(self, f"digits_{site.table}"))
        return list(digits.unbind(-1))

    def _packed(self, bits: Tensor) -> Tensor:
        """Ones and zeros (B, n) as bytes."""
        rows, count = bits.shape
        if count % 8:
            bits = nn.functional.pad(bits, (0, -count % 8))
        # Two matrices: with a vector onnxruntime takes fifty times as long.
        packed = bits.reshape(-1, 8) @ self.weights
        return packed.reshape(rows, -(-count // 8)).to(torch.uint8)
