"""How far a run is: what is done, how fast it goes, how long the rest takes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

# The rate is that of so many last seconds, so that a slow start is forgotten.
_WINDOW = 120.0


@dataclass
class Progress:
    """Photos of one run, from when it began to work on them.

    total: photos that are wanted; kept: of them, those that were there already. done: explained by
    this run, those that failed among them; lost: of blocks that were given up, to be made again.
    """

    total: int
    kept: int = 0
    done: int = 0
    errors: int = 0
    waiting: bool = False
    _began: float = field(default_factory=time.monotonic)
    _seen: list[tuple[float, int]] = field(default_factory=list, repr=False)

    def add(self, photos: int, errors: int) -> None:
        """Photos that are done now; fewer than none for a block that was given up."""
        self.done += photos
        self.errors += errors
        now = time.monotonic()
        self._seen.append((now, self.done))
        while len(self._seen) > 2 and now - self._seen[0][0] > _WINDOW:
            self._seen.pop(0)

    def keep(self, photos: int) -> None:
        """Photos that are there already, of an earlier run or of another one."""
        self.kept += photos

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self._began

    @property
    def rate(self) -> float:
        """Photos a second, lately; 0 before the first are done."""
        if not self._seen:
            return 0.0
        began, before = (self._began, 0) if len(self._seen) < 3 else self._seen[0]
        passed = self._seen[-1][0] - began
        return (self._seen[-1][1] - before) / passed if passed > 0 else 0.0

    @property
    def left(self) -> int:
        """Photos that are still to be done."""
        return max(self.total - self.kept - self.done, 0)

    @property
    def remaining(self) -> float | None:
        """Seconds that the rest takes at this rate; None where that is not known yet."""
        return self.left / self.rate if self.rate > 0 else None

    def __str__(self) -> str:
        done = self.kept + self.done
        kept = f" ({self.kept} from earlier)" if self.kept else ""
        parts = [f"{done} of {self.total} photos{kept}"]
        if self.rate:
            parts.append(f"{self.rate:.1f} a second")
        if self.left and self.remaining is not None:
            parts.append(f"{in_time(self.remaining)} left")
        parts.append(f"{self.errors} error{'' if self.errors == 1 else 's'}")
        return ", ".join(parts)


def in_time(seconds: float) -> str:
    """A duration in words: "40 s", "12 min", "3 h 20 min", "5 days"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    if seconds < 172_800:
        return f"{seconds // 3600:.0f} h {seconds % 3600 / 60:.0f} min"
    return f"{seconds / 86_400:.1f} days"
