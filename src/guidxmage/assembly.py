"""From explained chunks of images to one Explanation, with its residual and its bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from guidxmage.engine.runs import Recording
from guidxmage.engine.symbolic import Network, SymbolicModel, drop_axes, joined
from guidxmage.engine.trail import Trail
from guidxmage.explanation import Explanation
from guidxmage.inputs import Batch, unexpanded
from guidxmage.preprocessing import Preprocessing
from guidxmage.targets import Targets

# How far the residual may lie from zero, in standard deviations of the modelled rounding error.
ROUNDING_DEVIATIONS = 6.0


@dataclass(frozen=True)
class Part:
    """One chunk of images, explained: weights (B, K, C, H, W), shares of the bias (B, K, sites)."""

    recording: Recording
    targets: Targets
    weights: Tensor
    sites: tuple[str, ...]
    shares: Tensor
    variance: Tensor


@dataclass(frozen=True)
class Origin:
    """What was explained, in the words of the explanation's fields of the same names."""

    space: str
    labels: tuple[str, ...] | None
    model_name: str
    weights_source: str
    preprocessing: Preprocessing | None


def assembled(
    parts: Sequence[Part], batch: Batch, R: Tensor | None, network: Network, origin: Origin
) -> Explanation:
    """The explanation of a batch, from its chunks in order; R has the batch's shape."""
    X = batch.tensor
    logits = joined([part.recording.logits for part in parts])
    trail = Trail.concatenate([part.recording.trail for part in parts])
    cotangent = joined([part.targets.cotangent for part in parts], dim=1)
    weights = joined([part.weights for part in parts])
    variance = joined([part.variance for part in parts])
    contributions = weights * (X if R is None else X - R)[:, None]
    entries = joined([part.shares for part in parts])
    bias = model_bias = entries.sum(-1)
    if R is not None:
        moved = _moved(weights, R)
        bias, entries = bias + moved, torch.cat([entries, moved[..., None]], -1)
    score = (cotangent * logits).sum(-1).t()
    residual = score.double() - contributions.flatten(2).sum(2, dtype=torch.float64) - bias
    bound = _rounding_bound(variance, score, contributions, entries, weights.dtype)
    several = parts[0].targets.several
    smooth = bool(trail.gates)
    sites = parts[0].sites if R is None else (*parts[0].sites, "reference")

    def shaped(tensor: Tensor) -> Tensor:
        return drop_axes(tensor, batch.batched, several)

    own_input = X if batch.batched else X[0]
    return Explanation(
        logits=logits if batch.batched else logits[0],
        target=shaped(joined([p.targets.classes for p in parts], dim=1).t()),
        against=shaped(joined([p.targets.against for p in parts], dim=1).t()),
        score=shaped(score),
        weights=shaped(weights),
        contributions=shaped(contributions),
        bias=shaped(bias),
        bias_by_layer=dict(zip(sites, shaped(entries).unbind(-1), strict=True)),
        residual=shaped(residual),
        residual_bound=shaped(bound),
        exactness=exactness_of(smooth=smooth, residual=residual, bound=bound),
        trail=trail,
        symbolic_model=SymbolicModel(
            weights=shaped(weights),
            bias=shaped(model_bias),
            trail=trail,
            cotangent=cotangent,
            batched=batch.batched,
            several=several,
            network=network,
            input=own_input,
        ),
        input=own_input,
        pictures=batch.pictures,
        photo_sizes=batch.photo_sizes,
        space=origin.space,
        labels=origin.labels,
        model_name=origin.model_name,
        weights_source=origin.weights_source,
        preprocessing=origin.preprocessing,
        reference=None if R is None else unexpanded(R if batch.batched else R[0]),
    )


def exactness_of(*, smooth: bool, residual: Tensor, bound: Tensor) -> str:
    """Where the symbolic model is exact.

    "on region" where it is followed, "at input" where operators are smooth, and "not exact" where
    some residual is more than rounding explains, or no number at all.
    """
    if not bool((residual.abs() <= bound).all()):
        return "not exact"
    return "at input" if smooth else "on region"


def _moved(weights: Tensor, R: Tensor) -> Tensor:
    """⟨Δ, R⟩, what a reference moves from the pixels to the bias, (B, K) float64."""
    return (weights.double() * R.double()[:, None]).flatten(2).sum(2)


def _rounding_bound(
    variance: Tensor,
    score: Tensor,
    contributions: Tensor,
    entries: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """What rounding explains of the residual, (B, K) float64.

    `variance` covers the layers; to it come the roundings of the products Δ·x, of the printed
    score, and of the bias entries.
    """
    norms: Tensor = torch.linalg.vector_norm(contributions.flatten(2), dim=2)
    products = norms.double().square() * 4
    total = variance + products + entries.square().sum(-1) + score.double().square()
    return total.sqrt() * (ROUNDING_DEVIATIONS * torch.finfo(dtype).eps / 2)
