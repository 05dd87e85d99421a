"""Exact truth for tiny queries: all activation patterns, one by one, in rational arithmetic.

Shares nothing with the encodings: layers are expanded here, patterns are enumerated depth first, and each
(partial) pattern is a system of linear inequalities over x alone, decided by Z3's exact simplex.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import z3

from verifier.network.convolution import Conv
from verifier.network.graph import Network, Node
from verifier.network.operators import Concat, Dense, Reshape, Scale, Sum
from verifier.network.piecewise import MaxPool, PiecewiseLinear
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import Query

Vector = list[Fraction]


@dataclass(frozen=True)
class Entry:
    """A value on one (partial) linear region: ``linear · x + constant``, and its derivative by the convention."""

    linear: Vector
    constant: Fraction
    derivative: Vector

    def times(self, factor: Fraction) -> Entry:
        """A multiple."""
        return Entry([factor * a for a in self.linear], factor * self.constant, [factor * d for d in self.derivative])


Values = dict[str, list[Entry]]


class _Oracle:
    def __init__(self, query: Query, closed: bool) -> None:
        self.query, self.closed = query, closed
        self.network: Network = query.network
        self.n = query.box.size
        self.x = [z3.Real(f"x{k}") for k in range(self.n)]
        self.solver = z3.SolverFor("QF_LRA")
        for v, low, high in zip(self.x, *(ends.fractions() for ends in query.box.ends), strict=True):
            self.solver.add(v >= _number(low), v <= _number(high))

    def decide(self) -> bool:
        if self.query.common is not None and self.query.common.y_rows is None:
            self.solver.add(self.rows(self.query.common, [], None))
        zero = Fraction(0)
        neurons = [[Fraction(int(i == j)) for j in range(self.n)] for i in range(self.n)]
        start = {self.network.input: [Entry(u, zero, list(u)) for u in neurons]}
        return self.solver.check() == z3.sat and self.node(1, start)

    def node(self, k: int, values: Values) -> bool:
        """Whether a witness exists on the region so far, nodes from k on still open."""
        if k == len(self.network.nodes):
            return self.leaf(values)
        node = self.network.nodes[k]
        operator = node.operator
        if isinstance(operator, (PiecewiseLinear, MaxPool)):
            return self.neuron(k, node, values, [])
        inputs = [values[i] for i in node.inputs]
        return self.node(k + 1, {**values, node.name: _affine(node, inputs, self.network, self.n)})

    def neuron(self, k: int, node: Node, values: Values, done: list[Entry]) -> bool:
        """Branch over the phases of neuron ``len(done)`` of an activation node."""
        if len(done) == node.size:
            return self.node(k + 1, {**values, node.name: done})
        z = values[node.inputs[0]]
        shape = self.network[node.inputs[0]].shape
        for conditions, entry in self.options(node.operator, z, len(done), shape):
            self.solver.push()
            self.solver.add(conditions)
            found = self.solver.check() == z3.sat and self.neuron(k, node, values, [*done, entry])
            self.solver.pop()
            if found:
                return True
        return False

    def options(
        self, operator: Any, z: list[Entry], neuron: int, shape: tuple[int, ...]
    ) -> Iterator[tuple[list[Any], Entry]]:
        """The phases of a neuron: what must hold for x, and the neuron's value there."""
        if isinstance(operator, MaxPool):
            window = [int(j) for j in operator.windows(shape)[neuron] if j >= 0]
            for i, winner in enumerate(window):
                conditions = []
                for other, j in enumerate(window):
                    lead = self.term(z[winner]) - self.term(z[j])
                    if other != i:
                        conditions.append(lead > 0 if other < i and not self.closed else lead >= 0)
                yield conditions, z[winner]
            return
        term, zero = self.term(z[neuron]), Fraction(0)
        ends = [None, *map(Fraction, operator.breaks), None]
        for piece, (slope, intercept) in enumerate(zip(operator.slopes, operator.intercepts, strict=True)):
            low, high = ends[piece], ends[piece + 1]
            conditions = []
            if low is not None:
                conditions.append(term >= _number(low) if self.closed else term > _number(low))
            if high is not None:
                conditions.append(term <= _number(high) if self.closed else term < _number(high))
            value = z[neuron].times(Fraction(slope))
            yield conditions, Entry(value.linear, value.constant + Fraction(intercept), value.derivative)
        for b, at, slope, intercept in zip(
            operator.breaks, operator.at_breaks, operator.slopes[:-1], operator.intercepts[:-1], strict=True
        ):
            value = z[neuron].times(Fraction(slope))
            derivative = [Fraction(at) * d for d in z[neuron].derivative] if at else [zero] * self.n
            entry = Entry(value.linear, value.constant + Fraction(intercept), derivative)
            yield [term == _number(Fraction(b))], entry

    def term(self, entry: Entry) -> Any:
        return z3.Sum(
            [_number(a) * v for a, v in zip(entry.linear, self.x, strict=True) if a] + [_number(entry.constant)]
        )

    def leaf(self, values: Values) -> bool:
        query, outputs = self.query, values[self.network.output]
        g: Vector | None = None
        if query.gradient is not None:
            weights = [Fraction(w) for w in query.gradient.output.tolist()]
            g = [
                sum((w * o.derivative[j] for w, o in zip(weights, outputs, strict=True)), Fraction(0))
                for j in range(self.n)
            ]
            low, high = query.gradient.ends
            for k, v in enumerate(g):
                if (low.below[k] > -np.inf and v < low[k]) or (high.above[k] < np.inf and v > high[k]):
                    return False
        common = [] if query.common is None else self.rows(query.common, outputs, g)
        for case in query.disjuncts:
            self.solver.push()
            self.solver.add(common + self.rows(case, outputs, g))
            found = self.solver.check() == z3.sat
            self.solver.pop()
            if found:
                return True
        return False

    def rows(self, part: Conjunction, outputs: list[Entry], g: Vector | None) -> list[Any]:
        """The rows of a conjunction as constraints on x."""
        found = []
        for k in range(len(part)):
            row = part.exact_row(k)
            total = [_number(a) * self.x[j] for j, a in row.x.items()]
            total += [_number(a) * self.term(outputs[j]) for j, a in row.y.items()]
            if g is not None:
                total += [_number(a * g[j]) for j, a in row.g.items()]
            bound, strict = _number(row.bound), bool(part.strict[k]) and not self.closed
            found.append(z3.Sum(total) < bound if strict else z3.Sum(total) <= bound)
        return found


