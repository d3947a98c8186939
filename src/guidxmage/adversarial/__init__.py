"""Minimal adversarial samples, guided by the symbolic model."""

from guidxmage.adversarial.attack import NORMS, attack
from guidxmage.adversarial.exact import Certificate, certify
from guidxmage.adversarial.result import AttackResult, Optimality

__all__ = ["NORMS", "AttackResult", "Certificate", "Optimality", "attack", "certify"]
