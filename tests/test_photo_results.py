"""Results of photos: which folder is whose, what is kept, what is made anew, what is refused."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from guidxmage.errors import InputError
from guidxmage.files.atomic import alone
from guidxmage.files.result_folder import PROVENANCE, Kind, write_mark
from guidxmage.jobs.photo_results import Outcome, PhotoResults, Write
from tests.test_cli import NETWORK, folder, run, save_photo  # noqa: F401, the fixture of its name

KIND = Kind(("guid-xmage/test/1",))


def results(
    photos: list[Path],
    out: Path,
    *,
    made: list[Path] | None = None,
    network: str = "n",
    hold: Callable[[Path], None] = lambda _: None,
    **options: Any,
) -> list[Outcome]:
    """Results that hold a photo's bytes, without a network."""

    def depends(photo: Path) -> dict[str, Any]:
        if not photo.is_file():
            raise InputError(f"{photo} does not exist")
        return {"photo": photo.read_bytes().hex(), "network": network}

    def make(photo: Path) -> Write:
        content = photo.read_bytes()
        hold(photo)
        if content == b"bad":
            raise InputError(f"{photo} is bad")
        if made is not None:
            made.append(photo)

        def write(new: Path, provenance: Mapping[str, Any]) -> dict[str, Any]:
            (new / "content").write_bytes(content)
            return write_mark(new, {"schema": KIND.schemas[0], PROVENANCE: dict(provenance)})

        return write

    return list(PhotoResults(out, KIND, **options).each(photos, depends, make))


def photos(root: Path, *names: str) -> list[Path]:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(os.fsencode(name))
    return [root / name for name in names]


def names(outcomes: list[Outcome]) -> list[str]:
    assert not [outcome.error for outcome in outcomes if outcome.error]
    return [outcome.folder.name for outcome in outcomes if outcome.folder]


# --- names ---------------------------------------------------------------------------------------

ALIKE = ["a/x.jpg", "b/x.jpg", "x.png", "x.jpg", "X.png", "c/x .png", "d/.x.png", "e/x.tar.png"]


def test_photos_of_one_name_do_not_meet(tmp_path: Path) -> None:
    given = photos(tmp_path, *ALIKE)
    first = names(results(given, tmp_path / "out"))
    assert first[0] == "x"
    assert len({name.casefold() for name in first}) == len(ALIKE)
    for photo, name in zip(given, first, strict=True):
        assert (tmp_path / "out" / name / "content").read_text() == str(photo.relative_to(tmp_path))
    made: list[Path] = []
    for order in (given[::-1], given[3:], given[:1]):
        again = results(order, tmp_path / "out", made=made)
        assert names(again) == [first[given.index(photo)] for photo in order]
    assert not made


def test_adding_and_removing_photos_renames_nothing(tmp_path: Path) -> None:
    given = photos(tmp_path, *ALIKE)
    out = tmp_path / "out"
    some = [given[2], given[5]]
    kept = dict(zip(some, names(results(some, out)), strict=True))
    grown = dict(zip(given, names(results(given, out)), strict=True))
    assert kept == {photo: grown[photo] for photo in kept}
    shutil.rmtree(out / grown[given[2]])  # the plain name is free again
    rest = [photo for photo in given if photo != given[2]]
    assert names(results(rest, out)) == [grown[photo] for photo in rest]
    assert names(results([given[2]], out)) == [grown[given[2]]]


def test_a_photo_is_told_by_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photo,) = photos(tmp_path, "p/a/x.jpg")
    results([photo], tmp_path / "p" / "out")
    monkeypatch.chdir(photo.parent)
    for way, out in ((Path("x.jpg"), Path("../out")), (Path("../a/x.jpg"), tmp_path / "p/out")):
        (outcome,) = results([way], out)
        assert outcome.resumed
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p").rename(tmp_path / "q")
    (outcome,) = results([Path("q/a/x.jpg")], Path("q/out"))
    assert outcome.resumed, "photo and results may be moved together"


@pytest.mark.parametrize(
    "name",
    ["...png", "..png", ". .png", "con.png", "a\nb.png", "\udcff.png", "q" * 246 + ".png",
     "é" * 123 + ".png", "tail. .png", "-rf.png", "a\u202eb.png", "..%2f.png", "~.png"],
)  # fmt: skip
def test_odd_names_stay_inside(tmp_path: Path, name: str) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "thesis.txt").write_text("years")
    given = photos(tmp_path / "w", name, f"b/{name}")
    found = names(results(given, tmp_path / "w" / "out"))
    assert sorted(found) == sorted(os.listdir(tmp_path / "w" / "out"))
    assert names(results(given, tmp_path / "w" / "out")) == found
    assert (tmp_path / "w" / "thesis.txt").read_text() == "years"
    assert {path.name for path in (tmp_path / "w").iterdir()} == {"thesis.txt", "b", "out", name}


