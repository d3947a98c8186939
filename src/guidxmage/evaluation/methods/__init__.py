"""The methods compared, each through its own library."""

from guidxmage.evaluation.methods.method import Map, Method, check_installed
from guidxmage.evaluation.methods.table import METHODS, choose_methods

__all__ = ["METHODS", "Map", "Method", "check_installed", "choose_methods"]
