"""The run: methods, views, records that survive a kill, intervals, reports, the command."""

from __future__ import annotations

import hashlib
import json
import math
import re
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from guidxmage.cli import app
from guidxmage.errors import InputError, MissingExtraError
from guidxmage.evaluation import methods as methods_package
from guidxmage.evaluation.data.photos import Photo, read_photos
from guidxmage.evaluation.data.views import draw_view, view_numbers
from guidxmage.evaluation.methods import METHODS, Method
from guidxmage.evaluation.records import Records, claimed
from guidxmage.evaluation.report.bootstrap import estimate
from guidxmage.evaluation.report.figures import rows
from guidxmage.evaluation.report.publication import publish
from guidxmage.evaluation.report.table import paper_table
from guidxmage.evaluation.run import EvaluatedNetwork, read, run
from guidxmage.evaluation.settings import Settings
from guidxmage.evaluation.subject import last_feature_map, make_subject
from guidxmage.evaluation.table1 import TablePart, evaluate_table1, parts
from guidxmage.hardening.training import networks
from guidxmage.inputs.preprocessing import Preprocessing
from guidxmage.models import load_model
from tests.evaluated import SIDE, Planted, case, explained, loaded, photo, truth

PLANTED = EvaluatedNetwork("planted", loaded)
FEW = Settings(methods=("guid-xmage", "random", "edges"), measures=("directional", "objects"))

NETWORK = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(96, 4)
    ).eval()
