"""Node and a browser for the tests of the viewer, and its modules run under Node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import guidxmage

ASSETS = Path(guidxmage.__file__).parent / "viewer" / "assets"
REQUIRED = "GUID_XMAGE_REQUIRE_BROWSER"
"""Where this variable is set, a missing program is a failure and no reason to skip."""

PRELUDE = """
import { readFileSync, writeFileSync } from "node:fs";
const kinds = {
  float64: Float64Array, float32: Float32Array, uint8: Uint8Array, int32: Int32Array,
};
const folder = process.argv[2];
const given = JSON.parse(readFileSync(`${folder}/given.json`, "utf8"));
function load(name) {
  const bytes = readFileSync(`${folder}/${name}.in`);
  const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  return new kinds[given.arrays[name]](buffer);
}
const known = {};
for (const name of Object.keys(given.arrays)) known[name] = load(name);
const answer = { arrays: {} };
function save(name, array) {
  answer.arrays[name] = array.constructor.name;
  const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  writeFileSync(`${folder}/${name}.out`, bytes);
}
function fails(run) {
  try { run(); } catch (error) { return error.message; }
  return null;
}
"""
KINDS = {
    "Float64Array": np.float64,
    "Float32Array": np.float32,
    "Uint8Array": np.uint8,
    "Uint8ClampedArray": np.uint8,
    "Int32Array": np.int32,
}


def missing(what: str) -> None:
    """Skip a test, or fail where what it needs is required."""
    if os.environ.get(REQUIRED):
        pytest.fail(f"{what} is missing, and {REQUIRED} is set")
    pytest.skip(f"{what} is missing")


def program(name: str) -> str:
    """The path of a program on this computer."""
    found = shutil.which(name)
    if found is None:
        missing(f"the program {name}")
    assert found is not None
    return found


@dataclass
class Answer:
    """What a script gave back: numbers and texts by name, and arrays by name."""

    values: dict[str, Any]
    arrays: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.arrays[name] if name in self.arrays else self.values[name]


def run_modules(folder: Path, imports: str, script: str, /, **given: Any) -> Answer:
    """Run a script with some of the viewer's modules.

    imports: as "select, bandOf from numbers". The script finds arrays in `known`, all else in
    `given`; it leaves arrays by `save(name, array)` and all else in `answer`.
    """
    node = program("node")
    arrays = {name: value for name, value in given.items() if isinstance(value, np.ndarray)}
    plain = {name: value for name, value in given.items() if name not in arrays}
    plain["arrays"] = {name: str(value.dtype) for name, value in arrays.items()}
    (folder / "given.json").write_text(json.dumps(plain))
    for name, value in arrays.items():
        (folder / f"{name}.in").write_bytes(np.ascontiguousarray(value).tobytes())
    lines = []
    for one in imports.split(";"):
        names, module = one.rsplit(" from ", 1)
        lines.append(f'import {{ {names.strip()} }} from "./{module}.js";\n')
    end = "\nwriteFileSync(`${folder}/answer.json`, JSON.stringify(answer));\n"
    # Node takes a file for a module where a file beside it says so.
    (folder / "package.json").write_text('{"type": "module"}')
    for asset in ASSETS.glob("*.js"):
        shutil.copy(asset, folder)
    (folder / "run.mjs").write_text("".join(lines) + PRELUDE + script + end)
    done = subprocess.run(
        [node, "--no-warnings", "run.mjs", str(folder)],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    values = json.loads((folder / "answer.json").read_text())
    kinds = values.pop("arrays")
    found = {name: np.fromfile(folder / f"{name}.out", KINDS[kind]) for name, kind in kinds.items()}
    return Answer(values, found)
