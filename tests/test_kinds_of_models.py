"""The kinds of models that people bring: explained, or refused in a sentence that names the way."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from guidxmage import Explainer
from guidxmage.errors import GuidXmageError

IMAGE = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(3))


def plain() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
        return nn.Sequential(*layers, nn.Dropout(), nn.Linear(16, 5)).eval()


def _exported(images: int) -> torch.export.ExportedProgram:
    shapes = ({0: torch.export.Dim("batch")},) if images > 1 else None
    given = torch.rand(images, 3, 8, 8)
    return torch.export.export(plain(), (given,), dynamic_shapes=shapes)


# --- explained ------------------------------------------------------------------------------------

WRAPPED: dict[str, Callable[[], Any]] = {
    "data_parallel": lambda: nn.DataParallel(plain()),
    "compiled": lambda: torch.compile(plain()),
    "compiled_in_parallel": lambda: torch.compile(nn.DataParallel(plain())),
    "exported": lambda: _exported(2),
    "exported_for_one_image": lambda: _exported(1),
    "exported_module": lambda: _exported(2).module(),
    "part_of_another": lambda: nn.Sequential(_exported(2).module(), nn.Identity()),
    "scripted": lambda: torch.jit.script(plain()),
    "traced": lambda: torch.jit.trace(plain(), IMAGE[None]),
    "symbolically_traced": lambda: torch.fx.symbolic_trace(plain()),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", WRAPPED)
def test_what_is_around_a_network_does_not_matter(kind: str) -> None:
    model = WRAPPED[kind]()
    if kind == "part_of_another":  # an exported program refuses to be switched itself
        model.training = model[1].training = False
    images = torch.stack([IMAGE, IMAGE.flip(2)])
    for given in (IMAGE,) if kind == "exported_for_one_image" else (IMAGE, images):
        found, own = Explainer(model).explain(given), Explainer(plain()).explain(given)
        assert torch.equal(found.logits, own.logits)
        assert torch.equal(found.target, own.target)
        assert float((found.weights - own.weights).abs().max()) < 1e-7
    assert float(own.weights.abs().max()) > 1e-3


def test_names_of_wrapped_networks() -> None:
    assert Explainer(torch.compile(nn.DataParallel(plain()))).name == "Sequential"
    assert Explainer(torch.jit.script(plain())).name == "Sequential"


def test_a_program_exported_in_training_mode_is_refused() -> None:
    """Its flags are those of any exported program; what it does tells."""
    program = torch.export.export(plain().train(), (torch.rand(1, 3, 8, 8),))
    with pytest.raises(GuidXmageError, match="random"):
        Explainer(program).explain(IMAGE)


class _Doing(nn.Module):
    """A network that does something before or after the plain one."""

    def __init__(self, how: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.net = plain()
        self.how = how
        self.eval()

    def forward(self, x: Tensor) -> Any:
        return self.how(self.net, x)


def test_writes_into_the_image_do_not_reach_the_users() -> None:
    given = IMAGE.clone()
    found = Explainer(_Doing(lambda net, x: net(x.sub_(0.5).mul_(2)))).explain(given)
    own = Explainer(_Doing(lambda net, x: net((x - 0.5) * 2))).explain(IMAGE)
    assert torch.equal(given, IMAGE)
    assert torch.equal(found.logits, own.logits)
    assert torch.allclose(found.weights, own.weights)


# --- refused --------------------------------------------------------------------------------------


class _Keyword(nn.Module):
    def forward(self, *, pixels: Tensor) -> Tensor:
        return pixels.flatten(1)


class _AlsoKeyword(nn.Module):
    def forward(self, x: Tensor, *, scale: float) -> Tensor:
        return x.flatten(1) * scale


class _Two(nn.Module):
    def forward(self, left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
        return left.flatten(1) + right.flatten(1) * scale


class _Nothing(nn.Module):
    def forward(self) -> Tensor:
        return torch.zeros(1, 2)


class _Unfinished(nn.Module):
    pass


def _quantised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(plain(), {nn.Linear}, dtype=torch.qint8)


def _with_nan() -> nn.Module:
    model = plain()
    with torch.no_grad():
        model[0].weight[1, 0, 0, 0] = torch.nan
    return model


def _of_one_size() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5)).eval()


def _narrow_inside() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Flatten()).eval()


REFUSED: dict[str, tuple[Callable[[], Any], Tensor, str]] = {
    "quantised": (_quantised, IMAGE, "quantised at '5'.* explain the model in float32"),
    "lazy": (
        lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(5)).eval(),
        IMAGE,
        "'1.weight' has no size yet; run the model once",
    ),
    "meta": (lambda: plain().to("meta"), IMAGE, "'0.weight' is on the device 'meta'.* load the"),
    "keyword": (_Keyword().eval, IMAGE, "takes pixels by keyword only.* wrap it in a module"),
    "also_keyword": (_AlsoKeyword().eval, IMAGE, "takes scale by keyword only.* wrap it"),
    "two_inputs": (_Two().eval, IMAGE, r"takes 2 inputs \(left, right\).* a tuple of 2 tensors"),
    "no_inputs": (_Nothing().eval, IMAGE, "takes no images; wrap it"),
    "no_forward": (_Unfinished().eval, IMAGE, "has no forward method; give a network"),
    "grey": (plain, IMAGE[:1], r"takes images of 3 channels, not of 1 \(1×8×8\); repeat a grey"),
    "transparent": (plain, torch.rand(4, 8, 8), r"3 channels, not of 4 .* with image\[:3\]"),
    "channels_last": (plain, torch.rand(8, 9, 3), r"not of 8 \(8×9×3\); its channels come last"),
    "seven_bands": (plain, torch.rand(2, 7, 8, 8), "not of 7 .* give images of 3"),
    "small": (plain, torch.rand(3, 2, 2), "3×2×2 is too small for Sequential: .* a larger one"),
    "another_size": (_of_one_size, torch.rand(3, 9, 9), "values where it takes 144; give images"),
    "wrong_inside": (_narrow_inside, IMAGE, r"could not be run.* model\(torch.rand\(1, 3, 8, 8\)"),
    "training": (lambda: plain().train(), IMAGE, r"in training mode; call model\.eval"),
    "dict": (
        lambda: _Doing(lambda net, x: {"logits": net(x), "x": x}),
        IMAGE,
        "returns a dict with 'logits' and 'x' .* output=…",
    ),
    "tuple": (lambda: _Doing(lambda net, x: (net(x), x)), IMAGE, "a tuple of 2 values .* output=…"),
    "nan": (_with_nan, IMAGE, "NaN or Inf in '0.weight'"),
    "a_class": (lambda: nn.Sequential, IMAGE, "not the class Sequential; make one of it"),
    "weights": (lambda: plain().state_dict(), IMAGE, "not weights alone; .* load_state_dict"),
    "a_name": (lambda: "resnet18", IMAGE, r"not str; .* Explainer\.load"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", REFUSED)
def test_a_sentence_names_the_cause_and_the_way_out(kind: str) -> None:
    made, image, words = REFUSED[kind]
    model = made()
    with pytest.raises(GuidXmageError, match=words) as raised:
        Explainer(model).explain(image)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (
            (IMAGE[None],),
            "_Two.forward takes left, right, scale and cannot be called with 1 inputs; give",
        ),
        (
            (IMAGE[None], IMAGE[None, :2, :5]),
            r"_Two could not be run on inputs of 3×8×8 and 2×5×8: .* model\(\*inputs\) runs",
        ),
    ],
)
def test_tuples_of_inputs_that_do_not_fit(inputs: tuple[Tensor, ...], words: str) -> None:
    with pytest.raises(GuidXmageError, match=words):
        Explainer(_Two().eval()).explain(inputs)


def test_pytorch_says_nothing_on_stderr() -> None:
    code = (
        "import torch; from torch import nn; from guidxmage import Explainer\n"
        "net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()"
        "\nx = torch.rand(2, 3, 8, 8)\n"
        "program = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim('b')},))\n"
        "for model in (net, nn.DataParallel(net), torch.compile(net), program, program.module()):\n"
        "    Explainer(model).explain(x)\n"
        "print('done')"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("done\n", "")
