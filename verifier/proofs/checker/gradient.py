"""A gradient as a second graph behind the network's own, and what is asked of it taken back through that graph.

``g = ∂(c · y)/∂x``: affine maps transposed, and a gate for every ReLU (`add_gradient`). Where bounds of a node's value s are known,
from what is asked of g or from a gate's input, they bound the gates' outputs v before it: for *any* matrix K, from ``s = M v + m``
follows ``v = K (s - m) + (I - K M) v``. Bounds of v that leave 0 out fix a phase, and so do bounds that the gate's input
cannot have (`invert`). All this holds for every solution, not for every point: what is asked is part of each disjunct.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .backward import norm, sure
from .graph import Graph, Node, exact, select

ROUNDS = 6
"""So often at most are bounds and inversions repeated."""
MOST = 1 << 24
"""Entries of M at most."""
CLEARLY = 1e-9
"""A phase is fixed where bounds miss the other by this share of their size: rounding must not decide it."""


@dataclass(frozen=True, eq=False)
class Transposed:
    """A map the other way round."""

    of: Any

    @property
    def terms(self) -> int:
        """Of a sum."""
        return int(self.of.terms)

    def apply(self, v: Any) -> Any:
        """Forwards."""
        return self.of.adjoint(v)

    def adjoint(self, a: Any) -> Any:
        """Backwards."""
        return self.of.apply(a)

    def absolute(self) -> Transposed:
        """With absolute values."""
        return Transposed(self.of.absolute())

    def exact(self, number: Any = exact) -> Transposed:
        """In rationals."""
        return Transposed(self.of.exact(number))


def add_gradient(graph: Graph, output: Any) -> int:
    """Add the gradient of ``output · y`` with respect to the input; the number of its node."""
    y = graph.outputs["y"]
    terms: dict[int, list[tuple[int, Any]]] = {number: [] for number in range(y + 1)}
    for number in range(y, -1, -1):
        node, mine = graph.nodes[number], terms[number]
        if not mine and number != y:
            continue
        value = mine[0][0] if len(mine) == 1 and mine[0][1] is None and number else -1
        if value < 0:
            eye = select(np.arange(node.size), node.size)
            constant = output if number == y else None
            value = graph.affine([(k, eye if m is None else m) for k, m in mine], node.size, constant)
        for source, m in node.terms:
            terms[source].append((graph.gate(value, number), None) if m is None else (value, Transposed(m)))
    return value


def to_gates(kernel: Any, number: int, rows: Any, norms: Any) -> tuple[dict[int, Any], Any, Any]:
    """Rows over a node's value over those of the gates before it: by gate node, constants, and bounds of rounding errors."""
    pending, found, constant, error = {number: rows}, dict[int, Any](), np.zeros(len(rows)), np.zeros(len(rows))
    for k in range(number, -1, -1):
        a, node = pending.pop(k, None), kernel.graph.nodes[k]
        if a is None:
            continue
        if node.kind != "affine":
            found[k] = a
            continue
        constant = constant if node.constant is None else constant + a @ node.constant
        error = error + kernel.gamma * norm(a) * norms[k]
        for source, m in node.terms:
            more = m.adjoint(a)
            pending[source] = pending[source] + more if source in pending else more
    return found, constant, error