def decide(query: Query, *, closed: bool = False) -> bool:
    """Whether the query has a witness (a real point), by enumeration of all activation patterns.

    Args:
        closed: read every kink and strict row as closed (either neighbour), as proofs may.
    """
    return _Oracle(query, closed).decide()


def verdicts(query: Query) -> tuple[str, str]:
    """The verdict by the gradient convention and the closed one, each "sat" or "unsat"."""
    closed = decide(query, closed=True)
    # the closed reading is a superset: where it has no witness, the convention has none
    convention = closed and decide(query)
    return "sat" if convention else "unsat", "sat" if closed else "unsat"


def _number(value: Fraction) -> Any:
    return z3.RealVal(f"{value.numerator}/{value.denominator}")


def _affine(node: Node, inputs: list[list[Entry]], network: Network, n: int) -> list[Entry]:
    operator = node.operator
    if isinstance(operator, Reshape):
        return inputs[0]
    if isinstance(operator, Concat):  # of vectors
        return [entry for part in inputs for entry in part]
    if isinstance(operator, Scale):
        factors, shifts = operator.scale.reshape(-1).tolist(), operator.shift.reshape(-1).tolist()
        return [
            _combine([(Fraction(a), e)], Fraction(b), n) for a, b, e in zip(factors, shifts, inputs[0], strict=True)
        ]
    if isinstance(operator, Sum):
        return [
            _combine([(Fraction(s), e) for s, e in zip(operator.signs, parts, strict=True)], Fraction(0), n)
            for parts in zip(*inputs, strict=True)
        ]
    if isinstance(operator, Dense):
        return [
            _combine([(Fraction(float(w)), e) for w, e in zip(row, inputs[0], strict=True)], Fraction(float(b)), n)
            for row, b in zip(operator.weight, operator.bias, strict=True)
        ]
    assert isinstance(operator, Conv)
    _, height, width = network[node.inputs[0]].shape
    out_channels, out_height, out_width = node.shape
    return [
        _combine(list(_taps(operator, o, i, j, inputs[0], height, width)), Fraction(float(operator.bias[o])), n)
        for o in range(out_channels)
        for i in range(out_height)
        for j in range(out_width)
    ]


def _taps(
    operator: Conv, o: int, i: int, j: int, inputs: list[Entry], height: int, width: int
) -> Iterator[tuple[Fraction, Entry]]:
    for c in range(operator.weight.shape[1]):
        for a in range(operator.weight.shape[2]):
            for b in range(operator.weight.shape[3]):
                y = i * operator.stride[0] + a - operator.padding[0]
                x = j * operator.stride[1] + b - operator.padding[1]
                if 0 <= y < height and 0 <= x < width:
                    yield Fraction(float(operator.weight[o, c, a, b])), inputs[(c * height + y) * width + x]


def _combine(terms: list[tuple[Fraction, Entry]], constant: Fraction, n: int) -> Entry:
    linear, derivative = [Fraction(0)] * n, [Fraction(0)] * n
    for weight, entry in terms:
        if weight:
            linear = [t + weight * a for t, a in zip(linear, entry.linear, strict=True)]
            derivative = [t + weight * a for t, a in zip(derivative, entry.derivative, strict=True)]
            constant += weight * entry.constant
    return Entry(linear, constant, derivative)
