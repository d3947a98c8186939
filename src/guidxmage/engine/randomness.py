"""The states of the random generators that a network's own code may draw from."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def random_state_kept() -> Iterator[Callable[[], bool]]:
    """If what happens inside fails, random numbers go on as if it had not happened.

    Yields a function that tells whether Python's or NumPy's generator has moved since. Only where
    something failed are states put back: other threads may have drawn numbers in between.
    """
    torch_state, gpus = torch.get_rng_state(), _gpu_states()
    numpy_state, python_state = np.random.get_state(), random.getstate()

    def drawn() -> bool:
        now = np.random.get_state()
        same = all(np.array_equal(a, b) for a, b in zip(numpy_state, now, strict=True))
        return not same or random.getstate() != python_state

    try:
        yield drawn
    except BaseException:
        torch.set_rng_state(torch_state)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        raise


def _gpu_states() -> list[torch.Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
