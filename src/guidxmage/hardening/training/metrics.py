"""What a training run measured: a line of JSON each, and TensorBoard where it is asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from guidxmage.errors import InputError, MissingExtraError
from guidxmage.files.atomic import write_atomically

METRICS = "metrics.jsonl"
Curves = dict[str, list[tuple[int, float]]]
Log = Callable[[dict[str, float]], None]


class Metrics:
    """Writes numbers by step to metrics.jsonl, to TensorBoard and to the caller's `log`.

    What an interrupted run wrote beyond `step` is taken back. Raises InputError when the file
    cannot be written, MissingExtraError where tensorboard is not installed but asked for.
    """

    def __init__(self, folder: Path, step: int, *, tensorboard: bool, log: Log | None) -> None:
        self.path, self._log = folder / METRICS, log
        kept = [line for line in read_metrics(folder) if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_atomically(self.path, text.encode())
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 -- closed by close
        self._writer: Any = None
        if tensorboard:
            self._writer = _summary_writer()(str(folder / "tensorboard"), purge_step=step + 1)

    def add(self, step: int, **values: float) -> None:
        """Note the values after a step."""
        line = {"step": step, **values}
        self._written(lambda: self._file.write(json.dumps(line) + "\n"))
        self._written(self._file.flush)
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        if self._log is not None:
            self._log(dict(line))

    def keep(self) -> None:
        """Bring what was noted to the disk."""
        self._written(lambda: os.fsync(self._file.fileno()))
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """End writing."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()

    def _written(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror or error}") from error


def check_tensorboard() -> None:
    """Raise MissingExtraError where tensorboard is not installed."""
    _summary_writer()


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError("tensorboard", "train") from None
    return SummaryWriter


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl, if there is one; a line that a kill cut short is left out."""
    path = folder / METRICS
    lines: list[dict[str, float]] = []
    if not path.is_file():
        return lines
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
        for text in texts:
            try:
                lines.append(json.loads(text))
            except (ValueError, RecursionError):
                continue
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    return [line for line in lines if isinstance(line, dict) and isinstance(line.get("step"), int)]


def curves(folder: Path) -> Curves:
    """The noted values by name: pairs of step and value, in order."""
    found: Curves = {}
    for line in read_metrics(folder):
        for name, value in line.items():
            if name != "step":
                found.setdefault(name, []).append((int(line["step"]), value))
    return found
