"""The finished tiles of an attention map, in a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from verifier.attention.question import journal_lines, open_folder
from verifier.attention.table import MIXED, Table, Totals
from verifier.errors import InputError
from verifier.files import whole_file
from verifier.network.operators import Array

Cell = tuple[tuple[float, float], ...]
"""A tile: its range along each parameter, as shares of Θ."""


class TileStore:
    """The finished tiles of a map in a folder: ``map.json``, ``journal.jsonl``, and one ``.npz`` a tile.

    Args:
        folder: created if it is missing.
        question: what the map depends on, in words; a folder with another question is refused.
    """

    def __init__(self, folder: Path, question: dict[str, Any]) -> None:
        self.folder = folder
        self.records: dict[Cell, dict[str, Any]] = {}
        open_folder(folder, question)
        for record in journal_lines(self._journal):
            try:
                cell = tuple((a, b) for a, b in record["cell"])
            except (ValueError, KeyError, TypeError):
                continue  # torn by an interruption: the tile is walked again
            self.records[cell] = record

    @property
    def _journal(self) -> Path:
        return self.folder / "journal.jsonl"

    def __len__(self) -> int:
        """How many tiles are finished."""
        return len(self.files)

    @property
    def files(self) -> list[Path]:
        """The finished tiles' files."""
        return [self.folder / r["file"] for r in self.records.values() if "file" in r]

    def split(self, cell: Cell, parts: int) -> dict[str, Any]:
        """Note that a tile is replaced by ``parts`` × ``parts`` smaller ones."""
        return self._note(cell, {"split": parts})

    def write(self, cell: Cell, table: Table, totals: Totals, reason: str) -> dict[str, Any]:
        """Write a finished tile; ``reason`` says what is missing from it, if anything is."""
        name = f"tile_{len(self):05d}.npz"
        arrays = {k: v for k, v in vars(table).items() if v is not None}
        with whole_file(self.folder / name) as stream:
            np.savez(stream, **arrays)
        return self._note(cell, {"file": name, "reason": reason, "totals": vars(totals)})

    def _note(self, cell: Cell, what: dict[str, Any]) -> dict[str, Any]:
        record = {"cell": cell, **what}
        with self._journal.open("a") as stream:
            stream.write(json.dumps(record) + "\n")
        self.records[cell] = record
        return record

    def tables(self) -> Iterator[Table]:
        """The tiles' regions, one table after the other, from disk; parameters in their own units."""
        for path in self.files:
            with np.load(path) as data:
                yield Table(**dict(data))

    def joined(self) -> Table:
        """All regions, whole again and without polygons (so in about a fifth of the memory)."""
        names = [n for n in Table.__dataclass_fields__ if n not in ("vertices", "offsets", "edges")]
        columns: dict[str, list[Any]] = {n: [] for n in names}
        edges, count = [], 0
        for table in self.tables():
            for n in names:
                columns[n].append(getattr(table, n))
            edges.append(table.edges + count)
            count += len(table)
        piece = {n: np.concatenate(parts) for n, parts in columns.items()}
        keys, owner = np.unique(piece["keys"], return_inverse=True)
        order = np.lexsort((-piece["volumes"], owner))
        first = order[np.searchsorted(owner[order], np.arange(len(keys)))]
        starts = np.searchsorted(owner[order], np.arange(len(keys)))

        def whole(name: str, how: np.ufunc) -> Any:
            return how.reduceat(piece[name][order], starts)

        def kinds(name: str) -> Any:
            low, high = whole(name, np.minimum), whole(name, np.maximum)
            return np.where(low == high, low, MIXED).astype(np.int8)

        reach = np.linalg.norm(piece["farthest"], axis=1)
        far = np.lexsort((-reach, owner))
        pairs = np.sort(owner[np.concatenate(edges)], axis=1)
        return Table(
            volumes=whole("volumes", np.add),
            centers=piece["centers"][first],
            low=whole("low", np.minimum),
            high=whole("high", np.maximum),
            attention=kinds("attention"),
            label=kinds("label"),
            label_volumes=whole("label_volumes", np.add),
            winner=piece["winner"][first],
            edges=np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0),
            touches_border=whole("touches_border", np.logical_or),
            farthest=piece["farthest"][far[np.searchsorted(owner[far], np.arange(len(keys)))]],
            keys=keys,
        )

    def region_at(self, share: Array, table: Table) -> int:
        """The number, in a joined table, of the region at a point (as shares of Θ) where a tile's walk began.

        Shapes: share ``(d,)``.

        Raises:
            InputError: the tile at θ = 0 is not finished.
        """
        for record in self.records.values():
            if "file" in record and all(a <= v <= b for v, (a, b) in zip(share, record["cell"], strict=True)):
                with np.load(self.folder / record["file"]) as data:
                    key = data["keys"][0]
                assert table.keys is not None
                return int(np.searchsorted(table.keys, key))
        raise InputError("the tile at θ = 0 is not finished", place=str(self.folder))
