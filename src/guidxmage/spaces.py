"""Explanations in other spaces: the photo at its own size, or the network's normalised input.

Resizing is linear, so its transpose carries Δ from what the network sees to the photo's own pixels.
Pillow rounds what it resizes to whole grey levels; that remainder is known, and part of the bias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from guidxmage.engine.symbolic import Network
from guidxmage.errors import InputError, UnsupportedOperatorError
from guidxmage.exactness import exactness_of
from guidxmage.explanation import Explanation
from guidxmage.images import read_image
from guidxmage.inputs import Images, unexpanded
from guidxmage.preprocessing import Preprocessing

if TYPE_CHECKING:
    from guidxmage.explainer import Explainer

Space = Literal["photo", "pixels", "input"]
SPACES: tuple[str, ...] = get_args(Space)
# Call sites of the bias that this module adds.
ROUNDING, REFERENCE = "resize rounding", "reference"


@dataclass(frozen=True)
class PhotoMap:
    """What the network sees of images Z (…, C, h, w) of a photo's size.

    It is seen + rows (Z − P) columnsᵀ. rows (H, h) and columns (W, w): resize and crop, of each
    column and of each row of pixels; photo P (C, h, w); seen (C, H, W): what Pillow made of it. All
    float64, P as it is in the network's dtype.
    """

    rows: Tensor
    columns: Tensor
    photo: Tensor
    seen: Tensor

    @classmethod
    def of(cls, preprocessing: Preprocessing, photo: Image.Image, dtype: torch.dtype) -> PhotoMap:
        """The map of one photo, read in the preprocessing's mode."""
        rows, columns = preprocessing.resize_matrices(photo.size[::-1])
        seen = _planes(preprocessing.crop_image(photo))
        return cls(rows, columns, _planes(photo).to(dtype).double(), seen)

    def __call__(self, Z: Tensor) -> Tensor:
        """What the network sees of images (…, C, h, w), float64 (…, C, H, W); of P bit for bit."""
        moved = self.rows @ (Z.double().cpu() - self.photo) @ self.columns.t()
        return (self.seen + moved).to(Z.device)

    def adjoint(self, weights: Tensor) -> Tensor:
        """Weights (…, C, H, W) on what is seen as weights (…, C, h, w) on the photo, float64."""
        return (self.rows.t() @ weights.double().cpu() @ self.columns).to(weights.device)

    @property
    def remainder(self) -> Tensor:
        """(C, H, W): what rounding and clipping to grey levels added to the resized photo."""
        return self.seen - self.rows @ self.photo @ self.columns.t()


def explained_in(
    space: str | None,
    explainer: Explainer,
    image: Images,
    target: Any,
    reference: Tensor | float | None,
) -> Explanation:
    """What `Explainer.explain` returns for a space that is not the explainer's own."""
    if space not in SPACES:
        raise InputError(f"space {space!r} is unknown; choose one of {', '.join(SPACES)}")
    if explainer.space != "pixels" or explainer.preprocessing is None:
        raise InputError(
            f"space={space!r} needs a preprocessing whose resize, crop and normalisation are "
            "known; this explainer's is not"
        )
    if space == "input":
        return on_input(explainer.explain(image, target), reference)
    if isinstance(image, Tensor) or (isinstance(image, Sequence) and not isinstance(image, str)):
        raise InputError("space='photo' explains a single photo: a path, a PIL image or an array")
    photo = read_image(image, explainer.preprocessing.mode)
    return on_photo(explainer.explain(photo, target), photo, reference)


def on_photo(
    explanation: Explanation, photo: Image.Image, reference: Tensor | float | None = None
) -> Explanation:
    """An explanation of one photo, in pixels, as one of the photo at its own size.

    Raises InputError for another space, for a batch, and for a photo or reference that does not
    fit.
    """
    preprocessing = explanation.preprocessing
    if explanation.space != "pixels" or preprocessing is None or explanation.batched:
        raise InputError(
            "only the explanation of a single photo whose preprocessing is known can be carried "
            "over to the photo's own pixels"
        )
    return _on_photo(
        explanation, PhotoMap.of(preprocessing, photo, explanation.weights.dtype), photo, reference
    )


def on_input(explanation: Explanation, reference: Tensor | float | None = None) -> Explanation:
    """An explanation in pixels as one of the network's own normalised input, where grey is 0.

    Raises InputError for another space and for a reference that does not fit.
    """
    preprocessing = explanation.preprocessing
    if explanation.space != "pixels" or preprocessing is None:
        raise InputError("this explanation is not in pixels; only those can be carried over")
    X = preprocessing.from_pixels(explanation.input)
    std = torch.tensor(preprocessing.std, dtype=torch.float64, device=X.device)[:, None, None]
    shift = explanation.bias_by_layer["preprocessing"]
    by_layer = {k: v for k, v in explanation.bias_by_layer.items() if k != "preprocessing"}
    network = explanation.symbolic_model.network
    return _restated(
        replace(explanation, bias_by_layer=by_layer, input=X, space="input"),
        explanation.weights.double() * std,
        explanation.symbolic_model.bias - shift,
        None if network is None else replace(network, to_input=lambda Z: Z),
        reference,
    )


def _on_photo(
    explanation: Explanation,
    there: PhotoMap,
    photo: Image.Image,
    reference: Tensor | float | None,
) -> Explanation:
    seen = explanation.weights
    rounding = (seen.double() * there.remainder.to(seen.device)).flatten(-3).sum(-1)
    network = explanation.symbolic_model.network
    return _restated(
        replace(
            explanation,
            bias_by_layer={ROUNDING: rounding, **explanation.bias_by_layer},
            input=there.photo.to(seen),
            pictures=(photo,),
            space="photo",
        ),
        there.adjoint(seen),
        explanation.symbolic_model.bias + rounding,
        None if network is None else through_photo(network, there, seen.dtype),
        reference,
    )


