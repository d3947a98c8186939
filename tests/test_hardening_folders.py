"""An experiment's folder: what is kept, what is made again, what is refused, and who is in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from guidxmage.cli import app
from guidxmage.errors import InputError, MissingExtraError
from guidxmage.files.atomic import read_sealed, write_sealed
from guidxmage.hardening.data.dataset import InMemory
from guidxmage.hardening.data.image_folder import ImageFolder
from guidxmage.hardening.data.splits import Splits
from guidxmage.hardening.experiment import Experiment, run
from guidxmage.hardening.ownership import whole
from guidxmage.hardening.readiness import check_code
from guidxmage.hardening.training.loop import train
from tests.test_hardening import MINIATURE, SMALL, shapes
from tests.training_runs import config, dataset, network, recipe

FEW = replace(
    MINIATURE,
    arms=("plain", "longer", "series"),
    plain_steps=4,
    retrain_steps=2,
    effort=replace(SMALL, images=4, parts=("background",), budget=0, ddn_steps=0),
)
NAMES = ("train", "validation", "test", "same", "mixed")
FOLDER = "tests.test_hardening-network-0"


def splits(**changed: InMemory) -> Splits:
    usual = [shapes(100, 0), *(shapes(40, seed) for seed in range(1, 5))]
    return Splits(**{**dict(zip(NAMES, usual, strict=True)), **changed})


@pytest.fixture(autouse=True)
def libraries() -> None:
    for name in ("pyautoattack", "captum", "foolbox", "safetensors"):
        pytest.importorskip(name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    run(FEW, splits(), out, lambda _: None)
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished experiment's folder."""
    subprocess.run(["cp", "-r", finished, tmp_path / "out"], check=True)
    return tmp_path / "out"


def said(experiment: Experiment, data: Splits, out: Path) -> list[str]:
    lines: list[str] = []
    run(experiment, data, out, lines.append)
    return lines


def image(data: InMemory) -> InMemory:
    images = data.images.clone()
    images[7, 0, 3, 3] += 1
    return InMemory(images, data.labels, data.masks, data.classes)


def mask(data: InMemory) -> InMemory:
    masks = data.masks.clone()
    masks[7, 0, 0] = ~masks[7, 0, 0]
    return InMemory(data.images, data.labels, masks, data.classes)


def label(data: InMemory) -> InMemory:
    labels = data.labels.clone()
    labels[7] = (labels[7] + 1) % 3
    return InMemory(data.images, labels, data.masks, data.classes)


# --- other data, code, versions ------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_other_data_is_refused(out: Path, name: str) -> None:
    for change in (image, mask, label):
        changed = splits(**{name: change(getattr(splits(), name))})
        with pytest.raises(InputError, match=r"holds an experiment with other .*images"):
            run(FEW, changed, out, pytest.fail)
    assert not said(FEW, splits(), out)


