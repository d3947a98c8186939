"""How much memory runs take is foreseen, and kept within what is allowed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from guidxmage import Explainer, InputError
from guidxmage.engine.capture.capture import capture
from guidxmage.engine.program.footprint import read_budget, row_bytes, rows_within
from tests.laws import random_like


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)]
    return nn.Sequential(*layers).double().eval()


def test_the_bytes_of_a_row_by_hand() -> None:
    """At once: the conv's 4·8·8 outputs and its input's 3·8·8, or the two sides of the ReLU."""
    program = capture(network(), (3, 8, 8))
    assert row_bytes(program) == 5 * 8 * 2 * 256


def test_a_sum_keeps_both_sides_alive() -> None:
    class Block(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x + (x.relu() * 2).relu()).flatten(1)

    program = capture(Block().double().eval(), (3, 8, 8))
    assert row_bytes(program) == 5 * 4 * 3 * 192  # without weights the default dtype is captured


def test_rows_within_a_budget() -> None:
    program = capture(network(), (3, 8, 8))
    one = row_bytes(program)
    assert [rows_within(program, budget, 32) for budget in (1, one, 3 * one + 1, 10**12)] == [
        1, 1, 3, 32,
    ]  # fmt: skip


def test_budgets_as_text() -> None:
    assert read_budget("2 GiB") == 2 * 2**30
    assert read_budget("1.5mb") == 1_500_000
    assert read_budget(4096) == read_budget("4096") == 4096
    for wrong in ("", "much", "2 parsecs", "-1 GiB", 0, -5):
        with pytest.raises(InputError, match="memory_budget is"):
            read_budget(wrong)


def test_a_small_budget_changes_nothing_but_the_grouping() -> None:
    images = random_like((5, 3, 8, 8), 1)
    free, tight = Explainer(network()), Explainer(network(), memory_budget=1)
    runs: list[int] = []
    program = tight.network((3, 8, 8)).program
    record = type(program).record
    own = free.explain(images, target=("classes", [0, 3]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            type(program), "record", lambda p, X, **kw: (runs.append(len(X)), record(p, X, **kw))[1]
        )
        other = tight.explain(images, target=("classes", [0, 3]))
    assert set(runs) == {1}
    for name in ("logits", "weights", "bias", "residual_bound"):
        assert torch.allclose(getattr(own, name), getattr(other, name), rtol=1e-11, atol=1e-14)
    assert bool(own.trail.same(other.trail).all())
