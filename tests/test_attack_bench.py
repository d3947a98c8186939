"""The attack benchmark counts passes, believes no attack, and compares what it says."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from math import inf, isinf
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from guidxmage.adversarial import attack

SCRIPTS = Path(__file__).parents[1] / "benchmarks"
OWN = ("attack_table", "attacks", "competitors", "measured", "subjects", "train_small", "fashion")


@pytest.fixture(scope="module")
def bench() -> Iterator[dict[str, ModuleType]]:
    """The benchmark's scripts, which import each other by their names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        for name in OWN:
            patch.delitem(sys.modules, name, raising=False)
        yield {name: importlib.import_module(name) for name in OWN}
        for name in OWN:
            sys.modules.pop(name, None)


@pytest.fixture
def measured(bench: dict[str, ModuleType]) -> ModuleType:
    return bench["measured"]


class Threshold(nn.Module):
    """Class 1 where the first entry is above 0.5, else class 0."""

    def forward(self, x: Tensor) -> Tensor:
        first = x.flatten(1)[:, 0]
        return torch.stack([0.5 - first, first - 0.5], 1)


# Both are of class 0, at distances 0.3 and 0.1.
X = torch.tensor([[0.2, 0.9, 0.0, 0.5], [0.4, 0.1, 1.0, 0.0]]).view(2, 1, 2, 2)
LABELS = torch.zeros(2, dtype=torch.long)


def moved(amount: float) -> Tensor:
    samples = X.clone()
    samples[:, 0, 0, 0] += amount
    return samples


def row(measured: ModuleType, name: str, norms: list[float | None], **fields: Any) -> Any:
    values = {"network": "net", "norm": "l2", "library": "lib", "forwards": 3.0, "backwards": 2.0}
    return measured.Row(attack=name, norms=norms, **{**values, "seconds": 0.25, **fields})


# --- counting ------------------------------------------------------------------------------------


def test_passes_are_counted_by_image(measured: ModuleType) -> None:
    def passes(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        network(images)
        network(images[:1])
        leaf = images.requires_grad_()
        logits = network(leaf)
        for k in range(2):  # two backward passes of one forward pass
            torch.autograd.grad(logits[:, k].sum(), leaf, retain_graph=True)
        torch.autograd.grad(network(leaf[1:]).sum(), leaf)
        return images

    fields = measured.measure(passes, Threshold(), X, LABELS, "l2")
    assert fields["forwards"] == (2 + 1 + 2 + 1) / 2
    assert fields["backwards"] == (2 + 2 + 1) / 2


class ProductsWithLast(TorchDispatchMode):
    """Rows multiplied with a linear layer's weight, forward and transposed."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.classes, self.width = weight.shape
        self.forwards = self.backwards = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.addmm.default, torch.ops.aten.mm.default):
            left, right = args[-2:]
            if right.shape == (self.width, self.classes):
                self.forwards += len(left)
            if right.shape == (self.classes, self.width):
                self.backwards += len(left)
        return func(*args, **(kwargs or {}))


def test_our_attack_states_the_passes_that_it_runs() -> None:
    """Its passes do not go through the wrapper; the products with the last layer tell."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(3 * 36, 7),
        nn.ReLU(),
        nn.Linear(7, 4),
    )
    network.eval().requires_grad_(False)
    images = torch.rand(6, 1, 8, 8)
    for norm in ("l2", "l0"):
        with ProductsWithLast(network[-1].weight) as seen:
            result = attack(network, images, norm=norm, budget=20)
        # After the search: the trails of images and samples, the local model, the confirmations.
        assert 0 <= seen.backwards / 6 - result.backwards <= 2
        assert 0 <= seen.forwards / 6 - result.forwards <= 12
        assert result.backwards > 5


# --- checking ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "samples",
    [
        X,  # the clean images passed off as adversarial
        moved(0.05),  # still class 0
        moved(0.9),  # outside of [0, 1]
        torch.full_like(X, float("nan")),
    ],
    ids=["clean", "too little", "outside", "nan"],
)
def test_cheats_are_failures(measured: ModuleType, samples: Tensor) -> None:
    fields = measured.measure(lambda *_: samples, Threshold(), X, LABELS, "l2")
    assert fields["norms"] == [None, None]


