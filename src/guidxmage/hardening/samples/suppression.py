"""Background-suppressed samples: the background is changed until it contributes less.

The object's pixels stay bit for bit. On the region of an image Z the background contributes
B = Σ Δ_i·(z_i − r_i), so each of its pixels is moved against Δ_i. The moved image is explained
anew and kept only if B fell; so B falls monotonically, by construction (scheme of Zhang et al.,
ASE 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor
from typing import Literal

import torch
from torch import Tensor, nn

from guidxmage.engine.capture.user_model import untouched
from guidxmage.errors import InputError
from guidxmage.explainer import Explainer
from guidxmage.files.schema import Pixels, Rounds, Share, check
from guidxmage.hardening.samples.series import Series

Guide = Literal["class", "contrast"]
STRENGTHS = (2 / 255, 4 / 255, 8 / 255)
LEVELS = 255
# By how little a strength may miss a whole level and still be it.
_WHOLE = 1e-6


@dataclass(frozen=True)
class Scheme:
    """How samples are made.

    strengths: how far a background pixel may move, ascending, each the start of the next; steps:
    explanations for each strength; guide: suppress the background's contribution to the "class",
    or to its "contrast" with the best other class; part: "background", or "object" for the
    control arm that changes the object instead; reference: R, from 0 to 1.
    """

    strengths: Pixels = STRENGTHS
    steps: Rounds = 4
    guide: Guide = "class"
    part: Literal["background", "object"] = "background"
    reference: Share = 0.0

    def __post_init__(self) -> None:
        check(self)


def suppress(
    explainer: Explainer,
    images: Tensor,
    masks: Tensor,
    labels: Tensor | None = None,
    *,
    scheme: Scheme | None = None,
) -> Series:
    """A series of samples X′ of each image, one per strength, whose background contributes less.

    images (B, C, H, W) in [0, 1]; masks (B, H, W) bool, True on the object; labels (B,): the
    classes whose contribution is suppressed, by default the network's own answers. Where all values
    are whole grey levels, so are the samples': the last whole level within a strength is then the
    farthest that a pixel goes. Raises InputError for masks that do not fit, are
    empty or leave no background, and for images outside of [0, 1]; UnsupportedOperatorError as
    `Explainer.explain` does. The model and the random state are left untouched.
    """
    scheme = scheme or Scheme()
    _check(images, masks, labels)
    with untouched(explainer.model):
        look, rows = _by_program(explainer, images, scheme)
        background = _Background(look, scheme, images, masks, labels)
        parts = [background.series(own) for own in torch.arange(len(images)).split(rows)]
    return Series.concatenate(parts)


def suppress_by_gradient(
    model: nn.Module, images: Tensor, masks: Tensor, labels: Tensor, *, scheme: Scheme
) -> Tensor:
    """Samples (B, S, C, H, W) as `suppress` makes them, with Δ from autograd, for use in training.

    On a piecewise-linear network Δ is the gradient, so nothing has to be captured after each
    optimiser step. model: in eval mode, on images in [0, 1]; its gradients are left alone. Raises
    InputError as `suppress` does.
    """
    _check(images, masks, labels)
    background = _Background(_by_gradient(model, scheme), scheme, images, masks, labels)
    return background.series(torch.arange(len(images), device=images.device)).samples


def background_contribution(
    explainer: Explainer, images: Tensor, masks: Tensor, labels: Tensor | None = None
) -> Tensor:
    """Σ over the background of A, (B,); arguments as for `suppress`."""
    _check(images, masks, labels)
    with untouched(explainer.model):
        look, rows = _by_program(explainer, images, Scheme())
        background = _Background(look, Scheme(), images, masks, labels)
        parts = [
            background.explain(images[own], own).contribution
            for own in torch.arange(len(images)).split(rows)
        ]
    return torch.cat(parts)


def _check(images: Tensor, masks: Tensor, labels: Tensor | None) -> None:
    if images.ndim != 4 or not images.is_floating_point():
        raise InputError(
            f"images are floats (B, C, H, W) in [0, 1], not {images.dtype} {list(images.shape)}"
        )
    expected = (len(images), *images.shape[2:])
    if tuple(masks.shape) != expected or masks.dtype != torch.bool:
        raise InputError(
            f"masks are bool {list(expected)} like the images, not {masks.dtype} "
            f"{list(masks.shape)}"
        )
    if labels is not None and tuple(labels.shape) != (len(images),):
        raise InputError(f"there are {len(images)} images, but labels of {list(labels.shape)}")
    if len(images) and not (float(images.min()) >= 0 and float(images.max()) <= 1):
        raise InputError("the images do not lie in [0, 1]; put the normalisation into the model")
    share = masks.flatten(1).float().mean(1)
    for extreme, words in ((0.0, "shows no object"), (1.0, "leaves no background")):
        if len(found := (share == extreme).nonzero()):
            raise InputError(f"the mask of image {int(found[0])} {words}")


@dataclass(frozen=True)
class _Look:
    """An explanation in short: scores (n, classes), Δ (n, C, H, W), and the part's ΣA (n,)."""

    logits: Tensor
    weights: Tensor
    contribution: Tensor


