"""Explanations against an engine that shares no line with ours."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from guidxmage import Explainer
from tests.laws import close
from tests.networks import SMALL_INPUTS, SMALL_NETWORKS
from tests.oracle import Oracle


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_weights_bias_and_score(name: str) -> None:
    model = SMALL_NETWORKS[name]().double()
    shape = SMALL_INPUTS.get(name, (3, 16, 16))
    image = torch.rand(1, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    oracle = Oracle(model, image)
    scores = oracle.scores()
    explained = Explainer(model).explain(image[0], target="all")
    close(explained.logits, scores.detach(), 1e-12)
    for number, score in enumerate(scores):
        weights, shares = oracle.explain(score)
        close(explained.weights[number], weights[0], 1e-10)
        size = sum(map(abs, shares.values())) + abs(float(score.detach()))
        assert abs(float(explained.bias[number]) - sum(shares.values())) <= 1e-10 * size
        ours = [float(value[number]) for value in explained.bias_by_layer.values()]
        theirs = list(shares.values())
        assert _told(ours) == pytest.approx(_told(theirs), abs=1e-10 * size)


def _told(shares: list[float]) -> list[float]:
    """In order of execution; the two differ in which sites they list with nothing."""
    return [share for share in shares if abs(share) > 1e-13]


ROOT = Path(__file__).parents[1]


def test_the_page_shows_this_engine() -> None:
    """Whoever changes the one changes the other."""
    page = (ROOT / "docs/engine-in-a-hundred-lines.md").read_text(encoding="utf-8")
    shown = "".join(re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    assert _lines(shown) == _lines((ROOT / "tests/oracle.py").read_text(encoding="utf-8"))


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line]


def test_the_example_of_the_page() -> None:
    """f(x) = 2·relu(3x − 1) + 5 at x = 1."""
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), (3, -1, 2, 5), strict=True):
            parameter.fill_(value)
    oracle = Oracle(model, torch.ones(1, 1))
    weights, shares = oracle.explain(oracle.scores()[0])
    assert (float(weights), list(shares.values())) == (6, [-2, 5])
