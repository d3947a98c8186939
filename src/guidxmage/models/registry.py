"""Networks by name: what there is, and loading one with published, local or random weights."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from guidxmage.errors import InputError, MissingExtraError
from guidxmage.inputs.preprocessing import Preprocessing
from guidxmage.models.architecture import Architecture, Source
from guidxmage.models.bundled import bundled_architecture, bundled_names
from guidxmage.models.calibration import (
    calibrate_batch_norm,
    natural_like_images,
    vary_weights,
)
from guidxmage.models.huggingface import CONFIG, load_huggingface
from guidxmage.models.labels import imagenet_labels, read_labels
from guidxmage.models.loaded import LoadedModel
from guidxmage.models.timm_models import PREFIX, timm_architecture
from guidxmage.models.torchvision_import import import_torchvision
from guidxmage.models.torchvision_models import torchvision_architecture, torchvision_names
from guidxmage.models.weights import StateDict, head_classes, load_weights, read_weights

_IMAGENET_CLASSES = 1000
_ONNX = ".onnx"
_CALIBRATION_IMAGES = 4
# Larger images would make calibration slow and change the statistics little.
_CALIBRATION_SIDE = 224


@dataclass(frozen=True)
class ModelInfo:
    """One line of the list of networks.

    ``piecewise_linear``: explanations hold on a region, not only at the image. ``input_size``: side
    of the square images it was made for. ``parameters``: how many the published network has.
    ``available_offline``: no download is needed for its published weights.
    """

    name: str
    source: Source
    piecewise_linear: bool
    input_size: int
    parameters: int
    available_offline: bool


def available_models() -> list[ModelInfo]:
    """All networks that ``load_model`` knows by name; torchvision's only where it is installed."""
    found = [bundled_architecture(name) for name in bundled_names()]
    found += [torchvision_architecture(name) for name in _torchvision_names()]
    return [
        ModelInfo(
            name=architecture.name,
            source=architecture.source,
            piecewise_linear=architecture.piecewise_linear,
            input_size=architecture.input_size,
            parameters=architecture.published.parameters,
            available_offline=architecture.published.available_offline,
        )
        for architecture in found
    ]


def load_model(
    name: str = "efficientnet_lite0",
    *,
    weights: str | os.PathLike[str] | None = "default",
    labels: Sequence[str] | str | os.PathLike[str] | None = None,
    seed: int = 0,
    **of_file: Any,
) -> LoadedModel:
    """A classifier by name (see ``available_models``), in evaluation mode, on the CPU, float32.

    ``name`` may also be ``timm:NAME`` for one of timm's networks, a folder that Hugging Face
    transformers has saved a classifier in, or an ONNX file, for which `load_onnx` has more options.
    ``weights``: "default" for the published ones, the path of a .pth, .pt or .safetensors file with
    a state dict (it also tells the number of classes), or "none" (None, as in torchvision) for
    random weights drawn with ``seed``, with realistic batch-norm statistics. ``labels``: class
    names or a file of them; ImageNet's are used for 1000 classes. The global RNG is not touched.
    Raises InputError for an unknown name, and for weights or labels that cannot be had or do not
    fit.
    """
    if name.lower().endswith(_ONNX):
        if weights != "default":
            raise InputError(f"the file {name} brings its own weights; leave weights out")
        given = read_labels(labels) if isinstance(labels, (str, os.PathLike)) else labels
        return load_onnx(name, labels=given, **of_file)
    if of_file:
        raise InputError(f"{', '.join(of_file)} goes with ONNX files, which {name!r} is not")
    if _is_folder(name):
        if weights != "default":
            raise InputError(f"the folder {name} brings its own weights; leave weights out")
        return _labelled(load_huggingface(Path(name)), labels)
    architecture = _architecture(name)
    if weights is None:
        weights = "none"
    choice = weights.lower() if isinstance(weights, str) else ""
    if choice == "default":
        model = _with_weights(
            architecture, architecture.published.read(), "the published weight file"
        )
        description = architecture.published.description
    elif choice == "none":
        model = _random(architecture, seed)
        description = f"random, seed {seed}"
    else:
        model = _with_weights(architecture, read_weights(weights), str(weights))
        description = f"file {Path(weights).name}"
    return LoadedModel(
        model=model.eval(),
        name=architecture.name,
        preprocessing=architecture.preprocessing,
        labels=_labels(labels, _classes(model.state_dict())),
        weights=description,
    )