def invert(kernel: Any, known: Any, values: dict[int, Any], b: int, number: int, low: Any, high: Any) -> None:
    """Bounds of gates and phases from those of node ``number``'s value on region b; ``known`` is changed."""
    graph = kernel.graph
    if number not in kernel.inverted:
        size = graph.nodes[number].size
        reach = size * (graph.units - graph.relus) <= MOST
        zero = np.zeros(len(graph.nodes))
        kernel.inverted[number] = to_gates(kernel, number, np.eye(size), zero)[0] if reach else {}
    maps = kernel.inverted[number]
    gates = [(k, graph.nodes[k]) for k in maps if graph.nodes[k].kind == "gate"]
    rows = np.flatnonzero(np.isfinite(low) & np.isfinite(high))
    if len(gates) != len(maps) or not gates or not len(rows):
        return
    v_low, v_high = (np.concatenate([values[k][side][b] for k, _ in gates]) for side in (0, 1))
    matrix = np.concatenate([maps[k] for k, _ in gates], axis=1)[rows]
    chosen = np.flatnonzero((v_high > v_low) & (matrix != 0).any(axis=0))
    if not len(chosen):
        return
    v, radius = middle(v_low, v_high)
    target, slack = middle(low[rows], high[rows])
    gain = estimator(matrix[:, chosen], slack, radius[chosen], target)
    weights = np.zeros((len(chosen), len(low)))
    weights[:, rows] = gain
    moved, offset, error = to_gates(kernel, number, weights, known.norms[b])
    rest = -np.concatenate([moved[k] for k, _ in gates], axis=1)
    rest[np.arange(len(chosen)), chosen] += 1.0
    magnitude = abs(v) + radius
    error += kernel.gamma * (abs(gain) @ (abs(target) + slack) + abs(rest) @ magnitude + magnitude[chosen])
    ends = gain @ target - offset + rest @ v
    spread = abs(gain) @ slack + abs(rest) @ radius + 4 * error + kernel.tiny
    good = np.isfinite(ends) & np.isfinite(spread)
    unit = np.concatenate([n.first + np.arange(n.size) for _, n in gates])[chosen[good]]
    relu = np.concatenate([graph.nodes[n.relu].first + np.arange(n.size) for _, n in gates])[chosen[good]]
    sure = np.concatenate([_signs(kernel, known, n, b) for _, n in gates])[chosen[good]]
    _settle(known, b, unit, relu, sure, (ends - spread)[good], (ends + spread)[good])


def _signs(kernel: Any, known: Any, gate: Node, b: int) -> Any:
    on, off = sure(kernel.graph.nodes[gate.relu], known.phases[b : b + 1], known.take(slice(b, b + 1)))
    return (on.astype(np.int8) - off)[0]


def _settle(known: Any, b: int, unit: Any, relu: Any, sure: Any, low: Any, high: Any) -> None:
    h_low, h_high, margin = known.low[b, unit], known.high[b, unit], CLEARLY * (abs(low) + abs(high))
    on = (low > margin) | (high < -margin)
    off = (low > h_high + margin) | (high < h_low - margin)
    known.empty[b] |= bool(((on & (off | (sure < 0))) | (off & (sure > 0))).any())
    known.phases[b, relu[(sure == 0) & on]], known.phases[b, relu[(sure == 0) & off]] = 1, -1
    now = on | (sure > 0)
    known.low[b, unit[now]] = np.maximum(h_low, low)[now]
    known.high[b, unit[now]] = np.minimum(h_high, high)[now]
    known.empty[b] |= bool((known.low[b, unit] > known.high[b, unit]).any())


def middle(low: Any, high: Any) -> tuple[Any, Any]:
    """Middle and radius, which reaches both ends."""
    found = low + (high - low) / 2
    return found, np.maximum(high - found, found - low) * (1 + 2.0**-50)


def estimator(matrix: Any, slack: Any, radius: Any, target: Any) -> Any:
    """K: Bayes' estimate of v from ``|matrix @ v - target| <= slack``, ``|v| <= radius``. Nothing is proved here: any K will do."""
    noise, prior = np.maximum(slack, 1e-12 * (1 + abs(target))) ** 2, np.maximum(radius, 1e-300) ** 2
    tall = matrix.shape[1] <= matrix.shape[0]
    right = matrix.T / noise if tall else matrix * prior
    normal = right @ matrix + np.diag(1 / prior) if tall else right @ matrix.T + np.diag(noise)
    scale = 1 / np.sqrt(np.diag(normal))
    try:
        found = np.linalg.solve(normal * scale[:, None] * scale, right * scale[:, None]) * scale[:, None]
    except np.linalg.LinAlgError:
        found = np.zeros_like(right)
    return found if tall else found.T
