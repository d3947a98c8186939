"""Hardening from end to end, in miniature: arms, robustness, reliance, the experiment, the CLI."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from math import inf, isnan
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from guidxmage.cli import app
from guidxmage.errors import InputError
from guidxmage.hardening.data.dataset import InMemory, LabelledBatch
from guidxmage.hardening.data.splits import Splits, load_splits
from guidxmage.hardening.experiment import Experiment, Unit, first_images, run, units
from guidxmage.hardening.report.comparison import summary
from guidxmage.hardening.report.goals import goals_table
from guidxmage.hardening.report.measurements import SECONDS, figures
from guidxmage.hardening.report.text import report
from guidxmage.hardening.report.transfer import kept, transfer_table
from guidxmage.hardening.robustness import attacks
from guidxmage.hardening.robustness.attacks import PARTS, Target
from guidxmage.hardening.robustness.background_reliance import accuracy, background_share, reliance
from guidxmage.hardening.robustness.gradient_masking import masking_checks
from guidxmage.hardening.robustness.measure import Effort, attack_part
from guidxmage.hardening.samples.arms import (
    ARMS,
    ArmConfig,
    displaced,
    emptied,
    grown,
    lesson,
    shrunk,
    with_series,
)
from guidxmage.hardening.settings import read_settings

CLASSES = ("a", "b", "c")
SIDE = 12


def shapes(count: int, seed: int, own: float = 0.9) -> InMemory:
    """Objects 6 × 6 whose stripes tell the class; background colours that mostly do too."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=draw)
    kinds = torch.where(
        torch.rand(count, generator=draw) < own, labels, torch.randint(3, (count,), generator=draw)
    )
    images = torch.randint(60, 120, (count, 3, SIDE, SIDE), generator=draw)
    images[torch.arange(count), kinds] += 40
    masks = torch.zeros(count, SIDE, SIDE, dtype=torch.bool)
    rows, columns = torch.arange(6)[:, None], torch.arange(6)[None]
    stripes = torch.stack([rows % 2 + 0 * columns, columns % 2 + 0 * rows, (rows + columns) % 2])
    for number, label in enumerate(labels.tolist()):
        top, left = torch.randint(SIDE - 5, (2,), generator=draw).tolist()
        masks[number, top : top + 6, left : left + 6] = True
        level = 90 + 70 * stripes[label]
        images[number, :, top : top + 6, left : left + 6] = level + torch.randint(
            -15, 16, (3, 6, 6), generator=draw
        )
    return InMemory(images.to(torch.uint8), labels, masks, CLASSES)


def network(classes: int = 3) -> nn.Module:
    """What the experiment builds by the name tests.test_hardening:network."""
    layers = [nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(3, 2)]
    layers += [nn.Conv2d(12, 16, 3), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(144, classes))


@pytest.fixture(scope="module")
def data() -> Splits:
    kinds = (shapes(600, 0), shapes(150, 1), shapes(150, 2), shapes(150, 2, 1), shapes(150, 2, 0))
    return Splits(*kinds)


@pytest.fixture(scope="module")
def batch(data: Splits) -> LabelledBatch:
    return first_images(data.test, 24, 0)


@pytest.fixture(scope="module")
def untrained() -> nn.Module:
    torch.manual_seed(0)
    return network().eval().requires_grad_(False)


SMALL = Effort(
    images=24, linf=(4 / 255, 12 / 255), l2=(0.3,), pgd_steps=8, pgd_restarts=1, cw_steps=0,
    budget=24, ddn_steps=20, auto_linf=(), auto_l2=(), auto_images=0, square_queries=60,
)  # fmt: skip
MINIATURE = Experiment(
    networks=("tests.test_hardening:network",), arms=("plain", "longer", "ours"), seeds=(0,),
    batch=50, crop=1, flip=False, plain_steps=150, retrain_steps=60, plain_lr=0.05, retrain_lr=0.02,
    transfer=False, arm=ArmConfig(strengths=(8 / 255, 24 / 255)), effort=SMALL,
)  # fmt: skip


