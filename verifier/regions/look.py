"""Exact looks: signs that floats cannot tell, because a function is zero along a segment but for rounding errors.

A line that runs along a neuron's hyperplane keeps its preactivation within rounding errors of zero, and which side the
neuron is on, or where it changes sides, hangs on the last bits of the weights. Such functions are computed again in
rational arithmetic, on the segment's activation pattern. As that is some thousand times slower, the work is bounded
(`LineSettings.exact_work`); what it does not suffice for is decided by the floats, and counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from verifier.limits import NEVER, Deadline
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator, Array, Sum
from verifier.network.piecewise import MaxPool, PiecewiseLinear
from verifier.network.work import multiplications
from verifier.regions.cells import Index, Settled
from verifier.regions.patterns import Patterns
from verifier.regions.piece_values import PieceValues, common, winning
from verifier.regions.plan import Level, plan
from verifier.regions.settings import LineSettings

CHUNK = 1 << 22
"""Multiplications between two looks at the clock."""
Pattern = dict[str, npt.NDArray[np.int16]]


@dataclass(frozen=True, eq=False)
class Doubts:
    """Functions whose signs on segments are in doubt, ``(pairs,)`` each: ``value[ahead] - value[behind] - shift``.

    Attributes:
        which: the segments, not decreasing.
        functions: the functions' numbers.
        cells: the cell that each segment is part of, right after the last level.
        ahead, behind: entries of the node's value; behind is -1 for none.
        shift: constants.
        places: ``(pairs, 2)`` t at the segments' ends.
    """

    which: Index
    functions: Index
    cells: Index
    ahead: Index
    behind: Index
    shift: Array
    places: Array


class ExactLook:
    """Settles doubts of one walk along lines.

    Args:
        work: multiplications of integers that all its looks may take.

    Attributes:
        by_rounding: how many doubts were left to the floats, because the work did not suffice.

    Source:
        exact decisions where a floating-point filter fails: Fortune, Van Wyk, SCG 1993.
    """

    def __init__(
        self,
        network: Network,
        starts: Array,
        ends: Array,
        deadline: Deadline = NEVER,
        work: int = LineSettings().exact_work,
    ) -> None:
        self.network, self.starts, self.ends, self.deadline = network, starts, ends, deadline
        self.work = self.left = work
        self.by_rounding = 0

    def settle(self, levels: list[Level], source: str, doubts: Doubts) -> Settled:
        """The signs of those doubtful functions that the work suffices for.

        Args:
            levels: of the piecewise-linear nodes passed so far.
            source: the node whose value the functions are made of.
        """
        node = self.network[source]
        patterns = Patterns(self.network, levels, len(levels[-1].parents) if levels else len(self.starts))
        cells, inverse = np.unique(doubts.cells, return_inverse=True)
        begins = np.zeros(len(inverse), np.bool_)
        roots = np.full(len(inverse), np.nan)
        done = np.zeros(len(inverse), np.bool_)
        cost = 2 * sum(multiplications(n) for n in self.network.nodes[: self._index(node) + 1])
        if len(cells) * cost <= 64 * self.work:  # a float multiplication is much cheaper
            done |= self._identically_zero(patterns, cells, inverse, node, doubts)
        open_cells = np.unique(inverse[~done])
        step = max(1, CHUNK // cost)
        for i in range(0, len(open_cells), step):
            part = open_cells[i : i + step]
            if len(part) * cost > self.left:
                break
            self.left -= len(part) * cost
            self.deadline.check(f"at node {source!r}, in exact arithmetic")
            chosen = np.flatnonzero(~done & np.isin(inverse, part))
            self._look(patterns, cells, inverse, node, doubts, chosen, begins, roots)
            done[chosen] = True
        self.by_rounding += int((~done).sum())
        return Settled(doubts.which[done], doubts.functions[done], begins[done], roots[done])

    def _index(self, node: Node) -> int:
        return next(k for k, n in enumerate(self.network.nodes) if n.name == node.name)

    def _look(
        self,
        patterns: Patterns,
        cells: Index,
        inverse: Index,
        node: Node,
        doubts: Doubts,
        chosen: Index,
        begins: npt.NDArray[np.bool_],
        roots: Array,
    ) -> None:
        used, rows = np.unique(inverse[chosen], return_inverse=True)
        pieces = cells[used]
        lines = patterns.origin(pieces)
        values = PieceValues(self.network, self.starts[lines], self.ends[lines])
        behind = doubts.behind[chosen]
        entries = np.unique(np.concatenate([doubts.ahead[chosen], behind[behind >= 0]]))
        p, q = common(*values.follow(patterns.pattern(pieces), node, entries))
        for k, row in zip(chosen.tolist(), rows.tolist(), strict=True):
            constant, slope = -Fraction(float(doubts.shift[k])), Fraction(0)
            for entry, sign in ((doubts.ahead[k], 1), (doubts.behind[k], -1)):
                if entry >= 0:
                    column = int(np.searchsorted(entries, entry))
                    constant += sign * Fraction(int(p.numerators[row, column]), p.denominator)
                    slope += sign * Fraction(int(q.numerators[row, column]), q.denominator)
            begins[k], roots[k] = _signs(constant, slope, *doubts.places[k].tolist())

    def _identically_zero(
        self, patterns: Patterns, cells: Index, inverse: Index, node: Node, doubts: Doubts
    ) -> npt.NDArray[np.bool_]:
        """Which functions are zero because every product in them is: dead neurons, black pixels."""
        lines = patterns.origin(cells)
        some = self._may_differ(patterns.pattern(cells), node, lines)
        ahead = some[inverse, doubts.ahead]
        behind = some[inverse, doubts.behind] & (doubts.behind >= 0)
        return ~(ahead | behind) & (doubts.shift == 0)

    def _may_differ(self, pattern: Pattern, stop: Node, lines: Index) -> npt.NDArray[np.bool_]:
        """Which entries of a node's value have a product in them that is not zero, ``(pieces, size)``."""
        start = (self.starts[lines] != 0) | (self.ends[lines] != 0)
        masks: dict[str, Array] = {self.network.input: start.astype(np.float64)}
        for node in self.network.nodes[1 : self._index(stop) + 1]:
            operator, count = node.operator, len(lines)
            inputs = [masks[name] for name in node.inputs]
            if isinstance(operator, AffineOperator):
                shaped = [m.reshape(count, *self.network[i].shape) for m, i in zip(inputs, node.inputs, strict=True)]
                mask = _magnitudes(operator).linear(*shaped)
                constant = operator.constant()
                mask = mask if constant is None else mask + (np.asarray(constant) != 0)
            elif node.name in plan(self.network).fused:
                mask = inputs[0]
            elif isinstance(operator, PiecewiseLinear):
                piece = pattern[node.name].reshape(count, -1)
                slopes, intercepts = np.asarray(operator.slopes), np.asarray(operator.intercepts)
                mask = (slopes[piece] != 0) * inputs[0] + (intercepts[piece] != 0)
            else:
                assert isinstance(operator, MaxPool)
                windows = operator.windows(self.network[node.inputs[0]].shape)
                winners = pattern[node.name].reshape(count, -1)
                mask = winning(inputs[0], windows, winners)
            masks[node.name] = (mask.reshape(count, -1) > 0).astype(np.float64)
        return masks[stop.name] > 0


def _magnitudes(operator: AffineOperator) -> AffineOperator:
    """The operator with 1 for every coefficient that is not zero."""
    if isinstance(operator, Sum):
        return Sum((1,) * len(operator.signs))
    field = operator.coefficients
    if field is None:
        return operator
    changes = {field: (np.asarray(getattr(operator, field)) != 0).astype(np.float64)}
    return replace(operator, **changes)  # type: ignore[arg-type]


def _signs(constant: Fraction, slope: Fraction, t0: float, t1: float) -> tuple[bool, float]:
    """Whether ``constant + slope t`` is positive right of t0, and the float strictly between t0 and t1 where it is 0."""
    begin, end = constant + slope * Fraction(t0), constant + slope * Fraction(t1)
    if begin * end < 0:
        root = float(-constant / slope)
        if t0 < root < t1:
            return begin > 0, root
        begin = end = begin + end  # the sign on the longer part
    return begin > 0 or end > 0, float("nan")