def test_norms_are_of_what_comes_back(measured: ModuleType) -> None:
    samples = moved(0.4)
    samples[:, 0, 1, 1] += 0.3
    expected = {"l2": 0.5, "l1": 0.7, "linf": 0.4, "l0": 2}
    for norm, size in expected.items():
        fields = measured.measure(lambda *_: samples, Threshold(), X, LABELS, norm)
        assert fields["norms"] == pytest.approx([size, size])


def test_samples_on_the_boundary_are_lengthened_and_pay_for_it(measured: ModuleType) -> None:
    start = torch.zeros(1, 1, 2, 2)
    sample = start.clone()
    sample[0, 0, 0, 0] = 0.5  # equal scores: class 0
    (size,) = measured.checked(Threshold(), start, LABELS[:1], sample, "l2")
    assert 0.5 < size <= 0.5 * (1 + 2e-6)


def test_l0_forgives_changes_of_rounding(measured: ModuleType) -> None:
    samples = moved(0.4)
    samples[:, 0, 0, 1] += torch.tensor([-1e-7, 1e-7])
    assert measured.checked(Threshold(), X, LABELS, samples, "l0") == [1.0, 1.0]


def test_one_image_that_an_attack_cannot_take_costs_only_itself(measured: ModuleType) -> None:
    def fussy(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        if bool((images[:, 0, 0, 0] < 0.3).any()):
            raise ValueError("no starting point")
        return images + torch.tensor([[0.2, 0], [0, 0]])

    fields = measured.measure(fussy, Threshold(), X, LABELS, "l2")
    assert fields["norms"] == [None, pytest.approx(0.2)]


# --- comparing -----------------------------------------------------------------------------------


def test_envelope_by_hand(measured: ModuleType) -> None:
    one = row(measured, "one", [1.0, 2.0, 3.0, None])
    two = row(measured, "two", [2.0, 2.0 * (1 + 5e-5), None, None])
    best = measured.best_known([one, two])
    assert best == [1.0, 2.0, 3.0, inf]
    first, second = measured.summarise(one, best), measured.summarise(two, best)
    assert (first.success, first.median, first.mean) == (0.75, 2.5, 2.0)
    assert first.gap == 0
    assert first.best == 0.75
    assert (second.success, second.best) == (0.5, 0.25)  # a tie counts for both
    assert isinf(second.median)
    assert second.gap == pytest.approx((2 + 1.00005) / 2 - 1)


def test_duel_by_hand(measured: ModuleType) -> None:
    ours = row(measured, "ours", [1.0, 2.0, None, None, 1.0])
    others = [
        row(measured, "a", [2.0, 2.5, 1.0, None, None]),
        row(measured, "b", [1.5, 2.0 + 1e-5, 3.0, None, None]),
    ]
    duel = measured.against(ours, others)
    assert (duel.smaller, duel.equal, duel.larger) == (0.4, 0.4, 0.2)
    assert duel.ratio == pytest.approx((1 / 1.5 + 1) / 2, rel=1e-4)


def test_table_is_sorted_and_says_how_often_an_attack_fails(bench: dict[str, ModuleType]) -> None:
    measured, page = bench["measured"], bench["attack_table"]
    rows = [
        row(measured, "failing", [None, None]),
        row(measured, "weak", [2.0, 3.0]),
        row(measured, "40", [1.0, 2.0], library=page.OURS),
    ]
    lines = page.table(rows).splitlines()
    assert len(lines) == 2 + 3
    first = "| **guid-xmage 40** | 100% | 1.5 | 1.5 | 0.0% | 100% | 3 | 2 | 0.25 |"
    assert lines[2] == first
    assert lines[3].startswith("| lib weak | 100% | 2.5 | 2.5 | 75.0% | 0% |")
    assert lines[4].startswith("| lib failing | 0% | ∞ | ∞ | – | 0% |")
    duel = page.duels(rows).splitlines()[-1]
    assert duel == "| net | l2 | 2 | 1.5 | 2.5 (lib weak) | 100% | 0% | 0% | 0.5833 |"


def test_tables_go_between_the_markers(bench: dict[str, ModuleType], tmp_path: Path) -> None:
    page = bench["attack_table"]
    file = tmp_path / "README.md"
    begin, end = page.TABLES
    file.write_text(f"before\n{begin}\nold\n{end}\nafter\n", encoding="utf-8")
    page.insert(file, page.markdown([row(bench["measured"], "one", [1.0])]), page.TABLES)
    text = file.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{begin}\n")
    assert text.endswith(f"{end}\nafter\n")
    assert "lib one" in text
    assert "old" not in text
    file.write_text("nothing", encoding="utf-8")
    with pytest.raises(SystemExit, match="has no lines"):
        page.insert(file, "", page.TABLES)


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def tiny(bench: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 3))
    network.eval().requires_grad_(False)
    images = torch.rand(3, 1, 3, 3)
    labels = network(images).argmax(1)

    def subject(name: str, count: int | None) -> Any:
        some = images[:count]
        make = bench["subjects"].Subject
        return make(name, network, network, some, labels[:count], large=False)

    monkeypatch.setattr(bench["attacks"], "subject", subject)
    monkeypatch.setattr(bench["attacks"], "BUDGETS", (6, 12))


