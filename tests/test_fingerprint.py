"""What tells two networks, masks and options apart, and what does not."""

from __future__ import annotations

import copy
import functools
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from guidxmage import Explainer
from guidxmage.errors import InputError
from guidxmage.inputs.preprocessing import PIXELS, Preprocessing
from guidxmage.objects.annotations import annotation_of
from guidxmage.provenance import fingerprint


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)]
    return nn.Sequential(*layers).eval()


def weight(model: nn.Module) -> None:
    with torch.no_grad():
        model[4].weight[0, 0] += 1e-6


def average(model: nn.Module) -> None:
    model[1].running_mean[0] += 1e-6


def stride(model: nn.Module) -> None:
    model[0].stride = (2, 2)


def epsilon(model: nn.Module) -> None:
    model[1].eps = 1e-4


def activation(model: nn.Module) -> None:
    model[2] = nn.ReLU6()


def buffer(model: nn.Module) -> None:
    model.register_buffer("scale", torch.ones(1), persistent=False)


def attribute(model: nn.Module) -> None:
    model.factor = 2.0


def hook(model: nn.Module) -> None:
    model[2].register_forward_hook(lambda module, given, output: 2 * output)


def method(model: nn.Module) -> None:
    model.forward = lambda x: x.flatten(1)


def dtype(model: nn.Module) -> None:
    model.double()


CHANGES = [
    weight, average, stride, epsilon, activation, buffer, attribute, hook, method, dtype,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_a_network_shows(change: Callable[[nn.Module], None]) -> None:
    model = network()
    before = fingerprint.of_network(model)
    assert fingerprint.of_network(copy.deepcopy(model)) == before
    change(model)
    assert fingerprint.of_network(model) != before


def test_a_run_changes_nothing() -> None:
    explainer = Explainer(network())
    before = explainer.fingerprint()
    explainer.explain(torch.rand(3, 8, 8))
    assert explainer.fingerprint() == before


OPTIONS: list[dict[str, Any]] = [
    {"preprocessing": PIXELS},
    {"preprocessing": Preprocessing(8, 8)},
    {"preprocessing": lambda image: torch.zeros(3, 8, 8)},
    {"labels": ["a", "b", "c"]},
    {"gates": "tangent"},
    {"dtype": torch.float64},
    {"batch_rows": 2},
    {"memory_budget": "1 GiB"},
]


def test_what_goes_with_a_network_shows() -> None:
    found = [Explainer(network(), **options).fingerprint() for options in [{}, *OPTIONS]]
    assert len(set(found)) == len(found)
    assert Explainer(network()).fingerprint() == found[0]


def test_it_is_the_same_in_every_process() -> None:
    """No address, no order of a set, no name of a file's folder goes into it."""
    program = (
        "import torch; from tests.test_fingerprint import network, hook; "
        "from guidxmage import fingerprint\n"
        "model = network(); hook(model); model.words = {'a', 'b', 'c', 'd'}\n"
        "model.call = torch.nn.functional.relu\n"
        "print(fingerprint.of_network(model, print, {'x', 'y', 'z'}))"
    )
    root = Path(__file__).parent.parent
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONPATH": f"{root / 'src'}:{root}", "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2)
    }
    assert len(found) == 1


# --- source code ---------------------------------------------------------------------------------

NET = """
import torch
from torch import nn
import helper
from tools import scale as by

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)
    def forward(self, x):
        return self.head(by(helper.halved(x)))

def build():
    torch.manual_seed(0)
    return Own().eval()
"""
FILES = {
    "net.py": NET,
    "helper.py": "import deep\ndef halved(x): return deep.divided(x, 2)\n",
    "deep.py": "def divided(x, n): return x / n\n",
    "tools.py": "def scale(x): return 3 * x\n",
    "unused.py": "x = 1\n",
}


def loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What build() of net.py makes, all modules read anew."""
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(folder))
        for name in ("helper", "deep", "tools", "unused", "net"):
            sys.modules.pop(name, None)
        spec = importlib.util.spec_from_file_location("net", folder / "net.py")
        assert spec is not None
        assert spec.loader is not None
        module: ModuleType = importlib.util.module_from_spec(spec)
        sys.modules["net"] = module
        patch.setattr(sys, "dont_write_bytecode", True)
        spec.loader.exec_module(module)
        return module.build()


@pytest.mark.parametrize("name", FILES)
def test_the_users_code_shows_with_what_it_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        for file, text in FILES.items():
            changed = f"{text}# changed\n" if folder == "c" and file == name else text
            (tmp_path / folder / file).write_text(changed)
    one, other, changed = (
        fingerprint.of_network(loaded(tmp_path / folder, monkeypatch)) for folder in "abc"
    )
    assert one == other, "where the files lie does not matter"
    assert (changed != one) == (name != "unused.py")


def test_the_file_that_makes_a_network_shows(tmp_path: Path) -> None:
    """Also where nothing of the network itself comes from it."""
    for text in ("x = 1", "x = 2"):
        (tmp_path / "net.py").write_text(text)
        found = fingerprint.of_network(network(), code=[tmp_path / "net.py"])
        assert found != fingerprint.of_network(network())
        (tmp_path / "found").write_text(found)
    (tmp_path / "net.py").write_text("x = 1")
    assert fingerprint.of_network(network(), code=[tmp_path / "net.py"]) != found


# --- values, masks, photos -----------------------------------------------------------------------


class Odd:
    """Neither its address nor its order in memory is the same twice."""

    def __call__(self, x: Tensor) -> Tensor:
        return x


VALUES: list[Any] = [
    None, True, 1, 1.0, "1", b"1", [], (1,), {"a": 1}, {"a": 2}, {"b": 1}, "a", ["ab"], ["a", "b"],
    [["a"], "b"], float("nan"), float("inf"), 0.1, np.float32(0.1), np.arange(3), np.arange(3.0),
    torch.arange(3), torch.arange(3).double(), torch.arange(4), Path("x"), Path("y"), PIXELS,
    Preprocessing(8), Image.new("RGB", (2, 2)), Image.new("RGB", (2, 2), "red"),
    Image.new("L", (2, 2)), Odd(), functools.partial(print, end=""), np.zeros((0, 2)),
    np.zeros((2, 0)), ("contrast", 1, 2), ("contrast", 2, 1),
]  # fmt: skip


def test_values_are_told_apart() -> None:
    found = [fingerprint.of_values(value) for value in VALUES]
    assert len(set(found)) == len(VALUES)
    assert found == [fingerprint.of_values(copy.copy(value)) for value in VALUES]
    assert fingerprint.of_values({"a": 1, "b": 2}) == fingerprint.of_values({"b": 2, "a": 1})
    assert fingerprint.of_values(Odd()) == fingerprint.of_values(Odd())


def test_masks_are_told_by_what_is_in_them(tmp_path: Path) -> None:
    photo = tmp_path / "cat.jpg"
    masks = tmp_path / "masks"
    masks.mkdir()

    def found() -> str:
        return fingerprint.of_masks(annotation_of(photo, masks))

    seen = []
    for name, content in (
        ("cup.png", b"1"), ("cup.png", b"2"), ("dog.png", b"2"), ("cat.json", b"3"),
        ("cat.png", b"4"),
    ):  # fmt: skip
        (masks / name).write_bytes(content)
        seen.append(found())
    assert len(set(seen)) == len(seen)
    (masks / "other.png").write_bytes(b"5")
    assert found() == seen[-1], "another photo's mask does not matter"
    with pytest.raises(InputError, match="does not exist"):
        fingerprint.of_masks(annotation_of(photo, tmp_path / "none"))
    with pytest.raises(InputError, match="cannot be read"):
        fingerprint.of_masks(tmp_path / "none")


def test_photos_that_cannot_be_read_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        fingerprint.of_photo(tmp_path / "none.png")
    with pytest.raises(InputError, match="cannot read"):
        fingerprint.of_photo(tmp_path)
