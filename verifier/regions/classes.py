"""Exact decision boundaries on lines and planes: linear regions cut where the best output changes.

Ties: at a tie the class with the smaller index wins, as in argmax. Outputs that differ by rounding errors only count
as tied.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from verifier.errors import InputError
from verifier.network.operators import Array
from verifier.regions.cells import Cells, Index, Polygons, Segments
from verifier.regions.line import LineRestriction
from verifier.regions.plane import PlaneRestriction, areas_and_centroids
from verifier.regions.rounding import Slack
from verifier.regions.subdivision import Carrier


@dataclass(frozen=True, eq=False)
class ClassBands:
    """The classes along a line.

    Attributes:
        boundaries: ``(k + 1,)`` values of t, the first 0 and the last 1; neighbouring bands differ in class.
        labels: ``(k,)`` class of each band.
        classes: number of classes.
    """

    boundaries: Array
    labels: npt.NDArray[np.int64]
    classes: int

    @property
    def lengths(self) -> Array:
        """Length in t that each class has, ``(classes,)``; they sum to 1."""
        return np.bincount(self.labels, np.diff(self.boundaries), minlength=self.classes)

    def at(self, t: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Class at parameters t."""
        band = np.searchsorted(self.boundaries, np.asarray(t), side="right") - 1
        return self.labels[np.clip(band, 0, len(self.labels) - 1)]


@dataclass(frozen=True, eq=False)
class ClassMap:
    """The classes on a polygon of a plane, as convex polygons of one class each.

    Attributes:
        vertices: ``(V, 2)`` plane coordinates.
        offsets, indices: polygon i is ``vertices[indices[offsets[i]:offsets[i + 1]]]``, counter-clockwise.
        labels: ``(P,)`` class of each polygon.
        regions: ``(P,)`` the restriction's polygon that each is part of.
        classes: number of classes.
    """

    vertices: Array
    offsets: Index
    indices: Index
    labels: npt.NDArray[np.int64]
    regions: Index
    classes: int

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def polygons(self) -> list[Array]:
        """Each polygon's corners, ``(k, 2)``."""
        return np.split(self.vertices[self.indices], self.offsets[1:-1])

    @cached_property
    def areas(self) -> Array:
        """Area that each class has in plane coordinates, ``(classes,)``; they sum to the whole area."""
        areas, _ = areas_and_centroids(self.vertices, self.offsets, self.indices)
        return np.bincount(self.labels, areas, minlength=self.classes)

    @cached_property
    def boundaries(self) -> Array:
        """The decision boundary: segments between polygons of different classes, ``(S, 2, 2)``."""
        following = np.arange(1, len(self.indices) + 1)
        following[self.offsets[1:] - 1] = self.offsets[:-1]
        a, b = self.indices, self.indices[following]
        label = np.repeat(self.labels, np.diff(self.offsets))
        order = np.lexsort((np.maximum(a, b), np.minimum(a, b)))
        low, high, label = np.minimum(a, b)[order], np.maximum(a, b)[order], label[order]
        between = (low[1:] == low[:-1]) & (high[1:] == high[:-1]) & (label[1:] != label[:-1])
        pairs = np.stack([low[1:][between], high[1:][between]], axis=1)
        result: Array = self.vertices[pairs]
        return result


def class_bands(restriction: LineRestriction, best: str = "max") -> ClassBands:
    """The classes along a line: see `LineRestriction.classes`."""
    ends = np.arange(len(restriction) + 1)
    cells = Segments(np.stack([ends[:-1], ends[1:]], axis=1), restriction.breakpoints)
    labels, _ = _best(cells, restriction.values, restriction.tolerance, best)
    first = np.flatnonzero(np.diff(labels, prepend=-1))
    starts = cells.place[cells.ends[first, 0]]
    return ClassBands(np.append(starts, 1.0), labels[first], restriction.values.shape[1])


def class_map(restriction: PlaneRestriction, best: str = "max") -> ClassMap:
    """The classes on a plane: see `PlaneRestriction.classes`."""
    cells = Polygons(restriction.offsets, restriction.indices, restriction.vertices)
    labels, regions = _best(cells, restriction.values, restriction.tolerance, best)
    return ClassMap(cells.place, cells.offsets, cells.indices, labels, regions, restriction.values.shape[1])


def _best(cells: Cells, values: Array, tolerance: Array, best: str) -> tuple[npt.NDArray[np.int64], Index]:
    if best not in ("max", "min"):
        raise InputError(f'best must be "max" or "min", got {best!r}')
    count = values.shape[1]
    carrier = Carrier(cells)
    carrier.values["output"] = np.ascontiguousarray(values if best == "max" else -values)
    carrier.scales["output"] = tolerance
    slack = Slack(np.full(count, 0.5), np.zeros(count))  # two outputs' tolerances make one difference's
    _, regions, winners = carrier.maximum("output", slack, np.arange(count)[None], zero=False)
    return winners[:, 0].astype(np.int64), regions
