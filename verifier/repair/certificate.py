"""Exact certificates: the rows that a linear program leans on, confirmed and computed anew in rational arithmetic.

The program's rows come from float64 vertices. A certificate takes only demands that are really made: an input of the
closed region, and an activation pattern that the network has there or right beside it within the region. From such rows
``a_i · Δ <= b_i`` and multipliers λ >= 0 weak duality proves, for every change Δ that meets them,

    norm(Δ) >= -Σ λ_i b_i / dual_norm(Σ λ_i a_i),

in rationals, for the rows as they were asked. (The dual norm is the smallest d with ``|v · Δ| <= d · norm(Δ)``.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

import numpy as np
import numpy.typing as npt

from verifier.network.exact import ExactNetwork
from verifier.network.operators import Array
from verifier.network.piecewise import MaxPool, PiecewiseLinear
from verifier.network.rationals import Rationals, dyadic
from verifier.repair.exact import Demand, Pieces, homogeneous, part_of
from verifier.repair.filtered import pattern_at, slack_of
from verifier.repair.frozen import FrozenNetwork
from verifier.repair.keypoints import KeyPoints
from verifier.repair.program import norm_weights
from verifier.repair.rows import LayerRows
from verifier.repair.specification import LineRegion, PiecesRegion, PointRegion, PolygonRegion

INWARDS = (0, 2**-52, 2**-46, 2**-40, 2**-34)
"""Shares of the way to its piece's middle by which a rounded vertex is moved, the first that brings it into the piece."""


@dataclass(frozen=True, eq=False)
class ExactRow:
    """``coefficients · Δ <= slack`` for a layer's parameter changes Δ.

    Attributes:
        coefficients: ``(size,)``.
        slack: at Δ = 0.
    """

    coefficients: Rationals
    slack: Fraction


class Confirmer:
    """Turns rows of a layer's program into exact ones, or says that nobody made that demand.

    Source:
        Sotoudeh, Thakur, Patching, 2019, Theorems 1 and 2, in rationals.
    """

    def __init__(self, frozen: FrozenNetwork, points: KeyPoints, layer: str) -> None:
        self.points, self.layer, self.frozen = points, layer, frozen
        self._original, self._value = ExactNetwork(frozen.network), ExactNetwork(frozen.value_network)
        self._demands: dict[int, Demand | None] = {}

    def row(self, row: int) -> ExactRow | None:
        """A row of the program, exactly; None if its demand cannot be confirmed."""
        point = int(self.points.row_point[row])
        if point not in self._demands:
            self._demands[point] = self._demand(point)
        demand = self._demands[point]
        if demand is None:
            return None
        polytope = self.points.specification.requirements[demand.requirement].output
        which = row - int(self.points.row_start[point])
        values = self._value.values(demand.point, demand.pattern)
        network, node = self.frozen.network, self.frozen.network[self.layer]
        upstream = self._value.gradient_at(self.layer, demand.pattern, polytope.rows[which])
        given = values[node.inputs[0]]
        operator = self.frozen.operator(node)
        one = np.zeros(1, dtype=np.int64)
        rows = LayerRows(operator, upstream.numerators, given.numerators, one, one, one)  # type: ignore[arg-type]
        # the last parameters are biases, whose coefficients have no input as a factor
        found = rows.coefficients(one)[0].astype(object)
        biases = operator.bias.size  # type: ignore[union-attr]
        found[len(found) - biases :] *= given.denominator
        coefficients = Rationals(found, upstream.denominator * given.denominator).reduced()
        slack = slack_of(polytope, values[network.output]).fractions()[which]
        return ExactRow(coefficients, slack)

    def _demand(self, k: int) -> Demand | None:
        """What key point k demands, at an exact input; None if its pattern is not one of the region's there."""
        points = self.points
        if points.demand[k] >= 0:
            return points.known[points.demand[k]]
        requirement = int(points.requirement[k])
        region = points.specification.requirements[requirement].region
        pattern = {n: p[points.piece[k]][None] for n, p in points.patterns.items()}
        if isinstance(region, (PointRegion, PiecesRegion)):
            # polygons have their pattern by definition, or that of their middle
            x = dyadic(points.points[k][None])
            if isinstance(region, PointRegion):
                own = x
            elif region.patterns is None:
                own = dyadic(region.embed(points.middles[points.piece[k]])[None])
            else:
                return Demand(requirement, x, pattern)
            return Demand(requirement, x, pattern) if self._has(own, pattern) else None
        frame, corners = part_of(region)
        size = frame.dimensions
        place = [Fraction(float(c)) for c in points.places[k][:size]]
        middle = [Fraction(float(c)) for c in points.middles[points.piece[k]][:size]]
        inner = homogeneous(*middle)
        if not (_inside(corners, inner, region) and self._has(frame.at(inner), pattern)):
            return None
        for share in INWARDS:
            moved = homogeneous(*(a + Fraction(share) * (b - a) for a, b in zip(place, middle, strict=True)))
            x = frame.at(moved)
            if _inside(corners, moved, region) and self._in_closed_piece(x, pattern):
                return Demand(requirement, x, pattern)
        return None

    def _has(self, x: Rationals, pattern: Pieces) -> bool:
        true = pattern_at(self._original, x)
        return all(np.array_equal(true[n], pattern[n]) for n in true)

    def _in_closed_piece(self, x: Rationals, pattern: Pieces) -> bool:
        """Whether an input lies in the closure of a pattern's linear region."""
        values = self._original.values(x, pattern)
        return all(
            _closed(node.operator, values[node.inputs[0]], pattern[node.name])  # type: ignore[arg-type]
            for node in self.frozen.network.activations
        )