def test_what_has_a_photos_name_but_is_no_result_is_refused(tmp_path: Path) -> None:
    given = photos(tmp_path, "x.png", "y.png", "z.png")
    out = tmp_path / "out"
    (out / "x").mkdir(parents=True)
    (out / "x" / "thesis.txt").write_text("years")
    (out / "y").write_text("years")
    found = results(given, out)
    assert [outcome.error is None for outcome in found] == [False, False, True]
    assert "x exists and holds something other than an earlier result" in str(found[0].error)
    assert (out / "x" / "thesis.txt").read_text() == (out / "y").read_text() == "years"


def test_results_of_other_kinds_are_gone_round(tmp_path: Path) -> None:
    (photo,) = photos(tmp_path, "x.png")
    (tmp_path / "out" / "x").mkdir(parents=True)
    write_mark(tmp_path / "out" / "x", {"schema": "guid-xmage/other/1"})
    (name,) = names(results([photo], tmp_path / "out"))
    assert name.startswith("x-")
    assert os.listdir(tmp_path / "out" / "x") == ["manifest.json"]


# --- keeping -------------------------------------------------------------------------------------


def test_only_what_changed_is_made_anew(tmp_path: Path) -> None:
    given, out = photos(tmp_path, "a.png", "b.png"), tmp_path / "out"
    results(given, out)
    given[0].write_text("another picture")
    made: list[Path] = []
    found = results(given, out, made=made)
    assert [outcome.resumed for outcome in found] == [False, True]
    assert found[0].changed == ("photo",)
    assert names(found) == ["a", "b"]
    assert made == [given[0]]
    assert [one.changed for one in results(given, out, network="m")] == [("network",)] * 2
    assert not any(one.resumed for one in results(given, out, network="m", overwrite=True))


@pytest.mark.parametrize("damage", ["gone", "changed", "cut", "manifest", "all"])
def test_damaged_results_are_made_again_or_refused(tmp_path: Path, damage: str) -> None:
    (photo,) = photos(tmp_path, "a.png")
    out = tmp_path / "out"
    results([photo], out)
    file, mark = out / "a" / "content", out / "a" / "manifest.json"
    whole = file.read_bytes()
    if damage == "gone":
        file.unlink()
    elif damage == "changed":
        file.write_text("my own notes")
    elif damage == "cut":
        file.write_bytes(whole[:2])
    elif damage == "manifest":
        mark.write_text(mark.read_text()[:-20])
    else:
        shutil.rmtree(out / "a")
    left = file.read_bytes() if file.exists() else None
    (outcome,) = results([photo], out)
    assert not outcome.resumed
    if damage in ("gone", "all"):
        assert outcome.error is None
        assert file.read_bytes() == whole
        return
    words = "is damaged or of something other" if damage == "manifest" else "was changed after"
    assert words in str(outcome.error)
    assert file.read_bytes() == left
    (outcome,) = results([photo], out, overwrite=True)
    assert (outcome.error is None) == (damage != "manifest")


def test_bad_and_missing_photos_are_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    given = photos(tmp_path, "a.png", "b.png", "c.png")
    given[1].write_bytes(b"bad")
    found = results([*given, tmp_path / "none.png"], tmp_path / "out")
    assert [one.error is None for one in found] == [True, False, True, False]
    assert sorted(os.listdir(tmp_path / "out")) == ["a", "c"]


def test_a_photo_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    (photo,) = photos(tmp_path, "a.png")
    (outcome,) = results([photo], tmp_path / "out", hold=lambda one: one.write_text("new") and None)
    assert "changed meanwhile" in str(outcome.error)
    assert os.listdir(tmp_path / "out") == []


