"""Layer-wise relevance propagation through zennit."""

from __future__ import annotations

import torch
from torch import Tensor

from guidxmage.evaluation.subject import Subject
from guidxmage.models.torchvision_import import import_torchvision


def epsilon_plus(subject: Subject, image: Tensor, target: int, seed: int) -> Tensor:
    """The EpsilonPlus composite, batch-norm merged: relevance (C, H, W) of the network's input."""
    import_torchvision()  # zennit's own import of it fails where it cannot be loaded plainly
    from zennit.attribution import Gradient
    from zennit.canonizers import Canonizer, SequentialMergeBatchNorm
    from zennit.composites import EpsilonPlus
    from zennit.torchvision import ResNetCanonizer

    network = subject.whole.network
    residual = type(network).__module__ == "torchvision.models.resnet"
    canonizers: list[Canonizer] = [ResNetCanonizer() if residual else SequentialMergeBatchNorm()]
    given = subject.whole.to_input(image)
    with (
        torch.enable_grad(),
        Gradient(model=network, composite=EpsilonPlus(canonizers=canonizers)) as attributor,
    ):
        _, relevance = attributor(given, lambda scores: _only(scores, target))
    found: Tensor = relevance[0]
    return found


def _only(scores: Tensor, target: int) -> Tensor:
    """The scores with all but one class's set to 0: the relevance that is handed down."""
    kept = torch.zeros_like(scores)
    kept[:, target] = scores[:, target].detach()
    return kept
