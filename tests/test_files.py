"""Files that appear whole, holds that end with their process, sealed JSON."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guidxmage.errors import InputError
from guidxmage.files import locks
from guidxmage.files.atomic import (
    HIDDEN,
    LOCK,
    PARTIAL,
    alone,
    hidden,
    is_sealed,
    read_sealed,
    sealed,
    write_atomically,
    write_sealed,
)
from guidxmage.files.locks import BusyError, Turns, held
from guidxmage.files.result_folder import sweep

HOLDER = """
import sys, time
from pathlib import Path
from guidxmage.files.locks import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Any:
    """Another process that holds `file`."""
    started: list[subprocess.Popen[str]] = []

    def start(file: Path) -> subprocess.Popen[str]:
        line = [sys.executable, "-c", HOLDER, str(file)]
        started.append(subprocess.Popen(line, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout is not None
        assert started[-1].stdout.readline() == "held\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


# --- holding -------------------------------------------------------------------------------------


def test_a_file_is_held_until_its_process_ends(
    tmp_path: Path, holder: Callable[[Path], Any]
) -> None:
    file = tmp_path / "lock"
    other = holder(file)
    with pytest.raises(BusyError, match="taken"), held(file, wait=False, busy="taken"):
        pass
    assert file.exists(), "whoever may not hold it does not remove it"
    other.kill()
    other.wait()
    assert file.exists(), "a killed process cleans nothing"
    with held(file, wait=False):
        assert file.exists()
    assert not file.exists()


def test_waiting_is_told_and_ends(tmp_path: Path, holder: Callable[[Path], Any]) -> None:
    file = tmp_path / "lock"
    other = holder(file)
    with held(file, told=other.kill):
        assert other.wait() != 0


def test_threads_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    inside, most = [0], [0]

    def work() -> None:
        for _ in range(3):
            with held(tmp_path / "lock"):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert not list(tmp_path.iterdir())


def test_what_vanished_before_it_was_held_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and holding a file its last holder may remove it: then nobody is kept off."""
    file, real, calls = tmp_path / "lock", locks._locked, []

    def locked(descriptor: int) -> bool:
        if not calls:
            file.unlink()
        calls.append(descriptor)
        return real(descriptor)

    monkeypatch.setattr(locks, "_locked", locked)
    with held(file) as descriptor:
        assert os.path.samestat(os.stat(file), os.fstat(descriptor))
    assert len(calls) == 2


def test_turns_put_off_what_others_are_at() -> None:
    seen = []
    turns = Turns("abcd")
    taken = {"a": 2, "c": 1}
    for item, wait in turns:
        seen.append((item, wait))
        if not wait and taken.get(item, 0):
            taken[item] -= 1
            turns.put_off(item)
    assert seen == [("a", False), ("b", False), ("c", False), ("d", False), ("a", False),
                    ("c", False), ("a", False)]  # fmt: skip
    held_for_ever = []
    turns = Turns("ab")
    for item, wait in turns:
        held_for_ever.append((item, wait))
        if not wait:
            turns.put_off(item)
    assert held_for_ever == [("a", False), ("b", False), ("a", True), ("b", False), ("b", True)]


# --- files ---------------------------------------------------------------------------------------


def test_a_file_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.json"
    write_atomically(file, b"one")
    for function in ("os.replace", "os.fsync"):

        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(function, full)
            with pytest.raises(InputError, match=r"cannot write .*x\.json: No space left"):
                write_atomically(file, b"two" * 1000)
        assert file.read_bytes() == b"one"
        assert list(tmp_path.iterdir()) == [file]


def test_what_a_killed_run_left_of_a_file_is_used_up(tmp_path: Path) -> None:
    file = tmp_path / ("n" * 251 + ".txt")
    hidden(file, PARTIAL).write_bytes(b"half a file that is longer than the whole one")
    write_atomically(file, b"whole")
    assert file.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [file]


def test_two_that_write_one_file_take_turns(tmp_path: Path) -> None:
    file = tmp_path / "x"

    def write(letter: bytes) -> None:
        for _ in range(10):
            write_atomically(file, letter * 100_000)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(file.read_bytes())) == 1
    assert list(tmp_path.iterdir()) == [file]


def test_sweeping_spares_the_living(tmp_path: Path, holder: Callable[[Path], Any]) -> None:
    dead = [hidden(tmp_path / "a", PARTIAL), hidden(tmp_path / "b", LOCK)]
    dead.append(hidden(tmp_path / "c", "new"))
    for path in dead[:2]:
        path.write_bytes(b"")
    dead[2].mkdir()
    (dead[2] / "half").write_text("")
    living = [hidden(tmp_path / "d", PARTIAL), hidden(tmp_path / "e", LOCK)]
    for path in living:
        holder(path)
    own = hidden(tmp_path / "e", "new")
    own.mkdir()
    (tmp_path / ".notes").write_text("mine")
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([*living, own, tmp_path / ".notes"])


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to"), alone(tmp_path / "file" / "x"):
        pass
    with pytest.raises(InputError, match="cannot write"):
        write_atomically(tmp_path / "file" / "x", b"")


# --- sealed JSON ---------------------------------------------------------------------------------


def test_sealed_json_tells_every_change(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    content = {"schema": "x", "text": 'a "digest": "" b', "name": "\udcff", "numbers": [1, 2.5]}
    write_sealed(file, content)
    found = read_sealed(file)
    assert {key: found[key] for key in content} == content
    text = file.read_text(encoding="utf-8")
    assert is_sealed(text)
    assert not is_sealed(sealed({"digest": 1}) + " ")
    for place in range(0, len(text), 7):
        changed = text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]
        assert not is_sealed(changed), place
    for damage in (text[:-1], text[: len(text) // 2], "", "[]", json.dumps(content)):
        file.write_text(damage, encoding="utf-8")
        with pytest.raises(InputError, match="is damaged, or was changed"):
            read_sealed(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="it is no text"):
        read_sealed(file)
    file.unlink()
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_sealed(file)


def test_hidden_names_are_short_and_the_same_for_the_same() -> None:
    path = Path("folder") / ("x" * 255)
    assert hidden(path, LOCK).parent == path.parent
    assert hidden(path, LOCK).name.startswith(HIDDEN)
    assert len(hidden(path, LOCK).name) < 40
    assert hidden(Path("A"), LOCK) == hidden(Path("a"), LOCK) != hidden(Path("b"), LOCK)
    assert os.fsencode(hidden(Path("\udcff"), LOCK))
