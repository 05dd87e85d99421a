"""Linear functions below rows over a network's values, on many regions at once, with every rounding error counted.

A region is a box and the phases of some ReLUs. For a row ``a`` over a node's value, `Kernel.lower` finds a linear function
of the input that is below ``a · value`` on the region, going backwards. A ReLU ``v = relu(z)`` with coefficient c hands
``y z`` on and loses ``min over z of (c relu(z) - y z)``: *any* y is sound. Its gates ``u = h if the ReLU is on else 0``, with
coefficients w, hand ``k h`` on; what is lost is taken together, over the phases that the region allows:

    on: min over z in [max(l, 0), u] of (c - y) z + Σ min over h of (w - k) h,    off: min over z in [l, min(u, 0)] of -y z + Σ min of -k h.

Without stored numbers y is α c where c >= 0 (α = 1 if u > -l, else 0), and the slope of the line through the ends times c
where c < 0; k likewise. Phases: "on" is z >= 0 with the gates open, "off" is z <= 0 with the gates shut; at z = 0 a point is
"off" (the gradient of ReLU at 0 is 0), so that bounds make a ReLU "on" only where l > 0.

**Rounding.** u = 2^-53, γ_k = k u / (1 - k u) (Higham, *Accuracy and Stability of Numerical Algorithms*, Section 3.1). Each
step turns computed coefficients into computed coefficients. Its own error is at most γ times the absolute values of its
terms, times values that are met on the region: at an affine node ``γ |a| (Σ |M| |w| + |c|)``, at a ReLU or gate
``γ (|c| + |y|) |z|``, at the input ``γ |a| |x|``. `Kernel.gamma` counts the terms of the longest sum twice, and the nodes;
`TINY` covers underflow, and sizes above `LARGEST` are refused. With ``exact`` all is done in `Fraction`, and γ = 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .gradient import ROUNDS, invert
from .graph import CheckError, Graph, exact

UNIT, TINY, LARGEST = 2.0**-53, 1e-140, 1e120
CHUNK = 1 << 22
"""Numbers in one working array at most."""
CACHED = 1 << 17
"""And in one of those that are gone through many times."""
PREFERENCE = 1e-9
"""An open ReLU's default lower slope is 1 if u exceeds -l by this share (rounding must not decide it), else 0."""


@dataclass(eq=False)
class Regions:
    """B regions: ``low, high (B, n)`` and ``phases (B, ReLUs)``, 1 (on), -1 (off) or 0."""

    low: Any
    high: Any
    phases: Any


@dataclass(eq=False)
class Bounds:
    """Bounds ``(B, units)`` of the inputs of ReLUs and gates; ``sizes``: by node ``(B, size)``, bounds on absolute values (of
    an affine node: on the sum of its terms' absolute values). Where ``empty (B,)`` the region has no point. ``phases (B, ReLUs)``
    are the region's, and what follows from what is asked of gradients."""

    low: Any
    high: Any
    sizes: dict[int, Any]
    empty: Any
    phases: Any
    values: dict[int, Any] = field(default_factory=dict)

    def take(self, which: Any) -> Bounds:
        """Some of the regions."""
        sizes = {k: v[which] for k, v in self.sizes.items()}
        return Bounds(self.low[which], self.high[which], sizes, self.empty[which], self.phases[which])


@dataclass(eq=False)
class Weights:
    """What rows hand on, ``(R, units)``: ``slopes``, α where free and β where fixed; and ``free``, y and k themselves, NaN
    where there are none (None: nowhere)."""

    slopes: Any
    free: Any = None


@dataclass(eq=False)
class Linear:
    """Functions ``slopes @ x + constants`` below R rows, up to ``slack``: ``(R, n), (R,), (R,)``."""

    slopes: Any
    constants: Any
    slack: Any

    def least(self, low: Any, high: Any) -> Any:
        """Lower bounds ``(R,)`` on boxes ``(R, n)`` or ``(1, n)``."""
        value = self.constants + (np.maximum(self.slopes, 0) * low + np.minimum(self.slopes, 0) * high).sum(axis=1)
        value = value - self.slack
        return value if value.dtype == object else np.where(np.isfinite(value), value, -np.inf)


