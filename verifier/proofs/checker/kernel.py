"""Bounds of every ReLU's and gate's input on many regions at once, by a rule that leaves nothing open."""

from __future__ import annotations

from typing import Any

import numpy as np

from .backward import LARGEST, TINY, UNIT, Bounds, Regions, lower, norm
from .graph import CheckError, Graph, Map, Node, through

CACHED = 1 << 17
"""Numbers in an array that is gone through many times."""


class Kernel:
    """The functions of one graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph, nodes = graph, graph.nodes
        maps = {id(m): m for n in nodes for _, m in n.terms if m is not None}
        k = 2 * max([n.size for n in nodes] + [m.terms for m in maps.values()]) + 8 * len(nodes) + 64
        self.gamma = k * UNIT / (1 - k * UNIT) * (1 + 1e-6)
        self.absolute: dict[int, Map | None] = {key: m.absolute() for key, m in maps.items()} | {id(None): None}
        self.used = {source for n in nodes for source, _ in n.terms} | {*graph.outputs.values(), *graph.asked}
        self.widest = max(n.size for n in nodes)
        self.inverted: dict[int, Any] = {}
        """What `gradient.invert` keeps of the graph."""

    def nothing(self) -> Bounds:
        """What is known of a region before anything is."""
        units, phases = np.full((1, self.graph.units), np.inf), np.zeros((1, self.graph.relus), dtype=np.int8)
        return Bounds(-units, units, np.zeros((1, len(self.graph.nodes))), np.zeros(1, dtype=bool), phases)

    def bounds(self, at: Regions, base: Bounds, rows: Any = None) -> Bounds:
        """Bounds of all units on regions.

        ReLU and gate nodes in order: intervals from the values before; cut by ``base``, bounds on regions around; by the
        phases; then, for every unit whose interval has 0 inside (with ``rows``: for those rows), a lower and an upper bound by
        `lower`; cut by the phases again. What is asked of a gradient holds, too (`Graph.inversion`), and all is repeated while that
        tells phases.

        Args:
            rows: of one region: units ``(R,)``, signs ``(R,)`` (1 bounds from below, -1 from above) and a function of numbers of
                rows that gives their weights.
        """
        known = self._once(at, base, rows)
        for _ in range(self.graph.rounds):
            before = known.phases.copy()
            assert self.graph.inversion is not None
            self.graph.inversion(self, known)
            if (known.phases == before).all():
                break
            known = self._once(at, known, None)
        return known

    def _once(self, at: Regions, base: Bounds, rows: Any) -> Bounds:
        nodes, count, values = self.graph.nodes, len(at.low), dict[int, Any]()
        low, high, empty = (np.repeat(v, count // len(v), axis=0) for v in (base.low, base.high, base.empty))
        phases, empty = np.where(at.phases != 0, at.phases, base.phases), empty | (at.low > at.high).any(axis=1)
        known = Bounds(low, high, np.zeros((count, len(nodes))), empty, phases, values)
        for number in sorted(self.used):
            node = nodes[number]
            if node.kind == "input":
                values[number] = ends = at.low, np.maximum(at.low, at.high)
                known.norms[:, number] = norm(np.maximum(abs(ends[0]), abs(ends[1])))
            elif node.kind == "affine":
                values[number], known.norms[:, number] = self._interval(number, values)
                if number in self.graph.asked:
                    least, most = self.graph.asked[number]
                    values[number] = ends = np.maximum(values[number][0], least), np.minimum(values[number][1], most)
                    known.empty |= (ends[0] > ends[1]).any(axis=1)
            else:
                low, high = known.low[:, node.part], known.high[:, node.part]
                np.maximum(low, values[node.terms[0][0]][0], out=low)
                np.minimum(high, values[node.terms[0][0]][1], out=high)
                self._cut(node, known)
                self._tighten(node, at, known, rows)
                self._cut(node, known)
                crossed = (low > high).any(axis=1)
                known.empty |= crossed
                low[crossed], high[crossed] = 0.0, 0.0
                known.norms[:, number] = norm(np.maximum(abs(low), abs(high)))
                on, off = known.sure(nodes[node.relu])
                ends = (np.maximum(low, 0.0) if node.kind == "relu" else np.minimum(low, 0.0)), np.maximum(high, 0.0)
                values[number] = [
                    np.where(on, a, np.where(off, 0.0, b)) for a, b in zip((low, high), ends, strict=True)
                ]
            if not (known.norms[:, number] < LARGEST).all():
                raise CheckError("the network's numbers are too large for bounds in float64")
        return known

    def _interval(self, number: int, values: dict[int, Any]) -> tuple[tuple[Any, Any], Any]:
        """An affine node's ends by those of its sources, and the norms of bounds on the sums of its terms' absolute values."""
        node = self.graph.nodes[number]
        middle, radius, size = np.tile(node.constant, (len(values[0][0]), 1)), 0.0, abs(node.constant)
        for source, m in node.terms:
            a, b = values[source]
            center, absolute = a + (b - a) / 2, self.absolute[id(m)]
            middle = middle + through(m, center)
            radius = radius + through(absolute, np.maximum(b - center, center - a) * (1 + 4 * UNIT))
            size = size + through(absolute, np.maximum(abs(a), abs(b)))
        size = size * (1 + 1e-6)
        error = radius + 4 * self.gamma * size + TINY
        return (middle - error, middle + error), norm(np.broadcast_to(size, middle.shape))

    def _tighten(self, node: Node, at: Regions, known: Bounds, rows: Any) -> None:
        """Bounds of a node's units by going back to the input."""
        low, high = known.low[:, node.part], known.high[:, node.part]
        if rows is None:
            on, off = known.sure(self.graph.nodes[node.relu])
            undecided = (low < 0) & (high > 0) & ~known.empty[:, None] & ~on & ~off
            region, place = (np.repeat(a, 2) for a in np.nonzero(undecided))
            sign, which = np.tile([1.0, -1.0], len(place) // 2), np.arange(len(place))
        else:
            which = np.flatnonzero((rows[0] >= node.part.start) & (rows[0] < node.part.stop))
            place, sign, region = rows[0][which] - node.part.start, rows[1][which], np.zeros(len(which), dtype=np.intp)
        step = max(1, CACHED // self.widest)
        for some in (slice(k, k + step) for k in range(0, len(place), step)):
            mine = slice(region[some][0], region[some][-1] + 1)
            start = np.zeros((len(place[some]), node.size))
            start[np.arange(len(start)), place[some]] = sign[some]
            weights = None if rows is None else rows[2](which[some])
            found = lower(self, {node.terms[0][0]: start}, region[some] - mine.start, known.take(mine), weights)
            least, below = found.least(at.low[region[some]], at.high[region[some]]), sign[some] > 0
            np.maximum.at(low, (region[some][below], place[some][below]), least[below])
            np.minimum.at(high, (region[some][~below], place[some][~below]), -least[~below])

    @staticmethod
    def _cut(node: Node, known: Bounds) -> None:
        if node.kind == "relu":
            low, high, phase = (ends[:, node.part] for ends in (known.low, known.high, known.phases))
            np.maximum(low, np.where(phase > 0, 0.0, -np.inf), out=low)
            np.minimum(high, np.where(phase < 0, 0.0, np.inf), out=high)
