"""All measures by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import util

from guidxmage.errors import InputError, MissingExtraError
from guidxmage.evaluation.measures.case import Case, Claimed, Figures
from guidxmage.evaluation.measures.completeness import completeness
from guidxmage.evaluation.measures.complexity import complexity
from guidxmage.evaluation.measures.cost import cost
from guidxmage.evaluation.measures.curves import curves
from guidxmage.evaluation.measures.directional import directional
from guidxmage.evaluation.measures.magnitude import magnitude
from guidxmage.evaluation.measures.objects import localisation, object_signs
from guidxmage.evaluation.measures.quantus_measures import faithfulness
from guidxmage.evaluation.measures.randomisation import randomisation
from guidxmage.evaluation.measures.removal import removal
from guidxmage.evaluation.measures.road import road
from guidxmage.evaluation.measures.smoothing import equal_smoothing


@dataclass(frozen=True)
class Measure:
    """One measure. every_view: cheap enough for all views; the others see the photos themselves."""

    name: str
    take: Callable[[Case, Claimed], Figures]
    every_view: bool = False
    package: str = ""
    library: str = ""


_ALL = (
    Measure("directional", directional, every_view=True),
    Measure("completeness", completeness, every_view=True),
    Measure("complexity", complexity, every_view=True),
    Measure("localisation", localisation, every_view=True),
    Measure("objects", object_signs, every_view=True),
    Measure("magnitude", magnitude, package="scipy", library="scipy"),
    Measure("curves", curves),
    Measure("equal_smoothing", equal_smoothing, package="scipy", library="scipy"),
    Measure("removal", removal, package="skimage", library="scikit-image"),
    Measure("road", road, package="pytorch_grad_cam", library="grad-cam"),
    Measure("faithfulness", faithfulness, package="quantus", library="quantus"),
    Measure("randomisation", randomisation, package="scipy", library="scipy"),
    Measure("cost", cost),
)
MEASURES = {measure.name: measure for measure in _ALL}


def choose_measures(names: Sequence[str]) -> list[Measure]:
    """Measures by their names. Raises InputError for an unknown one, MissingExtraError."""
    for name in names:
        if name not in MEASURES:
            raise InputError(f"there is no measure {name!r}; choose from {', '.join(MEASURES)}")
        one = MEASURES[name]
        if one.package and util.find_spec(one.package) is None:
            raise MissingExtraError(one.library, "eval")
    return [MEASURES[name] for name in dict.fromkeys(names)]
