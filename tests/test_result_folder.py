"""Folders of results: whose they are, what replaces them, what a kill leaves of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from guidxmage.errors import InputError
from guidxmage.files.atomic import HIDDEN, LOCK, hidden
from guidxmage.files.result_folder import (
    NEW,
    OLD,
    PLACES,
    PROVENANCE,
    Kind,
    atomic_folder,
    check_replaceable,
    held_folder,
    place_of,
    read_mark,
    sweep,
    write_mark,
)

SCHEMA = "guid-xmage/test/1"
KIND = Kind((SCHEMA,))
ROOT = Path(__file__).parent.parent


def write(path: Path, text: str = "one", *, overwrite: bool = False, **content: Any) -> None:
    with atomic_folder(path, KIND, overwrite=overwrite) as new:
        (new / "numbers.txt").write_text(text)
        (new / "more").mkdir()
        (new / "more" / "deep.txt").write_text(text * 2)
        write_mark(new, {"schema": SCHEMA, **content})


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- whose a folder is ---------------------------------------------------------------------------


def test_a_result_is_replaced_by_the_next(tmp_path: Path) -> None:
    write(tmp_path / "r")
    write(tmp_path / "r", "two")
    assert (tmp_path / "r" / "more" / "deep.txt").read_text() == "twotwo"
    assert set(read_mark(tmp_path / "r", KIND)["files"]) == {"numbers.txt", "more/deep.txt"}  # type: ignore[index]
    assert list(tmp_path.iterdir()) == [tmp_path / "r"]
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    assert (tmp_path / "empty" / "numbers.txt").is_file()


MARKS = [
    "",
    "{",
    "[]",
    "null",
    '"guid-xmage/test/1"',
    '{"schema": "guid-xmage/test/1"}',
    '{"schema": "guid-xmage/test/1", "files": ["thesis.txt"]}',
    '{"schema": "other", "files": {"thesis.txt": ""}}',
    '{"schema": ["guid-xmage/test/1"], "files": {}}',
    '{"schema": 3, "files": {}}',
    "[" * 100_000,
]


@pytest.mark.parametrize("mark", MARKS, ids=range(len(MARKS)))
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_manifest_alone_does_not_make_a_folder_ours(
    tmp_path: Path, mark: str, overwrite: bool
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years")
    (folder / "manifest.json").write_text(mark)
    before = contents(folder)
    with pytest.raises(InputError, match=r"damaged or of something other than an earlier result"):
        write(folder, overwrite=overwrite)
    assert contents(folder) == before
    assert list(tmp_path.iterdir()) == [folder]


FOREIGN = ["thesis.txt", ".hidden", "more/notes.txt", "sub/deep/x", "numbers.txt.bak"]


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("overwrite", [False, True])
def test_files_beside_a_result_are_never_removed(
    tmp_path: Path, name: str, overwrite: bool
) -> None:
    folder = tmp_path / "r"
    write(folder)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("years")
    with pytest.raises(InputError, match=f"holds {name} beside an earlier result"):
        write(folder, "two", overwrite=overwrite)
    assert (folder / name).read_text() == "years"
    assert (folder / "numbers.txt").read_text() == "one"


def test_empty_folders_links_and_pipes_of_others_stay(tmp_path: Path) -> None:
    for make in (Path.mkdir, lambda path: path.symlink_to(tmp_path), os.mkfifo):
        folder = tmp_path / "r"
        write(folder)
        make(folder / "other")
        with pytest.raises(InputError, match="holds other beside an earlier result"):
            write(folder, "two")
        assert os.path.lexists(folder / "other")
        (tmp_path / "r").rename(tmp_path / f"kept-{len(list(tmp_path.iterdir()))}")


def test_the_file_managers_droppings_are_nobodys(tmp_path: Path) -> None:
    write(tmp_path / "r")
    (tmp_path / "r" / ".DS_Store").write_bytes(b"icons")
    write(tmp_path / "r", "two")
    assert (tmp_path / "r" / "numbers.txt").read_text() == "two"


@pytest.mark.parametrize("name", ["numbers.txt", "more/deep.txt", "manifest.json"])
def test_changed_files_are_replaced_on_insistence_only(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "r"
    write(folder)
    text = (folder / name).read_text()
    (folder / name).write_text(text.replace("one", "my notes").replace("test/1", "test/1 "))
    if name == "manifest.json":
        content = {**json.loads(text), "note": "mine"}
        (folder / name).write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"{name} was changed after it was written"):
        write(folder, "two")
    assert (folder / name).read_text() != text
    write(folder, "two", overwrite=True)
    assert (folder / "numbers.txt").read_text() == "two"


def test_a_missing_file_is_no_reason_to_refuse(tmp_path: Path) -> None:
    write(tmp_path / "r")
    (tmp_path / "r" / "numbers.txt").unlink()
    with held_folder(tmp_path / "r", KIND) as folder:
        assert folder.mark() is not None
        assert not folder.intact()
    write(tmp_path / "r", "two")
    with held_folder(tmp_path / "r", KIND) as folder:
        assert folder.intact()


def test_a_mark_that_lists_other_places_reaches_nothing(tmp_path: Path) -> None:
    """What a list names outside of the folder is neither read nor removed."""
    outside = tmp_path / "outside.txt"
    outside.write_text("years")
    folder = tmp_path / "r"
    write(folder)
    content = {**json.loads((folder / "manifest.json").read_text())}
    os.mkfifo(tmp_path / "pipe")  # whoever reads it waits for ever
    content["files"] = {**content["files"], "../outside.txt": "0", "../pipe": "0", "/dev/zero": "0"}
    (folder / "manifest.json").write_text(json.dumps(content))
    write(folder, "two", overwrite=True)
    assert outside.read_text() == "years"
    assert (folder / "numbers.txt").read_text() == "two"


def test_files_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("years")
    with pytest.raises(InputError, match="holds something other"):
        write(tmp_path / "r")
    assert (tmp_path / "r").read_text() == "years"


def test_a_link_to_a_folder_leads_there(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "r").symlink_to(tmp_path / "disk" / "r")
    for text in ("one", "two"):
        write(tmp_path / "r", text)
    assert (tmp_path / "r").is_symlink()
    assert (tmp_path / "disk" / "r" / "numbers.txt").read_text() == "two"
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["r"]


def test_the_result_of_other_photos_is_kept(tmp_path: Path) -> None:
    write(tmp_path / "r", **{PROVENANCE: {PLACES: ["../a.png"]}})
    check_replaceable(tmp_path / "r", KIND, places=["../a.png"])
    with pytest.raises(InputError, match="holds the result of other photos"):
        check_replaceable(tmp_path / "r", KIND, places=["../b.png"])
    check_replaceable(tmp_path / "r", KIND, places=["../b.png"], overwrite=True)


def test_places_are_told_from_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    ways = [Path("a/x.png"), tmp_path / "a" / "x.png", Path("link/../a/x.png"), Path("link/x.png")]
    assert {place_of(way, Path("out")) for way in ways} == {"../a/x.png"}
    monkeypatch.chdir(tmp_path / "a")
    assert place_of(Path("x.png"), Path("../out")) == "../a/x.png"


# --- replacing -----------------------------------------------------------------------------------


def test_a_block_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    write(tmp_path / "r")
    before = contents(tmp_path / "r")

    def failing() -> None:
        with atomic_folder(tmp_path / "r", KIND) as new:
            (new / "half").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert contents(tmp_path / "r") == before
    assert list(tmp_path.iterdir()) == [tmp_path / "r"]


def test_what_comes_while_the_new_result_is_made_is_kept(tmp_path: Path) -> None:
    write(tmp_path / "r")

    def interrupted() -> None:
        with atomic_folder(tmp_path / "r", KIND) as new:
            write_mark(new, {"schema": SCHEMA})
            (tmp_path / "r" / "thesis.txt").write_text("years")

    with pytest.raises(InputError, match=r"holds thesis\.txt beside"):
        interrupted()
    assert (tmp_path / "r" / "thesis.txt").read_text() == "years"
    assert (tmp_path / "r" / "numbers.txt").read_text() == "one"
    assert list(tmp_path.iterdir()) == [tmp_path / "r"]


def test_two_writers_end_in_one_whole_result(tmp_path: Path) -> None:
    texts = ["a", "b", "c"]
    failed: list[BaseException] = []

    def work(text: str) -> None:
        try:
            for _ in range(4):
                write(tmp_path / "r", text)
        except BaseException as error:  # told by the assertion below
            failed.append(error)

    threads = [threading.Thread(target=work, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    text = (tmp_path / "r" / "numbers.txt").read_text()
    assert text in texts
    assert (tmp_path / "r" / "more" / "deep.txt").read_text() == 2 * text
    assert list(tmp_path.iterdir()) == [tmp_path / "r"]


CRASHING = """
import sys
from pathlib import Path
from tests.crashing import Counter
from tests.test_result_folder import write
counter = Counter(sys.argv[1], int(sys.argv[2]))
write(Path(sys.argv[1]) / "r", "two")
print(counter.steps)
"""


def crash(folder: Path, step: int) -> bool:
    """Whether a process was killed at a step of replacing the result there."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    line = [sys.executable, "-c", CRASHING, str(folder), str(step)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, -9), done.stderr
    return done.returncode == -9


