"""CROWN: backward linear bound propagation on a whole batch of boxes, with a proved bound on rounding errors.

For a row ``a`` over a node's value v, `BackwardPass.lower` finds a linear function of the input below ``a · v`` on a
box, by replacing every activation by a line below it (where its coefficient is positive) or above it
(where it is negative) on the way back to the input (Zhang et al., NeurIPS 2018, Theorem 3.2; for ReLU the
lower slopes may be given: Xu et al., ICLR 2021, Section 3). Phase constraints ``z >= 0`` or ``z <= 0`` enter as
multipliers β (Wang et al., NeurIPS 2021, Theorem 3.1).

**Rounding.** `verifier.bounds.crown_rounding` has the analysis. Every bound that leaves this module has the error of
its row subtracted (lower) or added.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.bounds.bound import Bound, NetworkBounds
from verifier.bounds.crown_backward import BackwardPass, Relaxations, SignedEntries
from verifier.bounds.crown_rounding import Intervals, Rounding
from verifier.bounds.relaxation import LinearRelaxation, PoolRelaxation, ProductRelaxation
from verifier.bounds.relaxations import relaxation
from verifier.limits import poll
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator, Array, Reshape, Scale
from verifier.properties.sets import Box


@dataclass(frozen=True, eq=False)
class Relaxation:
    """Bounds and linear relaxations for B boxes.

    Attributes:
        intervals: proved bounds of the preactivations, and of the other nodes asked for, ``(B, size)`` each.
        relaxations: the relaxation of every activation that was reached.
        empty: ``(B,)``: the phases (or the bounds given) contradict each other: no point is left in the box.
    """

    intervals: Intervals
    relaxations: Relaxations
    empty: npt.NDArray[np.bool_]


class Crown(BackwardPass):
    """The kernel for one network on sub-boxes of a root box.

    Args:
        network: any network of the framework's operators.
        root: every box that is passed later must lie in it.
        known: bounds of all preactivations and of the output on it, where they were found otherwise: then none are taken
            back from each neuron.

    Source:
        CROWN: Zhang et al., NeurIPS 2018, Theorem 3.2; over a graph of operators: Xu et al., NeurIPS 2020;
        phases as multipliers: Wang et al., NeurIPS 2021, Theorem 3.1.
    """

    def __init__(self, network: Network, root: Box, *, known: Intervals | None = None) -> None:
        super().__init__(network, Rounding(network, root))
        self.root = root
        self.preactivations: tuple[str, ...] = tuple(dict.fromkeys(n.inputs[0] for n in network.activations))
        """The nodes whose bounds the relaxations need, in topological order."""
        self._consumers: dict[str, list[Node]] = {}
        for node in network.activations:
            self._consumers.setdefault(node.inputs[0], []).append(node)
        self._exact_interval = _exact_intervals(network)
        ends = root.lower[None, :], root.upper[None, :]
        self.root_bounds: Intervals = {}
        """Bounds of all preactivations and of the output on the root box (one box)."""
        self.root_bounds = self.relax(*ends, parents=known, nodes=(network.output,), backward=known is None).intervals
        self.rounding.analyse(self.root_bounds)

    # -- bounds ------------------------------------------------------------------------------------------
    def relax(
        self,
        low: Array,
        high: Array,
        *,
        parents: Intervals | None = None,
        phases: Mapping[str, npt.NDArray[np.int8]] | None = None,
        nodes: Iterable[str] = (),
        backward: bool = True,
    ) -> Relaxation:
        """Bounds of all preactivations on B boxes, and the linear relaxations that follow from them.

        Intervals first; then a backward pass for just those neurons whose sign is still open.

        Args:
            low, high: ``(B, n)``.
            parents: bounds that are known to hold (of a larger box, say), ``(B, size)`` by node.
            phases: by preactivation node ``(B, size)``: 1 where ``z >= 0`` is assumed, -1 where ``z <= 0``.
            nodes: further nodes to bound, all entries (the output, say).
            backward: False for intervals only.
        """
        wanted = set(nodes)
        parents = parents or {}
        phases = phases or {}
        pending = set(self.preactivations) | wanted
        values: Intervals = {}
        intervals: Intervals = {}
        relaxations: Relaxations = {}
        empty = np.zeros(len(low), dtype=bool)
        for node in self.network.nodes:
            name = node.name
            poll(f"while node {name!r} was bounded")
            a, b = (low, high) if not node.inputs else self._interval(node, values)
            for known in (
                parents,
                self.root_bounds,
            ):  # within the root's: magnitudes of the rounding analysis are theirs
                if name in known:
                    a, b = np.maximum(a, known[name][0]), np.minimum(b, known[name][1])
            if name in pending:
                pending.discard(name)
                phase = phases.get(name)
                a, b = _clip(a, b, phase, empty)
                if backward and node.inputs and not self._exact_interval[name]:
                    need = np.ones(a.shape, dtype=bool) if name in wanted else self._undecided(name, a, b)
                    need[empty] = False
                    boxes, entries = np.nonzero(need)
                    if len(boxes):
                        a, b = a.copy(), b.copy()
                        found = self.lower(
                            name,
                            SignedEntries(np.concatenate([entries, entries]), np.repeat([1.0, -1.0], len(boxes))),
                            np.concatenate([boxes, boxes]),
                            relaxations,
                            low,
                            high,
                        ).lower
                        half = len(boxes)
                        a[boxes, entries] = np.maximum(a[boxes, entries], found[:half])
                        b[boxes, entries] = np.minimum(b[boxes, entries], -found[half:])
                        a, b = _clip(a, b, phase, empty)
                intervals[name] = (a, b)
                for consumer in self._consumers.get(name, []):
                    relaxations[consumer.name] = self.relaxation(consumer, a, b)
            values[name] = (a, b)
            if not pending:
                break
        return Relaxation(intervals, relaxations, empty)

    def relaxation(self, node: Node, low: Array, high: Array) -> LinearRelaxation | PoolRelaxation | ProductRelaxation:
        """The relaxation of one activation for preactivation bounds ``(B, size)``."""
        return relaxation(node.operator).linear(node.operator, self.network[node.inputs[0]].shape, low, high)

    def relaxations(self, intervals: Intervals) -> Relaxations:
        """The relaxations of all activations for known preactivation bounds."""
        return {n.name: self.relaxation(n, *intervals[n.inputs[0]]) for n in self.network.activations}

    def _undecided(self, name: str, low: Array, high: Array) -> npt.NDArray[np.bool_]:
        """Entries of a preactivation whose piece is not decided by the bounds."""
        need = np.zeros(low.shape, dtype=bool)
        for node in self._consumers[name]:
            need |= relaxation(node.operator).undecided(node.operator, self.network[name].shape, low, high)
        return need

    def _interval(self, node: Node, values: Intervals) -> tuple[Array, Array]:
        """Interval bounds of a node from those of its inputs, rounding included."""
        operator = node.operator
        if isinstance(operator, AffineOperator):
            if isinstance(operator, Reshape):
                return values[node.inputs[0]]
            centers, radii = [], []
            for name in node.inputs:
                low, high = values[name]
                center = low + (high - low) / 2
                centers.append(center.reshape(-1, *self.network[name].shape))
                radii.append(np.maximum(high - center, center - low))
            middle = operator.forward(*centers).reshape(len(radii[0]), -1)
            radius = self.rounding.spread(node, radii) + 4 * self.rounding.gamma * self.rounding.sizes[node.name]
            return middle - radius, middle + radius
        return relaxation(operator).range(operator, self.network[node.inputs[0]].shape, *values[node.inputs[0]])


def _clip(
    low: Array, high: Array, phase: npt.NDArray[np.int8] | None, empty: npt.NDArray[np.bool_]
) -> tuple[Array, Array]:
    """Bounds cut by the phases; boxes whose ends cross are marked, and their ends made equal."""
    if phase is not None:
        low = np.where(phase > 0, np.maximum(low, 0.0), low)
        high = np.where(phase < 0, np.minimum(high, 0.0), high)
    crossed = low > high
    if crossed.any():
        empty |= crossed.any(axis=1)
        low, high = np.where(crossed, high, low), high
    return low, high


def _exact_intervals(network: Network) -> dict[str, bool]:
    """For which nodes plain intervals are exact (rounding aside): affine in inputs that vary independently."""
    independent: dict[Any, Any] = {}
    exact: dict[Any, Any] = {}
    for node in network.nodes:
        free = all(independent[i] for i in node.inputs) and len(node.inputs) <= 1
        exact[node.name] = free
        independent[node.name] = free and (not node.inputs or isinstance(node.operator, (Reshape, Scale)))
    return exact


def crown_bounds(network: Network, box: Box, nodes: Iterable[str] | None = None) -> NetworkBounds:
    """CROWN bounds of the named nodes' values on one box (all nodes, if None), in the nodes' shapes.

    Args:
        box: of inputs, ``(n,)`` each end.

    Raises:
        InputError: the network's numbers are too large for bounds in float64.

    Source:
        CROWN: Zhang et al., NeurIPS 2018, Theorem 3.2.
    """
    names = [n.name for n in network.nodes] if nodes is None else list(nodes)
    kernel = Crown(network, box)
    found = kernel.relax(box.lower[None], box.upper[None], parents=kernel.root_bounds, nodes=names).intervals
    shapes = {name: network[name].shape for name in names}
    bounds = {n: Bound(found[n][0].reshape(shapes[n]), found[n][1].reshape(shapes[n])) for n in names}
    return NetworkBounds(bounds, "crown")
