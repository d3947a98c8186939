"""Data sets whose making fails on the way: the rerun is as a run without faults."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("pyarrow")
pytest.importorskip("scipy")

from guidxmage.cli import app
from guidxmage.dataset import DatasetOptions, explain_dataset
from guidxmage.dataset.ledger import Ledger
from guidxmage.dataset.local import Pool, Setup, check_portable
from guidxmage.dataset.making import Scope
from guidxmage.dataset.progress import Progress
from guidxmage.dataset.working import Work
from guidxmage.errors import InputError
from tests.datasets import (
    digests,
    make,
    make_explainer,
    make_fatal,
    mask,
    rows,
    save_photos,
)

ROOT = Path(__file__).parent.parent
COUNT = 60


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_photos(tmp_path_factory.mktemp("photos") / "p", COUNT)


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a run without faults leaves."""
    out = tmp_path_factory.mktemp("whole") / "out"
    make(photos, out)
    return digests(out)


def check(out: Path, whole: dict[str, str]) -> None:
    """Every photo once, the very bytes, nothing left over."""
    found = rows(out)
    assert [row["item"] for row in found] == list(range(COUNT))
    assert len({row["id"] for row in found}) == COUNT
    assert digests(out) == whole


def started(photos: Path, out: Path) -> subprocess.Popen[bytes]:
    """A run in a process of its own that takes its time."""
    command = [sys.executable, "-m", "tests.datasets", str(photos), str(out), "slow"]
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path})


