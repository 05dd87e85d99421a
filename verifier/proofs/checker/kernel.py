"""Bounds of every ReLU's and gate's input on many regions at once, by a rule that leaves nothing open."""

from __future__ import annotations

from typing import Any

import numpy as np

from .backward import LARGEST, TINY, UNIT, Backward, Bounds, Linear, Regions, norm, sure
from .gradient import ROUNDS, invert
from .graph import CheckError, Graph, Node, Sparse, exact

CHUNK = 1 << 22
"""Numbers in one working array at most."""
CACHED = 1 << 17
"""And in one of those that are gone through many times."""


def unknown(graph: Graph) -> Bounds:
    """What is known of a region before anything is."""
    low, high = np.full((1, graph.units), -np.inf), np.full((1, graph.units), np.inf)
    phases = np.zeros((1, graph.relus), dtype=np.int8)
    return Bounds(low, high, np.zeros((1, len(graph.nodes))), np.zeros(1, dtype=bool), phases)


class Kernel:
    """The functions of one graph."""

    def __init__(self, graph: Graph, rational: bool = False) -> None:
        self.graph, self.rational = graph, rational
        nodes = graph.nodes
        self.used = _used(graph)
        longest = max([n.size for n in nodes] + [m.terms for n in nodes for _, m in n.terms if m is not None])
        k = 2 * longest + 8 * len(nodes) + 64
        self.gamma: Any = 0 if rational else k * UNIT / (1 - k * UNIT) * (1 + 1e-6)
        self.tiny: Any = 0 if rational else TINY
        affine = [n.terms if n.kind == "affine" and k in self.used else () for k, n in enumerate(nodes)]
        self.maps = [[m.exact() if rational else m for _, m in terms] for terms in affine]
        self.constants = [None if n.constant is None else exact(n.constant) if rational else n.constant for n in nodes]
        self._absolute = [[] if rational else [m.absolute() for _, m in terms] for terms in affine]
        self.twins = {k: pair for k in self.used if nodes[k].kind == "relu" for pair in _twins(nodes, k)}
        pairs = [[nodes[k].first + side for side in pair] for k, pair in self.twins.items()]
        self.both = [np.concatenate(column) for column in zip(*pairs, strict=True)]
        """Twins by their units' numbers."""
        self.widest = max(nodes[k].size for k in self.used)
        self.inverted: dict[int, Any] = {}
        """What `invert` keeps of the graph."""

    # -- bounds ------------------------------------------------------------------------------------------
    def bounds(self, at: Regions, base: Bounds | None, rows: Any = None) -> Bounds:
        """Bounds of all units on regions, by a rule that leaves nothing open.

        ReLU and gate nodes in order: intervals from the values before; cut by ``base``, bounds on regions around; by the
        phases; then, for every unit whose interval has 0 inside (with ``rows``: for those rows), a lower and an upper bound by
        `lower`; cut by the phases again. Where a node is one affine function of the input nothing follows the intervals.

        Args:
            rows: of one region: units ``(R,)``, signs ``(R,)`` (1 bounds from below, -1 from above) and `Weights`.
        """
        known = self._bounds(at, base, rows)
        for _ in range(ROUNDS if self.graph.asked else 0):
            before = known.phases.copy()
            self._invert(known)
            if (known.phases == before).all():
                break
            known = self._bounds(at, known, None)
        return known

    def _bounds(self, at: Regions, base: Bounds | None, rows: Any) -> Bounds:
        count, units = len(at.low), self.graph.units
        if base is None:
            base = unknown(self.graph)
        at = Regions(at.low, at.high, np.where(at.phases != 0, at.phases, base.phases))
        low, high = (np.broadcast_to(end, (count, units)).copy() for end in (base.low, base.high))
        norms = np.zeros((count, len(self.graph.nodes)))
        known = Bounds(low, high, norms, np.broadcast_to(base.empty, count).copy(), at.phases.copy())
        known.empty |= (at.low > at.high).any(axis=1)
        values: dict[int, Any] = {0: (at.low, np.maximum(at.low, at.high))}
        known.norms[:, 0] = norm(np.maximum(abs(at.low), abs(at.high)))
        for number in self.used[1:]:
            node = self.graph.nodes[number]
            if node.kind == "affine":
                values[number], known.norms[:, number] = self._interval(number, values)
                if number in self.graph.asked:
                    ends = self.graph.asked[number]
                    values[number] = np.maximum(values[number][0], ends[0]), np.minimum(values[number][1], ends[1])
                    known.empty |= (values[number][0] > values[number][1]).any(axis=1)
            else:
                part, source = slice(node.first, node.first + node.size), node.terms[0][0]
                relu = self.graph.nodes[node.relu] if node.kind == "gate" else node
                phase = at.phases[:, relu.first : relu.first + relu.size]
                low, high = known.low[:, part], known.high[:, part]
                np.maximum(low, values[source][0], out=low)
                np.minimum(high, values[source][1], out=high)
                if node.kind == "relu":
                    _cut(low, high, phase)
                if self._tightens(number):
                    self._tighten(number, at, known, rows)
                    if node.kind == "relu":
                        _cut(low, high, phase)
                crossed = (low > high).any(axis=1)
                known.empty |= crossed
                low[crossed], high[crossed] = 0.0, 0.0
                known.norms[:, number] = norm(np.maximum(abs(low), abs(high)))
                if node.kind == "relu":
                    values[number] = np.maximum(low, 0.0), np.maximum(high, 0.0)
                else:
                    on, off = sure(self.graph.nodes[node.relu], at.phases, known)
                    values[number] = (
                        np.where(on, low, np.where(off, 0.0, np.minimum(low, 0.0))),
                        np.where(on, high, np.where(off, 0.0, np.maximum(high, 0.0))),
                    )
            if not (known.norms[:, number] < LARGEST).all():
                raise CheckError("the network's numbers are too large for bounds in float64")
        known.values = values if self.graph.asked else {}
        return known

    def _invert(self, known: Bounds) -> None:
        """What bounds of gradients say of phases, from the input's gradient on."""
        gates = [n for n in reversed(self.graph.nodes) if n.kind == "gate"]
        for b in range(len(known.empty)):
            ends = {k: [end[b] for end in known.values[k]] for k in self.graph.asked}
            for number, (low, high) in ends.items():
                if not known.empty[b]:
                    invert(self, known, known.values, b, number, low, high)
            for gate in gates:
                if not known.empty[b]:
                    low, high = (end[b, gate.first : gate.first + gate.size] for end in (known.low, known.high))
                    invert(self, known, known.values, b, gate.terms[0][0], low, high)

    def _tightens(self, number: int) -> bool:
        """Whether there is anything behind a ReLU's or gate's input that intervals lose: not if it is one affine function of the
        input, by maps of which all but the last take single entries."""
        source = self.graph.nodes[self.graph.nodes[number].terms[0][0]]
        while source.kind == "affine" and len(source.terms) == 1:
            source = self.graph.nodes[source.terms[0][0]]
            if source.kind == "affine" and not all(
                isinstance(m, Sparse) and m.index.shape[1] == 1 for _, m in source.terms
            ):
                break
        return source.kind != "input"

    def _interval(self, number: int, values: dict[int, Any]) -> tuple[tuple[Any, Any], Any]:
        """An affine node's ends by those of its sources, and the norms of bounds on the sums of its terms' absolute values."""
        node = self.graph.nodes[number]
        constant = np.zeros(node.size) if node.constant is None else node.constant
        middle, size, radius = np.broadcast_to(constant, (len(values[0][0]), node.size)), abs(constant), 0.0
        for (source, _), matrix, absolute in zip(node.terms, self.maps[number], self._absolute[number], strict=True):
            a, b = values[source]
            center = a + (b - a) / 2
            middle = middle + matrix.apply(center)
            radius = radius + absolute.apply(np.maximum(b - center, center - a) * (1 + 4 * UNIT))
            size = size + absolute.apply(np.maximum(abs(a), abs(b)))
        size = np.broadcast_to(size * (1 + 1e-6), middle.shape)
        error = radius + 4 * self.gamma * size + TINY
        return (middle - error, middle + error), norm(size)

    def _tighten(self, number: int, at: Regions, known: Bounds, rows: Any) -> None:
        node = self.graph.nodes[number]
        part, source = slice(node.first, node.first + node.size), node.terms[0][0]
        low, high = known.low[:, part], known.high[:, part]
        if rows is None:
            undecided = (low < 0) & (high > 0) & ~known.empty[:, None]
            if node.kind == "gate":
                on, off = sure(self.graph.nodes[node.relu], at.phases, known)
                undecided &= ~on & ~off
            region, place = (np.repeat(a, 2) for a in np.nonzero(undecided))
            sign, which = np.tile([1.0, -1.0], len(place) // 2), np.zeros(0, dtype=np.intp)
        else:
            which = np.flatnonzero((rows[0] >= part.start) & (rows[0] < part.stop))
            place, sign, region = rows[0][which] - part.start, rows[1][which], np.zeros(len(which), dtype=np.intp)
        step = max(1, CACHED // self.widest)
        for first in range(0, len(place), step):
            some = slice(first, first + step)
            mine = slice(region[some][0], region[some][-1] + 1)
            own = Regions(at.low[mine], at.high[mine], at.phases[mine])
            start = np.zeros((len(place[some]), node.size))
            start[np.arange(len(start)), place[some]] = sign[some]
            weights = None if rows is None else rows[2](which[some], known)
            found = self.lower(
                {source: start}, np.zeros(len(start)), region[some] - mine.start, own, known.take(mine), weights
            )
            least = found.least(at.low[region[some]], at.high[region[some]])
            below = sign[some] > 0
            np.maximum.at(low, (region[some][below], place[some][below]), least[below])
            np.minimum.at(high, (region[some][~below], place[some][~below]), -least[~below])

    def lower(
        self, start: dict[int, Any], constant: Any, region: Any, at: Regions, bounds: Bounds, weights: Any = None
    ) -> Linear:
        """Linear functions of the input below rows: see `Backward`."""
        return Backward(self, start, constant, region, at, bounds, weights).run()


def _cut(low: Any, high: Any, phase: Any) -> None:
    np.maximum(low, np.where(phase > 0, 0.0, -np.inf), out=low)
    np.minimum(high, np.where(phase < 0, 0.0, np.inf), out=high)


def _used(graph: Graph) -> list[int]:
    """The nodes that the outputs depend on, and the gates' ReLUs."""
    found, todo = {0}, [*graph.outputs.values(), *graph.asked]
    while todo:
        k = todo.pop()
        if k not in found:
            found.add(k)
            node = graph.nodes[k]
            todo += [source for source, _ in node.terms] + ([node.relu] if node.relu >= 0 else [])
    return sorted(found)


def _twins(nodes: list[Node], number: int) -> list[tuple[Any, Any]]:
    """ReLUs of z and of -z, where z has few terms: their places in the node; one pair of arrays or none."""
    source = nodes[nodes[number].terms[0][0]]
    if source.kind != "affine" or len(source.terms) != 1 or not isinstance(source.terms[0][1], Sparse):
        return []
    index, factor, size = source.terms[0][1].index, source.terms[0][1].factor, source.size
    constant = np.zeros(size) if source.constant is None else source.constant
    values = np.column_stack([np.ones(index.shape) if factor is None else factor, constant]) + 0.0
    keys = [[a.tobytes() + b.tobytes() for a, b in zip(index, sign * values + 0.0, strict=True)] for sign in (1, -1)]
    first = {key: k for k, key in reversed(list(enumerate(keys[0])))}
    pairs = [
        (first[n], k) for k, (own, n) in enumerate(zip(*keys, strict=True)) if first.get(n, size) < first[own] == k
    ]
    return [tuple(np.array(column) for column in zip(*pairs, strict=True))] if pairs else []  # type: ignore[list-item]
