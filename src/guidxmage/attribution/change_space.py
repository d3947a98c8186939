"""Explanations in other spaces: the photo at its own size, or the network's normalised input.

Resizing is linear, so its transpose carries Δ from what the network sees to the photo's own pixels.
Pillow rounds what it resizes to whole grey levels; that remainder is known, and part of the bias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeVar, get_args

import torch
from PIL import Image
from torch import Tensor

from guidxmage.attribution.attribution import Attribution
from guidxmage.attribution.exactness import exactness_of
from guidxmage.attribution.placement import Placement
from guidxmage.engine.program.places import INPUT
from guidxmage.engine.symbolic import Network
from guidxmage.errors import InputError, UnsupportedOperatorError
from guidxmage.inputs.input_space import Images, InputSpace, unexpanded
from guidxmage.inputs.multi_input import Shapes
from guidxmage.inputs.photo_map import PhotoMap
from guidxmage.inputs.photos import read_image
from guidxmage.inputs.preprocessing import Preprocessing
from guidxmage.inputs.reference import (
    BLACK,
    PADDING,
    PREPROCESSING,
    REFERENCE,
    Reference,
    is_zero,
    reference_of_input,
    reference_of_photo,
    zero_of,
)

Space = Literal["photo", "pixels", "input"]
SPACES: tuple[str, ...] = get_args(Space)
# Call site of the bias that this module adds.
ROUNDING = "resize rounding"

A = TypeVar("A", bound=Attribution)


class Door(Protocol):
    """What knows the network of an explanation: the `Explainer` that made it."""

    @property
    def space(self) -> str:
        """The space that it explains."""

    @property
    def preprocessing(self) -> Preprocessing | None:
        """The preprocessing where it is known."""

    def network(self, images: Tensor) -> Network:
        """The network as it runs on images of that space."""

    def of_inputs(self, shapes: Shapes) -> Door:
        """The same for several inputs, laid end to end."""


@dataclass(frozen=True)
class SpaceChange:
    """From an explainer's own space to the one that is asked for.

    image: what is read in its own space. reference: R of that space; black where the space changes,
    as R is one of the other. carry: what an attribution in its own space is in the other.
    """

    image: Images
    reference: Reference
    carry: Callable[[Attribution], Attribution]


def space_change(
    space: str | None, own: InputSpace, image: Images, reference: Reference
) -> SpaceChange:
    """How an image is explained in a space, None for the explainer's own. Raises InputError."""
    if space in (None, own.name):
        return SpaceChange(image, reference, lambda found: found)
    if space not in SPACES:
        raise InputError(f"space {space!r} is unknown; choose one of {', '.join(SPACES)}")
    if own.name != "pixels" or own.preprocessing is None:
        raise InputError(
            f"space={space!r} needs a preprocessing whose resize, crop and normalisation are "
            "known; this explainer's is not"
        )
    if space == "input":
        return SpaceChange(image, BLACK, lambda found: on_input(found, reference))
    if isinstance(image, Tensor) or (isinstance(image, Sequence) and not isinstance(image, str)):
        raise InputError("space='photo' explains a single photo: a path, a PIL image or an array")
    photo = read_image(image, own.preprocessing.mode)
    return SpaceChange(photo, BLACK, lambda found: on_photo(found, photo, reference))


