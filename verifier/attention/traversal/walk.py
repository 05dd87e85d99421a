"""Traversal of the linear regions of a network over a box of one or two parameters, region by region.

`Regions` walks by `verifier.attention.traversal.plane` and hands the regions out in chunks, so that a map of
any size needs the memory of its seen-set and one chunk. (More parameters: `verifier.attention.traversal.programs`.)
A box of one parameter is walked as a square with an idle second parameter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from verifier.attention.traversal import plane, polygon
from verifier.attention.traversal.kernels import Expected
from verifier.attention.traversal.net import TraversalNet, new_state
from verifier.network.operators import Array


@dataclass(frozen=True, eq=False, kw_only=True)
class RegionChunk:
    """Some regions of a walk, in flat arrays; parameters are scaled to the unit square.

    Attributes:
        keys: ``(P,)`` hash of each region's active neurons.
        offsets: ``(P + 1,)``; region i has the vertices ``offsets[i]`` to ``offsets[i + 1]``.
        vertices: ``(V, 2)``, counter-clockwise.
        neighbours: ``(V,)`` key of the region across the edge that starts at each vertex; 0 at the border
            of the square and across edges too short to be crossed.
        areas: ``(P,)``.
        low, high: ``(P,)`` bounds on the inconsistency's range over the region: `high` is its maximum, `low` at
            most its minimum (equal to it where the expected map stands still).
        attention: ``(P,)`` 0: inconsistency <= delta everywhere, 1: nowhere, 2: mixed.
        label: ``(P,)`` the same for "the label's output is the largest".
        label_area: ``(P,)`` area of the part where the label's output is the largest.
        winner: ``(P,)`` the largest output at the region's center.
        tied: ``(P,)`` 0: no other output comes within rounding of the label's; 1: one does at the region's edge;
            2: one is equal all over the region (which then counts as "the label is nowhere the largest").
        doubtful: ``(P,)`` 1 where a neuron above the pixels has an affine map that is zero as far as rounding tells: it
            counts as inactive, and whether it is shows in the saliency map alone.
    """

    keys: npt.NDArray[np.uint64]
    offsets: npt.NDArray[np.int64]
    vertices: Array
    neighbours: npt.NDArray[np.uint64]
    areas: Array
    low: Array
    high: Array
    attention: npt.NDArray[np.int8]
    label: npt.NDArray[np.int8]
    label_area: Array
    winner: npt.NDArray[np.int16]
    tied: npt.NDArray[np.int8]
    doubtful: npt.NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, which: npt.NDArray[np.bool_]) -> RegionChunk:
        """Some of the regions, by a mask ``(P,)``."""
        sizes = np.diff(self.offsets)
        corners = np.repeat(which, sizes)
        arrays = {n: getattr(self, n) for n in RegionChunk.__dataclass_fields__ if n != "offsets"}
        taken = {n: v[corners if n in ("vertices", "neighbours") else which] for n, v in arrays.items()}
        return RegionChunk(offsets=np.concatenate([[0], np.cumsum(sizes[which])]), **taken)

    def extent(self, axis: int) -> tuple[Array, Array]:
        """The range of every region along one axis, ``(P,)`` each."""
        values, first = self.vertices[:, axis], self.offsets[:-1]
        return np.minimum.reduceat(values, first), np.maximum.reduceat(values, first)


def joined(chunks: list[RegionChunk]) -> RegionChunk:
    """All regions of several chunks as one."""
    ends = np.cumsum([0] + [len(c.vertices) for c in chunks])
    parts = [c.offsets[:-1] + e for c, e in zip(chunks, ends[:-1], strict=True)]
    names = [n for n in RegionChunk.__dataclass_fields__ if n != "offsets"]
    arrays = {n: np.concatenate([getattr(c, n) for c in chunks]) for n in names}
    return RegionChunk(offsets=np.concatenate([*parts, ends[-1:]]), **arrays)


EVERYWHERE = (0, -1.0, 2.0)
"""A slab that holds the whole square."""


class Regions:
    """A walk over all regions of the unit square that meet a slab of it, each whole.

    Args:
        tnet: the network.
        expected: the expected saliency map.
        delta: bound on the inconsistency.
        label: output that should be the largest.
        start: where the walk begins, in [0, 1]²; the region there is the first.
        into: direction from there into that region.
        chunk: regions handed out at a time.
        slab: an axis, and the ends of a range along it that ``start`` is in.
    """

    def __init__(
        self,
        tnet: TraversalNet,
        expected: Expected,
        delta: float,
        label: int,
        start: Array,
        into: Array,
        *,
        chunk: int = 20_000,
        slab: tuple[int, float, float] = EVERYWHERE,
    ) -> None:
        self.tnet, self.expected, self.delta, self.label, self.chunk = tnet, expected, delta, label, chunk
        self.state = new_state(tnet.net, expected)
        neurons = tnet.neurons
        self.counters = np.zeros(16, dtype=np.int64)
        self.aliases: dict[int, int] = {}
        self.walk = polygon.Walk(
            counters=self.counters,
            frames=np.zeros((4096, 4), dtype=np.int64),
            edges=np.zeros((16384, 4)),
            edge_keys=np.zeros(16384, dtype=np.uint64),
            edge_flips=np.zeros((16384, 2), dtype=np.int64),
            flips=np.zeros(8 * neurons + 65536, dtype=np.int64),
            jumps=np.zeros((16384, 4)),
            jump_keys=np.zeros(16384, dtype=np.uint64),
            pending=np.zeros(neurons, dtype=np.int64),
            pending_flag=np.zeros(neurons, dtype=np.uint8),
            seen=np.zeros(1 << 16, dtype=np.uint64),
            aliases=np.zeros((1024, 2), dtype=np.uint64),
            polygon=np.zeros((polygon.MOST_VERTICES, 2)),
            labels=np.zeros(polygon.MOST_VERTICES, dtype=np.int64),
            scratch=np.zeros((polygon.MOST_VERTICES, 2)),
            scratch_labels=np.zeros(polygon.MOST_VERTICES, dtype=np.int64),
            near=np.zeros(neurons + polygon.MOST_VERTICES, dtype=np.int64),
            toggles=np.zeros(2 * neurons, dtype=np.int64),
            scan=tnet.scan,
            zero=np.zeros(neurons, dtype=np.uint8),
            zeros=np.zeros(neurons, dtype=np.int64),
            box=np.zeros(6),
            candidates=np.zeros(polygon.BLOCK, dtype=np.int64),
            slab=np.array(slab, dtype=np.float64),
        )
        self.walk.jumps[0] = [*start, *into]
        self.walk.jump_keys[0] = np.uint64(1)
        self.counters[polygon.JUMPS] = 1

    def __iter__(self) -> Iterator[RegionChunk]:
        """The remaining regions, chunk by chunk."""
        cells = self.workspace()
        while True:
            status = plane.walk_plane(
                self.tnet.net, self.expected, self.state, self.walk, cells, self.delta, self.label
            )
            if status == polygon.GROW:
                self._grow()
            elif status == polygon.REHASH:
                old = self.walk.seen
                self.walk = self.walk._replace(seen=np.zeros(4 * len(old), dtype=np.uint64))
                polygon.rehash(self.walk, old)
            else:
                if cells.counts[0]:
                    yield self._taken(cells)
                if status == polygon.DONE:
                    return
                cells = self.workspace()

    def workspace(self) -> polygon.Cells:
        """Empty output for one chunk."""
        m, v = self.chunk, 6 * self.chunk + 2 * polygon.MOST_VERTICES
        return polygon.Cells(
            counts=np.zeros(2, dtype=np.int64),
            keys=np.zeros(m, dtype=np.uint64),
            offsets=np.zeros(m + 1, dtype=np.int64),
            vertices=np.zeros((v, 2)),
            neighbours=np.zeros(v, dtype=np.uint64),
            areas=np.zeros(m),
            low=np.zeros(m),
            high=np.zeros(m),
            attention=np.zeros(m, dtype=np.int8),
            label=np.zeros(m, dtype=np.int8),
            label_area=np.zeros(m),
            winner=np.zeros(m, dtype=np.int16),
            tied=np.zeros(m, dtype=np.int8),
            doubtful=np.zeros(m, dtype=np.int8),
        )

    def _taken(self, cells: polygon.Cells) -> RegionChunk:
        p, v = (int(c) for c in cells.counts)
        walk = self.walk
        count = int(self.counters[polygon.ALIASES])
        self.aliases.update(zip(walk.aliases[:count, 0].tolist(), walk.aliases[:count, 1].tolist(), strict=True))
        self.counters[polygon.ALIASES] = 0
        return RegionChunk(
            keys=cells.keys[:p].copy(),
            offsets=cells.offsets[: p + 1].copy(),
            vertices=cells.vertices[:v].copy(),
            neighbours=cells.neighbours[:v].copy(),
            areas=cells.areas[:p].copy(),
            low=cells.low[:p].copy(),
            high=cells.high[:p].copy(),
            attention=cells.attention[:p].copy(),
            label=cells.label[:p].copy(),
            label_area=cells.label_area[:p].copy(),
            winner=cells.winner[:p].copy(),
            tied=cells.tied[:p].copy(),
            doubtful=cells.doubtful[:p].copy(),
        )

    def _grow(self) -> None:
        """Double every stack that is more than a quarter full."""
        walk, used = self.walk, self.counters
        slack = polygon.MOST_VERTICES
        sizes = {
            "frames": used[polygon.DEPTH] + 2,
            "edges": used[polygon.EDGES] + slack,
            "edge_keys": used[polygon.EDGES] + slack,
            "edge_flips": used[polygon.EDGES] + slack,
            "flips": used[polygon.FLIPS] + 4 * self.tnet.neurons,
            "jumps": used[polygon.JUMPS] + slack,
            "jump_keys": used[polygon.JUMPS] + slack,
            "aliases": used[polygon.ALIASES] + 2,
        }
        changes = {}
        for name, need in sizes.items():
            old = getattr(walk, name)
            if need > len(old) / 2:
                new = np.zeros((max(2 * len(old), 2 * int(need)), *old.shape[1:]), dtype=old.dtype)
                new[: len(old)] = old
                changes[name] = new
        self.walk = walk._replace(**changes)
