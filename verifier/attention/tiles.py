"""Maps of any size: Θ in tiles, one after the other, each tile's regions in a file of its own.

A tile that turns out to hold more regions than may be kept in memory is given up and split; how finely, the
share of it that was covered by then says. The folder's journal has one line per finished or split tile, written
after the tile's file, so that an interrupted run loses the tile at work and nothing else, and goes on from there
when it is called again with the same arguments.

A region that a cut between tiles goes through is in both tiles, with the same key; `TileStore.joined` puts such
pieces together. Cuts keep off round numbers, where perturbations bend and regions would end at the cut itself.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from verifier.attention.maps import MapRun, Totals, plane_table
from verifier.attention.maps_lp import cell_table, explorer_of, lp_walk
from verifier.attention.problem import Problem, problem
from verifier.attention.raster import Raster
from verifier.attention.region_map import MIXED, RegionMap, Table
from verifier.errors import InputError
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.properties.sets import Box
from verifier.regions.traversal import Regions

Cell = tuple[tuple[float, float], ...]
"""A tile: its range along each parameter, as shares of Θ."""
OFF = 0.0437
"""Cuts are moved by this share of a tile's width."""


class TileStore:
    """The finished tiles of a map in a folder: ``map.json``, ``journal.jsonl``, and one ``.npz`` a tile.

    Args:
        folder: created if it is missing.
        question: what the map depends on, in words; a folder with another question is refused.
    """

    def __init__(self, folder: Path, question: dict[str, Any]) -> None:
        self.folder = folder
        self.records: dict[Cell, dict[str, Any]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        head = folder / "map.json"
        if not head.exists():
            head.write_text(json.dumps(question, indent=1) + "\n")
        elif (found := json.loads(head.read_text())) != question:
            differ = sorted(k for k in {*found, *question} if found.get(k) != question.get(k))
            raise InputError(
                f"holds the tiles of another map: {', '.join(differ)} differ",
                place=str(folder),
                fix="choose another folder, or remove this one",
            )
        if self._journal.exists():
            text = self._journal.read_text()
            if text and not text.endswith("\n"):
                self._journal.write_text(text + "\n")  # so that the next record gets a line of its own
            for line in text.splitlines():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:
                    continue  # torn by an interruption: the tile is walked again
                self.records[tuple((a, b) for a, b in record["cell"])] = record

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
        half = self.folder / "unfinished.npz"
        np.savez(half, **arrays)
        os.replace(half, self.folder / name)
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
        """The number, in a joined table, of the region at a point (as shares of Θ) where a tile's walk began."""
        for record in self.records.values():
            if "file" in record and all(a <= v <= b for v, (a, b) in zip(share, record["cell"], strict=True)):
                with np.load(self.folder / record["file"]) as data:
                    key = data["keys"][0]
                assert table.keys is not None
                return int(np.searchsorted(table.keys, key))
        raise InputError("the tile at θ = 0 is not finished", place=str(self.folder))


def tiled_map(run: MapRun, folder: Path) -> RegionMap:
    """The exhaustive map in tiles, its regions in a folder."""
    store = TileStore(folder, _question(run))
    totals, reason = Totals(run.delta), ""
    raster = Raster(run.perturbed.box) if run.perturbed.dimension == 2 else None
    todo: list[Cell] = [((0.0, 1.0),) * run.perturbed.dimension]
    while todo:
        cell = todo.pop()
        record = store.records.get(cell)
        if record is None:
            record = _tile(run, store, cell, totals)
        if record is None:
            reason = f"stopped after {run.timeout:g} s; {len(store)} finished tiles are in {folder}"
            break
        if "split" in record:
            todo += reversed(parts(cell, record["split"]))
            continue
        totals.join(Totals(**record["totals"]))
        reason = reason or record["reason"]
        if raster is not None:
            with np.load(folder / record["file"]) as data:
                raster.paint(
                    data["vertices"], data["offsets"], data["volumes"], data["attention"], data["label_volumes"]
                )
    return run.result(
        totals,
        "exhaustive",
        reason,
        None,
        tiles=store,
        raster=None if raster is None else raster.shares(),
        statistics={"tiles": len(store)},
    )


def _tile(run: MapRun, store: TileStore, cell: Cell, before: Totals) -> dict[str, Any] | None:
    """Walk one tile; its journal record, None if the time is up."""
    whole = run.perturbed.box
    ends = np.array(cell)
    box = Box(whole.lower + ends[:, 0] * whole.width, whole.lower + ends[:, 1] * whole.width)
    share = float(np.prod(ends[:, 1] - ends[:, 0]))
    prepared = problem(run.perturbed, run.settings, run.label, box=box)
    part = Totals(run.delta)
    run = run.after(before, share)
    walk = _cells if run.perturbed.dimension > 2 else _polygons
    table, tolerance = walk(run, prepared, part)
    if part.regions > run.keep:
        axes = min(run.perturbed.dimension, 2)
        fine = math.ceil((2.0 * part.regions / (run.keep * max(part.covered, 1e-6))) ** (1 / axes))
        return store.split(cell, min(max(fine, 2), 32))
    if table is None:
        return None
    hole = not abs(part.covered - 1.0) <= tolerance
    reason = f"the regions found cover {part.covered:.12g} of the tile {cell}" if hole else ""
    return store.write(cell, table, part.scaled(share), reason)


def _polygons(run: MapRun, prepared: Problem, part: Totals) -> tuple[Table | None, float]:
    """The regions of a tile of one or two parameters (None: too many, or the time is up); tolerance of their area."""
    chunk = min(20_000, run.keep + 1)
    regions = Regions(
        prepared.tnet, prepared.expected, run.delta, run.label, prepared.origin, prepared.into, chunk=chunk
    )
    chunks = []
    for found in regions:
        part.add(found.areas, found.low, found.high, found.attention, found.label, found.label_area)
        chunks.append(found)
        run.heard(part.regions, part.covered)
        if run.late or part.regions > run.keep:
            return None, 0.0
    return plane_table(prepared, chunks, regions.aliases, run.perturbed.box), 1e-9


def _cells(run: MapRun, prepared: Problem, part: Totals) -> tuple[Table | None, float]:
    """The same for more parameters."""
    walk = lp_walk(run, explorer_of(prepared, run), prepared, part)
    if walk.reason:
        return None, 0.0
    return cell_table(prepared, walk.cells, walk.aliases, run.perturbed.box), 1e-6


def parts(cell: Cell, count: int) -> list[Cell]:
    """A tile in ``count`` × ``count`` parts along its first two parameters (``count`` along the only one)."""
    ranges = []
    for low, high in cell[:2]:
        inner = [low + (high - low) * (k + OFF) / count for k in range(1, count)]
        ranges.append(list(itertools.pairwise([low, *inner, high])))
    return [(*pick, *cell[2:]) for pick in itertools.product(*ranges)]


def _fingerprint(network: Network) -> str:
    """A hash of operators, wiring and weights."""
    digest = hashlib.sha256()
    for node in network.nodes:
        digest.update(repr((type(node.operator).__name__, node.inputs, node.shape)).encode())
        for name, value in sorted(vars(node.operator).items()):
            digest.update(name.encode())
            digest.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return digest.hexdigest()[:16]


def _question(run: MapRun) -> dict[str, Any]:
    """What a map depends on, so that a folder is never continued with another question."""
    layer = run.perturbed

    def digest(*values: Any) -> str:
        return hashlib.sha256(b"".join(np.ascontiguousarray(v).tobytes() for v in values)).hexdigest()[:16]

    paths = [
        (p.low, p.high, path.breaks, path.slopes) for p, path in zip(layer.perturbations, layer.paths, strict=True)
    ]
    return {
        "network": _fingerprint(layer.original),
        "image": digest(layer.image),
        "parameters": {n: [p.low, p.high] for n, p in zip(layer.labels, layer.perturbations, strict=True)},
        "perturbations": digest(*(v for path in paths for v in path)),
        "clip": layer.clip,
        "label": run.label,
        "delta": run.delta,
        "inconsistency": vars(run.settings),
        "keep": run.keep,
    }
