"""Networks with several input tensors: everything adds up, in and out as tuples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from guidxmage import Explainer, Explanation, InputError, OffTrailError, Preprocessing
from guidxmage.explanation import JointExplanation
from guidxmage.inputs.multi_input import packed, unpacked
from tests.laws import close, random_like


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.line = nn.Conv2d(2, 4, 3), nn.Linear(5, 4)
        self.pool, self.head = nn.MaxPool2d(3, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        seen = self.pool(self.conv(x).relu()).mean((2, 3))
        return self.head(torch.maximum(seen, self.line(y)).relu() + seen)


@pytest.fixture
def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Pair().double().eval()


X, Y = random_like((4, 2, 7, 6), 1), random_like((4, 5), 2)


def test_both_inputs_and_the_bias_add_up_to_the_score(model: nn.Module) -> None:
    explained = Explainer(model).explain((X, Y), "all")
    assert isinstance(explained, JointExplanation)
    assert [tuple(w.shape) for w in explained.weights] == [(4, 3, 2, 7, 6), (4, 3, 5)]
    assert torch.equal(explained.logits, model(X, Y).detach())
    assert all(torch.equal(a, b) for a, b in zip(explained.input, (X, Y), strict=True))
    close(sum(explained.sums) + explained.bias, explained.logits, 1e-12)
    assert bool((explained.residual.abs() <= explained.residual_bound).all())
    close(sum(explained.bias_by_layer.values()), explained.bias)
    close(explained.contributions[0], explained.weights[0] * X[:, None])


def test_weights_are_the_gradients(model: nn.Module) -> None:
    explained = Explainer(model).explain((X, Y), [2, 0, 1, 1])
    x, y = X.clone().requires_grad_(), Y.clone().requires_grad_()
    score = model(x, y)[torch.arange(4), [2, 0, 1, 1]].sum()
    for ours, theirs in zip(explained.weights, torch.autograd.grad(score, (x, y)), strict=True):
        close(ours, theirs)


def test_the_symbolic_model_takes_tuples(model: nn.Module) -> None:
    explained = Explainer(model).explain((X, Y), 1)
    f = explained.symbolic_model
    close(f((X, Y)), explained.score)
    near = (X * (1 + 1e-9), Y * (1 - 1e-9))
    assert bool(f.follows(near).all())
    close(f(near), model(*near)[:, 1].detach())
    far = (X + 3, Y)
    with pytest.raises(OffTrailError):
        f(far)
    close(f.replay(far).network_score, model(*far)[:, 1].detach())
    by_hand = (f.weights[0] * far[0]).flatten(1).sum(1) + (f.weights[1] * far[1]).sum(1) + f.bias
    close(f(far, check=False), by_hand)
    step = f.step_length((torch.ones_like(X), torch.zeros_like(Y)))[0].length
    for share, follows in ((0.999, True), (1.001, False)):
        moved = (X + share * step, Y)
        assert bool(f.follows(moved)[0]) is follows
    for wrong in (X, (X,), (Y, X)):
        with pytest.raises(InputError):
            f(wrong)


def test_rows_and_targets(model: nn.Module) -> None:
    explained = Explainer(model).explain((X, Y), ("classes", [2, 0]))
    assert len(explained) == 4
    one = explained[1][0]
    alone = Explainer(model).explain((X[1:2], Y[1:2]), 2)
    for a, b in zip(one.weights, alone.weights, strict=True):
        assert torch.allclose(a, b[0], rtol=1e-10, atol=1e-14)
    assert one.weights[0].shape == (2, 7, 6)
    close(one.symbolic_model((X[1:2], Y[1:2])), one.score)
    assert "2×7×6 and 5" in repr(one)


def test_references(model: nn.Module) -> None:
    explainer = Explainer(model)
    plain = explainer.explain((X, Y), 0)
    moved = explainer.explain((X, Y), 0, reference=(0.5, Y[:1]))
    close(moved.contributions[0], plain.weights[0] * (X - 0.5))
    close(moved.contributions[1], plain.weights[1] * (Y - Y[:1]))
    close(sum(moved.sums) + moved.bias, moved.score)
    for wrong in ((0.5,), (0.5, X)):
        with pytest.raises(InputError, match="reference"):
            explainer.explain((X, Y), 0, reference=wrong)


def test_saved_and_read_again(model: nn.Module, tmp_path: Path) -> None:
    explainer = Explainer(model)
    explained = explainer.explain((X, Y), 1)
    explained.save(tmp_path / "joint")
    read = JointExplanation.load(tmp_path / "joint", explainer)
    assert all(torch.equal(a, b) for a, b in zip(read.weights, explained.weights, strict=True))
    assert torch.equal(read.residual, explained.residual)
    assert bool(read.symbolic_model.follows((X, Y)).all())
    with pytest.raises(InputError, match="joint-explanation"):
        Explanation.load(tmp_path / "joint")
    single = nn.Sequential(nn.Flatten(), nn.Linear(84, 3)).double().eval()
    Explainer(single).explain(X, 0).save(tmp_path / "single")
    with pytest.raises(InputError, match="holds 'guid-xmage/explanation"):
        JointExplanation.load(tmp_path / "single")


def test_what_makes_no_sense_is_refused(model: nn.Module) -> None:
    explainer = Explainer(model)
    explained = explainer.explain((X, Y), 1)
    for name in ("figure", "objects", "picture"):
        with pytest.raises(InputError, match=f"{name} is for one image"):
            getattr(explained, name)()
    with pytest.raises(AttributeError, match="no attribute 'wieghts'"):
        _ = explained.wieghts
    calls: list[Any] = [
        lambda: explainer.explain((X, Y[:2])),
        lambda: explainer.explain((X, "cat.jpg")),
        lambda: explainer.explain((X, Y), space="photo"),
        lambda: explainer.logits((X, Y)),
        lambda: explainer.explain([X, Y]),
        lambda: Explainer(model, preprocessing=Preprocessing()).explain((X, Y)),
    ]
    for call in calls:
        with pytest.raises(InputError) as error:
            call()
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"for explain\(\) alone"):
        explainer.trail((X, Y))


def test_a_model_with_one_input_is_not_affected() -> None:
    single = nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(40, 3))
    single = single.double().eval()
    explained = Explainer(single).explain(X, 0)
    assert type(explained) is Explanation
    assert list(explained.bias_by_layer) == ["0", "3"]
    (weights,) = Explainer(single).explain((X,), 0).weights
    assert torch.equal(weights, explained.weights)


def test_training_mode_is_noticed_after_the_capture(model: nn.Module) -> None:
    explainer = Explainer(model)
    explainer.explain((X, Y))
    model.train()
    with pytest.raises(InputError, match="training mode"):
        explainer.explain((X, Y))


def test_packing() -> None:
    assert all(
        torch.equal(a, b)
        for a, b in zip(unpacked(packed((X, Y)), ((2, 7, 6), (5,))), (X, Y), strict=True)
    )
