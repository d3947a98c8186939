"""Commands whose help shows options that take no value as what they are."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup


def _without_types(parameters: list[Any]) -> list[Any]:
    """Typer shows a flag as if a value, a <bool>, had to be given behind it."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters


class Command(TyperCommand):
    """One command."""

    def get_params(self, ctx: Any) -> list[Any]:
        """All parameters, --help among them."""
        return _without_types(super().get_params(ctx))


class Commands(TyperGroup):
    """The commands together."""

    def get_params(self, ctx: Any) -> list[Any]:
        """All parameters, --help among them."""
        return _without_types(super().get_params(ctx))