def test_half_an_experiment_is_not_gone_on_with_on_other_data(tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(line: str) -> None:
        if line.endswith("longer: training"):
            raise StopError

    with pytest.raises(StopError):
        run(FEW, splits(), tmp_path, stop)
    with pytest.raises(InputError, match="other training images"):
        run(FEW, splits(train=image(splits().train)), tmp_path, pytest.fail)  # type: ignore[arg-type]
    lines = said(FEW, splits(), tmp_path)
    assert not any(line.endswith("plain: training") for line in lines)


def test_other_code_of_a_network_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "from tests.test_hardening import network as made\ndef build(n): return made(n)\n"
    Path("net.py").write_text(text)
    own = replace(FEW, networks=("net.py:build",), arms=("plain",))
    run(own, splits(), tmp_path / "out", lambda _: None)
    assert not said(own, splits(), tmp_path / "out")
    Path("net.py").write_text(text + "# changed\n")
    with pytest.raises(InputError, match=r"with other code of net\.py:build"):
        run(own, splits(), tmp_path / "out", pytest.fail)


def test_weights_that_no_seed_decides_say_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(
        "import os\nimport torch\nfrom tests.test_hardening import network\n"
        "def build(n):\n"
        "    made = network(n)\n"
        "    made[0].weight.data[0, 0, 0, 0] = int.from_bytes(os.urandom(3), 'big') / 2**25\n"
        "    return made\n"
    )
    own = replace(FEW, networks=("net.py:build",), arms=("plain",))
    run(own, splits(), tmp_path / "out", lambda _: None)
    assert not said(own, splits(), tmp_path / "out")


def test_other_versions_are_refused(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guidxmage.provenance.fingerprint.__version__", "0.0.1")
    with pytest.raises(InputError, match=r"run with guid-xmage .*, not 0\.0\.1"):
        run(FEW, splits(), out, pytest.fail)


def test_a_folder_of_photos_is_told_by_its_files(tmp_path: Path) -> None:
    for kind in ("photos", "masks"):
        for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
            file = tmp_path / kind / name
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (9, 9), 255).save(file)

    def found(size: int = 8) -> str:
        return ImageFolder(tmp_path / "photos", tmp_path / "masks", size).fingerprint()

    seen = [found(), found(9)]
    for kind in ("photos", "masks"):
        Image.new("L", (9, 9), 200).save(tmp_path / kind / "a/1.png")
        seen.append(found())
    (tmp_path / "photos/a").rename(tmp_path / "photos/c")
    (tmp_path / "masks/a").rename(tmp_path / "masks/c")
    seen.append(found())
    assert len(set(seen)) == len(seen)


# --- settings that nothing came of ---------------------------------------------------------------


class FailsError(Exception):
    pass


def failing(*_: object, **__: object) -> NoReturn:
    raise FailsError


def test_settings_of_a_training_that_failed_may_be_corrected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = replace(FEW, plain_lr=0.3, batch=20)
    for number in (0, 1):
        with monkeypatch.context() as patch:
            patch.setattr("guidxmage.hardening.experiment.accuracy", failing)
            with pytest.raises(FailsError):
                run(replace(wrong, crop=number), splits(), tmp_path / "out", lambda _: None)
        assert list((tmp_path / "out" / FOLDER / "plain").glob("checkpoint-*"))
    few = replace(FEW, arms=("plain",))
    again = run(few, splits(), tmp_path / "out", lambda _: None)
    fresh = run(few, splits(), tmp_path / "fresh", lambda _: None)
    assert [one["reliance"] for one in again] == [one["reliance"] for one in fresh]
    weights = f"{FOLDER}/plain/final.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == (tmp_path / "fresh" / weights).read_bytes()
    assert whole(few, tmp_path / "out").arms == ("plain",)
    with pytest.raises(InputError, match="with batch 50, not 20"):
        run(wrong, splits(), tmp_path / "out", pytest.fail)


def test_attacks_that_failed_may_be_corrected_and_trainings_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(FEW, arms=("plain",))
    with monkeypatch.context() as patch:
        patch.setattr("guidxmage.hardening.experiment.attack_part", failing)
        with pytest.raises(FailsError):
            run(few, splits(), tmp_path, lambda _: None)
    with pytest.raises(InputError, match=r"with plain_lr 0\.05, not 0\.3"):
        run(replace(few, plain_lr=0.3), splits(), tmp_path, pytest.fail)
    other = replace(few, effort=replace(few.effort, images=5))
    assert said(other, splits(), tmp_path) == [f"{FOLDER}/plain: attacks"]
    with pytest.raises(InputError, match="with effort"):
        run(few, splits(), tmp_path, pytest.fail)


def test_settings_of_a_run_at_work_are_not_replaced(tmp_path: Path) -> None:
    few, seen = replace(FEW, arms=("plain",)), []

    def meanwhile(line: str) -> None:
        with pytest.raises(InputError, match="with batch 50, not 20"):
            run(replace(few, batch=20), splits(), tmp_path, pytest.fail)
        seen.append(line)

    run(few, splits(), tmp_path, meanwhile)
    assert len(seen) == 2
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"batch": 101}, "batch is 101, but there are 100 training images"),
        (
            {"networks": ("alexnet",)},
            r"networks\[0\] is 'alexnet', which cannot take images of 3×12",
        ),
        (
            {"networks": ("net.py:wide",)},
            r"'net.py:wide', which returns \[2, 4\] where scores \[2, 3",
        ),
        ({"networks": ("net.py:bare",)}, "'net.py:bare', which has no parameters to train"),
        ({"networks": ("net.py:text",)}, "'net.py:text', which returns str where scores"),
        ({"networks": ("net.py:fails",)}, r"\(no such layer\)"),
    ],
)
def test_what_does_not_fit_the_data_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(
        "from torch import nn\n"
        "def ends(last): return nn.Sequential(nn.Flatten(), nn.Linear(432, 3), last)\n"
        "def wide(n): return nn.Sequential(nn.Flatten(), nn.Linear(432, n + 1))\n"
        "def bare(n): return nn.Flatten()\n"
        "class Text(nn.Module):\n    forward = lambda self, x: 'text'\n"
        "class Fails(nn.Module):\n"
        "    def forward(self, x): raise RuntimeError('no such layer\\nand more')\n"
        "def text(n): return ends(Text())\n"
        "def fails(n): return ends(Fails())\n"
    )
    with pytest.raises(InputError, match=sentence) as caught:
        run(replace(FEW, **change), splits(), tmp_path / "out", pytest.fail)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["net.py"]