"""


# --- subjects and methods ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layer", "channels"),
    [("alexnet", "body.11", 256), ("vgg8", "body.13", 256), ("resnet20", "body.11", 64)],
)
def test_cams_look_behind_the_last_convolution(name: str, layer: str, channels: int) -> None:
    network = networks.build(name, 10, seed=0)
    subject = make_subject(loaded(network), torch.Size((3, 32, 32)), torch.float32)
    assert (subject.layer, subject.channels) == (layer, channels)


@pytest.mark.parametrize(
    ("name", "layer", "channels"),
    [("resnet18", "layer4", 512), ("vgg11", "features.19", 512), ("alexnet", "features.11", 256)],
)
def test_cams_look_where_they_are_used_to(name: str, layer: str, channels: int) -> None:
    model = load_model(name, weights="none")
    whole = make_subject(model, torch.Size((3, 96, 96)), torch.float32).whole
    assert last_feature_map(whole, torch.zeros(1, 3, 96, 96)) == (layer, channels)
    assert not any(module._forward_hooks for module in whole.modules())


def test_input_times_gradient_ties_with_ours() -> None:
    pytest.importorskip("captum")
    of = case()
    ours, theirs = (explained(name, of).values for name in ("guid-xmage", "input-x-gradient"))
    assert np.abs(ours).max() > 0.1
    assert np.abs(ours - theirs).max() < 1e-6


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_maps_a_small_network(name: str) -> None:
    if METHODS[name].package and not find_spec(METHODS[name].package):
        pytest.skip(f"{METHODS[name].library} is not installed")
    network = networks.build("vgg8", 4, width=0.1, seed=0)
    of = case(network, torch.rand(3, 32, 32, dtype=torch.float64))
    found = explained(name, of)
    assert found.values.shape == (32, 32)
    assert np.ptp(found.values) > 0
    if not found.method.signed:
        assert found.values.min() >= 0
        assert found.values.max() <= 1 + 1e-6
    again = explained(name, of)
    assert np.array_equal(found.values, again.values)


def test_edges_by_hand() -> None:
    step = torch.zeros(3, 4, 6, dtype=torch.float64)
    step[:, :, 3:] = 1
    found = METHODS["edges"].explain(case().fast, step, 0, 0)
    assert found.tolist() == [[0, 0, 1, 1, 0, 0]] * 4


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = replace(METHODS["lrp"], package="there_is_no_such_package")
    with pytest.raises(MissingExtraError, match=r"zennit is needed.*guid-xmage\[eval\]"):
        methods_package.check_installed([absent])


# --- photos and views ----------------------------------------------------------------------------


def test_folders_labels_and_masks(tmp_path: Path) -> None:
    for label in (3, 14):
        (tmp_path / "photos" / str(label)).mkdir(parents=True)
        Image.new("RGB", (8, 6), (label, 0, 0)).save(
            tmp_path / "photos" / str(label) / f"{label}.png"
        )
    (tmp_path / "masks").mkdir()
    mask = np.zeros((6, 8), dtype=np.uint8)
    mask[:, :2] = 255
    for label in (3, 14):
        Image.fromarray(mask).save(tmp_path / "masks" / f"{label}.png")
    found = read_photos(str(tmp_path / "photos"), masks=tmp_path / "masks")
    assert [(one.name, one.label) for one in found] == [("14/14.png", 14), ("3/3.png", 3)]
    seen = draw_view(found[0], 0, 0).mask()
    assert seen is not None
    assert seen.tolist() == (mask > 0).tolist()
    assert len(read_photos(str(tmp_path / "photos"), limit=1)) == 1
    with pytest.raises(InputError, match="neither a file nor a folder nor one of imagenet"):
        read_photos("imagenette")


@pytest.mark.parametrize(("data", "classes"), [("imagenet", 1000), ("cifar10", 10)])
def test_bundled_photos_have_labels(data: str, classes: int) -> None:
    pytest.importorskip("foolbox")
    found = read_photos(data)
    assert len(found) == 20
    assert all(one.label is not None and 0 <= one.label < classes for one in found)


def test_garments(tmp_path: Path) -> None:
    masks = np.zeros((2, 32, 32), dtype=bool)
    masks[:, 4:9, 5:30] = True
    images = np.arange(2 * 3 * 32 * 32).reshape(2, 3, 32, 32).astype(np.uint8)
    packed = np.packbits(masks, axis=-1)
    labels = np.array([7, 1], np.uint8)
    file = tmp_path / "test.npz"
    np.savez(file, images=images, masks=packed, labels=labels, backgrounds=labels)
    splits = {"test": {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}}
    manifest = {"schema": "guid-xmage/garments/1", "splits": splits}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    found = read_photos(str(tmp_path))
    assert [one.label for one in found] == [7, 1]
    view = draw_view(found[1], 0, 0)
    assert np.array_equal(np.asarray(view.image()), images[1].transpose(1, 2, 0))
    own = view.mask()
    assert own is not None
    assert np.array_equal(own, masks[1])


def test_views_are_decided_by_name_number_and_seed() -> None:
    one = photo(1)
    assert draw_view(one, 0, 3).image().tobytes() == one.read().tobytes()
    boxes = {draw_view(one, number, seed).box for number in (1, 2) for seed in (0, 1)}
    assert len(boxes) == 4
    again = [draw_view(one, 2, 0).image().tobytes() for _ in range(2)]
    assert again[0] == again[1]
    assert draw_view(replace(one, name="other"), 2, 0).image().tobytes() != again[0]
    order = [(p.name, number) for p, number in view_numbers([photo(0), photo(1)], 2)]
    assert order == [("photo 0", 0), ("photo 1", 0), ("photo 0", 1), ("photo 1", 1)]


def test_the_mask_goes_with_the_picture() -> None:
    disc = np.hypot(*np.mgrid[-30:70, -40:80]) < 25
    levels = np.repeat(255 * disc[:, :, None].astype(np.uint8), 3, axis=2)
    one = Photo("disc", lambda: Image.fromarray(levels), None, lambda: disc)
    seen = [draw_view(one, number, 0) for number in range(1, 9)]
    assert {view.mirrored for view in seen} == {True, False}
    for view in seen:
        mask = view.mask()
        assert mask is not None
        bright = np.asarray(view.image())[:, :, 0] > 127
        assert mask.shape == bright.shape
        assert (mask != bright).mean() < 0.01


def test_masks_pass_the_networks_crop() -> None:
    levels = np.zeros((40, 60, 3), dtype=np.uint8)
    levels[10:30, 20:50] = 255
    one = Photo("box", lambda: Image.fromarray(levels), None, lambda: levels[:, :, 0] > 0)
    own = replace(loaded(), preprocessing=Preprocessing(16, 12))
    subject = make_subject(own, torch.Size((3, 12, 12)), torch.float64)
    image, mask = read(subject.explainer, draw_view(one, 0, 0))
    assert mask is not None
    assert (mask == (image[0].numpy() > 0.5)).all()


# --- records -------------------------------------------------------------------------------------


def test_half_a_line_is_cut_off(tmp_path: Path) -> None:
    records = Records.open(tmp_path, "net")
    told = {"network": "net", "photo": "a", "method": "m", "made_from": "", "maps": {}}
    lines = [{**told, "view": n, "figures": {"x": 1}} for n in range(2)]
    for line in lines:
        records.add(line)
    with open(records.path, "ab") as file:
        file.write(b'{"photo": "a", "view": 2, "met')
    again = Records.open(tmp_path, "net")
    assert list(again.found.values()) == lines
    again.add({**lines[0], "view": 2})
    assert len(Records.open(tmp_path, "net").found) == 3


def test_a_folder_belongs_to_one_evaluation(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def claim(seed: int, where: Path = folder) -> None:
        with claimed(where, {"seed": seed}, ["a"]) as photos:
            assert photos == ["a"]

    with claimed(folder, {"seed": 0}, ["a"]):
        claim(0)
        with pytest.raises(InputError, match=r"other settings \(seed: "):
            claim(1)  # while a run is at work there
    claim(1)  # nothing came of the first
    (folder / "records").mkdir()
    (folder / "records" / "net.jsonl").write_text("a record\n")
    claim(1)
    with pytest.raises(InputError, match=r"other settings \(seed: "):
        claim(0)
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "thesis.tex").touch()
    with pytest.raises(InputError, match="something other"):
        claim(0, tmp_path / "else")


def line_of(file: Path, number: int) -> bytes:
    return file.read_bytes().splitlines()[number]


@pytest.mark.parametrize("how", ["figure", "half", "junk", "bytes", "empty", "nested"])
def test_damaged_lines_are_measured_again(tmp_path: Path, how: str) -> None:
    """A changed digit as well as junk; the report is as if nothing had happened."""
    folder = tmp_path / "run"
    whole = run(FEW, [PLANTED], [photo(n) for n in range(2)], "photos", folder)
    file = folder / "records" / "planted.jsonl"
    lines = file.read_bytes().splitlines()
    before = list(lines)
    lines[1] = {
        "figure": re.sub(rb'"score": (-?)\d', rb'"score": \g<1>9', lines[1]),
        "half": lines[1][:40],
        "junk": b'{"photo": 3}',
        "bytes": b"\xff\xfe\x00",
        "empty": b"",
        "nested": b"[" * 10_000,
    }[how]
    assert lines != before
    file.write_bytes(b"".join(line + b"\n" for line in lines))
    said: list[str] = []
    again = run(FEW, [PLANTED], [photo(n) for n in range(2)], "photos", folder, say=said.append)
    assert any("1 damaged lines are measured again" in line for line in said)
    assert again == whole
    assert sorted(file.read_bytes().splitlines()) == sorted(before)


def repainted(one: Photo, number: int) -> Photo:
    return replace(photo(number), name=one.name)


def test_a_changed_photo_or_mask_is_measured_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    photos = [photo(n) for n in range(3)]
    first = run(FEW, [PLANTED], photos, "photos", folder)["planted"]
    smaller = truth()
    smaller[:4] = False
    changed = [repainted(photos[0], 9), replace(photos[1], read_mask=lambda: smaller), photos[2]]
    again = run(FEW, [PLANTED], changed, "photos", folder)["planted"]
    assert [(r["photo"], r["method"]) for r in again] == [(r["photo"], r["method"]) for r in first]
    fresh = run(FEW, [PLANTED], changed, "photos", tmp_path / "fresh")["planted"]
    assert again == fresh
    assert [a == b for a, b in zip(first, again, strict=True)] == [False] * 6 + [True] * 3
    lines = (folder / "records" / "planted.jsonl").read_bytes().splitlines()
    assert len(lines) == 9, "no record stands twice"


def test_photos_may_be_added_and_removed(tmp_path: Path) -> None:
    """Numbers, records and maps of the others stay; the gone one's records are kept and said."""
    folder = tmp_path / "run"
    three = [photo(n) for n in range(3)]
    run(FEW, [PLANTED], three[1:], "photos", folder)
    before = files(folder)
    said: list[str] = []
    found = run(FEW, [PLANTED], three, "photos", folder, say=said.append)["planted"]
    assert not said
    assert [r["photo"] for r in found][::3] == ["photo 1", "photo 2", "photo 0"]
    after = files(folder)
    maps = [name for name in before if name.startswith("maps/")]
    assert maps
    assert all(after[name] == before[name] for name in maps)
    records = "records/planted.jsonl"
    assert after[records].startswith(before[records])
    rest = run(FEW, [PLANTED], three[:2], "photos", folder, say=said.append)["planted"]
    assert [r["photo"] for r in rest][::3] == ["photo 1", "photo 0"]
    assert said == ["the records of 1 photos that are gone are kept: photo 2"]
    assert files(folder)[records] == after[records]