def wait_for_blocks(out: Path, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 50
    while len(list(out.glob("rows/*/*.parquet"))) < 2:  # the first one is written down by then
        assert process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < until
        time.sleep(0.02)


def test_the_run_is_killed_and_run_again(
    photos: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    process = started(photos, tmp_path / "out")
    wait_for_blocks(tmp_path / "out", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(digests(tmp_path / "out")) < len(whole)
    result = make(photos, tmp_path / "out")
    assert 0 < result.kept < COUNT
    check(tmp_path / "out", whole)


def test_two_runs_share_one_data_set(photos: Path, whole: dict[str, str], tmp_path: Path) -> None:
    runs = [started(photos, tmp_path / "out") for _ in range(2)]
    assert [run.wait(timeout=55) for run in runs] == [0, 0]
    check(tmp_path / "out", whole)
    lines = Ledger(tmp_path / "out").lines()
    assert {block: len(made) for block, made in lines.items()} == dict.fromkeys(range(4), 1)


def test_the_run_is_interrupted_at_one_photo(
    photos: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    explainer = make_explainer()
    real, read = explainer.read_batch, [0]

    def interrupted(image: Any) -> Any:
        read[0] += 1
        if read[0] == 40:
            raise KeyboardInterrupt
        return real(image)

    explainer.read_batch = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        explain_dataset(explainer, photos, tmp_path / "out", DatasetOptions(block=16))
    assert make(photos, tmp_path / "out").kept == 32
    check(tmp_path / "out", whole)


SLOW_NETWORK = """
import time
import torch
from torch import nn
from guidxmage.dataset import reading
real = reading.content_of
def slow(item):
    time.sleep(0.05)
    return real(item)
reading.content_of = slow
def build():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(16, 3)).eval()
"""


# The command, with the signal of Ctrl-C as on a terminal: in the background it is ignored.
ON_A_TERMINAL = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("guidxmage.cli", run_name="__main__")
"""


def _terminal_run(arguments: list[str], folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """The command on a terminal of its own, whose other end is returned."""
    ours, theirs = os.openpty()

    process = subprocess.Popen(
        ["setsid", "--ctty", sys.executable, "-c", ON_A_TERMINAL, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    return process, ours


def _told(terminal: int) -> str:
    """What a terminal shows until its command has ended."""
    content = b""
    try:
        while part := os.read(terminal, 4096):
            content += part
    except OSError:  # nobody is at the other end any more
        pass
    os.close(terminal)
    return content.decode()


def _wait_for_the_group(leader: int) -> None:
    """Until no process of a group is left; the last to go is one of Python's own."""
    until = time.monotonic() + 10
    while True:
        try:
            os.killpg(leader, 0)
        except ProcessLookupError:
            return
        assert time.monotonic() < until, "a worker outlives the run"
        time.sleep(0.05)


@pytest.mark.skipif(shutil.which("setsid") is None, reason="setsid is not installed")
def test_control_c_ends_a_run_on_a_terminal_cleanly(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(SLOW_NETWORK)
    arguments = ["batch", str(photos), "--model", "net.py:build", "--out", "d", "--block", "8"]
    process, terminal = _terminal_run([*arguments, "--workers", "2"], tmp_path)
    wait_for_blocks(tmp_path / "d", process)
    os.write(terminal, b"\x03")
    text = _told(terminal)
    assert process.wait(timeout=30) == 130
    assert "of 60 photos" in text
    assert "finished blocks of d are kept, the same command goes on" in text
    assert "Traceback" not in text
    _wait_for_the_group(process.pid)
    assert not [path.name for path in (tmp_path / "d").rglob(".*") if path.suffix == ".tmp"]
    lines = Ledger(tmp_path / "d").lines()
    assert sum(made.photos for of in lines.values() for made in of) >= 8


def test_a_truncated_shard_and_half_a_line(
    photos: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    make(photos, out)
    shard = out / "rows/000/000001.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    (out / "rows/000/000002.parquet").unlink()
    ledger = next(out.glob("ledger/*.jsonl"))
    content = ledger.read_bytes().rstrip(b"\n")
    ledger.write_bytes(content[: len(content) - 40])  # the last line, of block 3
    result = make(photos, out)
    assert (result.kept, result.explained) == (16, 44)
    check(out, whole)


def test_a_mask_that_was_changed_is_noticed(tmp_path: Path) -> None:
    photos = save_photos(tmp_path / "p", 34, masks=tmp_path / "m")
    options = {"objects": tmp_path / "m"}
    make(photos, tmp_path / "out", **options)
    assert make(photos, tmp_path / "out", **options).kept == 34
    changed = tmp_path / "m/a/002.png"
    Image.fromarray(np.roll(mask(), 3, 1)).save(changed)
    assert make(photos, tmp_path / "out", **options).kept == 18, "its block is made anew"
    (tmp_path / "m/a/004.png").unlink()
    assert make(photos, tmp_path / "out", **options).kept == 18
    assert make(photos, tmp_path / "out", **options).kept == 34
    make(photos, tmp_path / "afresh", **options)
    assert rows(tmp_path / "out") == rows(tmp_path / "afresh")
    Image.fromarray(mask()).save(tmp_path / "m/b.png")
    assert make(photos, tmp_path / "out", **options).kept == 34, "it is no photo's mask"


def test_the_disk_is_full(
    photos: Path, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def full(descriptor: int) -> None:
        if len(list((tmp_path / "out").glob("rows/*/*.parquet"))) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="No space left"):
            make(photos, tmp_path / "out")
    assert 0 < make(photos, tmp_path / "out").explained < COUNT
    check(tmp_path / "out", whole)


def test_a_worker_is_killed(photos: Path, whole: dict[str, str], tmp_path: Path) -> None:
    result = explain_dataset(
        make_explainer(),
        photos,
        tmp_path / "out",
        DatasetOptions(block=16),
        Scope(workers=2),
        factory=partial(make_fatal, str(tmp_path / "flag")),
    )
    assert (tmp_path / "flag0").exists()
    assert (result.explained, result.kept) == (COUNT, 0)
    check(tmp_path / "out", whole)


def test_a_ray_actor_is_killed(photos: Path, whole: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    result = explain_dataset(
        make_explainer(),
        photos,
        tmp_path / "out",
        DatasetOptions(block=16),
        Scope(engine="ray", workers=2),
        factory=partial(make_fatal, str(tmp_path / "flag")),
    )
    assert (tmp_path / "flag0").exists()
    assert (result.explained, result.kept) == (COUNT, 0)
    check(tmp_path / "out", whole)


def test_a_cluster_that_is_there_with_room_for_one_worker(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths as the run sees them; a worker for which there is no room is not waited for."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT)]))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    (tmp_path / "net.py").write_text(SLOW_NETWORK.replace("0.05", "0"))
    monkeypatch.chdir(tmp_path)
    os.symlink(photos, "p")
    given = ["batch", "p", "--model", "net.py:build", "--block", "16"]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1})
    try:
        ray = ["--engine", "ray", "--address", cluster.address, "--gpus", "1", "--workers", "2"]
        result = CliRunner().invoke(app, [*given, *ray, "--out", "d"])
    finally:
        cluster.shutdown()
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(app, [*given, "--workers", "1", "--out", "e"])
    assert digests(tmp_path / "d") == digests(tmp_path / "e")


class _Dead:
    exitcode = -9

    def join(self, _: float) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_block_that_kills_every_worker_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from collections import deque

    from guidxmage.dataset.local import _Process

    pool = Pool(None, 2, Progress(16), lambda: None)  # type: ignore[arg-type]
    monkeypatch.setattr(Pool, "_started", lambda self: None)
    work, waiting = Work(3, 48, ()), deque[Work]()

    def die() -> None:
        one = _Process(_Dead(), _Dead(), work, (5, 1))  # type: ignore[arg-type]
        pool._replaced(one, waiting)

    die()
    assert list(waiting) == [work]
    assert pool.progress.done == -5, "what was counted of it is taken back"
    die()
    with pytest.raises(InputError, match="ended 3 times at photos 48"):
        die()


def test_what_cannot_be_sent_is_told(tmp_path: Path) -> None:
    setup = Setup(tmp_path, None, DatasetOptions(), lambda: make_explainer(0))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="give factory="):
        check_portable(setup)


def test_a_worker_with_another_network_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not the one that the data set is of"):
        explain_dataset(
            make_explainer(),
            photos,
            tmp_path / "out",
            scope=Scope(workers=2),
            factory=partial(make_explainer, 1),
        )


def test_the_ledger_names_no_file_outside(tmp_path: Path) -> None:
    save_photos(tmp_path / "p", 4)
    make(tmp_path / "p", tmp_path / "out")
    (secret := tmp_path / "secret").write_text("x")
    ledger = next((tmp_path / "out").glob("ledger/*.jsonl"))
    text = ledger.read_text().replace('"also": {}', f'"also": {{"{secret}": "0"}}')
    ledger.write_text(text)
    assert Ledger(tmp_path / "out").lines() == {}
    ledger.write_text('\n[1, 2]\n{"block": -1}\nnull\n{"block": true}\n')
    assert Ledger(tmp_path / "out").lines() == {}
    (tmp_path / "out/dataset.json").write_text('{"schema": "guid-xmage/dataset/1"}')
    with pytest.raises(InputError, match=r"dataset\.json"):
        make(tmp_path / "p", tmp_path / "out")
