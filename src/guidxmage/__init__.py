"""Exact, pixel-by-pixel explanations of convolutional networks.

>>> from guidxmage import Explainer
>>> explanation = Explainer.load().explain("cat.jpg")
>>> print(explanation)
>>> explanation.figure("auto").savefig("cat.png")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guidxmage.attribution.uses import made_by
from guidxmage.moved import find_moved_modules
from guidxmage.provenance.versions import __version__
from guidxmage.viewer.answers import answered_by

find_moved_modules()

if TYPE_CHECKING:
    from guidxmage.attribution.depths import Depth
    from guidxmage.attribution.placement import Placement
    from guidxmage.attribution.targets import Contrast
    from guidxmage.errors import (
        GuidXmageError,
        InputError,
        MissingExtraError,
        OffTrailError,
        UnsupportedOperatorError,
    )
    from guidxmage.explainer import Explainer
    from guidxmage.explanation import Explanation
    from guidxmage.inputs.preprocessing import Preprocessing
    from guidxmage.models import available_models, load_model

# Where each public name lives; they are imported when first used, so that the command line answers
# --help without waiting for torch.
_HOMES = {
    "Contrast": "guidxmage.attribution.targets",
    "Depth": "guidxmage.attribution.depths",
    "Explainer": "guidxmage.explainer",
    "Explanation": "guidxmage.explanation",
    "GuidXmageError": "guidxmage.errors",
    "InputError": "guidxmage.errors",
    "MissingExtraError": "guidxmage.errors",
    "OffTrailError": "guidxmage.errors",
    "Placement": "guidxmage.attribution.placement",
    "Preprocessing": "guidxmage.inputs.preprocessing",
    "UnsupportedOperatorError": "guidxmage.errors",
    "available_models": "guidxmage.models",
    "load_model": "guidxmage.models",
}

__all__ = [
    "Contrast",
    "Depth",
    "Explainer",
    "Explanation",
    "GuidXmageError",
    "InputError",
    "MissingExtraError",
    "OffTrailError",
    "Placement",
    "Preprocessing",
    "UnsupportedOperatorError",
    "__version__",
    "available_models",
    "load_model",
]


def _answers(explanation: Any, scene: Any, explainer: Any) -> Any:
    """What a widget asks of its kernel; torch and all the rest are loaded only then."""
    from guidxmage.serving.notebook import KernelAnswers

    return KernelAnswers(explanation, scene, explainer)


def _write(explainer: Any, path: Any, **options: Any) -> Any:
    """What `Explainer.export` does."""
    from guidxmage.export import export

    return export(explainer, path, **options)


def _explain_dataset(explainer: Any, source: Any, out: Any, **options: Any) -> Any:
    """What `Explainer.explain_dataset` does."""
    from guidxmage.dataset.making import explain_with_options

    return explain_with_options(explainer, source, out, **options)


# The viewer stands below all that answers its questions, and an explainer below what it is asked
# for; here, where everything is known, they are put together.
answered_by(_answers)
made_by(export=_write, explain_dataset=_explain_dataset)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
