"""Running the user's network, watched or plainly, so that it is left as it was."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from guidxmage.engine.capture.as_found import as_found, restored
from guidxmage.engine.capture.failure import failure
from guidxmage.engine.capture.leaving import Leaving
from guidxmage.engine.capture.recorder import Recorder
from guidxmage.engine.capture.tape import Tape
from guidxmage.engine.capture.user_model import untouched

# PyTorch has one place for all threads where a recorder can stand.
_ONE_AT_A_TIME = threading.RLock()


def taped(model: nn.Module, images: Tensor) -> Tape:
    """Run a model on images (B, …) and note what happened; the model is left as it was.

    Raises InputError where the model itself fails, UnsupportedOperatorError where it draws random
    numbers or hands active values to code that cannot be followed.
    """
    tape = Tape(len(images))
    with _ONE_AT_A_TIME, untouched(model), _uncompiled(), as_found(model) as found:
        given = images.detach().clone()  # the model may write over it
        recorder = Recorder(tape, given, model)
        try:
            with recorder, Leaving(recorder):
                tape.output = model(given)
        except Exception as error:
            raise (recorder.refusal or failure(model, images, error)) from error
        finally:
            restored(tape.written)
            tape.drawn = found.drawn()
        if recorder.refusal is not None:  # the model has caught it
            raise recorder.refusal
        if isinstance(tape.output, Tensor):
            tape.result = recorder.found(tape.output)
    # It holds all weights, and is in a circle with what numbers its values.
    vars(recorder).clear()
    return tape


def plain_run(model: nn.Module, images: Tensor, writes: Sequence[Tensor]) -> Any:
    """What the model returns for images, without anyone looking; it is left as it was.

    writes: the model's own tensors that a run is known to write to.
    """
    return runs_in_a_row(model, images, writes, 1)[0]


def runs_in_a_row(
    model: nn.Module, images: Tensor, writes: Sequence[Tensor], count: int
) -> list[Any]:
    """What several plain runs return, each of the model as the last one left it."""
    with untouched(model), _uncompiled(), as_found(model, writes):
        try:
            return [model(images.detach().clone()) for _ in range(count)]
        except Exception as error:
            raise failure(model, images, error) from error


def _uncompiled() -> AbstractContextManager[Any]:
    """Parts of the model that torch.compile has made run as they were written."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and it takes long to import
        return nullcontext()
    return torch.compiler.set_stance("force_eager")
