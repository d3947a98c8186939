"""Smooth operators at their edges: rows of a batch, masks that hide everything, no epsilon."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guidxmage.engine.capture.capture import capture
from guidxmage.engine.trail.gates import CONVENTIONS
from guidxmage.errors import UnsupportedOperatorError
from guidxmage.models import load_model
from tests.laws import check_jacobian, check_push, close, random_like

IMAGE = (4, 4, 4)


class Apply(nn.Module):
    """A function of the image, flattened to scores, in float64."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("_float64", torch.zeros(0, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x).flatten(1)


ALONG_THE_BATCH: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda x: x.softmax(0),
    "log_softmax": lambda x: x.log_softmax(-4),
    "flip": lambda x: x.flip(0),
    "roll": lambda x: x.roll(1, 0),
    "roll of everything": lambda x: x.roll(1),
    "attention": lambda x: F.scaled_dot_product_attention(*[x.flatten(1)] * 3),
}


@pytest.mark.parametrize("name", ALONG_THE_BATCH)
def test_what_runs_along_the_batch_is_never_run_on_a_batch(name: str) -> None:
    """Its shapes look as if images stayed apart: it is refused, or captured for single images."""
    try:
        program = capture(Apply(ALONG_THE_BATCH[name]).eval(), IMAGE)
    except UnsupportedOperatorError:
        return
    assert not program.batched


@pytest.mark.parametrize("function", [lambda x: x.softmax(1), lambda x: x.flip((1, -1))])
def test_the_same_operators_within_an_image_run_on_batches(
    function: Callable[[Tensor], Tensor],
) -> None:
    assert capture(Apply(function).eval(), IMAGE).batched


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_token_that_may_look_at_nothing(convention: str) -> None:
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[1] = False
    module = Apply(lambda x: F.scaled_dot_product_attention(x, x.flip(1), x, attn_mask=mask))
    program, x = capture(module.eval(), IMAGE, convention), random_like((2, *IMAGE), 3)
    recording = program.record(x)
    check_push(program, recording, x, 0)
    pulled = program.pull(recording.trail, torch.ones_like(recording.logits))
    assert bool(torch.isfinite(pulled.weights).all())
    if convention == "tangent":
        check_jacobian(module, program, recording, x)


def test_rms_norm_without_epsilon() -> None:
    """1e-9 is far from the default epsilon's root: with eps = 0 the size of x does not matter."""
    program = capture(Apply(lambda x: F.rms_norm(x, (4,), eps=0.0)).eval(), IMAGE)
    x = random_like((2, *IMAGE), 4) * 1e-9
    recording = program.record(x)
    close(program.push(recording.trail, x, affine=True), recording.logits)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_b0"])
def test_the_sum_closes_where_the_image_reaches_the_score(name: str, convention: str) -> None:
    """Relative to the pixels' own sum: with plain random weights it would be 1e-11 of the score,
    and a wrong sum would not be noticed; with calibrated batch-norm statistics it is."""
    program = capture(load_model(name, weights="none").model.double(), (3, 64, 64), convention)
    x = random_like((1, 3, 64, 64), 5)
    recording = program.record(x)
    cotangent = torch.zeros_like(recording.logits)
    cotangent[:, 0] = 1
    pulled = program.pull(recording.trail, cotangent)
    pixels = float((pulled.weights * x).sum())
    bias = float(sum(pulled.bias_by_site.values(), torch.zeros(1)))
    assert abs(float(recording.logits[0, 0]) - pixels - bias) <= 1e-10 * abs(pixels)
