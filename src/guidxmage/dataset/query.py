"""Questions about a data set, by DuckDB; nothing but its rows can be read, and nothing written."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guidxmage.dataset.ledger import Head, Ledger, Line
from guidxmage.dataset.questions import Question, question_of
from guidxmage.dataset.schema import COLUMNS, arrow_schema
from guidxmage.errors import InputError, MissingExtraError
from guidxmage.files.names import brief, shown

# Rows hardly compress: a shard that would unpack to more was made to do harm.
_RATIO, _SMALL = 100, 2**28
_MEMORY = "4GB"
# Of one photo; more classes than any network has.
_MOST_TARGETS = 2**24
SECONDS = 300.0
"""What a query may take by default."""
# How often it is looked whether a query has ended; what one that was told to stop is given for it.
_LOOK, _GRACE = 0.2, 5.0
_PIECE = 10_000
# All that is done with a connection is in memory; a query may be anybody's.
_LOCKED = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "temp_directory": "",
    "memory_limit": _MEMORY,
}


@dataclass(frozen=True)
class Answer:
    """A table: names of its columns, and rows of plain values as JSON has them."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def to_json(self) -> list[dict[str, Any]]:
        """A list of objects."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        cells = [self.columns, *([in_cell(value) for value in row] for row in self.rows)]
        widths = [max(len(line[n]) for line in cells) for n in range(len(self.columns))]
        numbers = [
            all(isinstance(row[n], int | float | None) for row in self.rows)
            for n in range(len(self.columns))
        ]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if number else cell.ljust(width)
                for cell, width, number in zip(line, widths, numbers, strict=True)
            ).rstrip()
            for line in cells
        )


class Dataset:
    """A data set that was made, to be asked.

    head: what it is made of. lines: of the blocks that are there and whole, by number.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._ledger = Ledger(self.folder)
        self.head: Head = self._ledger.head()
        known = self._ledger.lines()
        blocks = [block for block in sorted(known) if block < self.head.blocks]
        whole = {block: self._ledger.whole(block, known, self.head) for block in blocks}
        self.lines: dict[int, Line] = {b: line for b, line in whole.items() if line is not None}
        if not self.lines:
            raise InputError(f"{shown(folder)} has no finished block yet")

    @property
    def missing(self) -> int:
        """Photos of the source that have no rows yet."""
        return max(self.head.photos - sum(line.photos for line in self.lines.values()), 0)

    @property
    def seconds(self) -> float:
        """What all blocks took together, on one worker."""
        return sum(line.seconds for line in self.lines.values())

    def query(
        self,
        sql: str,
        other: Dataset | None = None,
        *,
        most: int | None = None,
        seconds: float | None = SECONDS,
    ) -> Answer:
        """The answer to a ready question, by name, or to SQL; at most so many rows of it.

        The tables are `rows` (all of them, with `seconds`), `explained` (those without an error, of
        copies of a photo with the same label and mask only the first), `blocks` and, for a second
        data set, `other` (its explained rows). Nothing else can be read, and nothing written.
        seconds: what it may take; None for as long as it does. Raises InputError for what is no
        SQL, and for what takes longer.
        """
        question = question_of(sql)
        if question.two and other is None:
            raise InputError("this question is about two data sets; give the other one as well")
        return self.ask(question, other, most, seconds)

    def ask(
        self,
        question: Question,
        other: Dataset | None,
        most: int | None,
        seconds: float | None = SECONDS,
    ) -> Answer:
        """The answer to a question, see `query`."""
        duckdb = _duckdb()
        asked = _Asked(self._connected(duckdb, other), question.sql, most)
        try:
            return asked.answer(seconds)
        except (duckdb.Error, OSError, MemoryError) as error:
            raise InputError(f"the query cannot be answered: {_sentence(error)}") from error

    def _connected(self, duckdb: Any, other: Dataset | None) -> Any:
        connection = duckdb.connect(":memory:", config=_LOCKED)
        for name, one in (("rows", self), ("other_rows", other)):
            if one is not None:
                one._add_to(connection, name)
        connection.execute(_explained("explained", "rows"))
        if other is not None:
            connection.execute(_explained("other", "other_rows"))
        connection.execute("SET lock_configuration = true")
        return connection

    def _add_to(self, connection: Any, name: str) -> None:
        blocks = "blocks" if name == "rows" else "other_blocks"
        connection.register(f"_{name}", self._shards())
        connection.register(f"_{blocks}", self._blocks())
        connection.execute(f"CREATE VIEW {blocks} AS SELECT * FROM _{blocks}")
        connection.execute(
            f"CREATE VIEW {name} AS SELECT r.*, b.seconds / b.photos AS seconds FROM _{name} r "
            f"LEFT JOIN _{blocks} b ON r.item // {self.head.block} = b.block"
        )

    def _shards(self) -> Any:
        """All rows, read when they are asked for. Raises InputError for what was made by others."""
        import pyarrow as pa
        import pyarrow.dataset as ds

        files = [self._ledger.shard(block) for block in self.lines]
        try:
            for file in files:
                _check_shard(file)
            return ds.dataset([str(file) for file in files], schema=arrow_schema())
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{self.folder} is damaged: {brief(error)}") from error

    def _blocks(self) -> Any:
        import pyarrow as pa

        return pa.table(
            {
                "block": pa.array(list(self.lines), pa.int64()),
                "photos": [line.photos for line in self.lines.values()],
                "errors": [line.errors for line in self.lines.values()],
                "seconds": [line.seconds for line in self.lines.values()],
            }
        )


