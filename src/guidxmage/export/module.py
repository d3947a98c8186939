"""What is exported: from images to logits and an explanation, as one module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from guidxmage.attribution.assemble import rounding_bound
from guidxmage.attribution.placement import placement
from guidxmage.engine.program.plain import Forward, PlainProgram
from guidxmage.engine.program.plain_trail import PlainTrail
from guidxmage.engine.program.program import Program
from guidxmage.export.placing import GraphCut
from guidxmage.export.targets import AGAINST_INPUT, CLASS_INPUT, GraphTarget

# In this order, as far as they are asked for.
OUTPUTS = (
    *("logits", "target", "score", "contributions", "weights", "bias", "residual", "bound"),
    *("whole", "unplaced", "trail"),
)
USUAL = ("logits", "target", "score", "contributions", "bias", "residual")
PLACED = ("whole", "unplaced")


@dataclass(frozen=True)
class Space:
    """What is explained, and from where contributions are counted.

    normalisation: mean and std, float64 (C, 1, 1), where pixels in [0, 1] are explained, or None.
    reference: R in the explained space, (C, H, W) or a shape that expands to it, or None for 0;
    from_zero: whether R is the network's zero, from where normalisation and reference add nothing
    to the bias. from_bytes: whether the graph takes uint8 pixels.
    """

    normalisation: tuple[Tensor, Tensor] | None = None
    reference: Tensor | None = None
    from_zero: bool = True
    from_bytes: bool = False


class ExplainingModule(nn.Module):
    """Images (B, C, H, W) → logits (B, classes), target (B[, K]), score, contributions, bias, ….

    The images are of the explained space, or uint8 pixels. outputs: names of `OUTPUTS`; cut: where
    the network is cut, for those of `PLACED`. Further inputs are those of the target, int64 (B,).
    """

    mean: Tensor
    std: Tensor
    reference: Tensor | None

    def __init__(
        self,
        program: Program,
        target: GraphTarget,
        space: Space = Space(),
        *,
        outputs: Sequence[str] = USUAL,
        cut: GraphCut | None = None,
    ) -> None:
        super().__init__()
        self.outputs = tuple(name for name in OUTPUTS if name in outputs)
        self.cut = cut if set(PLACED) & set(outputs) else None
        kept = () if self.cut is None else self.cut.kept
        self.program = PlainProgram(program, kept=kept, bounded="bound" in outputs)
        self.packing = PlainTrail(program) if "trail" in outputs else None
        self.target = target
        self.from_zero, self.from_bytes = space.from_zero, space.from_bytes
        self.normalised = space.normalisation is not None
        mean, std = space.normalisation if space.normalisation is not None else (None, None)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.register_buffer("reference", space.reference)
        if self.cut is not None:  # where everything lies on the picture is found once, for real
            with torch.no_grad():
                rows = self.example.shape[:1]
                given = [torch.zeros(rows, dtype=torch.int64, device=self.program.device)] * 2
                self(self.example, *given)

    @property
    def example(self) -> Tensor:
        """Black images of the kind that it takes: two, or one where there is one at a time."""
        own = self.program
        dtype = torch.uint8 if self.from_bytes else own.dtype
        size = (2 if own.batched else 1, *own.input_shape)
        return torch.zeros(size, dtype=dtype, device=own.device)

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
        score = (cotangent * run.logits).sum(-1).t()
        found = {
            "logits": run.logits,
            "target": self._shaped(classes.t()),
            "score": self._shaped(score),
            **self._explained(X, run, cotangent, score),
        }
        if self.packing is not None:
            found["trail"] = self.packing(run.entries, images.shape[0])
        return {name: found[name] for name in self.outputs}

    def _explained(
        self, X: Tensor, run: Forward, cotangent: Tensor, score: Tensor
    ) -> dict[str, Tensor]:
        """What pulling cotangents (K, B, classes) finds; score (B, K)."""
        repeats, rows = cotangent.shape[0], cotangent.shape[1]
        watching = None if self.cut is None else self.cut.watching(run, repeats * rows, repeats)
        pulled = self.program.pull(run, cotangent.flatten(0, 1), repeats, watching)

        def by_image(tensor: Tensor) -> Tensor:
            parts: Tensor = tensor.unflatten(0, (repeats, rows))
            return parts.transpose(0, 1)

        weights, entries = self._in_space(by_image(pulled.weights), by_image(pulled.shares))
        R = self.reference
        contributions = weights * (X if R is None else X - R)[:, None]
        bias = entries.sum(-1)
        residual = score.double() - contributions.flatten(2).sum(2, dtype=torch.float64) - bias
        found = {
            "contributions": contributions,
            "weights": weights,
            "bias": bias,
            "residual": residual,
        }
        if pulled.variance is not None and pulled.worst is not None:
            rounding = by_image(pulled.variance), by_image(pulled.worst)
            found["bound"] = rounding_bound(rounding, residual, score, contributions, entries)
        if self.cut is not None and watching is not None:
            unit = torch.finfo(X.dtype).eps / 2
            own = watching.read(self.cut.depth, rows)
            placed = placement(own, score, unit, batched=True, several=True)
            found |= {"whole": placed.whole, "unplaced": placed.unplaced}
            if "bound" in found:  # of either sum
                found["bound"] = torch.maximum(found["bound"], placed.residual_bound)
        return {name: self._shaped(tensor) for name, tensor in found.items()}

    def _in_space(self, weights: Tensor, entries: Tensor) -> tuple[Tensor, Tensor]:
        """Δ (B, K, C, …) and the shares of the bias (B, K, n) in the explained space."""
        more = []
        if self.normalised:
            exact = weights.double()
            more.append(-(exact * (self.mean / self.std)).flatten(2).sum(2))
            weights = (exact / self.std).to(weights.dtype)
        if self.reference is not None:
            more.append((weights.double() * self.reference.double()).flatten(2).sum(2))
        if self.from_zero or not more:  # these cancel
            return weights, entries
        return weights, torch.cat([entries, torch.stack(more, -1)], -1)

    def _to_input(self, X: Tensor) -> Tensor:
        if not self.normalised:
            return X
        return (X - self.mean.to(X.dtype)) / self.std.to(X.dtype)

    def _shaped(self, tensor: Tensor) -> Tensor:
        return tensor if self.target.several else tensor[:, 0]
