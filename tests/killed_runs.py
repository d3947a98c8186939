"""Commands that are killed by SIGKILL at random moments and run again, in forks of one process.

As a script: folder, how often each command is killed, seed, and the commands' names. Prints what
was found wrong, a line each; nothing where all is well.

A moment is either a step in the file system (see `crashing`) or a point of time, by turns. After
the kill the command runs again, and then its folder has to hold the same files as that of a run
that was never stopped, but for times and what depends on them, and no temporary ones.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

NETWORK = """
import torch
from torch import nn

def build(classes=3):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(64, classes)).eval()
"""
SETTINGS = """
networks = ["net.py:build"]
arms = ["plain", "ours", "series"]
seeds = [0]
size = 12
batch = 6
crop = 1
flip = false
plain_steps = 4
retrain_steps = 2
transfer = false
[arm]
strengths = ["8/255"]
[series]
strengths = ["8/255"]
steps = 2
[effort]
images = 3
least_images = 3
linf = ["4/255"]
l2 = [0.3]
pgd_steps = 2
pgd_restarts = 1
parts = ["background"]
budget = 0
ddn_steps = 0
cw_steps = 0
auto_linf = []
auto_l2 = []
auto_images = 0
square_queries = 5
"""
TIMES = (
    "seconds",
    "certificate_seconds",
    "processor_seconds",
    "samples_processor_seconds",
    "digest",
    "files",
    "sha256",
)
TEMPORARY = re.compile(r"^\.|\.tmp$|\.partial$")


@dataclass(frozen=True)
class Command:
    """A command by its arguments; {out} is where it writes. before: arguments of an earlier run."""

    arguments: tuple[str, ...]
    before: tuple[str, ...] = ()


MODEL = ("--model", "net.py:build")
COMMANDS = {
    "explain": Command(
        ("explain", "photos", *MODEL, "--objects", "none", "--out", "{out}"), ("--target", "1")
    ),
    "attack": Command(
        ("attack", "photos", *MODEL, "--budget", "8", "--out", "{out}"), ("--norm", "linf")
    ),
    "evaluate": Command(
        ("evaluate", "photos", *MODEL, "--methods", "guid-xmage,random,edges", "--measures",
         "directional,complexity", "--views", "2", "--out", "{out}")
    ),
    "garments": Command(
        ("garments", "{out}", "--fashion", "fashion", "--backgrounds", "scenery", "--train", "30",
         "--validation", "6", "--test", "6"),
        ("--seed", "1"),
    ),
    "harden": Command(("harden", "--data", "data", "--config", "harden.toml", "--out", "{out}")),
}  # fmt: skip


# --- what the commands are given -----------------------------------------------------------------


def prepare(folder: Path) -> None:
    """Photos, networks, data and settings, small ones."""
    draws = np.random.default_rng(0)
    (folder / "net.py").write_text(NETWORK)
    (folder / "harden.toml").write_text(SETTINGS)
    for number, name in enumerate(("photos/a.png", "photos/b.png", "photos/sub/a.png")):
        _picture(folder / name, draws, 24 + number)
    for number in range(20):
        _picture(folder / "scenery" / f"{number:02}.png", draws, 128, 130)
    for split, count in (("train", 6), ("validation", 2), ("test", 4)):
        for kind in "abc":
            for number in range(count):
                _picture(folder / "data" / split / kind / f"{number}.png", draws, 12)
                mask = np.zeros((12, 12), dtype=np.uint8)
                mask[3:9, 3:9] = 255
                file = folder / "data" / "masks" / split / kind / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(file)
    (folder / "fashion").mkdir()
    for part in ("train", "t10k"):
        images = np.zeros((60, 28, 28), dtype=np.uint8)
        images[:, 4:24, 6:22] = draws.integers(40, 256, (60, 20, 16))
        _idx(folder / "fashion" / f"{part}-images-idx3-ubyte.gz", images)
        labels = (np.arange(60) % 10).astype(np.uint8)
        _idx(folder / "fashion" / f"{part}-labels-idx1-ubyte.gz", labels)


def _picture(file: Path, draws: np.random.Generator, high: int, wide: int | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = draws.integers(0, 256, (high, wide or high, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


def _idx(file: Path, array: np.ndarray) -> None:
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    file.write_bytes(gzip.compress(head + array.tobytes()))


# --- running and killing -------------------------------------------------------------------------


def fork(work: Callable[[], int], log: Path) -> int:
    """The process number of a child that does the work and says what it says into a file."""
    child = os.fork()
    if child:
        return child
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        code = work()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        code = 99
    os._exit(code)


def ended(child: int) -> int:
    """How a child ended: its exit code, or −9 where it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def command(arguments: tuple[str, ...], out: Path) -> int:
    """Run a command here; its exit code."""
    from guidxmage.cli import app

    try:
        app([part.replace("{out}", str(out)) for part in arguments])
    except SystemExit as error:
        return int(error.code or 0)
    return 0


