"""What a training run reports: one JSON line a step, and TensorBoard where it is wanted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guidxmage.errors import InputError, MissingExtraError

FILE = "metrics.jsonl"


class Metrics:
    """Writes metrics.jsonl, from where an earlier run was stopped."""

    def __init__(self, folder: Path, tensorboard: Any) -> None:
        self._file = (folder / FILE).open("a", encoding="utf-8")
        self._tensorboard = tensorboard

    @classmethod
    def open(cls, folder: Path, step: int, tensorboard: bool) -> Metrics:
        """Drop what an earlier run wrote after the step that this one goes on from."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / FILE
        kept = [line for line in _lines(file) if line["step"] <= step]
        try:
            file.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        except OSError as error:
            raise InputError(f"{file} cannot be written: {error.strerror}") from error
        return cls(folder, _summary_writer(folder, step) if tensorboard else None)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """The values of a step."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        if "score" in values:
            self._file.flush()
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()


def _lines(file: Path) -> list[dict[str, Any]]:
    """All whole lines; a kill may have cut the last one."""
    found: list[dict[str, Any]] = []
    if not file.is_file():
        return found
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def _summary_writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("tensorboard", "train") from error
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
