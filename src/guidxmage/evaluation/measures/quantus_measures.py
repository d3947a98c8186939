"""Faithfulness by the Quantus library."""

from __future__ import annotations

import io
import random
import warnings
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import torch

from guidxmage.evaluation.measures.case import Case, Claimed, Figures
from guidxmage.models.torchvision_import import import_torchvision

RUNS = 24


def faithfulness(case: Case, claimed: Claimed) -> Figures:
    """faithfulness: Quantus' FaithfulnessCorrelation (Bhatt et al. 2020), −1 to 1, high is good.

    Correlation, over 24 random subsets of a sixteenth of the pixels, of the map's sum with the fall
    of the score when the subset turns black.
    """
    import_torchvision()  # Quantus' own import of it fails where it cannot be loaded plainly
    import quantus

    pixels = claimed.values.size
    state, numpys = random.getstate(), np.random.get_state()
    try:
        random.seed(case.seed)
        np.random.seed(case.seed % 2**32)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with redirect_stderr(io.StringIO()), torch.no_grad():
                measure = quantus.FaithfulnessCorrelation(
                    nr_runs=RUNS,
                    subset_size=max(1, pixels // 16),
                    perturb_baseline="black",
                    similarity_func=quantus.similarity_func.correlation_pearson,
                    abs=False,
                    normalise=False,
                    return_aggregate=False,
                    disable_warnings=True,
                )
                found = measure(
                    model=case.fast.whole,
                    x_batch=case.image[None].float().numpy(),
                    y_batch=np.array([case.target]),
                    a_batch=claimed.values[None, None],
                    device="cpu",
                    softmax=False,
                )
    finally:
        random.setstate(state)
        np.random.set_state(numpys)
    value = float(found[0])
    return {"faithfulness": value if np.isfinite(value) else None}
