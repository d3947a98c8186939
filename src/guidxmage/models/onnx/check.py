"""Whether a converted network computes what onnxruntime computes from the same file."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from onnx import ModelProto, TensorProto
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from guidxmage.errors import GuidXmageError, InputError
from guidxmage.files.names import brief
from guidxmage.files.untrusted import size_in_words
from guidxmage.models.onnx.file import OnnxFile
from guidxmage.models.onnx.network import NamedOutputs, OnnxNetwork

# No layer of a network makes more of an image.
LARGEST_VALUE = 2**32
# Two float32 runs differ by their rounding: a few units in the last place of the largest score, and
# some times what this network's own float32 differs from its float64.
_UNITS, _TIMES = 64, 16


class RuntimeCheck:
    """Compares a converted network with onnxruntime on the first image that it is called with.

    network: in float32 on the CPU; reference: the file's graph with the same outputs.
    """

    def __init__(self, network: OnnxNetwork, reference: ModelProto, file: OnnxFile) -> None:
        self._network: OnnxNetwork | None = network
        self._reference, self._file = reference, file

    def __call__(self, images: Tensor) -> None:
        """Compare on the first of images (B, C, …) of the network's input; once is enough.

        Raises InputError where the two differ by more than rounding, or one cannot be run.
        """
        if self._network is None:
            return
        # As the two of them are given it: rounded to float32 even where more is known.
        image = images[:1].detach().to("cpu", torch.float32)
        kind = self._reference.graph.input[0].type.tensor_type.elem_type
        image = image.round() if kind == TensorProto.UINT8 else image
        with torch.inference_mode(False), torch.no_grad():
            own = self._outputs(self._network, image)
            exact = self._outputs(copy.deepcopy(self._network).double(), image.double())
        theirs = self._run(image, kind)
        for name, *values in zip(self._network.names, own, exact, theirs, strict=True):
            self._compare(name, *values)
        self._network, self._reference = None, ModelProto()

    def _compare(self, name: str, own: Tensor, exact: Tensor, theirs: Tensor) -> None:
        """Raise InputError where an output is another."""
        if own.shape != theirs.shape:
            raise InputError(
                f"{self._file.path} gives an output {brief(name)!r} of shape {tuple(own.shape)} "
                f"here and of {tuple(theirs.shape)} in onnxruntime, so it is not explained"
            )
        if not own.numel() or not own.is_floating_point() or not theirs.isfinite().all():
            return  # what is not finite is refused when it is explained
        scale, own_rounding = theirs.abs().max(), (own.double() - exact.double()).abs().max()
        allowed = _UNITS * torch.finfo(torch.float32).eps * scale + _TIMES * own_rounding
        difference = (own.double() - theirs.double()).abs().max()
        if not difference <= allowed:
            raise InputError(
                f"{self._file.path} gives other scores here than in onnxruntime: {brief(name)!r} "
                f"differs by {float(difference):.2g} where rounding explains {float(allowed):.2g}, "
                "so it is not explained"
            )

    def _outputs(self, network: OnnxNetwork, image: Tensor) -> list[Tensor]:
        try:
            with _Sized(self._file):
                found = network(image)
        except GuidXmageError:
            raise
        except Exception as error:  # whatever an operator says of inputs that do not fit
            size = "×".join(map(str, image.shape[1:]))
            raise InputError(
                f"{self._file.path} cannot be run on an image of {size}: {_reason(error)}"
            ) from error
        return list(found.values()) if isinstance(found, NamedOutputs) else [found]

    def _run(self, image: Tensor, kind: int) -> list[Tensor]:
        """What onnxruntime gives, from the bytes in memory: it opens no file."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        assert self._network is not None
        given: npt.NDArray[Any] = image.numpy()
        given = given.transpose(0, 2, 3, 1) if self._network.channels_last else given
        given = given.astype(np.uint8 if kind == TensorProto.UINT8 else np.float32)
        name = self._reference.graph.input[0].name
        try:
            content = self._reference.SerializeToString()
            session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
            wanted = [one.name for one in self._reference.graph.output]
            found = session.run(wanted, {name: np.ascontiguousarray(given)})
        except Exception as error:  # onnxruntime has kinds of errors of its own
            raise InputError(
                f"onnxruntime cannot run {self._file.path}, so it cannot be compared: "
                f"{_reason(error)}"
            ) from error
        return [torch.from_numpy(np.array(one)) for one in found]


class _Sized(TorchDispatchMode):
    """Refuses operators whose result would be larger than any layer's, before they are run."""

    def __init__(self, file: OnnxFile) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._file = file

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator."""
        kwargs = kwargs or {}
        for size in _sizes(func, args, kwargs):
            if size > LARGEST_VALUE:
                raise InputError(
                    f"{self._file.path} would make {size_in_words(size)} of one image in "
                    f"{func.__name__}, more than any layer needs"
                )
        return func(*args, **kwargs)


def _sizes(func: Any, args: Any, kwargs: Any) -> list[int]:
    """The bytes of an operator's results, found without memory; none where that is not known."""
    if any(argument.name == "device" for argument in func._schema.arguments):
        kwargs = {**kwargs, "device": torch.device("meta")}
    try:
        args, kwargs = tree_map_only(Tensor, lambda t: t.to("meta"), (args, kwargs))
        results = tree_leaves(func(*args, **kwargs))
    except Exception:  # its size depends on the numbers, as where those are picked that are not 0
        return []
    return [one.numel() * one.element_size() for one in results if isinstance(one, Tensor)]


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return brief(lines[0] if lines else type(error).__name__, 200)