def test_data_without_parts_or_classes_are_refused(tmp_path: Path) -> None:
    test = splits().test
    assert isinstance(test, InMemory)
    empty = InMemory(test.images, test.labels, torch.zeros_like(test.masks), test.classes)
    with pytest.raises(InputError, match="no test image has both an object and a background"):
        run(FEW, splits(test=empty), tmp_path / "out", pytest.fail)
    train = splits().train
    assert isinstance(train, InMemory)
    one = InMemory(train.images, torch.zeros_like(train.labels), train.masks, ("a",))
    with pytest.raises(InputError, match="one class only"):
        run(FEW, splits(train=one), tmp_path / "out", pytest.fail)
    assert not (tmp_path / "out").exists()


def test_missing_packages_are_named_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("guidxmage.hardening.readiness.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="safetensors is needed"):
        check_code(FEW)


# --- growing, and the report ---------------------------------------------------------------------


def test_fewer_seeds_and_arms_leave_the_rest(out: Path) -> None:
    grown = replace(FEW, seeds=(0, 1), arms=("plain", "longer"))
    first = run(grown, splits(), out, lambda _: None)
    units = [(one["unit"]["seed"], one["unit"]["arm"]) for one in first]
    assert units == [(0, "plain"), (0, "longer"), (0, "series"), (1, "plain"), (1, "longer")]
    fewer = replace(FEW, seeds=(1,), arms=("plain",))
    assert run(fewer, splits(), out, pytest.fail) == first
    kept = whole(fewer, out)
    assert (kept.seeds, kept.arms) == ((0, 1), ("plain", "longer", "series"))


def test_the_report_does_not_shrink(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guidxmage.hardening.data.splits.load_splits", lambda *_: splits())
    monkeypatch.setattr("guidxmage.hardening.settings.read_settings", lambda _: FEW)
    line = ["harden", "--data", "shapes", "--config", "x.toml", "--out", str(out)]
    reports = []
    for more in ([], ["--arms", "plain"]):
        done = CliRunner().invoke(app, [*line, *more])
        assert done.exit_code == 0, done.output
        reports.append((out / "REPORT.md").read_text(encoding="utf-8"))
    assert reports[0] == reports[1]
    assert "| longer |" in reports[0]


# --- damage --------------------------------------------------------------------------------------


def bit(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    return bytes(changed)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut": lambda content: content[: len(content) // 2],
    "bit": bit,
    "list": lambda _: b"[]\n",
}
PARTS = {
    "longer/training.json": ["longer: training"],
    "longer/evaluation.json": ["longer: attacks"],
    "longer/final.safetensors": ["longer: training"],
    "longer/metrics.jsonl": [],
    "plain/series/series.npz": [],
    "experiment.json": None,
}


def stated(out: Path) -> dict[str, Any]:
    """What stands in the JSON files, but for seconds."""
    found = {}
    for file in sorted(out.rglob("*.json")):
        content = read_sealed(file)
        for part in (content, content.get("training", {}), content.get("about", {})):
            for name in [name for name in part if "seconds" in name or name == "digest"]:
                del part[name]
        found[file.relative_to(out).as_posix()] = content
    return found


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("part", PARTS)
def test_damaged_parts_are_made_again_or_named(
    out: Path, finished: Path, part: str, how: str
) -> None:
    file = out / part if part == "experiment.json" else out / FOLDER / part
    content = file.read_bytes()
    file.write_bytes(DAMAGE[how](content))
    expected = PARTS[part]
    if expected is None:
        with pytest.raises(InputError, match=r"experiment\.json .*choose another folder"):
            run(FEW, splits(), out, pytest.fail)
        return
    lines = said(FEW, splits(), out)
    assert [line.partition("/")[2] for line in lines] == expected
    assert stated(out) == stated(finished)
    if expected and not part.endswith(".json"):
        assert file.read_bytes() == content


def test_samples_that_were_damaged_are_made_again(out: Path, finished: Path) -> None:
    for file in (out / FOLDER / "series").glob("*"):
        file.unlink()
    series = out / FOLDER / "plain" / "series"
    (series / "series.npz").write_bytes(b"junk")
    lines = said(replace(FEW, arms=("plain", "series"), seeds=(0,)), splits(), out)
    assert any("samples of 100 images" in line for line in lines)
    assert (series / "series.npz").read_bytes() == (
        finished / FOLDER / "plain" / "series" / "series.npz"
    ).read_bytes()
    assert stated(out) == stated(finished)


def test_an_evaluation_of_other_weights_is_made_again(out: Path) -> None:
    file = out / FOLDER / "longer" / "evaluation.json"
    write_sealed(file, {**read_sealed(file), "weights": "0" * 64})
    assert [line.partition("/")[2] for line in said(FEW, splits(), out)] == ["longer: attacks"]


# --- several runs --------------------------------------------------------------------------------


def test_two_runs_share_the_work(tmp_path: Path) -> None:
    """Started together, they do every part once, and end with the same as one alone."""
    line = [sys.executable, "-m", "tests.hardening_runs"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[1]

    def started(out: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*line, str(out)], cwd=root, env=environment, stdout=subprocess.PIPE, text=True
        )

    both = [started(tmp_path / "both") for _ in range(2)]
    told = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    lines = "".join(told).splitlines()
    for word, count in ((": training", 4), (": attacks", 4), ("samples of 120 images", 1)):
        assert sum(word in line for line in lines) == count, lines
    alone = started(tmp_path / "alone")
    alone.communicate(timeout=240)
    assert stated(tmp_path / "both") == stated(tmp_path / "alone")
    assert not list(tmp_path.rglob(".guid-xmage*"))


def test_training_refuses_other_data_and_a_folder_that_is_in_use(tmp_path: Path) -> None:
    train(network(), recipe(), config(), folder=tmp_path / "run")
    other = recipe()
    changed = dataset()
    changed.images[0] += 1
    other.dataset = changed
    with pytest.raises(InputError, match=r"belongs to another run \(recipe data"):
        train(network(), other, config(), folder=tmp_path / "run")

    class Nested:
        """A recipe that trains in the folder that it is trained in."""

        def __init__(self) -> None:
            self.own = recipe()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.own, name)

        def batch(self, *arguments: Any) -> Any:
            with pytest.raises(InputError, match="another run trains in"):
                train(network(), recipe(), config(), folder=tmp_path / "nested")
            return self.own.batch(*arguments)

    found = train(network(), Nested(), config(steps=2), folder=tmp_path / "nested")
    assert found.steps == 2
    assert not list(tmp_path.rglob(".guid-xmage*"))


def test_what_a_killed_training_left_is_cleared_away(tmp_path: Path) -> None:
    train(network(), recipe(), config(), folder=tmp_path)
    for name in (".checkpoint-000000012-0000000000000000.pt.123.partial",
                 ".guid-xmage-0123456789abcdef.partial"):  # fmt: skip
        (tmp_path / name).write_bytes(b"half")
    train(network(), recipe(), config(), folder=tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_hand_made_experiments_are_sentences(tmp_path: Path) -> None:
    from guidxmage.hardening.training.trained import load_trained

    unit = tmp_path / "vgg8-0" / "plain"
    unit.mkdir(parents=True)
    for content in ("", "[]", "null", '{"networks": 3, "width": 1}', json.dumps({"width": 1})):
        (tmp_path / "experiment.json").write_text(content)
        with pytest.raises(InputError):
            load_trained(unit)


def test_the_data_are_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = shapes(10, 0)
    first = data.fingerprint()
    monkeypatch.setattr(InMemory, "_digests", pytest.fail)
    assert data.fingerprint() == first
    assert isinstance(data.images, Tensor)
    assert torch.equal(data.images, shapes(10, 0).images)


def test_code_that_a_folder_names_is_not_run(tmp_path: Path, monkeypatch: Any) -> None:
    from guidxmage.cli.evaluate import network_of
    from guidxmage.hardening.training.trained import load_trained

    save_file = pytest.importorskip("safetensors.torch").save_file
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(
        "import pathlib\nfrom torch import nn\n\ndef f(classes):\n"
        "    pathlib.Path('ran').touch()\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(12, classes))\n"
    )
    unit = tmp_path / "net.py-f-0" / "plain"
    unit.mkdir(parents=True)
    Path("experiment.json").write_text('{"networks": ["net.py:f"], "width": 1.0}')
    save_file({"1.weight": torch.eye(3, 12), "1.bias": torch.zeros(3)}, unit / "final.safetensors")
    with pytest.raises(InputError, match=r"is code \(net\.py:f\).*file\.py:function=") as caught:
        network_of(str(unit))
    assert "\n" not in str(caught.value)
    assert not Path("ran").exists()
    found = network_of(f"net.py:f={unit}").load()
    assert Path("ran").exists()
    assert found.model(torch.ones(1, 3, 2, 2)).tolist() == [[1, 1, 1]]
    (tmp_path / "alexnet-0" / "plain").mkdir(parents=True)
    Path("experiment.json").write_text('{"networks": ["alexnet"], "width": 1.0}')
    with pytest.raises(InputError, match="which is no code; leave out"):
        load_trained(tmp_path / "alexnet-0" / "plain", "net.py:f")
