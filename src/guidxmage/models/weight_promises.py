"""Whether a .pth file holds what it promises, found out before `torch.load` takes memory for it.

Such a file is a pickle, which names tensors by their shapes, and the numbers beside it. A damaged
or malicious one may name a terabyte, or unpack to one; `torch.load` believes it.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import IO

from guidxmage.errors import InputError
from guidxmage.files.names import brief
from guidxmage.files.pickles import Named, Notes, Outside, PickledCall, followed

_ZIP = b"PK\x03\x04"
# The number with which PyTorch's older format, several pickles in a row, begins.
_MAGIC = 0x1950A86A20F9469CFC6C
_LARGEST_PICKLE = 2**25
# PyTorch packs nothing; others may have packed a file again.
_LARGEST_RATIO, _SMALL = 4, 2**24
_BYTES = {
    **dict.fromkeys(("ByteStorage", "CharStorage", "BoolStorage", "UntypedStorage"), 1),
    **dict.fromkeys(("ShortStorage", "HalfStorage", "BFloat16Storage"), 2),
    **dict.fromkeys(("IntStorage", "FloatStorage"), 4),
    **dict.fromkeys(("LongStorage", "DoubleStorage", "ComplexFloatStorage"), 8),
}
_MOST_BYTES = 16
# What takes no memory but for what lies in the file. Of sparse and meta tensors it is told later
# which they are, and that they cannot be used.
_HARMLESS = {
    "argparse.Namespace",
    "_codecs.encode",
    "collections.Counter",
    "collections.OrderedDict",
    *("builtins.set", "__builtin__.set", "builtins.complex", "__builtin__.complex"),
    "torch.Size",
    "torch.device",
    "torch.nn.parameter.Parameter",
    "torch.serialization._get_layout",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_sparse_tensor",
    "torch._utils._rebuild_meta_tensor_no_storage",
}
_ANY_TENSOR = "torch._tensor._rebuild_from_type_v2"
# Other functions of PyTorch, which would run no code of others, but may take any amount of memory.
_OTHER_TENSORS = re.compile(r"torch\._utils\.\w+|torch(\.\w+)*\.\w*Tensor|torch\._tensor\.\w+")


def check_promises(file: Path) -> None:
    """Raise InputError where loading the file could take more memory than the file is large."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            if stream.read(len(_ZIP)) == _ZIP:
                _check_zip(file, size)
            else:
                stream.seek(0)
                _check_pickles(stream, file, size)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error


def damaged(file: Path, reason: str = "") -> InputError:
    """What is said of a file that is no weight file."""
    said = f" ({brief(reason)})" if reason else ""
    return InputError(f"{file} is damaged or not a weight file{said}")


def foreign(file: Path, what: str) -> InputError:
    """What is said of a file with objects that code would have to make."""
    return InputError(
        f"{file} holds pickled objects ({brief(what)}), which could run code when loaded; "
        "save only the weights: torch.save(model.state_dict(), path)"
    )


def _check_zip(file: Path, size: int) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            members = {member.filename: member.file_size for member in archive.infolist()}
            if len(members) != len(archive.infolist()):
                raise damaged(file, "a name stands in it twice")
            if sum(members.values()) > max(_SMALL, _LARGEST_RATIO * size):
                raise InputError(
                    f"{file} of {size} bytes would unpack to {sum(members.values())}; save the "
                    "weights again with torch.save"
                )
            root = archive.infolist()[0].filename.partition("/")[0] if members else ""
            if f"{root}/constants.pkl" in members:
                return  # TorchScript, which is refused by name
            if members.get(f"{root}/data.pkl", 2 * _LARGEST_PICKLE) > _LARGEST_PICKLE:
                raise damaged(file, "it has no pickle of tensors")
            content = archive.read(f"{root}/data.pkl")
    # zipfile and zlib raise whatever they stumble over.
    except InputError:
        raise
    except Exception as error:
        raise damaged(file, (str(error).splitlines() or [type(error).__name__])[0]) from error
    _, notes = followed(io.BytesIO(content), partial(damaged, file))
    _check_calls(notes.calls, file)
    for key, needed in _storages(notes.outside, file).items():
        there = members.get(f"{root}/data/{key}", 0)
        if needed > there:
            raise damaged(file, f"it promises {needed} bytes where {there} are")


def _check_pickles(stream: IO[bytes], file: Path, size: int) -> None:
    head = io.BytesIO(stream.read(_LARGEST_PICKLE))
    refuse = partial(damaged, file)
    magic, first = followed(head, lambda _: damaged(file))
    if magic != _MAGIC:
        raise foreign(file, first.calls[0].name) if first.calls else damaged(file)
    # The version, the machine, the tensors, and the order of their numbers in the file.
    notes: list[Notes] = [followed(head, refuse)[1] for _ in range(4)]
    for one in notes:
        _check_calls(one.calls, file)
    outside = [reference for one in notes for reference in one.outside]
    if (needed := sum(_storages(outside, file).values())) > size:
        raise damaged(file, f"it promises {needed} bytes, but has {size}")


def _check_calls(calls: Iterable[PickledCall], file: Path) -> None:
    for call in calls:
        name = call.name
        if name == _ANY_TENSOR and call.arguments and isinstance(call.arguments[0], Named):
            name = call.arguments[0].name
        if name in _HARMLESS:
            continue
        if not _OTHER_TENSORS.fullmatch(name):
            raise foreign(file, name)
        raise InputError(
            f"the weight file {file} holds tensors in a form that cannot be loaded "
            f"({brief(name)}); save them as ordinary float32 tensors"
        )


def _storages(outside: Iterable[Outside], file: Path) -> dict[str, int]:
    """How many bytes the pickle says that each block of numbers has, by its name."""
    found: dict[str, int] = {}
    for reference in outside:
        match reference.key:
            case ("storage", Named() as kind, str(key), _, int(count), *_) if count >= 0:
                each = _BYTES.get(kind.name.rpartition(".")[2], _MOST_BYTES)
                found[key] = max(found.get(key, 0), math.prod((count, each)))
            case _:
                raise damaged(file, "it refers to data that are none")
    return found
