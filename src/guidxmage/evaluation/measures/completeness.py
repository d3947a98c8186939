"""Completeness: do the values add up to what the method promises?"""

from __future__ import annotations

import torch

from guidxmage.evaluation.measures.case import Case, Claimed, Figures


def completeness(case: Case, claimed: Claimed) -> Figures:
    """For methods whose values promise a total; nothing for the others.

    gap: |ΣA − promised| / |score|; share: ΣA / score, how much of the score the pixels are given.
    """
    promise = claimed.method.total
    if promise is None or case.score == 0:
        return {}
    total = float(claimed.values.sum())
    promised = case.score
    if promise == "score - bias":
        promised -= float(case.explanation.bias)
    elif promise == "score - score of black":
        black = torch.zeros_like(case.image)[None]
        promised -= float(case.exact.scores(black)[0, case.target])
    return {
        "gap": abs(total - promised) / abs(case.score),
        "share": total / case.score,
    }