class _Asked:
    """A query that runs in a thread of its own, so that a signal or the time can end it."""

    def __init__(self, connection: Any, sql: str, most: int | None) -> None:
        self._connection, self._sql, self._most = connection, sql, most
        self._answer: Answer | None = None
        self._error: Exception | None = None
        self._stop = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def answer(self, seconds: float | None) -> Answer:
        """What comes of it. Raises InputError after so many seconds, and what DuckDB raises."""
        until = math.inf if seconds is None else time.monotonic() + seconds
        self._thread.start()
        try:
            while self._thread.is_alive() and time.monotonic() < until:
                self._thread.join(_LOOK)
            ended = not self._thread.is_alive()
        except BaseException:  # interrupted
            self._end()
            raise
        if not ended:
            self._end()
            raise InputError(
                f"the query takes longer than {seconds:g} seconds; ask for less, or give it more"
            )
        if self._error is not None:
            raise self._error
        assert self._answer is not None
        return self._answer

    def _run(self) -> None:
        try:
            result = self._connection.execute(self._sql)
            columns = tuple(column[0] for column in result.description or ())
            rows = tuple(tuple(map(_plain, row)) for row in self._fetched(result))
            self._answer = Answer(columns, rows)
        except Exception as error:
            self._error = error
        finally:
            self._connection.close()

    def _fetched(self, result: Any) -> Iterator[tuple[Any, ...]]:
        """In pieces, between which it can be stopped: one is a single step for Python."""
        left = math.inf if self._most is None else self._most
        while left > 0 and not self._stop:
            piece = result.fetchmany(int(min(left, _PIECE)))
            yield from piece
            left -= len(piece)
            if not piece:
                return

    def _end(self) -> None:
        """Told to stop; one that does not is left behind, and ends with the process."""
        self._stop = True
        with suppress(Exception):  # it ended meanwhile
            self._connection.interrupt()
        self._thread.join(_GRACE)


def _explained(name: str, rows: str) -> str:
    """SQL: the rows without an error, of copies with one label and mask only those of the first.

    By a group of short keys, since ten million rows must fit into the memory: half of a SHA-256 is
    as unlikely to be another photo's.
    """
    place = f"item * {_MOST_TARGETS} + rank"
    return (
        f"CREATE VIEW {name} AS SELECT * FROM {rows} WHERE error IS NULL AND {place} IN "
        f"(SELECT min({place}) FROM {rows} WHERE error IS NULL "
        "GROUP BY left(id, 32)::UUID, hash(target_name, target, against, label, mask))"
    )


def _check_shard(file: Path) -> None:
    """Raises InputError where a file has other columns, or unpacks to more than rows do."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as opened:
        if opened.schema_arrow.names != list(COLUMNS):
            raise InputError(f"{shown(file)} has other columns; it is of another version")
        about = opened.metadata
        unpacked = sum(about.row_group(n).total_byte_size for n in range(about.num_row_groups))
    if unpacked > max(_SMALL, _RATIO * file.stat().st_size):
        raise InputError(f"{shown(file)} would unpack to {unpacked} bytes, which no rows do")


def _duckdb() -> Any:
    try:
        import duckdb
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(error.name or "duckdb", "dataset") from error
    return duckdb


def _sentence(error: Exception) -> str:
    return brief(str(error).split("\n\n")[0].replace("\n", " "), 300)


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    return value.hex() if isinstance(value, bytes) else str(value)


def in_cell(value: Any) -> str:
    """A value for a reader: numbers in four figures, ids of which a dozen digits will do."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(in_cell, value))
    text = shown(value)
    return text[:12] if len(text) == 64 and text.isalnum() else text
