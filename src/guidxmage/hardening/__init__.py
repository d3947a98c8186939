"""Hardening: samples whose background contributes less, retraining with them, and evidence."""
