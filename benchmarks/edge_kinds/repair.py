"""Repair: small random problems whose least change is known exactly.

The truth is computed here in fractions, by plain recursion and a dual simplex method on fractions, and shares nothing
with `verifier`: the closed region is cut along every neuron's zero line; each face of what remains has the pattern that
the network has on it (ReLU'(0) = 0); with that pattern the output at a vertex is affine in the layer's weights, so each
row of the demand is a linear row in their change.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction as F
from itertools import pairwise

import numpy as np
from edge_kinds.kind import Kind, Outcome, Trial

from verifier.network.graph import feedforward
from verifier.repair import (
    LineRegion,
    OutputPolytope,
    PointRegion,
    PolygonRegion,
    Requirement,
    Specification,
    repair,
    repairable_layers,
)

Point = tuple[F, ...]
Layer = tuple[list[list[F]], list[F]]


@dataclass(frozen=True)
class Case:
    """Weights and biases of a ReLU network, demands (kind of region, its corners, rows, bounds), a layer, a norm."""

    weights: list[np.ndarray]
    biases: list[np.ndarray]
    demands: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]
    layer: int
    norm: str
    reach: float | None


def exact_layers(weights: list[np.ndarray], biases: list[np.ndarray]) -> list[Layer]:
    return [([[F(float(v)) for v in row] for row in w], [F(float(v)) for v in b]) for w, b in zip(weights, biases)]


def affine(layer: Layer, x: list[F]) -> list[F]:
    return [sum((w * v for w, v in zip(row, x)), b) for row, b in zip(*layer)]


def preactivations(layers: list[Layer], x: Point) -> list[list[F]]:
    found, value = [], list(x)
    for layer in layers[:-1]:
        z = affine(layer, value)
        found.append(z)
        value = [max(v, F(0)) for v in z]
    return found


def frozen_output(layers: list[Layer], x: Point, pattern: tuple[tuple[bool, ...], ...]) -> list[F]:
    value = list(x)
    for layer, active in zip(layers[:-1], pattern):
        value = [v if active else F(0) for v, active in zip(affine(layer, value), active)]
    return affine(layers[-1], value)


def cut(polygon: list[Point], height: list[F], sign: int) -> list[Point]:
    """The part of a convex polygon, segment or point where sign · height >= 0."""
    kept: list[Point] = []
    n = len(polygon)
    for k in range(n):
        a, b, ha, hb = polygon[k], polygon[(k + 1) % n], sign * height[k], sign * height[(k + 1) % n]
        if ha >= 0:
            kept.append(a)
        if ha * hb < 0 and not (n == 2 and k == 1):
            kept.append(tuple(p + (q - p) * ha / (ha - hb) for p, q in zip(a, b)))
    return kept


def pieces(layers: list[Layer], polygon: list[Point]) -> list[list[Point]]:
    """The closed linear pieces of a polygon, by cutting it until no preactivation changes its sign in one."""
    z = [preactivations(layers, p) for p in polygon]
    for k in range(len(layers) - 1):
        for i in range(len(layers[k][1])):
            height = [values[k][i] for values in z]
            if min(height) < 0 < max(height):
                return pieces(layers, cut(polygon, height, 1)) + pieces(layers, cut(polygon, height, -1))
    return [polygon]


def faces(polygon: list[Point]) -> Iterator[list[Point]]:
    yield polygon
    n = len(polygon)
    if n > 2:
        yield from ([polygon[k], polygon[(k + 1) % n]] for k in range(n))
    if n > 1:
        yield from ([p] for p in polygon)


def demands_of(layers: list[Layer], case: Case) -> list[tuple[Point, tuple[tuple[bool, ...], ...], list[F], F]]:
    """Every (vertex, pattern, row, bound) that is demanded."""
    found = {}
    for kind, corners, rows, bounds in case.demands:
        parts = (
            [[tuple(F(float(c)) for c in p)] for p in corners]
            if kind == "point"
            else [[tuple(F(float(c)) for c in p) for p in corners]]
        )
        for part in parts:
            for piece in pieces(layers, part):
                for face in faces(piece):
                    middle = tuple(sum(column, F(0)) / len(face) for column in zip(*face))
                    pattern = tuple(tuple(v > 0 for v in z) for z in preactivations(layers, middle))
                    for vertex in face:
                        for row, bound in zip(rows, bounds):
                            exact = tuple(F(float(v)) for v in row)
                            found[vertex, pattern, exact, F(float(bound))] = None
    return [(v, p, list(r), b) for v, p, r, b in found]


def changed(layers: list[Layer], which: int, parameter: int, amount: F) -> list[Layer]:
    weights, biases = [list(row) for row in layers[which][0]], list(layers[which][1])
    size = len(weights) * len(weights[0])
    if parameter < size:
        weights[parameter // len(weights[0])][parameter % len(weights[0])] += amount
    else:
        biases[parameter - size] += amount
    return [*layers[:which], (weights, biases), *layers[which + 1 :]]


def least_norm(layers: list[Layer], case: Case, margin: F = F(0)) -> F | None:
    """The least norm of a change that meets every demand; None if none does.

    Args:
        margin: what every row that the change moves must have to spare.
    """
    weights, biases = layers[case.layer]
    size = len(weights) * len(weights[0]) + len(biases)
    demands = demands_of(layers, case)

    def used(changed_layers: list[Layer]) -> list[F]:
        return [sum((a * y for a, y in zip(r, frozen_output(changed_layers, v, p))), F(0)) for v, p, r, _ in demands]

    now = used(layers)
    moved = [used(changed(layers, case.layer, k, F(1))) for k in range(size)]
    rows = {}
    for i, (_, _, _, bound) in enumerate(demands):
        a = [moved[k][i] - now[i] for k in range(size)]
        rows[(*a, bound - now[i] - (margin if any(a) else 0))] = None
    table = [[*row[:-1], *(-v for v in row[:-1])] for row in rows]
    right = [row[-1] for row in rows]
    if case.norm == "l1":
        return dual_simplex([F(1)] * (2 * size), table, right)
    table = [[*row, F(0)] for row in table]
    for k in range(size):
        table.append([F(int(j % size == k)) for j in range(2 * size)] + [F(-1)])
        right.append(F(0))
    return dual_simplex([F(0)] * (2 * size) + [F(1)], table, right)


def dual_simplex(cost: list[F], table: list[list[F]], right: list[F]) -> F | None:
    """The least ``cost · x`` with ``table x <= right`` and x >= 0, for costs >= 0; None if there is no such x."""
    rows = [list(row) for row in table]
    right, cost, value = list(right), list(cost), F(0)
    names = list(range(len(cost)))
    basis = [len(cost) + r for r in range(len(rows))]
    while True:
        leaving = [r for r in range(len(rows)) if right[r] < 0]
        if not leaving:
            return value
        r = min(leaving, key=lambda r: basis[r])
        entering = [j for j in range(len(cost)) if rows[r][j] < 0]
        if not entering:
            return None
        j = min(entering, key=lambda j: (cost[j] / -rows[r][j], names[j]))
        pivot = rows[r][j]
        basis[r], names[j] = names[j], basis[r]
        rows[r] = [v / pivot for v in rows[r]]
        rows[r][j] = 1 / pivot
        right[r] /= pivot
        for i in range(len(rows)):
            factor = rows[i][j]
            if i != r and factor:
                rows[i] = [v - factor * p for v, p in zip(rows[i], rows[r])]
                rows[i][j] = -factor / pivot
                right[i] -= factor * right[r]
        factor = cost[j]
        value += factor * right[r]
        cost = [c - factor * p for c, p in zip(cost, rows[r])]
        cost[j] = -factor / pivot


def random_case(seed: int, grid: bool) -> Case:
    """A small problem: weights on a grid of halves (ties everywhere), or of any kind."""
    rng = np.random.default_rng(seed)

    def numbers(*shape: int) -> np.ndarray:
        return rng.integers(-3, 4, shape) / 2.0 if grid else rng.normal(size=shape).round(int(rng.integers(1, 9)))

    inputs, outputs = int(rng.integers(1, 3)), int(rng.integers(1, 4))
    sizes = [inputs, *rng.integers(1, 4, int(rng.integers(0, 3))).tolist(), outputs]
    weights = [numbers(b, a) for a, b in pairwise(sizes)]
    biases = [numbers(b) * (rng.random() < 0.7) for b in sizes[1:]]
    demands = []
    for _ in range(int(rng.integers(1, 4))):
        kind = str(rng.choice(["point", "line", "polygon"] if inputs == 2 else ["point", "line"]))
        corners = numbers(int(rng.integers(1, 4)) if kind == "point" else 2, inputs)
        if kind == "polygon":
            corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]) + numbers(1, 2)
            if rng.random() < 0.5:
                corners = np.concatenate([corners[:2], corners[1:2] + np.array([[0.0, 1.0]]), corners[2:]])
        if kind == "line" and np.array_equal(corners[0], corners[1]):
            corners[1] += 1.0
        if outputs > 1 and rng.random() < 0.7:
            label, margin = int(rng.integers(0, outputs)), float(rng.choice([0.0, 0.0, 0.25, 0.1]))
            rows = np.delete(np.eye(outputs), label, axis=0)
            rows[:, label] = -1.0
            bounds = np.full(outputs - 1, -margin)
        else:
            rows = np.zeros((1, outputs))
            rows[0, int(rng.integers(0, outputs))] = rng.choice([-1.0, 1.0])
            bounds = numbers(1)
        demands.append((kind, corners, rows, bounds))
    reach = None if rng.random() < 0.5 else float(rng.choice([0.5, 2.0, 10.0, 100.0]))
    return Case(weights, biases, demands, int(rng.integers(0, len(weights))), str(rng.choice(["l1", "linf"])), reach)


def specification(case: Case) -> Specification:
    requirements = []
    for kind, corners, rows, bounds in case.demands:
        polytope = OutputPolytope(rows, bounds, "demand")
        if kind == "point":
            requirements.append(Requirement(PointRegion(corners), polytope))
        elif kind == "line":
            requirements.append(Requirement(LineRegion(corners[0], corners[1]), polytope))
        else:
            region = PolygonRegion(np.zeros(2), np.array([1.0, 0.0]), np.array([0.0, 1.0]), corners)
            requirements.append(Requirement(region, polytope))
    return Specification(tuple(requirements))


def run(seed: int, grid: bool) -> Iterator[Trial]:
    """The linear program against the exact least norm, greedy against the exact demands."""
    case = random_case(seed, grid)
    layers = exact_layers(case.weights, case.biases)
    least = least_norm(layers, case)
    sizes = [abs(v) for row in layers[case.layer][0] for v in row] + [abs(v) for v in layers[case.layer][1]]
    own = sum(sizes, F(0)) if case.norm == "l1" else max(sizes)
    reach = own if case.reach is None else F(case.reach)
    network = feedforward(case.weights, case.biases)
    layer = repairable_layers(network)[case.layer]
    for method in ("lp", "greedy"):
        start = time.perf_counter()
        result = repair(
            network, specification(case), method=method, layers=[layer], norm=case.norm, reach=case.reach, timeout=20.0
        )
        seconds = time.perf_counter() - start
        detail = (
            f"{result.status}, least {None if least is None else float(least)}, reach {float(reach)}: {result.reason}"
        )
        outcome = Outcome.UNDECIDED
        if result.status == "repaired":
            operator = result.frozen.operator(network[layer])
            patched = [*layers]
            (patched[case.layer],) = exact_layers([operator.weight], [operator.bias])  # type: ignore[union-attr]
            slacks = [
                bound - sum((a * y for a, y in zip(row, frozen_output(patched, vertex, pattern))), F(0))
                for vertex, pattern, row, bound in demands_of(layers, case)
            ]
            norm = result.norms[case.norm]
            small = method == "greedy" or (least is not None and norm <= float(least) * (1 + 1e-6) + 1e-12)
            if not small and least is not None:
                # the least change holds by ties that float64 weights may not express: then the least with some room
                roomy = least_norm(layers, case, F(1, 10**8))
                small = roomy is not None and norm <= float(roomy) * (1 + 1e-6)
            outcome = Outcome.RIGHT if min(slacks) >= 0 and small else Outcome.WRONG
            detail += f"; worst slack {float(min(slacks))}, norm {norm}"
        elif result.status == "infeasible":
            outcome = Outcome.RIGHT if least is None or least > reach else Outcome.WRONG
        elif method == "greedy" and result.status in ("improved", "unchanged"):
            outcome = Outcome.RIGHT  # greedy promises no more
        yield Trial(engine=f"repair {method}", outcome=outcome, seconds=seconds, detail=detail)


KINDS = [
    Kind(
        name="repair on a grid",
        what="the least change of one layer of a small network with weights of halves, so that ties, kinks on borders and "
        "repairs by ties alone abound; the truth is a linear program in fractions over all faces of the closed regions.",
        run=lambda seed: run(seed, True),
        cost=0.03,
    ),
    Kind(
        name="repair of any weights",
        what="the same with random decimals as weights: rounding decides whether a repair is exact.",
        run=lambda seed: run(seed, False),
        cost=0.03,
    ),
]
