"""Lines in rational arithmetic, for networks of up to a few hundred neurons.

On a piece every value is ``p + q t`` with dyadic rationals p and q (weights and ends are floats), kept as integers
over one denominator per node; breakpoints are ratios of two of them. Nothing is rounded and nothing is merged:
neurons that cross at one and the same t share a breakpoint, all others do not.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from fractions import Fraction
from math import lcm

import numpy as np
import numpy.typing as npt

from verifier.events import Listener, Progress, ignore
from verifier.limits import NEVER, Deadline
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator, Array
from verifier.network.piecewise import MaxPool, PiecewiseLinear
from verifier.network.rationals import Rationals
from verifier.regions.cells import Index
from verifier.regions.piece_values import Pair, PieceValues, common, winning
from verifier.regions.plan import Level, is_piecewise, plan


def exact_breakpoints(network: Network, start: Sequence[Fraction], end: Sequence[Fraction]) -> list[Fraction]:
    """The breakpoints of the restriction to a segment between rational points, 0 and 1 included.

    Raises:
        TimeLimitError: the deadline passes.

    Source:
        Sotoudeh, Thakur, ExactLine, NeurIPS 2019, Theorems 1 to 3, in rationals.
    """
    a, b = (Rationals.of(list(point)) for point in (start, end))
    walk = ExactWalk(
        network, Rationals(a.numerators[None], a.denominator), Rationals(b.numerators[None], b.denominator)
    )
    return walk.finish().breaks


class ExactWalk(PieceValues):
    """The pieces of one line, cut at exact breakpoints on their way through the network.

    Attributes:
        breaks: the breakpoints.
        levels: one for each piecewise-linear node passed.

    Source:
        Sotoudeh, Thakur, ExactLine, NeurIPS 2019, Theorems 1 to 3, in rationals.
    """

    def __init__(self, network: Network, start: Array | Rationals, end: Array | Rationals) -> None:
        """The line from start to end, ``(1, n)`` each, floats or rationals."""
        super().__init__(network, start, end)
        self.breaks = [Fraction(0), Fraction(1)]
        self.levels: list[Level] = []

    def finish(self, deadline: Deadline = NEVER, listener: Listener = ignore) -> ExactWalk:
        """Pass all nodes.

        Raises:
            TimeLimitError: the deadline passes.
        """
        began = time.monotonic()
        for node in self.network.nodes[1:]:
            deadline.check(f"at node {node.name!r}")
            self._step(node)
            if is_piecewise(node):
                left, pieces = len(self.network.activations) - len(self.levels), len(self.breaks) - 1
                seconds = time.monotonic() - began
                listener(Progress(seconds=seconds, stage="line", done=pieces, unit="pieces", left=left))
        return self

    @property
    def output(self) -> Pair:
        """Constants and slopes of the outputs on every piece."""
        return self.values[self.network.output]

    def outputs(self) -> Array:
        """The outputs at the breakpoints, rounded: ``(breakpoints, m)``."""
        p, q = self.output
        pieces = [*range(len(self.breaks) - 1), len(self.breaks) - 2]
        rows = [_at(p, q, k, t) for k, t in zip(pieces, self.breaks, strict=True)]
        return np.array(rows, dtype=np.float64).reshape(len(rows), -1)

    def _step(self, node: Node) -> None:
        if isinstance(node.operator, AffineOperator):
            self.values[node.name] = self.affine(node)
        elif node.name in plan(self.network).fused:
            self.values[node.name] = self.values[node.inputs[0]]
        elif isinstance(node.operator, PiecewiseLinear):
            self._elementwise(node, node.operator)
        else:
            assert isinstance(node.operator, MaxPool)
            self._pool(node, node.operator)

    def _signs(self, functions: Pair) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Signs at every piece's start and end, each ``(pieces, n)``."""
        p, q = common(*functions)
        result = []
        for t in (self.breaks[:-1], self.breaks[1:]):
            top = np.array([x.numerator for x in t], dtype=object)[:, None]
            bottom = np.array([x.denominator for x in t], dtype=object)[:, None]
            result.append(np.sign(p.numerators * bottom + q.numerators * top).astype(np.int64))
        return result[0], result[1]

    def _cut(self, functions: Pair) -> tuple[Index, npt.NDArray[np.bool_]]:
        """Cut the pieces where functions ``(pieces, n)`` cross zero.

        Returns:
            for each new piece the old one it is part of, and which functions are positive on it ``(pieces', n)``.
        """
        p, q = common(*functions)
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
        self._keep(rows)
        return rows, np.array(positive)

    def _keep(self, rows: Index) -> None:
        """Let the values be those of these pieces."""
        self.values = {
            name: (Rationals(a.numerators[rows], a.denominator), Rationals(b.numerators[rows], b.denominator))
            for name, (a, b) in self.values.items()
        }

    def _elementwise(self, node: Node, operator: PiecewiseLinear) -> None:
        p, q = self.values[node.inputs[0]]
        shifted = [p + _constant(-Fraction(b), p.numerators.shape) for b in operator.breaks]
        denominator = lcm(*(r.denominator for r in shifted))
        tops = [r.numerators * (denominator // r.denominator) for r in shifted]
        functions = (
            Rationals(np.concatenate(tops, axis=1), denominator),
            Rationals(np.tile(q.numerators, (1, len(tops))), q.denominator),
        )
        parents, positive = self._cut(functions)
        piece = positive.reshape(len(parents), len(tops), -1).sum(axis=1, dtype=np.int16)
        self.values[node.name] = self.on_piece(node, operator, piece)
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
                best = winning(r.numerators, windows, winners)[:, here]
                ahead.append(Rationals(r.numerators[:, windows[here, k]] - best, r.denominator))
            parents, positive = self._cut((ahead[0], ahead[1]))
            origin, winners = origin[parents], winners[parents]
            winners[:, here] = np.where(positive, np.int16(k), winners[:, here])
        same = (np.diff(origin) == 0) & (np.diff(winners, axis=0) == 0).all(axis=1)
        kept = np.flatnonzero(np.concatenate([[True], ~same]))
        self.breaks = [self.breaks[k] for k in kept] + [self.breaks[-1]]
        self._keep(kept)
        origin, winners = origin[kept], winners[kept]
        self.values[node.name] = self.pooled(node, operator, winners)
        self.levels.append(Level(node.name, origin, winners=winners))


def _at(p: Rationals, q: Rationals, piece: int, t: Fraction) -> list[Fraction]:
    """The exact values on a piece at t."""
    scale = t.denominator * p.denominator * q.denominator
    numerators = p.numerators[piece] * (t.denominator * q.denominator) + q.numerators[piece] * (
        t.numerator * p.denominator
    )
    return [Fraction(int(n), scale) for n in numerators]


def _constant(value: Fraction, shape: tuple[int, ...]) -> Rationals:
    numerators = np.empty(shape, dtype=object)
    numerators[...] = value.numerator
    return Rationals(numerators, value.denominator)
