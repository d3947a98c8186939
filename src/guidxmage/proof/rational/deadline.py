"""A time limit for work that is done piece by piece."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from time import monotonic
from typing import TypeVar

T = TypeVar("T")

# A year: what waits for processes takes no more.
_FOREVER = 3.2e7
# Pieces between two looks at the clock.
_PIECES = 64


class OutOfTimeError(Exception):
    """The time is over; whoever set the limit says so in an answer of his own."""


class Deadline:
    """So many seconds from now on."""

    def __init__(self, seconds: float) -> None:
        self.seconds = min(seconds, _FOREVER)
        self._end = monotonic() + self.seconds

    @property
    def left(self) -> float:
        """Seconds that are left, 0 when the time is over."""
        return max(0.0, self._end - monotonic())

    def check(self) -> None:
        """Raise OutOfTimeError when the time is over."""
        if not self.left:
            raise OutOfTimeError

    def watch(self, pieces: Iterable[T]) -> Iterator[T]:
        """The same pieces, for as long as there is time. Raises OutOfTimeError."""
        for number, piece in enumerate(pieces):
            if number % _PIECES == 0:
                self.check()
            yield piece


NEVER = Deadline(float("inf"))
