"""Whether a model is fit to be explained."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from guidxmage.errors import InputError


def refuse_lazy(model: nn.Module) -> None:
    """Raise InputError where a lazy module does not know its weights yet."""
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise InputError(
                f"the model's weight {name!r} has no size yet; run the model once on an image first"
            )


def check_model(model: nn.Module) -> tuple[torch.dtype, torch.device]:
    """The single dtype and device of a model that is fit to be explained."""
    for name, module in model.named_modules():
        if getattr(module, "training", False):  # frozen TorchScript has none
            where = f"its module {name!r} is" if name else "it is"
            raise InputError(
                f"the model cannot be explained because {where} in training mode; "
                "call model.eval() first"
            )
    refuse_lazy(model)
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
    for name, tensor in floating.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"the model's weights hold NaN or Inf in {name!r}")
    return dtype, device
