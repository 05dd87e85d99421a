"""Geometric boundary search (GBS): the outermost boundary around θ = 0 without visiting everything.

After Munakata et al. (NFM 2023, Algorithms 1–3), in our words:

1. *Approach*: from θ = 0 go straight, from region to region, to the border of Θ.
2. *Follow*: where the way leaves the robust part, follow the boundary: open all neighbours of every region that
   meets a region of the other kind (robust or not), in a face or in a vertex only: many lines can meet in one
   vertex, where whole pixels of translation bring pixels to 0 and 1 together. The border of Θ counts as the
   beginning of "not robust".
3. *Escape*: a boundary that was followed all around may belong to an enclave, an island inside the robust part.
   The way goes on behind it; what counts in the end is the last place where it leaves the robust part for
   good (at the border of Θ at the latest): that boundary is the outermost one.

The paper's w^δ (``band``) makes it also follow regions whose inconsistency is within w^δ of δ: since the inconsistency
jumps between regions, its own search needs the band to find a neighbour on the boundary at all, loses the boundary where
a jump passes the band over, and stops among regions near δ that lie on no boundary. Here the boundary is followed across
jumps, so that a band of 0 is enough, and one above 0 only opens more. And its "Robust" means that no region that is not
was met; here it means that every region was visited.

Regions far from the boundary and from the way are never opened. The result's table holds what was opened.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.attention.answer import Answer
from verifier.attention.maps_lp import cell_table, count_cells, lp_map
from verifier.attention.maps_plane import plane_map
from verifier.attention.opening import Opened, Openers, TimeUp
from verifier.attention.region_map import RegionMap
from verifier.attention.run import MapRun
from verifier.attention.table import ROBUST, SAME, Aspect, Totals, joint_kind
from verifier.attention.traversal.cells import Cell, exit_point
from verifier.network.operators import Array


class _Search:
    """The regions opened so far and what is known of them."""

    def __init__(self, opens: Openers, aspect: Aspect) -> None:
        self.run, self.aspect = opens.run, aspect
        self.opens, self.prepared = opens, opens.prepared
        self.totals = Totals(self.run.delta)
        self.cells: dict[int, Cell] = {}
        self.aliases: dict[int, int] = {}
        self.thin: set[int] = set()
        self.expanded: set[int] = set()
        self.corners: dict[tuple[int, ...], set[int]] = {}
        self.links: dict[int, set[int]] = {}
        """Neighbours on the way: the key across a face is not always foreseen, where it was not opened from it."""

    def open(self, at: Array, into: Array) -> int | None:
        """Open (or recognise) the region at a point towards a direction; its key, None for a sliver."""
        return self._take(0, self.opens.open(at, into, self.cells))

    def _take(self, foreseen: int, found: Opened) -> int | None:
        """Note a region that was opened where ``foreseen`` was expected (0: nothing)."""
        if found is None:
            self.thin.add(foreseen)
            return None
        key = found.key if isinstance(found, Cell) else found
        if isinstance(found, Cell) and key not in self.cells:
            (found,) = count_cells(self.run, self.prepared, self.totals, [found])
            self.cells[key] = found
            for corner in corner_keys(found.vertices):
                self.corners.setdefault(corner, set()).add(key)
        if foreseen and key != foreseen:
            self.aliases[foreseen] = key
        return key

    def meeting(self, key: int) -> set[int]:
        """The opened regions that share a face or a vertex with one."""
        found = set(self.opened_neighbours(key))
        for corner in corner_keys(self.cells[key].vertices):
            found |= self.corners[corner]
        return found - {key}

    def robust(self, key: int) -> bool:
        cell = self.cells[key]
        kinds = [np.array(k, dtype=np.int8) for k in (cell.label, cell.attention)]
        return bool(joint_kind(kinds[0], kinds[1], self.aspect) == ROBUST)

    def near(self, key: int) -> bool:
        """Whether a region is near the boundary of attention: an end of its range is within w^δ of δ (Algorithm 2)."""
        band, cell, delta = self.run.band, self.cells[key], self.run.delta
        return band > 0 and self.aspect != "label" and min(abs(cell.low - delta), abs(cell.high - delta)) <= band

    def opened_neighbours(self, key: int) -> Iterable[int]:
        for face in self.cells[key].faces:
            other = face.key if face.key in self.cells else self.aliases.get(face.key)
            if other is not None and other in self.cells:
                yield other
        yield from self.links.get(key, ())

    def expand(self, keys: Sequence[int]) -> None:
        """Open all neighbours of some regions, a wave of them at a time."""
        self.expanded.update(keys)
        faces: dict[int, tuple[Array, Array]] = {}
        for face in (face for key in keys for face in self.cells[key].faces):
            if not (face.key in self.cells or face.key in self.aliases or face.key in self.thin):
                faces.setdefault(face.key, (face.at, face.into))
        todo, size = list(faces), self.run.how.wave
        for wave in (todo[k : k + size] for k in range(0, len(todo), size)):
            opened = self.opens.open_all([faces[key] for key in wave], self.cells)
            for foreseen, found in zip(wave, opened, strict=True):
                self._take(foreseen, found)

    def way(self) -> list[int]:
        """Approach: the regions on a straight way from θ = 0 to the border of Θ."""
        point = self.prepared.origin
        direction = self.prepared.into
        keys: list[Any] = []
        for _ in range(1_000_000):
            key = self.open(point, direction)
            if key is not None and (not keys or keys[-1] != key):
                if keys:
                    self.links.setdefault(keys[-1], set()).add(key)
                    self.links.setdefault(key, set()).add(keys[-1])
                keys.append(key)
            from_here = point + 1e-12 * direction
            point = exit_point(self.prepared.tnet, self.opens.first.state, from_here, direction)
            if np.any((point <= 0) & (direction < 0)) or np.any((point >= 1) & (direction > 0)):
                break
        return keys

    def follow(self, start: Iterable[int]) -> set[int]:
        """Follow a boundary from regions beside it; everything that was opened beside it."""
        front, seen = list(start), set(start)
        while front:
            here = [key for key in front if key in self.cells and self._beside(key)]
            self.expand([key for key in here if key not in self.expanded])
            front = []
            for key in here:
                for other in self.meeting(key):
                    # what was opened before may lie beside the boundary only now
                    for candidate in (other, *self.opened_neighbours(other)):
                        if candidate not in seen and self._beside(candidate):
                            seen.add(candidate)
                            front.append(candidate)
        return seen

    def _beside(self, key: int) -> bool:
        """Whether a region is near the boundary, meets one of the other kind, or is robust and meets the border of Θ."""
        if self.near(key):
            return True
        kind = self.robust(key)
        if kind:
            vertices = self.cells[key].vertices
            if bool(((vertices < SAME) | (vertices > 1 - SAME)).any()):
                return True
        return any(self.robust(other) != kind for other in self.meeting(key))

    def connected(self, start: int) -> set[int]:
        """The opened robust regions that are connected with one through opened robust regions."""
        found, stack = {start}, [start]
        while stack:
            for other in self.opened_neighbours(stack.pop()):
                if other not in found and self.robust(other):
                    found.add(other)
                    stack.append(other)
        return found


def corner_keys(vertices: Array) -> set[tuple[int, ...]]:
    """Keys of vertices such that two that are the same but for rounding share one, wherever they lie in the grid.

    Shapes: vertices ``(k, d)``.
    """
    grids = itertools.product((0.0, 0.5), repeat=vertices.shape[1])
    return {
        (n, *corner)
        for n, shift in enumerate(grids)
        for corner in np.floor(vertices / (4 * SAME) + np.array(shift)).astype(np.int64).tolist()
    }


def whole_map(run: MapRun) -> RegionMap:
    """The exhaustive map: by linear programs for more than two parameters."""
    return lp_map(run) if run.perturbed.dimension > 2 else plane_map(run)


def boundary_map(run: MapRun, aspect: Aspect) -> RegionMap:
    """The map of the regions along the outermost boundary of one aspect; the whole map if the search meets none."""
    reason = ""
    inside: set[int] = set()
    outermost: set[int] = set()
    origin = 0
    with Openers(run) as opens:
        search = _Search(opens, aspect)
        try:
            way = search.way()
            origin = way[0]
            if search.robust(origin):
                inside, outermost = _outermost(search, way)
        except TimeUp:
            reason = f"stopped after {run.timeout:g} s"
    cells = dict(search.cells)
    totals = search.totals
    order = {key: k for k, key in enumerate(cells)}

    def mask(keys: set[int]) -> npt.NDArray[np.bool_]:
        result = np.zeros(len(cells), dtype=bool)
        result[[order[k] for k in keys]] = True
        return result

    found = run.result(
        totals,
        "gbs",
        reason,
        cell_table(search.prepared, cells, search.aliases, run.perturbed.box),
        origin=order.get(origin, 0),
        boundary={aspect: (mask(inside), mask(outermost))},
        statistics={"expanded": len(search.expanded), "linear programs": opens.programs},
    )
    # no boundary around what was opened: whether there is one elsewhere, only the whole map tells
    return whole_map(run) if found.answers[aspect].answer is Answer.UNDECIDED and not reason else found


def _outermost(search: _Search, way: list[int]) -> tuple[set[int], set[int]]:
    """The opened regions of the robust part around θ = 0, and those beside it on its outermost boundary."""
    inside = search.connected(way[0])
    curve: set[int] = set()
    last_inside = 0
    for k, key in enumerate(way):
        if key in inside:
            last_inside = k
            leaves = k + 1 == len(way) or not search.robust(way[k + 1])
            if leaves:
                curve = search.follow([key, *way[k + 1 : k + 2]])
                inside = search.connected(way[0])
    if last_inside + 1 == len(way):
        curve = search.follow([way[-1]])
        inside = search.connected(way[0])
    beside = {other for key in inside for other in search.opened_neighbours(key) if not search.robust(other)}
    return inside, beside & curve
