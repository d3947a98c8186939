"""Every decision of a run, and the numbers recorded at smooth operators."""

from guidxmage.moved import names_of

__getattr__ = names_of(__name__)
