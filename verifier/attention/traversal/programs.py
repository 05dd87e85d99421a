"""Linear regions of any number of parameters by linear programs (HiGHS, warm-started).

For a region given by its active neurons, the half-spaces of all neurons that can vanish over the parameter
box are the rows of one linear program. Its bounding box (2 d programs) excludes most rows; each of those left
is a face if its neuron gets negative when only its own row is taken away. Consecutive programs differ in the
objective and one bound, so each starts from the last one's basis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp

from verifier.attention.traversal.cells import Cell, Face
from verifier.attention.traversal.kernels import Expected, inconsistency, start_region
from verifier.attention.traversal.net import TraversalNet, new_state
from verifier.attention.traversal.plane import truly_zero
from verifier.attention.traversal.polygon import TIED, ZERO
from verifier.errors import EngineError
from verifier.lp.program import LinearProgram, LpSettings, LpStatus
from verifier.network.operators import Array

TOLERANCE = 1e-9
"""Feasibility tolerance of the programs: slivers thinner than this (the box has width 1) are left out."""


class Program:
    """``min c·t`` over rows ``A t >= b`` and a box; the objective and single bounds can be changed."""

    def __init__(self, matrix: Array, bound: Array, low: Array, high: Array) -> None:
        self._box = low, high
        self._program = self._new(sp.csr_array(matrix), np.array(bound), LpSettings(tolerance=TOLERANCE))
        self.solved = 0

    def _new(self, matrix: sp.csr_array, bound: Array, settings: LpSettings) -> LinearProgram:
        low, high = self._box
        return LinearProgram(matrix, bound, np.full(len(bound), np.inf), low, high, settings=settings)

    def bound(self, row: int, value: float) -> None:
        """Change one row's lower bound."""
        self._program.bound_rows(np.array([row]), np.array([value]), np.array([np.inf]))

    def relax(self, row: int) -> None:
        """Take one row away (until its bound is set again)."""
        self.bound(row, -np.inf)

    def minimum(self, cost: Array) -> tuple[float, Array] | None:
        """The least value and where it is taken; None if there is no point at all.

        Shapes: cost ``(columns,)``.

        Raises:
            EngineError: if HiGHS ends in any other way, also from scratch with presolve and a looser tolerance.
        """
        self._program.set_cost(np.asarray(cost, dtype=np.float64))
        answer = self._program.solve()
        for tolerance in (TOLERANCE, 1e-7):
            if answer.status in (LpStatus.OPTIMAL, LpStatus.INFEASIBLE, LpStatus.DOUBTFUL):
                break
            again = self._new(
                self._program.matrix, self._program.row_lower, LpSettings(tolerance=tolerance, presolve=True)
            )
            again.set_cost(self._program.cost)
            answer = again.solve()
        self.solved += 1
        if answer.status in (LpStatus.INFEASIBLE, LpStatus.DOUBTFUL):
            return None
        if answer.point is None:
            raise EngineError(f"HiGHS ended with {answer.word}")
        return float(cost @ answer.point), answer.point


def chebyshev(matrix: Array, bound: Array) -> tuple[Array, float]:
    """Center and radius of the largest ball in ``{t in the unit cube: matrix t >= bound}``; radius < 0: empty.

    Shapes: matrix ``(rows, d)``; bound ``(rows,)``.
    """
    d = matrix.shape[1]
    rows = np.concatenate([matrix, np.eye(d), -np.eye(d)])
    limits = np.concatenate([bound, np.zeros(d), -np.ones(d)])
    norms = np.linalg.norm(rows, axis=1)
    low, high = np.append(np.zeros(d), -1.0), np.append(np.ones(d), 1.0)
    found = Program(np.column_stack([rows, -norms]), limits, low, high).minimum(np.append(np.zeros(d), -1.0))
    if found is None:
        return np.full(d, 0.5), -1.0
    return found[1][:d], float(found[1][d])


