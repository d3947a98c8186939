"""Insertion less deletion, every map drawn through the same Gaussian: nobody wins by blur."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from guidxmage.attribution.placement import smoothed
from guidxmage.evaluation.measures.case import Case, Claimed, Figures
from guidxmage.evaluation.measures.curves import area, mixtures, ranking
from guidxmage.evaluation.methods.method import Map

SIGMAS = (0, 16, 32)
"""Of the Gaussian, in pixels of an image whose shorter side has 224."""
_SIDE = 224


def equal_smoothing(case: Case, claimed: Claimed) -> Figures:
    """Pixels in the order of the map come to, and go from, an image of even colour.

    gain_…: the area under the class's probability as the pixels of the image come, less that as
    they go, for each Gaussian; high is good. Even colour: what the normalisation maps to 0, else
    the image's mean colour.
    """
    ground = case.even
    figures: Figures = {}
    for sigma in SIGMAS:
        order = ranking(at_sigma(claimed, sigma, case.image), case.generator(3))
        comes = case.probabilities(mixtures(ground, case.image, order))
        goes = case.probabilities(mixtures(case.image, ground, order))
        figures[f"gain_{sigma}"] = area(comes) - area(goes)
    return figures


def at_sigma(claimed: Claimed, sigma: float, image: Tensor) -> Map:
    """The method's own map, before any drawing, through a Gaussian."""
    scaled = sigma * min(image.shape[1:]) / _SIDE
    drawn: Map = smoothed(torch.from_numpy(np.ascontiguousarray(claimed.own)), scaled).numpy()
    return drawn
