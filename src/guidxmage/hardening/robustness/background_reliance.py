"""How much a network leans on backgrounds: accuracy across backgrounds, and shares of |A|."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isnan, nan

import torch
from torch import Tensor, nn

from guidxmage.errors import MissingExtraError
from guidxmage.explainer import Explainer
from guidxmage.hardening.data.dataset import ImageDataset, LabelledBatch

_ROWS = 256


@dataclass(frozen=True)
class Reliance:
    """Accuracies in 0–1; gap: mixed_same − mixed_random (Xiao et al. 2021, “Noise or Signal”).

    mixed_same: the object before a background of its own class; mixed_random: of a random class.
    share_ours, share_gradients: mean share of the background in Σ|A|, by our contributions and by
    Captum's integrated gradients, both from black; NaN where there are no such data or no captum.
    """

    clean: float
    mixed_same: float
    mixed_random: float
    share_ours: float
    share_gradients: float

    @property
    def gap(self) -> float:
        """How much of the accuracy goes when the background says nothing about the class."""
        return self.mixed_same - self.mixed_random

    def to_json(self) -> dict[str, float | None]:
        """Plain numbers; NaN becomes null."""
        own = {**asdict(self), "gap": self.gap}
        return {name: None if isnan(value) else value for name, value in own.items()}


def accuracy(model: nn.Module, data: ImageDataset) -> float:
    """Share of a dataset that the model, in eval mode, answers rightly."""
    right = 0
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with torch.no_grad():
        for rows in torch.arange(len(data)).split(_ROWS):
            batch = data.__getitems__(rows.tolist())
            answers = model(batch.images.to(device)).argmax(1).cpu()
            right += int((answers == batch.labels).sum())
    return right / max(1, len(data))


def reliance(
    model: nn.Module,
    test: ImageDataset,
    same: ImageDataset | None,
    mixed: ImageDataset | None,
    explained: LabelledBatch,
) -> Reliance:
    """Measure a model in eval mode; shares of |A| are those of the images `explained`."""
    labels = torch.as_tensor(explained.labels)
    # From black, as Captum's integrated gradients beside it.
    ours = Explainer(model).explain(explained.images, labels, reference=0.0)
    return Reliance(
        clean=accuracy(model, test),
        mixed_same=nan if same is None else accuracy(model, same),
        mixed_random=nan if mixed is None else accuracy(model, mixed),
        share_ours=background_share(ours.contributions, explained.masks),
        share_gradients=_gradients_share(model, explained),
    )


def background_share(A: Tensor, masks: Tensor) -> float:
    """Mean over images of the background's part of Σ|A|: A (B, C, H, W), masks (B, H, W)."""
    size = A.abs().double().sum(1)
    whole = size.flatten(1).sum(1).clamp_min(1e-30)
    return float(((size * ~masks).flatten(1).sum(1) / whole).mean())


def _gradients_share(model: nn.Module, explained: LabelledBatch) -> float:
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise MissingExtraError("captum", "robust") from error
    parts = []
    for rows in torch.arange(len(explained.labels)).split(16):
        X = explained.images[rows]
        A = IntegratedGradients(model, multiply_by_inputs=True).attribute(
            X, target=explained.labels[rows], n_steps=32
        )
        parts.append(A.detach())
    return background_share(torch.cat(parts), explained.masks)
