"""Exact decision boundaries on lines and planes: linear regions cut where the best output changes.

Ties: at a tie the class with the smaller index wins, as in argmax. Outputs that differ by rounding errors only count
as tied, unless the restriction is exact: then nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from verifier.errors import InputError
from verifier.network.operators import Array
from verifier.regions.cells import Cells, Index, Polygons, Segments
from verifier.regions.piece_values import Pair
from verifier.regions.polygons import areas_and_centroids
from verifier.regions.rounding import Slack
from verifier.regions.subdivision import Carrier


@dataclass(frozen=True, eq=False)
class ClassBands:
    """The classes along a line.

    Attributes:
        boundaries: ``(k + 1,)`` values of t, the first 0 and the last 1; neighbouring bands differ in class.
        labels: ``(k,)`` class of each band.
        classes: number of classes.
        exact_boundaries: the boundaries as rationals, if they were computed exactly; as floats some may coincide.

    Source:
        Sotoudeh, Thakur, ExactLine, NeurIPS 2019, Section 3.
    """

    boundaries: Array
    labels: npt.NDArray[np.int64]
    classes: int
    exact_boundaries: tuple[Fraction, ...] | None = None

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

    Source:
        planes, SyReNN: Sotoudeh, Thakur, TACAS 2021.
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


def class_bands(place: Array, values: Array, tolerance: Array, best: str) -> ClassBands:
    """The classes along a line, from its breakpoints ``(p + 1,)`` and the outputs there: see `LineRestriction.classes`.

    Source:
        Sotoudeh, Thakur, ExactLine, NeurIPS 2019: the decision boundaries of its Figure 2; the upper envelope
        of lines by a sweep.
    """
    ends = np.arange(len(place))
    cells = Segments(np.stack([ends[:-1], ends[1:]], axis=1), place)
    labels, _ = _best(cells, values, tolerance, best)
    first = np.flatnonzero(np.diff(labels, prepend=-1))
    starts = cells.place[cells.ends[first, 0]]
    return ClassBands(np.append(starts, 1.0), labels[first], values.shape[1])


def exact_class_bands(breaks: Sequence[Fraction], output: Pair, best: str) -> ClassBands:
    """The classes along a line in rational arithmetic.

    Args:
        breaks: the line's breakpoints.
        output: constants and slopes of the outputs on each piece, ``(pieces, classes)``.

    Source:
        Sotoudeh, Thakur, ExactLine, NeurIPS 2019: the decision boundaries of its Figure 2, in rationals.
    """
    sign = _sign_of(best)
    constants, slopes = output
    boundaries, labels = [breaks[0]], [-1]
    for piece, (t, end) in enumerate(pairwise(breaks)):
        p = [sign * Fraction(int(n), constants.denominator) for n in constants.numerators[piece]]
        q = [sign * Fraction(int(n), slopes.denominator) for n in slopes.numerators[piece]]
        here = t
        while True:
            # right of `here`: the largest value there, then the steepest, then the smallest index
            label = max(range(len(p)), key=lambda k: (p[k] + q[k] * here, q[k], -k))
            if label != labels[-1]:
                labels.append(label)
                boundaries.append(here)
            steeper = [k for k in range(len(p)) if q[k] > q[label]]
            here = min(((p[label] - p[k]) / (q[k] - q[label]) for k in steeper), default=end)
            if here >= end:
                break
    exact = (*boundaries[1:], breaks[-1])
    return ClassBands(
        np.array([float(t) for t in exact]), np.array(labels[1:], np.int64), constants.numerators.shape[1], exact
    )


def class_map(cells: Polygons, values: Array, tolerance: Array, best: str) -> ClassMap:
    """The classes on polygons, which are cut, from the outputs at their vertices: see `PlaneRestriction.classes`.

    Shapes: values ``(V, outputs)``; tolerance ``(V,)``.

    Source:
        planes, SyReNN: Sotoudeh, Thakur, TACAS 2021.
    """
    labels, regions = _best(cells, values, tolerance, best)
    return ClassMap(cells.place, cells.offsets, cells.indices, labels, regions, values.shape[1])


def _sign_of(best: str) -> int:
    if best not in ("max", "min"):
        raise InputError(f'best must be "max" or "min", got {best!r}')
    return 1 if best == "max" else -1


def _best(cells: Cells, values: Array, tolerance: Array, best: str) -> tuple[npt.NDArray[np.int64], Index]:
    count = values.shape[1]
    carrier = Carrier(cells)
    carrier.values["output"] = np.ascontiguousarray(_sign_of(best) * values)
    carrier.scales["output"] = tolerance
    slack = Slack(np.full(count, 0.5), np.zeros(count))  # two outputs' tolerances make one difference's
    _, regions, winners = carrier.maximum("output", slack, np.arange(count)[None], zero=False)
    return winners[:, 0].astype(np.int64), regions
