"""Which object each pixel belongs to, and what each object adds to the score."""

from guidxmage.moved import names_of

__getattr__ = names_of(__name__)
