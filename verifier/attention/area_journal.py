"""What was found of tiles of Θ, kept in a folder, so that an interrupted search goes on where it was.

Which tiles are bounded, and which together, follows from the question and from what was found of others, but not from the
clock. So the same search is run again, with the journal's word in place of bounds as far as the journal goes: the result
is the one of a search that was not interrupted, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.attention.area_result import Tiles
from verifier.attention.question import journal_lines, open_folder


@dataclass(frozen=True)
class Found:
    """What bounds tell of some tiles.

    Attributes:
        kinds: ``(N, 2)`` of label and attention.
        lowest: the smallest margin met where the label was not proved, and its parameter.
    """

    kinds: npt.NDArray[np.int8]
    lowest: tuple[float, list[float]] | None


class AreaJournal:
    """The findings of one search: ``map.json`` says of which, ``areas.jsonl`` has a line for each piece of tiles.

    Args:
        folder: created if it is missing.
        question: what the findings depend on; a folder with another question is refused.
    """

    def __init__(self, folder: Path, question: dict[str, Any]) -> None:
        open_folder(folder, question)
        self._path, self._lock = folder / "areas.jsonl", threading.Lock()
        self._known: dict[str, Found] = {}
        for record in journal_lines(self._path):
            try:
                lowest = record["lowest"]
                kinds = np.array(record["kinds"], dtype=np.int8).reshape(-1, 2)
                found = Found(kinds, None if lowest is None else (float(lowest[0]), list(lowest[1])))
                self._known[record["tiles"]] = found
            except (KeyError, TypeError, ValueError, IndexError):
                continue  # torn by an interruption: these tiles are bounded again

    def recall(self, batch: Tiles, told: Sequence[bool]) -> Found | None:
        """What was found of these tiles when so much was told; None if they were not bounded so."""
        return self._known.get(_name(batch, told))

    def note(self, batch: Tiles, told: Sequence[bool], found: Found) -> None:
        """Keep what was found."""
        record = {"tiles": _name(batch, told), "kinds": found.kinds.tolist(), "lowest": found.lowest}
        with self._lock, self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")


def _name(batch: Tiles, told: Sequence[bool]) -> str:
    parts = (batch.low, batch.high, batch.kinds, np.array(told))
    return hashlib.sha256(b"".join(np.ascontiguousarray(p).tobytes() for p in parts)).hexdigest()[:32]
