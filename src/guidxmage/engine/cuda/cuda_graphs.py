"""CUDA graphs: work on a device that is captured once and replayed without any Python."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, cuda

Work = Callable[[], Sequence[Tensor]]


@dataclass(frozen=True)
class Captured:
    """Captured work. A replay reads and writes the very memory that the capture did.

    `outputs` lie there too: they hold nothing before the first replay, and every replay overwrites
    them.
    """

    outputs: Sequence[Tensor]
    replay: Callable[[], None]


class CudaGraphs:
    """Captures work on one device; all of its graphs share a pool of memory and a side stream.

    Sharing is safe where graphs are replayed one after the other on one stream, and what one of
    them leaves for another is held while the other is captured.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side = cuda.Stream(device)
        self._pool = cuda.graph_pool_handle()

    def capture(self, work: Work) -> Captured:
        """Run work twice to warm up, and capture it.

        The first run fills what is kept from run to run; in the second anything that waits for the
        device raises, before it could break a capture off. Raises RuntimeError where work cannot be
        captured; the current stream and the random numbers are then what they were.
        """
        with cuda.device(self._device), _same_stream_after(), _same_numbers_after():
            now = cuda.current_stream()
            self._side.wait_stream(now)
            with cuda.stream(self._side):
                work()
                with _waiting_refused():
                    work()
            now.wait_stream(self._side)
            graph = cuda.CUDAGraph()
            with cuda.graph(graph, pool=self._pool, stream=self._side):
                outputs = work()
        return Captured(outputs, graph.replay)


@contextlib.contextmanager
def _same_stream_after() -> Iterator[None]:
    """A capture that breaks off leaves its own stream the current one."""
    with cuda.stream(cuda.current_stream()):
        yield


@contextlib.contextmanager
def _same_numbers_after() -> Iterator[None]:
    """A capture that breaks off leaves the generator waiting for the end of it."""
    generator = cuda.default_generators[cuda.current_device()]
    state = generator.clone_state()
    try:
        yield
    except BaseException:
        generator.graphsafe_set_state(state)
        raise


@contextlib.contextmanager
def _waiting_refused() -> Iterator[None]:
    mode = cuda.get_sync_debug_mode()
    cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        cuda.set_sync_debug_mode(mode)
