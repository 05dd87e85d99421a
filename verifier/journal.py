"""A journal: answers in a file, a line of JSON each, added one by one, so that a run that was cut off goes on where it was."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from verifier.errors import InputError


class Journal:
    """Records by key. A line that was cut off in the middle of writing counts as not written.

    Args:
        path: the file; made with the first record.
        what: of what it is a journal, for messages ("certified accuracy").

    Raises:
        InputError: the file is no such journal.
    """

    def __init__(self, path: str | Path, what: str) -> None:
        self.path, self.what, self._lock = Path(path), what, threading.Lock()
        self._known = dict(self._read())

    def _read(self) -> Iterator[tuple[str, dict[str, Any]]]:
        if not self.path.exists():
            return
        rows = self.path.read_bytes().splitlines(keepends=True)
        for number, row in enumerate(rows, start=1):
            try:
                record = json.loads(row)
                yield record["key"], dict(record["line"])
            except (ValueError, KeyError, TypeError):
                if number == len(rows) and not row.endswith(b"\n"):  # cut off in the middle of writing
                    os.truncate(self.path, self.path.stat().st_size - len(row))
                    return
                place = f"{self.path}, line {number}"
                raise InputError(f"this is no journal of {self.what}", place=place, fix="name another file") from None

    def get(self, key: str) -> dict[str, Any] | None:
        """A record, if it is known."""
        return self._known.get(key)

    def put(self, key: str, record: dict[str, Any]) -> None:
        """Add a record."""
        with self._lock, self.path.open("a", encoding="utf-8") as stream:
            self._known[key] = record
            stream.write(json.dumps({"key": key, "line": record}) + "\n")
