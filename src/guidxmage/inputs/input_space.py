"""What images come in as: the space that is explained, and the way from there into the network."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from guidxmage.errors import InputError
from guidxmage.inputs.photos import read_image
from guidxmage.inputs.preprocessing import Preprocessing, describe_preprocessing
from guidxmage.reports.short_repr import short_repr

Photo = str | os.PathLike[str] | Image.Image | np.ndarray[Any, Any]
Images = Photo | Tensor | Sequence[Photo]


@dataclass(frozen=True)
class Batch:
    """Images ready to be explained: tensor (B, C, H, W) in the explained space, pictures of what
    the network sees (None where tensors were given), and the (height, width) of the photos.
    """

    tensor: Tensor
    pictures: tuple[Image.Image | None, ...]
    photo_sizes: tuple[tuple[int, int], ...]
    batched: bool

    __repr__ = short_repr


@dataclass(frozen=True)
class _Photo:
    """One photo read: tensor (C, H, W) in the explained space, what it shows, and its own size."""

    tensor: Tensor
    picture: Image.Image | None
    size: tuple[int, int]


class InputSpace:
    """The space in which a network's images are explained.

    With a preprocessing whose normalisation is known it is "pixels", values in [0, 1]; otherwise it
    is the network's own "input". `preprocessing` is None where it is a callable nobody can look
    into.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocessing: Preprocessing | Callable[[Image.Image], Tensor] | None,
    ) -> None:
        if preprocessing is not None and not callable(preprocessing):
            raise InputError(
                f"preprocessing is {preprocessing!r}; give a Preprocessing, or a function from a "
                "PIL image to a tensor"
            )
        self._model = model
        channels = _input_channels(model)
        plain = Preprocessing(mean=(0.0,) * channels, std=(1.0,) * channels)
        known = plain if preprocessing is None else describe_preprocessing(preprocessing, channels)
        self.preprocessing = known
        self.name = "input" if known is None or preprocessing is None else "pixels"
        self._transform = preprocessing if known is None else None

    @property
    def transform(self) -> Preprocessing | Callable[[Image.Image], Tensor] | None:
        """What reads photos: the preprocessing where it is known, else the user's callable."""
        return self._transform if self.preprocessing is None else self.preprocessing

    def read(self, image: Images) -> Batch:
        """An image or a batch of images; raises InputError for anything unusable."""
        if isinstance(image, Tensor):
            return self._from_tensor(image)
        if isinstance(image, Sequence) and not isinstance(image, str):
            if not image:
                raise InputError("the batch is empty; give at least one image")
            if any(isinstance(one, Tensor) for one in image):
                raise InputError(
                    "a batch of tensors is one tensor (batch, channels, height, width); a tuple of "
                    "a network's several inputs is for explain() alone"
                )
            return self._stacked([self._read_photo(one) for one in image], batched=True)
        return self._stacked([self._read_photo(image)], batched=False)

    def _stacked(self, read: list[_Photo], *, batched: bool) -> Batch:
        dtype, device = dtype_and_device(self._model)
        shapes = {tuple(photo.tensor.shape) for photo in read}
        if len(shapes) > 1:
            sizes = " and ".join("×".join(map(str, s)) for s in sorted(shapes))
            raise InputError(
                f"the images of a batch come out at different sizes ({sizes}); explain them "
                "one by one or give a preprocessing that resizes"
            )
        return Batch(
            torch.stack([photo.tensor for photo in read]).to(device, dtype),
            tuple(photo.picture for photo in read),
            tuple(photo.size for photo in read),
            batched,
        )

    def _read_photo(self, photo: Photo) -> _Photo:
        if self.preprocessing is not None:
            original = read_image(photo, self.preprocessing.mode)
            picture = self.preprocessing.crop_image(original)
            pixels = np.asarray(picture, dtype=np.float64) / 255
            planes = torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)
            return _Photo(planes, picture, original.size[::-1])
        assert self._transform is not None
        original = read_image(photo)
        tensor = self._transform(original)
        if not isinstance(tensor, Tensor) or tensor.ndim != 3:
            raise InputError(
                "the preprocessing must turn a PIL image into a tensor channels × height × width"
            )
        same_size = original.size[::-1] == tuple(tensor.shape[1:])
        return _Photo(tensor, original if same_size else None, original.size[::-1])

    def _from_tensor(self, tensor: Tensor) -> Batch:
        _refuse_strange(tensor)
        dims = self._image_dims()
        if tensor.ndim not in (dims, dims + 1) or 0 in tensor.shape:
            raise InputError(
                f"a tensor of shape {tuple(tensor.shape)} is no image; give (channels, height, "
                "width) or (batch, channels, height, width)"
            )
        if not tensor.is_floating_point():
            raise InputError(
                f"a tensor of {tensor.dtype} is not accepted: divide by 255 and pass floats, or "
                "pass a NumPy array height × width × channels"
            )
        if not is_finite(tensor):
            raise InputError("the image holds NaN or Inf")
        if self.name == "pixels" and (tensor.min() < -0.5 or tensor.max() > 1.5):
            raise InputError(
                "this explainer's tensors hold pixel values in [0, 1], but the image reaches from "
                f"{tensor.min():.3g} to {tensor.max():.3g}; undo the normalisation, or build the "
                "Explainer without preprocessing to explain normalised inputs"
            )
        dtype, device = dtype_and_device(self._model)
        batched = tensor.ndim == dims + 1
        images = tensor.detach().as_subclass(Tensor)
        images = images if batched else images[None]
        images = images.clone() if images.is_inference() else images
        images = images.to(device, dtype)
        size = (int(images.shape[-2]), int(images.shape[-1]))
        return Batch(images, (None,) * len(images), (size,) * len(images), batched)

    def _image_dims(self) -> int:
        """Channels and positions of one image: the first convolution tells, else 3."""
        kinds: dict[type[nn.Module], int] = {nn.Conv1d: 2, nn.Conv2d: 3, nn.Conv3d: 4}
        found = (
            dims
            for m in self._model.modules()
            for kind, dims in kinds.items()
            if isinstance(m, kind)
        )
        return next(found, 3)

    def example(self, image: Images | Sequence[int] | None) -> Tensor | tuple[int, ...]:
        """One image (1, C, H, W), or its shape (C, H, W) where that is what is given or known."""
        known = self.preprocessing
        if image is None:
            size = None if known is None else known.output_size
            if known is None or size is None:
                raise InputError("the size of the network's images is not known; give an image")
            return (len(known.mean), *size)
        if isinstance(image, tuple | list) and all(type(n) is int for n in image):
            if not image or min(image) < 1:
                raise InputError(f"an image of shape {tuple(image)} is none; give (C, H, W)")
            return tuple(n for n in image if isinstance(n, int))
        return self.read(image).tensor[:1]  # type: ignore[arg-type]

    def to_input(self, X: Tensor) -> Tensor:
        """Images of this space as the network takes them."""
        if self.name == "input" or self.preprocessing is None:
            return X
        return self.preprocessing.from_pixels(X)

    def to_space(self, weights: Tensor) -> tuple[Tensor, Tensor | None]:
        """Δ for this space from Δ for the network's input (B, K, C, H, W), by the chain rule.

        Also what the normalisation adds to the score, (B, K), or None where there is none.
        """
        if self.name == "input" or self.preprocessing is None:
            return weights, None
        return carried_to_pixels(weights, self.preprocessing)


