"""The journal of a category's run: an SQLite file that survives kill -9 and says what is left to do.

Every start and every result is written at once (write-ahead log, synchronous). An instance with a result is never
run again; one that was started but has no result was lost with its runner, and is open again.
"""

from __future__ import annotations

import fcntl
import json
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from verifier.errors import InputError, OutputError
from verifier.files import make_folder
from verifier.vnncomp.category import Category, Instance

_SCHEMA = """
CREATE TABLE IF NOT EXISTS run (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS instance (
    number INTEGER PRIMARY KEY, onnx TEXT NOT NULL, vnnlib TEXT NOT NULL, timeout REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS start (
    number INTEGER NOT NULL REFERENCES instance, at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS result (
    number INTEGER PRIMARY KEY REFERENCES instance, result TEXT NOT NULL, seconds REAL NOT NULL,
    engine TEXT NOT NULL, stage TEXT NOT NULL, reason TEXT NOT NULL, counterexample TEXT NOT NULL,
    witness TEXT NOT NULL, worker TEXT NOT NULL, at REAL NOT NULL
);
"""


@dataclass(frozen=True, kw_only=True)
class Record:
    """How one instance ended.

    Attributes:
        number: the instance.
        result: "sat", "unsat", "unknown", "timeout" or "error".
        seconds: wall-clock seconds from process start to exit.
        engine, stage, reason: as in the verdict.
        counterexample: the text after ``sat``.
        witness: what the competition's check says of it: "valid", "outside by …" (credited), "INVALID: …".
        worker: where it ran.
    """

    number: int
    result: str
    seconds: float
    engine: str = ""
    stage: str = ""
    reason: str = ""
    counterexample: str = ""
    witness: str = ""
    worker: str = ""

    @property
    def solved(self) -> bool:
        """Whether this is sat or unsat."""
        return self.result in ("sat", "unsat")


class Journal:
    """An open journal. Only one process may hold it.

    Args:
        file: the SQLite file; made if it does not exist.
        category: the category; its instances must be those of the journal.
        settings: what the run's figures depend on (engine, threads, …): must be those of the journal.

    Raises:
        InputError: another process holds it; it belongs to another category or to other settings.
    """

    def __init__(self, file: Path, category: Category, settings: Mapping[str, Any] | None = None) -> None:
        self.file = file
        make_folder(file.parent)
        try:
            self._lock = file.with_name(file.name + ".lock").open("w")
        except OSError as error:
            raise OutputError(f"cannot be written: {error.strerror or error}", place=str(file)) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise InputError("another run is using this journal", place=str(file)) from None
        try:
            self._db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
            self._db.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; {_SCHEMA}")
            self._check(category, settings)
        except sqlite3.DatabaseError as error:
            self._lock.close()
            raise InputError(f"not a journal: {error}", place=str(file)) from None
        except BaseException:
            self.close()
            raise

    def _do(self, words: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """One statement; OutputError if the file cannot take it (a full disk, say)."""
        try:
            return self._db.execute(words, values)
        except sqlite3.OperationalError as error:
            raise OutputError(f"cannot be written: {error}", place=str(self.file)) from None

    def _check(self, category: Category, settings: Mapping[str, Any] | None) -> None:
        rows = [(i.number, i.onnx, i.vnnlib, i.timeout) for i in category.instances]
        stored = self._do("SELECT number, onnx, vnnlib, timeout FROM instance ORDER BY number").fetchall()
        wanted = None if settings is None else json.dumps(dict(settings), sort_keys=True)
        if not stored:
            self._do("BEGIN")
            self._db.executemany("INSERT INTO instance VALUES (?, ?, ?, ?)", rows)
            self._do("INSERT INTO run VALUES ('category', ?)", (category.name,))
            self._do("INSERT INTO run VALUES ('settings', ?)", (wanted or "{}",))
            self._do("COMMIT")
            return
        if stored != rows:
            raise InputError(
                "the journal holds other instances",
                place=str(self.file),
                fix="has instances.csv changed? start afresh with --fresh",
            )
        (kept,) = self._do("SELECT value FROM run WHERE key = 'settings'").fetchone()
        if wanted is not None and kept != wanted:
            raise InputError(
                f"the journal was begun with settings {kept}, and these are {wanted}",
                place=str(self.file),
                fix="use the same settings to resume, or start afresh with --fresh",
            )

    @property
    def settings(self) -> dict[str, Any]:
        """The settings with which the run was begun."""
        (kept,) = self._do("SELECT value FROM run WHERE key = 'settings'").fetchone()
        return dict(json.loads(kept))

    @property
    def workers(self) -> list[int]:
        """The numbers of workers with which instances were run, the run and its resumptions together."""
        rows = self._do("SELECT value FROM run WHERE key LIKE 'workers %'").fetchall()
        return sorted(int(value) for (value,) in rows)

    def worked_by(self, workers: int) -> None:
        """Keep with how many workers instances are run."""
        self._do("INSERT OR IGNORE INTO run VALUES (?, ?)", (f"workers {workers}", str(workers)))

    def started(self, number: int) -> None:
        """An instance is about to run."""
        self._do("INSERT INTO start VALUES (?, ?)", (number, time.time()))

    def finished(self, record: Record) -> bool:
        """Keep a result; False, with the first one kept, if the instance already has one."""
        row = asdict(record)
        names = ", ".join(row)
        marks = ", ".join("?" for _ in row)
        done = self._do(f"INSERT OR IGNORE INTO result ({names}, at) VALUES ({marks}, ?)", (*row.values(), time.time()))
        return done.rowcount == 1

    def records(self) -> dict[int, Record]:
        """All results so far, by instance."""
        names = [f.name for f in fields(Record)]
        rows = self._do(f"SELECT {', '.join(names)} FROM result ORDER BY number")
        return {row[0]: Record(**dict(zip(names, row, strict=True))) for row in rows}

    def starts(self) -> dict[int, int]:
        """How often each instance was started."""
        return dict(self._do("SELECT number, COUNT(*) FROM start GROUP BY number").fetchall())

    def open_instances(self, instances: Iterable[Instance]) -> list[Instance]:
        """Those of the instances that have no result."""
        done = self.records()
        return [instance for instance in instances if instance.number not in done]

    def forget_unsolved(self) -> int:
        """Open the instances again that ended unsolved (after an improvement, say); how many."""
        return self._do("DELETE FROM result WHERE result NOT IN ('sat', 'unsat')").rowcount

    def close(self) -> None:
        """Close the file and give up the lock."""
        self._db.close()
        self._lock.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