@pytest.mark.parametrize("there", [False, True])
def test_killed_at_every_step(tmp_path: Path, there: bool) -> None:
    """The old result or the new one is left, whole, wherever the process is killed."""
    write(tmp_path / "old" / "r")
    write(tmp_path / "new" / "r", "two")
    old, new = (contents(tmp_path / name / "r") for name in ("old", "new"))
    seen = set()
    step = 0
    while True:
        folder = tmp_path / f"{step}"
        folder.mkdir()
        if there:
            write(folder / "r")
        if not crash(folder, step):
            break
        left = {path.name for path in folder.iterdir()}
        seen |= {name.rpartition(".")[2] for name in left if name.startswith(HIDDEN)}
        sweep(folder)
        assert {path.name for path in folder.iterdir()} <= {"r"}, step
        found = contents(folder / "r") if (folder / "r").exists() else None
        assert found in ([old, new] if there else [None, new]), step
        write(folder / "r", "two")
        assert contents(folder / "r") == new, step
        step += 1
    assert step > 10
    assert seen >= ({LOCK, NEW, OLD} if there else {LOCK, NEW})


def left_by_a_kill(folder: Path, *, aside: bool) -> None:
    """As a run that was killed leaves it: the new result half written, the old one aside."""
    write(folder / "r")
    hidden(folder / "r", LOCK).touch()
    hidden(folder / "r", NEW).mkdir()
    (hidden(folder / "r", NEW) / "half").write_text("x")
    if aside:
        hidden(folder / "r", OLD).mkdir()
        (folder / "r").rename(hidden(folder / "r", OLD) / "r")