@pytest.mark.parametrize("damage", ["gone", "cut", "bit"])
def test_damaged_maps_are_made_again(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "run"
    run(FEW, [PLANTED], [photo()], "photos", folder)
    before = files(folder)
    for name in ("0-image.npy", "0-random.npy"):
        file = folder / "maps" / "planted" / name
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(b"" if damage == "cut" else content)
        if damage == "gone":
            file.unlink()
    run(FEW, [PLANTED], [photo()], "photos", folder)
    found = files(folder)
    records = "records/planted.jsonl"
    assert sorted(found.pop(records).splitlines()) == sorted(before.pop(records).splitlines())
    assert found == before


def test_a_report_shows_damaged_maps_as_missing(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    records = run(FEW, [PLANTED], [photo()], "photos", tmp_path)
    (tmp_path / "maps" / "planted" / "0-random.npy").write_bytes(b"\x93NUMPY")
    report, _ = publish(tmp_path, FEW, records, [photo()], "Planted")
    assert report.is_file()


def test_the_report_does_not_shrink(tmp_path: Path) -> None:
    """A run with fewer methods, views and networks reports all that the folder has."""
    pytest.importorskip("matplotlib")
    photos = [photo(n) for n in range(2)]
    linear = nn.Sequential(nn.Flatten(), nn.Linear(432, 3))
    other = EvaluatedNetwork("other", lambda: loaded(linear))
    more = replace(FEW, views=2)
    whole = run(more, [PLANTED, other], photos, "photos", tmp_path)
    publish(tmp_path, more, whole, photos, "All")
    before = files(tmp_path)
    for fewer, asked in (
        (replace(FEW, methods=("random",), views=2), [PLANTED, other]),
        (replace(FEW, methods=("edges", "guid-xmage"), views=1), [other]),
    ):
        again = run(fewer, asked, photos, "photos", tmp_path)
        views = 2 * fewer.views * len(fewer.methods)
        assert {name: len(own) for name, own in again.items()} == {n.name: views for n in asked}
        publish(tmp_path, fewer, again, photos, "All")
        found = files(tmp_path)
        assert found["figures.csv"].count(b"\n") == before["figures.csv"].count(b"\n")
        if len(asked) == 2:
            assert found == before


def test_records_of_methods_that_are_not_known_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = replace(METHODS["edges"], name="mine")
    with monkeypatch.context() as patch:
        patch.setitem(METHODS, "mine", mine)
        run(replace(FEW, methods=("mine",)), [PLANTED], [photo()], "photos", tmp_path)
    said: list[str] = []
    found = run(FEW, [PLANTED], [photo()], "photos", tmp_path, say=said.append)["planted"]
    assert [r["method"] for r in found] == list(FEW.methods)
    assert any("methods that are not known here: mine" in line for line in said)


def test_two_runs_share_a_folder_without_double_records(tmp_path: Path) -> None:
    """Two networks, two runs that begin with the same one: each measures one of them."""
    photos = [photo(n) for n in range(2)]
    loads: list[str] = []
    ready = threading.Barrier(2, timeout=30)

    def network(name: str) -> EvaluatedNetwork:
        def load() -> object:
            loads.append(name)
            if len(loads) <= 2:
                ready.wait()
            return replace(loaded(), name=name)

        return EvaluatedNetwork(name, load)

    networks = [network("one"), network("two")]
    found: dict[int, object] = {}

    def work(number: int) -> None:
        found[number] = run(FEW, networks, photos, "photos", tmp_path / "run")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(loads[:2]) == ["one", "two"]
    assert found[0] == found[1] == run(FEW, networks, photos, "photos", tmp_path / "alone")
    for name in ("one", "two"):
        lines = (tmp_path / "run" / "records" / f"{name}.jsonl").read_bytes().splitlines()
        assert len(lines) == 6
    assert not list(tmp_path.rglob(".guid-xmage*"))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": "guid-xmage/evaluation/1"}'])
def test_a_damaged_folder_is_a_sentence(tmp_path: Path, text: str) -> None:
    run(FEW, [PLANTED], [photo()], "photos", tmp_path)
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(InputError, match=r"evaluation\.json is damaged.*choose another folder"):
        run(FEW, [PLANTED], [photo()], "photos", tmp_path)


def test_other_code_data_or_versions_need_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(FEW, [PLANTED], [photo()], "photos", tmp_path)

    class Changed(Planted):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    with pytest.raises(InputError, match="other weights, or with other code"):
        run(
            FEW,
            [EvaluatedNetwork("planted", lambda: loaded(Changed()))],
            [photo()],
            "photos",
            tmp_path,
        )
    with pytest.raises(InputError, match=r"other settings \(data: "):
        run(FEW, [PLANTED], [photo()], "others", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("guidxmage.provenance.fingerprint.__version__", "0.0.1")
        with pytest.raises(InputError, match=r"other settings \(versions: .*0\.0\.1"):
            run(FEW, [PLANTED], [photo()], "photos", tmp_path)
    (tmp_path / "records" / "planted.sha256").unlink()
    with pytest.raises(InputError, match="is missing, which says of which network"):
        run(FEW, [PLANTED], [photo()], "photos", tmp_path)


def test_photos_in_folders_are_told_by_their_bytes(tmp_path: Path) -> None:
    for name in ("photos", "masks"):
        (tmp_path / name).mkdir()
        Image.new("L", (6, 6), 255).save(tmp_path / name / "a.png")

    def found() -> str:
        (one,) = read_photos(str(tmp_path / "photos"), masks=tmp_path / "masks")
        return one.fingerprint()

    seen = [found()]
    for name in ("photos", "masks"):
        Image.new("L", (6, 6), 1).save(tmp_path / name / "a.png")
        seen.append(found())
    (without,) = read_photos(str(tmp_path / "photos"))
    seen.append(without.fingerprint())
    assert len(set(seen)) == 4


# --- intervals -----------------------------------------------------------------------------------


def test_the_bootstrap_draws_photos_not_views() -> None:
    mixed = {"a": [1.0], "b": [0.0], "c": [1.0], "d": [0.0]}
    once = estimate(mixed, 0, "x")
    often = estimate({name: values * 50 for name, values in mixed.items()}, 0, "x")
    assert once is not None
    assert often is not None
    assert (once.mean, once.low, once.high) == (often.mean, often.low, often.high)
    assert (once.views, often.views, often.photos) == (4, 200, 4)
    assert once.low <= 0.25
    assert once.high >= 0.75
    same = estimate({"a": [1.0] * 3, "b": [1.0]}, 0, "x")
    assert same is not None
    assert (same.mean, same.low, same.high) == (1, 1, 1)
    assert estimate({"a": []}, 0, "x") is None


def test_shares_on_which_all_photos_agree_have_the_interval_of_wilson() -> None:
    """n / (n + z²) to 1, with n photos however many views they have."""
    z = 1.959963984540054
    for count in (1, 2, 20):
        own = {str(n): [1.0] * (n + 1) for n in range(count)}
        found = estimate(own, 0, "x", share=True)
        assert found is not None
        assert (found.mean, found.high) == (1, 1)
        assert math.isclose(found.low, count / (count + z * z), rel_tol=1e-12)
        none = estimate({name: [0.0] for name in own}, 0, "x", share=True)
        assert none is not None
        assert (none.mean, none.low) == (0, 0)
        assert math.isclose(none.high, z * z / (count + z * z), rel_tol=1e-12)
    half = estimate({"a": [0.5], "b": [0.5]}, 0, "x", share=True)
    assert half is not None
    assert (half.low, half.high) == (0.5, 0.5)
    mixed = {"a": [1.0, 1.0], "b": [1.0, 0.0]}
    assert estimate(mixed, 0, "x", share=True) == estimate(mixed, 0, "x")


def test_percentages_are_shares() -> None:
    made = [
        {
            "photo": str(n),
            "view": 0,
            "method": "guid-xmage",
            "layer": "",
            "figures": {"path": True, "spearman": 1.0},
        }
        for n in range(4)
    ]
    (row,) = rows({"net": made}, 0)
    assert 0.5 < row.figures["path"].low < 0.6
    assert row.figures["spearman"].low == 1


def test_an_interval_by_hand() -> None:
    """Of two photos, views 0 and 1, 1, 1: both, or one twice; a quarter of the draws is all 0."""
    found = estimate({"a": [0.0], "b": [1.0] * 3}, 0, "x")
    assert found is not None
    assert (found.mean, found.low, found.high) == (0.75, 0.0, 1.0)
    alone = estimate({"a": [0.0, 1.0], "b": []}, 0, "x")
    assert alone is not None
    assert (alone.mean, alone.low, alone.high, alone.photos) == (0.5, 0.5, 0.5, 1)


def test_an_interval_is_that_of_sums_and_counts_drawn_together() -> None:
    draws = np.random.default_rng(1)
    photos = {str(n): draws.normal(size=int(draws.integers(1, 9))).tolist() for n in range(12)}
    found = estimate(photos, 5, "x")
    assert found is not None
    generator = np.random.default_rng([5, zlib.crc32(b"x")])
    means = []
    for drawn in generator.integers(12, size=(2000, 12)):
        means.append(np.mean([value for one in drawn for value in photos[str(one)]]))
    assert (found.low, found.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=1e-12)


def test_intervals_cover() -> None:
    """Of 200 samples of 40 normal values, about 95 % have the true mean in their interval."""
    draws = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        found = estimate({str(n): [value] for n, value in enumerate(draws.normal(size=40))}, 0, "x")
        assert found is not None
        hits += found.low <= 0 <= found.high
    assert 0.89 <= hits / 200 <= 0.99


# --- the run -------------------------------------------------------------------------------------


def test_ours_is_right_and_controls_are_not(tmp_path: Path) -> None:
    settings = replace(FEW, views=3, target="label")
    records = run(settings, [PLANTED], [photo(n) for n in range(8)], "photos", tmp_path / "run")
    found = {row.method: row for row in rows(records, 0)}
    assert found["guid-xmage"].figures["path"].mean == 1
    assert found["guid-xmage"].figures["path_negative"].mean == 1
    assert found["guid-xmage"].views == 24
    assert found["guid-xmage"].undecided == 0
    assert found["random"].figures["path_negative"].mean < 1
    assert "path_negative" not in found["edges"].figures
    for record in records["planted"]:
        change, predicted = record["figures"]["change"], record["figures"]["predicted"]
        assert change == pytest.approx(predicted, abs=1e-6)
    text = paper_table(list(found.values()))
    assert "| guid-Xmage | 100.0 [67.6, 100.0] |" in text  # of eight photos, by Wilson


@pytest.mark.parametrize("name", ["alexnet", "vgg8", "resnet20"])
def test_ours_is_right_on_every_small_network(name: str, tmp_path: Path) -> None:
    def load() -> object:
        return replace(loaded(networks.build(name, 10, width=0.25, seed=1)), name=name)

    draws = np.random.default_rng(5).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    photos = [Photo(str(n), partial(Image.fromarray, draws[n])) for n in range(3)]
    settings = replace(FEW, methods=("guid-xmage",), measures=("directional", "completeness"))
    records = run(settings, [EvaluatedNetwork(name, load)], photos, "noise", tmp_path / "run")
    (row,) = rows(records, 0)
    assert row.figures["path"].mean == row.figures["path_negative"].mean == 1
    assert row.figures["gap"].mean < 1e-4


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    photos = [photo(n) for n in range(2)]
    for folder in ("one", "two"):
        records = run(FEW, [PLANTED], photos, "photos", tmp_path / folder)
        publish(tmp_path / folder, FEW, records, photos, "Planted")
    one, two = (files(tmp_path / folder) for folder in ("one", "two"))
    assert one == two
    assert {"REPORT.md", "report.html", "figures.csv", "figures.json"} <= set(one)
    other = run(replace(FEW, seed=1), [PLANTED], photos, "photos", tmp_path / "other")
    assert other["planted"][1]["figures"] != records["planted"][1]["figures"]


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_what_is_there_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(FEW, [PLANTED], [photo()], "photos", tmp_path / "run")

    def fail(*_: object) -> Tensor:
        raise AssertionError("measured again")

    with monkeypatch.context() as patch:
        for name in FEW.methods:
            patch.setitem(METHODS, name, replace(METHODS[name], attribute=fail))
        assert len(run(FEW, [PLANTED], [photo()], "photos", tmp_path / "run")["planted"]) == 3
    # A method more is measured, and stands where the settings put it.
    more = replace(FEW, methods=("input-x-gradient", *FEW.methods))
    found = run(more, [PLANTED], [photo()], "photos", tmp_path / "run")["planted"]
    assert [record["method"] for record in found] == list(more.methods)
    other = Planted()
    with torch.no_grad():
        other.head.bias[0] += 1
    changed = EvaluatedNetwork("planted", lambda: loaded(other))
    with pytest.raises(InputError, match="other weights"):
        run(FEW, [changed], [photo()], "photos", tmp_path / "run")
    with pytest.raises(InputError, match="two networks have the same name"):
        run(FEW, [PLANTED, PLANTED], [photo()], "photos", tmp_path / "run")
    with pytest.raises(InputError, match=r"other settings \(target: "):
        run(replace(FEW, target="label"), [PLANTED], [photo()], "photos", tmp_path / "run")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def hooked(subject: object, image: Tensor, target: int, seed: int) -> Tensor:
        subject.whole.network.conv.register_forward_hook(lambda *_: torch.zeros(1))  # type: ignore[attr-defined]
        raise RuntimeError("no rule for this layer\nmore")

    method = Method("broken", "broken method", "nobody", hooked, signed=True)
    monkeypatch.setitem(METHODS, "broken", method)


@pytest.mark.usefixtures("broken")
def test_a_failing_library_is_reported_and_nothing_else_suffers(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    settings = replace(FEW, methods=("broken", "guid-xmage"), measures=("directional", "curves"))
    records = run(settings, [PLANTED], [photo()], "photos", tmp_path / "run")
    assert records["planted"][0]["failed"] == "RuntimeError: no rule for this layer"
    assert records["planted"][1]["figures"]["path"] is True
    assert "errors" not in records["planted"][1]  # the hook that was left behind is off
    report, _ = publish(tmp_path / "run", settings, records, [photo()], "Planted")
    text = report.read_text()
    assert "broken method (nobody) failed on 1 view: `RuntimeError: no rule for this layer`" in text
    assert "| broken method | failed |" in text


def test_slow_methods_see_fewer_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = replace(METHODS["random"], passes=lambda _: 100)
    monkeypatch.setitem(METHODS, "random", slow)
    settings = replace(FEW, views=2, pixels=100 * SIDE * SIDE * 3)
    records = run(settings, [PLANTED], [photo(n) for n in range(3)], "photos", tmp_path / "run")
    counts = {row.method: row.views for row in rows(records, 0)}
    assert counts == {"guid-xmage": 6, "random": 3, "edges": 6}


def test_the_page_stands_alone(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    settings = replace(FEW, measures=("directional", "curves"))
    records = run(settings, [PLANTED], [photo()], "photos", tmp_path / "run")
    publish(tmp_path / "run", settings, records, [photo()], "Maps & <measures>")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<title>Maps &amp; &lt;measures&gt;</title>" in page
    assert page.count("<img") == 2
    assert all(
        src.startswith("data:image/png;base64,") for src in re.findall(r'src="([^"]*)', page)
    )
    assert "http" not in re.sub(r'src="[^"]*"', "", page)
    stated = json.loads((tmp_path / "run" / "figures.json").read_text())
    assert stated["rows"][0]["figures"]["path"]["mean"] == 1.0


def test_the_preset_says_what_it_could_not_have(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("foolbox")

    def load(_: TablePart, name: str) -> EvaluatedNetwork:
        if name == "absent":
            raise InputError("its weights could not be downloaded")
        colours = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 3))
        return EvaluatedNetwork(name, lambda: loaded(colours))

    part = TablePart("small", "Small ones", ("one", "absent"), "cifar10", 2, FEW)
    report, found = evaluate_table1([part], load, tmp_path, lambda *_: lambda: None)
    text = report.read_text()
    assert "`absent` was not evaluated: its weights could not be downloaded." in text
    assert "| interpretive accuracy, % | one |" in text
    assert "guid-Xmage 100, 100 and 100" in text
    assert [row.network for row in found] == ["one"] * 3
    assert (tmp_path / "small" / "REPORT.md").is_file()


def test_the_presets_parts() -> None:
    assert [part.name for part in parts(None)] == ["imagenet", "imagenet-more"]
    everything = parts(Path("garments"))
    assert everything[-1].networks == ("alexnet", "vgg8", "resnet20")
    assert everything[0].limit * everything[0].settings.views == 200


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("matplotlib")
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "photos").mkdir()
    for number in range(4):
        photo(number).read().resize((24, 24)).save(tmp_path / "photos" / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["evaluate", *arguments])


def test_the_command(folder: Path) -> None:
    chosen = ["--methods", "guid-xmage,random", "--measures", "directional"]
    result = command("photos", "--model", "net.py:build", *chosen)
    assert result.exit_code == 0, result.output
    assert "evaluation/REPORT.md" in result.output
    result = command("photos", "--model", "net.py:build", *chosen, "--json")
    assert json.loads(result.stdout)[0]["figures"]["path"]["mean"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["photos", "--methods", "gradcam"],
            "--methods holds 'gradcam', which is no method; did you mean grad-cam?",
        ),
        (
            ["photos", "--measures", "taste"],
            "--measures holds 'taste', which is no measure; choose from",
        ),
        (["nowhere"], "nowhere is neither a file nor a folder"),
        (["photos", "--limit", "0"], "--limit is 0; give a number"),
        (["photos", "--views", "0"], "--views is 0; give a whole number from 1 to 10000"),
        (["photos", "--methods", ","], "--methods holds '', which is no method"),
        (["photos", "--methods", "random,random"], "--methods holds 'random' twice"),
        (["photos", "--all-views", "edges", "--methods", "random"], "--all-views holds 'edges'"),
        (["photos", "--part", "garments"], "--part goes with --preset table1"),
        (["--preset", "table1", "--measures", "cost"], "--measures does not go with --preset"),
        (["--preset", "table1", "--model", "vgg16=no.pth"], "there is no weight file no.pth"),
        (["--preset", "table1", "--model", "vgg19=no.pth"], "for one of alexnet, efficientnet"),
        (["photos", "--model", "alexnut"], "did you mean alexnet"),
        (["photos", "--model", "alexnet=no.pth"], "there is no weight file no.pth"),
        (["photos", "--model", "net.py:biuld"], "has no 'biuld'"),
        (["photos", "--model", "net.py:build", "--target", "label"], "is not known; explain top1"),
        (["photos", "--model", "photos"], "no part of an experiment"),
        (["--preset", "table2"], "there is table1"),
        (["--preset", "table1", "--trained", "x"], "--trained and --garments go together"),
    ],
)
def test_bad_input_is_one_sentence(folder: Path, arguments: list[str], sentence: str) -> None:
    result = command(*arguments)
    assert result.exit_code == 2
    assert sentence in result.output
    assert "Traceback" not in result.output


def test_a_killed_run_goes_on_and_ends_alike(folder: Path) -> None:
    """The report after SIGKILL and a second start is that of a run in one go, byte for byte."""
    options = ["--model", "net.py:build", "--methods", "guid-xmage,random,edges", "--views", "20"]
    whole = command("photos", *options, "--out", "whole")
    assert whole.exit_code == 0, whole.output
    line = [
        sys.executable,
        "-m",
        "guidxmage.cli",
        "evaluate",
        "photos",
        *options,
        "--out",
        "killed",
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = subprocess.Popen(line, **quiet)
    records = folder / "killed" / "records" / "build.jsonl"
    wait_until(lambda: records.is_file() and records.read_bytes().count(b"\n") > 10)
    started.send_signal(signal.SIGKILL)
    started.wait()
    done = records.read_bytes().count(b"\n")
    assert 10 < done < 240, "killed too late to show anything"
    assert not (folder / "killed" / "REPORT.md").exists()
    (records.parent / ".half-a-map.npy.1.partial").touch()
    again = command("photos", *options, "--out", "killed")
    assert again.exit_code == 0, again.output
    assert files(folder / "killed") == files(folder / "whole")


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the run did not get going"
        time.sleep(0.005)


def test_networks_that_hardening_trained(tmp_path: Path) -> None:
    from guidxmage.hardening.training.trained import load_trained

    save_file = pytest.importorskip("safetensors.torch").save_file
    network = networks.build("vgg8", 7, width=0.1, seed=3)
    unit = tmp_path / "vgg8-0" / "plain"
    unit.mkdir(parents=True)
    (tmp_path / "experiment.json").write_text('{"networks": ["alexnet", "vgg8"], "width": 0.1}')
    save_file(network.state_dict(), unit / "final.safetensors")
    found = load_trained(unit)
    assert found.name == "vgg8"
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(found.model(x), network.eval()(x))
    with pytest.raises(InputError, match="no part of an experiment"):
        load_trained(tmp_path)


def test_the_users_network_is_left_alone(tmp_path: Path) -> None:
    network = Planted().eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    settings = replace(FEW, methods=("guid-xmage", "input-x-gradient", "grad-cam"))
    for package in ("captum", "cv2"):
        pytest.importorskip(package)
    run(
        settings,
        [EvaluatedNetwork("planted", lambda: loaded(network))],
        [photo()],
        "x",
        tmp_path / "run",
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in network.modules())


def test_a_network_without_convolutions_has_no_cam(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 3))
    settings = replace(FEW, methods=("guid-xmage", "grad-cam"))
    found = run(
        settings,
        [EvaluatedNetwork("linear", lambda: loaded(linear))],
        [photo()],
        "x",
        tmp_path / "r",
    )
    assert found["linear"][0]["figures"]["path"] is True
    assert "no convolution" in found["linear"][1]["failed"]
