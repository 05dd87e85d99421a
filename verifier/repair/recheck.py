"""Independent proof of a repair: the specification is checked again on the exact linear regions.

`check` subdivides every region anew, checks the subdivision, and looks at all vertices in float64. `check_exactly`
does it in rational arithmetic with a subdivision of its own (no tolerance anywhere): for small cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from verifier.bounds.interval import magnitude, rounding
from verifier.errors import InputError
from verifier.network.exact import ExactNetwork, Rationals
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator, Array
from verifier.network.piecewise import PiecewiseLinear, PiecewiseOperator
from verifier.regions.plane import areas_and_centroids, convex_polygon
from verifier.regions.rounding import UNIT
from verifier.repair.frozen import FrozenNetwork
from verifier.repair.keypoints import CHUNK, ROUNDING, KeyPoints, key_points
from verifier.repair.specification import (
    LineRegion,
    OutputPolytope,
    PiecesRegion,
    PointRegion,
    PolygonRegion,
    Region,
    Specification,
)

UNRELIABLE = 1e-6
"""Share of the original network's outputs' size: a row whose value may be off by more through rounding must hold by
more than its error bound."""

UNCOVERED = 1e-9
"""Share of a polygon's area that its pieces may leave out (or count twice) through rounding."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """What a check of a specification found.

    Attributes:
        met, total: key points at which the output lies in its polytope, and all.
        worst: the smallest slack of any row; negative where violated.
        violated: names of the requirements with a violated key point.
        exact: whether it was done in rational arithmetic.
        misplaced: vertices that are not in the linear region their piece claims (float64 check only).
        uncovered: largest share of a polygon's area that its pieces miss or count twice (float64 check only).
        rounding: bound on the rounding error of any row's slack (float64 check only).
    """

    met: int
    total: int
    worst: float
    violated: tuple[str, ...]
    exact: bool = False
    misplaced: int = 0
    uncovered: float = 0.0
    rounding: float = 0.0

    @property
    def proved(self) -> bool:
        """Whether the whole specification holds."""
        return self.met == self.total and self.misplaced == 0 and self.uncovered <= UNCOVERED


def check(frozen: FrozenNetwork, specification: Specification) -> Check:
    """Check a specification at the vertices of all linear regions, found anew, in float64.

    Nothing of the repair is used, and the subdivision is not taken on trust: each piece has to lie in one linear
    region of the original network (at each vertex every unit's true value is that of the piece's affine function),
    and the pieces of a polygon have to cover its area. Slack within rounding errors of zero counts as zero (see
    `KeyPoints.slack`): a requirement with a margin is proved with the margin less those errors. A row whose own
    error bound is larger than `UNRELIABLE` counts as met only if its slack is larger than the bound.
    """
    points = key_points(frozen.network, specification)
    slack, errors = points.slack(frozen), _slack_errors(frozen, points)
    certain = (errors <= UNRELIABLE / ROUNDING * points.tolerance) | (slack >= errors)
    met = np.logical_and.reduceat((slack >= 0) & certain, points.row_start[:-1])
    bad = np.unique(points.requirement[~met])
    return Check(
        met=int(met.sum()),
        total=len(points),
        worst=float(slack.min()),
        violated=tuple(specification.label(int(k)) for k in bad),
        misplaced=misplaced(frozen.network, points.points, points.piece),
        uncovered=max((_uncovered(points, k) for k in range(len(specification.requirements))), default=0.0),
        rounding=float(errors.max(initial=0.0)),
    )


def _slack_errors(frozen: FrozenNetwork, points: KeyPoints) -> Array:
    """A bound on each row's rounding error, ``(R,)``: the value channel without cancellation, times the roundings.

    A sum of n products in any order is within ``(n + 4) u`` of its terms' absolute values (the analysis of
    `verifier.bounds.interval`); over the layers these factors multiply.
    """
    sizes, growth = [], 1.0
    for node in frozen.network.nodes[1:]:
        operator = frozen.operator(node)
        growth *= 1 + (rounding(operator, False) if isinstance(operator, AffineOperator) else 4 * UNIT)
    for chunk in points.chunks():
        pattern = points.pattern(chunk)
        values = {frozen.network.input: np.abs(frozen.network.batch(points.points[chunk])[0])}
        for node in frozen.network.nodes[1:]:
            operator, inputs = frozen.operator(node), [values[i] for i in node.inputs]
            if isinstance(operator, AffineOperator):
                size, constant = magnitude(operator).linear(*inputs), operator.constant()
                values[node.name] = size if constant is None else size + np.abs(constant)
            else:
                values[node.name] = _piece_size(operator, inputs[0], pattern[node.name])
        sizes.append(values[frozen.network.output].reshape(chunk.stop - chunk.start, -1))
    largest = (np.abs(points.rows) * np.concatenate(sizes)[points.row_point]).sum(axis=1) + np.abs(points.bound)
    return np.asarray((growth * (1 + (points.rows.shape[1] + 4) * UNIT) - 1) * largest)


def _piece_size(operator: PiecewiseOperator, size: Array, pieces: npt.NDArray[np.int16]) -> Array:
    if isinstance(operator, PiecewiseLinear):
        return np.abs(operator.slopes)[pieces] * size + np.abs(operator.intercepts)[pieces]
    return operator.on_piece(size, pieces)


def misplaced(network: Network, points: Array, piece: npt.NDArray[np.int64], tolerance: float = 1e-7) -> int:
    """How many key points lie outside the linear region of their piece.

    The region is that of the piece's middle (the mean of its key points). A key point is misplaced when a unit's
    function on that region's piece differs there from the unit's true value by more than ``tolerance`` of the
    values' size.
    """
    found, unpatched = 0, FrozenNetwork(network)
    starts = np.flatnonzero(np.diff(piece, prepend=-1))  # key points of one piece follow each other
    inside = np.add.reduceat(points, starts, axis=0) / np.bincount(piece)[:, None]
    parts = [network.pattern(inside[start : start + CHUNK]) for start in range(0, len(inside), CHUNK)]
    patterns = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    for start in range(0, len(points), CHUNK):
        x = points[start : start + CHUNK]
        true = network.values(x)
        own = piece[start : start + CHUNK]
        values = unpatched.values(x, {name: p[own] for name, p in patterns.items()})
        wrong = np.zeros(len(x), dtype=bool)
        for node in network.activations:
            scale = 1.0 + np.abs(true[node.inputs[0]]).max()
            difference = np.abs(values[node.name] - true[node.name]).reshape(len(x), -1).max(axis=1)
            wrong |= difference > tolerance * scale
        found += int(wrong.sum())
    return found


def _uncovered(points: KeyPoints, requirement: int) -> float:
    """Share of a polygon's area that its pieces miss or count twice; 0 for other regions."""
    region = points.specification.requirements[requirement].region
    if not isinstance(region, PolygonRegion):
        return 0.0
    own = points.requirement == requirement
    axes = np.stack([region.u, region.v], axis=1)
    place = np.linalg.lstsq(axes, (points.points[own] - region.origin).T, rcond=None)[0].T
    counts = np.unique(points.piece[own], return_counts=True)[1]
    areas, _ = areas_and_centroids(place, np.concatenate([[0], np.cumsum(counts)]), np.arange(len(place)))
    corners = convex_polygon(region.polygon)
    whole = float(areas_and_centroids(corners, np.array([0, len(corners)]), np.arange(len(corners)))[0][0])
    return abs(float(areas.sum()) - whole) / whole


