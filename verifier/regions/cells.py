"""Cells of a line or a plane, and how they are cut: the state that goes through a network layer by layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from verifier.network.operators import Array
from verifier.regions import kernels
from verifier.regions.rounding import Slack

Index = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint64]


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
    def _cut(self, values: Array, scale: Array, slack: Slack, positive: Bits, negative: Bits, most: int) -> Cut: ...

    @abstractmethod
    def merge(self, groups: Index) -> Index:
        """Unite cells that have the same group number (whose union is a cell); returns one old cell of each new."""

    @abstractmethod
    def compact(self) -> Index:
        """Forget the vertices that no cell uses; returns the old indices of those that stay."""

    def group(self, origin: Index, labels: npt.NDArray[np.int16]) -> Index | None:
        """Bring cells of one origin and label next to each other; returns the order, None if it is kept."""
        return None

    @abstractmethod
    def loops(self) -> tuple[Index, Index]:
        """``(offsets, vertex indices)``."""

    def cut(self, values: Array, scale: Array, slack: Slack, most: int = 1 << 62) -> Cut:
        """Cut every cell wherever one of the functions crosses zero.

        Args:
            values: ``(V, n)`` the functions at the vertices; affine on every cell.
            scale: ``(V,)`` tolerance scale.
            slack: tolerance factors of the n functions.
            most: polygons are cut no further, and the cut is unfinished, once there are more vertices than this.
        """
        words = (values.shape[1] + 63) // 64
        positive, negative = np.empty((2, len(values), words), np.uint64)
        values = np.ascontiguousarray(values)
        kernels.sign_bits(values, 0, len(values), slack.weight, slack.offset, scale, positive, negative)
        offsets, loops = self.loops()
        sides = kernels.cell_bits(offsets, loops, positive)
        if not (sides & kernels.cell_bits(offsets, loops, negative)).any():
            none = np.empty(0, np.int64)
            return Cut(np.arange(self.count), sides, none, none, np.empty(0), values)
        return self._cut(values, scale, slack, positive, negative, most)


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

    def _cut(self, values: Array, scale: Array, slack: Slack, positive: Bits, negative: Bits, most: int) -> Cut:
        self.ends, parents, sides, start, end, alpha, self.place, values, _ = kernels.cut_segments(
            self.ends, self.place, values, scale, slack.weight, slack.offset, positive, negative
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

    def _cut(self, values: Array, scale: Array, slack: Slack, positive: Bits, negative: Bits, most: int) -> Cut:
        found = kernels.cut_polygons(
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
        offsets, indices, first = kernels.merge_polygons(self.offsets, self.indices, groups)
        self.offsets, self.indices = kernels.drop_straight(offsets, indices, len(self.place), self.corners)
        return first  # type: ignore[no-any-return]

    def compact(self) -> Index:
        kept, indices = np.unique(self.indices, return_inverse=True)
        self.place, self.indices = self.place[kept], indices.reshape(-1)
        return kept
