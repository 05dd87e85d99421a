"""One linear region of a query, solved exactly: the last word on what a solver with tolerances proposes.

With the activation pattern fixed, every value is affine in x and the gradient is constant, so the query is
a system of linear inequalities over x alone, here with rational coefficients and with the gradient
convention's open ends. An interior point is looked for first (it survives rounding to float64), then any.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

from verifier.encodings.phases import phases
from verifier.encodings.query import Pattern
from verifier.encodings.smtlib import number
from verifier.falsify.replay import replay
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Node
from verifier.network.operators import AffineOperator, Array
from verifier.network.piecewise import MaxPool, PiecewiseLinear
from verifier.network.rationals import Rationals
from verifier.properties.conjunction import Conjunction
from verifier.properties.numbers import Point, dot
from verifier.properties.query import Query

MAX_ENTRIES = 200_000
"""Systems with more coefficients are not given to the exact solver: it would take minutes."""


@dataclass(frozen=True)
class Row:
    """``coefficients · x <= bound``, or ``<`` if strict; rationals.

    Attributes:
        neuron: the neuron (node, position) whose phase it belongs to; None for a row of the query.
    """

    coefficients: tuple[Fraction, ...]
    bound: Fraction
    strict: bool = False
    neuron: tuple[str, int] | None = None

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
        point: an input that the exact replay confirmed, a float64 one if possible; None if none was found.
        empty: proved in exact arithmetic that the region has no witness at all.
        core: if empty, neurons whose phases suffice for that proof; None: all may be needed.
    """

    point: Point | None = None
    empty: bool = False
    core: frozenset[tuple[str, int]] | None = None


