"""What a viewer may ask beyond its arrays, and who answers: a port, with the answers plugged in.

The viewer lies below everything that explains or attacks. Who is above tells it here how a question
about an explanation is answered; where nobody has, the viewer has no questions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy.typing as npt

    from guidxmage.attribution.attribution import Attribution
    from guidxmage.viewer.scene import Scene

Say = Callable[[str, float | None], None]
"""Told how far an answer has come: words, and which part of it is done, where that is known."""
Stop = Callable[[], None]
"""Raises whatever ends the work, where it is no longer wanted."""


class StoppedError(Exception):
    """The answer is no longer wanted."""


@dataclass(frozen=True, eq=False)
class Answer:
    """json: plain values, without NaN; arrays: by name, which the page is given as raw bytes."""

    json: dict[str, Any]
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


class Answers(Protocol):
    """Answers questions about the explanation that it was made for."""

    @property
    def scene(self) -> Scene:
        """What is shown, with the targets that were asked for since."""
        ...

    def __call__(self, question: Any, say: Say, stop: Stop) -> Answer:
        """The answer. Raises GuidXmageError with one sentence, and what `stop` raises."""
        ...


Making = Callable[["Attribution", "Scene", Any], Answers]
_making: list[Making] = []


def answered_by(making: Making) -> None:
    """Plug in what makes the answers about an explanation, its scene and, where given, its door."""
    _making[:] = [making]


def answers_about(explanation: Attribution, scene: Scene, door: Any = None) -> Answers | None:
    """The answers about one explanation; None where nobody gives any."""
    return _making[0](explanation, scene, door) if _making else None
