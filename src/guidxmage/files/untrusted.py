"""Reading what others wrote: NumPy archives and JSON, checked before memory is taken for them.

A file may have been damaged, or made to do harm: a small archive that unpacks to gigabytes, a
header that promises more than follows, text nested so deep that a reader falls over. Everything
here answers such a file with an InputError of one sentence, and with nothing else.
"""

from __future__ import annotations

import json
import math
import os
import stat
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from guidxmage.errors import InputError
from guidxmage.files.names import brief

Array = npt.NDArray[Any]
T = TypeVar("T")

# An archive may unpack to this many times its own size, or to so many bytes if that is more:
# `numpy.savez` packs nothing, and of what is packed only emptiness is smaller by more.
LARGEST_RATIO, SMALL_ARCHIVE = 32, 2**26
# Beyond this no archive of ours goes; the largest there is (all classes of a photo) has 2 GB.
LARGEST_ARCHIVE = 2**36
MOST_MEMBERS = 100_000
LARGEST_TEXT = 2**27
# Of a folder's manifest: a result of a thousand targets has a few hundred bytes for each.
LARGEST_MARK = 2**25
# json.loads itself goes down until the interpreter's stack is used up.
DEEPEST = 64
LARGEST_INTEGER = 2**64 - 1
# Kinds of numbers that an array may hold: no objects, texts, records or dates.
_KINDS = "biuf"


# --- archives ------------------------------------------------------------------------------------


def read_arrays(
    path: str | os.PathLike[str], wanted: Callable[[str], bool] = lambda _: True
) -> dict[str, Array]:
    """The wanted arrays of a NumPy archive (.npz), by name; nothing is unpickled.

    Raises InputError where there is no such file, where it is no archive or a damaged one, and
    where what it would unpack to is out of proportion or not what its headers say.
    """
    try:
        with zipfile.ZipFile(regular(Path(path))) as archive:
            members = _members(archive, Path(path))
            chosen = {name: member for name, member in members.items() if wanted(name)}
            return {name: _array(archive, member, path) for name, member in chosen.items()}
    except InputError:
        raise
    # A damaged archive makes zipfile and zlib raise whatever they stumble over.
    except Exception as error:
        raise InputError(
            f"{path} is no NumPy archive, or a damaged one ({_first_line(error)})"
        ) from (error)


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """The members by the arrays' names, all of them of a size that may be unpacked."""
    listed = archive.infolist()
    if len(listed) > MOST_MEMBERS:
        raise InputError(f"{path} has {len(listed)} members; at most {MOST_MEMBERS} are read")
    found: dict[str, zipfile.ZipInfo] = {}
    for member in listed:
        name = member.filename.removesuffix(".npy")
        if name == member.filename or not name or set(name) & set("/\\:\0") or ".." in name:
            raise InputError(f"{path} holds {brief(member.filename)!r}, which is no array's name")
        if name in found:
            raise InputError(f"{path} holds {brief(member.filename)!r} twice")
        found[name] = member
    unpacked, own = sum(member.file_size for member in listed), path.stat().st_size
    allowed = min(max(SMALL_ARCHIVE, LARGEST_RATIO * own), LARGEST_ARCHIVE)
    if unpacked > allowed:
        raise InputError(
            f"{path} of {size_in_words(own)} would unpack to {size_in_words(unpacked)}, more "
            f"than the {size_in_words(allowed)} that are allowed"
        )
    return found


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Any) -> Array:
    """One array: its own header must promise just what the member holds."""
    name = brief(member.filename)
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in readers:
            raise InputError(f"{path}: {name!r} has NumPy's format {version}")
        shape, fortran, dtype = readers[version](stream)
        if dtype.kind not in _KINDS or dtype.hasobject or dtype.itemsize > 8:
            raise InputError(f"{path}: {name!r} holds {dtype}, which is no plain number")
        if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in shape):
            raise InputError(f"{path}: {name!r} states the shape {shape}")
        promised, left = math.prod(shape) * dtype.itemsize, member.file_size - stream.tell()
        if promised != left:
            raise InputError(
                f"{path}: the header of {name!r} promises {size_in_words(promised)} where "
                f"{size_in_words(max(left, 0))} follow"
            )
        content = stream.read(promised)
        # Reading to the end compares the checksum, and finds what is packed beyond the stated size.
        if len(content) != promised or stream.read(1):
            raise InputError(f"{path}: {name!r} is not as long as it says")
    flat = np.frombuffer(bytearray(content), dtype=dtype)
    return flat.reshape(shape, order="F" if fortran else "C")


# --- JSON ----------------------------------------------------------------------------------------


def read_json(path: str | os.PathLike[str], largest: int = LARGEST_TEXT) -> Any:
    """A JSON document in a file. Raises InputError as `parsed_json` and `read_text` do."""
    return parsed_json(read_text(path, largest), str(path))


