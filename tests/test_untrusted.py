"""What others wrote: refused in one sentence, before memory is taken for it."""

from __future__ import annotations

import copy
import io
import json
import random
import shutil
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from guidxmage import Explainer, Explanation, GuidXmageError, InputError
from guidxmage.engine.trail.trail import Trail
from guidxmage.explanation import JointExplanation
from guidxmage.files.untrusted import parsed_json, read_arrays, read_json, read_text
from guidxmage.jobs.manifest_check import leaves, written
from guidxmage.jobs.verify_result import check_files, read_manifest, read_source, verify
from tests.results import sign
from tests.test_statements import (  # noqa: F401, fixtures among them
    captured_once,
    drawn_once,
    explainer_of,
    made,
    paths,
    photo,
    put,
)

# --- archives ------------------------------------------------------------------------------------


def npy(array: np.ndarray[Any, Any]) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=True)
    return content.getvalue()


def lying(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    """An array whose header promises a shape, and nothing behind it."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def archive(path: Path, members: list[tuple[str, bytes]], packed: bool = False) -> Path:
    kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as file:
        for name, content in members:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("warnings.warn", lambda *_, **__: None)  # of a name used twice
                file.writestr(name, content)
    return path


def test_arrays_are_read_as_numpy_reads_them(tmp_path: Path) -> None:
    arrays = {
        "float": np.arange(6.0).reshape(2, 3),
        "order": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "empty": np.zeros((0, 4), np.float32),
        "number": np.array(3.5),
        "bits": np.array([True, False]),
        "name.with.dots": np.arange(3, dtype=np.uint8),
    }
    for write in (np.savez, np.savez_compressed):
        write(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
        found = read_arrays(tmp_path / "a.npz")
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            assert np.array_equal(found[name], array)
            assert found[name].flags.writeable
    assert list(read_arrays(tmp_path / "a.npz", lambda name: name == "bits")) == ["bits"]


MALFORMED: dict[str, tuple[list[tuple[str, bytes]], str]] = {
    "objects": ([("a.npy", npy(np.array([{}], dtype=object)))], "no plain number"),
    "texts": ([("a.npy", npy(np.array(["x"])))], "no plain number"),
    "complex": ([("a.npy", npy(np.zeros(2, complex)))], "no plain number"),
    "records": ([("a.npy", npy(np.zeros(2, dtype=[("x", "f4")])))], "no plain number"),
    "too large": ([("a.npy", lying((10**11,)))], "promises 372.5 GiB where 0 bytes follow"),
    "negative": ([("a.npy", lying((-1,)))], "states the shape"),
    "fractions": ([("a.npy", lying((1.5,)))], "damaged"),  # type: ignore[arg-type]
    "too short": ([("a.npy", npy(np.zeros(9))[:-1])], "promises 72 bytes where 71 bytes follow"),
    "too long": ([("a.npy", npy(np.zeros(9)) + b"x")], "promises 72 bytes where 73 bytes follow"),
    "no header": ([("a.npy", b"nothing")], "no NumPy archive"),
    "code in a header": ([("a.npy", lying("__import__('os')"))], "damaged"),  # type: ignore[arg-type]
    "twice": ([("a.npy", npy(np.zeros(1)))] * 2, "'a.npy' twice"),
    "a path": ([("../a.npy", npy(np.zeros(1)))], "no array's name"),
    "a root": ([("/etc/a.npy", npy(np.zeros(1)))], "no array's name"),
    "a drive": ([("C:\\a.npy", npy(np.zeros(1)))], "no array's name"),
    "another file": ([("a.txt", b"text")], "no array's name"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_archives_are_one_sentence(name: str, tmp_path: Path) -> None:
    members, words = MALFORMED[name]
    path = archive(tmp_path / "a.npz", members)
    with pytest.raises(InputError, match=words) as error:
        read_arrays(path)
    assert "\n" not in str(error.value)
    assert "a.npz" in str(error.value)


def test_what_is_no_archive_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("text", encoding="utf-8")
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "folder.npz").mkdir()
    for name in ("text.npz", "empty.npz", "folder.npz", "missing.npz", "nul\0.npz"):
        for read in (read_arrays, Trail.load):
            with pytest.raises(InputError) as error:
                read(tmp_path / name)
            assert "\n" not in str(error.value)


def test_bombs_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    """0.3 MB that unpack to 300, and a member that says it is smaller than it is."""
    zeros = lying((300 * 2**20 // 4,)) + bytes(300 * 2**20)
    path = archive(tmp_path / "bomb.npz", [("a.npy", zeros)], packed=True)
    del zeros
    assert path.stat().st_size < 2**20
    content = bytearray(path.read_bytes())
    understated = content.replace(
        struct.pack("<I", 300 * 2**20 + len(lying((300 * 2**20 // 4,)))),
        struct.pack("<I", 1000),
    )
    (tmp_path / "understated.npz").write_bytes(understated)
    tracemalloc.start()
    try:
        for name in ("bomb.npz", "understated.npz"):
            for read in (read_arrays, Trail.load):
                with pytest.raises(InputError):
                    read(tmp_path / name)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * 2**20


# --- JSON ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is no JSON"),
        ("", "is no JSON"),
        ("[1, NaN]", "NaN, which is no finite number"),
        ("[-Infinity]", "-Infinity, which is no finite number"),
        ("1e999", "1e999, which is no finite number"),
        ("1" * 5000, "11111"),
        (str(2**70), "no finite number of ordinary size"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("[" * 100 + "]" * 100, "nested deeper than 64"),
        ('{"a":' * 70 + "1" + "}" * 70, "nested deeper than 64"),
        ('{"a": 1, "a": 2}', "a key twice"),
        ('"\\ud800"', "characters that are none"),
        ('{"\\udfff": 1}', "characters that are none"),
    ],
)
def test_malformed_json_is_one_sentence(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words) as error:
        parsed_json(text, "it")
    assert len(str(error.value)) < 200
    (tmp_path / "it.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError):
        read_json(tmp_path / "it.json")


def test_texts_are_limited(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="no text in UTF-8"):
        read_text(tmp_path / "a.json")
    (tmp_path / "b.json").write_text("x" * 100, encoding="utf-8")
    with pytest.raises(InputError, match="at most 50 bytes"):
        read_text(tmp_path / "b.json", 50)
    with pytest.raises(InputError, match="is a folder"):
        read_text(tmp_path)
    assert parsed_json('{"a": [1, 2.5, null, true, "é"]}', "it") == {"a": [1, 2.5, None, True, "é"]}


# --- results and trails --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return explainer_of()


@pytest.fixture(scope="module")
def saved(explainer: Explainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = explainer.explain([photo(1), photo(2)], target=("top", 2), reference=0.1)
    return found.save(tmp_path_factory.mktemp("saved") / "result")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "result"))


def in_one_sentence(call: Callable[[], Any]) -> bool:
    """Whether it was refused; anything but one sentence of ours fails the test by itself."""
    try:
        call()
    except GuidXmageError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return True
    return False


def read_all(folder: Path, explainer: Explainer) -> list[bool]:
    """Every way into a result, and whether it was refused."""
    return [
        in_one_sentence(lambda: Explanation.load(folder)),
        in_one_sentence(lambda: Explanation.load(folder, explainer)),
        in_one_sentence(lambda: Trail.load(folder / "arrays.npz")),
        in_one_sentence(lambda: read_source(read_manifest(folder), folder)),
        in_one_sentence(lambda: check_files(folder)),
    ]


@pytest.mark.parametrize("seed", range(4))
def test_damaged_bytes_are_one_sentence(seed: int, folder: Path, explainer: Explainer) -> None:
    """Bytes changed, cut off, doubled and put in: 40 times each seed."""
    draw = random.Random(seed)
    for _ in range(40):
        name = draw.choice(["arrays.npz", "manifest.json"])
        path = folder / name
        before = path.read_bytes()
        content = bytearray(before)
        place = draw.randrange(len(content))
        kind = draw.choice(["flip", "cut", "double", "insert", "zero"])
        if kind == "flip":
            for _ in range(draw.choice([1, 3, 50])):
                content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        elif kind == "cut":
            del content[place:]
        elif kind == "double":
            content[place:place] = content[place : place + 200]
        elif kind == "insert":
            content[place:place] = draw.randbytes(8)
        else:
            content[place : place + 16] = bytes(len(content[place : place + 16]))
        path.write_bytes(bytes(content))
        read_all(folder, explainer)
        path.write_bytes(before)


STRANGE: list[Any] = [
    None, True, -1, 0, 10**9, 2**62, 1e308, -0.5, "", "x" * 300, "../..", [], [[]], [None], [-1],
    [10**6, 10**6], {}, {"a": {}}, [{"site": "x"}], "\u0000",
]  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_other_types_in_the_manifest_are_one_sentence(
    seed: int, folder: Path, explainer: Explainer
) -> None:
    """Every kind of leaf and object replaced by values of other types: 30 times each seed."""
    draw = random.Random(seed)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for number in range(30):
        sign(folder, with_another_type(manifest, draw))
        read_all(folder, explainer)
        if number % 5 == 0:
            in_one_sentence(lambda: verify(folder, explainer))


def with_another_type(document: Any, draw: random.Random, only: str = "") -> Any:
    """A copy with one leaf or top entry replaced by something strange."""
    changed = copy.deepcopy(document)
    keys = [written(path) for path, _ in leaves(document)] + [
        key for key in document if key != "digest"
    ]
    key = draw.choice([key for key in keys if key.startswith(only)])
    if key in changed:
        changed[key] = draw.choice(STRANGE)
    else:
        put(changed, key, draw.choice(STRANGE))
    return changed


@pytest.mark.parametrize("only", ["top", "objects", "pictures", "drawing", "radius", "certificate"])
def test_other_types_in_what_is_added_are_one_sentence(
    only: str,
    made: Path,  # noqa: F811
    tmp_path: Path,
    drawn_once: None,  # noqa: F811
    captured_once: None,  # noqa: F811
    explainer: Explainer,
) -> None:
    draw = random.Random(only)
    folder = Path(shutil.copytree(made / "photo", tmp_path / "result"))
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    certificates = json.loads((folder / "certificate.json").read_text(encoding="utf-8"))
    for _ in range(8):
        sign(folder, with_another_type(manifest, draw, only))
        in_one_sentence(lambda: verify(folder, explainer))
        if only == "certificate":
            own = [with_another_type(certificates[0], draw), certificates[1]]
            (folder / "certificate.json").write_text(json.dumps(own), encoding="utf-8")


@pytest.mark.parametrize("seed", range(4))
def test_other_arrays_are_one_sentence(seed: int, folder: Path, explainer: Explainer) -> None:
    """Arrays of other types, shapes and values, left out and exchanged: 40 times each seed."""
    draw = random.Random(seed)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    with np.load(folder / "arrays.npz") as stored:
        arrays = dict(stored.items())
    for _ in range(40):
        changed = dict(arrays)
        name, other = draw.choice(list(arrays)), draw.choice(list(arrays))
        array = arrays[name]
        changed[name] = draw.choice(
            [
                array[..., :1] if array.ndim else array[None],
                array.astype(draw.choice([np.float16, np.int8, np.int64, np.float64, np.bool_])),
                array[None],
                np.zeros((0, *array.shape), array.dtype),
                np.full(array.shape, np.nan),
                np.full_like(array, 255 if array.dtype == np.uint8 else -9),
                arrays[other],
            ]
        )
        if draw.random() < 0.2:
            del changed[name]
        np.savez(folder / "arrays.npz", **changed)
        sign(folder, dict(manifest))
        read_all(folder, explainer)
        in_one_sentence(lambda: verify(folder, explainer))


def described(arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    return json.loads(arrays["trail"].tobytes())


@pytest.mark.parametrize("seed", range(3))
def test_other_descriptions_of_a_trail_are_one_sentence(
    seed: int, folder: Path, explainer: Explainer
) -> None:
    draw = random.Random(seed)
    with np.load(folder / "arrays.npz") as stored:
        arrays = dict(stored.items())
    document = described(arrays)
    keys = [key for key, _ in paths(document)]
    refused = 0
    for _ in range(40):
        changed = copy.deepcopy(document)
        put(changed, draw.choice(keys), draw.choice(STRANGE))
        text = json.dumps(changed).encode()
        np.savez(folder / "arrays.npz", **{**arrays, "trail": np.frombuffer(text, np.uint8)})
        refused += read_all(folder, explainer)[2]
    assert refused > 10


def test_positions_outside_of_their_windows_are_refused(folder: Path, explainer: Explainer) -> None:
    """A position that no window has would be read, and written, beyond a tensor's memory."""
    with np.load(folder / "arrays.npz") as stored:
        arrays = {name: array.copy() for name, array in stored.items()}
    kinds = [site["kind"] for site in described(arrays)["sites"]]
    number = kinds.index("index")
    planes = [name for name in arrays if name.startswith(f"trail.{number}.")]
    assert len(planes) == 4  # nine positions
    for name in planes:
        arrays[name][:] = 255
    np.savez(folder / "arrays.npz", **arrays)
    with pytest.raises(InputError, match="not one of this explainer's network"):
        Explanation.load(folder, explainer)


def test_a_trail_of_another_network_is_refused(saved: Path) -> None:
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)).eval()
    pixels = explainer_of().preprocessing
    with pytest.raises(InputError, match="not one of this explainer's network"):
        Explanation.load(saved, Explainer(other, preprocessing=pixels))


def test_an_explanation_of_several_inputs_is_read_as_carefully(tmp_path: Path) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(6, 2)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return self.head(torch.cat([a.relu(), b], 1))

    explainer = Explainer(Both().eval())
    explanation = explainer.explain((torch.rand(2, 4), torch.rand(2, 2)))
    folder = explanation.save(tmp_path / "both")
    assert JointExplanation.load(folder, explainer).shapes == ((4,), (2,))
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for strange in STRANGE:
        sign(folder, {**manifest, "inputs": strange})
        assert in_one_sentence(lambda: JointExplanation.load(folder, explainer)), strange
