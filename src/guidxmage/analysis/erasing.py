"""Erase an area and check: what the symbolic model predicts, and what the network really does.

f(Z) = ⟨Δ, Z⟩ + b holds wherever the trail is followed. Other pixels in an area may flip decisions,
and then the network says something else: the gap between the two is what the flips are worth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from guidxmage.attribution.assemble import rounding_bound
from guidxmage.attribution.attribution import Attribution
from guidxmage.attribution.exactness import ROUNDING_DEVIATIONS
from guidxmage.attribution.placement import smoothed
from guidxmage.engine.capture.as_found import running
from guidxmage.engine.capture.user_model import untouched
from guidxmage.engine.program.program import Program
from guidxmage.engine.program.steps import Recording
from guidxmage.engine.symbolic import Network, pull_targets
from guidxmage.engine.trail.distance import Distance
from guidxmage.errors import InputError, OffTrailError
from guidxmage.inputs.input_space import Photo, dtype_and_device
from guidxmage.inputs.reference import BLACK, ZERO, filling
from guidxmage.reports.short_repr import short_repr

BLUR = "blur"
# Of the blur, in shorter sides of the picture: little of an object is left to be seen.
_BLURRED = 1 / 16
Answer = tuple[int, str]
Fill = Tensor | float | Photo


@dataclass(frozen=True, eq=False)
class Erasing:
    """What became of one score when an area of the image was given other pixels.

    area (H, W) bool; fill: what it was filled with, in words; erased (C, H, W): the image with the
    area erased, in the explained space; logits (classes): the network's own for it. before: the
    score; predicted: f(erased) by the symbolic model; after: what the network gives. bound: how
    large |gap| may be by rounding alone, while no decision flips. distance: the decisions that
    flipped, layer by layer. smooth: whether the network has smooth operators, so that even without
    a flip the prediction is that of an affine model. follows: whether the trail is the same, and
    so are the numbers at smooth operators. answer_before, answer_after: best class and its name.
    """

    area: Tensor
    fill: str
    erased: Tensor
    logits: Tensor
    before: float
    predicted: float
    after: float
    bound: float
    distance: Distance
    smooth: bool
    follows: bool
    answer_before: Answer
    answer_after: Answer
    target_name: str
    picture: NDArray[np.uint8] | None

    __repr__ = short_repr

    @property
    def pixels(self) -> int:
        """How many pixels were erased."""
        return int(self.area.sum())

    @property
    def predicted_change(self) -> float:
        """By the symbolic model."""
        return self.predicted - self.before

    @property
    def real_change(self) -> float:
        """Of the network's own score."""
        return self.after - self.before

    @property
    def gap(self) -> float:
        """What the network gives beyond the prediction: after − predicted."""
        return self.after - self.predicted

    @property
    def decisions(self) -> int:
        """How many decisions the network takes on the image."""
        return sum(self.distance.decisions.values())

    @property
    def flipped(self) -> int:
        """How many of them it takes otherwise once the area is erased."""
        return int(self.distance.total)

    @property
    def flipped_by_layer(self) -> dict[str, tuple[int, int]]:
        """Call site → how many of its decisions flipped, and how many it has."""
        layers = self.distance.by_layer.items()
        return {site: (int(n), self.distance.decisions[site]) for site, n in layers}

    @property
    def sentence(self) -> str:
        """All of it in words."""
        what = "1 pixel" if self.pixels == 1 else f"{self.pixels:,} pixels"
        changes = (
            f"{what} filled with {self.fill}: of {self.target_name} the symbolic model predicts "
            f"{self.predicted_change:+.6g}, the network makes {self.real_change:+.6g}"
        )
        return f"{changes}; {self._why()}".replace(" -", " −")

    def _why(self) -> str:
        gap = f"the gap of {self.gap:+.3g}"
        if self.follows:
            return f"no decision flipped: {gap} is rounding, which explains up to {self.bound:.1e}"
        if self.decisions:
            share = f"{self.flipped:,} of {self.decisions:,} decisions flipped"
        else:
            share = "there are no decisions to flip"
        if self.smooth:
            return (
                f"{share}, and smooth operators make the prediction that of an affine model of "
                f"this image alone: {gap} is theirs"
            )
        return f"{share}: {gap} is theirs"

    def __str__(self) -> str:
        return self.sentence


