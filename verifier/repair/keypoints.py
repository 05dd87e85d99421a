"""Key points: the finitely many points at which a specification over whole regions has to hold.

On a linear region a frozen network is affine whatever its patch, so an output polytope holds on a polygon
inside the region if and only if it holds at the polygon's vertices. A key point is a vertex together with
the activation pattern of its region; a vertex that two regions share counts once per region.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.repair.effort import Effort
from verifier.repair.exact import Demand, given
from verifier.repair.frozen import CHUNK, FrozenNetwork
from verifier.repair.specification import LineRegion, PointRegion, PolygonRegion, Region, Specification

Pieces = npt.NDArray[np.int16]


@dataclass(frozen=True, eq=False)
class KeyPoints:
    """Key points of a specification, as flat arrays.

    Attributes:
        points: ``(K, n)`` inputs.
        piece: ``(K,)`` index of the linear piece that each point belongs to.
        places: ``(K, 2)`` coordinates in the region: t of a line, (s, t) of a plane; the rest is NaN.
        middles: ``(pieces, 2)`` coordinates of an inner point of each piece.
        known: demands that are known exactly, in which case ``demand`` is the index here, else -1.
        patterns: activation pattern of the regions: ``{node name: (pieces, *shape)}``.
        requirement: ``(K,)`` index of the requirement in the specification.
        rows, bound: ``(R, m)`` and ``(R,)``: what is demanded, ``rows @ y <= bound`` at the row's key point.
        row_point: ``(R,)`` the key point of each row, increasing.
        tolerance: ``(R,)`` slack of a row up to which it counts as zero (`OutputPolytope.tolerance`).
        size: the largest of the original network's outputs at the key points.

    Source:
        Sotoudeh, Thakur, Patching, 2019, Theorem 2.
    """

    specification: Specification
    points: Array
    piece: npt.NDArray[np.int64]
    places: Array
    middles: Array
    patterns: dict[str, npt.NDArray[np.int16]]
    requirement: npt.NDArray[np.int64]
    rows: Array
    bound: Array
    row_point: npt.NDArray[np.int64]
    tolerance: Array
    demand: npt.NDArray[np.int64]
    size: float
    known: tuple[Demand, ...] = ()

    def __len__(self) -> int:
        return len(self.points)

    @property
    def row_start(self) -> npt.NDArray[np.int64]:
        """``(K + 1,)``: the rows of key point k are ``row_start[k]:row_start[k + 1]``."""
        return np.searchsorted(self.row_point, np.arange(len(self.points) + 1))

    def chunks(self) -> Iterator[slice]:
        """Slices of key points for evaluation in bounded memory."""
        for start in range(0, len(self.points), CHUNK):
            yield slice(start, min(start + CHUNK, len(self.points)))

    def pattern(self, points: slice | npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int16]]:
        """The pattern of each key point of a selection."""
        pieces = self.piece[points]
        return {name: pattern[pieces] for name, pattern in self.patterns.items()}

    def slack(self, frozen: FrozenNetwork) -> Array:
        """``bound - rows @ y`` of every row under a frozen network, ``(R,)``; negative where violated.

        What is within rounding errors of zero (``tolerance``) is zero: at a decision boundary two outputs are equal,
        and float64 says so only up to rounding.
        """
        outputs = np.concatenate(
            [frozen.forward(self.points[c], self.pattern(c)).reshape(c.stop - c.start, -1) for c in self.chunks()]
        )
        return self.slack_at(outputs)

    def slack_at(self, outputs: Array) -> Array:
        """`slack` for the outputs ``(K, m)`` at the key points."""
        slack = self.bound - (self.rows * outputs[self.row_point]).sum(axis=1)
        return np.where(np.abs(slack) <= self.tolerance, 0.0, slack)

    def met(self, slack: Array) -> npt.NDArray[np.bool_]:
        """Which key points have all their rows met, ``(K,)``."""
        return np.logical_and.reduceat(slack >= 0, self.row_start[:-1])

    def violation(self, frozen: FrozenNetwork) -> float:
        """The sum of what all rows are violated by."""
        return float(-np.minimum(self.slack(frozen), 0.0).sum())

    def distinct(self, frozen: FrozenNetwork, layer: str) -> tuple[KeyPoints, npt.NDArray[np.int64]]:
        """The key points that differ for a change of one layer, and how many key points each stands for.

        Two key points make the same rows if they have the same input and output polytope, and their regions
        the same pattern behind the layer (anywhere, if a layer before it is patched too).
        """
        polytope = np.array([id(r.output) for r in self.specification.requirements])
        keys = [*self._places(frozen, layer), polytope[self.requirement][:, None]]
        first, inverse = _distinct(keys)
        return self.subset(first), np.bincount(inverse)

    def opposites(self, frozen: FrozenNetwork, layer: str) -> npt.NDArray[np.int64]:
        """For each row one whose opposite it demands at the same place, or -1, ``(R,)``: both only hold by a tie.

        So it is where areas of two classes share a border inside one linear region. Of equal rows at one place only
        the first is named, and the others name its opposite too.
        """
        _, place = _distinct(self._places(frozen, layer))
        own = place[self.row_point][:, None].astype(np.float64)
        both = np.concatenate([np.hstack([own, self.rows]), np.hstack([own, -self.rows])]) + 0.0
        _, group = _distinct([both])
        here, there = group[: len(own)], group[len(own) :]
        first = np.full(int(group.max(initial=0)) + 1, -1, dtype=np.int64)
        first[here[::-1]] = np.arange(len(own))[::-1]
        return first[there]

    def _places(self, frozen: FrozenNetwork, layer: str) -> list[Array]:
        """What decides a key point's output and gradient as functions of a layer: its input, and the pattern behind."""
        names = [n.name for n in frozen.network.nodes]
        behind = names if set(frozen.patches) - {layer} else names[names.index(layer) :]
        patterns = [self.patterns[n] for n in behind if n in self.patterns]
        return [self.points, *(p.reshape(len(p), -1)[self.piece] for p in patterns)]

    def subset(self, chosen: npt.NDArray[np.int64]) -> KeyPoints:
        """Some of the key points, with their rows."""
        start = self.row_start
        counts = np.diff(start)[chosen]
        row_point = np.repeat(np.arange(len(chosen)), counts)
        ends = np.cumsum(counts)
        rows = np.repeat(start[chosen] - (ends - counts), counts) + np.arange(ends[-1] if len(ends) else 0)
        return replace(
            self,
            points=self.points[chosen],
            piece=self.piece[chosen],
            places=self.places[chosen],
            demand=self.demand[chosen],
            requirement=self.requirement[chosen],
            rows=self.rows[rows],
            bound=self.bound[rows],
            row_point=row_point,
            tolerance=self.tolerance[rows],
        )

    def without(self, points: Iterable[int]) -> KeyPoints:
        """All key points but some."""
        keep = np.ones(len(self), dtype=bool)
        keep[list(points)] = False
        return self.subset(np.flatnonzero(keep))

    def with_demands(self, demands: Sequence[Demand]) -> KeyPoints:
        """With key points for demands that are known exactly."""
        polytopes = [self.specification.requirements[d.requirement].output for d in demands]
        count, first = len(self.middles), len(self.known)
        nothing = np.full((len(demands), 2), np.nan)
        sizes = [len(p.bound) for p in polytopes]
        return replace(
            self,
            points=np.concatenate([self.points, *(d.point.floats().reshape(1, -1) for d in demands)]),
            piece=np.concatenate([self.piece, count + np.arange(len(demands))]),
            places=np.concatenate([self.places, nothing]),
            middles=np.concatenate([self.middles, nothing]),
            patterns={n: np.concatenate([p, *(d.pattern[n] for d in demands)]) for n, p in self.patterns.items()},
            requirement=np.concatenate([self.requirement, [d.requirement for d in demands]]),
            rows=np.concatenate([self.rows, *(p.rows for p in polytopes)]),
            bound=np.concatenate([self.bound, *(p.bound for p in polytopes)]),
            row_point=np.concatenate([self.row_point, len(self) + np.repeat(np.arange(len(demands)), sizes)]),
            tolerance=np.concatenate([self.tolerance, *(p.tolerance(self.size) for p in polytopes)]),
            demand=np.concatenate([self.demand, first + np.arange(len(demands))]),
            known=(*self.known, *demands),
        )

    def unknown(self, demands: Sequence[Demand]) -> list[Demand]:
        """Those of some demands that no key point makes, up to rounding of its place."""
        names = sorted(self.patterns)
        here: dict[tuple[int, bytes], list[int]] = {}
        keys = [b"".join(self.patterns[n][q].tobytes() for n in names) for q in range(len(self.middles))]
        for k in range(len(self)):
            here.setdefault((int(self.requirement[k]), keys[self.piece[k]]), []).append(k)
        found = []
        for demand in demands:
            key = demand.requirement, b"".join(demand.pattern[n][0].tobytes() for n in names)
            x = demand.point.floats().reshape(-1)
            distance = np.abs(self.points[here.get(key, [])] - x).max(axis=1, initial=0.0)
            if not (distance <= 1e-9 * (1.0 + np.abs(x).max(initial=0.0))).any():
                found.append(demand)
        return found