def load_onnx(
    path: str | os.PathLike[str],
    *,
    labels: Sequence[str] | None = None,
    preprocessing: Preprocessing | Callable[[Image.Image], Tensor] | None = None,
    layout: str | None = None,
    keep_last: bool = False,
) -> LoadedModel:
    """The network in an ONNX file, in float32 and evaluation mode on the CPU.

    ``labels`` and ``preprocessing`` replace what the file, or preprocessor_config.json and
    config.json beside it, say. ``layout``: "nchw" or "nhwc", where the input's shape does not tell.
    ``keep_last``: leave a last softmax or sigmoid on. On the first image the network is compared
    with onnxruntime. Nothing in the file is run but ONNX's own operators. Raises InputError for
    files, and operators in them, that cannot be used, and MissingExtraError.
    """
    for package in ("onnx", "onnxruntime", "onnx2pytorch"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "onnx")
    import_torchvision()  # the converter imports it as it finds it
    from guidxmage.models.onnx import load

    return load.load_onnx(
        Path(path), labels=labels, preprocessing=preprocessing, layout=layout, keep_last=keep_last
    )


def check_available(name: str, weights: str = "default") -> None:
    """Whether `load_model` knows a network, and its weight file is there; nothing is loaded.

    Raises InputError, and MissingExtraError where the package of the network is not installed.
    """
    if name.lower().endswith(_ONNX) and not Path(name).is_file():
        raise InputError(f"{name} does not exist")
    if name.lower().endswith(_ONNX) or _is_folder(name):
        return
    _architecture(name)
    if weights.lower() not in ("default", "none") and not Path(weights).is_file():
        raise InputError(f"there is no weight file {weights}")


def _is_folder(name: str) -> bool:
    """Whether a saved folder is meant: it is written as a path, or is none of the known names."""
    path = Path(name)
    if not name or not path.is_dir():
        return False
    if len(path.parts) != 1 or name.startswith(".") or name.endswith(os.sep):
        return True
    known = name.lower().replace("-", "_") in [*bundled_names(), *_torchvision_names()]
    return not known and (path / CONFIG).exists()


def _labelled(
    loaded: LoadedModel, labels: Sequence[str] | str | os.PathLike[str] | None
) -> LoadedModel:
    if labels is None:
        return loaded
    names = read_labels(labels) if isinstance(labels, (str, os.PathLike)) else tuple(labels)
    return replace(loaded, labels=_labels(names, len(loaded.labels or names)))


def _torchvision_names() -> list[str]:
    try:
        return torchvision_names()
    except MissingExtraError:
        return []


def _architecture(name: str) -> Architecture:
    if name.startswith(PREFIX):
        return timm_architecture(name.removeprefix(PREFIX))
    wanted = name.lower().replace("-", "_")
    if wanted in bundled_names():
        return bundled_architecture(wanted)
    # Without torchvision, its networks cannot be told from typing errors.
    known = torchvision_names()
    if wanted in known:
        return torchvision_architecture(wanted)
    close = difflib.get_close_matches(wanted, [*bundled_names(), *known], n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else "see available_models()"
    raise InputError(f"there is no network called {name!r}; {hint}")


def _with_weights(architecture: Architecture, weights: StateDict, source: str) -> nn.Module:
    adapted = architecture.adapt(weights)
    model = _built(architecture, _IMAGENET_CLASSES)
    classes = head_classes(adapted, model.state_dict())
    if classes is not None and classes != _IMAGENET_CLASSES:
        model = _built(architecture, classes)
    load_weights(model, adapted, name=architecture.name, source=source)
    return model


def _random(architecture: Architecture, seed: int) -> nn.Module:
    if not 0 <= seed < 2**63:
        raise InputError(f"seed is {seed}; give a whole number from 0 to 2**63 - 1")
    model = _built(architecture, _IMAGENET_CLASSES, seed)
    generator = torch.Generator().manual_seed(seed)
    vary_weights(model, generator)
    try:
        _calibrate(model, architecture, min(architecture.input_size, _CALIBRATION_SIDE), generator)
    except (AssertionError, RuntimeError):  # some networks take images of one size only
        _calibrate(model, architecture, architecture.input_size, generator)
    return model


def _calibrate(
    model: nn.Module, architecture: Architecture, side: int, generator: torch.Generator
) -> None:
    pixels = natural_like_images(_CALIBRATION_IMAGES, side, generator)
    calibrate_batch_norm(model, architecture.preprocessing.from_pixels(pixels))


def _built(architecture: Architecture, num_classes: int, seed: int = 0) -> nn.Module:
    """The network with drawn weights; layers draw from the global RNG, which is put back."""
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reseed the accelerators too.
        torch.default_generator.manual_seed(seed)
        return architecture.build(num_classes)


def _head(weights: StateDict | dict[str, torch.Tensor]) -> str:
    """Name of the last tensor: all networks define the layer that computes the scores last."""
    return next(reversed(weights))


def _classes(weights: dict[str, torch.Tensor]) -> int:
    return len(weights[_head(weights)])


def _labels(
    given: Sequence[str] | str | os.PathLike[str] | None, classes: int
) -> tuple[str, ...] | None:
    if given is None:
        return imagenet_labels() if classes == _IMAGENET_CLASSES else None
    labels = read_labels(given) if isinstance(given, (str, os.PathLike)) else tuple(given)
    if len(labels) != classes:
        raise InputError(f"there are {len(labels)} labels for a network with {classes} classes")
    return labels