# --- arms ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", [name for name in ARMS if lesson(name, ArmConfig())])
def test_arms_change_what_they_say(arm: str, batch: LabelledBatch, untrained: nn.Module) -> None:
    config = ArmConfig(strengths=(8 / 255,), eps=4 / 255, share=0.5)
    learn = lesson(arm, config)
    assert learn is not None
    state = torch.random.get_rng_state()
    found = learn(untrained, batch, torch.Generator().manual_seed(1), 1.0)
    again = learn(untrained, batch, torch.Generator().manual_seed(1), 1.0)
    assert torch.equal(found.images, again.images)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(found.labels, batch.labels)
    moved = (found.images != batch.images).any(1)
    first = torch.arange(24) < 12
    inside = batch.masks
    if arm in ("noise", "ours", "backgrounds", "ours+backgrounds", "ours-grown"):
        assert not (moved & inside).any()
    if arm in ("ours-shrunk", "ours-displaced"):
        assert (moved & inside).any()
    if arm == "object":
        assert not (moved & ~inside).any()
    if "adversarial" not in arm:
        assert not moved[~first].any()
    assert moved[first].flatten(1).any(1).float().mean() > 0.8  # some cannot be lowered in a step
    bound = {"ours+adversarial": 12 / 255, "adversarial": 4 / 255, "backgrounds": 1.0}
    bound["ours+backgrounds"] = 1.0
    size = (found.images - batch.images).abs().max()
    assert size <= bound.get(arm, 8 / 255) + 1e-6
    assert found.images.min() >= 0
    assert found.images.max() <= 1


def test_noise_is_as_large_as_ours_pixel_by_pixel(
    batch: LabelledBatch, untrained: nn.Module
) -> None:
    config = ArmConfig(strengths=(8 / 255,))
    sizes = []
    for arm in ("ours", "noise"):
        learn = lesson(arm, config)
        assert learn is not None
        found = learn(untrained, batch, torch.Generator().manual_seed(1), 1.0)
        sizes.append((found.images - batch.images).abs())
    assert torch.allclose(*sizes, atol=1e-6)


def test_wrong_masks() -> None:
    mask = torch.zeros(1, 12, 12, dtype=torch.bool)
    mask[0, 3:9, 3:9] = True
    for change, rows in ((grown, (1, 11)), (shrunk, (5, 7)), (displaced, (7, 13))):
        found = change(mask)[0].any(1).nonzero()[:, 0].tolist()
        assert found == sorted(row % 12 for row in range(*rows)), change.__name__


def test_objects_are_painted_over_in_the_mean_of_the_background() -> None:
    images = torch.rand(2, 3, 4, 4)
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[:, :2] = True
    found = emptied(images, masks)
    assert torch.equal(found[:, :, 2:], images[:, :, 2:])
    mean = images[:, :, 2:].mean((2, 3))
    assert torch.allclose(found[:, :, :2], mean[:, :, None, None].expand(2, 3, 2, 4))


def test_wrong_arms() -> None:
    with pytest.raises(InputError, match="arm 'more' is unknown"):
        lesson("more", ArmConfig())
    with pytest.raises(InputError, match="share is 0; give a number above 0"):
        ArmConfig(share=0)
    with pytest.raises(InputError, match=r"networks is \[\]; give a list of names, at least one"):
        Experiment(networks=())


# --- robustness ----------------------------------------------------------------------------------


