"""Evaluation: explanation methods side by side on the same images, with the same measures."""
