"""A specification in rational arithmetic: subdivision of its regions, and what a frozen network does on every face.

Nothing is rounded, and nothing of the search for a repair is used. A region is closed: on each face of its subdivision
(polygon, edge, vertex) a frozen network computes with the face's own activation pattern, which on a kink is another
than that of the pieces beside it. On the face it is affine, so it meets an output polytope on the closed face if and
only if it does so, with that pattern, at the face's vertices. These are the `Demand`s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network, Node
from verifier.network.operators import Array
from verifier.network.piecewise import MaxPool, PiecewiseLinear
from verifier.network.rationals import Rationals, dyadic
from verifier.repair.effort import Effort, multiplications
from verifier.repair.filtered import exact_patterns, exact_slacks, slack_of
from verifier.repair.frozen import FrozenNetwork
from verifier.repair.specification import (
    LineRegion,
    OutputPolytope,
    PiecesRegion,
    PointRegion,
    PolygonRegion,
    Specification,
)

Pieces = dict[str, npt.NDArray[np.int16]]
"""An activation pattern: for each piecewise-linear node the piece of each neuron, ``(1, *shape)``."""


@dataclass(frozen=True, eq=False)
class Frame:
    """An exact affine map from coordinates c to inputs: ``origin + Σ c_i · directions[i]``.

    Attributes:
        base: ``(1 + dimensions, n)``: the origin, then origin + each direction.
    """

    base: Rationals

    @property
    def dimensions(self) -> int:
        """0 for a point, 1 for a line, 2 for a plane."""
        return len(self.base.numerators) - 1

    @staticmethod
    def of(origin: Array, *directions: Array) -> Frame:
        """From float64 vectors, taken exactly."""
        start = dyadic(origin[None])
        rows = [start, *(start + dyadic(d[None]) for d in directions)]
        common = lcm(*(r.denominator for r in rows))
        return Frame(Rationals(np.concatenate([r.numerators * (common // r.denominator) for r in rows]), common))

    def at(self, place: Array) -> Rationals:
        """The input ``(1, n)`` at homogeneous coordinates ``(W, X, …)``."""
        return Rationals((place @ _forms(self.base.numerators))[None], self.base.denominator * int(place[0])).reduced()


def _forms(values: Array) -> Array:
    """Coefficients ``(1 + dimensions, …)`` of the affine forms whose values at a frame's base are given."""
    return np.concatenate([values[:1], values[1:] - values[:1]])