def _distinct(keys: list[Array]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Indices of the first of each group of rows that are equal in all keys, and the group of each row."""
    hashed = np.zeros(len(keys[0]), dtype=np.uint64)
    multiplier = np.uint64(0x9E3779B97F4A7C15)
    for key in keys:
        columns = np.ascontiguousarray(key).view(np.int64) if key.dtype.itemsize == 8 else key
        for column in columns.T:
            hashed = (hashed ^ column.astype(np.int64).view(np.uint64)) * multiplier
            hashed ^= hashed >> np.uint64(29)
    _, first, inverse = np.unique(hashed, return_index=True, return_inverse=True)
    if all(np.array_equal(key[first[inverse]], key) for key in keys):
        return first, inverse
    return np.arange(len(hashed)), np.arange(len(hashed))  # two different rows had one hash


def key_points(network: Network, specification: Specification) -> KeyPoints:
    """The key points of a specification on a network.

    Raises:
        PropertyError: if the specification does not fit the network (see `Specification.check`).

    Source:
        Sotoudeh, Thakur, Patching, 2019, Theorem 2: the vertices of linear regions.
    """
    specification.check(network)
    points, pieces, places, middles, patterns, requirement = [], [], [], [], [], []
    count = 0
    for k, item in enumerate(specification.requirements):
        found = _pieces(network, item.region)
        points.append(found.points)
        pieces.append(found.piece + count)
        places.append(found.places)
        middles.append(found.middles)
        patterns.append(found.patterns)
        requirement.append(np.full(len(found.points), k))
        count += len(found.middles)
    which, everywhere = np.concatenate(requirement), np.concatenate(points)
    polytopes = [item.output for item in specification.requirements]
    sizes = np.array([len(p.bound) for p in polytopes])
    rows = np.concatenate([np.tile(polytopes[r[0]].rows, (len(r), 1)) for r in requirement])
    bound = np.concatenate([np.tile(polytopes[r[0]].bound, len(r)) for r in requirement])
    size = max(
        float(np.abs(network.forward(everywhere[start : start + CHUNK])).max(initial=0.0))
        for start in range(0, len(everywhere), CHUNK)
    )
    return KeyPoints(
        specification=specification,
        points=everywhere,
        piece=np.concatenate(pieces),
        places=np.concatenate(places),
        middles=np.concatenate(middles),
        patterns={n.name: np.concatenate([p[n.name] for p in patterns]) for n in network.activations},
        requirement=which,
        rows=rows,
        bound=bound,
        row_point=np.repeat(np.arange(len(which)), sizes[which]),
        tolerance=np.concatenate([np.tile(polytopes[r[0]].tolerance(size), len(r)) for r in requirement]),
        demand=np.full(len(which), -1),
        size=size,
    )


@dataclass(frozen=True, eq=False)
class _Found:
    """The vertices of a region's linear pieces; attributes as in `KeyPoints`."""

    points: Array
    piece: npt.NDArray[np.int64]
    places: Array
    middles: Array
    patterns: Mapping[str, Pieces]


def _pieces(network: Network, region: Region) -> _Found:
    from verifier.regions import line, plane

    if isinstance(region, PointRegion):
        count = len(region.points)
        nowhere = np.full((count, 2), np.nan)
        points, at_points = given(network, region, Effort())
        return _Found(points, np.arange(count), nowhere, nowhere, at_points)
    if isinstance(region, LineRegion):
        found = line(network, region.start, region.end)
        t = np.stack([found.breakpoints[:-1], found.breakpoints[1:]], axis=1).reshape(-1)
        ends = np.stack([found.points[:-1], found.points[1:]], axis=1).reshape(-1, network.input_size)
        patterns = _full(network, found.pattern(), found.midpoints)
        return _Found(ends, np.repeat(np.arange(len(found)), 2), _padded(t), _padded(found.middles), patterns)
    if isinstance(region, PolygonRegion):
        cut = plane(network, region.origin, region.u, region.v, region.polygon)
        piece = np.repeat(np.arange(len(cut)), np.diff(cut.offsets))
        places, middles = cut.vertices[cut.indices], cut.centroids
        return _Found(cut.embed(places), piece, places, middles, _full(network, cut.pattern(), cut.embed(middles)))
    own = region.patterns
    if own is None:
        own = _full(network, {}, region.embed(region.centroids))
    piece = np.repeat(np.arange(len(region.counts)), region.counts)
    return _Found(region.embed(region.vertices), piece, region.vertices, region.centroids, own)


def _padded(t: Array) -> Array:
    return np.stack([t, np.full(len(t), np.nan)], axis=1)


def _full(network: Network, pattern: Mapping[str, Pieces], inside: Array) -> Mapping[str, Pieces]:
    """The pattern if it names every neuron (a ReLU fused with a MaxPool has none), else that of inner points."""
    if all(n.name in pattern for n in network.activations):
        return pattern
    parts = [network.pattern(inside[start : start + CHUNK]) for start in range(0, len(inside), CHUNK)]
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
