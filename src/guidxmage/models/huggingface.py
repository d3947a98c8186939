"""Image classifiers of Hugging Face transformers from a local folder; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from guidxmage.errors import InputError, MissingExtraError
from guidxmage.files.names import brief
from guidxmage.files.untrusted import read_json
from guidxmage.inputs.preprocessing import Interpolation, Preprocessing
from guidxmage.models.huggingface_sizes import (
    check_network,
    check_processor,
    check_settings,
)
from guidxmage.models.loaded import LoadedModel
from guidxmage.models.torchvision_import import import_torchvision

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
_INTERPOLATIONS: dict[int, Interpolation] = {0: "nearest", 2: "bilinear", 3: "bicubic"}
# Processors that resize, crop, rescale and normalise in this order and do nothing else.
_PLAIN_PROCESSORS = frozenset(
    ["ViT", "DeiT", "Bit", "CLIP", "ConvNext", "MobileNetV1", "MobileNetV2"]
)
# From this size on ConvNeXt's processor resizes to a square instead of cropping.
_CONVNEXT_WARPED = 384


class LogitsOnly(nn.Module):
    """A transformers classifier that takes images (B, C, H, W) and returns its logits alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        logits: Tensor = self.network(pixel_values=x).logits
        return logits


def load_huggingface(folder: Path) -> LoadedModel:
    """The classifier in a folder that `save_pretrained` wrote, in float32 and evaluation mode.

    The folder holds config.json, the weights as safetensors, and preprocessor_config.json. A
    preprocessing that is more than resize, crop and normalisation is kept as a callable. Raises
    InputError for a folder that is incomplete, damaged or holds another kind of model; the folder's
    code is never run.
    """
    settings = _read_json(folder, CONFIG, "is no model that transformers has saved")
    processor = _read_json(
        folder, PROCESSOR, "does not say how photos become inputs; save the image processor there"
    )
    check_settings(folder / CONFIG, settings)
    check_processor(folder / PROCESSOR, processor)
    network = _network(folder)
    return LoadedModel(
        model=LogitsOnly(network).eval(),
        name=folder.resolve().name,
        preprocessing=described(processor) or _closed_box(folder),
        labels=labels_in(settings),
        weights=f"folder {folder}",
    )


def described(settings: Mapping[str, Any]) -> Preprocessing | None:
    """The Preprocessing that preprocessor_config.json stands for; None where it is something else.

    Resized photos may differ by a grey level from those of transformers' torchvision backend.
    """
    given = settings.get("image_processor_type") or settings.get("feature_extractor_type") or ""
    kind = str(given)
    for ending in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        kind = kind.removesuffix(ending)
    padded = settings.get("do_pad", False) or settings.get("pad_size")
    if kind not in _PLAIN_PROCESSORS or padded:
        return None
    try:
        scale = settings.get("rescale_factor", 1 / 255) * settings.get("do_rescale", True)
        if abs(scale * 255 - 1) > 1e-6:
            return None
        return Preprocessing(
            **_geometry(kind, settings),
            **_normalisation(settings),
            crop_starts="down",
            name=str(given),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None  # settings that Preprocessing cannot express


def _geometry(kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if settings.get("do_resize", True):
        found["resize"] = _size(settings["size"], square=kind not in ("Bit", "CLIP", "ConvNext"))
        found["interpolation"] = _INTERPOLATIONS[settings["resample"]]
    if kind == "ConvNext" and "resize" in found:
        side = found["resize"]
        if side >= _CONVNEXT_WARPED:
            return {**found, "resize": (side, side)}
        return {**found, "resize": int(side / settings.get("crop_pct", 224 / 256)), "crop": side}
    if settings.get("do_center_crop", False):
        found["crop"] = _size(settings["crop_size"], square=True)
    return found


def _size(size: Any, *, square: bool) -> int | tuple[int, int]:
    """An int for the shorter side, or (height, width); old files hold a bare number."""
    if isinstance(size, int):
        return (size, size) if square else size
    if set(size) == {"shortest_edge"}:
        return int(size["shortest_edge"])
    if set(size) == {"height", "width"}:
        return int(size["height"]), int(size["width"])
    raise KeyError(f"sizes {sorted(size)}")


def _normalisation(settings: Mapping[str, Any]) -> dict[str, Any]:
    if not settings.get("do_normalize", True):
        return {}
    return {"mean": tuple(settings["image_mean"]), "std": tuple(settings["image_std"])}


def labels_in(settings: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The class names in config.json, in the order of their indices; None where there are none."""
    by_index = settings.get("id2label")
    if not isinstance(by_index, dict):
        return None
    indices = [str(number) for number in range(len(by_index))]
    return tuple(str(by_index[n]) for n in indices) if set(indices) == set(by_index) else None


def _read_json(folder: Path, name: str, otherwise: str) -> dict[str, Any]:
    if not (folder / name).exists():
        raise InputError(f"{folder} {otherwise}: it holds no {name}")
    try:
        content = read_json(folder / name)
    except InputError as error:
        raise InputError(f"{folder / name} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{folder / name} holds no settings")
    return content


def _network(folder: Path) -> nn.Module:
    """The network with all its weights from the folder; the global RNG is not touched."""
    with _quietly() as transformers, torch.random.fork_rng(devices=[]):
        kind = transformers.AutoModelForImageClassification

        def build() -> nn.Module:
            config = transformers.AutoConfig.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
            made: nn.Module = kind.from_config(config, trust_remote_code=False)
            return made

        try:
            check_network(folder, build)
            network, found = kind.from_pretrained(
                str(folder),
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except MissingExtraError:
            raise
        except Exception as error:  # transformers raises whatever its parts raise
            raise InputError(f"the model in {folder} cannot be loaded: {_reason(error)}") from error
    # transformers draws at random what it does not find.
    for key in ("missing_keys", "mismatched_keys"):
        if found[key]:
            first = sorted(map(str, found[key]))[0]
            raise InputError(
                f"the weights in {folder} do not fit its {CONFIG}: {first} is "
                f"{'missing' if key == 'missing_keys' else 'of another shape'}"
            )
    module: nn.Module = network
    return module.eval()


def _closed_box(folder: Path) -> Callable[[Image.Image], Tensor]:
    with _quietly() as transformers:
        try:
            processor = transformers.AutoImageProcessor.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # as above
            raise InputError(f"{folder / PROCESSOR} cannot be used: {_reason(error)}") from error

    def processed(image: Image.Image) -> Tensor:
        try:
            pixels: Tensor = processor(images=image, return_tensors="pt")["pixel_values"][0]
        except Exception as error:  # as above
            raise InputError(
                f"{folder / PROCESSOR} does not fit the photo: {_reason(error)}"
            ) from error
        return pixels

    return processed


def _reason(error: Exception) -> str:
    return brief((str(error).splitlines() or [type(error).__name__])[0])


@contextmanager
def _quietly() -> Iterator[Any]:
    """transformers, without its progress bars and warnings."""
    if find_spec("transformers") is None:
        raise MissingExtraError("transformers", "huggingface")
    if find_spec("torchvision") is not None:
        import_torchvision()  # transformers imports it as it finds it
    import transformers

    logging: Any = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield transformers
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
