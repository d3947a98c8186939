"""An explainer sent to another process by pickle: what it was made of, and made again there."""

from __future__ import annotations

from typing import Any

from guidxmage.errors import InputError
from guidxmage.explainer import Explainer


class Portable:
    """Makes an explainer equal to another one, also after it was pickled.

    What pickle cannot take, such as a network whose class is made inside a function, is told by
    pickle's own errors.
    """

    def __init__(self, explainer: Explainer) -> None:
        plain = explainer.space == "input" and explainer.preprocessing is not None
        self._options: dict[str, Any] = {
            "preprocessing": None if plain else explainer._space.transform,
            "labels": explainer.labels,
            "name": explainer.name,
            "batch_rows": explainer.batch_rows,
            "memory_budget": explainer.memory_budget,
            "gates": explainer.gates,
            "cuda_graphs": explainer.cuda_graphs,
        }
        self._model: Any = explainer.model
        self._also = (explainer.weights_source, explainer.code)
        self._whole = explainer.outputs.output is None

    def __getstate__(self) -> dict[str, Any]:
        """What is sent. Raises InputError where the network was changed to explain an output."""
        if not self._whole:
            raise InputError(
                "several workers cannot be sent an explainer with output=: give factory=, a "
                "function of a module that makes it"
            )
        return dict(vars(self))

    def __call__(self) -> Explainer:
        """The explainer."""
        made = Explainer(self._model, **self._options)
        made.weights_source, made.code = self._also
        return made