def homogeneous(*coordinates: float | Fraction) -> Array:
    """Coordinates as integers ``(W, X, …)``, W > 0, in lowest terms."""
    fractions = [Fraction(c) for c in coordinates]
    common = lcm(*(f.denominator for f in fractions)) if fractions else 1
    return np.array([common, *(f.numerator * (common // f.denominator) for f in fractions)], dtype=object)


def part_of(region: LineRegion | PolygonRegion) -> tuple[Frame, Array]:
    """A region's frame, and its vertices in order as homogeneous coordinates ``(k, 1 + dimensions)``."""
    if isinstance(region, LineRegion):
        return Frame(dyadic(np.stack([region.start, region.end]))), np.array([[1, 0], [1, 1]], dtype=object)
    corners = np.stack([homogeneous(float(s), float(t)) for s, t in region.polygon])
    return Frame.of(region.origin, region.u, region.v), corners


@dataclass(frozen=True, eq=False)
class Demand:
    """That a requirement's output polytope holds at one input, computed on one activation pattern.

    Attributes:
        requirement: index in the specification.
        point: the input, exactly, ``(1, n)``.
        pattern: of a face of the region that the input belongs to (its own, or that of a neighbouring face).
    """

    requirement: int
    point: Rationals
    pattern: Pieces


@dataclass(frozen=True, eq=False)
class Face:
    """A face of a subdivision: its vertices ``(k, 1 + dimensions)`` and the pattern on its relative interior."""

    vertices: Array
    pattern: Pieces


class Subdivision:
    """The closed linear pieces of a network on the parts of regions, with all their faces.

    Source:
        planes cut by lines, SyReNN: Sotoudeh, Thakur, TACAS 2021, in rationals.
    """

    def __init__(self, network: Network, effort: Effort) -> None:
        self.network, self.effort = network, effort
        self.exact = ExactNetwork(network)
        self.cost, self.active = multiplications(network), network.activations

    def faces(self, frame: Frame, polygon: Array) -> Iterator[Face]:
        """Every piece, and of its edges and vertices those that have another pattern than the piece.

        Shapes: polygon ``(k, 2)``.
        """
        stack: list[tuple[int, Array, dict[str, Rationals], Pieces]] = [(0, polygon, {}, {})]
        while stack:
            k, vertices, values, pattern = stack.pop()
            if k == len(self.active):
                yield from self._faces_of(vertices, values, pattern)
                continue
            node = self.active[k]
            self.effort.spend((1 + frame.dimensions) * self.cost / len(self.active))
            (source,) = node.inputs
            values = self.exact.values(frame.base, pattern, stop=source, known=values)
            for part in _split(vertices, _cuts(node, values[source])):
                own = {**pattern, node.name: _pieces(node, values[source], part)}
                known = self.exact.values(frame.base, own, stop=node.name, known=values)
                stack.append((k + 1, part, known, own))

    def _faces_of(self, vertices: Array, values: Mapping[str, Rationals], whole: Pieces) -> Iterator[Face]:
        yield Face(vertices, whole)
        count = len(vertices)
        edges = [[i, (i + 1) % count] for i in range(count)] if count > 2 else []
        for chosen in (*edges, *([i] for i in range(count if count > 1 else 0))):
            part = vertices[chosen]
            pattern = {n.name: _pieces(n, values[n.inputs[0]], part) for n in self.active}
            if any(not np.array_equal(pattern[name], whole[name]) for name in pattern):
                yield Face(part, pattern)


def _cuts(node: Node, values: Rationals) -> Array:
    """The affine forms whose zeros bound the node's pieces, ``(1 + dimensions, m)``."""
    flat = values.numerators.reshape(len(values.numerators), -1)
    operator = node.operator
    if isinstance(operator, MaxPool):
        windows = operator.windows(values.numerators.shape[1:])
        pairs = {(int(a), int(b)) for w in windows for i, a in enumerate(w) for b in w[i + 1 :] if a >= 0 and b >= 0}
        parts = [flat[:, [a]] - flat[:, [b]] for a, b in sorted(pairs)]
        found = np.concatenate(parts, axis=1) if parts else flat[:, :0]
    else:
        assert isinstance(operator, PiecewiseLinear)
        found = np.concatenate([_less(flat, values.denominator, b) for b in operator.breaks], axis=1)
    return _forms(found)


def _less(values: Array, denominator: int, threshold: float) -> Array:
    """A positive multiple of ``values / denominator - threshold``, in integers."""
    exact = Fraction(threshold)
    return values * exact.denominator - exact.numerator * denominator


def _pieces(node: Node, values: Rationals, vertices: Array) -> npt.NDArray[np.int16]:
    """The piece of each neuron on the relative interior of a face that no `_cuts` form crosses, ``(1, *shape)``."""
    operator = node.operator
    flat = values.numerators.reshape(len(values.numerators), -1)
    if isinstance(operator, MaxPool):
        chosen, forms = [], _forms(flat)
        for window in operator.windows(values.numerators.shape[1:]):
            best = next(i for i, entry in enumerate(window) if entry >= 0)
            for i, entry in enumerate(window):
                if entry >= 0 and (vertices @ (forms[:, entry] - forms[:, window[best]])).max() > 0:
                    best = i
            chosen.append(best)
        return np.array(chosen, dtype=np.int16).reshape(1, *node.shape)
    assert isinstance(operator, PiecewiseLinear)
    piece = np.zeros(flat.shape[1], dtype=np.int16)
    for b in operator.breaks:
        piece += (vertices @ _forms(_less(flat, values.denominator, b)) > 0).any(axis=0)
    return piece.reshape(1, *node.shape)


def _split(vertices: Array, forms: Array) -> list[Array]:
    """A convex polygon (segment, point) cut along the zeros of affine forms."""
    heights = vertices @ forms
    crossing = np.flatnonzero((heights > 0).any(axis=0) & (heights < 0).any(axis=0))
    if not len(crossing):
        return [vertices]
    height, rest = heights[:, crossing[0]], forms[:, crossing[1:]]
    return [piece for half in (height, -height) for piece in _split(_below(vertices, half), rest)]


def _below(vertices: Array, height: Array) -> Array:
    """The part of a convex polygon (segment) where ``height``, given at the vertices times W, is at most 0."""
    kept = []
    count = len(vertices)
    for k in range(count):
        a, b = vertices[k], vertices[(k + 1) % count]
        ha, hb = height[k], height[(k + 1) % count]
        if ha <= 0:
            kept.append(a)
        if (ha < 0 < hb or hb < 0 < ha) and not (count == 2 and k == 1):
            crossing = abs(hb) * a + abs(ha) * b
            kept.append(crossing // gcd(*(int(c) for c in crossing)))
    return np.stack(kept)


@dataclass(frozen=True, kw_only=True)
class ExactCheck:
    """What `examine` found.

    Attributes:
        met, total: demands that are met, and all.
        worst: the smallest slack of any row, in float64; negative where violated.
        failures: the demands that are not met (at most `FAILURES`).
    """

    met: int
    total: int
    worst: float
    failures: tuple[Demand, ...]

    @property
    def violated(self) -> list[int]:
        """The requirements with a demand that is not met, in order."""
        return sorted({demand.requirement for demand in self.failures})


FAILURES = 1000
"""Most demands that are not met that are named."""


def examine(frozen: FrozenNetwork, specification: Specification, effort: Effort | None = None) -> ExactCheck:
    """Every demand of a specification, exactly.

    Points, and the polygons of a `PiecesRegion`, are what they say: each point on its own pattern, each polygon's corners
    (the float64 inputs that `PiecesRegion.embed` gives) on the one pattern that it names or its middle has.

    Args:
        effort: how much may be done; without limit by default.

    Raises:
        TimeLimitError: more than that is needed.

    Source:
        Sotoudeh, Thakur, Patching, 2019, Theorem 2: a specification holds on a region if it holds at its
        vertices; here on every face, in rationals.
    """
    effort = Effort() if effort is None else effort
    judge = _Judge(frozen, effort)
    subdivision = Subdivision(frozen.network, effort)
    met, total, worst = 0, 0, np.inf
    failures: list[Demand] = []
    for k, requirement in enumerate(specification.requirements):
        region, polytope = requirement.region, requirement.output
        if isinstance(region, (PointRegion, PiecesRegion)):
            points, pattern = given(frozen.network, region, effort)
            found = exact_slacks(frozen, points, pattern, polytope, effort)
            met, total, worst = met + int(found.met.sum()), total + len(points), min(worst, found.worst)
            for i in np.flatnonzero(~found.met)[: FAILURES - len(failures)]:
                own = {name: p[i : i + 1] for name, p in pattern.items()}
                failures.append(Demand(k, dyadic(points[i][None]), own))
            continue
        frame, polygon = part_of(region)
        seen: set[tuple[Any, ...]] = set()
        for face in subdivision.faces(frame, polygon):
            key = _key(face.pattern)
            for vertex, slack in zip(face.vertices, judge.slacks(frame, face, polytope, key), strict=True):
                place = (*vertex, key)
                if place in seen:
                    continue
                seen.add(place)
                total += 1
                met += slack >= 0
                worst = min(worst, float(slack))
                if slack < 0 and len(failures) < FAILURES:
                    failures.append(Demand(k, frame.at(vertex), face.pattern))
        judge.forget()
    return ExactCheck(met=met, total=total, worst=worst, failures=tuple(failures))


_patterns: WeakKeyDictionary[PointRegion, WeakKeyDictionary[Network, Pieces]] = WeakKeyDictionary()


def given(network: Network, region: PointRegion | PiecesRegion, effort: Effort) -> tuple[Array, Pieces]:
    """The inputs ``(k, n)`` that a region names, and the pattern of each (remembered for points)."""
    if isinstance(region, PointRegion):
        known = _patterns.setdefault(region, WeakKeyDictionary())
        if network not in known:
            known[network] = exact_patterns(network, region.points, effort)
        return region.points, known[network]
    owner = np.repeat(np.arange(len(region.counts)), region.counts)
    own = region.patterns
    if own is None:
        own = exact_patterns(network, region.embed(region.centroids), effort)
    return region.embed(region.vertices), {name: p[owner] for name, p in own.items()}


def _key(pattern: Pieces) -> bytes:
    return b"".join(pattern[name].tobytes() for name in sorted(pattern))


class _Judge:
    """Slacks of a frozen network on faces; a pattern's affine map is computed once for each frame."""

    def __init__(self, frozen: FrozenNetwork, effort: Effort) -> None:
        self.exact, self.output = ExactNetwork(frozen.value_network), frozen.network.output
        self.effort, self.cost = effort, multiplications(frozen.network)
        self._forms: dict[bytes, tuple[Array, int]] = {}

    def slacks(self, frame: Frame, face: Face, polytope: OutputPolytope, key: bytes) -> list[Fraction]:
        """The smallest slack of the polytope's rows at each vertex of a face."""
        if key not in self._forms:
            self.effort.spend((1 + frame.dimensions) * self.cost)
            values = self.exact.values(frame.base, face.pattern, stop=self.output)[self.output]
            slack = slack_of(polytope, values)
            self._forms[key] = _forms(slack.numerators), slack.denominator
        forms, denominator = self._forms[key]
        lowest = (face.vertices @ forms).min(axis=1)
        return [Fraction(int(n), int(v[0]) * denominator) for n, v in zip(lowest, face.vertices, strict=True)]

    def forget(self) -> None:
        """Before another frame or polytope."""
        self._forms.clear()
