"""Minimal adversarial samples, found region by region."""