@pytest.mark.parametrize("aside", [False, True])
@pytest.mark.parametrize("how", ["sweep", "write", "hold"])
def test_what_a_kill_left_is_put_right(tmp_path: Path, aside: bool, how: str) -> None:
    left_by_a_kill(tmp_path, aside=aside)
    if how == "sweep":
        sweep(tmp_path)
    elif how == "write":
        write(tmp_path / "r", "one")
    else:
        with held_folder(tmp_path / "r", KIND) as folder:
            assert folder.intact()
    assert list(tmp_path.iterdir()) == [tmp_path / "r"]
    assert (tmp_path / "r" / "numbers.txt").read_text() == "one"


def test_any_later_run_beside_it_clears_up(tmp_path: Path) -> None:
    left_by_a_kill(tmp_path, aside=True)
    write(tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "r"]
    assert (tmp_path / "r" / "numbers.txt").read_text() == "one"


def test_what_was_put_in_the_place_of_a_result_aside_is_kept(tmp_path: Path) -> None:
    left_by_a_kill(tmp_path, aside=True)
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "thesis.txt").write_text("years")
    with pytest.raises(InputError, match="which is kept in"):
        write(tmp_path / "r")
    sweep(tmp_path)
    assert (tmp_path / "r" / "thesis.txt").read_text() == "years"
    assert (hidden(tmp_path / "r", OLD) / "r" / "numbers.txt").read_text() == "one"
    (tmp_path / "r").rename(tmp_path / "mine")
    sweep(tmp_path)
    assert (tmp_path / "r" / "numbers.txt").read_text() == "one"


def test_what_is_aside_only_goes_back_to_its_own_place(tmp_path: Path) -> None:
    old = hidden(tmp_path / "r", OLD)
    write(old / "other")
    sweep(tmp_path)
    assert (old / "other" / "numbers.txt").is_file()
    assert not (tmp_path / "other").exists()
