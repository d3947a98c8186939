"""Loops over packed decisions, compiled by numba; `loops` says what they do and when they run."""

from guidxmage.engine.kernels.compiled.gating import (
    gate,
    gate_channels_last,
    position_sums_where,
    sums_and_norms,
    sums_where,
    sums_where_channels_last,
)
from guidxmage.engine.kernels.compiled.moving import add_at_maxima, sum_of_rows
from guidxmage.engine.kernels.compiled.packing import (
    norms,
    pack_above,
    pack_interval,
    pack_positions,
)
from guidxmage.engine.kernels.compiled.smooth import secants

__all__ = [
    "add_at_maxima",
    "gate",
    "gate_channels_last",
    "norms",
    "pack_above",
    "pack_interval",
    "pack_positions",
    "position_sums_where",
    "secants",
    "sum_of_rows",
    "sums_and_norms",
    "sums_where",
    "sums_where_channels_last",
]
