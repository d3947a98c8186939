"""kill −9 at random moments of every command that goes on where it was stopped.

GUIDXMAGE_KILLS says how often each is killed (2); GUIDXMAGE_KILL_SEED when (0).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARIES = ("matplotlib", "safetensors", "foolbox", "pyautoattack", "captum", "scipy")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs are forks")
def test_nothing_is_lost_when_runs_are_killed(tmp_path: Path) -> None:
    for name in LIBRARIES:
        pytest.importorskip(name)
    kills, seed = os.environ.get("GUIDXMAGE_KILLS", "2"), os.environ.get("GUIDXMAGE_KILL_SEED", "0")
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed_runs", str(tmp_path), kills, seed],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert not done.stdout, done.stdout[:6000]