# Scores and Δ of images, from the labels that are known (n,).
_Weigh = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]


def _by_program(explainer: Explainer, images: Tensor, scheme: Scheme) -> tuple[_Weigh, int]:
    """From the network's trail; and how many images to take at once."""
    program = explainer.network(images[: explainer.batch_rows]).program

    def weigh(Z: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        recording = program.record(explainer.to_input(Z), norms=False)
        cotangent = _cotangent(recording.logits, labels, scheme.guide)
        pulled = program.pull(recording.trail, cotangent)
        return recording.logits, explainer.to_space(pulled.weights)

    return weigh, explainer.rows(program)


def _by_gradient(model: nn.Module, scheme: Scheme) -> _Weigh:
    def weigh(Z: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = Z.detach().requires_grad_(True)
            logits = model(leaf)
            score = (logits * _cotangent(logits.detach(), labels, scheme.guide)).sum()
            (gradient,) = torch.autograd.grad(score, leaf)
        return logits.detach(), gradient

    return weigh


def _cotangent(logits: Tensor, labels: Tensor | None, guide: Guide) -> Tensor:
    own = logits.argmax(1) if labels is None else labels
    cotangent = torch.zeros_like(logits).scatter_(1, own[:, None], 1)
    if guide == "contrast":
        rival = logits.scatter(1, own[:, None], -torch.inf).argmax(1)
        cotangent.scatter_(1, rival[:, None], -1)
    return cotangent


class _Background:
    """The part of each image that is changed, and what explains it."""

    def __init__(
        self, weigh: _Weigh, scheme: Scheme, images: Tensor, masks: Tensor, labels: Tensor | None
    ) -> None:
        self.weigh, self.scheme = weigh, scheme
        self.images, self.masks, self.labels = images, masks, labels
        self.free = (masks if scheme.part == "object" else ~masks)[:, None].expand_as(images)
        grid = torch.round(images * LEVELS) / LEVELS
        self.on_grid = bool(torch.equal(grid, images))

    def explain(self, Z: Tensor, rows: Tensor, labels: Tensor | None = None) -> _Look:
        """What part `rows` of all images, moved to Z, contribute now to their classes."""
        if labels is None and self.labels is not None:
            labels = self.labels[rows]
        logits, weights = self.weigh(Z, labels)
        parts = torch.where(self.free[rows], weights * (Z - self.scheme.reference), 0)
        return _Look(logits, weights, parts.flatten(1).sum(1))

    def series(self, rows: Tensor) -> Series:
        """All strengths for some of the images, one after the other."""
        X = self.images[rows]
        first = self.explain(X, rows)
        labels = first.logits.argmax(1) if self.labels is None else self.labels[rows]
        look, Z, free = first, X, self.free[rows]
        curve, samples, kept, scores = [first.contribution], [], [], []
        for strength in self.scheme.strengths:
            steps = torch.zeros_like(labels)
            share = torch.ones_like(X[:, 0, 0, 0])
            for _ in range(self.scheme.steps):
                moved = self._move(X, Z, free, look.weights, (strength, share))
                there = self.explain(moved, rows, labels)
                fell = there.contribution < look.contribution
                Z = torch.where(_wide(fell), moved, Z)
                look = _choose(fell, there, look)
                # Fewer pixels where it did not fall, those with the largest weights.
                share = torch.where(fell, (2 * share).clamp(max=1), share / 4)
                steps += fell
                curve.append(look.contribution)
            samples.append(Z)
            kept.append(steps)
            scores.append(look.logits)
        return Series(
            originals=X,
            samples=torch.stack(samples, 1),
            masks=self.masks[rows],
            labels=labels,
            strengths=self.scheme.strengths,
            curves=torch.stack(curve, 1),
            kept=torch.stack(kept, 1),
            answers=torch.stack([logits.argmax(1) for logits in scores], 1),
            on_grid=self.on_grid,
        )

    def _move(
        self, X: Tensor, Z: Tensor, free: Tensor, weights: Tensor, reach: tuple[float, Tensor]
    ) -> Tensor:
        """One step against Δ of the free pixels; reach: the strength, and the share that moves."""
        strength, share = reach
        size = 2 * strength / self.scheme.steps
        if self.on_grid:
            size = max(1, round(size * LEVELS)) / LEVELS
        strongest = torch.where(free, weights.abs(), -1).flatten(1).sort(1, descending=True).values
        count = (share * free.flatten(1).sum(1)).long().clamp(min=1) - 1
        limit = strongest.gather(1, count[:, None])
        chosen = free & (weights.abs() >= _wide(limit[:, 0]))
        step = torch.where(chosen, -size * weights.sign(), 0)
        moved = (Z + step).clamp(0, 1)
        if self.on_grid:  # rounded afterwards, which must not lead beyond the strength
            strength = floor(strength * LEVELS + _WHOLE) / LEVELS
        moved = torch.minimum(torch.maximum(moved, X - strength), X + strength)
        if self.on_grid:
            moved = torch.round(moved * LEVELS) / LEVELS
        return torch.where(free, moved, X)


def _wide(rows: Tensor) -> Tensor:
    return rows[:, None, None, None]


def _choose(where: Tensor, a: _Look, b: _Look) -> _Look:
    return _Look(
        torch.where(where[:, None], a.logits, b.logits),
        torch.where(_wide(where), a.weights, b.weights),
        torch.where(where, a.contribution, b.contribution),
    )


def contribution_masks(
    explainer: Explainer, images: Tensor, labels: Sequence[int] | None = None, share: float = 0.8
) -> Tensor:
    """Object masks from the contributions themselves, where nothing better is known.

    The smallest set of pixels that holds `share` of Σ|A|, after a box blur of 5 pixels: (B, H, W)
    bool. Raises InputError for a share outside of (0, 1).
    """
    if not 0 < share < 1:
        raise InputError(f"share is {share}; give a value between 0 and 1")
    target = "top1" if labels is None else torch.as_tensor(labels)
    found = explainer.explain(images, target, reference=Scheme().reference)
    A = found.contributions.abs().sum(1, keepdim=True)
    blurred = torch.nn.functional.avg_pool2d(A, 5, 1, 2)[:, 0]
    order = blurred.flatten(1).sort(1, descending=True)
    held = order.values.cumsum(1) / order.values.sum(1, keepdim=True).clamp_min(1e-30)
    chosen = torch.zeros_like(held, dtype=torch.bool).scatter_(1, order.indices, held <= share)
    return chosen.reshape(blurred.shape)
