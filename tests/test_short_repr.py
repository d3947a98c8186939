"""Results show themselves in a few lines, however large their tensors are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from guidxmage import Explainer
from guidxmage.adversarial import CertifiedMinimum, attack
from guidxmage.analysis.integrated_gradients import integrated_gradients
from guidxmage.models import LoadedModel
from guidxmage.reports.short_repr import WIDTH, short_repr
from tests.networks import SMALL_NETWORKS

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    explainer = Explainer(SMALL_NETWORKS["overlapping_max_pool"]().double())
    explained = explainer.explain(IMAGES[0])
    batch = explainer.read_batch(IMAGES)
    stripes = np.arange(16 * 16).reshape(16, 16) // 4
    model = explained.symbolic_model
    history = tuple((n, 0.1, 0.2) for n in range(500))
    deep = nn.Sequential(*[nn.ReLU() for _ in range(99)])
    found: list[Any] = [
        explained,
        explainer.attribute(batch, ("top", 5)),
        model,
        model.network,
        model.replay(IMAGES),
        model.step_length(IMAGES[1] - IMAGES[0]),
        explained.trail,
        explained.trail["relu"],
        batch,
        attack(explainer, IMAGES, budget=8),
        CertifiedMinimum(
            IMAGES[0], "l2", 0.1, 0.2, False, 0.0, 0.3, 1, 2, 3, 4, 5, 6, 7, history, "time is up"
        ),
        explained.certificate(primes=1)[0],
        explained.regions(stripes),
        explained.objects(stripes),
        explained.validity_radius(),
        explained.panels()[0],
        integrated_gradients(explainer, IMAGES[0], sampled=True, pieces=20),
        LoadedModel(deep, "deep", None, tuple(f"class {n}" for n in range(1000)), "none"),
    ]
    return {type(one).__name__: one for one in found}


def test_results_show_themselves_on_less_than_a_screen(results: dict[str, Any]) -> None:
    assert len(results) == 18
    for name, result in results.items():
        lines = repr(result).splitlines()
        assert len(lines) <= 20, name
        assert max(map(len, lines)) <= WIDTH + 20, name
        assert "tensor(" not in repr(result), name
        assert " at 0x" not in repr(result), name


def test_what_they_show(results: dict[str, Any]) -> None:
    assert "weights=<3×16×16 float64>" in repr(results["SymbolicModel"])
    assert "trail=Trail(1 image(s), " in " ".join(repr(results["SymbolicModel"]).split())
    assert "success=[" in repr(results["AttackResult"])
    assert "… 496 more" in repr(results["CertifiedMinimum"])
    assert repr(results["Certificate"]).startswith("Certificate: certified: identity holds")
    assert "labels=<16×16 int32>" in repr(results["LabelMap"])
    table = repr(results["ObjectTable"]).splitlines()
    assert len(table) == 20  # of 64 objects, headings, what has no place and the score
    assert table[-2:] == ["… 48 more", str(results["ObjectTable"]).splitlines()[-1]]


@dataclass
class _Mixed:
    few: Tensor
    scalar: Tensor
    many: Any
    text: str
    names: dict[str, int]
    inner: Any
    hidden: int = field(default=3, repr=False)

    __repr__ = short_repr


def test_kinds_of_fields_by_hand() -> None:
    one = _Mixed(
        torch.tensor([1.0, 0.5]), torch.tensor(2), np.zeros((9, 9)), "a\nb", {"x": 1}, object()
    )
    assert repr(one) == (
        "_Mixed(few=[1, 0.5], scalar=2, many=<9×9 float64>, text='a\\nb', names={'x': 1}, "
        "inner=<object>)"
    )
    one.few, one.text, one.names = torch.zeros(9), "x" * 99, {str(n): n for n in range(6)}
    one.inner = _Mixed(**{**vars(one), "inner": None})
    shown = " ".join(repr(one).split())
    assert "few=<9 float32>" in shown
    assert f"text='{'x' * 69}'…" in shown
    assert "'3': 3, … 2 more}" in shown
    assert "inner=<_Mixed>" in shown
