"""Networks with masks, positions, order and what else users bring, explained as users do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guidxmage import Explainer, InputError, UnsupportedOperatorError
from guidxmage.adversarial import certify
from guidxmage.analysis.ray import trace_ray
from guidxmage.engine.calls.call import Call, Frame, Ref
from guidxmage.engine.program.precision import widened
from guidxmage.engine.rules import rule_of
from guidxmage.jobs.verify_result import verify
from guidxmage.proof.region.radius import validity_radius
from tests.brought import EXPANDED, ON_REGION, ONE_BY_ONE, Function
from tests.laws import close, explained_right, random_like
from tests.test_laws import IMAGE, Apply


def network(function: Function) -> nn.Module:
    """With a constant behind it, so that there is a bias to be split."""
    layers = [Apply(function), nn.Flatten(), Apply(lambda m, x: x + 1.0)]
    return nn.Sequential(*layers).double().eval()


@pytest.mark.parametrize("name", [*ON_REGION, *ONE_BY_ONE])
def test_in_the_region_the_model_is_the_networks_own(name: str) -> None:
    """All classes of a batch and of each image alone, by autograd's Jacobian."""
    model = network({**ON_REGION, **ONE_BY_ONE}[name])
    X = random_like((2, *IMAGE), 20)
    explained_right(model, X)
    assert Explainer(model).explain(X, 0).exactness == "on region"
    assert Explainer(model).network(X).program.batched == (name in ON_REGION)


@pytest.mark.parametrize("name", EXPANDED)
def test_without_a_rule_it_is_the_expansion_at_the_image(name: str) -> None:
    model, X = network(EXPANDED[name]), random_like((2, *IMAGE), 20)
    explained_right(model, X)
    assert Explainer(model).explain(X, 0).exactness == "at input"


def test_a_place_that_is_written_twice_is_counted_once() -> None:
    """PyTorch's own derivative counts it twice; a difference does not."""

    def overlapping(m: nn.Module, x: Tensor) -> Tensor:
        y, index = F.max_pool2d(x, 2, 1, return_indices=True)
        return F.max_unpool2d(y, index, 2, 1)

    model, x = network(overlapping), random_like((1, *IMAGE), 20)
    weights = Explainer(model).explain(x[0], target="all").weights
    step = 1e-7 * random_like(tuple(x.shape), 21)
    moved = (model(x + step) - model(x))[0]
    close((weights * step).flatten(1).sum(1), moved, 1e-7)


def test_what_is_detached_is_a_part_of_the_function() -> None:
    """A straight-through estimator changes the gradient, not what the network computes."""
    model = network(lambda m, x: x + (torch.round(4 * x) / 4 - x).detach())
    explanation = Explainer(model).explain(random_like(IMAGE, 20), target=0)
    assert float(explanation.weights.abs().max()) == 0
    assert float(explanation.residual.abs()) <= float(explanation.residual_bound)


def test_masks_are_kept_in_the_trail() -> None:
    """Another image follows the trail only where its masks are the same; files keep them."""
    model = network(lambda m, x: x * (x > 0) + torch.floor(x))
    explainer, X = Explainer(model), random_like((2, *IMAGE), 20)
    trail = explainer.trail(X)
    assert {entry.kind for entry in trail.values()} == {"bits", "real"}
    again = type(trail).from_arrays(trail.to_arrays())
    assert bool(again.same(trail).all())
    assert bool(trail.same(explainer.trail(X + 1e-9)).all())
    assert not bool(trail.same(explainer.trail(-X)).any())
    difference = trail.image(0).first_difference(explainer.trail(-X[0]))[0]
    assert difference is not None


def test_a_network_that_ends_in_steps_has_a_bias_alone() -> None:
    model = nn.Sequential(Apply(lambda m, x: torch.floor(x)), nn.Flatten()).double().eval()
    X = random_like((2, *IMAGE), 20)
    explanation = Explainer(model).explain(X, target=0)
    assert torch.equal(explanation.bias, model(X)[:, 0].double())
    assert float(explanation.weights.abs().max()) == 0


@pytest.mark.parametrize("dim", [0, 1])
def test_sorting_the_images_of_a_batch_is_refused(dim: int) -> None:
    model = network(lambda m, x: x.sort(dim=dim, stable=True).values)
    X = random_like((3, *IMAGE), 20)
    if dim:
        explained_right(model, X)
        return
    with pytest.raises(UnsupportedOperatorError, match="batch"):
        Explainer(model).explain(X, target=0)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda m, x: x.float().double(), "float32"),
        (lambda m, x: torch.fft.rfft2(x).abs(), "other than real"),
        (lambda m, x: torch.fft.fft2(x.to(torch.complex128)).real, "complex128"),
        (lambda m, x: torch.linalg.svdvals(x), "derivative"),
    ],
)
def test_what_cannot_be_explained_is_said_in_a_sentence(function: Function, words: str) -> None:
    with pytest.raises(UnsupportedOperatorError, match=words) as caught:
        Explainer(network(function)).explain(random_like(IMAGE, 20))
    assert len(str(caught.value)) < 300


