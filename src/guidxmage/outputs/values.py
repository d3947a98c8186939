"""Targets among numbers with names: a regression."""

from __future__ import annotations

from dataclasses import dataclass

from guidxmage.errors import InputError
from guidxmage.outputs.classes import class_number
from guidxmage.outputs.kinds import Output, Regression
from guidxmage.outputs.meaning import Asked, Meaning, Seen
from guidxmage.outputs.target import needs


@dataclass(frozen=True)
class Value:
    """One number of a `Regression`, by its name or its index."""

    name: str | int = 0

    def of(self, output: Output, seen: Seen) -> Asked:
        """See `Target`."""
        needs(output, Regression, self)
        assert isinstance(output, Regression)
        (values,) = seen.outputs
        names = list(output.names) or None
        if names is not None and len(names) > values.numel():
            raise InputError(
                f"{len(names)} names were given for {values.numel()} numbers of the output"
            )
        if names is not None and isinstance(self.name, str) and names.count(self.name) > 1:
            raise InputError(f"several values are called {self.name!r}; give a number")
        number = class_number(self.name, values.numel(), names, "value")
        (cotangent,) = seen.nothing()
        cotangent.view(-1)[number] = 1
        name = names[number] if names is not None and number < len(names) else f"value {number}"
        return seen.asked(
            [cotangent], Meaning(name, output.unit(number), {"kind": "value", "value": number})
        )
