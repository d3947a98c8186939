"""What images come in as, and the way from there into the network."""

from guidxmage.moved import names_of

__getattr__ = names_of(__name__)