class Recurrent(nn.Module):
    """The last state after the lines of an image."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x.reshape(len(x), 6, 18))[0][:, -1]
        return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (nn.RNN, {"nonlinearity": "relu"}),
        (nn.RNN, {}),
        (nn.LSTM, {"num_layers": 2}),
        (nn.LSTM, {"bidirectional": True}),
        (nn.GRU, {"bidirectional": True}),
    ],
)
def test_recurrent_networks(kind: type[nn.Module], options: Any, dtype: torch.dtype) -> None:
    """A network of ReLUs is piecewise linear; the gates of others follow the conventions."""
    X = random_like((2, *IMAGE), 20).to(dtype)
    torch.manual_seed(0)
    model = Recurrent(kind(18, 5, batch_first=True, **options)).to(dtype).eval()
    explanation = Explainer(model).explain(X, target="all")
    linear = options.get("nonlinearity") == "relu"
    assert explanation.exactness == ("on region" if linear else "at input")
    assert bool((explanation.residual.abs() <= explanation.residual_bound).all())
    if dtype == torch.float64 and linear:
        explained_right(model, X)
    if dtype == torch.float32 and kind is nn.LSTM:  # the layer is one operator there
        image = X[:1].clone()
        dense = torch.autograd.functional.jacobian(lambda z: model(z)[0], image)[:, 0]
        close(explanation.weights[0], dense, 1e-5)
        wide = widened(Explainer(model).network(X[:1]).program)
        close(wide.record(X[:1].double()).logits, model.double()(X[:1].double()).detach(), 1e-6)


def test_what_is_scattered_by_a_mask_mixes_the_images_of_a_batch() -> None:
    model = network(lambda m, x: x.masked_scatter(m.square > 0, x.flip(3) * 2))
    X = random_like((2, *IMAGE), 20)
    explained_right(model, X[:1])
    with pytest.raises(UnsupportedOperatorError, match="batch"):
        Explainer(model).explain(X, target=0)


def test_pools_of_powers_take_windows_of_zeros() -> None:
    """A root has no slope at 0: by the convention nothing flows there."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.LPPool2d(2, 2), nn.Flatten())
    model = model.double().eval()
    X = -random_like((2, *IMAGE), 20).abs() * 0.1
    explanation = Explainer(model).explain(X, target="all")
    assert bool((model(X) == 0).any())
    assert bool((explanation.residual.abs() <= explanation.residual_bound).all())


CHECKED: dict[str, Function] = {
    "mask": lambda m, x: x * (x > 0.1),
    "where": lambda m, x: torch.where(x > 0.5, x, 0.3 * x),
    "positions": lambda m, x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
    "order": lambda m, x: x.sort(3).values * m.square,
    "steps": lambda m, x: x + torch.round(3 * x),
    "expanded": lambda m, x: torch.cdist(x[:, 0], m.square),
    "branch": lambda m, x: x if x.mean() > 0 else -x,
    "powers": lambda m, x: F.lp_pool2d(x, 2, 2),
    "the larger of a mask": lambda m, x: torch.maximum(x, (x.flip(3) > 0).double()),
    "between steps": lambda m, x: x.clamp(x.round() - 0.2, x.round() + 0.1),
    "numbers of places": lambda m, x: x * (x.sort(1).indices + 1),
    "bytes as a mask": lambda m, x: torch.where((x > 0).byte(), x, -x),
    "nothing but steps": lambda m, x: (x > 0).double(),
    "kernel of a mask": lambda m, x: F.conv2d(
        x.reshape(1, -1, 6, 6),
        (x.mean((2, 3)) > 0).double().view(-1, 1, 1, 1),
        groups=3 * len(x),
    ).view(x.shape),
}
# Numbers of a whole batch: one image at a time.
WITHOUT_DIMENSIONS: dict[str, Function] = {
    "mean taken off": lambda m, x: x - x.mean(),
    "divided by the largest": lambda m, x: x / x.max(),
    "divided by the deviation": lambda m, x: x / x.std(),
    "mean above 0": lambda m, x: torch.where(x.mean() > 0, x, -x),
    "half of the largest": lambda m, x: x * (x > x.max() / 2),
    "at most the mean": lambda m, x: x.clamp(max=x.mean()),
    "times the mean": lambda m, x: x * x.mean(),
    "gated by the mean": lambda m, x: x * x.mean().sigmoid(),
}


@pytest.mark.parametrize("name", CHECKED)
def test_such_explanations_are_certified_and_verified(name: str, tmp_path: Path) -> None:
    """Alone and out of a batch; what has no counterpart modulo primes is said, not passed over."""
    model = network(CHECKED[name])
    explainer, X = Explainer(model), random_like((2, *IMAGE), 20)
    assert all(one.holds for one in explainer.explain(X, 0).certificate())
    explainer.explain(X[0], 0).save(tmp_path / "result")
    found = verify(tmp_path / "result", explainer)
    assert found.passed, [check for check in found.checks if check.passed is False]


