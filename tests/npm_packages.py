"""Packages from npm for the tests: what an exported graph is run by in JavaScript."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from guidxmage.files.locks import held
from tests.viewer_tools import missing, program

# This one version, so that a run today says the same tomorrow.
ONNXRUNTIME_WEB = "onnxruntime-web@1.30.0"


def onnxruntime_web(config: pytest.Config) -> Path:
    """A folder whose node_modules has onnxruntime-web, kept in pytest's cache.

    Skips where npm or the network is missing, or fails where they are required.
    """
    npm = program("npm")
    folder = Path(config.cache.mkdir(ONNXRUNTIME_WEB.replace("@", "-")))  # type: ignore[union-attr]
    done = folder / "done"
    with held(folder / "lock"):  # tests may run in several processes
        if not done.is_file():
            command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts",
                       "--prefix", str(folder), ONNXRUNTIME_WEB]  # fmt: skip
            found = subprocess.run(command, capture_output=True, text=True, check=False)
            if found.returncode:
                missing(f"{ONNXRUNTIME_WEB} (by npm)")
            done.touch()
    return folder
