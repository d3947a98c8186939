"""Whatever lands on the disk: whole or not there, held by one, checked when it is read."""

from guidxmage.moved import names_of

__getattr__ = names_of(__name__)
