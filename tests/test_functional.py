"""Graphs that are read as they were exported say the same as those that are traced once more."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from guidxmage.engine import capture as captures
from guidxmage.engine.capture import capture
from guidxmage.engine.functional import is_plain
from guidxmage.errors import InputError
from tests.laws import random_like


class Residual(nn.Module):
    """Adds in place and then applies an activation in place, as torchvision's networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu_(self.stem(x))
        out = self.norm(self.conv(x))
        out += x
        return functional.dropout(functional.relu_(out).flatten(1), training=False)


class ReadsWhatWasWritten(Residual):
    """Reads a value by its first name after two operators have written over it."""

    def forward(self, x: Tensor) -> Tensor:
        first = self.stem(x)
        second = first.add_(1)
        functional.hardtanh_(second, -0.5, 0.5)
        return (first * 2 + second).flatten(1)


class WritesUnderView(Residual):
    """Writes over a value of which there is a view already."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.stem(x)
        view = out.flatten(1)
        functional.relu_(out)
        return view


class WritesOverView(Residual):
    """Writes over half of a value."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.stem(x)
        left, right = out.chunk(2, 1)
        functional.relu_(left)
        return (out.sum(1) + right.sum(1)).flatten(1)


class WritesOverImage(Residual):
    """Writes over what it was given."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu_(x - 0.5).flatten(1) + functional.relu_(x).flatten(1)


def built(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    module = kind().double().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


@pytest.mark.parametrize(
    ("kind", "plain"),
    [
        (Residual, True),
        (ReadsWhatWasWritten, True),
        (WritesUnderView, False),
        (WritesOverView, False),
    ],
)
def test_either_way(kind: type[nn.Module], plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = built(kind), random_like((3, 2, 5, 5), 1)
    answers: list[bool] = []
    monkeypatch.setattr(
        captures, "is_plain", lambda graph: (answers.append(is_plain(graph)), answers[-1])[1]
    )
    quick = capture(module, (2, 5, 5))
    assert answers == [plain]
    monkeypatch.setattr(captures, "is_plain", lambda graph: False)
    traced = capture(module, (2, 5, 5))
    with torch.no_grad():
        expected = module(x.clone())
    u = random_like(tuple(expected.shape), 2)
    pulled = []
    for program in (quick, traced):
        recording = program.record(x.clone())
        assert torch.equal(recording.logits, expected)
        pulled.append(program.pull(recording.trail, u))
    assert torch.equal(pulled[0].weights, pulled[1].weights)
    assert len(quick.calls) == len(traced.calls)
    assert list(quick.record(x).trail) == list(traced.record(x).trail)


def test_a_written_image_is_left_to_the_tracer() -> None:
    """It is no affair of a network to change what it was given; the answer is as it was."""
    module = built(WritesOverImage)
    with torch.no_grad():
        exported = torch.export.export(module, (torch.zeros(2, 2, 5, 5).double(),), strict=False)
    assert not is_plain(exported.graph)


def test_a_batch_norm_in_training_is_left_to_the_tracer() -> None:
    class Trained(Residual):
        def forward(self, x: Tensor) -> Tensor:
            norm = self.norm
            x = self.stem(x)
            return functional.batch_norm(
                x, norm.running_mean, norm.running_var, training=True
            ).flatten(1)

    with pytest.raises(InputError, match="changes its buffer"):
        capture(built(Trained), (2, 5, 5))


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5", "mnasnet0_5", "densenet121"])
def test_the_usual_networks_are_read_as_they_are(name: str) -> None:
    from guidxmage.models.torchvision_import import import_torchvision

    model = getattr(import_torchvision().models, name)(weights=None).eval()
    example = torch.zeros(2, 3, 64, 64)
    with torch.no_grad():
        exported = torch.export.export(
            model, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False
        )
    assert is_plain(exported.graph)
