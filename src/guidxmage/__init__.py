"""Exact, pixel-by-pixel explanations of convolutional networks."""

__version__ = "0.1.0"