class Region:
    """The part of a query's box on which the network has one activation pattern.

    Args:
        pattern: a phase for every neuron, see `verifier.encodings.query.Pattern`.
        exact: the query's network in exact form, if it is at hand.

    Source:
        one linear region is a linear program: Katz et al., CAV 2017; in rationals: Dutertre, de Moura, CAV
        2006.
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
        neurons = np.zeros((n + 1, n), dtype=object)
        neurons[np.arange(n), np.arange(n)] = 1
        maps = {network.input: Rationals(neurons.reshape(n + 1, *network.input_shape), 1)}
        rows: list[Row] = []
        for node in network.nodes[1:]:
            inputs = [maps[i] for i in node.inputs]
            if isinstance(node.operator, AffineOperator):
                maps[node.name] = self.exact.affine(node, inputs, maps=True)
            elif isinstance(node.operator, MaxPool):
                maps[node.name] = self._pooled(node, node.operator, inputs[0], rows)
            else:
                assert isinstance(node.operator, PiecewiseLinear)
                maps[node.name] = self._elementwise(node, node.operator, inputs[0], rows)
        return maps, rows

    def _elementwise(self, node: Node, operator: PiecewiseLinear, z: Rationals, rows: list[Row]) -> Rationals:
        options = {p.index: p for p in phases(operator, gradient=self.query.gradient is not None)}
        flat = z.numerators.reshape(len(z.numerators), -1)
        picked = [options[int(c)] for c in self.pattern[node.name].reshape(-1)]
        for k, phase in enumerate(picked):
            for sign, end, strict in ((-1, -phase.lower, phase.lower_open), (1, phase.upper, phase.upper_open)):
                if end != np.inf:
                    rows.append(_row(sign * flat[:, k], z.denominator, Fraction(end), strict, (node.name, k)))
        shape = z.numerators.shape[1:]
        slopes = Rationals.of(np.array([p.slope for p in picked]).reshape(shape))
        constants = Rationals.of(np.array([p.intercept for p in picked]).reshape(shape))
        scaled = Rationals(z.numerators * slopes.numerators, z.denominator * slopes.denominator)
        last = np.zeros(z.numerators.shape, dtype=object)
        last[-1] = constants.numerators
        return (scaled + Rationals(last, constants.denominator)).reduced()

    def _pooled(self, node: Node, operator: MaxPool, z: Rationals, rows: list[Row]) -> Rationals:
        chosen = self.pattern[node.name].reshape(-1)
        flat = z.numerators.reshape(len(z.numerators), -1)
        windows = operator.windows(z.numerators.shape[1:])
        winners = windows[np.arange(len(windows)), chosen]
        for k, (window, position, winner) in enumerate(zip(windows, chosen, winners, strict=True)):
            for p, j in enumerate(window):
                if j >= 0 and p != position:
                    strict = self.query.gradient is not None and p < int(position)
                    lead = flat[:, j] - flat[:, winner]
                    rows.append(_row(lead, z.denominator, Fraction(0), strict, (node.name, k)))
        return Rationals(flat[:, winners].reshape(len(flat), *node.shape), z.denominator)

    @cached_property
    def gradient(self) -> list[Fraction] | None:
        """The gradient on the whole region; None if the query has none."""
        if self.query.gradient is None:
            return None
        return self.exact.gradient_of_pattern(self.pattern, self.query.gradient.output)

    @cached_property
    def _similar(self) -> bool:
        """Whether the region's gradient lies in the query's gradient box, and meets its condition on the map.

        A condition that ties the map to x as well is left to the replay.
        """
        box, g = self.query.gradient, self.gradient
        if box is None or g is None:
            return True
        condition = self.query.condition
        if condition is not None and condition.map.baseline is None:
            values = [abs(v) for v in g] if condition.map.absolute else g
            if not condition.admits(values):
                return False
        return box.contains_exactly(g)

    def solve(self, timeout: float = float("inf")) -> RegionAnswer:
        """Find a witness in the region, a float64 one if possible, or prove that there is none (in about ``timeout`` seconds)."""
        query, (maps, rows) = self.query, self._maps
        if not self._similar:
            # all neurons have a part in the gradient; fewer suffice if the pattern has no region at all
            answer, _, found = self._exact_point(rows, timeout)
            return RegionAnswer(empty=True, core=self._with_ancestors(found) if answer == "unsat" else None)
        y, g = maps[query.network.output], self.gradient
        shared = rows + ([] if query.common is None else _conjunction_rows(query.common, y, g))
        systems = [shared + _conjunction_rows(disjunct, y, g) for disjunct in query.disjuncts]
        for system in systems:
            point = self._interior(system)
            if point is not None and replay(query, point, self.exact).exact:
                return RegionAnswer(point)
        end = time.monotonic() + timeout
        empty, core = True, list[Row]()
        for system in systems:
            answer, rational, found = self._exact_point(system, end - time.monotonic())
            if rational is not None:
                rounded = np.array([float(v) for v in rational])
                for proposed in (rounded, tuple(rational)):
                    if replay(query, proposed, self.exact).exact:
                        return RegionAnswer(proposed)
            empty = empty and answer == "unsat"
            core += found
        return RegionAnswer(empty=empty, core=self._with_ancestors(core) if empty else None)

    def _with_ancestors(self, core: list[Row]) -> frozenset[tuple[str, int]] | None:
        """The neurons whose phases the rows of a core rest on: their own, and all those before them."""
        network = self.query.network
        if any(row.neuron is None for row in core):
            return None
        neurons = {row.neuron for row in core if row.neuron is not None}
        before = {name for node, _ in neurons for name in self._ancestors(node)}
        neurons |= {(name, k) for name in before for k in range(network[name].size)}
        return frozenset(neurons)

    def _ancestors(self, name: str) -> set[str]:
        """The activation nodes that a node is computed from (itself left out)."""
        network = self.query.network
        found, stack = set[str](), list(network[name].inputs)
        while stack:
            current = stack.pop()
            if current not in found:
                found.add(current)
                stack += network[current].inputs
        return {n.name for n in network.activations if n.name in found}

    def _interior(self, system: list[Row]) -> Array | None:
        """A point far from all rows, by a linear program in float64 over the box stretched to [-1, 1]."""
        from verifier.lp.program import LinearProgram

        box = self.query.box
        center, radius = box.center, box.width / 2
        matrix = np.array([[float(a) for a in row.coefficients] for row in system]).reshape(len(system), box.size)
        room = np.array([float(row.bound) for row in system]) - matrix @ center
        matrix = matrix * radius
        size = np.abs(matrix).max(axis=1, initial=0.0)
        kept = np.flatnonzero(size)
        scaled = np.hstack([matrix[kept] / size[kept, None], np.ones((len(kept), 1))])
        with np.errstate(over="ignore"):
            bound = np.clip(room[kept] / size[kept], -1e6, 1e6)
        limits = np.append(np.where(radius > 0, 1.0, 0.0), 1.0)  # the last column is the slack of all rows
        cost = np.zeros(box.size + 1)
        cost[-1] = -1.0
        point = LinearProgram(scaled, np.full(len(kept), -np.inf), bound, -limits, limits, cost).solve().point
        return None if point is None else box.clip(center + radius * point[:-1])

    def _exact_point(self, system: list[Row], timeout: float) -> tuple[str, list[Fraction] | None, list[Row]]:
        """ "sat" with a rational point, "unsat" with the rows that suffice for it, or "unknown"; by Z3, exactly."""
        false = [row for row in system if row.constant and not row.holds]
        if false:
            return "unsat", None, false[:1]
        if timeout <= 0 or sum(len(row.coefficients) for row in system) > MAX_ENTRIES:
            return "unknown", None, []
        import z3

        from verifier.encodings.z3_terms import fraction_of

        box = self.query.box
        lines = ["(set-option :produce-unsat-cores true)"]
        for k, (low, high) in enumerate(zip(*(ends.fractions() for ends in box.ends), strict=True)):
            lines += [f"(declare-const x{k} Real)", f"(assert (and (>= x{k} {number(low)}) (<= x{k} {number(high)})))"]
        for k, row in enumerate(system):
            if not row.constant:
                total = " ".join(f"(* {number(a)} x{j})" for j, a in enumerate(row.coefficients) if a)
                sign = "<" if row.strict else "<="
                lines.append(f"(assert (! ({sign} (+ 0.0 {total}) {number(row.bound)}) :named r{k}))")
        context = z3.Context()
        solver = z3.SolverFor("QF_LRA", ctx=context)
        if timeout < float("inf"):
            solver.set("timeout", max(1, int(timeout * 1000)))
        solver.from_string("\n".join(lines))
        answer = str(solver.check())
        if answer == "unsat":
            return answer, None, [system[int(str(name)[1:])] for name in solver.unsat_core()]
        if answer != "sat":
            return answer, None, []
        model = solver.model()
        x = [z3.Real(f"x{k}", context) for k in range(box.size)]
        return answer, [fraction_of(model.eval(v, model_completion=True)) for v in x], []


def _row(column: Array, denominator: int, bound: Fraction, strict: bool, neuron: tuple[str, int]) -> Row:
    """``column · (x, 1) / denominator <= bound``."""
    values = [Fraction(int(v), denominator) for v in column]
    return Row(tuple(values[:-1]), bound - values[-1], strict, neuron)


def _conjunction_rows(part: Conjunction, y: Rationals, g: list[Fraction] | None) -> list[Row]:
    """A conjunction's rows over x, where y is a map of x and g is constant."""
    maps = y.numerators.reshape(len(y.numerators), -1)
    result = []
    for k in range(len(part)):
        column = np.zeros(len(maps), dtype=object) + Fraction(0)
        row = part.exact_row(k)
        for j, a in row.x.items():
            column[j] += a
        for j, a in row.y.items():
            column += a * maps[:, j] * Fraction(1, y.denominator)
        bound = row.bound - column[-1]
        if row.g:
            assert g is not None
            bound -= dot(row.g, g)
        result.append(Row(tuple(Fraction(v) for v in column[:-1]), bound, bool(part.strict[k])))
    return result