def test_rows_of_others_are_kept_when_only_ours_runs(
    bench: dict[str, ModuleType], tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("foolbox")
    file = tmp_path / "attacks.jsonl"
    line = ["--network", "plain", "--norms", "l2", "--json", str(file)]
    bench["attacks"].main([*line, "--attacks", "foolbox DeepFool,foolbox DDN 100"])
    bench["attacks"].main([*line, "--only", "ours"])
    head, *rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    names = [(one["library"], one["attack"]) for one in rows]
    assert names[:2] == [("guid-xmage", "6"), ("guid-xmage", "12")]
    assert set(names[2:]) >= {("foolbox", "DeepFool"), ("foolbox", "DDN 100")}
    assert all(len(one["norms"]) == 3 for one in rows)
    assert head["conditions"]["torch"] == str(torch.__version__)
    assert "| **guid-xmage 12** |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="other weights or images"):
        bench["attacks"].main([*line, "--samples", "2", "--only", "ours"])


def test_libraries_that_are_missing_are_named(
    bench: dict[str, ModuleType],
    tiny: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def absent(norm: str, large: bool) -> Any:
        raise ImportError("No module named 'adv_lib'")

    for build in ("_foolbox", "_adv_lib"):
        monkeypatch.setattr(bench["competitors"], build, absent)
    bench["attacks"].main(["--network", "plain", "--norms", "linf"])
    printed = capsys.readouterr().out
    assert "left out: adv-lib: No module named 'adv_lib'" in printed
    assert "left out: foolbox" in printed
    assert "guid-xmage 12" in printed


def test_unknown_norms_and_networks_are_refused(bench: dict[str, ModuleType]) -> None:
    with pytest.raises(SystemExit, match="norm 'l7' is unknown"):
        bench["attacks"].main(["--norms", "l7"])
    with pytest.raises(SystemExit, match="network 'big' is unknown"):
        bench["attacks"].main(["--network", "big"])


def test_the_stored_networks_classify_the_stored_images(bench: dict[str, ModuleType]) -> None:
    pytest.importorskip("safetensors")
    for name, count in {"plain": 64, "robust": 64, "lenet": 32, "residual": 32}.items():
        target = bench["subjects"].subject(name)
        assert target.images.shape == (count, 1, 28, 28)
        assert bool((target.network(target.images).argmax(1) == target.labels).all())


def test_fashion_files_are_read(bench: dict[str, ModuleType], tmp_path: Path) -> None:
    import gzip

    pixels = bytes(range(256)) * 7  # more than two images of 784
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"h" * 16 + pixels[:1568]))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(b"h" * 8 + bytes([3, 9]))
    images, labels = bench["fashion"].load(tmp_path, "test")
    assert images.shape == (2, 1, 28, 28)
    assert float(images[0, 0, 0, 5]) == pytest.approx(5 / 255)
    assert labels.tolist() == [3, 9]
    with pytest.raises(SystemExit, match="--data"):
        bench["fashion"].load(tmp_path, "train")