def convex_minimum(
    f: Callable[[Array], tuple[float, Array]],
    matrix: Array,
    bound: Array,
    start: Array,
    *,
    above: float = np.inf,
    below: float = -np.inf,
    gap: float = 1e-9,
) -> tuple[float, float, Array]:
    """Minimum of a convex function over a polytope in the unit cube, by cutting planes (Kelley).

    Shapes: matrix ``(rows, d)``; bound ``(rows,)``; start ``(d,)``.

    Args:
        f: value and a subgradient at a point.
        start: a point of the polytope.
        above, below: stop as soon as the minimum is known to be > above, or a value <= below is found.
        gap: stop when the bounds are this close, relative to max(1, value).

    Returns:
        a lower bound, the least value found, and where.
    """
    d = len(start)
    cuts, limits = [np.append(row, 0.0) for row in matrix], list(bound)
    best, where, lower = np.inf, start, 0.0
    point = start
    for _ in range(200):
        value, slope = f(point)
        if value < best:
            best, where = value, point
        if best <= below or best - lower <= gap * max(1.0, best):
            break
        cuts.append(np.append(-slope, 1.0))
        limits.append(value - float(slope @ point))
        program = Program(np.array(cuts), np.array(limits), np.zeros(d + 1), np.append(np.ones(d), 1e30))
        found = program.minimum(np.append(np.zeros(d), 1.0))
        if found is None:
            break
        lower, point = max(lower, found[0]), found[1][:d]
        if lower > above:
            break
    return lower, best, where