def erase(
    explanation: Attribution, area: Any, fill: Fill = ZERO, *, sigma: float | None = None
) -> Erasing:
    """Give an area of an explained image other pixels, and ask both the model and the network.

    explanation: of one image and one target, with its network. area: bool (H, W), True where
    pixels are erased, at the size of the explanation's input. fill: "zero" (the network's zero),
    "black", "blur" (the picture through a Gaussian of `sigma` pixels, by default a sixteenth of the
    shorter side), a number or a tensor of the explained space that fits (C, H, W), or an image. In
    space "photo" the network is given the affine map of the photo, without Pillow's rounding of
    what changed.

    The network, its mode and random states are left untouched. Raises InputError for what does not
    fit, for an explanation without its network, and where the network has changed since.
    """
    if explanation.batched or explanation.several:
        raise InputError("erase() is for one image and target; index the explanation first")
    (network, model), X = _network(explanation), explanation.input
    erased_at = _area(area, X)
    R, words = _filling(explanation, fill, sigma)
    erased = torch.where(erased_at, R, X)
    before, after, logits = _scores(explanation, erased)
    predicted, trail = _predicted(explanation, erased), explanation.trail
    with untouched(model):
        recording, program = _recorded(network, erased)
        follows = bool(trail.same(recording.trail))
        # A gap that flips have made says nothing of how large rounding is at worst.
        rounded = after - predicted if follows else 0.0
        bound = _bound(explanation, erased, (recording, program), rounded)
    return Erasing(
        area=erased_at,
        fill=words,
        erased=erased,
        logits=logits,
        before=before,
        predicted=predicted,
        after=after,
        bound=bound,
        distance=trail.distance(recording.trail),
        smooth=bool(trail.gates),
        follows=follows,
        answer_before=_best(explanation, explanation.logits),
        answer_after=_best(explanation, logits),
        target_name=str(explanation.target_name),
        picture=shown(explanation, erased),
    )


def _network(explanation: Attribution) -> tuple[Network, nn.Module]:
    """The network that was explained. Raises InputError where it is not at hand."""
    network = explanation.symbolic_model.network
    if network is None or network.model is None:
        raise InputError(
            "the explanation was loaded without its network, or is none of one region; make it "
            "with an Explainer, or load it with Explanation.load(path, explainer=…)"
        )
    return network, network.model


def _scores(explanation: Attribution, erased: Tensor) -> tuple[float, float, Tensor]:
    """The score that was explained, and the network's own of the erased image, with its logits."""
    check_unchanged(explanation)
    network, model = _network(explanation)
    with running(model):
        logits = model(network.to_input(erased[None]).clone()).detach()[0]
    functional = explanation.symbolic_model.cotangent[0, 0]
    before, after = (float((functional * scores).sum()) for scores in (explanation.logits, logits))
    if not bool(torch.isfinite(logits).all()):
        raise InputError("the network returns NaN or Inf once the area is erased")
    return before, after, logits


def check_unchanged(explanation: Attribution) -> None:
    """Raise InputError where the network gives the explained image another score by now.

    explanation: of one image and one target.
    """
    (network, model), X = _network(explanation), explanation.input
    with running(model):
        if dtype_and_device(model)[0] != X.dtype:
            raise _changed()
        own = model(network.to_input(X[None]).clone()).detach()[0]
    functional = explanation.symbolic_model.cotangent[0, 0]
    before, again = (float((functional * scores).sum()) for scores in (explanation.logits, own))
    if not abs(again - before) <= 2 * float(explanation.residual_bound):
        raise _changed()


def _changed() -> InputError:
    return InputError(
        "the network is not as it was when this explanation was made: it gives the image another "
        "score; explain the image again"
    )


def _area(area: Any, X: Tensor) -> Tensor:
    """The area as bool on the image's device, (H, W) or with the frames of a video."""
    try:
        given = torch.as_tensor(area)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"an area is a bool array (H, W), not {type(area).__name__}") from error
    if given.dtype != torch.bool:
        raise InputError("the area must be boolean: True where pixels are erased")
    picture = tuple(X.shape[1:])
    if len(picture) < 2 or tuple(given.shape) not in (picture, picture[-2:]):
        raise InputError(
            f"an area of shape {tuple(given.shape)} does not fit an image of {picture}"
        )
    if not bool(given.any()):
        raise InputError("the area has no pixel; there is nothing to erase")
    return given.to(X.device)


