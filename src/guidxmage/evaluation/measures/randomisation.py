"""Sanity checks (Adebayo et al. 2018; Sixt et al. 2020): does a map depend on network and class?"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

from guidxmage.evaluation.measures.case import Case, Claimed, Figures
from guidxmage.evaluation.measures.magnitude import rank_correlation
from guidxmage.evaluation.subject import Subject, Whole
from guidxmage.explainer import Explainer


def randomisation(case: Case, claimed: Claimed) -> Figures:
    """Rank correlation of the map with another that should differ; near 0 is good.

    random_weights: the map of the network with its parameters shuffled; random_logit: the map of
    another class, drawn at random. Left out for slow methods.
    """
    if claimed.method.is_slow(case.fast):
        return {}
    generator = case.generator(3)
    classes = case.explanation.logits.numel()
    other = (case.target + 1 + int(generator.integers(classes - 1))) % classes
    method, values = claimed.method, claimed.values.ravel()
    drawn = method.explain(case.fast, case.image, other, case.seed + 1)
    untrained = method.explain(case.untrained, case.image, case.target, case.seed + 1)
    return {
        "random_weights": rank_correlation(values, untrained.ravel()),
        "random_logit": rank_correlation(values, drawn.ravel()),
    }


def shuffled(subject: Subject, seed: int) -> Subject:
    """The network with all parameters permuted, each tensor for itself: no value is lost."""
    generator = torch.Generator().manual_seed(seed)
    network: nn.Module = copy.deepcopy(subject.whole.network)
    with torch.no_grad():
        for parameter in network.parameters():
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    explainer = Explainer(network, preprocessing=subject.explainer.preprocessing)
    return replace(subject, explainer=explainer, whole=Whole(network, explainer.to_input).eval())
