"""Minimal adversarial samples, guided by the symbolic model."""

from guidxmage.adversarial.certified.certify import Certificate, certify
from guidxmage.adversarial.heuristic.attack import NORMS, attack
from guidxmage.adversarial.heuristic.result import AttackResult, Optimality

__all__ = ["NORMS", "AttackResult", "Certificate", "Optimality", "attack", "certify"]
