"""The way from the explained space into the network's input: whether it is the one that is stated.

It is affine; weights, and what rounding explains of them, are carried back along it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guidxmage.attribution.attribution import Attribution
from guidxmage.attribution.change_space import ROUNDING
from guidxmage.engine.symbolic import Network
from guidxmage.inputs.photo_map import PhotoMap
from guidxmage.inputs.preprocessing import Preprocessing
from guidxmage.inputs.reference import PREPROCESSING


@dataclass(frozen=True)
class Way:
    """Of one image: from pixels through `preprocessing`, from a photo through `photo` before it.

    Both are None where the network's own input is explained.
    """

    preprocessing: Preprocessing | None
    photo: PhotoMap | None

    @classmethod
    def of(cls, image: Attribution, network: Network) -> Way | str:
        """The way of a single image; a sentence where it is not what the explanation states."""
        described, picture = image.preprocessing, image.pictures[0]
        if image.space == "input":
            way = cls(None, None)
        elif image.space == "pixels" and described is not None:
            way = cls(described, None)
        elif image.space == "photo" and described is not None and picture is not None:
            way = cls(described, PhotoMap.of(described, picture, image.weights.dtype))
        else:
            return f"from the space {image.space!r} there is no way into the network"
        Z = image.input[None]
        try:
            same = torch.equal(way(Z), network.to_input(Z))
        except (RuntimeError, ValueError):  # another number of channels, or another size
            same = False
        return way if same else f"the way from {image.space!r} into the network is another"

    def __call__(self, Z: Tensor) -> Tensor:
        """Images (…, C, H, W) as the network takes them."""
        seen = Z if self.photo is None else self.photo(Z).to(Z)
        return seen if self.preprocessing is None else self.preprocessing.from_pixels(seen)

    def weights(self, on_input: Tensor) -> Tensor:
        """Float64 weights (…, C, H, W) on the input as weights in the explained space."""
        pixels = on_input / self._scale(on_input)
        return pixels if self.photo is None else self.photo.adjoint(pixels)

    def deviations(self, on_input: Tensor) -> Tensor:
        """The same of standard deviations of independent errors."""
        pixels = on_input / self._scale(on_input)
        if self.photo is None:
            return pixels
        rows, columns = self.photo.rows.square(), self.photo.columns.square()
        return (rows.t() @ pixels.square().cpu() @ columns).sqrt().to(pixels.device)

    def shares(self, on_input: Tensor) -> dict[str, float]:
        """What the way itself adds to the score, by its name among the bias's call sites."""
        return {
            name: float((on_input * added).sum()) for name, added in self._added(on_input).items()
        }

    def share_deviations(self, on_input: Tensor) -> dict[str, float]:
        """The same of standard deviations."""
        return {
            name: float((on_input * added).square().sum()) ** 0.5
            for name, added in self._added(on_input).items()
        }

    def _added(self, like: Tensor) -> dict[str, Tensor]:
        """What the network is given by each part of the way where the image is 0."""
        if self.preprocessing is None:
            return {}
        mean = torch.tensor(self.preprocessing.mean, dtype=torch.float64, device=like.device)
        found = {PREPROCESSING: -mean.reshape(-1, 1, 1) / self._scale(like)}
        if self.photo is not None:
            found[ROUNDING] = self.photo.remainder.to(like.device) / self._scale(like)
        return found

    def _scale(self, like: Tensor) -> Tensor:
        std = (1.0,) if self.preprocessing is None else self.preprocessing.std
        scale = torch.tensor(std, dtype=torch.float64, device=like.device)
        return scale.reshape(-1, 1, 1) if self.preprocessing is not None else scale
