"""What a transposed run carries: the cotangents that wait for their call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from guidxmage.engine.kernels.layout import is_dense, shares_memory


class Cotangent(NamedTuple):
    """A cotangent g (R, …); owned: it shares its memory with nothing and may be overwritten."""

    g: Tensor
    owned: bool = False


class Cotangents:
    """Cotangents waiting for their call, summed where a value was used more than once."""

    def __init__(self, id_: int, g: Tensor) -> None:
        self._waiting = {id_: Cotangent(g)}

    def pop(self, id_: int) -> Cotangent | None:
        """What has arrived at a value, None where nothing has."""
        return self._waiting.pop(id_, None)

    def waiting(self) -> dict[int, Tensor]:
        """The cotangents that wait, by value."""
        return {id_: one.g for id_, one in self._waiting.items()}

    def add(self, id_: int, sent: Cotangent) -> None:
        """Add what one use of a value sends back to it."""
        waiting = self._waiting.get(id_)
        if waiting is not None:
            target, addend = (
                (sent, waiting) if sent.owned and not waiting.owned else (waiting, sent)
            )
            total = target.g.add_(addend.g) if target.owned else target.g + addend.g
            sent = Cotangent(total, owned=True)
        self._waiting[id_] = sent


def sent_on(arrived: Cotangent, sent: Sequence[Tensor | None], g: Tensor) -> Cotangent:
    """What a call sends back to one of its inputs."""
    alone = not shares_memory(arrived.g, g) or (arrived.owned and len(sent) == 1)
    return Cotangent(g, alone and is_dense(g))
