"""The same program in the other precision."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from guidxmage.engine.calls.call import Call
from guidxmage.engine.program.program import Program


def widened(program: Program) -> Program:
    """In float64, unfolded: the float32 weights are the same numbers there."""
    return _converted(program, torch.float64)


def narrowed(program: Program) -> Program:
    """In float32, unfolded."""
    return _converted(program, torch.float32)


def _converted(program: Program, dtype: torch.dtype) -> Program:
    """Branches are left out: the run goes the recorded way, whatever Python would be told now."""
    calls = tuple(_converted_call(call, dtype) for call in program.calls)
    return replace(program, calls=calls, symbolic_calls=calls, dtype=dtype, order=())


def _converted_call(call: Call, dtype: torch.dtype) -> Call:
    kwargs = {
        key: dtype if isinstance(value, torch.dtype) and value.is_floating_point else value
        for key, value in call.kwargs.items()
    }
    return replace(call, args=tuple(_cast(arg, dtype) for arg in call.args), kwargs=kwargs)


def _cast(arg: Any, dtype: torch.dtype) -> Any:
    if isinstance(arg, Tensor):
        return arg.to(dtype) if arg.is_floating_point() else arg
    if isinstance(arg, torch.dtype) and arg.is_floating_point:
        return dtype
    return [_cast(item, dtype) for item in arg] if isinstance(arg, list) else arg
