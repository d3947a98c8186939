"""Why a model could not be run on images, in one sentence that names the way out.

PyTorch's own messages speak of the layer that failed. Where they tell that the images do not suit
the network, that is said instead.
"""

from __future__ import annotations

import inspect
import re

from torch import Tensor, nn

from guidxmage.errors import InputError
from guidxmage.inputs.multi_input import Shapes, Wrapped
from guidxmage.outputs.reading import Reading

_OTHER_CHANNELS = re.compile(r"expected input\[([\d, ]+)\] to have (\d+) channels")
_OTHER_FEATURES = re.compile(r"mat1 and mat2 shapes cannot be multiplied \(\d+x(\d+) and (\d+)x")
_TOO_SMALL = re.compile(
    r"Kernel size can't be greater than actual input size|Output size is too small"
    r"|Padding size should be less than the corresponding input dimension"
)


def failure(model: nn.Module, images: Tensor, error: Exception) -> InputError:
    """The sentence for a model that raised `error` on images (B, …)."""
    if isinstance(error, InputError):  # of what reads the network's outputs
        return error
    if isinstance(model, Reading):  # a name that the user has never heard of
        model = model.model
    if isinstance(model, Wrapped) and model.shapes is not None:
        return InputError(_of_several(model.model, model.shapes, error))
    name, reason = type(model).__name__, _reason(error)
    words = _of_signature(model, name) if isinstance(error, TypeError) else ""
    words = words or _of_forward(name, error) or _of_size(name, images, str(error))
    if words:
        return InputError(words)
    count = f"{len(images)} images" if len(images) > 1 else "an image"
    shape = ", ".join(str(size) for size in images.shape)
    return InputError(
        f"{name} could not be run on {count} of {_size(images)}: {reason}; see that "
        f"model(torch.rand({shape})) runs by itself"
    )


def _reason(error: Exception) -> str:
    """The first line of what was said."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def _signature(model: nn.Module) -> inspect.Signature | None:
    """What `forward` takes; None for code that Python cannot look into."""
    try:
        return inspect.signature(model.forward)
    except (TypeError, ValueError):
        return None


def _of_several(model: nn.Module, shapes: Shapes, error: Exception) -> str:
    """What is said of a network that was given a tuple of inputs."""
    name, count = type(model).__name__, len(shapes)
    signature = _signature(model)
    try:
        if signature is not None:
            signature.bind(*shapes)
    except TypeError:
        takes = ", ".join(signature.parameters) if signature else ""
        return (
            f"{name}.forward takes {takes or 'nothing'} and cannot be called with {count} inputs; "
            "give a tuple with a tensor for each input"
        )
    sizes = " and ".join("×".join(map(str, shape)) for shape in shapes)
    return (
        f"{name} could not be run on inputs of {sizes}: {_reason(error)}; see that model(*inputs) "
        "runs by itself"
    )


def _of_signature(model: nn.Module, name: str) -> str:
    """What is said where the images alone are not what `forward` takes."""
    signature = _signature(model)
    if signature is None:
        return ""
    parameters = signature.parameters.values()
    needed = [one for one in parameters if one.default is one.empty]
    keywords = [one.name for one in needed if one.kind is one.KEYWORD_ONLY]
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    inputs = [one.name for one in needed if one.kind in places]
    if keywords:
        return (
            f"{name}.forward takes {' and '.join(keywords)} by keyword only, but is called as "
            "model(images); wrap it in a module whose forward takes the images alone"
        )
    if len(inputs) > 1:
        return (
            f"{name} takes {len(inputs)} inputs ({', '.join(inputs)}) where images alone were "
            f"given; explain a tuple of {len(inputs)} tensors, or wrap it in a module whose "
            "forward takes the images alone"
        )
    if all(one.kind not in (*places, one.VAR_POSITIONAL) for one in parameters):
        return (
            f"{name}.forward takes no images; wrap it in a module whose forward takes them and "
            "returns class scores"
        )
    return ""


def _of_forward(name: str, error: Exception) -> str:
    if isinstance(error, NotImplementedError) and '"forward" function' in str(error):
        return f"{name} has no forward method; give a network that maps images to class scores"
    return ""


def _of_size(name: str, images: Tensor, said: str) -> str:
    """What is said where the images have other channels or another size than is needed."""
    size, sizes = _size(images), tuple(images.shape)
    if found := _OTHER_CHANNELS.search(said):
        wanted = int(found[2])
        if tuple(map(int, found[1].split(","))) != sizes:  # a layer inside is at fault
            return ""
        if sizes[-1] == wanted and len(sizes) == 4:
            way = "its channels come last: give image.permute(2, 0, 1), or a NumPy array as it is"
        elif (sizes[1], wanted) == (1, 3):
            way = "repeat a grey image with image.expand(3, -1, -1)"
        elif (sizes[1], wanted) == (4, 3):
            way = "leave the fourth, such as transparency, out with image[:3]"
        else:
            way = f"give images of {wanted}"
        plural = "channel" if wanted == 1 else "channels"
        return f"{name} takes images of {wanted} {plural}, not of {sizes[1]} ({size}); {way}"
    if _TOO_SMALL.search(said):
        return (
            f"an image of {size} is too small for {name}: nothing is left of it behind some layer; "
            "give a larger one"
        )
    if found := _OTHER_FEATURES.search(said):
        return (
            f"{name} cannot take an image of {size}: a linear layer is given {found[1]} values "
            f"where it takes {found[2]}; give images of the size that the network is made for, or "
            "a preprocessing that resizes"
        )
    return ""


def _size(images: Tensor) -> str:
    return "×".join(str(size) for size in images.shape[1:])
