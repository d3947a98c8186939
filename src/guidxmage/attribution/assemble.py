"""From explained chunks of images to one Attribution, with its residual and its bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from guidxmage.attribution.attribution import Attribution
from guidxmage.attribution.exactness import ROUNDING_DEVIATIONS, exactness_of
from guidxmage.attribution.placement import Found, Placement, joined_cuts, placement
from guidxmage.attribution.run import Run
from guidxmage.attribution.targets import Targets
from guidxmage.engine.program.steps import Recording
from guidxmage.engine.symbolic import Network, SymbolicModel, drop_axes, joined
from guidxmage.engine.trail.trail import Trail
from guidxmage.errors import InputError
from guidxmage.inputs.input_space import Batch, unexpanded
from guidxmage.inputs.preprocessing import Preprocessing
from guidxmage.inputs.reference import PREPROCESSING, REFERENCE, is_zero


@dataclass(frozen=True)
class Chunk:
    """One chunk of images, explained: weights (B, K, C, H, W), shares of the bias (B, K, sites)."""

    recording: Recording
    targets: Targets
    weights: Tensor
    sites: tuple[str, ...]
    shares: Tensor
    variance: Tensor
    worst: Tensor
    placed: tuple[Found, ...] = ()

    @classmethod
    def of(cls, run: Run, weights: Tensor, shift: Tensor | None) -> Chunk:
        """From a run, its weights in the explained space, and what the normalisation adds."""
        pulled = run.pulled
        sites, shares = pulled.sites, pulled.shares
        if shift is not None:
            sites, shares = (PREPROCESSING, *sites), torch.cat([shift[..., None], shares], -1)
        rounding = (pulled.variance, pulled.worst)
        return cls(run.recording, run.targets, weights, sites, shares, *rounding, run.placed)


@dataclass(frozen=True)
class Origin:
    """What was explained, in the words of the explanation's fields of the same names."""

    space: str
    labels: tuple[str, ...] | None
    model_name: str
    weights_source: str
    preprocessing: Preprocessing | None


def assembled(
    parts: Sequence[Chunk], batch: Batch, R: Tensor | None, network: Network, origin: Origin
) -> Attribution:
    """The explanation of a batch, from its chunks in order; R has the batch's shape, None is 0."""
    X = batch.tensor
    logits = joined([part.recording.logits for part in parts])
    trail = Trail.concatenate([part.recording.trail for part in parts])
    cotangent = joined([part.targets.cotangent for part in parts], dim=1)
    weights = joined([part.weights for part in parts])
    rounding = [joined([getattr(p, name) for p in parts]) for name in ("variance", "worst")]
    contributions = weights * (X if R is None else X - R)[:, None]
    kept_R = None if R is None else unexpanded(R)
    model_bias = joined([part.shares for part in parts]).sum(-1)
    shifted = origin.space != "input"
    zero = _from_zero(kept_R, len(X), origin)
    sites, entries = _bias_entries(parts, weights, R, zero, shifted=shifted)
    bias = entries.sum(-1)
    score = (cotangent * logits).sum(-1).t()
    residual = score.double() - contributions.flatten(2).sum(2, dtype=torch.float64) - bias
    bound = rounding_bound((rounding[0], rounding[1]), residual, score, contributions, entries)
    _refuse_nonfinite(residual, bound, weights, entries)
    several = parts[0].targets.several
    smooth = bool(trail.gates)

    def shaped(tensor: Tensor) -> Tensor:
        return drop_axes(tensor, batch.batched, several)

    own_input = X if batch.batched else X[0]
    return Attribution(
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
        **vars(origin),
        reference=kept_R if kept_R is None or batch.batched else kept_R[0],
        placements=_placements(parts, score, contributions, batch.batched),
    )


def _placements(
    parts: Sequence[Chunk], score: Tensor, contributions: Tensor, batched: bool
) -> tuple[Placement, ...]:
    """The answers at each cut, of all chunks; score (B, K), contributions (B, K, C, …)."""
    if not parts[0].placed:
        return ()
    unit, several = torch.finfo(contributions.dtype).eps / 2, parts[0].targets.several
    pixels = drop_axes(contributions.sum(2), batched, several)
    return tuple(
        placement(found, score, unit, batched, several).beside(pixels)
        for found in joined_cuts([part.placed for part in parts])
    )


def _from_zero(R: Tensor | None, images: int, origin: Origin) -> list[bool]:
    """Of each image, whether its row of R, or the only one, is the network's zero."""
    rows = [None] if R is None else R
    found = [is_zero(row, origin.space, origin.preprocessing) for row in rows]
    return found * images if len(found) == 1 else found


def _bias_entries(
    parts: Sequence[Chunk], weights: Tensor, R: Tensor | None, zero: list[bool], *, shifted: bool
) -> tuple[tuple[str, ...], Tensor]:
    """Call sites of the bias and their shares, (B, K, sites).

    From the network's zero, what the normalisation and the reference add cancels: both are left
    out, or 0 where only some images are counted from it. shifted: whether the first site is the
    normalisation.
    """
    sites, entries = parts[0].sites, joined([part.shares for part in parts])
    if all(zero):
        return (sites[1:], entries[..., 1:]) if shifted else (sites, entries)
    if R is None:
        return sites, entries
    moved = _moved(weights, R)
    if any(zero):
        moved[zero] = 0
        if shifted:
            entries = entries.clone()
            entries[zero, :, 0] = 0
    return (*sites, REFERENCE), torch.cat([entries, moved], -1)


def _moved(weights: Tensor, R: Tensor) -> Tensor:
    """⟨Δ, R⟩, what a reference moves from the pixels to the bias, (B, K, 1) float64."""
    return (weights.double() * R.double()[:, None]).flatten(2).sum(2, keepdim=True)


def rounding_bound(
    rounding: tuple[Tensor, Tensor],
    residual: Tensor,
    score: Tensor,
    contributions: Tensor,
    entries: Tensor,
) -> Tensor:
    """What rounding explains of the residual, (B, K) float64.

    `rounding` covers the layers, as it is likely and as it is at worst; to it come the roundings of
    the products Δ·x, of the printed score, and of the bias entries. The bound is the likely one;
    only where the residual is beyond that, the one that holds at worst.
    """
    variance, worst = rounding
    norms: Tensor = torch.linalg.vector_norm(contributions.flatten(2), dim=2)
    size = contributions[0, 0].numel()
    products = norms.double().square() * 4
    others = entries.square().sum(-1) + score.double().square()
    unit = ROUNDING_DEVIATIONS * torch.finfo(contributions.dtype).eps / 2
    likely = (variance + products + others).sqrt() * unit
    at_worst = (worst + (products * size).sqrt() + others.sqrt()) * unit
    return torch.where(residual.abs() <= likely, likely, torch.maximum(likely, at_worst))


def _refuse_nonfinite(*tensors: Tensor) -> None:
    """Numbers beyond the range of the network's dtype make no explanation."""
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise InputError(
            "the explanation of this image overflows, or the network has constants that are NaN or "
            "infinite: give those a finite value, scale the input, or use dtype=torch.float64"
        )
