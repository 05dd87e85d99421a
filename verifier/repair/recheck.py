"""Proof of a repair: the specification is checked again, on linear regions that are found anew.

Two checks. `check_exactly` knows no rounding: it decides whether a network is called repaired. `check` works in float64,
up to rounding errors, for what is too large for that. Neither uses anything of the search for a repair.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from verifier.bounds.interval import magnitude, rounding
from verifier.network.graph import Network
from verifier.network.operators import AffineOperator, Array
from verifier.network.piecewise import PiecewiseLinear, PiecewiseOperator
from verifier.regions.polygons import areas_and_centroids, convex_polygon
from verifier.repair.effort import Effort
from verifier.repair.exact import Demand, examine, given
from verifier.repair.frozen import CHUNK, FrozenNetwork
from verifier.repair.specification import (
    ROUNDING,
    LineRegion,
    PiecesRegion,
    PointRegion,
    PolygonRegion,
    Region,
    Specification,
)
from verifier.rounding import UNIT_ROUNDOFF

UNRELIABLE = 1e-6
"""Share of the original network's outputs' size: a row whose value may be off by more through rounding must hold by
more than its error bound."""

UNCOVERED = 1e-9
"""Share of a polygon's area that its pieces may leave out (or count twice) through rounding."""

MISPLACED = 1e-7
"""Share of the values' size by which a neuron may differ from its piece's affine function at a vertex."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """What a check of a specification found.

    Attributes:
        met, total: key points at which the output lies in its polytope, and all.
        worst: the smallest slack of any row; negative where violated.
        violated: names of the requirements with a violated key point.
        exact: whether it was done in rational arithmetic.
        misplaced: vertices that are not in the linear region their piece claims, by float64.
        uncovered: largest share of a polygon's area that its pieces miss or count twice (float64 check only).
        rounding: bound on the rounding error of any row's slack (float64 check only).
        failures: the demands that are not met, each an input and an activation pattern (exact check only).
    """

    met: int
    total: int
    worst: float
    violated: tuple[str, ...]
    exact: bool = False
    misplaced: int = 0
    uncovered: float = 0.0
    rounding: float = 0.0
    failures: tuple[Demand, ...] = ()

    @property
    def proved(self) -> bool:
        """Whether the whole specification holds (without `exact`: up to rounding errors)."""
        return self.met == self.total and self.misplaced == 0 and self.uncovered <= UNCOVERED


def check_exactly(frozen: FrozenNetwork, specification: Specification, effort: Effort | None = None) -> Check:
    """Check a specification in rational arithmetic, at every face of the closed regions; for small cases.

    That each polygon of a `PiecesRegion` lies in one linear region is checked in float64 (`Check.misplaced`): its corners
    are rounded, and lie there up to rounding only.

    Args:
        effort: how much may be done; without limit by default.

    Raises:
        TimeLimitError: more than that is needed.

    Source:
        Sotoudeh, Thakur, Patching, 2019, Theorem 2, on every face and in rationals.
    """
    found = examine(frozen, specification, effort)
    return Check(
        met=found.met,
        total=found.total,
        worst=found.worst,
        violated=tuple(specification.label(k) for k in found.violated),
        exact=True,
        misplaced=sum(misplaced(frozen.network, specification).values()),
        failures=found.failures,
    )


def misplaced(network: Network, specification: Specification) -> dict[int, int]:
    """How many corners of a requirement's `PiecesRegion` lie outside the linear region of their polygon's middle.

    Returns:
        by the requirement's index, only those with such corners.
    """
    found = {}
    for k, requirement in enumerate(specification.requirements):
        if isinstance(requirement.region, PiecesRegion):
            chunks = _chunks(network, _vertices(network, requirement.region))
            count = sum(_misplaced(network, part, pattern) for part, pattern in chunks)
            if count:
                found[k] = count
    return found


@dataclass(frozen=True, eq=False)
class _Vertices:
    """The vertices of a region's linear pieces.

    Attributes:
        points: ``(V, n)``, those of one piece one after the other.
        piece: ``(V,)``, from 0.
        middles: ``(pieces, n)`` an inner point of each.
        patterns: of each piece, where it is known exactly (points); None: that of its middle.
        uncovered: share of the region's area that the pieces miss or count twice.
    """

    points: Array
    piece: npt.NDArray[np.int64]
    middles: Array
    patterns: dict[str, npt.NDArray[np.int16]] | None = None
    uncovered: float = 0.0


def _vertices(network: Network, region: Region) -> _Vertices:
    from verifier.regions import line, plane

    if isinstance(region, PointRegion):
        points, patterns = given(network, region, Effort())
        return _Vertices(points, np.arange(len(points)), points, patterns)
    if isinstance(region, LineRegion):
        found = line(network, region.start, region.end)
        ends = np.stack([found.points[:-1], found.points[1:]], axis=1).reshape(-1, network.input_size)
        return _Vertices(ends, np.repeat(np.arange(len(ends) // 2), 2), found.midpoints)
    if not isinstance(region, PolygonRegion):
        owner = np.repeat(np.arange(len(region.counts)), region.counts)
        return _Vertices(region.embed(region.vertices), owner, region.embed(region.centroids))
    cut = plane(network, region.origin, region.u, region.v, region.polygon)
    places, offsets = cut.vertices[cut.indices], np.asarray(cut.offsets, dtype=np.int64)
    counts = np.diff(offsets)
    middles = np.add.reduceat(places, offsets[:-1], axis=0) / counts[:, None]
    areas, _ = areas_and_centroids(places, offsets, np.arange(len(places)))
    corners = convex_polygon(region.polygon)
    whole = float(areas_and_centroids(corners, np.array([0, len(corners)]), np.arange(len(corners)))[0][0])
    uncovered = abs(float(areas.sum()) - whole) / whole
    return _Vertices(cut.embed(places), np.repeat(np.arange(len(counts)), counts), cut.embed(middles), None, uncovered)


def check(frozen: FrozenNetwork, specification: Specification) -> Check:
    """Check a specification at the vertices of all linear regions, found anew, in float64.

    The subdivision is not taken on trust: each piece has to lie in one linear region of the original network (at each
    vertex every neuron's true value is that of the affine function that it has at the piece's middle), and the pieces
    of a polygon have to cover its area. Slack within `ROUNDING` of zero counts as zero: a requirement with a margin is
    proved with the margin less those errors. A row whose own error bound is larger than `UNRELIABLE` counts as met only
    if its slack is larger than the bound. What kinks do on their own, `check_exactly` alone says.

    Raises:
        PropertyError: if the specification does not fit the network (see `Specification.check`).

    Source:
        Sotoudeh, Thakur, Patching, 2019, Theorem 2.
    """
    network = frozen.network
    specification.check(network)
    regions = [_vertices(network, r.region) for r in specification.requirements]
    size = max(
        float(np.abs(network.forward(r.points[start : start + CHUNK])).max(initial=0.0))
        for r in regions
        for start in range(0, len(r.points), CHUNK)
    )
    met = total = misplaced = 0
    worst, largest = np.inf, 0.0
    violated = []
    for k, (requirement, region) in enumerate(zip(specification.requirements, regions, strict=True)):
        polytope, before = requirement.output, total - met
        tolerance = polytope.tolerance(size)
        for part, pattern in _chunks(network, region):
            values = frozen.values(part, pattern)[network.output].reshape(len(part), -1)
            slack, errors = polytope.slack(values), _errors(frozen, part, pattern, polytope.rows, polytope.bound)
            slack = np.where(np.abs(slack) <= tolerance, 0.0, slack)
            certain = (errors <= UNRELIABLE / ROUNDING * tolerance) | (slack >= errors)
            met += int(((slack >= 0) & certain).all(axis=1).sum())
            total += len(part)
            worst, largest = min(worst, float(slack.min())), max(largest, float(errors.max(initial=0.0)))
            misplaced += _misplaced(network, part, pattern)
        if total - met > before:
            violated.append(specification.label(k))
    return Check(
        met=met,
        total=total,
        worst=worst,
        violated=tuple(violated),
        misplaced=misplaced,
        uncovered=max(r.uncovered for r in regions),
        rounding=largest,
    )


def _chunks(network: Network, region: _Vertices) -> list[tuple[Array, dict[str, npt.NDArray[np.int16]]]]:
    """Vertices, some at once, and the pattern of the piece of each (that of its middle)."""
    found = []
    for start in range(0, len(region.points), CHUNK):
        piece = region.piece[start : start + CHUNK]
        if region.patterns is None:
            patterns = network.pattern(region.middles[piece[0] : piece[-1] + 1])
            own = {name: p[piece - piece[0]] for name, p in patterns.items()}
        else:
            own = {name: p[piece] for name, p in region.patterns.items()}
        found.append((region.points[start : start + CHUNK], own))
    return found


def _errors(
    frozen: FrozenNetwork, x: Array, pattern: dict[str, npt.NDArray[np.int16]], rows: Array, bound: Array
) -> Array:
    """A bound on each row's rounding error, ``(V, rows)``: the value channel without cancellation, times the roundings.

    A sum of n products in any order is within ``(n + 4) u`` of its terms' absolute values (the analysis of
    `verifier.bounds.interval`); over the layers these factors multiply.
    """
    growth = 1.0
    sizes = {frozen.network.input: np.abs(frozen.network.batch(x)[0])}
    for node in frozen.network.nodes[1:]:
        operator, inputs = frozen.operator(node), [sizes[i] for i in node.inputs]
        if isinstance(operator, AffineOperator):
            growth *= 1 + rounding(operator, False, [v.shape[1:] for v in inputs])
            size, constant = magnitude(operator).linear(*inputs), operator.constant()
            sizes[node.name] = size if constant is None else size + np.abs(constant)
        else:
            growth *= 1 + 4 * UNIT_ROUNDOFF
            sizes[node.name] = _piece_size(operator, inputs[0], pattern[node.name])
    outputs = sizes[frozen.network.output].reshape(len(x), -1)
    largest = outputs @ np.abs(rows).T + np.abs(bound)
    return np.asarray((growth * (1 + (rows.shape[1] + 4) * UNIT_ROUNDOFF) - 1) * largest)


def _piece_size(operator: PiecewiseOperator, size: Array, pieces: npt.NDArray[np.int16]) -> Array:
    if isinstance(operator, PiecewiseLinear):
        return np.abs(operator.slopes)[pieces] * size + np.abs(operator.intercepts)[pieces]
    return operator.on_piece(size, pieces)


def _misplaced(network: Network, x: Array, pattern: dict[str, npt.NDArray[np.int16]]) -> int:
    """How many vertices lie outside the linear region of their piece, by more than `MISPLACED`."""
    true, claimed = network.values(x), FrozenNetwork(network).values(x, pattern)
    wrong = np.zeros(len(x), dtype=bool)
    for node in network.activations:
        scale = 1.0 + np.abs(true[node.inputs[0]]).max()
        difference = np.abs(claimed[node.name] - true[node.name]).reshape(len(x), -1).max(axis=1)
        wrong |= difference > MISPLACED * scale
    return int(wrong.sum())
