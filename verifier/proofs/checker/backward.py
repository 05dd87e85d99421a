"""Linear functions below rows over a network's values, on many regions at once, with every rounding error counted.

A region is a box and the phases of some ReLUs. For a row ``a`` over nodes' values, `lower` finds a linear function
of the input that is below ``a · values`` on the region, going backwards. A ReLU ``v = relu(z)`` with coefficient c hands
``y z`` on and loses ``min over z of (c relu(z) - y z)``: *any* y is sound. Its gates ``u = h if the ReLU is on else 0``, with
coefficients w, hand ``k h`` on; what is lost is taken together, over the phases that the region allows:

    on: min over z in [max(l, 0), u] of (c - y) z + Σ min over h of (w - k) h,    off: min over z in [l, min(u, 0)] of -y z + Σ min of -k h.

Which y and k: see `default` and docs/proofs.md; nothing depends on them but how good the function is. Phases: "on" is z >= 0 with the
gates open, "off" is z <= 0 with the gates shut; at z = 0 a point is "off" (the gradient of ReLU at 0 is 0), so that bounds make a
ReLU "on" only where l > 0.

**Rounding.** u = 2^-53, γ_k = k u / (1 - k u) (Higham, *Accuracy and Stability of Numerical Algorithms*, Section 3.1). Each
step turns computed coefficients into computed coefficients, which are taken as they are: what a ReLU hands on may be any number.
So what is rounded is: the coefficients before an affine node, and the sums of constants and losses; both are at most γ times the
absolute values of the affine node's terms, times the values that are met on the region, ``γ |a| (Σ |M| |w| + |c|)``, once for
the coefficients and once for the losses of the ReLUs before it, which by lines are at most ``|c|`` times the greatest |relu(z)|. Where
numbers are stored, at gates, and where several rows meet at a node, ``γ |·| |value|`` is added for each of them. ``|a| · size`` is at most ``‖a‖ ‖size‖`` (Euclidean). `Kernel.gamma` counts the
terms of the longest sum twice, and the nodes; `TINY` covers underflow, and sizes above `LARGEST` are refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .graph import Node, through

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

    def sure(self, node: Node) -> tuple[Any, Any]:
        """Which units of a node are on, and which are off, ``(B, size)`` each: by the phases of its ReLUs, else by their bounds."""
        phase, low, high = (ends[:, node.part] for ends in (self.phases, self.low, self.high))
        on = (phase > 0) | ((phase == 0) & (low > 0))
        return on, ~on & ((phase < 0) | (high <= 0))


@dataclass(eq=False)
class Linear:
    """Functions ``slopes @ x + constants`` below R rows, up to ``slack``: ``(R, n), (R,), (R,)``."""

    slopes: Any
    constants: Any
    slack: Any

    def least(self, low: Any, high: Any) -> Any:
        """Lower bounds ``(R,)`` on boxes ``(R, n)`` or ``(1, n)``."""
        value = (np.maximum(self.slopes, 0) * low + np.minimum(self.slopes, 0) * high).sum(axis=1)
        value = self.constants + value - self.slack
        return np.where(np.isfinite(value), value, -np.inf)


def norm(rows: Any) -> Any:
    """At least the Euclidean norms of rows, but for relative errors far below 1e-6: ``(R,)``."""
    return np.sqrt(np.einsum("rn,rn->r", rows, rows)) + TINY


def lower(kernel: Any, start: dict[int, Any], region: Any, bounds: Bounds, weights: Any = None) -> Linear:
    """Linear functions of the input below R rows.

    Args:
        kernel: of the graph.
        start: by node the rows' coefficients ``(R, size)``.
        region: ``(R,)`` the region of each row.
        bounds: of one region for all rows, or of those that ``region`` names.
        weights: ``(R, units)`` twice: α or β, and y or k; NaN where none is given. None: nowhere.
    """
    nodes, count = kernel.graph.nodes, len(region)
    total, slack = np.zeros(count), np.full(count, TINY)
    pending: dict[int, Any] = {}
    lost: dict[int, Any] = {}

    def counted(number: int, rows: Any, times: int = 2) -> Any:
        """Rows over a node; their rounding errors are counted."""
        slack[:] += times * kernel.gamma * norm(rows) * pick(bounds.norms[:, number])
        return rows

    def add(number: int, rows: Any) -> None:
        if number in pending:
            rows = counted(number, rows) + counted(number, pending[number])
        pending[number] = rows

    def pick(values: Any) -> Any:
        return values if len(values) == 1 else values[region]

    for number, rows in start.items():
        add(number, counted(number, rows))
    for number in range(len(nodes) - 1, 0, -1):
        node, a = nodes[number], pending.pop(number, None)
        if node.kind == "affine":
            if a is not None:
                total += counted(number, a, 4) @ node.constant
                for source, m in node.terms:
                    add(source, through(m, a, back=True))
            continue
        given = None if weights is None else [w[:, node.part] for w in weights]
        if a is None and number not in lost and (given is None or np.isnan(given[1]).all()):
            continue
        a = np.zeros((count, node.size)) if a is None else a
        joint = given is not None or number in lost or node.kind == "gate"
        on, off = bounds.sure(nodes[node.relu])
        low, high = (ends[:, node.part] for ends in (bounds.low, bounds.high))
        above, below, gap = map(pick, default(node, low, high, on, off))
        if not joint:
            total += np.einsum("rn,rn->r", np.minimum(a, 0.0), np.broadcast_to(gap, a.shape))
            add(node.terms[0][0], a * np.where(a < 0, above, below))
            continue
        low, high, on, off = map(pick, (low, high, on, off))
        if given is not None and node.kind == "relu":
            below = np.where(np.isnan(given[0]) | on | off, below, given[0])
        out = a * np.where(a < 0, above, below)
        if given is not None:
            if node.kind == "relu":
                out = out - pick(bounds.phases[:, node.part]) * np.nan_to_num(given[0])
            out = np.where(np.isnan(given[1]), out, np.where(on | off, out, 0.0) + given[1])
        rest, more = counted(number, a) - counted(number, out), lost.pop(number, (0.0, 0.0))
        if node.kind == "gate":
            before = lost.get(node.relu, (0.0, 0.0))
            lost[node.relu] = [b + np.minimum(r * low, r * high) for b, r in zip(before, (rest, -out), strict=True)]
        else:
            opened = np.minimum(rest * np.maximum(low, 0), rest * np.maximum(high, 0)) + more[0]
            shut = np.minimum(-out * np.minimum(low, 0), -out * np.minimum(high, 0)) + more[1]
            total += np.where(on, opened, np.where(off, shut, np.minimum(opened, shut))).sum(axis=1)
        add(node.terms[0][0], out)
    slopes = counted(0, pending.get(0, np.zeros((count, nodes[0].size))))
    return Linear(slopes, total, slack * (1 + 1e-6))


def default(node: Node, low: Any, high: Any, on: Any, off: Any) -> tuple[Any, Any, Any]:
    """What share of negative and of positive coefficients units hand on where nothing else is said (any number is sound), and what of
    negative ones a ReLU loses by that.

    Open ReLUs: by the line through the ends; and all or nothing. Open gates: by the lines through the ends of max(0, h) and min(0, h)."""
    free, width = (low < 0) & (high > 0), np.maximum(high - low, TINY)
    above = np.where(free, np.minimum(high / width, 1.0), low >= 0)
    below = np.where(free, -low / width, high <= 0) if node.kind == "gate" else high > -low * (1 + PREFERENCE)
    gap = np.maximum((1.0 - above) * np.maximum(high, 0.0), -above * np.minimum(low, 0.0))
    above, below = (np.where(on, 1.0, np.where(off, 0.0, slope)) for slope in (above, below))
    return above, below, np.where(on | off, 0.0, gap)
