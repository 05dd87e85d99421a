"""Cells of a line or a plane, and how they are cut: the state that goes through a network layer by layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from verifier.errors import MemoryLimitError
from verifier.network.operators import Array
from verifier.regions import kernels, polygon_kernels, segment_kernels
from verifier.regions.rounding import Slack

Index = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint64]


class Settled(NamedTuple):
    """The signs of functions on segments that the floats at the vertices cannot tell; ``(pairs,)`` each.

    Attributes:
        which: the segments, not decreasing.
        functions: the functions.
        begins: whether the function is positive at the segment's start.
        roots: the t at which it changes its sign; NaN if it does not.
    """

    which: Index
    functions: Index
    begins: npt.NDArray[np.bool_]
    roots: Array


NOTHING = Settled(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.bool_), np.empty(0))
Settle = Callable[[Index, Index], Settled]
"""Settles the signs of functions (the second argument) on segments (the first)."""


@dataclass(frozen=True, eq=False)
class Cut:
    """What cutting did.

    Attributes:
        parents: ``(P',)`` the old cell each new cell is part of.
        sides: ``(P', words)`` bit set of the functions that are positive on each new cell.
        start, end, alpha: how the new vertices were made, in order: ``(1 - alpha) · start + alpha · end``.
        values: ``(V', n)`` the functions' values with those at the new vertices appended.
    """

    parents: Index
    sides: Bits
    start: Index
    end: Index
    alpha: Array
    values: Array

    def extend(self, rows: Array) -> Array:
        """Values ``(V, n)`` of anything affine on the old cells, with the new vertices' appended."""
        if not len(self.start):
            return rows
        flat = np.ascontiguousarray(rows, dtype=np.float64).reshape(len(rows), -1)
        return kernels.interpolate(flat, self.start, self.end, self.alpha)  # type: ignore[no-any-return]

    def extend_scale(self, scale: Array) -> Array:
        """Tolerance scales, with the larger of both ends' for each new vertex."""
        if not len(self.start):
            return scale
        result = np.empty(len(scale) + len(self.start))
        result[: len(scale)] = scale
        kernels.extend_maximum(result, len(scale), self.start, self.end)
        return result


class Cells(ABC):
    """A set of cells over shared vertices."""

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of cells."""

    @property
    @abstractmethod
    def vertices(self) -> int:
        """Number of vertices."""

    @abstractmethod
    def merge(self, groups: Index) -> Index:
        """Unite cells that have the same group number (whose union is a cell); returns one old cell of each new."""

    @abstractmethod
    def compact(self) -> Index:
        """Forget the vertices that no cell uses; returns the old indices of those that stay."""

    def group(self, origin: Index, labels: npt.NDArray[np.int16]) -> Index | None:
        """Bring cells of one origin and label next to each other; returns the order, None if it is kept.

        Shapes: origin, labels ``(cells,)``.
        """
        return None

    @abstractmethod
    def loops(self) -> tuple[Index, Index]:
        """``(offsets, vertex indices)``."""

    @abstractmethod
    def cut(self, values: Array, scale: Array, slack: Slack, most: int = 1 << 62, settle: Settle | None = None) -> Cut:
        """Cut every cell wherever one of the functions crosses zero.

        Args:
            values: ``(V, n)`` the functions at the vertices; affine on every cell.
            scale: ``(V,)`` tolerance scale.
            slack: tolerance factors of the n functions.
            most: no more vertices than this may come to be: polygons are cut no further, and the cut is unfinished, once
                there are more; segments are not cut.
            settle: is asked about segments along which a function is zero but for rounding errors; None: there its
                sign counts as not positive.

        Raises:
            MemoryLimitError: segments would get more than ``most`` vertices.
        """

    def _uncut(self, values: Array, positive: Bits, negative: Bits) -> Cut | None:
        """The cut that cuts nothing, if no function has both signs on a cell."""
        offsets, loops = self.loops()
        sides = kernels.cell_bits(offsets, loops, positive)
        if (sides & kernels.cell_bits(offsets, loops, negative)).any():
            return None
        none = np.empty(0, np.int64)
        return Cut(np.arange(self.count), sides, none, none, np.empty(0), values)


class Segments(Cells):
    """Pieces of one or many lines.

    Attributes:
        ends: ``(P, 2)`` vertices of each piece; the pieces of a line follow each other.
        place: ``(V,)`` parameter t of each vertex.
    """

    def __init__(self, ends: Index, place: Array) -> None:
        self.ends, self.place = ends, place

    @property
    def count(self) -> int:
        return len(self.ends)

    @property
    def vertices(self) -> int:
        return len(self.place)

    def loops(self) -> tuple[Index, Index]:
        return 2 * np.arange(self.count + 1), self.ends.reshape(-1)

    def cut(self, values: Array, scale: Array, slack: Slack, most: int = 1 << 62, settle: Settle | None = None) -> Cut:
        values = np.ascontiguousarray(values)
        positive, negative, near = np.empty((3, len(values), (values.shape[1] + 63) // 64), np.uint64)
        doubtful = segment_kernels.near_bits(values, slack.weight, slack.offset, scale, positive, negative, near)
        settled = NOTHING
        if doubtful and settle is not None:
            which, functions = segment_kernels.near_pairs(self.ends, positive, negative, near)
            if len(which):
                settled = settle(which, functions)
        uncut = None if len(settled.which) else self._uncut(values, positive, negative)
        if uncut is not None:
            return uncut
        crossings = segment_kernels.count_crossings(self.ends, positive, negative)
        expected = self.vertices + crossings + len(settled.which)
        if expected > most:
            raise MemoryLimitError(f"{expected:,} vertices do not fit into memory", fix="allow more (memory=)")
        self.ends, parents, sides, start, end, alpha, self.place, values = segment_kernels.cut_segments(
            self.ends, self.place, values, scale, slack.weight, slack.offset, positive, negative, tuple(settled)
        )
        return Cut(parents, sides, start, end, alpha, values)

    def merge(self, groups: Index) -> Index:
        first = np.flatnonzero(np.diff(groups, prepend=-1))
        last = np.append(first[1:], len(groups)) - 1
        self.ends = np.stack([self.ends[first, 0], self.ends[last, 1]], axis=1)
        return first

    def compact(self) -> Index:
        kept, ends = np.unique(self.ends, return_inverse=True)
        self.place, self.ends = self.place[kept], ends.reshape(-1, 2)
        return kept


class Polygons(Cells):
    """Convex polygons of a plane, counter-clockwise, that share their vertices.

    Attributes:
        offsets, indices: polygon c has the vertices ``indices[offsets[c]:offsets[c + 1]]``.
        place: ``(V, 2)`` plane coordinates.
        corners: the first so many vertices are the corners of the whole area.
    """

    def __init__(self, offsets: Index, indices: Index, place: Array) -> None:
        self.offsets, self.indices, self.place, self.corners = offsets, indices, place, len(place)

    @property
    def count(self) -> int:
        return len(self.offsets) - 1

    @property
    def vertices(self) -> int:
        return len(self.place)

    def loops(self) -> tuple[Index, Index]:
        return self.offsets, self.indices

    def cut(self, values: Array, scale: Array, slack: Slack, most: int = 1 << 62, settle: Settle | None = None) -> Cut:
        values = np.ascontiguousarray(values)
        positive, negative = np.empty((2, len(values), (values.shape[1] + 63) // 64), np.uint64)
        kernels.sign_bits(values, 0, len(values), slack.weight, slack.offset, scale, positive, negative)
        uncut = self._uncut(values, positive, negative)
        if uncut is not None:
            return uncut
        found = polygon_kernels.cut_polygons(
            self.offsets, self.indices, self.place, values, scale, slack.weight, slack.offset, positive, negative, most
        )
        self.offsets, self.indices, parents, sides, start, end, alpha, self.place, values, _ = found
        return Cut(parents, sides, start, end, alpha, values)

    def group(self, origin: Index, labels: npt.NDArray[np.int16]) -> Index | None:
        order = np.lexsort((*labels.T, origin))
        sizes = np.diff(self.offsets)[order]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
        self.indices = self.indices[np.repeat(self.offsets[:-1][order], sizes) + within]
        self.offsets = offsets
        return order

    def merge(self, groups: Index) -> Index:
        offsets, indices, first = polygon_kernels.merge_polygons(self.offsets, self.indices, groups)
        offsets, indices = polygon_kernels.drop_straight(offsets, indices, len(self.place), self.corners)
        sizes = np.diff(offsets)
        areal = sizes > 2  # slivers that were a straight edge with a vertex on it are that edge now, and no cell
        self.offsets = np.concatenate([[0], np.cumsum(sizes[areal])])
        self.indices = indices[np.repeat(areal, sizes)]
        return first[areal]  # type: ignore[no-any-return]

    def compact(self) -> Index:
        kept, indices = np.unique(self.indices, return_inverse=True)
        self.place, self.indices = self.place[kept], indices.reshape(-1)
        return kept
