"""Maps of three and more parameters, region by region, by linear programs."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from verifier.attention.opening import Explorer, Openers, TimeUp
from verifier.attention.problem import Problem
from verifier.attention.region_map import RegionMap
from verifier.attention.run import MapRun, real_sides
from verifier.attention.table import Graded, Table, Totals
from verifier.attention.traversal.cells import Cell
from verifier.attention.traversal.programs import TOLERANCE
from verifier.network.operators import Array
from verifier.properties.sets import Box


@dataclass(frozen=True, eq=False)
class CellWalk:
    """What a walk by linear programs found; ``reason`` says why it stopped early, if it did."""

    cells: dict[int, Cell]
    aliases: dict[int, int]
    reason: str
    programs: int
    thin: int


def lp_walk(opens: Openers, totals: Totals) -> CellWalk:
    """Open all regions of the unit cube, breadth first; stops when the time is up or more than ``run.keep`` are open."""
    run, prepared = opens.run, opens.prepared
    cells: dict[int, Cell] = {}
    aliases: dict[int, int] = {}
    thin: set[int] = set()
    todo = deque([(prepared.origin, prepared.into, 0)])
    reason, heard = "", 0
    while todo and not reason:
        wave: dict[int, tuple[Array, Array]] = {}
        while todo and len(wave) < run.how.wave:
            at, into, foreseen = todo.popleft()
            if not (foreseen in cells or foreseen in aliases or foreseen in thin):
                wave.setdefault(foreseen, (at, into))
        try:
            opened = opens.open_all(list(wave.values()), cells)
        except TimeUp:
            reason = f"stopped after {run.timeout:g} s"
            break
        for foreseen, found in zip(wave, opened, strict=True):
            if found is None:
                thin.add(foreseen)
                continue
            key = found.key if isinstance(found, Cell) else found
            if foreseen and key != foreseen:
                aliases[foreseen] = key
            if not isinstance(found, Cell) or key in cells:
                continue
            (found,) = count_cells(run, prepared, totals, [found])
            cells[key] = found
            todo.extend((f.at, f.into, f.key) for f in found.faces if f.key not in cells)
            if len(cells) - heard >= 100:
                heard = len(cells)
                run.heard(heard, totals.covered)
            if len(cells) > run.keep:
                reason = f"more than {run.keep:,} regions"
                break
    return CellWalk(cells, aliases, reason, opens.programs, len(thin))


def lp_map(run: MapRun, kind: type[Explorer] | None = None) -> RegionMap:
    """The exhaustive map, breadth first from θ = 0; ``kind`` opens the regions (`Openers`)."""
    totals = Totals(run.delta)
    with Openers(run, kind=kind) as opens:
        walk = lp_walk(opens, totals)
    reason = walk.reason
    if not reason and abs(totals.covered - 1.0) > 1e-6:
        reason = f"the regions found cover {totals.covered:.9g} of Θ"
    return run.result(
        totals,
        "exhaustive",
        reason,
        cell_table(opens.prepared, walk.cells, walk.aliases, run.perturbed.box),
        statistics={"linear programs": walk.programs, "thin": walk.thin},
    )


def count_cells(run: MapRun, prepared: Problem, totals: Totals, cells: list[Cell]) -> list[Cell]:
    """Add cells to the totals; the same cells with what is within rounding of delta decided exactly."""

    def column(name: str, kind: type = np.float64) -> Array:
        return np.array([getattr(c, name) for c in cells], dtype=kind)

    def polygon(k: int) -> Array:
        corners: Array = prepared.box.lower + cells[k].vertices * prepared.box.width
        return corners[:, :1] if prepared.idle else corners

    found = run.settled(
        Graded(
            volumes=column("volume"),
            low=column("low"),
            high=column("high"),
            attention=column("attention", np.int8),
            label=column("label", np.int8),
            label_volumes=column("label_volume"),
            tied=column("tied", np.int8),
            near=np.zeros(len(cells), dtype=bool),
            doubtful=column("doubtful", np.bool_),
            polygon=polygon,
        )
    )
    totals.add(found)
    columns = zip(cells, found.low.tolist(), found.high.tolist(), found.attention.tolist(), strict=True)
    return [replace(c, low=low, high=high, attention=kind) for c, low, high, kind in columns]


def cell_table(prepared: Problem, cells: Mapping[int, Cell], aliases: Mapping[int, int], whole: Box) -> Table:
    """The cells as a table, in the order in which they were found; ``prepared.box`` may be a tile of ``whole``."""
    d = len(prepared.tnet.width)
    lower, width = prepared.box.lower, prepared.box.width
    scale = float(np.prod(width))
    number = {key: k for k, key in enumerate(cells)}
    found = list(cells.values())
    pairs = set()
    for k, cell in enumerate(found):
        for face in cell.faces:
            other = number.get(face.key, number.get(aliases.get(face.key, 0)))
            if other is not None and other != k:
                pairs.add((min(k, other), max(k, other)))
    vertices = [lower + c.vertices * width for c in found]
    real = 1 if prepared.idle else d
    farthest = [v[int(np.argmax(np.linalg.norm(v[:, :real], axis=1)))] for v in vertices]
    sides = [(axis, side) for axis in range(real) for side in real_sides(prepared.box, whole, axis)]
    touches = [
        any(int((np.abs(c.vertices[:, axis] - side) < TOLERANCE).sum()) >= d for axis, side in sides) for c in found
    ]
    if prepared.idle:
        flat = np.concatenate([[[v[:, 0].min()], [v[:, 0].max()]] for v in vertices])
        offsets = 2 * np.arange(len(found) + 1)
    else:
        flat = np.concatenate(vertices)
        offsets = np.cumsum([0] + [len(v) for v in vertices])
    return Table(
        volumes=np.array([c.volume for c in found]) * scale,
        centers=np.stack([v.mean(axis=0) for v in vertices])[:, :real],
        low=np.array([c.low for c in found]),
        high=np.array([c.high for c in found]),
        attention=np.array([c.attention for c in found], dtype=np.int8),
        label=np.array([c.label for c in found], dtype=np.int8),
        label_volumes=np.array([c.label_volume for c in found]) * scale,
        winner=np.array([c.winner for c in found], dtype=np.int16),
        edges=np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2),
        touches_border=np.array(touches),
        farthest=np.stack(farthest)[:, :real],
        vertices=flat,
        offsets=offsets,
        keys=np.array(list(cells), dtype=np.uint64),
    )
