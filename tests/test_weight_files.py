"""Weight files of others: what they promise is compared with what they hold, and nothing is run."""

from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from guidxmage.errors import InputError
from guidxmage.files.pickles import PickledCall, followed
from guidxmage.models import load_model, read_weights
from guidxmage.models.weights import head_classes
from tests.reading import refusal

GIGABYTES = 2**31
"""Of numbers that a file says it has; what is asked for shows in the size of the process."""


def saved(content: Any, *, zipped: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(parts: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", kind) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return stream.getvalue()


def with_pickle(change: Callable[[bytes], bytes]) -> bytes:
    """A file with another pickle beside the same numbers."""
    parts = members(saved({"a": torch.arange(6.0)}))
    return zipped({n: change(p) if n.endswith("data.pkl") else p for n, p in parts.items()})


def number(value: int) -> bytes:
    """A whole number as pickles have it."""
    return (
        b"J" + struct.pack("<i", value)
        if value < 2**31
        else b"\x8a\x05" + value.to_bytes(5, "little")
    )


def more_numbers(pickled: bytes) -> bytes:
    """Six numbers in a block of as many as that."""
    assert pickled.count(b"K\x06tq") == 1
    return pickled.replace(b"K\x06tq", number(GIGABYTES // 4) + b"tq")


def calling(name: str, arguments: bytes) -> Callable[[bytes], bytes]:
    """A pickle of a mapping to what a function returns."""
    module, _, function = name.rpartition(".")
    call = f"c{module}\n{function}\n".encode() + arguments + b"R"
    return lambda _: b"\x80\x02}X\x01\x00\x00\x00a" + call + b"s."


def deep(opcode: bytes, depth: int = 1_000_000) -> bytes:
    return b")" + opcode * depth


class Quantised(nn.Module):
    """Pickled whole, which needs code."""


def legacy_lie() -> bytes:
    content = saved({"a": torch.arange(6.0)}, zipped=False)
    assert content.count(b"K\x06Ntq") == 1
    return content.replace(b"K\x06Ntq", number(GIGABYTES // 4) + b"Ntq")


def long_name() -> bytes:
    """The last pickle of the old format, which lists the blocks, begins a text of gigabytes."""
    content = saved({"a": torch.arange(6.0)}, zipped=False)
    place = content.rindex(b"]q\x00X") + 4
    return content[:place] + struct.pack("<I", 2**31) + content[place + 4 :]


def safetensors(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(**changed: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changed}}


EVIL: dict[str, tuple[bytes, str]] = {
    "expanded": (saved({"a": torch.zeros(1).expand(GIGABYTES)}), "more numbers than there is room"),
    "expanded in the old format": (
        saved({"a": torch.zeros(1).expand(GIGABYTES)}, zipped=False),
        "more numbers than there is room",
    ),
    "many views": (
        saved({str(k): torch.zeros(1).expand(2**18) for k in range(200)}),
        "more numbers than there is room",
    ),
    "a block of more numbers": (with_pickle(more_numbers), "promises .* bytes where 24 are"),
    "the same in the old format": (legacy_lie(), "promises .* bytes, but has"),
    "a long name in the old format": (long_name(), "is damaged"),
    "bytes by number": (
        with_pickle(calling("builtins.bytearray", b"(" + number(GIGABYTES) + b"t")),
        "pickled objects .*bytearray",
    ),
    "bytes by number, as Python 2": (
        with_pickle(calling("__builtin__.bytearray", b"(" + number(GIGABYTES) + b"t")),
        "pickled objects .*bytearray",
    ),
    "a tensor by its size": (
        with_pickle(calling("torch.FloatTensor", b"(" + number(GIGABYTES // 4) + b"t")),
        r"form that cannot be loaded \(torch\.FloatTensor\)",
    ),
    "a tensor by its size, in disguise": (
        with_pickle(
            calling(
                "torch._tensor._rebuild_from_type_v2",
                b"(ctorch\nFloatTensor\nctorch\nTensor\n" + number(GIGABYTES // 4) + b"\x85}t",
            )
        ),
        r"form that cannot be loaded \(torch\.FloatTensor\)",
    ),
    "code": (with_pickle(calling("os.system", b"(X\x04\x00\x00\x00truet")), r"objects \(os\.sys"),
    "code in the old format": (b"\x80\x02cos\nsystem\n(X\x04\x00\x00\x00truetR.", r"\(os\.system"),
    "code behind a call": (
        with_pickle(lambda _: b"\x80\x02cbuiltins\ngetattr\n(cos\nX\x01\x00\x00\x00xtR)R."),
        "damaged|pickled objects",
    ),
    "a name that is written to": (
        with_pickle(lambda _: b"\x80\x02ctorch\nSize\n}X\x04\x00\x00\x00nameX\x01\x00\x00\x00xsb."),
        "a class or function is written to",
    ),
    "a deep key": (
        with_pickle(lambda _: b"\x80\x02}" + deep(b"\x85") + b"K\x01s."),
        "no plain value",
    ),
    "deep keys": (
        with_pickle(lambda _: b"\x80\x02}(" + deep(b"\x85") + b"K\x01u."),
        "no plain value",
    ),
    "a deep member": (
        with_pickle(lambda _: b"\x80\x04\x8f(" + deep(b"\x85") + b"\x90."),
        "no plain value",
    ),
    "a deep list": (
        with_pickle(lambda _: b"\x80\x02" + deep(b"\x85") + b"."),
        "does not hold named",
    ),
    "an entry of the memo": (with_pickle(lambda _: b"\x80\x02}r\xff\xff\xff\x7f."), "nothing"),
    "a long text": (
        with_pickle(lambda _: b"\x80\x04\x8d" + struct.pack("<Q", GIGABYTES) + b"short"),
        "is damaged",
    ),
    "a class by number": (
        with_pickle(lambda _: b"\x80\x02\x82\x01."),
        "in a way that no data need",
    ),
    "a reference to nothing": (with_pickle(lambda _: b"\x80\x02X\x01\x00\x00\x00aQ."), "are none"),
    "no pickle": (with_pickle(lambda _: b""), "is damaged"),
    "half a pickle": (with_pickle(lambda p: p[: len(p) // 2]), "is damaged"),
    "packed": (
        zipped({"a/data.pkl": b"\x80\x02}.", "a/data/0": bytes(300 * 2**20)}, zipfile.ZIP_DEFLATED),
        "would unpack to",
    ),
    "a packed pickle": (
        zipped({"a/data.pkl": bytes(100 * 2**20)}, zipfile.ZIP_DEFLATED),
        "would unpack to",
    ),
    "no members": (zipped({}), "is damaged"),
    "other members": (zipped({"readme": b"text"}), "no pickle of tensors"),
    "TorchScript": (zipped({"a/data.pkl": b"}.", "a/constants.pkl": b"}."}), "TorchScript"),
    "a quantised tensor": (
        with_pickle(calling("torch._utils._rebuild_qtensor", b")")),
        r"form that cannot be loaded \(torch\._utils\._rebuild_qtensor\)",
    ),
    "a module": (saved(Quantised()), "pickled objects"),
    "a long name": (
        saved({"n" * 10**6: torch.tensor(torch.nan)}),
        "NaN or infinite values in 'n{200}…'",
    ),
    "no names": (saved({1: torch.zeros(2)}), "does not hold named weights"),
}
EVIL_SAFETENSORS: dict[str, bytes] = {
    "a header of terabytes": struct.pack("<Q", 2**42) + b"{}",
    "a header of text": safetensors(b"not JSON"),
    "a header of numbers": safetensors(b"[1, 2]"),
    "a deep header": safetensors(b"[" * 10**5),
    "a huge shape": safetensors(tensor(shape=[2**31]), bytes(8)),
    "a shape that overflows": safetensors(tensor(shape=[2**62, 2**62]), bytes(8)),
    "a negative shape": safetensors(tensor(shape=[-2]), bytes(8)),
    "fractions": safetensors(tensor(shape=[1.5]), bytes(8)),
    "offsets beyond the end": safetensors(tensor(data_offsets=[0, 2**40]), bytes(8)),
    "offsets backwards": safetensors(tensor(data_offsets=[8, 0]), bytes(8)),
    "overlapping": safetensors({**tensor(), "b": tensor()["a"]}, bytes(8)),
    "an unknown type": safetensors(tensor(dtype="F31"), bytes(8)),
    "a type that PyTorch lacks": safetensors(tensor(dtype="F8_E8M0", shape=[8]), bytes(8)),
    "too short": safetensors(tensor(), bytes(7)),
    "too long": safetensors(tensor(), bytes(9)),
    "no bytes": safetensors({}),
    "a list": safetensors({"a": []}, bytes(8)),
}


@pytest.mark.parametrize("name", EVIL)
def test_evil_pth(name: str, tmp_path: Path) -> None:
    content, words = EVIL[name]
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read_weights(tmp_path / "w.pth")
    assert "w.pth" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", EVIL_SAFETENSORS)
def test_evil_safetensors(name: str, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(EVIL_SAFETENSORS[name])
    said = refusal("weights", tmp_path / "w.safetensors")
    assert said is not None
    assert "w.safetensors" in said
    assert "\n" not in said


@pytest.mark.skipif(sys.platform != "linux", reason="the size of the process is told by Linux")
def test_no_memory_is_taken_for_what_is_only_promised(tmp_path: Path) -> None:
    arguments = []
    for kind, files in (
        ("pth", {n: c for n, (c, _) in EVIL.items()}),
        ("safetensors", EVIL_SAFETENSORS),
    ):
        for number, content in enumerate(files.values()):
            path = tmp_path / f"{number}.{kind}"
            path.write_bytes(content)
            arguments += ["weights", str(path)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.reading", *arguments],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(EVIL) + len(EVIL_SAFETENSORS)
    for path, line in zip(arguments[1::2], lines, strict=True):
        assert line["kind"] == "InputError", (path, line)
        assert line["said"], path
        assert line["grown"] < 512, (path, line)


@pytest.mark.parametrize("zipped", [True, False])
def test_honest_files_are_read(zipped: bool, tmp_path: Path) -> None:
    base = torch.randn(4, 5)
    weights = OrderedDict(
        plain=base, transposed=base.T, row=base[1], same=base, one=torch.tensor(2.0),
        spread=torch.ones(1).expand(7), none=torch.zeros(0, 3), half=base.half(),
        brain=base.bfloat16(), whole=torch.arange(3), flags=torch.tensor([True]),
        parameter=nn.Parameter(base), last=torch.zeros(2, 3),
    )  # fmt: skip
    content = {"state_dict": weights, "epoch": 3, "shape": base.shape, "kinds": {(1, 2): [None]}}
    (tmp_path / "w.pth").write_bytes(saved(content, zipped=zipped))
    found = read_weights(tmp_path / "w.pth")
    assert list(found) == list(weights)
    for name, value in weights.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


def test_a_last_layer_that_is_not_the_networks_builds_nothing(tmp_path: Path) -> None:
    """A bias that promises a million classes would make a layer of gigabytes."""
    weights = dict(load_model("shufflenet_v2_x0_5", weights="none").model.state_dict())
    torch.save({**weights, "fc.bias": torch.zeros(10**6)}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"'fc\.bias' has shape \[1000000\]"):
        load_model("shufflenet_v2_x0_5", weights=tmp_path / "w.pth")
    thin = {**weights, "fc.bias": torch.zeros(10**6), "fc.weight": torch.zeros(10**6, 1)}
    torch.save(thin, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"'fc\.weight' has shape \[1000000, 1\]"):
        load_model("shufflenet_v2_x0_5", weights=tmp_path / "w.pth")


def test_classes_are_counted_by_the_whole_last_layer() -> None:
    own = {"a.weight": torch.zeros(3, 3), "b.weight": torch.zeros(2, 3), "b.bias": torch.zeros(2)}
    assert head_classes({**own, "b.weight": torch.zeros(5, 3), "b.bias": torch.zeros(5)}, own) == 5
    for wrong in (
        {"b.weight": torch.zeros(5, 3)},
        {"b.weight": torch.zeros(5, 4), "b.bias": torch.zeros(5)},
        {"b.weight": torch.zeros(0, 3), "b.bias": torch.zeros(0)},
        {"b.bias": torch.tensor(1.0)},
    ):
        assert head_classes({**own, **wrong}, own) is None
    assert head_classes({"b.bias": torch.zeros(2)}, own) is None


# --- pickles as data -----------------------------------------------------------------------------


def test_pickles_are_followed_and_nothing_is_called(tmp_path: Path) -> None:
    class Writes:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    for protocol in range(6):
        content = pickle.dumps({"a": [1, 2.5, "x", None, True], "b": Writes()}, protocol)
        found, notes = followed(io.BytesIO(content), InputError)
        assert found["a"] == [1, 2.5, "x", None, True]
        assert isinstance(found["b"], PickledCall)
        assert notes.calls
    assert not (tmp_path / "ran").exists()
