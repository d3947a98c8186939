"""Whether a model is fit to be explained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from guidxmage.errors import InputError, UnsupportedOperatorError

# PyTorch's own modules of integers, in the packages that it has had for them.
_QUANTISED = ("torch.ao.nn.quantized", "torch.nn.quantized", "torch.ao.nn.intrinsic.quantized")


def refuse_unusable(model: nn.Module) -> None:
    """Raise InputError where a model's weights are no real numbers: lazy, "meta" or quantised."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise InputError(
                f"the model's weight {name!r} has no size yet; run the model once on an image first"
            )
        if tensor.is_meta:
            raise InputError(
                f"the model's weight {name!r} is on the device 'meta' and has no numbers; load the "
                "weights first"
            )
        if tensor.is_quantized or type(tensor).__module__.startswith("torchao"):
            _refuse_quantised(name)
    for name, module in model.named_modules():
        if type(module).__module__.startswith(_QUANTISED):
            _refuse_quantised(name)


def _refuse_quantised(name: str) -> None:
    raise InputError(
        f"the model is quantised at {name!r}, and steps of integers have no slope; explain the "
        "model in float32 that it was made from"
    )


def scores_of(output: Any) -> Tensor:
    """What a model returned, where that is a tensor; else raises InputError."""
    if isinstance(output, Tensor):
        return output
    kind = type(output).__name__
    if isinstance(output, Mapping):
        kind = f"a {kind} with {' and '.join(repr(key) for key in output)}"
    elif isinstance(output, list | tuple):
        kind = f"a {kind} of {len(output)} value{'s' if len(output) != 1 else ''}"
    raise InputError(
        f"the model returns {kind} where one tensor of class scores is expected; say which part of "
        "it is meant with output=…, a key, an index or one of guidxmage.outputs (docs/outputs.md)"
    )


def with_way_out(model: nn.Module, error: UnsupportedOperatorError) -> UnsupportedOperatorError:
    """The error, which for TorchScript also says what to explain instead."""
    if not any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        return error
    return UnsupportedOperatorError(
        f"{error}; it is TorchScript, so explain the nn.Module that it was made from"
    )


def _exported(model: nn.Module) -> set[nn.Module]:
    """The modules of programs of torch.export.

    They are as they were exported, whatever their flags say, and cannot be switched.
    """
    programs = [
        module
        for module in model.modules()
        if isinstance(module, torch.fx.GraphModule) and "eval" in vars(module)
    ]
    return {part for program in programs for part in program.modules()}


def check_model(model: nn.Module) -> tuple[torch.dtype, torch.device]:
    """The single dtype and device of a model that is fit to be explained."""
    refuse_unusable(model)
    exported = _exported(model)
    for name, module in model.named_modules():
        # Frozen TorchScript has no such flag.
        if getattr(module, "training", False) and module not in exported:
            where = f"its module {name!r} is" if name else "it is"
            raise InputError(
                f"the model cannot be explained because {where} in training mode; "
                "call model.eval() first"
            )
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    floating = {name: t for name, t in tensors.items() if t.is_floating_point()}
    kinds = {(t.dtype, t.device) for t in floating.values()} or {
        (torch.get_default_dtype(), torch.device("cpu"))
    }
    if len(kinds) > 1:
        listed = " and ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise InputError(f"the model mixes {listed}; bring it to one dtype and one device")
    dtype, device = kinds.pop()
    if dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"the model computes in {dtype}, too coarse for an exact explanation; "
            "pass dtype=torch.float32 to explain a float32 copy of it"
        )
    weights = dict(model.named_parameters())
    for name, tensor in floating.items():
        # A buffer may be a mask of −∞, or a bound that is none.
        if tensor.isnan().any() or (name in weights and tensor.isinf().any()):
            raise InputError(f"the model's weights hold NaN or Inf in {name!r}")
    return dtype, device