@pytest.mark.parametrize("name", WITHOUT_DIMENSIONS)
def test_numbers_without_dimensions(name: str, tmp_path: Path) -> None:
    explainer = Explainer(network(WITHOUT_DIMENSIONS[name]))
    explanation = explainer.explain(random_like(IMAGE, 20), target=0)
    assert bool((explanation.residual.abs() <= explanation.residual_bound).all())
    assert all(one.holds for one in explanation.certificate())
    assert bool(explanation.trail.same(explanation.trail).all())
    explanation.save(tmp_path / "result")
    assert verify(tmp_path / "result", explainer).passed


def test_a_forged_mask_is_noticed(tmp_path: Path) -> None:
    explainer = Explainer(network(CHECKED["mask"]))
    explanation = explainer.explain(random_like(IMAGE, 20), target=0)
    (site,) = explanation.trail
    plane = explanation.trail[site].planes[0].clone()
    plane.view(-1)[0] ^= 1
    forged = replace(
        explanation.trail, decisions={site: explanation.trail[site].with_planes((plane,))}
    )
    replace(explanation, trail=forged).save(tmp_path / "result")
    assert not verify(tmp_path / "result", explainer).passed


@pytest.mark.parametrize("targets", ["all", [0, 1]])
def test_several_targets_beside_values_that_are_kept(targets: Any) -> None:
    for name in ("the larger of a mask", "between steps"):
        model, X = network(CHECKED[name]), random_like((2, *IMAGE), 20)
        together = Explainer(model).explain(X, target=targets)
        assert bool((together.residual.abs() <= together.residual_bound).all())


def test_a_weight_from_the_image_for_a_mask() -> None:
    def product(m: nn.Module, x: Tensor) -> Tensor:
        means = x.mean((2, 3))
        return F.linear((means > 0).double(), means.t() @ means)

    explanation = Explainer(network(product)).explain(random_like(IMAGE, 20), target="all")
    assert explanation.exactness == "at input"
    assert bool((explanation.residual.abs() <= explanation.residual_bound).all())


@pytest.mark.parametrize("name", ["mask", "where", "steps", "positions", "order", "shrunk"])
def test_nothing_is_said_of_regions_where_a_mask_may_jump(name: str) -> None:
    """Where a mask, a position or an order changes along a line is not known."""
    model = network(CHECKED.get(name, lambda m, x: F.hardshrink(x, 0.3)))
    explainer, X = Explainer(model), random_like((2, *IMAGE), 20)
    explanation = explainer.explain(X[0], 0)
    for ask in (
        lambda: trace_ray(explainer, X[0], X[1]),
        lambda: explanation.symbolic_model.step_length(X[1]),
        lambda: validity_radius(explanation),
        lambda: certify(model, X[:1].sigmoid()),
    ):
        with pytest.raises(UnsupportedOperatorError):
            ask()


def test_a_mask_of_infinities_may_be_kept_as_buffer() -> None:
    def attended(m: nn.Module, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x, attn_mask=m.causal)

    layer = Apply(attended)
    layer.register_buffer("causal", torch.full((6, 6), -torch.inf).triu(1))
    model = nn.Sequential(layer, nn.Flatten()).double().eval()
    explanation = Explainer(model).explain(random_like((2, *IMAGE), 20), target="all")
    assert bool((explanation.residual.abs() <= explanation.residual_bound).all())
    layer.causal[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"NaN or Inf in '0.causal'"):
        Explainer(model).explain(random_like((2, *IMAGE), 20))


def test_another_image_does_not_follow_the_numbers_of_a_smooth_network() -> None:
    explainer, X = Explainer(network(EXPANDED["distances"])), random_like((1, *IMAGE), 20)
    assert not bool(explainer.trail(X).same(explainer.trail(X + 1)).any())


def test_an_expansion_is_pulled_in_the_layout_that_derivatives_read() -> None:
    """PyTorch's derivative of this operator misreads a gradient with its channels last."""
    x, g = random_like((1, *IMAGE), 20), random_like((1, *IMAGE), 21)
    mean, variance = random_like((3,), 22), random_like((3,), 23).square() + 0.1
    args = (Ref(0), None, None, mean, variance, False, 0.1, 1e-5, False)
    target = torch.ops.aten.instance_norm.default
    call = Call(1, "aten.instance_norm.default", target, args, "norm", (1, *IMAGE))
    rule = rule_of(call)
    assert rule is not None
    assert rule.record is not None
    frame = Frame(call, 1, (1, *IMAGE), {})
    _, gates = rule.record(frame, x, *args[1:])
    (pulled,) = rule.pull(
        replace(frame, gates=gates), g.contiguous(memory_format=torch.channels_last)
    )
    close(pulled, g / (variance.view(1, 3, 1, 1) + 1e-5).sqrt())
