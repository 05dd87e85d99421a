"""One linear region at a time: what it is, and how to look at it, in two dimensions or in any.

An `Explorer` opens the region at a point towards a direction and returns a `Cell`: its faces (each with a
point inside the face, the direction out, and the neighbour's key), its vertices and its volume.
`PolygonExplorer` cuts polygons and needs no linear program; `verifier.attention.traversal.programs` does any number
of parameters by linear programs. Parameters are scaled to the unit cube.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from verifier.attention.traversal import plane, polygon
from verifier.attention.traversal.kernels import Expected, State, start_region
from verifier.attention.traversal.net import TraversalNet
from verifier.attention.traversal.walk import Regions
from verifier.network.operators import Array


@dataclass(frozen=True, eq=False)
class Face:
    """A face that a region shares with another.

    Attributes:
        at: a point inside the face.
        into: unit vector out of the region, into the neighbour.
        key: the neighbour's key, or a key of the face alone where the neighbour's cannot be foreseen because a
            neuron's affine map is zero in the region.
    """

    at: Array
    into: Array
    key: int


@dataclass(frozen=True, eq=False)
class Cell:
    """One linear region.

    Attributes:
        key: hash of its active neurons.
        faces: shared with other regions; faces on the border of the cube are not listed.
        touches_border: whether there are such.
        vertices: ``(k, d)``; in the plane counter-clockwise.
        volume: area or volume.
        low, high: bounds on the inconsistency's range (`high` is the maximum, `low` at most the minimum).
        attention, label: 0 holds everywhere, 1 nowhere, 2 in a part.
        label_volume: of the part where the label holds.
        winner: predicted class at the center.
        tied, doubtful: see `verifier.attention.traversal.walk.RegionChunk`.
    """

    key: int
    faces: tuple[Face, ...]
    touches_border: bool
    vertices: Array
    volume: float
    low: float
    high: float
    attention: int
    label: int
    label_volume: float
    winner: int
    tied: int
    doubtful: int


class Explorer(Protocol):
    """Opens regions."""

    dimension: int

    def open(self, at: Array, into: Array, known: Collection[int] = ...) -> Cell | int | None:
        """The region at a point towards a direction; its key if that is ``known``; None if it is too thin.

        Shapes: at, into ``(d,)``.
        """


class PolygonExplorer:
    """Opens regions of two parameters by cutting polygons."""

    dimension = 2

    def __init__(self, tnet: TraversalNet, expected: Expected, delta: float, label: int) -> None:
        self._regions = Regions(tnet, expected, delta, label, np.array([0.5, 0.5]), np.array([0.6, 0.8]), chunk=1)
        self.tnet, self.expected = tnet, expected
        self.state = self._regions.state

    def open(self, at: Array, into: Array, known: Collection[int] = frozenset()) -> Cell | int | None:
        """See `Explorer`."""
        start_region(self.tnet.net, self.expected, self.state, at, into, False)
        key = int(self.state.key[0])
        if key in known:
            return key
        regions, counters = self._regions, self._regions.counters
        counters[: polygon.ZEROS] = 0
        cells = regions.workspace()
        if not plane.visit(
            self.tnet.net, self.expected, self.state, regions.walk, 0, regions.delta, regions.label, cells
        ):
            return None
        walk, faces = regions.walk, []
        for rows, keys, count in (
            (walk.edges, walk.edge_keys, counters[polygon.EDGES]),
            (walk.jumps, walk.jump_keys, counters[polygon.JUMPS]),
        ):
            faces += [Face(rows[k, :2].copy(), rows[k, 2:].copy(), int(keys[k])) for k in range(count)]
        n = int(cells.counts[1])
        vertices = cells.vertices[:n].copy()
        following = np.roll(vertices, -1, axis=0)
        sides = [(vertices[:, a] == s) & (following[:, a] == s) for a in (0, 1) for s in (0.0, 1.0)]
        return Cell(
            key=key,
            faces=tuple(faces),
            touches_border=bool(np.any(sides)),
            vertices=vertices,
            volume=float(cells.areas[0]),
            low=float(cells.low[0]),
            high=float(cells.high[0]),
            attention=int(cells.attention[0]),
            label=int(cells.label[0]),
            label_volume=float(cells.label_area[0]),
            winner=int(cells.winner[0]),
            tied=int(cells.tied[0]),
            doubtful=int(cells.doubtful[0]),
        )


def exit_point(tnet: TraversalNet, state: State, point: Array, direction: Array) -> Array:
    """Where the ray from a point of the *present* region (``state``) leaves it, or leaves the cube.

    Shapes: point, direction ``(d,)``.
    """
    best = np.inf
    for i, v in enumerate(direction):
        if v != 0.0:
            best = min(best, ((1.0 if v > 0 else 0.0) - point[i]) / v)
    for first, last in tnet.scan:
        Z, bits = state.Z[:, first:last], state.bits[first:last]
        value, slope = Z[0] + point @ Z[1:], direction @ Z[1:]
        sign = np.where(bits == 1, 1.0, -1.0)
        leaving = sign * slope < -1e-12 * (1.0 + np.abs(Z[1:]).sum(axis=0))
        if leaving.any():
            times = np.maximum(sign * value, 0.0)[leaving] / -(sign * slope)[leaving]
            best = min(best, float(times.min()))
    return np.clip(point + max(best, 0.0) * direction, 0.0, 1.0)