Coordinates = tuple[Fraction, ...]


def check_exactly(frozen: FrozenNetwork, specification: Specification) -> Check:
    """Check a specification in rational arithmetic; for small networks and regions of few pieces.

    Raises:
        InputError: for a network with MaxPool (its pieces are not split by thresholds of single values).
    """
    for node in frozen.network.activations:
        if not isinstance(node.operator, PiecewiseLinear):
            raise InputError(
                f"the exact check does not take {type(node.operator).__name__} (node {node.name!r})",
                fix="use the float64 check",
            )
    network = frozen.network
    nodes = tuple(replace(n, operator=frozen.patches[n.name]) if n.name in frozen.patches else n for n in network.nodes)
    patched = ExactNetwork(Network(nodes, network.output, network.source))
    original = ExactNetwork(network)
    met = total = 0
    worst: Fraction | None = None
    violated = []
    for k, requirement in enumerate(specification.requirements):
        before = met, total
        for frame, polygon in _polygons(requirement.region):
            for piece, pattern in _subdivide(original, frame, polygon):
                outputs = _affine(patched, frame, network.output, pattern)
                for vertex in piece:
                    slack = _slack(requirement.output, _at(outputs, vertex))
                    total += 1
                    met += slack >= 0
                    worst = slack if worst is None else min(worst, slack)
        if (met - before[0]) != (total - before[1]):
            violated.append(specification.label(k))
    return Check(met=met, total=total, worst=float(worst or 0), violated=tuple(violated), exact=True)


@dataclass(frozen=True, eq=False)
class _Frame:
    """An exact affine map from coordinates to inputs: ``origin + Σ c_i · directions[i]``."""

    base: Rationals
    """``(1 + dimensions, n)``: the origin, then origin + each direction."""

    dimensions: int


def _frame(origin: Array, *directions: Array) -> _Frame:
    rows = [[Fraction(float(v)) for v in origin]]
    rows += [[a + Fraction(float(b)) for a, b in zip(rows[0], d, strict=True)] for d in directions]
    return _Frame(Rationals.of([v for row in rows for v in row]), len(directions))