def on_photo(explanation: A, photo: Image.Image, reference: Reference = None) -> A:
    """An explanation of one photo, in pixels, as one of the photo at its own size.

    reference: R in the photo's pixels, as for `Explainer.explain`; by default the network's zero.
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


def on_input(explanation: A, reference: Reference = None) -> A:
    """An explanation in pixels as one of the network's own normalised input.

    reference: R in that space, as for `Explainer.explain`; by default 0, the network's zero.
    Raises InputError for another space and for a reference that does not fit.
    """
    preprocessing = explanation.preprocessing
    if explanation.space != "pixels" or preprocessing is None:
        raise InputError("this explanation is not in pixels; only those can be carried over")
    X = preprocessing.from_pixels(explanation.input)
    std = torch.tensor(preprocessing.std, dtype=torch.float64, device=X.device)[:, None, None]
    shares = model_shares(explanation)
    shift = shares.pop(PREPROCESSING)
    network = explanation.symbolic_model.network
    return _restated(
        replace(explanation, bias_by_layer=shares, input=X, space="input"),
        explanation.weights.double() * std,
        explanation.symbolic_model.bias - shift,
        None if network is None else replace(network, to_input=lambda Z: Z),
        reference_of_input(reference, X.double(), preprocessing),
    )


def model_shares(explanation: Attribution) -> dict[str, Tensor]:
    """The symbolic model's bias by call site.

    What the normalisation adds is the rest: explanations from the network's zero leave it out.
    """
    by_layer, bias = explanation.bias_by_layer, explanation.symbolic_model.bias
    if explanation.space == "input":
        return {site: by_layer[site] for site in by_layer if site != REFERENCE}
    others = (PREPROCESSING, REFERENCE, PADDING)
    shares = {site: by_layer[site] for site in by_layer if site not in others}
    return {PREPROCESSING: bias - sum(shares.values()), **shares}


def _on_photo(
    explanation: A,
    there: PhotoMap,
    photo: Image.Image,
    reference: Reference,
) -> A:
    seen, preprocessing = explanation.weights, explanation.preprocessing
    assert preprocessing is not None
    rounding = (seen.double() * there.remainder.to(seen.device)).flatten(-3).sum(-1)
    shares = {ROUNDING: rounding, **model_shares(explanation)}
    X = there.photo.to(seen)
    R = reference_of_photo(reference, X.double(), preprocessing)
    if is_zero(R, "photo", preprocessing):
        del shares[PREPROCESSING]
        if bool(there.padding.any()):  # it is black, not the network's zero
            mean = torch.tensor(preprocessing.mean, dtype=torch.float64)[:, None, None]
            added = (mean * there.padding).to(seen.device)
            shares[PADDING] = -(seen.double() * added).flatten(-3).sum(-1)
    network = explanation.symbolic_model.network
    placed = tuple(
        placed_on_photo(one, seen, there, preprocessing) for one in explanation.placements
    )
    return _restated(
        replace(
            explanation,
            bias_by_layer=shares,
            input=X,
            pictures=(photo,),
            space="photo",
            placements=placed,
        ),
        there.adjoint(seen),
        explanation.symbolic_model.bias + rounding,
        None if network is None else through_photo(network, there, seen.dtype),
        R,
    )


def _restated(
    explanation: A, weights: Tensor, model_bias: Tensor, network: Network | None, R: Tensor | None
) -> A:
    """With Δ (float64) and bias of the space that its input and its bias by layer are already in.

    R: float64 and of the input's shape, None where it is 0.
    """
    X, dtype = explanation.input.double(), explanation.weights.dtype
    by_layer = dict(explanation.bias_by_layer)
    counted = X if R is None else X - R
    per_target = explanation.batched and explanation.several
    exact = weights * (counted[:, None] if per_target else counted)
    printed = exact.to(dtype)
    kept_R = None if R is None else unexpanded(R)
    if R is not None and not is_zero(kept_R, explanation.space, explanation.preprocessing):
        by_layer[REFERENCE] = (weights * (R[:, None] if per_target else R)).flatten(-3).sum(-1)
    bias = sum(by_layer.values(), torch.zeros_like(model_bias))
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
        reference=kept_R,
        placements=tuple(one.beside(printed.sum(-3)) for one in explanation.placements),
        symbolic_model=replace(
            explanation.symbolic_model,
            weights=weights.to(dtype),
            bias=model_bias,
            network=network,
            input=explanation.input,
        ),
    )


def placed_on_photo(
    one: Placement, weights: Tensor, there: PhotoMap, preprocessing: Preprocessing
) -> Placement:
    """The whole map of what the network sees as one of the photo; weights (…, C, H, W) there.

    The pixels' own part is counted from the network's zero.
    """
    whole = one.whole
    if one.depth.site == INPUT:  # the pixels' own part, by the exact adjoint of the resizing
        zero = zero_of("photo", preprocessing)
        photo = there.photo if zero is None else there.photo - zero
        resized = (there.rows @ photo @ there.columns.t()).to(weights.device)
        photo = photo.to(weights.device)
        seen = (weights.double() * resized).sum(-3)
        whole = (there.adjoint(weights) * photo).sum(-3) + there.shares(whole - seen)
    else:
        whole = there.shares(whole)
    residual = one.residual + one.whole.sum((-2, -1)) - whole.sum((-2, -1))
    return replace(
        one,
        whole=whole,
        placed_bias=there.shares(one.placed_bias),
        residual=residual,
        residual_bound=one.residual_bound + _rounding(whole[..., None, :, :], torch.float64),
        sigma=one.sigma * there.scale,
    )


def through_photo(network: Network, there: PhotoMap, dtype: torch.dtype) -> Network:
    """A network of pixels as one of photos; at the photo itself its input is the same bit for bit.

    The map is taken in float64, whose rounding vanishes in a narrower dtype.
    """
    return replace(network, to_input=lambda Z: network.to_input(there(Z).to(dtype)))


def with_network(explanation: A, door: Door) -> A:
    """A loaded explanation with its network again.

    Raises InputError where the explainer does not know the way from the explanation's space, and
    where the trail is not one of its network.
    """
    space, network = door.space, door.network
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
    if explanation.preprocessing != door.preprocessing:
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


def _joined_to(explanation: A, network: Network) -> A:
    _check_trail(explanation, network)
    model = replace(explanation.symbolic_model, network=network)
    return replace(explanation, symbolic_model=model)


def _check_trail(explanation: Attribution, network: Network) -> None:
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


def _rounding(contributions: Tensor, dtype: torch.dtype) -> Tensor:
    """What rounding the printed products adds to the residual, six standard deviations."""
    norms: Tensor = torch.linalg.vector_norm(contributions.flatten(-3), dim=-1)
    return 6 * torch.finfo(dtype).eps * norms