def _restated(
    explanation: Explanation,
    weights: Tensor,
    model_bias: Tensor,
    network: Network | None,
    reference: Tensor | float | None,
) -> Explanation:
    """With Δ (float64) and bias of the space that its input and its bias by layer are already in.

    The explanation has no reference so far.
    """
    X, dtype = explanation.input, explanation.weights.dtype
    per_target = explanation.batched and explanation.several
    X = X[:, None] if per_target else X
    R = _reference(reference, X)
    exact = weights * (X.double() - R)
    printed = exact.to(dtype)
    bias, by_layer = model_bias, explanation.bias_by_layer
    if reference is not None:
        by_layer = {**by_layer, REFERENCE: (weights * R).flatten(-3).sum(-1)}
        bias = bias + by_layer[REFERENCE]
    total = printed.flatten(-3).sum(-1, dtype=torch.float64)
    residual = explanation.score.double() - total - bias
    bound = explanation.residual_bound + _rounding(exact, dtype)
    smooth = bool(explanation.trail.gates)
    return replace(
        explanation,
        weights=weights.to(dtype),
        contributions=printed,
        bias=bias,
        bias_by_layer=by_layer,
        residual=residual,
        residual_bound=bound,
        exactness=exactness_of(smooth=smooth, residual=residual, bound=bound),
        reference=None if reference is None else unexpanded(R[:, 0] if per_target else R),
        symbolic_model=replace(
            explanation.symbolic_model,
            weights=weights.to(dtype),
            bias=model_bias,
            network=network,
            input=explanation.input,
        ),
    )


def through_photo(network: Network, there: PhotoMap, dtype: torch.dtype) -> Network:
    """A network of pixels as one of photos; at the photo itself its input is the same bit for bit.

    The map is taken in float64, whose rounding vanishes in a narrower dtype.
    """
    return replace(network, to_input=lambda Z: network.to_input(there(Z).to(dtype)))


def with_network(
    explanation: Explanation,
    network: Callable[[Tensor], Network],
    space: str,
    preprocessing: Preprocessing | None,
) -> Explanation:
    """A loaded explanation with its network again.

    network gives that of an explainer's `space`, preprocessing is the explainer's. Raises
    InputError where the explainer does not know the way from the explanation's space, and where the
    trail is not one of its network.
    """
    if explanation.space not in SPACES:
        raise InputError(f"the explanation is in space {explanation.space!r}, which is none")
    images = explanation.input if explanation.batched else explanation.input[None]
    if explanation.space == space:
        return _joined_to(explanation, network(images))
    if space != "pixels" or explanation.preprocessing is None:
        raise InputError(
            f"the explanation is in space {explanation.space!r}, which an explainer of "
            f"{space!r} has no way to; load it with the explainer that made it"
        )
    if explanation.preprocessing != preprocessing:
        raise InputError(
            "the explanation was made with another preprocessing than the explainer's; load it "
            "with the explainer that made it"
        )
    if explanation.space == "input":
        pixels = explanation.preprocessing.to_pixels(images)
        return _joined_to(explanation, replace(network(pixels), to_input=lambda Z: Z))
    photo = explanation.pictures[0]
    if photo is None or explanation.batched:
        raise InputError("the explanation of a photo's own pixels lacks the photo")
    there = PhotoMap.of(explanation.preprocessing, photo, explanation.weights.dtype)
    seen = network(there.seen[None].to(explanation.weights))
    return _joined_to(explanation, through_photo(seen, there, explanation.weights.dtype))


def _joined_to(explanation: Explanation, network: Network) -> Explanation:
    _check_trail(explanation, network)
    model = replace(explanation.symbolic_model, network=network)
    return replace(explanation, symbolic_model=model)


def _check_trail(explanation: Explanation, network: Network) -> None:
    """Raise InputError for a trail that the network cannot follow: it was read from a file."""
    images = explanation.input if explanation.batched else explanation.input[None]
    try:
        for row, image in enumerate(images):
            own = network.record(image[None])[1]
            own.same(explanation.trail.image(row))  # the same sites, of the same sizes
            network.program.push(explanation.trail.image(row), network.to_input(image[None]))
    except UnsupportedOperatorError:
        raise
    # Positions outside of their windows make PyTorch raise what it raises for an index.
    except (InputError, RuntimeError, IndexError, LookupError, ValueError) as error:
        raise InputError(
            "the explanation's trail is not one of this explainer's network; load it with the "
            "explainer that made it"
        ) from error


def _planes(image: Image.Image) -> Tensor:
    """Pixels in [0, 1], float64 (C, H, W)."""
    pixels: Any = np.asarray(image, dtype=np.float64) / 255
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)


def _reference(reference: Tensor | float | None, X: Tensor) -> Tensor:
    R = torch.as_tensor(0.0 if reference is None else reference).to(X.device, torch.float64)
    try:
        R = R.expand(X.shape)
    except RuntimeError as error:
        raise InputError(
            f"the reference of shape {tuple(R.shape)} does not fit images of {tuple(X.shape[-3:])}"
        ) from error
    if not torch.isfinite(R).all():
        raise InputError("the reference holds NaN or Inf")
    return R


def _rounding(contributions: Tensor, dtype: torch.dtype) -> Tensor:
    """What rounding the printed products adds to the residual, six standard deviations."""
    norms: Tensor = torch.linalg.vector_norm(contributions.flatten(-3), dim=-1)
    return 6 * torch.finfo(dtype).eps * norms
