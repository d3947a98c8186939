"""Exact, pixel-by-pixel explanations of convolutional networks.

>>> from guidxmage import Explainer
>>> explanation = Explainer.load().explain("cat.jpg")
>>> print(explanation)
>>> explanation.figure("auto").savefig("cat.png")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from guidxmage.errors import (
        GuidXmageError,
        InputError,
        MissingExtraError,
        OffTrailError,
        UnsupportedOperatorError,
    )
    from guidxmage.explainer import Explainer
    from guidxmage.explanation import Explanation
    from guidxmage.models import available_models, load_model
    from guidxmage.preprocessing import Preprocessing
    from guidxmage.targets import Contrast

# Where each public name lives; they are imported when first used, so that the command line answers
# --help without waiting for torch.
_HOMES = {
    "Contrast": "guidxmage.targets",
    "Explainer": "guidxmage.explainer",
    "Explanation": "guidxmage.explanation",
    "GuidXmageError": "guidxmage.errors",
    "InputError": "guidxmage.errors",
    "MissingExtraError": "guidxmage.errors",
    "OffTrailError": "guidxmage.errors",
    "Preprocessing": "guidxmage.preprocessing",
    "UnsupportedOperatorError": "guidxmage.errors",
    "available_models": "guidxmage.models",
    "load_model": "guidxmage.models",
}

__all__ = [
    "Contrast",
    "Explainer",
    "Explanation",
    "GuidXmageError",
    "InputError",
    "MissingExtraError",
    "OffTrailError",
    "Preprocessing",
    "UnsupportedOperatorError",
    "__version__",
    "available_models",
    "load_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