class Trial:
    """A command in a folder, whole and killed."""

    def __init__(self, name: str, folder: Path, seed: int) -> None:
        self.name, self.folder, self.command = name, folder / name, COMMANDS[name]
        self.folder.mkdir()
        self.draws = random.Random(f"{seed} {name}")
        self.log = self.folder / "log"

    def run(self, out: Path, *more: str) -> int:
        """Run to the end."""
        return ended(fork(lambda: command((*self.command.arguments, *more), out), self.log))

    def measure(self, out: Path) -> tuple[int, float]:
        """The steps and the seconds of a run that is not stopped."""
        from tests.crashing import Counter

        note = self.folder / "steps"

        def counted() -> int:
            counter = Counter(str(out.parent))
            code = command(self.command.arguments, out)
            note.write_text(str(counter.steps))
            return code

        began = time.monotonic()
        assert ended(fork(counted, self.log)) == 0, self.log.read_text()
        return int(note.read_text()), time.monotonic() - began

    def kill_at_step(self, out: Path, step: int) -> int:
        """Run until a step in the file system."""
        from tests.crashing import Counter

        def fatal() -> int:
            Counter(str(out.parent), step)
            return command(self.command.arguments, out)

        return ended(fork(fatal, self.log))

    def kill_after(self, out: Path, seconds: float) -> int:
        """Run for some time."""
        child = fork(lambda: command(self.command.arguments, out), self.log)
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        return ended(child)

    def problems(self, kills: int) -> Iterator[str]:
        """Kill the command so many times; a sentence for everything that is wrong then."""
        # All have paths of one length, since the steps are counted by them.
        whole = self.folder / "0000" / "out"
        steps, seconds = self.measure(whole)
        expected = normalised(whole)
        if not expected:
            yield f"{self.name}: a whole run leaves nothing"
        for number in range(1, kills + 1):
            out = self.folder / f"{number:04}" / "out"
            out.parent.mkdir()
            earlier = self.command.before if number % 3 == 0 else ()
            if earlier:  # a result that the killed run is to replace
                self.run(out, *earlier)
            moments = []
            for _ in range(1 + number % 2):
                if self.draws.random() < 0.6:
                    step = self.draws.randrange(steps)
                    moments.append(f"step {step} of {steps}")
                    self.kill_at_step(out, step)
                else:
                    moment = self.draws.uniform(0, seconds)
                    moments.append(f"{moment:.2f} of {seconds:.2f} s")
                    self.kill_after(out, moment)
            where = f"{self.name} killed at {' and '.join(moments)}"
            code = self.run(out)
            if code != 0:
                yield f"{where}: ended with {code}: {self.log.read_text()[-2000:]}"
                continue
            found = normalised(out)
            for name in sorted({*expected, *found}):
                if expected.get(name) != found.get(name):
                    yield f"{where}: {name} is {_differs(expected.get(name), found.get(name))}"
            left = [p.name for p in out.parent.rglob("*") if TEMPORARY.search(p.name)]
            if left:
                yield f"{where}: {left} are left over"
        if "Traceback" in self.log.read_text():
            yield f"{self.name}: a traceback in {self.log}: {self.log.read_text()[-2000:]}"


def _differs(expected: Any, found: Any) -> str:
    if found is None:
        return "missing"
    return "not there in a whole run" if expected is None else "another"


# --- comparing -----------------------------------------------------------------------------------


def normalised(out: Path) -> dict[str, Any]:
    """The files below a folder by name, without times and what depends on them."""
    found: dict[str, Any] = {}
    for file in sorted(out.rglob("*")):
        if not file.is_file():
            continue
        name, content = file.relative_to(out).as_posix(), file.read_bytes()
        if file.suffix == ".json":
            found[name] = _timeless(json.loads(content))
        elif file.suffix == ".pt":  # holds the seconds so far; its name has the hash
            found[re.sub(r"-[0-9a-f]{16}\.pt$", "", name)] = "checkpoint"
        elif name == "REPORT.md" and b"processor time" in content:
            # Its figures stand in other files, too.
            found[name] = re.sub(r"\d+\.\d+|reached|missed", "#", content.decode())
        else:
            found[name] = content
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(part) for key, part in value.items() if key not in TIMES}
    return [_timeless(part) for part in value] if isinstance(value, list) else value


def warm_up(folder: Path) -> None:
    """Import and compile what the commands need, once for all forks; without a backward pass."""
    from guidxmage import Explainer
    from guidxmage.cli import app
    from guidxmage.models import load_python_model

    Explainer(load_python_model("net.py:build").model).explain(torch.rand(3, 8, 8))
    try:
        app([*COMMANDS["explain"].arguments[:-1], str(folder / "warm"), "--json"])
    except SystemExit:
        return


def main() -> None:
    folder, kills, seed, *names = sys.argv[1:]
    root = Path(folder).resolve()
    prepare(root)
    os.chdir(root)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        warm_up(root)
    for name in names or COMMANDS:
        for problem in Trial(name, root, int(seed)).problems(int(kills)):
            print(problem, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