def read_text(path: str | os.PathLike[str], largest: int = LARGEST_TEXT) -> str:
    """A text file in UTF-8 of at most so many bytes. Raises InputError."""
    file = regular(Path(path))
    size = file.stat().st_size
    if size > largest:
        raise InputError(
            f"{path} has {size_in_words(size)}; at most {size_in_words(largest)} are read"
        )
    try:
        with file.open("rb") as stream:
            return stream.read(size).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def parsed_json(text: str, name: str) -> Any:
    """A JSON document; `name` is what an InputError calls it.

    Refused beside malformed text: NaN and numbers that no float64 or int64 holds, keys that stand
    twice in one object, nesting deeper than anything that is written here, and texts that cannot
    be printed.
    """
    try:
        found = json.loads(
            text,
            parse_int=lambda digits: _integer(digits, name),
            parse_float=lambda digits: _float(digits, name),
            parse_constant=lambda word: _refused_number(word, name),
            object_pairs_hook=lambda pairs: _object(pairs, name),
        )
        text.encode()
    except InputError:
        raise
    except RecursionError:
        raise InputError(f"{name} is nested too deeply") from None
    except UnicodeEncodeError:
        raise InputError(f"{name} holds characters that are none") from None
    except ValueError as error:
        raise InputError(f"{name} is no JSON: {_first_line(error)}") from error
    _check_tree(found, name)
    return found


def _integer(digits: str, name: str) -> int:
    if len(digits) > 20 or abs(int(digits)) > LARGEST_INTEGER:
        _refused_number(digits, name)
    return int(digits)


def _float(digits: str, name: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        _refused_number(digits, name)
    return value


def _refused_number(digits: str, name: str) -> NoReturn:
    shown = digits if len(digits) <= 24 else f"{digits[:21]}…"
    raise InputError(f"{name} holds {shown}, which is no finite number of ordinary size")


def _object(pairs: list[tuple[str, Any]], name: str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InputError(f"{name} has a key twice in one object")
    return found


def _check_tree(document: Any, name: str) -> None:
    """Depth, and texts with half characters, which escapes can hide; without recursion."""
    level = [document]
    for _ in range(DEEPEST):
        level = [child for node in level for child in _children(node, name)]
        if not level:
            return
    raise InputError(f"{name} is nested deeper than {DEEPEST} levels")


def _children(node: Any, name: str) -> list[Any]:
    if isinstance(node, str):
        try:
            node.encode()
        except UnicodeEncodeError:
            raise InputError(f"{name} holds characters that are none") from None
    if isinstance(node, dict):
        return [*node.values(), *node]
    return node if isinstance(node, list) else []


# --- what is in them -----------------------------------------------------------------------------


def entry(document: Any, key: str, kind: type[T], name: str) -> T:
    """One entry of a JSON object, which must be there and of that type.

    `bool` is not taken for a number, and a whole number is taken for a float. name: what an
    InputError calls the document.
    """
    if not isinstance(document, Mapping):
        raise InputError(f"{name} holds {_kind(document)} where an object is expected")
    if key not in document:
        raise InputError(f"{name} lacks {key!r}")
    value = document[key]
    fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
    if not fits or (isinstance(value, bool) and kind is not bool):
        wanted = _KIND_NAMES.get(kind, kind.__name__)
        raise InputError(f"{name}: {key!r} is {_kind(value)} where {wanted} is expected")
    return value  # type: ignore[no-any-return]


def optional(document: Any, key: str, kind: type[T], name: str) -> T | None:
    """`entry`, or None where the entry is null or missing."""
    if isinstance(document, Mapping) and document.get(key) is None:
        return None
    return entry(document, key, kind, name)


def listed(document: Any, key: str, kind: type[T], name: str) -> list[T]:
    """An entry that is a list whose items are all of one type."""
    items = entry(document, key, list, name)
    return [entry({key: item}, key, kind, name) for item in items]


def shape_of(document: Any, key: str, name: str) -> tuple[int, ...]:
    """An entry that is a list of sizes, none of them negative; together of ordinary size."""
    sizes = listed(document, key, int, name)
    if any(size < 0 for size in sizes) or math.prod(sizes) > LARGEST_ARCHIVE or len(sizes) > 16:
        raise InputError(f"{name}: {key!r} is {sizes}, which is no shape")
    return tuple(sizes)


def checked_array(
    arrays: Mapping[str, Array], key: str, dtypes: str, shape: tuple[int | None, ...], name: str
) -> Array:
    """One array, which must have one of the dtypes ("float32 float64"), the shape, finite values.

    None in the shape stands for any size.
    """
    if key not in arrays:
        raise InputError(f"{name} lacks the array {key!r}")
    found = arrays[key]
    if str(found.dtype) not in dtypes.split():
        wanted = " or ".join(dtypes.split())
        raise InputError(
            f"{name}: the array {key!r} holds {found.dtype} where {wanted} is expected"
        )
    fits = len(shape) == found.ndim and all(
        wanted in (None, size) for wanted, size in zip(shape, found.shape, strict=True)
    )
    if not fits:
        wanted = "×".join("…" if size is None else str(size) for size in shape) or "a single number"
        raise InputError(
            f"{name}: the array {key!r} has shape {found.shape} where {wanted} is expected"
        )
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise InputError(f"{name}: the array {key!r} holds NaN or Inf")
    return found


_KIND_NAMES: dict[type, str] = {
    dict: "an object",
    list: "a list",
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    type(None): "null",
}


def _kind(value: Any) -> str:
    return _KIND_NAMES.get(type(value), type(value).__name__)


def regular(path: Path) -> Path:
    """The path of a file that can be read from its beginning to its end: no folder, no device.

    Raises InputError.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {_first_line(error)}") from error
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is {'a folder' if stat.S_ISDIR(mode) else 'no file'}")
    return path


def size_in_words(count: int) -> str:
    """A number of bytes, as "1.5 MiB"."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return brief(lines[0] if lines else type(error).__name__)