def _closed(operator: PiecewiseLinear | MaxPool, values: Rationals, pieces: npt.NDArray[np.int16]) -> bool:
    """Whether every neuron's value lies in its closed piece."""
    if isinstance(operator, MaxPool):
        winner = operator.on_piece(values.numerators, pieces)
        return bool((operator.forward(values.numerators) == winner).all())
    flat, piece = values.numerators.reshape(-1), pieces.reshape(-1)
    for k, threshold in enumerate(operator.breaks):
        exact = Fraction(threshold)
        height = flat * exact.denominator - exact.numerator * values.denominator
        if ((piece > k) & (height < 0)).any() or ((piece <= k) & (height > 0)).any():
            return False
    return True


def _inside(corners: Array, place: Array, region: LineRegion | PolygonRegion) -> bool:
    """Whether homogeneous coordinates lie in a closed segment or convex polygon."""
    if isinstance(region, LineRegion):
        return bool(0 <= place[1] <= place[0])
    following = np.roll(corners, -1, axis=0)
    # twice the signed areas of (corner, next corner, place), times positive denominators
    x, y, z = corners.T
    u, v, w = following.T
    sides = np.stack([y * w - z * v, z * u - x * w, x * v - y * u], axis=1) @ place
    return bool((sides >= 0).all() or (sides <= 0).all())


def lower_bound(rows: Mapping[int, ExactRow], multipliers: Mapping[int, float], norm: str) -> Fraction | None:
    """A norm that every change meeting the rows has at least; None: no change meets them at all.

    Args:
        rows: exact rows, by the same keys as ``multipliers``, which are >= 0.
        norm: "l1", "linf" or "mixed".

    Source:
        weak duality: Farkas, 1902, in rationals.
    """
    chosen = [k for k in multipliers if k in rows and multipliers[k] > 0.0]
    if not chosen:
        return Fraction(0)
    shortage = -sum((Fraction(multipliers[k]) * rows[k].slack for k in chosen), Fraction(0))
    if shortage <= 0:
        return Fraction(0)
    weights = {k: Fraction(multipliers[k]) for k in chosen}
    common = lcm(*(rows[k].coefficients.denominator * weights[k].denominator for k in chosen))
    total: Array = np.zeros(1, dtype=object)
    for k in chosen:
        a, w = rows[k].coefficients, weights[k]
        total = total + a.numerators * (w.numerator * (common // (a.denominator * w.denominator)))
    largest = sorted((abs(int(v)) for v in total), reverse=True)
    l1, linf = (Fraction(w) for w in norm_weights(norm, len(largest)))
    # reached by equal changes of the largest j
    size, so_far = Fraction(0), 0
    for j, value in enumerate(largest, start=1):
        if not value:
            break
        so_far += value
        found = Fraction(so_far, common) / (l1 * j + linf)
        if found <= size:  # the averages fall from here on
            break
        size = found
    return None if size == 0 else shortage / size


def solve_exactly(rows: Mapping[int, ExactRow], delta: Array) -> Array | None:
    """The change near ``delta`` that meets some rows with equality, its zeros kept: exact, then rounded to float64.

    Shapes: delta ``(parameters,)``.

    None if the rows contradict each other in those parameters.

    Source:
        iterative refinement of a vertex, and rational reconstruction: Gleixner, Steffy, Wolter, INFORMS JoC
        2016, in one step.
    """
    columns = np.flatnonzero(delta)
    table = []
    for row in rows.values():
        a = row.coefficients
        table.append([*(Fraction(int(a.numerators[c]), a.denominator) for c in columns), row.slack])
    pivots: list[int] = []
    for column in range(len(columns)):
        found = next((r for r in range(len(pivots), len(table)) if table[r][column]), None)
        if found is None:
            continue
        rank = len(pivots)
        table[rank], table[found] = table[found], table[rank]
        pivot = table[rank]
        table[rank] = [v / pivot[column] for v in pivot]
        for r in range(len(table)):
            if r != rank and table[r][column]:
                factor = table[r][column]
                table[r] = [v - factor * p for v, p in zip(table[r], table[rank], strict=True)]
        pivots.append(column)
    if any(row[-1] for row in table[len(pivots) :]):
        return None
    solution = [Fraction(float(delta[c])) for c in columns]
    free = [j for j in range(len(columns)) if j not in pivots]
    for line, column in zip(table, pivots, strict=False):
        solution[column] = line[-1] - sum((line[j] * solution[j] for j in free), Fraction(0))
    result = np.zeros(len(delta))
    result[columns] = [float(v) for v in solution]
    return result
