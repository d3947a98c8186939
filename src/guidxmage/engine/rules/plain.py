"""Rules in operators that leave Python: decisions as dense masks, derived from what is chosen.

`program/plain.py` runs them. In `Rule.plain` a rule says what its `record` and `pull` are where
those pack bits, keep a weight ready or call a backward kernel; most rules are run as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from guidxmage.engine.calls.call import Call, Frame
from guidxmage.engine.rules.choices import (
    AboveLimit,
    BetweenBounds,
    Choice,
    OfTwo,
    TwoSlopes,
)
from guidxmage.engine.rules.table import BY_AUTOGRAD, Derived, Rule
from guidxmage.engine.trail.dense import Dense


@dataclass(frozen=True, slots=True)
class PlainFrame(Frame):
    """A Frame whose decisions are dense and whose rows are `repeats` targets of every image.

    `keep` keeps what is derived from the weights alone, by call and name. by_image: the call takes
    masks or positions that the image decides, so that nothing follows from the weights alone.
    """

    repeats: int = 1
    by_image: bool = False
    keep: Callable[[int, str, Callable[[], Any]], Any] = lambda id_, name, make: make()

    def prepare(self, name: str, make: Callable[[], Any]) -> Any:
        """What is derived from the weights alone."""
        return make() if self.by_image else self.keep(self.call.id, name, make)

    def plane(self, like: Tensor, number: int = 0) -> Tensor:
        """One plane as ones and zeros of the dtype of `like`."""
        return self.taken().planes[number].to(like.dtype)

    def gate(self, g: Tensor, bits: Tensor, *, overwrite: bool = False) -> Tensor:
        """g ⊙ bits, those of an image for all its rows."""
        if self.repeats == 1:
            return g * bits
        return (g.unflatten(0, (self.repeats, -1)) * bits).flatten(0, 1)

    def switched(self, g: Tensor, number: int = 0) -> Tensor:
        """g where one plane is set, and 0 elsewhere: a product is faster than a choice there."""
        return self.gate(g, self.plane(g, number))

    def for_rows(self, recorded: Tensor) -> Tensor:
        """A recorded tensor (B, …) for all rows."""
        if self.repeats == 1:
            return recorded
        return recorded.repeat(self.repeats, *[1] * (recorded.ndim - 1))


# --- what is recorded ----------------------------------------------------------------------------


def recorded(f: PlainFrame, rule: Rule, *args: Any, **kw: Any) -> tuple[Tensor, Any]:
    """One call run for real: its value, and its dense decisions or gates, or None."""
    if rule.plain is not None and rule.plain.record is not None:
        value, entry = rule.plain.record(f, *args, **kw)
        return value, entry
    if rule.kind == "decision":
        assert rule.choice is not None
        return f.call.run(*args), Dense.of(*_decided(f, rule.choice, *args))
    found = f.call.run(*args) if rule.record is None else rule.record(f, *args, **kw)
    return (found[0], found[1]) if isinstance(found, tuple) else (found, None)


# Choices between slopes and bounds: masks that follow from the input.
_BY_VALUE = (TwoSlopes, AboveLimit, BetweenBounds, OfTwo)


def _decided(f: Frame, choice: Choice, x: Any, *rest: Any) -> tuple[Tensor, ...]:
    """What a decision operator chooses, as its `record` does, from what is said of its choice."""
    if isinstance(choice, TwoSlopes):
        return (x > 0,)
    if isinstance(choice, AboveLimit):
        return (x > choice.numbers(*rest)[0],)
    if isinstance(choice, BetweenBounds):
        low, high = choice.bounds(*rest)
        above = x > high if choice.closed else x >= high
        inside = (x >= low) & (x <= high) if choice.closed else (x > low) & (x < high)
        return inside, above
    assert isinstance(choice, OfTwo)
    first = x >= rest[0] if choice.sign > 0 else x <= rest[0]
    return (first.expand(f.shape),)


def pulled(f: PlainFrame, rule: Rule, g: Tensor, holes: list[Any]) -> list[Tensor | None]:
    """One call transposed: a cotangent for each of its active inputs, None where it is frozen."""
    own = rule.plain.pull if rule.plain is not None else None
    sent: list[Tensor | None] = (own or rule.pull)(f, g, *holes, **f.call.kwargs)
    return sent


def why_not_plain(rule: Rule, convention: str = "", call: Call | None = None) -> str | None:
    """Why a rule has no form in operators that can be exported, or None.

    convention: what its family of smooth operators is made affine by. call: the one that is asked
    about, where some are refused.
    """
    plain = rule.plain
    if plain is not None and plain.refused:
        return plain.refused
    if plain is not None and plain.refuse is not None and call is not None:
        why = plain.refuse(call, convention)
        if why:
            return why
    if isinstance(rule.pull, Derived) and (plain is None or plain.pull is None):
        return BY_AUTOGRAD
    unsaid = plain is None or plain.record is None
    if rule.kind == "decision" and unsaid and not isinstance(rule.choice, _BY_VALUE):
        return "its decisions are not written in operators that can be exported"
    return None
