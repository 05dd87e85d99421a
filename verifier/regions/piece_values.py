"""Exact affine functions on pieces of lines: integers over one denominator per node, nothing is rounded."""

from __future__ import annotations

from dataclasses import replace
from math import lcm

import numpy as np
import numpy.typing as npt

from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator, Array, Dense
from verifier.network.piecewise import MaxPool, PiecewiseLinear
from verifier.network.rationals import Rationals, dyadic
from verifier.regions.cells import Index
from verifier.regions.plan import plan

Pair = tuple[Rationals, Rationals]
"""Constants and slopes of values in t, each ``(pieces, size)``."""


class PieceValues:
    """Exact affine functions of t on pieces whose activation patterns are known.

    Attributes:
        values: by node name, the functions of the nodes passed so far.
    """

    def __init__(self, network: Network, starts: Array | Rationals, ends: Array | Rationals) -> None:
        """Pieces of the lines from starts to ends, ``(pieces, n)`` each, floats or rationals."""
        self.network, self.exact = network, ExactNetwork(network)
        a, b = (x if isinstance(x, Rationals) else dyadic(x) for x in (starts, ends))
        self.values: dict[str, Pair] = {network.input: (a, b + Rationals(-a.numerators, a.denominator))}

    def affine(self, node: Node, rows: Index | None = None) -> Pair:
        """The functions of an affine node's value; of a `Dense` node on request only these entries."""
        operator, denominator, constant = self.exact.integer_operator(node)
        if rows is not None and isinstance(operator, Dense) and len(node.shape) == 1:
            operator = replace(operator, weight=operator.weight[rows], bias=operator.bias[rows])
            operator.__dict__["_sparse"] = None
            if constant is not None:
                constant = Rationals(constant.numerators[rows], constant.denominator)
        result = []
        for k in range(2):
            inputs = [self.values[i][k] for i in node.inputs]
            common = lcm(*(r.denominator for r in inputs))
            shaped = [
                (r.numerators * (common // r.denominator)).reshape(-1, *self.network[i].shape)
                for r, i in zip(inputs, node.inputs)
            ]
            total = Rationals(np.asarray(operator.linear(*shaped), dtype=object), common * denominator)
            if k == 0 and constant is not None:
                spread = np.broadcast_to(constant.numerators, total.numerators.shape)
                total = total + Rationals(spread, constant.denominator)
            total = total.reduced()
            result.append(Rationals(total.numerators.reshape(len(total.numerators), -1), total.denominator))
        return result[0], result[1]

    def on_piece(self, node: Node, operator: PiecewiseLinear, pieces: npt.NDArray[np.int16]) -> Pair:
        """The functions of an elementwise node's value on given pieces of it, ``(pieces, size)``."""
        p, q = self.values[node.inputs[0]]
        slopes, intercepts = Rationals.of(operator.slopes), Rationals.of(operator.intercepts)
        slope = slopes.numerators[pieces]
        constants = Rationals(intercepts.numerators[pieces], intercepts.denominator)
        return (
            (Rationals(p.numerators * slope, p.denominator * slopes.denominator) + constants).reduced(),
            Rationals(q.numerators * slope, q.denominator * slopes.denominator).reduced(),
        )

    def pooled(self, node: Node, operator: MaxPool, winners: npt.NDArray[np.int16]) -> Pair:
        """The functions of a MaxPool's value for given winners ``(pieces, size)``; -1 is zero."""
        windows = operator.windows(self.network[node.inputs[0]].shape)
        p, q = self.values[node.inputs[0]]
        return (
            Rationals(winning(p.numerators, windows, winners), p.denominator),
            Rationals(winning(q.numerators, windows, winners), q.denominator),
        )

    def follow(self, pattern: dict[str, npt.NDArray[np.int16]], stop: Node, rows: Index) -> Pair:
        """The functions of some entries of a node's value.

        Shapes: pattern ``(pieces, size)`` each.

        Args:
            pattern: the pieces' activation pattern, as `Patterns.pattern` gives it, of all nodes before ``stop``.
            stop: the node.
            rows: which entries of its value.
        """
        wanted, stack = {self.network.input}, [stop.name]
        while stack:
            name = stack.pop()
            if name not in wanted:
                wanted.add(name)
                stack += self.network[name].inputs
        for node in self.network.nodes[1:]:
            if node.name not in wanted:
                continue
            operator = node.operator
            if isinstance(operator, AffineOperator):
                if node.name == stop.name and isinstance(operator, Dense) and len(node.shape) == 1:
                    return self.affine(node, rows)
                self.values[node.name] = self.affine(node)
            elif node.name in plan(self.network).fused:
                self.values[node.name] = self.values[node.inputs[0]]
            elif isinstance(operator, PiecewiseLinear):
                pieces = pattern[node.name].reshape(len(pattern[node.name]), -1)
                self.values[node.name] = self.on_piece(node, operator, pieces)
            else:
                assert isinstance(operator, MaxPool)
                winners = pattern[node.name].reshape(len(pattern[node.name]), -1)
                self.values[node.name] = self.pooled(node, operator, winners)
            if node.name == stop.name:
                break
        p, q = self.values[stop.name]
        return Rationals(p.numerators[:, rows], p.denominator), Rationals(q.numerators[:, rows], q.denominator)


def winning(values: Array, windows: Index, winners: npt.NDArray[np.int16]) -> Array:
    """The winning entries of values ``(pieces, inputs)``, 0 where the zero wins: ``(pieces, outputs)``."""
    entry = np.take_along_axis(windows.T, np.maximum(winners, 0).astype(np.int64), axis=0)
    picked: Array = np.take_along_axis(values, entry, axis=1)
    picked[winners < 0] = 0
    return picked


def common(p: Rationals, q: Rationals) -> Pair:
    """The same two arrays over one denominator."""
    denominator = lcm(p.denominator, q.denominator)
    return (
        Rationals(p.numerators * (denominator // p.denominator), denominator),
        Rationals(q.numerators * (denominator // q.denominator), denominator),
    )
