"""The whole score on the picture at a depth that was not asked for at once: one more run."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from guidxmage.attribution.attribution import Attribution
from guidxmage.attribution.change_space import placed_on_photo
from guidxmage.attribution.depths import chosen
from guidxmage.attribution.placement import Placement, joined_cuts, place, placement
from guidxmage.engine.capture.user_model import untouched
from guidxmage.engine.program.program import Program
from guidxmage.engine.symbolic import drop_axes, pull_targets
from guidxmage.engine.trail.trail import Trail
from guidxmage.errors import InputError
from guidxmage.inputs.input_space import carried_to_pixels, dtype_and_device
from guidxmage.inputs.photo_map import PhotoMap

_ROWS = 8  # image-target pairs that are run at once


def placed_later(found: Attribution, depth: Any) -> tuple[Placement, ...]:
    """The placements of an attribution at a depth, or at several.

    Raises InputError for a depth that there is not, and without the network.
    """
    network = found.symbolic_model.network
    if network is None:
        raise InputError(
            "the explanation was loaded without its network; load it with "
            "Explanation.load(path, explainer=…), or ask for the depth when explaining"
        )
    images = found.input if found.batched else found.input[None]
    if network.model is not None and dtype_and_device(network.model)[0] != images.dtype:
        raise _changed()
    with nullcontext() if network.model is None else untouched(network.model):
        made = placed_by(found, network.program, network.to_input(images), depth)
    if not all(bool((one.residual.abs() <= one.residual_bound).all()) for one in made):
        raise _changed()
    return made


def _changed() -> InputError:
    return InputError(
        "the network is not as it was when this explanation was made: its maps no longer add up "
        "to the score; explain the image again"
    )


def placed_by(
    found: Attribution, program: Program, given: Tensor, depth: Any, trail: Trail | None = None
) -> tuple[Placement, ...]:
    """The placements that a program makes of an attribution's images, given to it (B, C, …).

    trail: along which to pull; by default that of each image in this program.
    """
    cuts, cotangents = chosen(program, depth), found.symbolic_model.cotangent.to(given)
    parts = [
        place(
            cuts,
            given[n : n + 1],
            cotangents[:, n : n + 1],
            _ROWS,
            None if trail is None else trail.image(n),
        )
        for n in range(len(given))
    ]
    score = found.score if found.batched else found.score[None]
    score = score if found.several else score[:, None]
    unit = torch.finfo(given.dtype).eps / 2
    made = [placement(one, score, unit, found.batched, found.several) for one in joined_cuts(parts)]
    if found.space == "photo":
        made = _on_photo(found, program, cotangents, made)
    return tuple(one.beside(found.pixel_contributions()) for one in made)


def _on_photo(
    found: Attribution, program: Program, cotangents: Tensor, made: list[Placement]
) -> list[Placement]:
    """From what the network sees to the photo's own pixels; it is a single photo."""
    preprocessing, photo = found.preprocessing, found.pictures[0]
    if preprocessing is None or photo is None:
        raise InputError("the explanation of a photo's own pixels lacks the photo")
    there = PhotoMap.of(preprocessing, photo, found.weights.dtype)
    pulled = pull_targets(program, found.trail, cotangents, rows=_ROWS)
    weights, _ = carried_to_pixels(pulled.weights, preprocessing)
    seen = drop_axes(weights, found.batched, found.several)
    return [placed_on_photo(one, seen, there, preprocessing) for one in made]