class LPExplorer:
    """Opens regions of any number of parameters by linear programs."""

    def __init__(self, tnet: TraversalNet, expected: Expected, delta: float, label: int) -> None:
        self.tnet, self.expected, self.delta, self.label = tnet, expected, delta, label
        self.state = new_state(tnet.net, expected)
        self.dimension = len(tnet.width)
        self._units = np.concatenate([np.arange(a, b) for a, b in tnet.scan] or [np.zeros(0, dtype=np.int64)])
        self.programs = 0
        self._zeros = self._units[:0]

    def open(self, at: Array, into: Array, known: Any = frozenset()) -> Cell | int | None:
        """See `verifier.attention.traversal.cells.Explorer`."""
        start_region(self.tnet.net, self.expected, self.state, at, into, False)
        key = int(self.state.key[0])
        if key in known:
            return key
        rows, bound, groups = self._rows()
        center, radius = chebyshev(rows, bound)
        self.programs += 1
        if radius < TOLERANCE:
            return None
        rows, bound, groups = self._near(rows, bound, groups)
        faces, kept = self._faces(rows, bound, groups, key, known)
        return self._cell(key, faces, rows[kept], bound[kept], center)

    def half_spaces(self, point: Array) -> tuple[Array, Array]:
        """Make the region around an inner point the present one; its half-spaces ``rows t >= bound``.

        Shapes: point ``(d,)``.
        """
        into = np.ones(self.dimension) / np.sqrt(self.dimension)
        start_region(self.tnet.net, self.expected, self.state, point, into, False)
        rows, bound, _ = self._rows()
        return rows, bound

    def _rows(self) -> tuple[Array, Array, list[Array]]:
        """Half-spaces ``rows t >= bound`` (normalised) and the neurons of each; equal ones are joined."""
        Z, neurons = self.state.Z[:, self._units], self._units
        sign = np.where(self.state.bits[neurons] == 1, 1.0, -1.0)
        norm = np.linalg.norm(Z[1:], axis=0)
        noise = self.tnet.net.noise[neurons]
        self._zeros = neurons[norm + np.abs(Z[0]) <= ZERO * noise]
        real = norm > ZERO * noise
        scaled = (sign * Z)[:, real] / norm[real]
        neurons = neurons[real]
        reach = np.minimum(scaled[1:], 0.0).sum(axis=0) + scaled[0]
        near = reach < TOLERANCE
        scaled, neurons = scaled[:, near], neurons[near]
        _, first, inverse = np.unique(np.round(scaled.T, 9), axis=0, return_index=True, return_inverse=True)
        order = np.argsort(inverse.reshape(-1), kind="stable")
        ends = np.cumsum(np.bincount(inverse.reshape(-1), minlength=len(first)))
        groups = np.split(neurons[order], ends[:-1]) if len(first) else []
        return scaled[1:, first].T.copy(), -scaled[0, first], groups

    def _near(self, rows: Array, bound: Array, groups: list[Array]) -> tuple[Array, Array, list[Array]]:
        """Only the half-spaces that cut the region's bounding box."""
        d = self.dimension
        program = Program(rows, bound, np.zeros(d), np.ones(d))
        low, high = np.zeros(d), np.ones(d)
        for i in range(d):
            neuron = np.eye(d)[i]
            for sign, ends in ((1.0, low), (-1.0, high)):
                found = program.minimum(sign * neuron)
                if found is not None:
                    ends[i] = sign * found[0]
        self.programs += program.solved
        least = np.where(rows > 0, rows * low, rows * high).sum(axis=1)
        keep = np.flatnonzero(least < bound + 10 * TOLERANCE)
        return rows[keep], bound[keep], [groups[k] for k in keep]

    def _faces(
        self, rows: Array, bound: Array, groups: list[Array], key: int, known: Any
    ) -> tuple[list[Face], list[int]]:
        """The faces, and which rows they are."""
        d = self.dimension
        program = Program(rows, bound, np.zeros(d), np.ones(d))
        faces, kept = [], []
        for k in range(len(rows)):
            program.relax(k)
            found = program.minimum(rows[k])
            program.bound(k, float(bound[k]))
            if found is None or found[0] > bound[k] - TOLERANCE:
                continue
            kept.append(k)
        self.programs += program.solved
        for k in kept:
            others = [j for j in kept if j != k]
            inside = self._inside_face(rows, bound, k, others)
            if inside is None:
                continue
            neighbour = key
            for u in groups[k]:
                neighbour ^= int(self.tnet.net.hash[u])
            if len(self._zeros):
                neighbour = ((key + k + 1) * 0xD6E8FEB86659FD93) % 2**64
            faces.append(Face(inside, -rows[k], neighbour))
        return faces, kept

    def _inside_face(self, rows: Array, bound: Array, k: int, others: list[int]) -> Array | None:
        """The center of the largest ball (within the face's plane) in face k."""
        d = self.dimension
        normal, limit = rows[k], float(bound[k])
        cube = np.concatenate([np.eye(d), -np.eye(d)])
        matrix = np.concatenate([rows[others], cube])
        right = np.concatenate([bound[others], np.zeros(d), -np.ones(d)])
        flat = matrix - np.outer(matrix @ normal, normal)
        reach = np.linalg.norm(flat, axis=1)
        full = np.column_stack([matrix, -reach])
        full = np.concatenate([full, [np.append(normal, 0.0)], [np.append(-normal, 0.0)]])
        program = Program(
            full,
            np.concatenate([right, [limit], [-limit]]),
            np.append(np.zeros(d), -1.0),
            np.append(np.ones(d), 1.0),
        )
        found = program.minimum(np.append(np.zeros(d), -1.0))
        self.programs += 1
        if found is None or found[1][d] < TOLERANCE:
            return None
        return found[1][:d]

    def _cell(self, key: int, faces: list[Face], rows: Array, bound: Array, center: Array) -> Cell:
        vertices, volume = polytope(rows, bound, center)
        attention, low, high = self._attention(rows, bound, vertices, center)
        label, label_volume, winner, tied = self._label(rows, bound, vertices, volume, center)
        border = bool(((vertices < TOLERANCE) | (vertices > 1 - TOLERANCE)).any()) and self._on_border(vertices)
        return Cell(
            key=key,
            faces=tuple(faces),
            touches_border=border,
            vertices=vertices,
            volume=volume,
            low=low,
            high=high,
            attention=attention,
            label=label,
            label_volume=label_volume,
            winner=winner,
            tied=tied,
            doubtful=self._doubtful(),
        )

    def _doubtful(self) -> int:
        """Whether a neuron's map is zero only as far as rounding tells."""
        net, bits = self.tnet.net, self.state.bits
        return int(any(net.layer[u] >= net.lowest and not truly_zero(net, bits, u) for u in self._zeros))

    def _on_border(self, vertices: Array) -> bool:
        """Whether d vertices lie on one side of the cube: a face there."""
        sides = [np.abs(vertices - s) < TOLERANCE for s in (0.0, 1.0)]
        return bool(max(int(side.sum(axis=0).max()) for side in sides) >= self.dimension)

    def value(self, point: Array) -> tuple[float, Array]:
        """The inconsistency and a subgradient at a point of the present region.

        Shapes: point ``(d,)``.
        """
        slope = np.zeros(self.dimension)
        value = inconsistency(self.tnet.net, self.expected, self.state, point, slope)
        return float(value), slope

    def _attention(self, rows: Array, bound: Array, vertices: Array, center: Array) -> tuple[int, float, float]:
        if not self.expected.moving:
            value, _ = self.value(center)
            return (0 if value <= self.delta else 1), value, value
        values = [self.value(v)[0] for v in vertices]
        high = max(values)
        value, slope = self.value(center)
        low = max(0.0, value + float(((vertices - center) @ slope).min()))
        if high <= self.delta:
            return 0, low, high
        if low > self.delta:
            return 1, low, high
        if min(*values, value) <= self.delta:
            return 2, low, high
        lower, best, _ = convex_minimum(self.value, rows, bound, center, above=self.delta, below=self.delta)
        return (1 if best > self.delta else 2), max(low, lower), high

    def _label(
        self, rows: Array, bound: Array, vertices: Array, volume: float, center: Array
    ) -> tuple[int, float, int, int]:
        """Kind, volume where the label's output is the largest, the winner at the center, and what is tied."""
        net = self.tnet.net
        maps = self.state.Z[:, net.start[-2] :]
        winner = int(np.argmax(maps[0] + center @ maps[1:]))
        margins = np.delete(maps[:, [self.label]] - maps, self.label, axis=1)
        sizes = np.abs(maps).sum(axis=0)
        rounding = TIED * (sizes[self.label] + np.delete(sizes, self.label))
        values = margins[0] + vertices @ margins[1:]
        if bool((np.abs(values).max(axis=0) <= rounding).any()):
            return 1, 0.0, winner, 2
        least = values.min(axis=0)
        tied = int((np.abs(least) <= rounding).any())
        if float(least.min()) > 0:
            return 0, volume, winner, tied
        steep = np.linalg.norm(margins[1:], axis=0) > rounding
        if bool((margins[0, ~steep] <= 0).any()):
            return 1, 0.0, winner, tied
        norm = np.linalg.norm(margins[1:, steep], axis=0)
        more = np.concatenate([rows, (margins[1:, steep] / norm).T])
        limits = np.concatenate([bound, -margins[0, steep] / norm])
        inside, radius = chebyshev(more, limits)
        if radius < TOLERANCE:
            return 1, 0.0, winner, tied
        return 2, polytope(more, limits, inside)[1], winner, tied


def polytope(rows: Array, bound: Array, inside: Array) -> tuple[Array, float]:
    """Vertices and volume of ``{t in the unit cube: rows t >= bound}``, given a point strictly inside.

    Shapes: rows ``(k, d)``; bound ``(k,)``; inside ``(d,)``.
    """
    from scipy.spatial import ConvexHull, HalfspaceIntersection, QhullError

    d = len(inside)
    left = np.concatenate([-rows, -np.eye(d), np.eye(d)])
    right = np.concatenate([bound, np.zeros(d), -np.ones(d)])
    try:
        corners = HalfspaceIntersection(np.column_stack([left, right]), inside).intersections
        corners = np.clip(corners[np.isfinite(corners).all(axis=1)], 0.0, 1.0)
        hull = ConvexHull(corners)
    except QhullError:
        return inside[None], 0.0
    return corners[hull.vertices], float(hull.volume)
