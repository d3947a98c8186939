"""Smooth operators: affine under the recorded numbers, and equal to the operator at the image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guidxmage import Explainer, InputError, OffTrailError, UnsupportedOperatorError
from guidxmage.engine.capture.capture import capture
from guidxmage.engine.program.program import Program
from guidxmage.engine.rules import PRODUCTS, RULES
from guidxmage.engine.trail.gates import CONVENTIONS, conventions
from guidxmage.engine.trail.trail import Trail
from guidxmage.models.torchvision_import import import_torchvision
from tests.brought import SMOOTH
from tests.laws import (
    check_adjoint,
    check_bias,
    check_jacobian,
    check_plain,
    check_push,
    check_rows,
    close,
    random_like,
)


class Apply(nn.Module):
    """A function of the image, flattened to scores."""

    def __init__(self, function: Callable[..., Tensor], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.function, self.layer = function, layer
        self.register_buffer("w", random_like((4, 4), 3))
        self.register_buffer("kept", torch.ones(4, 4, dtype=torch.bool).tril())

    def forward(self, x: Tensor) -> Tensor:
        return (self.layer(x) if self.layer else self.function(self, x)).flatten(1)


def of(function: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    return Apply(function)


def norm(layer: nn.Module) -> nn.Module:
    layer = layer.double()
    for number, parameter in enumerate(layer.parameters()):
        parameter.data = random_like(tuple(parameter.shape), number + 5)
    return Apply(lambda m, x: x, layer)


CASES: dict[str, nn.Module] = {
    "heads that share keys and values": of(
        lambda m, x: F.scaled_dot_product_attention(x, x[:, :1] * 2, x[:, 1:2])
    ),
    "silu": of(lambda m, x: F.silu(x)),
    "gelu": of(lambda m, x: F.gelu(x)),
    "gelu tanh": of(lambda m, x: F.gelu(x, approximate="tanh")),
    "hardswish": of(lambda m, x: F.hardswish(x)),
    "mish": of(lambda m, x: F.mish(x)),
    "elu": of(lambda m, x: F.elu(x, 0.7)),
    "selu": of(lambda m, x: F.selu(x)),
    "celu": of(lambda m, x: F.celu(x, 1.3)),
    "softplus": of(lambda m, x: F.softplus(x, 2)),
    "sigmoid": of(lambda m, x: x.sigmoid()),
    "tanh": of(lambda m, x: x.tanh()),
    "log_sigmoid": of(lambda m, x: F.logsigmoid(x)),
    "exp": of(lambda m, x: x.exp()),
    "expm1": of(lambda m, x: x.expm1()),
    "sin": of(lambda m, x: x.sin()),
    "cos": of(lambda m, x: x.cos()),
    "erf": of(lambda m, x: x.erf()),
    "atan": of(lambda m, x: x.atan()),
    "square": of(lambda m, x: x.square()),
    "sqrt": of(lambda m, x: (x.abs() + 1).sqrt()),
    "log": of(lambda m, x: (x.abs() + 1).log()),
    "log1p": of(lambda m, x: x.abs().log1p()),
    "log2": of(lambda m, x: (x.abs() + 1).log2()),
    "rsqrt": of(lambda m, x: (x.abs() + 1).rsqrt()),
    "reciprocal": of(lambda m, x: (x.abs() + 1).reciprocal()),
    "power": of(lambda m, x: (x.abs() + 1) ** 2.5),
    "softmax": of(lambda m, x: x.softmax(1)),
    "log_softmax": of(lambda m, x: x.log_softmax(-1)),
    "logsumexp": of(lambda m, x: x.logsumexp((2, 3))),
    "variance": of(lambda m, x: x.var((2, 3), correction=0)),
    "deviation": of(lambda m, x: x.std(1, correction=1)),
    "norm": of(lambda m, x: torch.linalg.vector_norm(x, dim=1, keepdim=True)),
    "product of many": of(lambda m, x: x.prod(1)),
    "layer_norm": norm(nn.LayerNorm(4)),
    "layer_norm of two": norm(nn.LayerNorm((4, 4))),
    "layer_norm bare": of(lambda m, x: F.layer_norm(x, (4,))),
    "group_norm": norm(nn.GroupNorm(2, 4)),
    "instance_norm": norm(nn.InstanceNorm2d(4, affine=True)),
    "rms_norm": norm(nn.RMSNorm(4)),
    "square by itself": of(lambda m, x: x * x),
    "product": of(lambda m, x: x * (2 * x + 1)),
    "gated": of(lambda m, x: x * x.sigmoid()),
    "gate first": of(lambda m, x: x.mean((2, 3), keepdim=True).sigmoid() * x),
    "small factor": of(lambda m, x: x * x.mean((2, 3), keepdim=True)),
    "quotient": of(lambda m, x: x / (x.abs().sum(1, keepdim=True) + 1)),
    "constant over": of(lambda m, x: 2 / (x.abs() + 1)),
    "tensor over": of(lambda m, x: m.w / (x.abs() + 1)),
    "matmul": of(lambda m, x: x @ (2 * x).transpose(2, 3)),
    "bmm": of(lambda m, x: torch.bmm(x[:, 0], x[:, 1])),
    "bmm constant": of(lambda m, x: torch.bmm(x[:, 0], m.w.expand(x.shape[0], 4, 4))),
    "einsum": of(lambda m, x: torch.einsum("bcij,bcjk->bik", x, 3 * x)),
    "einsum constant": of(lambda m, x: torch.einsum("bcij,jk->bcik", x, m.w)),
    "attention by hand": of(lambda m, x: (x @ x.transpose(2, 3)).softmax(-1) @ (x + 1)),
    "attention": of(lambda m, x: F.scaled_dot_product_attention(x, 2 * x + 1, x - 1)),
    "attention masked": of(
        lambda m, x: F.scaled_dot_product_attention(x, x.flip(1), x, attn_mask=m.kept)
    ),
    "attention biased": of(
        lambda m, x: F.scaled_dot_product_attention(x, x.flip(1), x, attn_mask=m.w, scale=0.3)
    ),
    "attention causal": of(
        lambda m, x: F.scaled_dot_product_attention(x, x.flip(1), x, is_causal=True)
    ),
    "mask of every image": of(
        lambda m, x: F.scaled_dot_product_attention(
            x, x.flip(1), x, attn_mask=m.kept.expand(x.shape[0], 1, 4, 4)
        )
    ),
    "windows": of(
        lambda m, x: F.gelu(F.layer_norm(x.reshape(-1, 2, 2, 4).sin(), (4,))).reshape(
            x.shape[0], -1
        )
    ),
    "decisions in windows": of(lambda m, x: x.reshape(-1, 4).relu().reshape(x.shape[0], -1)),
    "hardsigmoid": of(lambda m, x: F.hardsigmoid(3 * x)),
}
OTHER_SPELLINGS = {
    "aten._softmax.default", "aten._log_softmax.default", "aten.mm.default",
    "aten.norm.ScalarOpt_dim", "aten.prod.dim_int", "aten.instance_norm.default",
    # Run one by one: see test_brought.py.
    "aten._cdist_forward.default", "aten.mkldnn_rnn_layer.default",
}  # fmt: skip
CASES |= {
    name: of(lambda m, x, f=function: f(m, x.abs() + 0.3)) for name, function in SMOOTH.items()
}
IMAGE = (4, 4, 4)


def program_of(name: str, convention: str) -> Program:
    module = CASES[name].double().eval()
    return capture(module, IMAGE, convention)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("name", CASES)
def test_laws(name: str, convention: str) -> None:
    program, module = program_of(name, convention), CASES[name]
    x = random_like((2, *IMAGE), 1)
    recording = program.record(x)
    assert torch.equal(recording.logits, module(x)), "not bit-equal"
    check_push(program, recording, x, 0)
    check_adjoint(program, recording, x, 0)
    check_bias(program, recording, x, 0)
    check_rows(program, recording, x, 0)
    check_plain(program, x, 0)
    # PyTorch's derivative of hardsigmoid has 1/6 in single precision.
    if convention == "tangent" and name != "hardsigmoid":
        check_jacobian(module, program, recording, x)


def test_every_smooth_rule_is_reached() -> None:
    calls = [call for name in CASES for call in program_of(name, "secant").calls]
    reached = {call.op for call in calls}
    smooth = {name for name, rule in RULES.items() if rule.kind == "gate"}
    assert not smooth - reached - OTHER_SPELLINGS
    twice = {call.op for call in calls if len(call.inputs) > 1 or ".div." in call.op}
    products = {name for name, rule in PRODUCTS.items() if rule.kind == "gate"}
    assert not products - twice - OTHER_SPELLINGS


# --- the secants by hand -------------------------------------------------------------------------


def weights(function: Callable[[Any, Tensor], Tensor], x: Tensor, **options: Any) -> Tensor:
    return Explainer(of(function).double().eval(), **options).explain(x, target=0).weights


def test_secants_by_hand() -> None:
    x = torch.tensor([[[2.0]]], dtype=torch.float64)
    close(weights(lambda m, x: F.silu(x), x), x.sigmoid())
    close(weights(lambda m, x: x * x, x), x)
    close(weights(lambda m, x: x.exp(), x), (x.exp() - 1) / x)
    close(weights(lambda m, x: x * x, x, gates="tangent"), 2 * x)
    zero = torch.zeros(1, 1, 1, dtype=torch.float64)
    close(weights(lambda m, x: F.gelu(x), zero), zero + 0.5)
    close(weights(lambda m, x: x.sigmoid(), zero + 1e-12), zero + 0.25)


def test_what_is_frozen() -> None:
    """The gate, the statistics, the attention; of equals each has half."""
    x = random_like((4, 2, 3), 2)
    found = weights(lambda m, x: x * x.mean((2, 3), keepdim=True).sigmoid(), x)
    close(found[0, 0, 0], x[0].mean().sigmoid())
    both = weights(lambda m, x: x[:, 0] * x[:, 1], x)
    close(both[0, 0, 0], x[1, 0, 0] / 2)
    close(both[1, 0, 0], x[0, 0, 0] / 2)
    attention = (x[0] @ x[0].T).softmax(-1)
    found = weights(lambda m, x: (x @ x.transpose(2, 3)).softmax(-1) @ x, x)
    close(found[0, :, 0], attention[0])


def test_the_slope_of_hardsigmoid() -> None:
    x = torch.tensor([[[-4.0, -3.0, 1.0, 3.0, 4.0]]], dtype=torch.float64)
    explainer = Explainer(of(lambda m, x: F.hardsigmoid(x)).double().eval())
    found = explainer.explain(x, target="all")
    assert found.exactness == "on region"
    close(found.weights.diagonal(dim1=0, dim2=-1)[0, 0], torch.tensor([0, 0, 1, 0, 0]).double() / 6)
    step = found[2].symbolic_model.step_length(torch.ones_like(x))
    assert step.length == pytest.approx(0, abs=1e-12)  # the value on −3 goes up at once


def test_families_have_their_own_convention() -> None:
    chosen = conventions({"activations": "tangent"})
    assert chosen == {"activations": "tangent", "normalisation": "secant", "products": "secant"}
    for wrong in ("chord", {"pools": "secant"}, {"products": "half"}):
        with pytest.raises(InputError, match="gates"):
            conventions(wrong)


# --- whole networks ------------------------------------------------------------------------------


def tiny_vit() -> nn.Module:
    model = import_torchvision().models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5)
    nn.init.normal_(model.heads.head.weight)
    return model


def tiny_swin() -> nn.Module:
    models = import_torchvision().models
    return models.SwinTransformer([2, 2], 16, [2, 2], [2, 4], [4, 4], num_classes=5)


def named(name: str) -> Callable[[], nn.Module]:
    return lambda: import_torchvision().models.get_model(name, weights=None, num_classes=5)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vit": tiny_vit,
    "swin": tiny_swin,
    **{name: named(name) for name in ("mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf")},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = NETWORKS[name]().double().eval()
    x = random_like((2, 3, 32, 32), 3)
    for convention in CONVENTIONS:
        found = Explainer(model, gates=convention).explain(x, target=("classes", [0, 3]))
        assert found.exactness == "at input"
        size = found.score.abs().max()
        assert float(found.residual.abs().max()) <= 1e-10 * float(size)
        assert bool((found.residual.abs() <= found.residual_bound).all())
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf)[:, 3].sum(), leaf)
    # PyTorch's derivative of hardsigmoid has 1/6 in single precision.
    close(found.weights[:, 1], gradient, 1e-7 if name.startswith("mobilenet") else 1e-9)


def test_a_batch_and_its_images_agree_where_images_go_one_by_one() -> None:
    """The transformer's attention puts the batch second; it is captured for single images."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = tiny_vit().double().eval()
    x = random_like((3, 3, 32, 32), 4)
    together = Explainer(model).explain(x, target=1)
    for row in range(3):
        alone = Explainer(model).explain(x[row], target=1)
        close(alone.weights, together.weights[row], 1e-10)
        assert bool(alone.trail.same(together.trail.image(row)).all())
    assert together.trail.rows == 3


