"""Classifiers of Hugging Face transformers from folders made here; nothing comes from a hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from guidxmage import Explainer, InputError, Preprocessing, UnsupportedOperatorError
from guidxmage.cli import app
from guidxmage.models import import_torchvision, load_huggingface, load_model
from guidxmage.models.huggingface import described

if pytest.importorskip("importlib.util").find_spec("torchvision"):
    import_torchvision()
transformers = pytest.importorskip("transformers")

NAMES = ("owl", "fox", "elk")
SMALL = {"num_labels": 3, "id2label": dict(enumerate(NAMES))}
PROCESSOR = {
    "size": {"shortest_edge": 36},
    "crop_size": {"height": 32, "width": 32},
    "resample": 3,
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.25, 0.3],
}


def write(folder: Path, config: Any, processor: Any, seed: int = 0) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForImageClassification.from_config(config)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def resnet_config() -> Any:
    return transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic", **SMALL
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("hf") / "tiny-resnet"
    return write(made, resnet_config(), transformers.BitImageProcessor(**PROCESSOR))


def photo(height: int = 47, width: int = 60) -> Image.Image:
    rough = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)


def test_the_networks_own_logits_and_names(folder: Path) -> None:
    state = torch.get_rng_state()
    explainer = Explainer.load(str(folder), dtype=torch.float64)
    assert torch.equal(state, torch.get_rng_state())
    assert explainer.labels == NAMES
    assert explainer.space == "pixels"
    explained = explainer.explain(photo(), "all")
    own = transformers.AutoModelForImageClassification.from_pretrained(folder).double().eval()
    seen = explainer.to_input(explainer.read(photo())[None])
    with torch.no_grad():
        assert torch.equal(explained.logits, own(pixel_values=seen).logits[0])
    total = explained.contributions.flatten(1).sum(1) + explained.bias
    assert torch.allclose(total, explained.score, rtol=1e-10)
    assert explained.model_name == "tiny-resnet"
    assert explained[1].target_name == "fox"


PROCESSORS = {
    "bit": lambda: transformers.BitImageProcessor(**PROCESSOR),
    "vit": lambda: transformers.ViTImageProcessor(size={"height": 32, "width": 40}),
    "deit": lambda: transformers.DeiTImageProcessor(
        size={"height": 41, "width": 41}, crop_size={"height": 32, "width": 32}
    ),
    "convnext": lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 32}),
    "convnext large": lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 384}),
    "mobilenet": lambda: transformers.MobileNetV2ImageProcessor(
        size={"shortest_edge": 35}, crop_size={"height": 32, "width": 32}, do_normalize=False
    ),
}


@pytest.mark.parametrize("kind", PROCESSORS)
@pytest.mark.parametrize("size", [(47, 60), (61, 40), (36, 36)])
def test_preprocessing_is_that_of_transformers(
    kind: str, size: tuple[int, int], tmp_path: Path
) -> None:
    """Within two grey levels, by which two resizing kernels differ; a shift by a pixel is more."""
    processor = PROCESSORS[kind]()
    processor.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    ours = described(settings)
    assert isinstance(ours, Preprocessing)
    image = photo(*size)
    theirs = processor(images=image, return_tensors="pt")["pixel_values"][0]
    assert ours(image).shape == theirs.shape
    assert float((ours.to_pixels(ours(image)) - ours.to_pixels(theirs)).abs().max()) < 2.5 / 255


def test_crops_of_odd_margins_start_where_transformers_starts() -> None:
    """Of 35 − 32 = 3 pixels torchvision cuts 2 at the top, transformers 1."""
    processor = transformers.BitImageProcessor(
        do_resize=False, crop_size={"height": 32, "width": 32}, do_normalize=False
    )
    ours = described(processor.to_dict())
    assert ours is not None
    theirs = processor(images=photo(35, 37), return_tensors="pt")["pixel_values"][0]
    assert torch.allclose(ours(photo(35, 37)), theirs, atol=1e-6)
    even = Preprocessing(crop=32)
    assert not torch.allclose(even(photo(35, 37)), theirs, atol=1e-2)
    assert Preprocessing.from_dict(ours.to_dict()) == ours


def test_other_processors_are_closed_boxes(tmp_path: Path) -> None:
    processor = transformers.LevitImageProcessor(
        size={"shortest_edge": 28}, crop_size={"height": 32, "width": 32}
    )
    assert described(processor.to_dict()) is None
    assert (
        described({**PROCESSOR, "image_processor_type": "BitImageProcessor", "resample": 1}) is None
    )
    explainer = Explainer.load(str(write(tmp_path / "m", resnet_config(), processor)))
    assert explainer.space == "input"
    explained = explainer.explain(photo())
    theirs = processor(images=photo(), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(explained.input, theirs)


def test_the_command_line(folder: Path, tmp_path: Path) -> None:
    photo().save(tmp_path / "a.png")
    arguments = ["explain", str(tmp_path / "a.png"), "--model", str(folder), "--target", "fox"]
    arguments += ["--out", str(tmp_path / "out"), "--objects", "none", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    (manifest,) = json.loads(result.stdout)
    assert manifest["results"][0]["name"] == "fox"
    assert manifest["model"]["labels"] == list(NAMES)
    assert (tmp_path / "out" / "a" / "figure.png").is_file()
    refused = CliRunner().invoke(app, [*arguments, "--weights", "none"])
    assert refused.exit_code == 2
    assert "brings its own weights" in refused.output


def test_labels_can_be_given(folder: Path) -> None:
    assert load_model(str(folder), labels=["a", "b", "c"]).labels == ("a", "b", "c")
    with pytest.raises(InputError, match="2 labels for a network with 3"):
        load_model(str(folder), labels=["a", "b"])


def copy_of(folder: Path, to: Path) -> Path:
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def test_damaged_folders(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=r"holds no config\.json"):
        load_model(str(empty))
    for number, (name, content, words) in enumerate(
        [
            ("preprocessor_config.json", None, "how photos become inputs"),
            ("config.json", "{", "cannot be read"),
            ("config.json", '{"model_type": "bert"}', "cannot be loaded"),
            ("model.safetensors", None, "cannot be loaded"),
            ("model.safetensors", "nothing", "cannot be loaded"),
        ]
    ):
        broken = copy_of(folder, tmp_path / str(number))
        if content is None:
            (broken / name).unlink()
        else:
            (broken / name).write_text(content)
        with pytest.raises(InputError, match=words) as error:
            load_huggingface(broken)
        assert "\n" not in str(error.value)


def test_missing_weights_are_not_drawn_at_random(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = copy_of(folder, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "classifier" not in name}
    save_file(kept, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"classifier.* is missing"):
        load_huggingface(broken)


def test_an_operator_without_a_rule_is_refused_by_name(tmp_path: Path) -> None:
    """A Fourier transform stands for whatever has no rule."""

    class Spectrum(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.irfft2(torch.fft.rfft2(x), x.shape[-2:])

    network = load_huggingface(
        write(tmp_path / "m", resnet_config(), transformers.BitImageProcessor(**PROCESSOR))
    ).model
    network.network.resnet.embedder.embedder.normalization = Spectrum()
    with pytest.raises(UnsupportedOperatorError, match=r"aten\.\S+ at 'network\.resnet\.embedder"):
        Explainer(network.eval()).explain(torch.rand(3, 32, 32))


@pytest.mark.parametrize("kind", ["ViT", "ConvNext"])
def test_smooth_networks_are_loaded_and_explained(kind: str, tmp_path: Path) -> None:
    config = {
        "ViT": lambda: transformers.ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            image_size=32, patch_size=8, **SMALL,
        ),
        "ConvNext": lambda: transformers.ConvNextConfig(
            hidden_sizes=[8, 8], depths=[1, 1], num_stages=2, **SMALL
        ),
    }[kind]()  # fmt: skip
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    explainer = Explainer.load(str(write(tmp_path / kind, config, processor)), dtype=torch.float64)
    explained = explainer.explain(photo())
    assert explained.exactness == "at input"
    total = explained.contributions.sum() + explained.bias
    assert torch.allclose(total, explained.score, rtol=1e-10)
