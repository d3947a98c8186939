"""ROAD (Rong et al. 2022) through pytorch-grad-cam: pixels are filled in rather than blackened."""

from __future__ import annotations

import numpy as np
import torch

from guidxmage.evaluation.measures.case import Case, Claimed, Figures
from guidxmage.models.torchvision_import import import_torchvision

PERCENTILES = (80, 90)


def road(case: Case, claimed: Claimed) -> Figures:
    """road: (fall by the lowest pixels' loss − fall by the highest's) in score units, high is good.

    The change of the score when the lowest 10 and 20 % of the pixels are imputed, minus that when
    the highest are, halved: the library's ROADCombined.
    """
    import_torchvision()  # grad-cam's own import of it fails where it cannot be loaded plainly
    from pytorch_grad_cam.metrics.road import ROADCombined
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    image = case.image[None].float()
    measure = ROADCombined(percentiles=list(PERCENTILES))
    scaled = claimed.values - claimed.values.min()
    scaled = np.float32(scaled / max(float(scaled.max()), 1e-30))
    with torch.random.fork_rng(devices=[]):  # the imputation adds a little noise
        torch.default_generator.manual_seed(case.seed)
        found = measure(image, scaled[None], [ClassifierOutputTarget(case.target)], case.fast.whole)
    return {"road": float(found[0])}