def carried_to_pixels(weights: Tensor, preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """Δ for pixels in [0, 1] from Δ for the normalised input (B, K, C, H, W), by the chain rule.

    Also what the normalisation adds to the score, (B, K) float64.
    """
    mean, std = (
        torch.tensor(v, dtype=torch.float64, device=weights.device).reshape(-1, 1, 1)
        for v in (preprocessing.mean, preprocessing.std)
    )
    exact = weights.double()
    shift = -(exact * (mean / std)).flatten(2).sum(2)
    return (exact / std).to(weights.dtype), shift


def as_numbers(given: Any, like: Tensor) -> Tensor:
    """A number or a tensor in the dtype and on the device of another, rounded once at most."""
    dtype = like.dtype if isinstance(given, int | float) else None
    return torch.as_tensor(given, dtype=dtype).to(like)


def _refuse_strange(tensor: Tensor) -> None:
    """Only plain tensors hold an image."""
    kind = ""
    if tensor.is_nested or isinstance(tensor, torch.masked.MaskedTensor):
        kind = "nested" if tensor.is_nested else "masked"
    elif tensor.layout != torch.strided:
        kind = "sparse"
    elif tensor.device.type == "meta":
        kind = "meta"
    if kind:
        raise InputError(f"a {kind} tensor is no image; give a plain one, with all its numbers")


def unexpanded(tensor: Tensor) -> Tensor:
    """A tensor with size 1 in every dimension along which `expand` only repeats it."""
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    kept = tuple(slice(0, 1) if size and not stride else slice(None) for size, stride in pairs)
    return tensor[kept].contiguous()


def dtype_and_device(model: nn.Module) -> tuple[torch.dtype, torch.device]:
    """What a model's first floating-point tensor is and where it lies."""
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype, tensor.device
    return torch.get_default_dtype(), torch.device("cpu")


def is_finite(tensor: Tensor) -> bool:
    """Whether no entry is NaN or Inf; a finite sum shows it at once."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def refuse_nonfinite(logits: Tensor, first: int) -> None:
    """Raise InputError where a network returns NaN or Inf; `first` is the number of row 0."""
    finite = torch.isfinite(logits)
    if not finite.all():
        bad = (~finite).any(1).nonzero()
        raise InputError(f"the network returns NaN or Inf for image {first + int(bad[0])}")


def displayable(X: Tensor) -> Image.Image | None:
    """A tensor image (C, H, W) as something to look at, where it holds pixels in [0, 1]."""
    if X.ndim != 3 or X.shape[0] not in (1, 3) or X.min() < 0 or X.max() > 1:
        return None
    array = (X * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array.squeeze(-1) if array.shape[2] == 1 else array)


def _input_channels(model: nn.Module) -> int:
    """1 where the first convolution takes grey images, else 3."""
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    return 1 if first is not None and first.in_channels == 1 else 3
