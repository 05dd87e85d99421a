"""Linear functions below rows over a network's values, on many regions at once, with every rounding error counted.

A region is a box and the phases of some ReLUs. For a row ``a`` over a node's value, `lower` finds a linear function
of the input that is below ``a · value`` on the region, going backwards. A ReLU ``v = relu(z)`` with coefficient c hands
``y z`` on and loses ``min over z of (c relu(z) - y z)``: *any* y is sound. Its gates ``u = h if the ReLU is on else 0``, with
coefficients w, hand ``k h`` on; what is lost is taken together, over the phases that the region allows:

    on: min over z in [max(l, 0), u] of (c - y) z + Σ min over h of (w - k) h,    off: min over z in [l, min(u, 0)] of -y z + Σ min of -k h.

Without stored numbers y is α c where c >= 0 (α = 1 if u > -l, else 0), and the slope of the line through the ends times c
where c < 0; k likewise. Phases: "on" is z >= 0 with the gates open, "off" is z <= 0 with the gates shut; at z = 0 a point is
"off" (the gradient of ReLU at 0 is 0), so that bounds make a ReLU "on" only where l > 0. Twins are ReLUs of z and of -z: what their
coefficients have in common with opposite signs is handed on exactly, ``relu(z) - relu(-z) = z``, and a phase of one is known by the
other's (but for gates, where both may be off).

**Rounding.** u = 2^-53, γ_k = k u / (1 - k u) (Higham, *Accuracy and Stability of Numerical Algorithms*, Section 3.1). Each
step turns computed coefficients into computed coefficients, which are taken as they are: what a ReLU hands on may be any number. For
``α c`` with 0 <= α <= 1 nothing is lost; a line above, with its intercept rounded up (`_chord`), loses ``|c|`` times the intercept
at most, which is less than the greatest |relu(z)|. So what is rounded is: the coefficients before an affine node, and the sums of
constants and intercepts; both are at most γ times the absolute values of the affine node's terms, times the values that are met on
the region, ``γ |a| (Σ |M| |w| + |c|)``, once for the coefficients and once for the intercepts of the ReLUs before it. Where numbers
are stored, there are twins, or several rows meet at a node, ``γ |·| |value|`` is added for each of them. ``|a| · size`` is at most
``‖a‖ ‖size‖`` (Euclidean). `Kernel.gamma` counts the terms of the longest sum twice, and the nodes; `TINY` covers underflow, and
sizes above `LARGEST` are refused. In rationals γ = 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .graph import Node, exact

UNIT, TINY, LARGEST = 2.0**-53, 1e-140, 1e120
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
    """Bounds ``(B, units)`` of the inputs of ReLUs and gates; ``norms (B, nodes)``: of bounds on absolute values of each node (of
    an affine node: on the sums of its terms' absolute values). Where ``empty (B,)`` the region has no point. ``phases (B, ReLUs)``
    are the region's, and what follows from what is asked of gradients."""

    low: Any
    high: Any
    norms: Any
    empty: Any
    phases: Any
    values: dict[int, Any] = field(default_factory=dict)

    def take(self, which: Any) -> Bounds:
        """Some of the regions."""
        return Bounds(*(getattr(self, k)[which] for k in ("low", "high", "norms", "empty", "phases")))


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


def dot(a: Any, b: Any) -> Any:
    """Row by row; ``b`` may be one row for all."""
    return (a * b).sum(axis=1) if a.dtype == object else np.einsum("rn,rn->r", a, np.broadcast_to(b, a.shape))


def norm(rows: Any) -> Any:
    """At least the Euclidean norms of rows, but for relative errors far below 1e-6: ``(R,)``."""
    return np.sqrt(np.einsum("rn,rn->r", rows, rows) + TINY * TINY)


def sure(node: Node, phases: Any, known: Bounds) -> tuple[Any, Any]:
    """Where a ReLU node's units are surely on, and surely off, as gates take it."""
    part = slice(node.first, node.first + node.size)
    phase, low, high = phases[:, part], known.low[:, part], known.high[:, part]
    on = (phase > 0) | ((phase == 0) & (low > 0))
    return on, ~on & ((phase < 0) | (high <= 0))


class Backward:
    """R rows on their way back to the input.

    Args:
        kernel: of the graph.
        start: by node the rows' coefficients ``(R, size)``.
        constant: ``(R,)``.
        region: ``(R,)`` the region of each row.
        at, bounds: one region for all rows, or those that ``region`` names; either may be the one.
        weights: None: the default.
    """

    def __init__(
        self, kernel: Any, start: dict[int, Any], constant: Any, region: Any, at: Regions, bounds: Bounds, weights: Any
    ) -> None:
        self.kernel, self.region, self.bounds, self.weights = kernel, region, bounds, weights
        self.nodes, self.rational = kernel.graph.nodes, kernel.rational
        self.pending, self.total, self.slack = dict[int, Any](), constant, np.full(len(constant), kernel.tiny)
        self.phases = self.implied = np.where(at.phases != 0, at.phases, bounds.phases)
        if kernel.twins and kernel.graph.units == kernel.graph.relus:
            first, second = (kernel.both[side] for side in (0, 1))
            self.implied = self.phases.copy()
            for one, other in ((first, second), (second, first)):
                self.implied[:, one] = np.where(self.phases[:, one] == 0, -self.phases[:, other], self.phases[:, one])
        self.together: dict[int, list[Any]] = {}
        for number, rows in start.items():
            self._count(number, rows)
            self.pending[number] = rows

    def run(self) -> Linear:
        """The functions below them."""
        stored = None if self.weights is None else self.weights.free
        last = max([*self.pending, 0]) if stored is None else len(self.nodes) - 1
        for number in range(last, 0, -1):
            node, a = self.nodes[number], self.pending.pop(number, None)
            handed = None if stored is None or node.first < 0 else stored[:, node.first : node.first + node.size]
            if a is None and number not in self.together and (handed is None or (handed != handed).all()):
                continue
            if node.kind == "affine":
                self._affine(number, a)
                continue
            a = np.zeros((len(self.total), node.size), dtype=self.total.dtype) if a is None else a
            if number in self.kernel.twins:
                a = self._without_common(number, a, handed)
            if node.kind == "gate":
                out = self._gates(node, a, handed)
            elif handed is None and number not in self.together:
                self._add(node.terms[0][0], self._by_lines(node, a))
                continue
            else:
                out = self._jointly(number, a, handed)
            self._count(number, a)
            self._count(number, out)
            self._add(node.terms[0][0], out)
        empty = np.zeros((len(self.total), self.nodes[0].size), dtype=self.total.dtype)
        slopes = self.pending.get(0, empty)
        self._count(0, slopes)
        return Linear(slopes, self.total, self.slack if self.rational else self.slack * (1 + 1e-6))

    def _pick(self, values: Any) -> Any:
        return values if len(values) == 1 else values[self.region]

    def _number(self, values: Any) -> Any:
        return exact(values) if self.rational else values

    def _count(self, number: int, rows: Any, times: int = 2) -> None:
        """Rounding errors of γ times a node's coefficients, times its values."""
        if not self.rational:
            norms = self.bounds.norms[:, number]
            self.slack = self.slack + times * self.kernel.gamma * norm(rows) * self._pick(norms)

    def _add(self, number: int, rows: Any) -> None:
        if number in self.pending:
            self._count(number, rows)
            self._count(number, self.pending[number])
            rows = self.pending[number] + rows
        self.pending[number] = rows

    def _affine(self, number: int, a: Any) -> None:
        node, kernel = self.nodes[number], self.kernel
        if node.constant is not None:
            self.total = self.total + a @ kernel.constants[number]
        self._count(number, a, 4)
        for (source, _), matrix in zip(node.terms, kernel.maps[number], strict=True):
            self._add(source, matrix.adjoint(a))

    def _without_common(self, number: int, a: Any, handed: Any) -> Any:
        """Twins' coefficients without what they have in common with opposite signs, which goes on to z; rows with numbers of their own are
        left as they are."""
        (one, other), source = self.kernel.twins[number], self.nodes[number].terms[0][0]
        first, second, on = a[:, one], a[:, other], np.zeros_like(a)
        common = np.maximum(np.minimum(first, -second), 0) + np.minimum(np.maximum(first, -second), 0)
        common = common if handed is None else np.where((handed != handed).all(axis=1)[:, None], common, 0)
        a, on[:, one] = a.copy(), common
        a[:, one], a[:, other] = first - common, second + common
        self._count(source, on)
        self._count(number, on)
        self._add(source, on)
        return a

    def _by_lines(self, node: Node, a: Any) -> Any:
        """What ReLUs hand on by the lines above and below them."""
        part = slice(node.first, node.first + node.size)
        low, high = (self._number(end[:, part]) for end in (self.bounds.low, self.bounds.high))
        above, below, intercept, free = lines(low, high, self.implied[:, part])
        below = self._pick(below)
        if self.weights is not None:
            weight = self._number(self.weights.slopes[:, part])
            below = np.where(self._pick(free), weight, below)
        out = a * np.where(a < 0, self._pick(above), below)
        self.total = self.total + dot(np.minimum(a, 0), self._pick(intercept))
        return out if self.weights is None else out - self._pick(self.phases[:, part]) * weight

    def _gates(self, node: Node, a: Any, handed: Any) -> Any:
        part = slice(node.first, node.first + node.size)
        low, high = (self._number(self._pick(end[:, part])) for end in (self.bounds.low, self.bounds.high))
        on, off = (self._pick(p) for p in sure(self.nodes[node.relu], self.phases, self.bounds))
        below, above = _gate_slopes(low, high)
        out = np.where(on, a, np.where(off, 0, np.where(a >= 0, a * below, a * above)))
        out = out if handed is None else self._given(out, handed, on | off)
        both = self.together.setdefault(node.relu, [0, 0])
        for k, rest in enumerate((a - out, -out)):
            both[k] = both[k] + np.minimum(rest * low, rest * high)
        return out

    def _jointly(self, number: int, a: Any, handed: Any) -> Any:
        """What ReLUs hand on, with gates of the same phases or with stored numbers."""
        node = self.nodes[number]
        part = slice(node.first, node.first + node.size)
        low, high = (self._number(self._pick(end[:, part])) for end in (self.bounds.low, self.bounds.high))
        (slope, _), phase = _chord(low, high), self._pick(self.phases[:, part])
        weight = np.where((phase == 0) & (high > -low * (1 + PREFERENCE)), 1, 0)
        if self.weights is not None:
            weight = self._number(self.weights.slopes[:, part])
        on, off = (self._pick(p) for p in sure(node, self.phases, self.bounds))
        out = np.where(on, a, np.where(off, 0, np.where(a >= 0, a * weight, a * slope)))
        out = np.where(phase == 0, out, out - phase * weight)
        out = out if handed is None else self._given(out, handed, on | off)
        more, rest = self.together.pop(number, [0, 0]), a - out
        open_loss = np.minimum(rest * np.maximum(low, 0), rest * high) + more[0]
        shut_loss = np.minimum(-out * low, -out * np.minimum(high, 0)) + more[1]
        loss = np.where(on, open_loss, np.where(off, shut_loss, np.minimum(open_loss, shut_loss)))
        self.total = self.total + loss.sum(axis=1)
        return out

    def _given(self, out: Any, given: Any, fixed: Any) -> Any:
        """What is handed on: the default, replaced by stored numbers (NaN: none); where a phase is sure, these are added."""
        there = given == given
        stored = self._number(np.where(there, given, 0))
        return np.where(there & ~fixed, 0, out) + stored


def _chord(low: Any, high: Any) -> tuple[Any, Any]:
    """Slope and intercept of a line above ReLU on ``[low, high]``: any slope in [0, 1], the intercept rounded up."""
    free = (low < 0) & (high > 0)
    slope = np.where(free, high / np.where(free, high - low, 1), np.where(low >= 0, 1, 0))
    if slope.dtype == object:
        return slope, np.where(free, -slope * low, 0)
    slope = np.minimum(slope, 1.0)
    intercept = np.where(free, np.maximum(-slope * low, high * (1.0 - slope)), 0.0)
    return slope, intercept * (1 + 8 * UNIT) + np.where(free, 8 * UNIT * high + TINY, 0.0)


def lines(low: Any, high: Any, phase: Any) -> tuple[Any, Any, Any, Any]:
    """Slopes of the lines above and below ReLU on regions, the former's intercept, and where the phase is open."""
    slope, intercept = _chord(low, high)
    on, off = (phase > 0) | ((phase == 0) & (low >= 0)), (phase < 0) | ((phase == 0) & (high <= 0))
    free, fixed = ~(on | off), np.where(on, 1.0, 0.0) if low.dtype != object else np.where(on, 1, 0)
    below = np.where(high > -low * (1 + PREFERENCE), 1, 0)
    return np.where(free, slope, fixed), np.where(free, below, fixed), np.where(free, intercept, 0), free


def _gate_slopes(low: Any, high: Any) -> tuple[Any, Any]:
    """Slopes of the lines through the ends of min(0, h) and of max(0, h) on ``[low, high]``; any are sound."""
    free = (low < 0) & (high > 0)
    width = np.where(free, high - low, 1)
    return np.where(free, -low / width, np.where(high <= 0, 1, 0)), np.where(
        free, high / width, np.where(low >= 0, 1, 0)
    )
