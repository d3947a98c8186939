"""The network beside a report: its graph, and the runtime by which a browser runs it.

The runtime is onnxruntime-web, which the user has from npm; nothing of it comes with this package.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guidxmage.errors import InputError
from guidxmage.files.names import shown
from guidxmage.files.result_folder import Kind, write_mark
from guidxmage.viewer.page_files import module_of

SCHEMA = "guid-xmage/report-network/1"
KIND = Kind((SCHEMA,))
"""What the folder of the network is told by."""
GRAPH, WORKER = "network.onnx", "network_worker"
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""The files of onnxruntime-web that run a graph on the processor."""
# A user names the package, or its folder of files, or where npm has installed it.
_BELOW = (".", "dist", "node_modules/onnxruntime-web/dist")
_LARGEST = 2**28


@dataclass(frozen=True)
class ReportNetwork:
    """A graph that a report asks: its file, what the page is told of it, and who runs it.

    runtime: the folder with the files `RUNTIME`; None where the page has to say that it is missing.
    """

    graph: Path
    said: Mapping[str, Any]
    runtime: Path | None = None

    def about(self, folder: Path) -> dict[str, Any]:
        """What is written into the page, for a network in a folder beside it."""
        return {**self.said, "folder": folder.name, "runtime": self.runtime is not None}

    def write(self, folder: Path) -> None:
        """Write the graph, and what runs it, into a folder that is there. Raises OSError."""
        shutil.copyfile(self.graph, folder / GRAPH)
        (folder / f"{WORKER}.js").write_text(module_of(WORKER), encoding="utf-8")
        if self.runtime is not None:
            for name in RUNTIME:
                shutil.copyfile(self.runtime / name, folder / name)
        write_mark(folder, {"schema": SCHEMA, "model": self.said["model"]})


def network_folder(path: Path) -> Path:
    """The folder beside a report that its network is in, where it has one."""
    return path.with_name(f"{path.stem}_network")


def runtime_in(folder: Path) -> Path:
    """Where onnxruntime-web's files are in a folder that was named for them.

    Raises InputError where they are not, or are no files of a sensible size.
    """
    for below in _BELOW:
        place = folder / below
        if not (place / RUNTIME[0]).is_file():
            continue
        for name in RUNTIME:
            file = place / name
            if not file.is_file() or not 0 < file.stat().st_size <= _LARGEST:
                raise InputError(f"{shown(file)} is no file of onnxruntime-web; install it anew")
        return place
    raise InputError(
        f"{shown(folder)} has no {RUNTIME[0]}; run `npm install onnxruntime-web` and give "
        "--ort node_modules/onnxruntime-web/dist"
    )