def _polygons(region: Region) -> list[tuple[_Frame, list[Coordinates]]]:
    if isinstance(region, PointRegion):
        return [(_frame(point), [()]) for point in region.points]
    if isinstance(region, LineRegion):
        ends = [Fraction(float(v)) for v in region.end]
        rows = [[Fraction(float(v)) for v in region.start], ends]
        frame = _Frame(Rationals.of([v for row in rows for v in row]), 1)
        return [(frame, [(Fraction(0),), (Fraction(1),)])]
    frame = _frame(region.origin, region.u, region.v)
    if isinstance(region, PiecesRegion):
        parts = [region.vertices[a:b] for a, b in zip(region.offsets[:-1], region.offsets[1:], strict=True)]
    else:
        parts = [region.polygon]
    return [(frame, [(Fraction(float(s)), Fraction(float(t))) for s, t in part]) for part in parts]


Affine = list[tuple[Fraction, ...]]
"""For each entry of a node: its value at the origin, then its slope along each direction."""


def _affine(network: ExactNetwork, frame: _Frame, node: str, pattern: dict[str, npt.NDArray[np.int16]]) -> Affine:
    values = network.values(frame.base, pattern, stop=node)[node]
    rows = values.numerators.reshape(1 + frame.dimensions, -1)
    exact = [[Fraction(int(v), values.denominator) for v in row] for row in rows]
    return [(column[0], *(v - column[0] for v in column[1:])) for column in zip(*exact, strict=True)]


def _at(affine: Affine, vertex: Coordinates) -> list[Fraction]:
    return [a[0] + sum((c * v for c, v in zip(a[1:], vertex, strict=True)), Fraction(0)) for a in affine]


def _slack(output: OutputPolytope, y: Sequence[Fraction]) -> Fraction:
    """The smallest slack of the polytope's rows at one output."""
    slacks = []
    for row, bound in zip(output.rows, output.bound, strict=True):
        used = sum((Fraction(float(a)) * v for a, v in zip(row, y, strict=True) if a), Fraction(0))
        slacks.append(Fraction(float(bound)) - used)
    return min(slacks)


def _subdivide(
    network: ExactNetwork, frame: _Frame, polygon: list[Coordinates]
) -> list[tuple[list[Coordinates], dict[str, npt.NDArray[np.int16]]]]:
    """All linear pieces of a polygon (segment, point) with their patterns, exactly, unit by unit."""
    pieces: list[tuple[list[Coordinates], dict[str, npt.NDArray[np.int16]]]] = [(polygon, {})]
    for node in network.network.activations:
        found = []
        for piece, pattern in pieces:
            affine = _affine(network, frame, node.inputs[0], pattern)
            parts = _split(piece, affine, node)
            found += [(part, {**pattern, node.name: _pieces_at(part, affine, node)}) for part in parts]
        pieces = found
    return pieces


def _split(piece: list[Coordinates], affine: Affine, node: Node) -> list[list[Coordinates]]:
    assert isinstance(node.operator, PiecewiseLinear)
    parts = [piece]
    for entry in affine:
        for threshold in node.operator.breaks:
            parts = [q for p in parts for q in _cut(p, entry, Fraction(threshold))]
    return parts


def _cut(polygon: list[Coordinates], entry: tuple[Fraction, ...], threshold: Fraction) -> list[list[Coordinates]]:
    """The polygon below and above the line ``entry = threshold``; itself if the line does not cross it."""
    height = [_at([entry], v)[0] - threshold for v in polygon]
    if min(height) >= 0 or max(height) <= 0:
        return [polygon]
    below: list[Coordinates] = []
    above: list[Coordinates] = []
    count = len(polygon)
    for k in range(count):
        a, b = polygon[k], polygon[(k + 1) % count]
        ha, hb = height[k], height[(k + 1) % count]
        if ha <= 0:
            below.append(a)
        if ha >= 0:
            above.append(a)
        if (ha < 0 < hb or hb < 0 < ha) and not (count == 2 and k == 1):
            crossing = tuple(x + (y - x) * ha / (ha - hb) for x, y in zip(a, b, strict=True))
            below.append(crossing)
            above.append(crossing)
    return [below, above]


def _pieces_at(part: list[Coordinates], affine: Affine, node: Node) -> npt.NDArray[np.int16]:
    """The piece of each unit in the interior of a part, ``(1, *shape)``."""
    assert isinstance(node.operator, PiecewiseLinear)
    count = len(part)
    center = tuple(sum((v[i] for v in part), Fraction(0)) / count for i in range(len(part[0])))
    values = _at(affine, center)
    flat = [sum(v > Fraction(b) for b in node.operator.breaks) for v in values]
    return np.array(flat, dtype=np.int16).reshape(1, *node.shape)