def test_two_runs_share_the_photos(tmp_path: Path) -> None:
    """Each photo is worked on once, also where both begin with the same one."""
    given, out = photos(tmp_path, *(f"{n}.png" for n in range(6))), tmp_path / "out"
    made: list[Path] = []
    both_in = threading.Barrier(2, timeout=20)
    first = {}

    def hold(photo: Path) -> None:
        if threading.get_ident() not in first:
            first[threading.get_ident()] = photo
            both_in.wait()  # until the other one is at a photo, too

    found: dict[int, list[Outcome]] = {}
    threads = [
        threading.Thread(
            target=lambda n=n: found.update({n: results(given, out, made=made, hold=hold)})
        )
        for n in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == sorted(given)
    assert len(set(first.values())) == 2
    for outcomes in found.values():
        assert sorted(names(outcomes)) == [str(n) for n in range(6)]
    assert sorted(os.listdir(out)) == [str(n) for n in range(6)]


def test_another_run_is_waited_for_and_that_is_said(tmp_path: Path) -> None:
    (photo,) = photos(tmp_path, "a.png")
    out = tmp_path / "out"
    said: list[str] = []
    released = threading.Event()

    def keep() -> None:
        with alone(out / "a"):
            held.set()
            released.wait(20)

    held = threading.Event()
    other = threading.Thread(target=keep)
    other.start()
    held.wait(20)

    def say(text: str) -> None:
        said.append(text)
        released.set()

    (outcome,) = results([photo], out, say=say)
    other.join()
    assert outcome.error is None
    assert said == [f"waiting for another run, which is at {photo}"]


def test_results_whose_photo_is_gone_are_told(tmp_path: Path) -> None:
    given, out = photos(tmp_path, "p/a.png", "p/b.png", "q/c.png"), tmp_path / "out"
    results(given, out)
    (out / "thesis").mkdir()
    for photo in (given[0], given[2]):
        photo.unlink()
    here = PhotoResults(out, KIND)
    assert here.gone([tmp_path / "p"]) == [out / "a"]
    assert here.gone([tmp_path]) == [out / "a", out / "c"]
    assert here.gone([given[1]]) == []
    assert here.gone([tmp_path / "elsewhere"]) == []


# --- the commands --------------------------------------------------------------------------------

COMMANDS = {
    "explain": ("--objects", "none"),
    "attack": ("--budget", "8"),
}


def command(name: str, *arguments: str) -> Any:
    options = [] if "--objects" in arguments else list(COMMANDS[name])
    model = [] if "--model" in arguments else ["--model", "net.py:build"]
    return run(name, *arguments, *options, *model, "--out", "r")


def stamps(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_keep_what_is_there_and_say_so(name: str, folder: Path) -> None:  # noqa: F811
    for photo in ("a/x.png", "b/x.png"):
        (folder / photo).parent.mkdir()
        save_photo(folder / photo)
    first = command(name, "a", "b")
    assert first.exit_code == 0, first.stderr
    assert "kept" not in first.stdout
    before = stamps(folder / "r")
    again = command(name, "a", "b")
    assert again.stdout.count("(kept from an earlier run)") == 2
    assert stamps(folder / "r") == before
    as_json = command(name, "a", "b", "--json")
    assert [entry["photo"] for entry in json.loads(as_json.stdout)] == ["a/x.png", "b/x.png"]
    assert "2 of 2 results were kept" in as_json.stderr
    insisted = command(name, "a/x.png", "--overwrite")
    assert "kept" not in insisted.stdout
    changed = {path for path, stamp in stamps(folder / "r").items() if stamp != before[path]}
    assert {Path(path).parent for path in changed} == {Path(folder / "r/x")}
    assert not list(folder.rglob(".guid-xmage*"))


def rewritten(folder: Path, **_: Any) -> tuple[str, ...]:  # noqa: F811
    (folder / "net.py").write_text(NETWORK.replace("96, 4", "96, 4, bias=False"))
    return ()


def reweighted(folder: Path, **_: Any) -> tuple[str, ...]:  # noqa: F811
    weights = torch.load(folder / "w.pth")
    torch.save({name: 2 * tensor for name, tensor in weights.items()}, folder / "w.pth")
    return ()


def masked(folder: Path, **_: Any) -> tuple[str, ...]:  # noqa: F811
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[:, 3:30] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    return ()


def repainted(folder: Path, **_: Any) -> tuple[str, ...]:  # noqa: F811
    with Image.open(folder / "photo.png") as photo:
        pixels = np.array(photo)
    Image.fromarray(255 - pixels).save(folder / "photo.png")
    return ()


def emptied(folder: Path, **_: Any) -> tuple[str, ...]:  # noqa: F811
    (folder / "r" / "photo" / "figure.png").unlink()
    return ()


def other_dtype(folder: Path, **_: Any) -> tuple[str, ...]:  # noqa: F811
    return ("--dtype", "float64")


def other_target(folder: Path, **_: Any) -> tuple[str, ...]:  # noqa: F811
    return ("--target", "2")


WEIGHED = """
import torch
from net import build as plain

def build():
    network = plain()
    network.load_state_dict(torch.load("w.pth"))
    return network
"""


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    "change", [rewritten, reweighted, masked, repainted, emptied, other_dtype, other_target]
)
def test_commands_notice_what_changed(
    name: str,
    change: Callable[..., tuple[str, ...]],
    folder: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(__import__("sys").modules, "net", raising=False)
    (folder / "weighed.py").write_text(WEIGHED)
    namespace: dict[str, Any] = {}
    exec(NETWORK, namespace)
    torch.save(namespace["build"]().state_dict(), folder / "w.pth")
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[:, 5:30] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    option = "--objects" if name == "explain" else "--mask"
    model = "weighed.py:build" if change is reweighted else "net.py:build"
    own = ["photo.png", "--model", model, option, "mask.png"]
    own += [] if name == "explain" else list(COMMANDS[name])
    first = command(name, *own)
    assert first.exit_code == 0, first.stderr
    assert "kept" in command(name, *own).stdout
    extra = change(folder)
    again = command(name, *own, *extra)
    assert again.exit_code == 0, again.stderr
    assert "kept" not in again.stdout
    assert (folder / "r" / "photo" / "figure.png").is_file()
    assert "kept" in command(name, *own, *extra).stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_go_on_after_missing_photos(name: str, folder: Path) -> None:  # noqa: F811
    (folder / "empty").mkdir()
    result = command(name, "none.png", "photo.png", "empty")
    assert result.exit_code == 2
    assert "none.png does not exist" in result.stderr
    assert "empty holds no images" in result.stderr
    assert "2 of 3 photos failed" in result.stderr
    assert "photo.png → r/photo/" in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_leave_out_their_own_pictures(name: str, folder: Path) -> None:  # noqa: F811
    for _ in range(2):
        result = command(name, ".")
        assert result.exit_code == 0, result.stderr
        assert result.stdout.count("→ r/") == 1
    table = {"index.csv"} if name == "explain" else set()
    assert {path.name for path in (folder / "r").iterdir()} == {"photo"} | table


def test_results_may_lie_among_the_photos(folder: Path) -> None:  # noqa: F811
    """Photos that lie where the results go are explained, the results' pictures are not."""
    (folder / "sub").mkdir()
    save_photo(folder / "sub" / "deep.png")
    for _ in range(2):
        result = run("explain", ".", "--model", "net.py:build", "--objects", "none", "--out", ".")
        assert result.exit_code == 0, result.stderr
        assert result.stdout.count("→") == 2
    assert {path.name for path in folder.iterdir() if path.is_dir()} - {"__pycache__"} == {
        "sub",
        "deep",
        "photo",
    }
    own = run("explain", "photo/saliency.png", "--model", "net.py:build", "--objects", "none")
    assert own.exit_code == 0, own.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_remove_nothing_of_others(name: str, folder: Path) -> None:  # noqa: F811
    """The folder of an earlier result in which somebody keeps a thesis."""
    command(name, "photo.png")
    (folder / "r" / "photo" / "thesis.txt").write_text("years")
    save_photo(folder / "photo.png", (44, 33))
    for more in ((), ("--overwrite",)):
        result = command(name, "photo.png", *more)
        assert result.exit_code == 2
        assert "holds thesis.txt beside an earlier result" in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
        assert (folder / "r" / "photo" / "thesis.txt").read_text() == "years"


def test_gone_photos_are_said(folder: Path) -> None:  # noqa: F811
    (folder / "p").mkdir()
    for name in ("a.png", "b.png"):
        save_photo(folder / "p" / name)
    command("explain", "p")
    (folder / "p" / "a.png").unlink()
    result = command("explain", "p")
    assert result.exit_code == 0
    assert "kept, though the photo is gone: r/a" in result.stderr
    assert (folder / "r" / "a" / "manifest.json").is_file()


def test_odd_names_are_printed_on_one_line(folder: Path) -> None:  # noqa: F811
    name = "new\nline\x1b[31m\udcff.png"
    save_photo(folder / "p.png")
    os.rename(folder / "p.png", folder / name)
    (folder / "bad\n.png").write_bytes(b"no picture")
    result = command("explain", name, "bad\n.png")
    assert result.exit_code == 2
    assert "\x1b" not in result.stdout + result.stderr
    assert "new\\nline\\x1b[31m\\udcff.png → r/new_line_[31m_/" in result.stdout
    assert "bad\\n.png is not an image" in result.stderr


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["ray", "photo.png", "b.png"], ["ray", "photo.png", "c.png"]),
        (["trails", "photo.png", "b.png"], ["trails", "photo.png", "c.png"]),
    ],
)
def test_one_folder_for_some_photos_is_not_anothers(
    first: list[str],
    second: list[str],
    folder: Path,  # noqa: F811
) -> None:
    for name in ("b.png", "c.png"):
        save_photo(folder / name)
    model = ["--model", "net.py:build"]
    assert run(*first, *model).exit_code == 0
    assert run(*first, *model).exit_code == 0
    before = stamps(folder / first[0])
    refused = run(*second, *model)
    assert refused.exit_code == 2
    assert "holds the result of other photos" in refused.stderr
    assert stamps(folder / first[0]) == before
    assert run(*second, *model, "--overwrite").exit_code == 0
    (folder / first[0] / "thesis.txt").write_text("years")
    for more in ([], ["--overwrite"]):
        refused = run(*second, *model, *more)
        assert refused.exit_code == 2
        assert "holds thesis.txt beside" in refused.stderr
    assert (folder / first[0] / "thesis.txt").read_text() == "years"