def _filling(explanation: Attribution, fill: Fill, sigma: float | None) -> tuple[Tensor, str]:
    """What the area is filled with, of the shape of the image, and its words."""
    X = explanation.input
    blurs = isinstance(fill, str) and fill == BLUR
    if sigma is not None and not blurs:
        raise InputError('sigma is for fill="blur"')
    if blurs:
        chosen = max(1.0, min(X.shape[-2:]) * _BLURRED) if sigma is None else sigma
        blurred = smoothed(X, chosen, leading=X.ndim - 2).to(X)
        return blurred, f"the picture's blur (σ = {chosen:.4g} pixels)"
    known = explanation.preprocessing
    if explanation.space == "input" and explanation.picture() is None:
        # An identity stands where no preprocessing was given: it says nothing of black.
        plain = known is not None and not any(known.mean) and set(known.std) == {1.0}
        known = None if plain else known
    R = filling(fill, X, explanation.space, known)
    named = {ZERO: "the network's zero", BLACK: "black"} if isinstance(fill, str) else {}
    return R, named.get(str(fill), "other pixels")


def _recorded(network: Network, erased: Tensor) -> tuple[Recording, Program]:
    """What the network does on the erased image, and the program that says it."""
    given = network.to_input(erased[None])
    program = network.program if network.programs is None else network.programs.of(given)
    return program.record(given), program


def _predicted(explanation: Attribution, Z: Tensor) -> float:
    """f(Z), the sum in float64."""
    model = explanation.symbolic_model
    return float((model.weights.double() * Z.double()).sum() + model.bias.double())


def _bound(
    explanation: Attribution, erased: Tensor, run: tuple[Recording, Program], gap: float
) -> float:
    """What rounding explains of a gap: as for the image's own residual, with the erased image's
    numbers in place of its own. Where that takes other branches, with those of the image.
    """
    (recording, program), model = run, explanation.symbolic_model
    network = model.network
    assert network is not None
    norms = recording.norms if program is network.program else _norms(network, explanation, erased)
    pulled = pull_targets(network.program, explanation.trail, model.cotangent, norms)
    exact = model.weights.double() * erased.double()
    entries = torch.stack([*explanation.bias_by_layer.values(), model.bias]).double()
    residual = torch.full((1, 1), gap, dtype=torch.float64, device=exact.device)
    score = (model.cotangent * recording.logits).sum(-1).double()
    found = rounding_bound(
        (pulled.variance, pulled.worst),
        residual,
        score,
        exact.to(erased.dtype)[None, None],
        entries.to(exact.device)[None, None],
    )
    carried = ROUNDING_DEVIATIONS * torch.finfo(erased.dtype).eps * float(exact.norm())
    return float(found) + carried


def _norms(network: Network, explanation: Attribution, erased: Tensor) -> dict[int, Tensor]:
    """In the program of the explained image, which may take other branches than the erased one."""
    try:
        return network.program.record(network.to_input(erased[None])).norms
    except OffTrailError:
        return network.program.record(network.to_input(explanation.input[None])).norms


def _best(explanation: Attribution, logits: Tensor) -> Answer:
    index, labels = int(logits.argmax()), explanation.labels
    return index, labels[index] if labels and index < len(labels) else f"class {index}"


def shown(explanation: Attribution, Z: Tensor) -> NDArray[np.uint8] | None:
    """An image of the explained space to be looked at, (H, W, 3); None where it cannot be shown."""
    if Z.ndim != 3 or Z.shape[0] not in (1, 3):
        return None
    if explanation.space == "input":
        known = explanation.preprocessing
        if known is None or (explanation.picture() is None and not any(known.mean)):
            return None
        Z = known.to_pixels(Z.double())
    levels = (Z.double().clamp(0, 1) * 255).round().to(torch.uint8)
    pixels: NDArray[np.uint8] = levels.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(pixels)
