"""One judge for every statement of an explanation: what must it be, and how far may it be off?

What is recomputed may differ by what rounding explains of that very number; what is derived, by the
rounding of deriving it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from math import prod

import numpy as np
import torch
from torch import Tensor

from guidxmage.attribution.attribution import Attribution
from guidxmage.attribution.targets import classes_of
from guidxmage.inputs.reference import PADDING, PREPROCESSING, REFERENCE, is_zero
from guidxmage.proof.evidence.again import Again
from guidxmage.proof.evidence.placed import PlacedAgain, judged_placements
from guidxmage.proof.evidence.statements import Judgement, Place, statement_of
from guidxmage.proof.evidence.way import Way

# Of float64: sums of any length in these files err by less than so many times their size.
_SUMS = 64 * 2.0**-53
# What the bound on the residual is computed from are norms, in the network's precision.
_BOUND = 1e-4
# The smallest number that a float32 tells from 0.
_SUBNORMAL = 2.0**-149

Verdict = tuple[bool | None, str]


@dataclass(frozen=True)
class Finding:
    """What was found about one statement: passed is None where it is no evidence.

    judgement: as the list of statements has it; detail: a few words, with numbers.
    """

    name: str
    judgement: str
    passed: bool | None
    detail: str


@dataclass(frozen=True)
class Evidence:
    """What an explanation of one image and target is judged by.

    part: the explanation. again: it explained again, for the same target, where that is possible.
    way: from its space into the network, or why there is none. logits (classes,): the network's
    own, and how far others may be off. weights, sites: exact ones in its space, each with what
    rounding explains. trail: why the trail is not the image's. header: what the network's trails
    state. exactness: what it must be. placed: its placements made again, where it has any.
    """

    part: Attribution
    again: Again | None
    way: Way | str
    logits: Tensor
    logits_allowed: Callable[[], float]
    weights: Tensor
    weights_allowed: Tensor
    sites: Mapping[str, float]
    sites_allowed: Mapping[str, float]
    trail: str | None
    header: Mapping[str, object]
    exactness: str
    placed: PlacedAgain | None

    @property
    def reference(self) -> Tensor:
        """R, float64, broadcast to the input."""
        X, R = self.part.input, self.part.reference
        return torch.zeros_like(X).double() if R is None else R.double().expand(X.shape)

    @property
    def moved(self) -> tuple[float, float]:
        """⟨Δ, R⟩, and how far rounding Δ moves it."""
        products = self.part.weights.double() * self.reference
        return float(products.sum()), self.unit * float(products.abs().sum())

    @property
    def left_out(self) -> bool:
        """Whether the share of the normalisation is left out, as that of the reference cancels it.

        Both are there as 0 where other images of the batch had another reference.
        """
        part = self.part
        zero = is_zero(part.reference, part.space, part.preprocessing)
        return zero and part.space != "input"

    @property
    def shares(self) -> dict[str, float]:
        """What is stated of the bias that the symbolic model has itself, too."""
        stated = self.part.bias_by_layer
        return {site: float(stated[site]) for site in stated if site not in (REFERENCE, PADDING)}

    @property
    def unit(self) -> float:
        """The unit roundoff of the printed numbers, twice."""
        return torch.finfo(self.part.weights.dtype).eps


def judged(evidence: Evidence) -> tuple[Finding, ...]:
    """A finding for every field of the explanation and of its symbolic model."""
    part = evidence.part
    found = []
    for place, owner in ((Place.EXPLANATION, part), (Place.MODEL, part.symbolic_model)):
        prefix = "" if place is Place.EXPLANATION else "symbolic_model."
        found += [_finding(evidence, place, prefix, one.name) for one in fields(owner)]
    broken = [one.name for one in found if one.passed is False]
    of_model = [name for name in broken if name.startswith("symbolic_model.")]
    whole = Finding(
        "symbolic_model",
        Judgement.DERIVED.value,
        not of_model,
        "; ".join(of_model) or "each of its fields",
    )
    return tuple(whole if one.name == "symbolic_model" else one for one in found)


def _finding(evidence: Evidence, place: Place, prefix: str, name: str) -> Finding:
    statement = statement_of(place, name)
    if statement is None:
        return Finding(prefix + name, "", False, "nothing judges it")
    judgement = statement.judgement.value
    if statement.judgement is Judgement.NOT_EVIDENCE:
        return Finding(prefix + name, judgement, None, statement.how)
    judge = JUDGES.get((place, name))
    if judge is None:
        return Finding(prefix + name, judgement, False, "nothing judges it")
    passed, detail = judge(evidence)
    return Finding(prefix + name, judgement, passed, detail)


# --- the judges ----------------------------------------------------------------------------------


def _logits(e: Evidence) -> Verdict:
    given = e.part.logits
    if given.shape == e.logits.shape and torch.equal(given, e.logits.to(given)):
        return True, "the same bit for bit"
    if given.shape != e.logits.shape:
        return False, f"{len(given)} of them, where the network has {len(e.logits)}"
    return _near(given, e.logits, torch.full(given.shape, e.logits_allowed()).to(given.device))


def _target(e: Evidence) -> Verdict:
    return _class(e, int(e.part.target), 0)


def _against(e: Evidence) -> Verdict:
    return _class(e, int(e.part.against), 1)


def _class(e: Evidence, stated: int, which: int) -> Verdict:
    cotangent = e.part.symbolic_model.cotangent[0, 0]
    picked = int(classes_of(cotangent)[which])
    # A class rather than itself leaves nothing to explain.
    nothing = not bool(cotangent.any()) and int(e.part.target) == int(e.part.against)
    if stated == picked or nothing:
        return True, f"class {stated}" if stated >= 0 else "none"
    return False, f"class {stated}, where the cotangent picks {picked}"


def _score(e: Evidence) -> Verdict:
    cotangent, logits = e.part.symbolic_model.cotangent[0, 0], e.part.logits
    if cotangent.shape != logits.shape:
        return False, "the cotangent has another length than the logits"
    products = cotangent.double() * logits.double()
    summed = int(products.count_nonzero()) - 1
    allowed = max(summed, 0) * e.unit * float(products.abs().sum())
    return _close(float(e.part.score), float(products.sum()), allowed)


def _weights(e: Evidence) -> Verdict:
    return _near(e.part.weights, e.weights, e.weights_allowed)


def _contributions(e: Evidence) -> Verdict:
    part = e.part
    # Where Δ was carried to the space in float64, A is that, and both are rounded afterwards.
    expected = part.weights.double() * (part.input.double() - e.reference)
    moved = (part.input.double().abs() + e.reference.abs()) * part.weights.double().abs()
    allowed = 2 * e.unit * expected.abs() + e.unit**2 * moved + _SUBNORMAL * moved
    return _near(part.contributions, expected, allowed + _SUBNORMAL)


def _bias(e: Evidence) -> Verdict:
    model, (moved, rounding) = float(e.part.symbolic_model.bias), e.moved
    if e.left_out:
        values = [float(value) for value in e.part.bias_by_layer.values()]
        return _close(float(e.part.bias), sum(values), _SUMS * sum(map(abs, values)))
    return _close(float(e.part.bias), model + moved, rounding + _SUMS * (abs(model) + abs(moved)))


def _bias_by_layer(e: Evidence) -> Verdict:
    given = {site: float(value) for site, value in e.part.bias_by_layer.items()}
    expected, allowed = dict(e.sites), dict(e.sites_allowed)
    moved, rounding = e.moved
    if e.left_out:  # what is left of both, where black surrounds a photo that is smaller
        shift, off = expected.get(PREPROCESSING, 0.0), allowed.get(PREPROCESSING, 0.0)
        for site in (PREPROCESSING, REFERENCE):
            expected[site], allowed[site] = 0.0, 0.0
        expected[PADDING] = shift + moved
        allowed[PADDING] = off + rounding + _SUMS * (abs(shift) + abs(moved))
    elif e.part.reference is not None:
        expected[REFERENCE], allowed[REFERENCE] = moved, rounding + _SUMS * abs(moved)
    worst = ""
    for site in {*given, *expected}:
        value, exact = given.get(site, 0.0), expected.get(site, 0.0)
        if site not in expected:
            return False, f"{site!r} is no call site of the network"
        passed, detail = _close(value, exact, allowed.get(site, 0.0))
        if not passed:
            return False, f"{site}: {detail}"
        worst = worst or detail
    return True, f"{len(given)} sites, each within what rounding explains"


def _residual(e: Evidence) -> Verdict:
    part = e.part
    total = part.contributions.double().sum()
    size = float(part.contributions.double().abs().sum()) + abs(float(part.score))
    left = float(part.score.double() - total - part.bias)
    return _close(float(part.residual), left, _SUMS * (size + abs(float(part.bias))))


def _residual_bound(e: Evidence) -> Verdict:
    bound, residual = float(e.part.residual_bound), abs(float(e.part.residual))
    if e.again is None:
        return False, "it could not be computed again"
    least = float(e.again.least_bound) * (1 - _BOUND)
    largest = float(e.again.largest_bound) * (1 + _BOUND)
    if not least <= bound <= largest:
        return False, f"{bound:.3g}, where it is {float(e.again.largest_bound):.3g}"
    return residual <= bound, f"a residual of {residual:.1e} within {bound:.1e}"


def _exactness(e: Evidence) -> Verdict:
    same = e.part.exactness == e.exactness
    return same, e.part.exactness if same else f"{e.part.exactness!r}, where it is {e.exactness!r}"


def _trail(e: Evidence) -> Verdict:
    if e.trail is not None:
        return False, e.trail
    for key in ("dtype", "input_shape", "gates", "branches"):
        if e.part.trail.header.get(key) != e.header.get(key):
            return False, f"its header states another {key}"
    return True, f"{e.part.trail.count:,} decisions, each as recorded"


def _space(e: Evidence) -> Verdict:
    return (False, e.way) if isinstance(e.way, str) else (True, e.part.space)


def _preprocessing(e: Evidence) -> Verdict:
    passed, detail = _space(e)
    return passed, detail if not passed else "its normalisation is the way into the network"


def _input(e: Evidence) -> Verdict:
    return bool(torch.isfinite(e.part.input).all()), "everything else is made from it"


def _pictures(e: Evidence) -> Verdict:
    picture = e.part.pictures[0]
    if picture is None or isinstance(e.way, str):
        return True, "none is stored" if picture is None else "not compared"
    pixels = np.asarray(picture, dtype=np.float64) / 255
    planes = torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)
    described, given = e.part.preprocessing, e.part.input.cpu()
    if described is None:  # it went through what nobody can look into
        return None, "its way into the network is not known"
    if e.part.space == "input":
        if planes.shape[0] != len(described.mean):
            return False, "it has another number of channels"
        planes = described.from_pixels(planes.to(given))
    if planes.shape != given.shape:
        return False, "it has another size than the input"
    error = (planes.to(given) - given).abs()
    return bool((error <= 4 * e.unit * (1 + given.abs())).all()), "its pixels are the input's"


def _reference(e: Evidence) -> Verdict:
    R = e.part.reference
    if R is None:
        return REFERENCE not in e.part.bias_by_layer, e.part.reference_name
    return bool(torch.isfinite(R).all()), e.part.reference_name


def _own_weights(e: Evidence) -> Verdict:
    own, given = e.part.symbolic_model.weights, e.part.weights
    return own.shape == given.shape and torch.equal(own, given), "the explanation's own"


def _own_bias(e: Evidence) -> Verdict:
    shares, off = e.shares, 0.0
    if e.left_out:  # the model has it nevertheless
        shares[PREPROCESSING] = e.sites.get(PREPROCESSING, 0.0)
        off = e.sites_allowed.get(PREPROCESSING, 0.0)
    total, size = sum(shares.values()), sum(map(abs, shares.values()))
    return _close(float(e.part.symbolic_model.bias), total, off + _SUMS * size)


def _own_trail(e: Evidence) -> Verdict:
    own, given = e.part.symbolic_model.trail, e.part.trail
    if own is given:
        return True, "the explanation's own"
    same = list(own) == list(given) and list(own.gates) == list(given.gates)
    try:
        same = same and own.header == given.header and bool(own.same(given).all())
    except ValueError:  # sites of other sizes
        same = False
    return same, "the explanation's own" if same else "not the explanation's own"


def _cotangent(e: Evidence) -> Verdict:
    given = e.part.symbolic_model.cotangent
    fits = given.shape == (1, 1, len(e.logits)) and bool(torch.isfinite(given).all())
    return fits, "the score and Δ are made from it"


def _axes(e: Evidence) -> Verdict:
    model = e.part.symbolic_model
    return not model.batched and not model.several, "one image and one target"


def _network(e: Evidence) -> Verdict:
    return e.part.symbolic_model.network is not None, "captured again"


def _own_input(e: Evidence) -> Verdict:
    own, given = e.part.symbolic_model.input, e.part.input
    same = own is not None and own.shape == given.shape and torch.equal(own, given)
    return same, "the explanation's own" if same else "not the explanation's own"


JUDGES: dict[tuple[Place, str], Callable[[Evidence], Verdict]] = {
    (Place.EXPLANATION, "logits"): _logits,
    (Place.EXPLANATION, "target"): _target,
    (Place.EXPLANATION, "against"): _against,
    (Place.EXPLANATION, "score"): _score,
    (Place.EXPLANATION, "weights"): _weights,
    (Place.EXPLANATION, "contributions"): _contributions,
    (Place.EXPLANATION, "bias"): _bias,
    (Place.EXPLANATION, "bias_by_layer"): _bias_by_layer,
    (Place.EXPLANATION, "residual"): _residual,
    (Place.EXPLANATION, "residual_bound"): _residual_bound,
    (Place.EXPLANATION, "exactness"): _exactness,
    (Place.EXPLANATION, "trail"): _trail,
    (Place.EXPLANATION, "symbolic_model"): _network,
    (Place.EXPLANATION, "input"): _input,
    (Place.EXPLANATION, "pictures"): _pictures,
    (Place.EXPLANATION, "space"): _space,
    (Place.EXPLANATION, "preprocessing"): _preprocessing,
    (Place.EXPLANATION, "reference"): _reference,
    (Place.EXPLANATION, "placements"): lambda e: judged_placements(e.part, e.placed),
    (Place.MODEL, "weights"): _own_weights,
    (Place.MODEL, "bias"): _own_bias,
    (Place.MODEL, "trail"): _own_trail,
    (Place.MODEL, "cotangent"): _cotangent,
    (Place.MODEL, "batched"): _axes,
    (Place.MODEL, "several"): _axes,
    (Place.MODEL, "network"): _network,
    (Place.MODEL, "input"): _own_input,
}


# --- comparing -----------------------------------------------------------------------------------


def _close(given: float, expected: float, allowed: float) -> Verdict:
    off = abs(given - expected)
    if off == 0:
        return True, "the same"
    words = f"off by {off:.1e}, where rounding explains {allowed:.1e}"
    return off <= allowed, words


def _near(given: Tensor, expected: Tensor, allowed: Tensor) -> Verdict:
    """Compare entry by entry; the words are about the entry that is furthest off for its size."""
    if given.shape != expected.shape:
        return False, f"of shape {tuple(given.shape)}, where {tuple(expected.shape)} is expected"
    off = (given.double() - expected.double()).abs()
    beyond = ~(off <= allowed)
    if not bool(beyond.any()):
        return True, f"off by {float(off.max()):.1e} at most, which rounding explains"
    count = int(beyond.sum())
    worst = int(torch.where(beyond, off / allowed.clamp_min(1e-300), 0).nan_to_num(0).argmax())
    place = [int(i) for i in np.unravel_index(worst, tuple(given.shape))] if given.ndim else []
    where = f" at {place}" if prod(given.shape) > 1 else ""
    flat = float(off.flatten()[worst]), float(allowed.expand(off.shape).flatten()[worst])
    others = f", and {count - 1} more" if count > 1 else ""
    return False, f"off by {flat[0]:.1e}{where}, where rounding explains {flat[1]:.1e}{others}"
