"""What an attack found, and how far it is from the best that its region allows."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import isnan
from typing import Any

import torch
from torch import Tensor

from guidxmage.reports.short_repr import short_repr


@dataclass(frozen=True)
class Optimality:
    """Whether a sample is as small as possible near where it lies, (B,) each; NaN on failure.

    alignment: ⟨w, δ⟩ / (‖w‖_q ‖δ‖_p) on the free entries, with w the normal of the boundary in
    the sample's region and q dual to p; 1 means that no other direction gets there with less, and
    for "l2" it is the cosine. at_limits: entries held by the box. region_size: the norm of the
    closest point that the sample's own region model allows; region_gap: size / region_size − 1.
    follows: whether that closest point lies in the same region, so that the sample is proved to be
    the smallest within it up to the gap. None where the network is not piecewise linear.
    """

    alignment: Tensor
    at_limits: Tensor
    region_size: Tensor
    region_gap: Tensor
    follows: Tensor | None

    __repr__ = short_repr


@dataclass(frozen=True)
class AttackResult:
    """The outcome of an attack on B images; rows that failed hold NaN.

    adversarial (B, C, H, W); norm (B,) in `norm_name`; norms: every norm; success (B,) bool, each
    verified by the network alone (one image at a time) and in float64; already (B,): images that
    were not classified as given before anything was done (norm 0). from_class, to_class (B,), −1
    for an image that was refused; margin (B,): winning minus losing score, float64. forwards,
    backwards: rows run per image. decisions_flipped (B,): decisions that differ from the image's
    own trail; regions_crossed (B,): regions on the straight line to the sample, at most as many as
    were to be counted. Both are None where there are none or none were to be counted. notes: a
    sentence per image that has something to say.
    """

    adversarial: Tensor
    original: Tensor
    norm_name: str
    norm: Tensor
    norms: dict[str, Tensor]
    success: Tensor
    already: Tensor
    from_class: Tensor
    to_class: Tensor
    margin: Tensor
    forwards: float
    backwards: float
    decisions_flipped: Tensor | None
    regions_crossed: Tensor | None
    optimality: Optimality
    quantised: bool
    evidence: str
    notes: dict[int, str]

    __repr__ = short_repr

    def placed(self, rows: Tensor, X: Tensor, notes: dict[int, str]) -> AttackResult:
        """The results of some `rows` among all images X; `notes` say why the others failed."""

        def place(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: place(part) for name, part in value.items()}
            if not isinstance(value, Tensor):
                return value
            nothing = float("nan") if value.is_floating_point() else 0 if _is_bool(value) else -1
            whole = value.new_full((len(X), *value.shape[1:]), nothing)
            return whole.index_copy(0, rows.to(value.device), value)

        own = {rows.tolist()[row]: note for row, note in self.notes.items()}
        parts = {name: place(getattr(self.optimality, name)) for name in _names(Optimality)}
        placed = {
            name: place(getattr(self, name))
            for name in _names(AttackResult)
            if name not in ("optimality", "notes", "original")
        }
        whole = dict(sorted({**own, **notes}.items()))
        return AttackResult(**placed, optimality=Optimality(**parts), notes=whole, original=X)

    def summary(self, row: int) -> dict[str, Any]:
        """One image's result as plain numbers (None for NaN)."""

        def number(value: Tensor) -> float | None:
            plain = float(value)
            return None if isnan(plain) else plain

        flipped, crossed = self.decisions_flipped, self.regions_crossed
        report = self.optimality
        return {
            "success": bool(self.success[row]),
            "already_misclassified": bool(self.already[row]),
            "norm": self.norm_name,
            "size": number(self.norm[row]),
            "norms": {name: number(values[row]) for name, values in self.norms.items()},
            "from_class": int(self.from_class[row]),
            "to_class": int(self.to_class[row]) if bool(self.success[row]) else None,
            "margin": number(self.margin[row]),
            "forwards": self.forwards,
            "backwards": self.backwards,
            "decisions_flipped": None if flipped is None else number(flipped[row]),
            "regions_crossed": None if crossed is None else number(crossed[row]),
            "quantised": self.quantised,
            "evidence": self.evidence,
            "optimality": {
                "alignment": number(report.alignment[row]),
                "at_limits": number(report.at_limits[row]),
                "region_size": number(report.region_size[row]),
                "region_gap": number(report.region_gap[row]),
                "closest_follows_trail": None
                if report.follows is None
                else bool(report.follows[row]),
            },
            "note": self.notes.get(row, ""),
        }


def _is_bool(value: Tensor) -> bool:
    return value.dtype == torch.bool


def _names(kind: type) -> list[str]:
    return [entry.name for entry in fields(kind)]
