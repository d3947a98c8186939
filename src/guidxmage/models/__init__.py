"""Where networks, their preprocessing and their class names come from."""

from guidxmage.models.calibration import calibrate_batch_norm
from guidxmage.models.huggingface import load_huggingface
from guidxmage.models.labels import (
    CIFAR10_LABELS,
    FASHION_MNIST_LABELS,
    imagenet_labels,
    read_labels,
)
from guidxmage.models.loaded import LoadedModel
from guidxmage.models.python_models import load_python_model
from guidxmage.models.registry import ModelInfo, available_models, load_model, load_onnx
from guidxmage.models.torchvision_import import import_torchvision
from guidxmage.models.weights import read_weights

__all__ = [
    "CIFAR10_LABELS",
    "FASHION_MNIST_LABELS",
    "LoadedModel",
    "ModelInfo",
    "available_models",
    "calibrate_batch_norm",
    "imagenet_labels",
    "import_torchvision",
    "load_huggingface",
    "load_model",
    "load_onnx",
    "load_python_model",
    "read_labels",
    "read_weights",
]
