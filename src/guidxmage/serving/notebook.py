"""Answers in a notebook's kernel, about an explanation that is at hand."""

from __future__ import annotations

import threading
from typing import Any

from guidxmage.attribution.attribution import Attribution
from guidxmage.errors import InputError
from guidxmage.explainer import Explainer
from guidxmage.explanation import Explanation
from guidxmage.serving.questions import answer, is_carried
from guidxmage.viewer.answers import Answer, Say, Stop
from guidxmage.viewer.scene import Scene


class KernelAnswers:
    """Answers about one explanation, as `viewer.answers.Answers` has it.

    explainer: what made it, where it is at hand; else another of the same network is made when it
    is first needed.
    """

    def __init__(
        self, explanation: Attribution, scene: Scene, explainer: Explainer | None = None
    ) -> None:
        self.explanation = Explanation.of(explanation)
        self.scene = scene
        self.added: list[Explanation] = []
        self.lock = threading.Lock()
        self._explainer = explainer

    def __call__(self, question: Any, say: Say, stop: Stop) -> Answer:
        """The answer. Raises as `serving.questions.answer` does."""
        with self.lock:
            if self._explainer is None:
                self._explainer = explainer_of(self.explanation)
        return answer(self._explainer, self, question, say, stop)


def explainer_of(explanation: Attribution) -> Explainer:
    """An explainer of the network that an explanation knows, in the space of its maker.

    Raises InputError where it was loaded without its network.
    """
    network = explanation.symbolic_model.network
    if network is None or network.model is None:
        raise InputError(
            "the explanation was loaded without its network; load it with "
            "Explanation.load(path, explainer=…), or give the explainer: widget(explainer)"
        )
    pixels = explanation.space != "input" or is_carried(explanation)
    made = Explainer(
        network.model,
        preprocessing=explanation.preprocessing if pixels else None,
        labels=explanation.labels,
        name=explanation.model_name,
        gates=network.program.conventions,
    )
    made.weights_source = explanation.weights_source
    return made