class Threshold(nn.Module):
    """Two classes by the mean of all pixels: what an attack must do is known."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1)
        return torch.stack([mean, 0.5 + 0 * mean], 1)


def grey(level: float, object_rows: int) -> LabelledBatch:
    images = torch.full((2, 3, 8, 8), level)
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[:, :object_rows] = True
    return LabelledBatch(images, torch.zeros(2, dtype=torch.long), masks, torch.arange(2))


def test_attacks_on_parts_find_the_known_sizes() -> None:
    pytest.importorskip("foolbox")
    model = Threshold().eval()
    found = {part: attack_part(model, grey(0.55, 2), part, SMALL) for part in PARTS}
    # To lower the mean by 0.05, the part with the share p of the pixels has to fall by 0.05 / p.
    for part, share in (("all", 1.0), ("background", 0.75), ("object", 0.25)):
        l2 = 0.05 / share * (192 * share) ** 0.5
        for attack in ("guid-xmage", "ddn"):
            assert found[part].median(attack) == pytest.approx(l2, rel=0.02), (part, attack)  # type: ignore[index]
        curve = found[part].curves[0].accuracy  # type: ignore[index]
        assert list(curve.values()) == [float(eps < 0.05 / share) for eps in curve]
    with pytest.raises(InputError, match="has not been run"):
        found["all"].accuracy("pgd", "linf", 0.3)


def test_failed_attacks_are_infinite_and_wrong_answers_are_zero() -> None:
    pytest.importorskip("foolbox")
    model = Threshold().eval()
    far = attack_part(model, grey(0.9, 1), "object", SMALL)  # 1/8 of the pixels cannot do it
    assert far.median("guid-xmage") == far.median("ddn") == inf
    assert far.to_json()["median_l2"] == {"guid-xmage": None, "ddn": None}
    wrong = attack_part(model, grey(0.4, 1), "all", SMALL)
    assert wrong.median("guid-xmage") == wrong.median("ddn") == 0
    assert set(wrong.curves[0].accuracy.values()) == {0.0}


def test_carlini_wagner_runs_where_it_is_asked_for() -> None:
    pytest.importorskip("foolbox")
    few = replace(SMALL, budget=0, ddn_steps=0, cw_steps=60, cw_searches=4, cw_parts=("object",))
    found = {part: attack_part(Threshold().eval(), grey(0.55, 2), part, few) for part in PARTS}
    assert [list(found[part].sizes) for part in PARTS] == [[], [], ["cw"]]
    assert 0 < found["object"].median("cw") < inf


def test_other_libraries_only_reach_the_part(batch: LabelledBatch, untrained: nn.Module) -> None:
    pytest.importorskip("pyautoattack")
    labels = untrained(batch.images).argmax(1)
    for part in PARTS:
        target = Target(untrained, batch.images[:6], labels[:6], batch.masks[:6], part)
        noise = torch.rand(target.images.shape)
        confined = target.confined.confine(noise)
        assert torch.equal(confined[~target.free], target.images[~target.free])
        assert torch.equal(confined[target.free], noise[target.free])
        rows = target.confined.rows(noise[:2] * 0.01 + target.images[[4, 1]])
        assert rows.tolist() == [4, 1]
        state = torch.random.get_rng_state()
        weak = attacks.autoattack(target, "linf", 1e-5, seed=0)
        strong = attacks.autoattack(target, "linf", 0.5, seed=0)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert weak.float().mean() >= strong.float().mean()
        assert bool(weak.all())
        assert not bool(strong.all())


class Masked(nn.Module):
    """Scores in steps: the gradient is zero everywhere, what a defence must not rest on."""

    def forward(self, x: Tensor) -> Tensor:
        mean = (x.flatten(1).mean(1) * 100).round() / 100
        return torch.stack([mean + 0 * x.flatten(1).sum(1), 0.5 + 0 * mean], 1)


def test_masked_gradients_are_seen() -> None:
    pytest.importorskip("pyautoattack")
    sound = masking_checks(Threshold().eval(), grey(0.55, 2), (), replace(SMALL, auto_images=2))
    assert sound.passed
    assert sound.zero_gradients == 0
    masked = masking_checks(Masked().eval(), grey(0.55, 2), (), replace(SMALL, auto_images=2))
    assert masked.zero_gradients == 1
    assert not masked.passed


def test_efforts_that_make_no_sense() -> None:
    with pytest.raises(InputError, match="linf has to ascend"):
        Effort(linf=(0.2, 0.1))
    with pytest.raises(InputError, match=r"parts\[0\] is 'sky'; give a list of some of all"):
        Effort(parts=("sky",))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"cw_parts\[0\] is 'frame'"):
        Effort(cw_parts=("frame",))  # type: ignore[arg-type]
    for none in ("images", "least_images", "pgd_restarts", "cw_searches", "square_queries"):
        for count in (0, -1):
            with pytest.raises(InputError, match=f"{none} is {count}; give a whole number from 1"):
                Effort(**{none: count})  # type: ignore[arg-type]


# --- reliance ------------------------------------------------------------------------------------


def test_shares_and_the_gap(data: Splits, batch: LabelledBatch, untrained: nn.Module) -> None:
    pytest.importorskip("captum")
    A = torch.zeros(1, 3, 4, 4)
    A[0, :, 0], A[0, 0, 1, 0] = -1.0, 4.0
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 0] = True
    assert background_share(A, mask) == pytest.approx(4 / 16)
    found = reliance(untrained, data.test, data.same, data.mixed, batch)
    assert found.gap == found.mixed_same - found.mixed_random
    assert found.clean == accuracy(untrained, data.test)
    assert 0 < found.share_ours < 1
    nothing = reliance(untrained, data.test, None, None, batch)
    assert isnan(nothing.gap)
    assert nothing.to_json()["gap"] is None


# --- the experiment ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(data: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pyautoattack")
    out = tmp_path_factory.mktemp("hardening") / "out"
    run(MINIATURE, data, out, lambda _: None)
    return out


def test_ours_lowers_what_the_background_can_do(data: Splits, finished: Path) -> None:
    said: list[str] = []
    found = {one["unit"]["arm"]: one for one in run(MINIATURE, data, finished, said.append)}
    assert not said, "nothing is made again"
    assert list(found) == ["plain", "longer", "ours"]

    def median(arm: str, part: str) -> float:
        parts = {one["part"]: one for one in found[arm]["parts"]}
        return float(parts[part]["median_l2"]["guid-xmage"])

    assert found["longer"]["reliance"]["clean"] > 0.8
    assert found["ours"]["reliance"]["clean"] > 0.8
    assert median("ours", "background") > 1.2 * median("longer", "background")
    share = {arm: found[arm]["reliance"]["share_ours"] for arm in found}
    assert share["ours"] < share["longer"]
    text = report(list(found.values()))
    for words in ("# Hardening", "## tests.test_hardening:network", "| ours |", "masked gradients"):
        assert words in text


def test_a_stopped_experiment_goes_on(data: Splits, finished: Path, tmp_path: Path) -> None:
    class Stop(Exception):  # noqa: N818
        pass

    def stop(line: str) -> None:
        if "ours: training" in line:
            raise Stop

    small = replace(MINIATURE, plain_steps=20, retrain_steps=10)
    with pytest.raises(Stop):
        run(small, data, tmp_path / "out", stop)
    said: list[str] = []
    run(small, data, tmp_path / "out", said.append)
    trained = [line for line in said if line.endswith("training")]
    assert [line.split("/")[-1] for line in trained] == ["ours: training"]
    with pytest.raises(InputError, match="holds an experiment with plain_steps 20, not 30"):
        run(replace(small, plain_steps=30), data, tmp_path / "out", said.append)
    with pytest.raises(InputError, match="something other than an experiment"):
        run(small, data, tmp_path, said.append)


def test_the_series_of_another_network_is_learned_from(data: Splits, tmp_path: Path) -> None:
    pytest.importorskip("pyautoattack")
    few = replace(
        MINIATURE,
        networks=("tests.test_hardening:network", "resnet20"),
        arms=("plain", "series"),
        width=0.25,
        plain_steps=6,
        retrain_steps=3,
        transfer=True,
        effort=replace(SMALL, images=6, parts=("background", "object"), ddn_steps=2, budget=0),
    )
    names = [(unit.network, unit.arm, unit.source) for unit in units(few)]
    assert ("resnet20", "series", "tests.test_hardening:network") in names
    assert len(names) == 6
    found = run(few, data, tmp_path / "out", lambda _: None)
    text = report(found)
    assert "## Samples from other networks" in text
    assert all(one["training"]["steps"] in (3, 6) for one in found)
    # Those retrained with other networks' samples are only attacked as the matrix needs it.
    transferred = [one for one in found if one["unit"]["source"]]
    assert [[p["part"] for p in one["parts"]] for one in transferred] == [["background"]] * 2
    assert [one["parts"][0]["median_l2"] for one in transferred] == [{}] * 2
    assert "| resnet20 | " in text.split("## Samples from other networks")[1]
    # Making the samples is part of what learning from them takes.
    series = [one for one in found if one["unit"]["arm"] == "series"]
    assert all(one["training"]["samples_processor_seconds"] > 0 for one in series)
    assert all(figures(one)[SECONDS] > one["training"]["processor_seconds"] for one in series)


def test_two_processes_train_together(tmp_path: Path) -> None:
    pytest.importorskip("pyautoattack")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ended = subprocess.run(
        [*command, "-m", "tests.hardening_runs", str(out)],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    arms = sorted(file.parent.name for file in out.glob("*/*/evaluation.json"))
    assert arms == ["longer", "ours", "plain", "series"]
    assert ended.stdout.count("longer: training") == 2, "both processes train"


def test_the_enlarged_data_hold_images_and_samples(
    data: Splits, batch: LabelledBatch, untrained: nn.Module
) -> None:
    from guidxmage import Explainer
    from guidxmage.hardening.samples.suppression import suppress

    assert isinstance(data.test, InMemory)
    few = data.test.subset(torch.arange(10))
    every = few.__getitems__(range(10))
    series = suppress(Explainer(untrained), every.images, every.masks, every.labels)
    whole = with_series(few, series)
    assert len(whole) == 10 * (1 + len(series.strengths))
    found = whole.__getitems__([3, 13, 33])
    assert torch.equal(found.labels, every.labels[[3, 3, 3]])
    assert torch.allclose(found.images[0], every.images[3])
    assert torch.allclose(found.images[1], series.samples[3, 0], atol=1e-6)
    assert torch.allclose(found.images[2], series.samples[3, 2], atol=1e-6)
    with pytest.raises(InputError, match="the series holds 10 images, the data 150"):
        with_series(data.test, series)


def test_units_are_whole_seeds() -> None:
    experiment = Experiment(networks=("alexnet",), arms=("plain", "ours"), seeds=(3, 4))
    assert [unit.folder for unit in units(experiment)] == [
        "alexnet-3/plain", "alexnet-3/ours", "alexnet-4/plain", "alexnet-4/ours",
    ]  # fmt: skip
    assert Unit("resnet20", 1, "series", "alexnet").folder == "resnet20-1/series-from-alexnet"


def test_widths_are_for_all_networks_or_by_name() -> None:
    for width, expected in ((0.5, (0.5, 0.5, 1)), ({"alexnet": 0.25}, (0.25, 1, 1))):
        experiment = Experiment(width=width)
        names = ("alexnet", "resnet20", "own.py:build")
        assert tuple(map(experiment.width_of, names)) == expected


def invented(arm: str, seed: int, clean: float, robust: float, source: str | None = None) -> Any:
    """An evaluation with chosen figures."""
    curve = {
        "attack": "pgd", "norm": "linf", "images": 10, "eps": [8 / 255], "accuracy": [robust],
    }  # fmt: skip
    parts = [{"part": "background", "curves": [curve], "median_l2": {"guid-xmage": robust}}]
    return {
        "unit": {"network": "alexnet", "seed": seed, "arm": arm, "source": source},
        "training": {"processor_seconds": 10.0 * (1 + seed)},
        "reliance": {"clean": clean, "gap": 0.02 * (1 + seed)},
        "parts": parts,
    }


def test_the_summary_compares_seed_by_seed() -> None:
    found = [
        invented("plain", 0, 0.80, 0.2), invented("plain", 1, 0.90, 0.4),
        invented("ours", 0, 0.79, 0.5), invented("ours", 1, 0.91, 0.8),
        invented("ours", 2, 0.1, 0.1), invented("ours", 0, 0.1, 0.1, source="resnet20"),
    ]  # fmt: skip
    lines = summary(found).splitlines()
    assert lines[0] == "|  |  | alexnet |"
    assert "| clean accuracy, points | `ours` against `plain` | +0.0 ± 1.4 |" in lines
    assert (
        "| background alone, PGD l∞ 8/255, points | `ours` against `plain` | +35.0 ± 7.1 |" in lines
    )
    assert (
        "| background alone, median least l2, ratio | `ours` against `plain` | 2.25 ± 0.35 |"
        in lines
    )
    assert "| gap between backgrounds, points | `plain` | 3.0 ± 1.4 |" in lines
    assert not any("noise" in line or "adversarial" in line for line in lines)
    assert summary([found[0]]).count("\n") == 2  # the gap alone


def measured(arm: str, seed: int, **figures: float) -> Any:
    """An evaluation of all parts with chosen figures."""
    one = invented(arm, seed, figures["clean"], 0.0)
    one["reliance"]["gap"] = figures.get("gap", 0.2)
    one["training"]["processor_seconds"] = figures.get("seconds", 10.0)

    def curve(attack: str, *accuracy: float) -> Any:
        eps = [8 / 255, 16 / 255][-len(accuracy) :]
        return {"attack": attack, "norm": "linf", "eps": eps, "accuracy": list(accuracy)}

    background = [curve("pgd", figures["bg8"], figures["bg16"])]
    one["parts"] = [
        {"part": "background", "curves": background, "median_l2": {}},
        {"part": "object", "curves": [curve("pgd", figures["object"])], "median_l2": {}},
        {"part": "all", "curves": [curve("autoattack", figures["auto"])],
         "median_l2": {"guid-xmage": figures["l2"]}},
    ]  # fmt: skip
    return one


def test_goals_are_judged_by_the_figures() -> None:
    plain = {"clean": 0.8, "bg8": 0.2, "bg16": 0.04, "object": 0.3, "auto": 0.1, "l2": 0.2}
    ours = {"clean": 0.795, "bg8": 0.7, "bg16": 0.52, "object": 0.29, "auto": 0.3, "l2": 0.25}
    pgd = {**ours, "clean": 0.7, "auto": 0.5}
    found = [
        measured("plain", 0, **plain), measured("plain", 1, **plain),
        measured("ours", 0, **ours, gap=0.01, seconds=12.0),
        measured("ours", 1, **ours, gap=0.02, seconds=6.0),
        measured("noise", 0, **{**plain, "l2": 0.24}),
        measured("adversarial", 0, **pgd),
        measured("ours+adversarial", 0, **{**pgd, "clean": 0.73}),
    ]  # fmt: skip
    rows = [line.split(" | ")[1:] for line in goals_table(found).splitlines()[2:]]
    assert rows == [
        ["`ours`", "52.0 % at 16/255 (plain 4.0 %): reached |"],
        ["`ours`", "-0.5: reached |"],
        ["`ours`", "+1.5: reached |"],
        ["`ours`", "1.25 ×: missed |"],  # of 1.3
        ["`ours`", "1.04 ×: missed |"],  # of 1.1
        ["`ours`", "-1.0 at 16/255: missed |"],
        ["`ours`", "1.90 ×: reached |"],  # 1 + (1.2 + 0.6) / 2
        ["`ours+adversarial`", "AutoAttack +0.0, clean +3.0: reached |"],
    ]
    assert not goals_table(found[:2])


def test_what_is_kept_with_the_samples_of_others() -> None:
    found = []
    for target, source, robust in (
        ("alexnet", None, 0.6), ("alexnet", "resnet20", 0.5), ("resnet20", None, 0.3),
        ("resnet20", "alexnet", 0.4),
    ):  # fmt: skip
        one = invented("series", 0, 0.8, robust, source)
        one["unit"]["network"] = target
        found.append(one)
    longer = [invented("longer", 0, 0.8, 0.2), invented("longer", 0, 0.8, 0.35)]
    longer[1]["unit"]["network"] = "resnet20"
    lines = transfer_table([*found, *longer]).splitlines()
    assert "| alexnet | 8/255 | – | 20.0 | 60.0 | 50.0 | 75 % |" in lines
    assert kept([*found, *longer], "alexnet") == pytest.approx(0.75)
    assert isnan(kept([*found, *longer], "resnet20"))
    goals = goals_table([*found, *longer]).splitlines()
    assert goals[-1].endswith("| `series` | 75.0 %: missed | – |")
    assert (
        "| resnet20 | 8/255 | – | 35.0 | 40.0 | 30.0 | – |" in lines
    )  # its own samples gain nothing


# --- settings, splits, the command line ----------------------------------------------------------


def test_settings(tmp_path: Path) -> None:
    file = tmp_path / "small.toml"
    file.write_text(
        'networks = ["alexnet"]\nseeds = [1, 2]\n[arm]\nstrengths = ["4/255", 0.5]\n'
        "[effort]\nimages = 7\n",
        encoding="utf-8",
    )
    found = read_settings(file)
    assert found.networks == ("alexnet",)
    assert found.seeds == (1, 2)
    assert found.arm.strengths == (4 / 255, 0.5)
    assert found.effort.images == 7
    for text, sentence in (
        ("step = 3", "step is not a setting; choose from networks"),
        ("[arm]\nshare = 2.0", "arm.share is 2.0; give"),
        ("arm = 3", r"arm is 3, but has to be a table; write \[arm\]"),
        ("= 3", "no TOML"),
        ('arms = ["best"]', "arms holds 'best', which is no arm"),
        (
            "width = {resnet = 0.5}",
            "width holds 'resnet', which is no network; did you mean resnet",
        ),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=sentence):
            read_settings(file)
    with pytest.raises(InputError, match="does not exist"):
        read_settings(tmp_path / "none.toml")


def test_folders_without_splits_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither garments"):
        load_splits(tmp_path)
    (tmp_path / "cifar-10-batches-bin").mkdir()
    with pytest.raises(InputError, match=r"has no masks; save them as masks-train\.npy"):
        load_splits(tmp_path)


def test_the_command_line_names_what_is_wrong(tmp_path: Path) -> None:
    runner = CliRunner()
    for arguments, sentence in (
        (["harden", "--data", str(tmp_path)], "neither garments"),
        (["harden", "--data", str(tmp_path), "--seeds", "a"], "seeds are whole numbers"),
        (
            ["harden", "--data", str(tmp_path), "--arms", "best"],
            "--arms holds 'best', which is no arm",
        ),
        (
            ["garments", str(tmp_path / "out"), "--fashion", str(tmp_path)],
            "has no train-images-idx3",
        ),
    ):
        result = runner.invoke(app, arguments)
        assert result.exit_code == 2, arguments
        assert sentence in " ".join(result.output.split()), result.output
        assert "Traceback" not in result.output


def test_the_command_line_writes_the_report(
    data: Splits, finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("guidxmage.hardening.data.splits.load_splits", lambda *_: data)
    monkeypatch.setattr("guidxmage.hardening.settings.read_settings", lambda _: MINIATURE)
    arguments = ["harden", "--data", "shapes", "--config", "x.toml", "--out", str(finished)]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    text = (finished / "REPORT.md").read_text(encoding="utf-8")
    assert "# Hardening on shapes" in text
    for words in (
        "## Goals", "150 optimiser steps, then 60 in each arm", "3 classes, images of 3 × 12 × 12",
        "strengths 8/255 24/255", "PGD** (foolbox): 8 steps", f"torch {torch.__version__}",
    ):  # fmt: skip
        assert words in text, words
    assert len(json.loads(result.stdout)) == 3
