"""Random numbers: which operators draw them, and the generators that they are drawn from."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch._ops import OpOverload

# Random by name, yet not when this argument says so.
_QUIET: dict[str, tuple[str, Any]] = {
    "aten::dropout": ("train", False),
    "aten::dropout_": ("train", False),
    "aten::feature_dropout": ("train", False),
    "aten::feature_dropout_": ("train", False),
    "aten::alpha_dropout": ("train", False),
    "aten::alpha_dropout_": ("train", False),
    "aten::feature_alpha_dropout": ("train", False),
    "aten::feature_alpha_dropout_": ("train", False),
    "aten::native_dropout": ("train", False),
    "aten::rrelu": ("training", False),
    "aten::rrelu_": ("training", False),
    "aten::scaled_dot_product_attention": ("dropout_p", 0.0),
    "aten::lstm": ("train", False),
    "aten::gru": ("train", False),
    "aten::rnn_relu": ("train", False),
    "aten::rnn_tanh": ("train", False),
}


@contextmanager
def random_state_kept() -> Iterator[Callable[[], bool]]:
    """Random numbers go on as if what happens inside had not happened.

    Where other threads are at work, which may have drawn numbers meanwhile, only if it fails.
    Yields a function that tells whether Python's or NumPy's generator has moved since.
    """
    torch_state, gpus = torch.get_rng_state(), _gpu_states()
    numpy_state, python_state = np.random.get_state(), random.getstate()

    def drawn() -> bool:
        now = np.random.get_state()
        same = all(np.array_equal(a, b) for a, b in zip(numpy_state, now, strict=True))
        return not same or random.getstate() != python_state

    def put_back() -> None:
        if not torch.equal(torch.get_rng_state(), torch_state):
            torch.set_rng_state(torch_state)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)
        if drawn():
            np.random.set_state(numpy_state)
            random.setstate(python_state)

    try:
        yield drawn
    except BaseException:
        put_back()
        raise
    if not others_at_work():
        put_back()


def others_at_work() -> bool:
    """Whether there are other threads than this one and those that serve in the background."""
    own = threading.current_thread()
    return any(not one.daemon for one in threading.enumerate() if one is not own)


def _gpu_states() -> list[torch.Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


def draws(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call of an operator draws random numbers."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    name, quiet = _QUIET.get(func._schema.name, ("", None))
    for number, argument in enumerate(func._schema.arguments):
        if argument.name == name:
            given = args[number] if number < len(args) else kwargs.get(name)
            return bool((argument.default_value if given is None else given) != quiet)
    return True
