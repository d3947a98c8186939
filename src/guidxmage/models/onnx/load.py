"""A network from an ONNX file, with its preprocessing and class names, ready to be explained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from onnx import GraphProto
from PIL import Image
from torch import Tensor

from guidxmage.errors import InputError
from guidxmage.files.untrusted import read_json
from guidxmage.inputs.preprocessing import Preprocessing
from guidxmage.models.huggingface import CONFIG, PROCESSOR, described, labels_in
from guidxmage.models.huggingface_sizes import check_processor
from guidxmage.models.labels import imagenet_labels
from guidxmage.models.loaded import LoadedModel
from guidxmage.models.onnx.check import RuntimeCheck
from guidxmage.models.onnx.file import OnnxFile, read_onnx
from guidxmage.models.onnx.graph import prepare, the_input
from guidxmage.models.onnx.metadata import (
    ImageForm,
    image_form,
    labels_of,
    metadata_of,
    normalisation_of,
)
from guidxmage.models.onnx.network import OnnxNetwork, converted

Given = Preprocessing | Callable[[Image.Image], Tensor] | None


def load_onnx(
    path: Path,
    *,
    labels: Sequence[str] | None = None,
    preprocessing: Given = None,
    layout: str | None = None,
    keep_last: bool = False,
) -> LoadedModel:
    """The network in an ONNX file, in float32 and evaluation mode on the CPU.

    labels, preprocessing: in place of what the file, or preprocessor_config.json and config.json
    beside it, say. layout: "nchw" or "nhwc", where the input's shape does not tell. keep_last:
    leave a last softmax or sigmoid on. The network is compared with onnxruntime on the first image
    by `LoadedModel.check`. Raises InputError for files, and operators in them, that cannot be used.
    """
    file = read_onnx(path)
    prepared = prepare(file, keep_last=keep_last)
    notes = metadata_of(file.model)
    form = image_form(the_input(prepared.reference.graph, file), notes, layout, file)
    with torch.random.fork_rng(devices=[]):  # layers draw weights before they are given theirs
        modules = converted(prepared, file)
    network = OnnxNetwork(modules, prepared.names, channels_last=form.channels_last).eval()
    network.requires_grad_(False)
    words = list(prepared.words)
    if preprocessing is None:
        preprocessing, said = _preprocessing(file, form, notes)
        words.append(said)
    classes = _classes(file.model.graph)
    return LoadedModel(
        model=network,
        name=path.stem,
        preprocessing=preprocessing,
        labels=_labels(labels, classes, notes, file),
        weights="; ".join([f"file {path.name}, SHA-256 {file.sha256[:16]}…", *filter(None, words)]),
        check=RuntimeCheck(network, prepared.reference, file),
    )


def _preprocessing(
    file: OnnxFile, form: ImageForm, notes: dict[str, str]
) -> tuple[Preprocessing | None, str]:
    """How photos become inputs, and the words for where that was said."""
    beside = file.path.parent / PROCESSOR
    if beside.is_file():
        settings = read_json(beside)
        if not isinstance(settings, dict):
            raise InputError(f"{beside} holds no settings")
        check_processor(beside, settings)
        found = described(settings)
        if found is None:
            raise InputError(
                f"{beside} asks for more than to resize, crop and normalise; give the preprocessing"
            )
        return found, f"photos prepared as {PROCESSOR} says"
    channels = form.channels or 3
    plain: dict[str, Any] = {"resize": form.size, "name": "ONNX file"}
    stated = normalisation_of(notes, channels)
    if stated is not None:
        mean, std = stated
        return Preprocessing(mean=mean, std=std, **plain), "normalised as the file says"
    zero, one = (0.0,) * channels, (1.0 / form.scale,) * channels
    said = f"no normalisation stated, so pixels are from 0 to {form.scale:g}"
    return Preprocessing(mean=zero, std=one, **plain), said


def _classes(graph: GraphProto) -> int | None:
    """The number of class scores, where the file says that there are some."""
    sizes = [one.dim_value for one in graph.output[0].type.tensor_type.shape.dim]
    several = len(graph.output) > 1 or len(sizes) != 2
    return None if several or sizes[1] < 1 else sizes[1]


def _labels(
    given: Sequence[str] | None, classes: int | None, notes: dict[str, str], file: OnnxFile
) -> tuple[str, ...] | None:
    if given is not None:
        if classes not in (None, len(given)):
            raise InputError(f"there are {len(given)} labels for a network with {classes} classes")
        return tuple(given)
    found = labels_of(notes)
    beside = file.path.parent / CONFIG
    if found is None and beside.is_file() and (file.path.parent / PROCESSOR).is_file():
        settings = read_json(beside)
        found = labels_in(settings) if isinstance(settings, dict) else None
    if found is None:
        return imagenet_labels() if classes == len(imagenet_labels()) else None
    # Of another number than there are scores, they would name the wrong ones.
    return found if classes in (None, len(found)) else None
