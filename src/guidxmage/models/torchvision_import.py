"""Importing torchvision, also where its compiled operators do not fit the installed torch."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

from guidxmage.errors import MissingExtraError

_MISSING_OPERATOR = "operator torchvision::nms does not exist"
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

# A registration lives as long as its Library object.
_declared: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """The torchvision module, with its networks, transforms and datasets usable.

    The torchvision wheel on PyPI is built for CUDA; beside a CPU-only torch its import stops at
    the operator nms. Only then are that operator and qnms declared, without a kernel: detection
    networks and ``torchvision.ops.nms`` stay unavailable, all else works.
    Raises MissingExtraError when torchvision is not installed.
    """
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise MissingExtraError("torchvision", "vision") from None
    except RuntimeError as error:
        if not misses_operator(error):
            raise
    _declare_operators()
    _forget_half_imported()
    return importlib.import_module("torchvision")


def misses_operator(error: BaseException) -> bool:
    """Whether an import has failed because torchvision's operators do not fit the torch."""
    return isinstance(error, RuntimeError) and _MISSING_OPERATOR in str(error)


def _declare_operators() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}{_SCHEMA}")
    _declared.append(library)


def _forget_half_imported() -> None:
    for name in list(sys.modules):
        if name == "torchvision" or name.startswith("torchvision."):
            del sys.modules[name]
