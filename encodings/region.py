"""One linear region of a query, solved exactly: the last word on what a solver with tolerances proposes.

With the activation pattern fixed, every value is affine in x and the gradient is constant, so the query is
a system of linear inequalities over x alone, here with rational coefficients and with the gradient
convention's open ends. An interior point is looked for first (it survives rounding to float64), then any.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

from verifier.encodings.highs import highs_program
from verifier.encodings.model import Atom, Model
from verifier.encodings.phases import phases
from verifier.encodings.query import Pattern
from verifier.network.exact import ExactNetwork, Rationals
from verifier.network.operators import AffineOperator, Array
from verifier.network.piecewise import MaxPool, PiecewiseLinear
from verifier.properties.query import Conjunction, Query
from verifier.search.replay import replay


@dataclass(frozen=True)
class Row:
    """``coefficients · x <= bound``, or ``<`` if strict; rationals."""

    coefficients: tuple[Fraction, ...]
    bound: Fraction
    strict: bool = False

    @property
    def constant(self) -> bool:
        """Whether no input occurs in it."""
        return not any(self.coefficients)

    @property
    def holds(self) -> bool:
        """Whether a row without inputs is true."""
        return self.bound > 0 or (self.bound == 0 and not self.strict)


@dataclass(frozen=True, eq=False)
class RegionAnswer:
    """What a region holds.

    Attributes:
        point: a float64 input that the exact replay confirmed; None if none was found.
        empty: proved in exact arithmetic that the region has no witness at all.
    """

    point: Array | None = None
    empty: bool = False


class Region:
    """The part of a query's box on which the network has one activation pattern.

    Args:
        pattern: a phase for every unit, see `verifier.encodings.query.Pattern`.
        exact: the query's network in exact form, if it is at hand.
    """

    def __init__(self, query: Query, pattern: Pattern, exact: ExactNetwork | None = None) -> None:
        self.query = query
        self.pattern = pattern
        self.exact = exact or ExactNetwork(query.network)

    @cached_property
    def _maps(self) -> tuple[dict[str, Rationals], list[Row]]:
        """Every node's value as a map of x, ``(n + 1, *shape)`` with the constant last, and the region's rows."""
        network = self.query.network
        n = network.input_size
        units = np.zeros((n + 1, n), dtype=object)
        units[np.arange(n), np.arange(n)] = 1
        maps = {network.input: Rationals(units.reshape(n + 1, *network.input_shape), 1)}
        rows: list[Row] = []
        for node in network.nodes[1:]:
            inputs = [maps[i] for i in node.inputs]
            if isinstance(node.operator, AffineOperator):
                maps[node.name] = self.exact.affine(node, inputs, maps=True)
            elif isinstance(node.operator, MaxPool):
                maps[node.name] = self._pooled(node.operator, self.pattern[node.name], inputs[0], node.shape, rows)
            else:
                assert isinstance(node.operator, PiecewiseLinear)
                maps[node.name] = self._elementwise(node.operator, self.pattern[node.name], inputs[0], rows)
        return maps, rows

    def _elementwise(
        self, operator: PiecewiseLinear, chosen: Array, z: Rationals, rows: list[Row]
    ) -> Rationals:
        options = {p.index: p for p in phases(operator, gradient=self.query.gradient is not None)}
        flat = z.numerators.reshape(len(z.numerators), -1)
        picked = [options[int(c)] for c in chosen.reshape(-1)]
        for k, phase in enumerate(picked):
            for sign, end, strict in ((-1, -phase.lower, phase.lower_open), (1, phase.upper, phase.upper_open)):
                if end != np.inf:
                    rows.append(_row(sign * flat[:, k], z.denominator, Fraction(end), strict))
        shape = z.numerators.shape[1:]
        slopes = Rationals.of(np.array([p.slope for p in picked]).reshape(shape))
        constants = Rationals.of(np.array([p.intercept for p in picked]).reshape(shape))
        scaled = Rationals(z.numerators * slopes.numerators, z.denominator * slopes.denominator)
        last = np.zeros(z.numerators.shape, dtype=object)
        last[-1] = constants.numerators
        return (scaled + Rationals(last, constants.denominator)).reduced()

    def _pooled(
        self, operator: MaxPool, chosen: Array, z: Rationals, shape: tuple[int, ...], rows: list[Row]
    ) -> Rationals:
        flat = z.numerators.reshape(len(z.numerators), -1)
        windows = operator.windows(z.numerators.shape[1:])
        winners = windows[np.arange(len(windows)), chosen.reshape(-1)]
        for window, position, winner in zip(windows, chosen.reshape(-1), winners, strict=True):
            for p, j in enumerate(window):
                if j >= 0 and p != position:
                    strict = self.query.gradient is not None and p < position
                    rows.append(_row(flat[:, j] - flat[:, winner], z.denominator, Fraction(0), strict))
        return Rationals(flat[:, winners].reshape(len(flat), *shape), z.denominator)

    @cached_property
    def gradient(self) -> list[Fraction] | None:
        """The gradient on the whole region; None if the query has none."""
        if self.query.gradient is None:
            return None
        return self.exact.gradient_of_pattern(self.pattern, self.query.gradient.output)

    def _systems(self) -> list[list[Row]]:
        """For each case of the query that is not plainly impossible: all rows over x."""
        query, g = self.query, self.gradient
        if query.gradient is not None and g is not None:
            ends = zip(g, query.gradient.lower.tolist(), query.gradient.upper.tolist(), strict=True)
            if not all((lo == -np.inf or v >= Fraction(lo)) and (hi == np.inf or v <= Fraction(hi)) for v, lo, hi in ends):
                return []
        maps, rows = self._maps
        y = maps[query.network.output]
        shared = rows + ([] if query.common is None else _conjunction_rows(query.common, y, g))
        systems = []
        for case in query.cases:
            system = shared + _conjunction_rows(case, y, g)
            if all(row.holds for row in system if row.constant):
                systems.append([row for row in system if not row.constant])
        return systems

    def solve(self, timeout: float = float("inf")) -> RegionAnswer:
        """Find a float64 witness in the region, or prove that there is none (within ``timeout`` seconds each)."""
        empty = True
        for system in self._systems():
            point = self._interior(system)
            if point is not None and replay(self.query, point, self.exact).exact:
                return RegionAnswer(point)
            answer, rational = self._exact_point(system, timeout)
            if rational is not None:
                rounded = np.array([float(v) for v in rational])
                if replay(self.query, rounded, self.exact).exact:
                    return RegionAnswer(rounded)
            empty = empty and answer == "unsat"
        return RegionAnswer(empty=empty)

    def _interior(self, system: list[Row]) -> Array | None:
        """A point far from all rows, by a linear program in float64 over the box stretched to [-1, 1]."""
        import highspy

        box = self.query.box
        center, radius = box.center, box.width / 2
        exact_center, exact_radius = ([Fraction(v) for v in a.tolist()] for a in (center, radius))
        model = Model()
        t = model.add_variables(np.where(radius > 0, -1.0, 0.0), np.where(radius > 0, 1.0, 0.0))
        slack = int(model.add_variables(np.array([-1.0]), np.array([1.0]))[0])
        atoms = []
        for row in system:
            weights = [a * r for a, r in zip(row.coefficients, exact_radius, strict=True)]
            size = max(map(abs, weights))
            if size == 0:
                continue
            bound = (row.bound - sum(a * c for a, c in zip(row.coefficients, exact_center, strict=True))) / size
            kept = [(int(t[j]), float(w / size)) for j, w in enumerate(weights) if w]
            atoms.append(
                Atom((*(c for c, _ in kept), slack), (*(w for _, w in kept), 1.0), -np.inf, min(float(bound), 1e6))
            )
        model.add_atoms(atoms)
        solver = highspy.Highs()
        solver.setOptionValue("output_flag", False)
        solver.setOptionValue("threads", 1)
        cost = np.zeros(model.size)
        cost[slack] = -1.0
        solver.passModel(highs_program(model, cost))
        solver.run()
        if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            return None
        solution = np.array(solver.getSolution().col_value)
        return box.clip(center + radius * solution[t])

    def _exact_point(self, system: list[Row], timeout: float) -> tuple[str, list[Fraction] | None]:
        """"sat" with a rational point, "unsat" or "unknown", by Z3 in exact arithmetic."""
        import z3

        from verifier.encodings.z3_terms import fraction_of, rational

        context = z3.Context()
        solver = z3.SolverFor("QF_LRA", ctx=context)
        if timeout < float("inf"):
            solver.set("timeout", max(1, int(timeout * 1000)))
        x = [z3.Real(f"x{k}", context) for k in range(self.query.box.size)]
        for v, low, high in zip(x, self.query.box.lower.tolist(), self.query.box.upper.tolist(), strict=True):
            solver.add(v >= rational(low, context), v <= rational(high, context))
        for row in system:
            total = z3.Sum([rational(a, context) * v for a, v in zip(row.coefficients, x, strict=True) if a])
            bound = rational(row.bound, context)
            solver.add(total < bound if row.strict else total <= bound)
        answer = str(solver.check())
        if answer != "sat":
            return answer, None
        model = solver.model()
        return answer, [fraction_of(model.eval(v, model_completion=True)) for v in x]


def _row(column: Array, denominator: int, bound: Fraction, strict: bool) -> Row:
    """``column · (x, 1) / denominator <= bound``."""
    values = [Fraction(int(v), denominator) for v in column]
    return Row(tuple(values[:-1]), bound - values[-1], strict)


def _conjunction_rows(part: Conjunction, y: Rationals, g: list[Fraction] | None) -> list[Row]:
    """A conjunction's rows over x, where y is a map of x and g is constant."""
    maps = y.numerators.reshape(len(y.numerators), -1)
    result = []
    for k in range(len(part)):
        column = np.zeros(len(maps), dtype=object) + Fraction(0)
        for j, a in part.entries("x_rows", k):
            column[j] += Fraction(a)
        for j, a in part.entries("y_rows", k):
            column += Fraction(a) * maps[:, j] * Fraction(1, y.denominator)
        bound = Fraction(float(part.bound[k])) - column[-1]
        for j, a in part.entries("g_rows", k):
            assert g is not None
            bound -= Fraction(a) * g[j]
        result.append(Row(tuple(Fraction(v) for v in column[:-1]), bound, bool(part.strict[k])))
    return result
