"""A gradient as a second graph behind the network's own, and what is asked of it taken back through that graph.

``g = ∂(c · y)/∂x``: affine maps transposed, and a gate for every ReLU (`add_gradient`). Where bounds of a node's value s are known,
from what is asked of g or from a gate's input, they bound the gates' outputs v before it: for *any* matrix K, from ``s = M v + m``
follows ``v = K (s - m) + (I - K M) v``. Bounds of v that leave 0 out fix a phase, and so do bounds that the gate's input
cannot have (`invert`). All this holds for every solution, not for every point: what is asked is part of each disjunct.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .backward import TINY, norm
from .graph import Graph, Map, through

ROUNDS = 6
"""So often at most are bounds and inversions repeated."""
MOST = 1 << 24
"""Entries of M at most."""
CLEARLY = 1e-9
"""A phase is fixed where bounds miss the other by this share of their size: rounding must not decide it."""


def add_gradient(graph: Graph, output: Any) -> int:
    """Add the gradient of ``output · y`` with respect to the input; the number of its node."""
    y = graph.outputs["y"]
    terms: dict[int, list[tuple[int, Map | None]]] = {number: [] for number in range(y + 1)}
    for number in range(y, -1, -1):
        node, value = graph.nodes[number], -1
        if not terms[number] and number != y:
            continue
        value = graph.affine(terms[number], node.size, output if number == y else 0.0)
        for source, m in node.terms:
            if node.kind == "relu":
                terms[source].append((graph.unit(value, number), None))
            else:
                terms[source].append((value, None if m is None else replace(m, turned=not m.turned)))
    graph.inversion, graph.rounds = invert_all, ROUNDS
    return value


def invert_all(kernel: Any, known: Any) -> None:
    """What bounds of gradients say of phases, from the input's gradient on, region by region; ``known`` is changed."""
    gates = [n for n in reversed(kernel.graph.nodes) if n.kind == "gate"]
    for b in range(len(known.empty)):
        ends = [(k, [end[b] for end in known.values[k]]) for k in kernel.graph.asked]
        for number, (low, high) in ends:
            invert(kernel, known, b, number, low, high)
        for gate in gates:
            invert(kernel, known, b, gate.terms[0][0], known.low[b, gate.part], known.high[b, gate.part])


def invert(kernel: Any, known: Any, b: int, number: int, low: Any, high: Any) -> None:
    """Bounds of gates and phases from those of node ``number``'s value on region b."""
    graph, rows = kernel.graph, np.flatnonzero(np.isfinite(low) & np.isfinite(high))
    size = graph.nodes[number].size
    if known.empty[b] or not len(rows) or size * (graph.units - graph.relus) > MOST:
        return
    if number not in kernel.inverted:
        kernel.inverted[number] = to_gates(kernel, number, np.eye(size), known.norms[b])[0]
    maps = kernel.inverted[number]
    gates = [(k, graph.nodes[k]) for k in maps]
    if not gates or any(n.kind != "gate" for _, n in gates):
        return
    v_low, v_high = (np.concatenate([known.values[k][side][b] for k, _ in gates]) for side in (0, 1))
    matrix = np.concatenate([maps[k] for k, _ in gates], axis=1)[rows]
    chosen = np.flatnonzero((v_high > v_low) & (matrix != 0).any(axis=0))
    if not len(chosen):
        return
    (v, radius), (target, slack) = middle(v_low, v_high), middle(low[rows], high[rows])
    gain = estimator(matrix[:, chosen], slack, radius[chosen], target)
    weights = np.zeros((len(chosen), size))
    weights[:, rows] = gain
    moved, offset, error = to_gates(kernel, number, weights, known.norms[b])
    rest = -np.concatenate([moved[k] for k, _ in gates], axis=1)
    rest[np.arange(len(chosen)), chosen] += 1.0
    magnitude = abs(v) + radius
    error += kernel.gamma * (abs(gain) @ (abs(target) + slack) + abs(rest) @ magnitude + magnitude[chosen])
    ends = gain @ target - offset + rest @ v
    spread = abs(gain) @ slack + abs(rest) @ radius + 4 * error + TINY
    good = np.isfinite(ends) & np.isfinite(spread)
    which, low, high = chosen[good], (ends - spread)[good], (ends + spread)[good]
    unit, relu = (
        np.concatenate([np.arange(n.part.start, n.part.stop) for n in nodes])[which]
        for nodes in ([n for _, n in gates], [graph.nodes[n.relu] for _, n in gates])
    )
    open_, shut = (
        np.concatenate(parts)[which]
        for parts in zip(*([s[b] for s in known.sure(graph.nodes[n.relu])] for _, n in gates), strict=True)
    )
    h_low, h_high, margin = known.low[b, unit], known.high[b, unit], CLEARLY * (abs(low) + abs(high))
    on = open_ | (low > margin) | (high < -margin)
    off = shut | (low > h_high + margin) | (high < h_low - margin)
    known.empty[b] |= bool((on & off).any())
    known.phases[b, relu[on & ~open_]], known.phases[b, relu[off & ~shut]] = 1, -1
    known.low[b, unit[on]], known.high[b, unit[on]] = np.maximum(h_low, low)[on], np.minimum(h_high, high)[on]
    known.empty[b] |= bool((known.low[b, unit] > known.high[b, unit]).any())


def to_gates(kernel: Any, number: int, rows: Any, norms: Any) -> tuple[dict[int, Any], Any, Any]:
    """Rows over a node's value over those of the gates before it: by gate node, constants, and bounds of rounding errors."""
    pending, found, (constant, error) = {number: rows}, dict[int, Any](), np.zeros((2, len(rows)))
    for k in range(number, -1, -1):
        a, node = pending.pop(k, None), kernel.graph.nodes[k]
        if a is None:
            continue
        if node.kind != "affine":
            found[k] = a
            continue
        constant, error = constant + a @ node.constant, error + kernel.gamma * norm(a) * norms[k]
        for source, m in node.terms:
            more = through(m, a, back=True)
            pending[source] = pending[source] + more if source in pending else more
    return found, constant, error


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
