"""Inputs that are no colour photos: one channel, many, lines, videos and volumes, of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from guidxmage import Explainer, Explanation, InputError, Preprocessing
from tests.laws import close, random_like

SHAPES = {
    "grey": (1, 20, 31),
    "two bands": (2, 9, 14),
    "six bands": (6, 13, 8),
    "line": (4, 50),
    "video": (3, 5, 12, 17),
    "volume": (1, 4, 9, 11),
}


def network(shape: tuple[int, ...]) -> nn.Module:
    d = len(shape) - 2
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[d]
    back = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[d]
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[d]
    pool = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[d]
    average = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[d]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [convolution(shape[0], 4, 3, padding=1), norm(4), nn.ReLU(), pool(3, 2, 1)]
        layers += [back(4, 3, 2, 2), nn.ReLU(), average(1), nn.Flatten(), nn.Linear(3, 3)]
        return nn.Sequential(*layers).double().eval()


@pytest.mark.parametrize("name", SHAPES)
def test_everything_adds_up_alone_and_in_a_batch(name: str, tmp_path: Path) -> None:
    shape = SHAPES[name]
    X, explainer = random_like((2, *shape), 1), Explainer(network(shape))
    explained = explainer.explain(X, "all")
    assert explained.contributions.shape == (2, 3, *shape)
    close(explained.contributions.flatten(2).sum(2) + explained.bias, explained.logits)
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(shape)(x)[:, 1].sum(), x)
    close(explained.weights[:, 1], gradient)
    alone = explainer.explain(X[0], 1)
    close(alone.weights, explained.weights[0, 1], 1e-10)
    alone.save(tmp_path / "saved")
    read = Explanation.load(tmp_path / "saved", explainer)
    assert torch.equal(read.contributions, alone.contributions)
    assert bool(read.symbolic_model.follows(X[0]))


@pytest.mark.parametrize("name", SHAPES)
def test_what_can_be_drawn_is_drawn(name: str) -> None:
    pytest.importorskip("matplotlib")
    shape = SHAPES[name]
    explained = Explainer(network(shape)).explain(random_like(shape, 1), 1)
    (panel,) = explained.panels()
    assert panel.pixels().shape == shape[-2:]
    total = float(explained.contributions.sum())
    assert panel.pixel_sum() == pytest.approx(total, rel=1e-10)
    words = " ".join(text.get_text() for text in explained.figure().texts)
    assert "×".join(map(str, shape)) in words
    assert ("sums over" in words) is (len(shape) == 4)


def test_maps_of_a_video_are_sums_over_channels_and_frames() -> None:
    shape = SHAPES["video"]
    explained = Explainer(network(shape)).explain(random_like(shape, 1), 1)
    (panel,) = explained.panels()
    assert np.allclose(panel.pixels(), explained.contributions.sum((0, 1)), rtol=1e-12)
    assert explained.pixel_contributions().shape == shape[1:]
    left = np.zeros(shape[-2:], dtype=int)
    left[:, :5] = 1
    table = explained.objects(left)
    assert sum(row.sum for row in table) == pytest.approx(table.total)
    sums = sorted(row.sum for row in table)
    by_hand = [explained.contributions[..., :5].sum(), explained.contributions[..., 5:].sum()]
    assert sums == pytest.approx(sorted(map(float, by_hand)))


def test_a_vector_is_refused_in_one_sentence() -> None:
    linear = nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)
    )
    with pytest.raises(InputError, match="no image") as error:
        Explainer(linear.eval()).explain(torch.rand(6))
    assert "\n" not in str(error.value)


def test_bands_with_a_known_normalisation_are_explained_as_pixels() -> None:
    shape = SHAPES["six bands"]
    known = Preprocessing(mean=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6), std=(0.5,) * 6)
    explainer = Explainer(network(shape), preprocessing=known)
    X = random_like(shape, 1).abs().clamp(max=1)
    explained = explainer.explain(X, "all")
    assert explainer.space == "pixels"
    close(explained.contributions.flatten(1).sum(1) + explained.bias, explained.score)
    close(explained.logits, network(shape)(known.from_pixels(X)[None])[0].detach())
    with pytest.raises(InputError, match=r"6 channels and photos have 1 or 3"):
        explainer.explain(np.zeros((13, 8, 3), dtype=np.uint8))


def test_a_conv1d_over_channels_does_not_make_images_lines() -> None:
    """Efficient channel attention beside convolutions of a class of their own."""

    class Scaled(nn.Conv2d):
        pass

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = Scaled(3, 4, 3)
            self.mix = nn.Conv1d(1, 1, 3, padding=1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            gates = self.mix(y.mean((2, 3))[:, None])[:, 0].sigmoid()
            return (y * gates[:, :, None, None]).mean((2, 3))

    explained = Explainer(Attention().eval()).explain(torch.rand(3, 8, 8))
    assert explained.weights.shape == (3, 8, 8)
