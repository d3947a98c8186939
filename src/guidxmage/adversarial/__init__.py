"""Minimal adversarial samples, guided by the symbolic model."""

import warnings
from typing import Any

from guidxmage.adversarial.certified.certify import CertifiedMinimum, certify
from guidxmage.adversarial.certified.decision import CertifiedDecision
from guidxmage.adversarial.certified.sufficient import SufficientPixels, sufficient
from guidxmage.adversarial.heuristic.attack import NORMS, attack
from guidxmage.adversarial.heuristic.result import AttackResult, Optimality
from guidxmage.adversarial.margin import margin

__all__ = [
    "NORMS",
    "AttackResult",
    "CertifiedDecision",
    "CertifiedMinimum",
    "Optimality",
    "SufficientPixels",
    "attack",
    "certify",
    "margin",
    "sufficient",
]


def __getattr__(name: str) -> Any:
    """The name that certified minima had before, for one more release."""
    if name == "Certificate":
        warnings.warn(
            "guidxmage.adversarial.Certificate is CertifiedMinimum now", DeprecationWarning, 2
        )
        return CertifiedMinimum
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
