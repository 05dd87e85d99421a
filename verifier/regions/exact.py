"""Line restrictions in rational arithmetic, for networks of up to a few hundred neurons.

On a piece every value is ``p + q t`` with dyadic rationals p and q (weights and ends are floats), kept as integers
over one denominator per node; breakpoints are ratios of two of them. Nothing is rounded and nothing is merged:
units that cross at one and the same t share a breakpoint, all others do not.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from fractions import Fraction
from math import lcm

import numpy as np
import numpy.typing as npt

from verifier.events import Listener, Progress, ignore
from verifier.network.exact import ExactNetwork, Rationals, dyadic
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator, Array
from verifier.network.piecewise import MaxPool, PiecewiseLinear
from verifier.regions.budget import UNLIMITED, Budget
from verifier.regions.cells import Index
from verifier.regions.line import LineRestriction
from verifier.regions.patterns import Patterns
from verifier.regions.subdivision import Level, is_piecewise, plan


def exact_line(
    network: Network, start: Array, end: Array, budget: Budget = UNLIMITED, listener: Listener = ignore
) -> LineRestriction:
    """The restriction with its breakpoints as rationals; the floats in it are those rationals, rounded.

    Breakpoints so close that they round to one float are kept: the pieces between them have length 0 in t.
    """
    walk = _ExactWalk(network, dyadic(start[None]), dyadic(end[None]))
    began = time.monotonic()
    for node in network.nodes[1:]:
        budget.take(0, 0, f"at node {node.name!r}")
        walk.step(node)
        if is_piecewise(node):
            left, pieces = len(network.activations) - len(walk.levels), len(walk.breaks) - 1
            seconds = time.monotonic() - began
            listener(Progress(seconds=seconds, stage="line", done=pieces, unit="pieces", left=left))
    t = walk.breaks
    p, q = walk.values[network.output]
    rows = [walk.at(p, q, k, t[k]) for k in range(len(t) - 1)]
    values = np.array([*rows, walk.at(p, q, len(t) - 2, t[-1])], dtype=np.float64)
    patterns = Patterns(network, walk.levels, len(t) - 1)
    return LineRestriction(
        network,
        start,
        end,
        np.array([float(x) for x in t]),
        values.reshape(len(t), -1),
        np.zeros(len(t)),
        patterns,
        exact_breakpoints=tuple(t),
    )


def exact_breakpoints(network: Network, start: Sequence[Fraction], end: Sequence[Fraction]) -> list[Fraction]:
    """The breakpoints of the restriction to a segment between rational points, 0 and 1 included."""
    ends = (Rationals.of(list(point)) for point in (start, end))
    a, b = (Rationals(r.numerators[None], r.denominator) for r in ends)
    walk = _ExactWalk(network, a, b)
    for node in network.nodes[1:]:
        walk.step(node)
    return walk.breaks


Pair = tuple[Rationals, Rationals]
"""Constants and slopes of values in t, each ``(pieces, size)``."""


class _ExactWalk:
    """Pieces with exact affine functions of t on them, on their way through a network."""

    def __init__(self, network: Network, start: Rationals, end: Rationals) -> None:
        self.network, self.exact = network, ExactNetwork(network)
        self.breaks = [Fraction(0), Fraction(1)]
        self.values: dict[str, Pair] = {network.input: (start, end + Rationals(-start.numerators, start.denominator))}
        self.levels: list[Level] = []

    @staticmethod
    def at(p: Rationals, q: Rationals, piece: int, t: Fraction) -> list[Fraction]:
        """The exact values on a piece at t."""
        scale = t.denominator * p.denominator * q.denominator
        numerators = p.numerators[piece] * (t.denominator * q.denominator) + q.numerators[piece] * (
            t.numerator * p.denominator
        )
        return [Fraction(int(n), scale) for n in numerators]

    def step(self, node: Node) -> None:
        """Pass one node."""
        if isinstance(node.operator, AffineOperator):
            self.values[node.name] = self._affine(node)
        elif node.name in plan(self.network).fused:
            self.values[node.name] = self.values[node.inputs[0]]
        elif isinstance(node.operator, PiecewiseLinear):
            self._elementwise(node, node.operator)
        else:
            assert isinstance(node.operator, MaxPool)
            self._pool(node, node.operator)

    def _affine(self, node: Node) -> Pair:
        operator, denominator, constant = self.exact._exact(node)
        result = []
        for k in range(2):
            inputs = [self.values[i][k] for i in node.inputs]
            common = lcm(*(r.denominator for r in inputs))
            shaped = [
                (r.numerators * (common // r.denominator)).reshape(-1, *self.network[i].shape)
                for r, i in zip(inputs, node.inputs)
            ]
            rows = np.asarray(operator.linear(*shaped), dtype=object)
            total = Rationals(rows, common * denominator)
            if k == 0 and constant is not None:
                spread = np.broadcast_to(constant.numerators, rows.shape)
                total = total + Rationals(spread, constant.denominator)
            total = total.reduced()
            result.append(Rationals(total.numerators.reshape(len(rows), -1), total.denominator))
        return result[0], result[1]

    def _signs(self, functions: Pair) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Signs at every piece's start and end, each ``(pieces, n)``."""
        p, q = _common(*functions)
        result = []
        for t in (self.breaks[:-1], self.breaks[1:]):
            top = np.array([x.numerator for x in t], dtype=object)[:, None]
            bottom = np.array([x.denominator for x in t], dtype=object)[:, None]
            result.append(np.sign(p.numerators * bottom + q.numerators * top).astype(np.int64))
        return result[0], result[1]

    def cut(self, functions: Pair) -> tuple[Index, npt.NDArray[np.bool_]]:
        """Cut the pieces where functions ``(pieces, n)`` cross zero.

        Returns:
            for each new piece the old one it is part of, and which functions are positive on it ``(pieces', n)``.
        """
        p, q = _common(*functions)
        start, end = self._signs(functions)
        breaks, parents, positive = [self.breaks[0]], [], []
        for c in range(len(self.breaks) - 1):
            crossing = np.flatnonzero(start[c] * end[c] < 0)
            side = (start[c] > 0) | ((start[c] == 0) & (end[c] > 0))
            where: dict[Fraction, list[int]] = {}
            for j in crossing.tolist():
                where.setdefault(Fraction(-int(p.numerators[c, j]), int(q.numerators[c, j])), []).append(j)
            for t in [*sorted(where), self.breaks[c + 1]]:
                parents.append(c)
                positive.append(side.copy())
                breaks.append(t)
                for j in where.get(t, ()):
                    side[j] = not side[j]
        self.breaks = breaks
        rows = np.array(parents, dtype=np.int64)
        self.values = {
            name: (Rationals(a.numerators[rows], a.denominator), Rationals(b.numerators[rows], b.denominator))
            for name, (a, b) in self.values.items()
        }
        return rows, np.array(positive)

    def _elementwise(self, node: Node, operator: PiecewiseLinear) -> None:
        (source,) = node.inputs
        p, q = self.values[source]
        shifted = [p + _constant(-Fraction(b), p.numerators.shape) for b in operator.breaks]
        denominator = lcm(*(r.denominator for r in shifted))
        tops = [r.numerators * (denominator // r.denominator) for r in shifted]
        functions = (
            Rationals(np.concatenate(tops, axis=1), denominator),
            Rationals(np.tile(q.numerators, (1, len(tops))), q.denominator),
        )
        parents, positive = self.cut(functions)
        p, q = self.values[source]
        piece = positive.reshape(len(parents), len(tops), -1).sum(axis=1)
        slopes, intercepts = Rationals.of(operator.slopes), Rationals.of(operator.intercepts)
        slope = slopes.numerators[piece]
        constants = Rationals(intercepts.numerators[piece], intercepts.denominator)
        self.values[node.name] = (
            (Rationals(p.numerators * slope, p.denominator * slopes.denominator) + constants).reduced(),
            Rationals(q.numerators * slope, q.denominator * slopes.denominator).reduced(),
        )
        packed = np.packbits(positive, axis=1, bitorder="little")
        sides = np.zeros((len(parents), -(-packed.shape[1] // 8) * 8), np.uint8)
        sides[:, : packed.shape[1]] = packed
        self.levels.append(Level(node.name, parents, sides=sides.view(np.uint64)))

    def _pool(self, node: Node, operator: MaxPool) -> None:
        (source,) = node.inputs
        zero = source in plan(self.network).fused
        windows = operator.windows(self.network[source].shape)
        count = len(self.breaks) - 1
        origin = np.arange(count)
        first = np.where(zero, -1, np.argmax(windows >= 0, axis=1))
        winners = np.tile(first.astype(np.int16), (count, 1))
        for k in range(windows.shape[1]):
            here = np.flatnonzero((windows[:, k] >= 0) & (first < k))
            if not len(here):
                continue
            ahead = []
            for r in self.values[source]:
                best = self._winning(r, windows, winners)[:, here]
                ahead.append(Rationals(r.numerators[:, windows[here, k]] - best, r.denominator))
            parents, positive = self.cut((ahead[0], ahead[1]))
            origin, winners = origin[parents], winners[parents]
            winners[:, here] = np.where(positive, np.int16(k), winners[:, here])
        same = (np.diff(origin) == 0) & (np.diff(winners, axis=0) == 0).all(axis=1)
        kept = np.flatnonzero(np.concatenate([[True], ~same]))
        self.breaks = [self.breaks[k] for k in kept] + [self.breaks[-1]]
        self.values = {
            name: (Rationals(a.numerators[kept], a.denominator), Rationals(b.numerators[kept], b.denominator))
            for name, (a, b) in self.values.items()
        }
        origin, winners = origin[kept], winners[kept]
        p, q = self.values[source]
        self.values[node.name] = (
            Rationals(self._winning(p, windows, winners), p.denominator),
            Rationals(self._winning(q, windows, winners), q.denominator),
        )
        self.levels.append(Level(node.name, origin, winners=winners))

    @staticmethod
    def _winning(r: Rationals, windows: Index, winners: npt.NDArray[np.int16]) -> Array:
        """The winning entries' numerators, 0 where the zero wins: ``(pieces, outputs)``."""
        entry = np.take_along_axis(windows.T, np.maximum(winners, 0).astype(np.int64), axis=0)
        picked = np.take_along_axis(r.numerators, entry, axis=1)
        picked[winners < 0] = 0
        return picked


def _common(p: Rationals, q: Rationals) -> Pair:
    denominator = lcm(p.denominator, q.denominator)
    return (
        Rationals(p.numerators * (denominator // p.denominator), denominator),
        Rationals(q.numerators * (denominator // q.denominator), denominator),
    )


def _constant(value: Fraction, shape: tuple[int, ...]) -> Rationals:
    numerators = np.empty(shape, dtype=object)
    numerators[...] = value.numerator
    return Rationals(numerators, value.denominator)