def unknown(graph: Graph) -> Bounds:
    """What is known of a region before anything is."""
    low, high = np.full((1, graph.units), -np.inf), np.full((1, graph.units), np.inf)
    return Bounds(low, high, {}, np.zeros(1, dtype=bool), np.zeros((1, graph.relus), dtype=np.int8))


class Kernel:
    """The functions of one graph."""

    def __init__(self, graph: Graph, rational: bool = False) -> None:
        self.graph, self.rational = graph, rational
        nodes = graph.nodes
        longest = max([n.size for n in nodes] + [m.terms for n in nodes for _, m in n.terms if m is not None])
        k = 2 * longest + 8 * len(nodes) + 64
        self.gamma: Any = 0 if rational else k * UNIT / (1 - k * UNIT) * (1 + 1e-6)
        self.tiny: Any = 0 if rational else TINY
        affine = [n.terms if n.kind == "affine" else () for n in nodes]
        self._maps = [[m.exact() if rational else m for _, m in terms] for terms in affine]
        self._absolute = [[m.absolute() for _, m in terms] for terms in affine]
        self._constants = [None if n.constant is None else exact(n.constant) if rational else n.constant for n in nodes]
        self.widest = max(n.size for n in nodes)
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
        at = Regions(at.low, at.high, _merged(at.phases, base.phases))
        low, high = (np.broadcast_to(end, (count, units)).copy() for end in (base.low, base.high))
        known = Bounds(low, high, {}, np.broadcast_to(base.empty, count).copy(), at.phases.copy())
        known.empty |= (at.low > at.high).any(axis=1)
        values: dict[int, Any] = {0: (at.low, np.maximum(at.low, at.high))}
        known.sizes[0] = np.maximum(abs(at.low), abs(at.high))
        for number, node in enumerate(self.graph.nodes[1:], start=1):
            if node.kind == "affine":
                values[number] = self._interval(number, values, known.sizes)
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
                known.sizes[number] = np.maximum(abs(low), abs(high))
                if node.kind == "relu":
                    values[number] = np.maximum(low, 0.0), np.maximum(high, 0.0)
                else:
                    on, off = self.sure(node.relu, at.phases, known)
                    values[number] = (
                        np.where(on, low, np.where(off, 0.0, np.minimum(low, 0.0))),
                        np.where(on, high, np.where(off, 0.0, np.maximum(high, 0.0))),
                    )
            if not (known.sizes[number] < LARGEST).all():
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

    def sure(self, relu: int, phases: Any, known: Bounds) -> tuple[Any, Any]:
        """Where a ReLU node's units are surely on, and surely off, as gates take it."""
        node = self.graph.nodes[relu]
        part = slice(node.first, node.first + node.size)
        phase, low, high = phases[:, part], known.low[:, part], known.high[:, part]
        on = (phase > 0) | ((phase == 0) & (low > 0))
        return on, ~on & ((phase < 0) | (high <= 0))

    def _tightens(self, number: int) -> bool:
        source = self.graph.nodes[self.graph.nodes[number].terms[0][0]]
        return source.kind != "input" and [s for s, _ in source.terms] != [0]

    def _interval(self, number: int, values: dict[int, Any], sizes: dict[int, Any]) -> tuple[Any, Any]:
        node = self.graph.nodes[number]
        constant = np.zeros(node.size) if node.constant is None else node.constant
        middle, size, radius = np.broadcast_to(constant, (len(values[0][0]), node.size)), abs(constant), 0.0
        for (source, _), matrix, absolute in zip(node.terms, self._maps[number], self._absolute[number], strict=True):
            a, b = values[source]
            center = a + (b - a) / 2
            middle = middle + matrix.apply(center)
            radius = radius + absolute.apply(np.maximum(b - center, center - a) * (1 + 4 * UNIT))
            size = size + absolute.apply(np.maximum(abs(a), abs(b)))
        count = len(values[0][0])
        sizes[number] = np.broadcast_to(size * (1 + 1e-6), (count, node.size))
        error = radius + 4 * self.gamma * sizes[number] + TINY
        return middle - error, middle + error

    def _tighten(self, number: int, at: Regions, known: Bounds, rows: Any) -> None:
        node = self.graph.nodes[number]
        part, source = slice(node.first, node.first + node.size), node.terms[0][0]
        low, high = known.low[:, part], known.high[:, part]
        if rows is None:
            undecided = (low < 0) & (high > 0) & ~known.empty[:, None]
            if node.kind == "gate":
                on, off = self.sure(node.relu, at.phases, known)
                undecided &= ~on & ~off
            region, place = (np.repeat(a, 2) for a in np.nonzero(undecided))
            sign, which = np.tile([1.0, -1.0], len(place) // 2), np.zeros(0, dtype=np.intp)
        else:
            which = np.flatnonzero((rows[0] >= part.start) & (rows[0] < part.stop))
            place, sign, region = rows[0][which] - part.start, rows[1][which], np.zeros(len(which), dtype=np.intp)
        step = max(1, CACHED // self.widest)
        for first in range(0, len(place), step):
            some = slice(first, first + step)
            start = np.zeros((len(place[some]), node.size))
            start[np.arange(len(start)), place[some]] = sign[some]
            weights = None if rows is None else rows[2](which[some], known)
            found = self.lower({source: start}, np.zeros(len(start)), region[some], at, known, weights)
            least = found.least(at.low[region[some]], at.high[region[some]])
            below = sign[some] > 0
            np.maximum.at(low, (region[some][below], place[some][below]), least[below])
            np.minimum.at(high, (region[some][~below], place[some][~below]), -least[~below])

    # -- rows --------------------------------------------------------------------------------------------
    def lower(
        self, start: dict[int, Any], constant: Any, region: Any, at: Regions, bounds: Bounds, weights: Any = None
    ) -> Linear:
        """Linear functions of the input below R rows.

        Args:
            start: by node the rows' coefficients ``(R, size)``.
            constant: ``(R,)``.
            region: ``(R,)`` the region of each row.
            at, bounds: one region for all rows, or those that ``region`` names; either may be the one.
            weights: `Weights`; None: the default.
        """
        pending, total, slack = dict(start), constant, np.full(len(constant), self.tiny)
        at = Regions(at.low, at.high, _merged(at.phases, bounds.phases))
        together: dict[int, list[Any]] = {}

        def pick(v: Any) -> Any:
            return v if len(v) == 1 else v[region]

        def size(number: int, rows: Any) -> Any:
            return np.einsum("rn,rn->r", rows, np.broadcast_to(pick(bounds.sizes[number]), rows.shape))

        stored = None if weights is None else weights.free
        last = max([*pending, 0]) if stored is None else len(self.graph.nodes) - 1
        for number in range(last, 0, -1):
            node, a = self.graph.nodes[number], pending.pop(number, None)
            handed = None if stored is None or node.first < 0 else stored[:, node.first : node.first + node.size]
            if a is None and number not in together and (handed is None or (handed != handed).all()):
                continue
            if node.kind == "affine":
                if node.constant is not None:
                    total = total + a @ self._constants[number]
                if not self.rational:
                    slack = slack + self.gamma * size(number, abs(a))
                for (source, _), matrix in zip(node.terms, self._maps[number], strict=True):
                    _add(pending, source, matrix.adjoint(a))
                continue
            part, source = slice(node.first, node.first + node.size), node.terms[0][0]
            a = np.zeros((len(constant), node.size), dtype=constant.dtype) if a is None else a

            if node.kind == "gate":
                low, high = (self._number(pick(end[:, part])) for end in (bounds.low, bounds.high))
                on, off = (pick(p) for p in self.sure(node.relu, at.phases, bounds))
                below, above = _gate_slopes(low, high)
                out = np.where(on, a, np.where(off, 0, np.where(a >= 0, a * below, a * above)))
                out = out if handed is None else self._given(out, handed, on | off)
                both = together.setdefault(node.relu, [0, 0])
                for k, rest in enumerate((a - out, -out)):
                    both[k] = both[k] + np.minimum(rest * low, rest * high)
            else:
                weight: Any = None if weights is None else self._number(weights.slopes[:, part])
                phase = at.phases[:, part]
                if handed is None and number not in together:
                    ends = (self._number(end[:, part]) for end in (bounds.low, bounds.high))
                    above, below, intercept, free = (pick(v) for v in _lines(next(ends), next(ends), phase))
                    negative = np.minimum(a, 0)
                    total = total + (intercept * negative).sum(axis=1)
                    below = below if weight is None else np.where(free, weight, below)
                    out = negative * above + (a - negative) * below
                    out = out if weight is None else out - pick(phase) * weight
                else:
                    low, high = (self._number(pick(end[:, part])) for end in (bounds.low, bounds.high))
                    (slope, _), phase = _chord(low, high), pick(phase)
                    if weight is None:
                        weight = np.where((phase == 0) & (high > -low * (1 + PREFERENCE)), 1, 0)
                    on, off = (pick(p) for p in self.sure(number, at.phases, bounds))
                    out = np.where(on, a, np.where(off, 0, np.where(a >= 0, a * weight, a * slope)))
                    out = np.where(phase == 0, out, out - phase * weight)
                    out = out if handed is None else self._given(out, handed, on | off)
                    more, rest = together.pop(number, [0, 0]), a - out
                    open_loss = np.minimum(rest * np.maximum(low, 0), rest * high) + more[0]
                    shut_loss = np.minimum(-out * low, -out * np.minimum(high, 0)) + more[1]
                    loss = np.where(on, open_loss, np.where(off, shut_loss, np.minimum(open_loss, shut_loss)))
                    total = total + loss.sum(axis=1)
            if not self.rational:
                slack = slack + self.gamma * size(number, 2 * abs(a) + 2 * abs(out))
            _add(pending, source, out)
        slopes = pending.get(0, np.zeros((len(constant), self.graph.nodes[0].size), dtype=constant.dtype))
        if not self.rational:
            slack = (slack + self.gamma * size(0, abs(slopes))) * (1 + 1e-6)
        return Linear(slopes, total, slack)

    def _number(self, a: Any) -> Any:
        return exact(a) if self.rational else a

    def _given(self, out: Any, given: Any, fixed: Any) -> Any:
        """What is handed on: the default, replaced by stored numbers (NaN: none); where a phase is sure, these are added."""
        there = given == given
        stored = self._number(np.where(there, given, 0))
        return np.where(there & ~fixed, 0, out) + stored


def _merged(phases: Any, more: Any) -> Any:
    """Phases that a region has, or else those that are known of it."""
    return np.where(phases != 0, phases, more)


def _add(pending: dict[int, Any], number: int, rows: Any) -> None:
    pending[number] = pending[number] + rows if number in pending else rows


def _cut(low: Any, high: Any, phase: Any) -> None:
    np.maximum(low, np.where(phase > 0, 0.0, -np.inf), out=low)
    np.minimum(high, np.where(phase < 0, 0.0, np.inf), out=high)


def _chord(low: Any, high: Any) -> tuple[Any, Any]:
    """Slope and intercept of a line above ReLU on ``[low, high]``: any slope in [0, 1], the intercept rounded up."""
    free = (low < 0) & (high > 0)
    slope = np.where(free, high / np.where(free, high - low, 1), np.where(low >= 0, 1, 0))
    if slope.dtype == object:
        return slope, np.where(free, -slope * low, 0)
    slope = np.minimum(slope, 1.0)
    intercept = np.where(free, np.maximum(-slope * low, high * (1.0 - slope)), 0.0)
    return slope, intercept * (1 + 8 * UNIT) + np.where(free, 8 * UNIT * high + TINY, 0.0)


def _lines(low: Any, high: Any, phase: Any) -> tuple[Any, Any, Any, Any]:
    """Slopes of the lines above and below ReLU on regions, the former's intercept, and where the phase is open."""
    slope, intercept = _chord(low, high)
    on, off = (phase > 0) | ((phase == 0) & (low >= 0)), (phase < 0) | ((phase == 0) & (high <= 0))
    free, sure = ~(on | off), np.where(on, 1.0, 0.0) if low.dtype != object else np.where(on, 1, 0)
    below = np.where(high > -low * (1 + PREFERENCE), 1, 0)
    return np.where(free, slope, sure), np.where(free, below, sure), np.where(free, intercept, 0), free


def _gate_slopes(low: Any, high: Any) -> tuple[Any, Any]:
    """Slopes of the lines through the ends of min(0, h) and of max(0, h) on ``[low, high]``; any are sound."""
    free = (low < 0) & (high > 0)
    width = np.where(free, high - low, 1)
    return np.where(free, -low / width, np.where(high <= 0, 1, 0)), np.where(
        free, high / width, np.where(low >= 0, 1, 0)
    )
