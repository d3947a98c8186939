"""What is exported: from images to logits and an explanation, as one module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from guidxmage.engine.program.plain import PlainProgram
from guidxmage.export.targets import AGAINST_INPUT, CLASS_INPUT, GraphTarget

# In this order, as far as they are asked for.
OUTPUTS = ("logits", "target", "score", "contributions", "weights", "bias", "residual")
USUAL = ("logits", "target", "score", "contributions", "bias", "residual")


class ExplainingModule(nn.Module):
    """Images (B, C, H, W) → logits (B, classes), target (B[, K]), score, contributions, bias, ….

    The images are of the explained space, or uint8 pixels where `from_bytes` is set. outputs: names
    of `OUTPUTS`. Further inputs are those of the target, int64 (B,). normalisation: mean and std,
    float64 (C, 1, 1), where pixels in [0, 1] are explained, or None. reference: R in the explained
    space, (C, H, W) or a shape that expands to it, or None for 0; from_zero: whether R is the
    network's zero, from where normalisation and reference add nothing to the bias.
    """

    mean: Tensor
    std: Tensor
    reference: Tensor | None

    def __init__(
        self,
        program: PlainProgram,
        target: GraphTarget,
        *,
        outputs: Sequence[str] = USUAL,
        normalisation: tuple[Tensor, Tensor] | None = None,
        reference: Tensor | None = None,
        from_zero: bool = True,
        from_bytes: bool = False,
    ) -> None:
        super().__init__()
        self.program, self.target = program, target
        self.outputs = tuple(name for name in OUTPUTS if name in outputs)
        self.from_zero, self.from_bytes = from_zero, from_bytes
        self.normalised = normalisation is not None
        mean, std = normalisation if normalisation is not None else (None, None)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.register_buffer("reference", reference)

    def forward(
        self,
        images: Tensor,
        class_index: Tensor | None = None,
        against_index: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The outputs by name."""
        given = {CLASS_INPUT: class_index, AGAINST_INPUT: against_index}
        X = images.to(self.program.dtype) / 255 if self.from_bytes else images
        run = self.program(self._to_input(X))
        classes, cotangent = self.target.choose(run.logits, given)
        repeats, rows = cotangent.shape[0], cotangent.shape[1]
        sent, bias = self.program.pull(run, cotangent.flatten(0, 1), repeats)
        weights = sent.unflatten(0, (repeats, rows)).transpose(0, 1)
        bias = bias.unflatten(0, (repeats, rows)).t()
        if self.normalised:
            exact = weights.double()
            shift = -(exact * (self.mean / self.std)).flatten(2).sum(2)
            bias = bias if self.from_zero else bias + shift
            weights = (exact / self.std).to(weights.dtype)
        R = self.reference
        if R is not None and not self.from_zero:
            bias = bias + (weights.double() * R.double()).flatten(2).sum(2)
        contributions = weights * (X if R is None else X - R)[:, None]
        score = (cotangent * run.logits).sum(-1).t()
        residual = score.double() - contributions.flatten(2).sum(2, dtype=torch.float64) - bias
        found = {
            "logits": run.logits,
            "target": self._shaped(classes.t()),
            "score": self._shaped(score),
            "contributions": self._shaped(contributions),
            "weights": self._shaped(weights),
            "bias": self._shaped(bias),
            "residual": self._shaped(residual),
        }
        return {name: found[name] for name in self.outputs}

    def _to_input(self, X: Tensor) -> Tensor:
        if not self.normalised:
            return X
        return (X - self.mean.to(X.dtype)) / self.std.to(X.dtype)

    def _shaped(self, tensor: Tensor) -> Tensor:
        return tensor if self.target.several else tensor[:, 0]