# --- trails with gates ---------------------------------------------------------------------------


def test_gates_are_saved_with_the_trail() -> None:
    program = program_of("windows", "tangent")
    trail = program.record(random_like((3, *IMAGE), 2)).trail
    back = Trail.from_arrays(trail.to_arrays())
    assert list(back.gates) == list(trail.gates)
    assert bool(back.same(trail).all())
    halves = Trail.concatenate([trail.take(slice(0, 1)), trail.take(slice(1, 3))])
    assert bool(halves.same(trail).all())
    assert trail.same(trail.image(1)).tolist() == [False, True, False]
    swapped = trail.replaced(torch.tensor([0]), trail.image(2))
    assert swapped.same(trail).tolist() == [False, True, True]
    u = random_like((3, program.classes), 1)
    close(program.pull(back, u).weights, program.pull(trail, u).weights)
    assert trail.nbytes >= sum(gate.count for gate in trail.gates.values()) * 8 * 3


def test_the_model_of_one_image_is_not_used_for_others() -> None:
    explainer = Explainer(CASES["gelu"].double().eval())
    x = random_like(IMAGE, 1)
    model = explainer.explain(x, target=2).symbolic_model
    close(model(x), F.gelu(x.flatten()[2]))
    with pytest.raises(OffTrailError, match="exact at its own image alone"):
        model(x + 0.1)
    assert not bool(model.follows(x + 0.1))
    replay = model.replay((x + 0.1)[None])
    assert not bool(replay.follows[0])
    with pytest.raises(UnsupportedOperatorError, match="gelu"):
        model.step_length(x)


def test_a_network_that_mixes_images_is_still_refused() -> None:
    class Mixing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - x.mean(0, keepdim=True)).flatten(1)

    with pytest.raises(UnsupportedOperatorError, match="mixes the images"):
        Explainer(Mixing().eval()).explain(torch.rand(2, *IMAGE))
