"""CROWN: backward linear bound propagation on a whole batch of boxes, with a proved bound on rounding errors.

For a row ``a`` over a node's value v, `Crown.lower` finds a linear function of the input below ``a · v`` on a
box, by replacing every activation by a line below it (where its coefficient is positive) or above it
(where it is negative) on the way back to the input (Zhang et al., NeurIPS 2018, Theorem 3.2; for ReLU the
lower slopes may be given: Xu et al., ICLR 2021, Section 3). Phase constraints ``z >= 0`` or ``z <= 0`` enter as
multipliers β (Wang et al., NeurIPS 2021, Theorem 3.1).

**Rows.** All work is done on flat lists of rows; row r belongs to box ``box_of[r]``. So each box has just the
rows that it still needs.

**Rounding.** `verifier.bounds.crown_rounding` has the analysis. Every bound that leaves this module has the error of
its row subtracted (lower) or added.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.bounds.bound import Bound, NetworkBounds
from verifier.bounds.crown_rounding import Intervals, Rounding
from verifier.bounds.relaxation import LinearRelaxation, PoolRelaxation, ProductRelaxation
from verifier.bounds.relaxations import relaxation
from verifier.lazy import sp
from verifier.limits import poll
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator, Array, Dense, Reshape, Scale, Select
from verifier.properties.sets import Box
from verifier.rounding import UNIT_ROUNDOFF

Index = npt.NDArray[np.intp]
Relaxations = dict[str, LinearRelaxation | PoolRelaxation | ProductRelaxation]
"""Relaxations by the name of the activation node."""

CHUNK = 1 << 18
"""Numbers in one working array: rows are processed in chunks of about this many coefficients."""


@dataclass(frozen=True, eq=False)
class SignedEntries:
    """Rows that are plus or minus one entry of a node's value: ``signs[r] * v[entries[r]]``."""

    entries: Index
    signs: Array

    def __len__(self) -> int:
        return len(self.entries)


@dataclass(frozen=True, eq=False)
class Rows:
    """What `Crown.lower` found for R rows.

    Attributes:
        lower: ``(R,)``: a proved lower bound of each row on its box.
        slopes, constants: ``(R, n)``, ``(R,)``: the linear function of the input that gave it (``lower`` has the
            rounding slack subtracted, the linear function has not).
        coefficients: the coefficients of each activation's output in each row, ``(R, size)`` by the activation's
            name (kept on request).
    """

    lower: Array
    slopes: Array
    constants: Array
    coefficients: Mapping[str, Array] = field(default_factory=dict)


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


class Crown:
    """The kernel for one network on sub-boxes of a root box.

    Args:
        network: any network of the framework's operators.
        root: every box that is passed later must lie in it.

    Source:
        CROWN: Zhang et al., NeurIPS 2018, Theorem 3.2; over a graph of operators: Xu et al., NeurIPS 2020;
        phases as multipliers: Wang et al., NeurIPS 2021, Theorem 3.1.
    """

    def __init__(self, network: Network, root: Box) -> None:
        self.network = network
        self.root = root
        self.preactivations: tuple[str, ...] = tuple(dict.fromkeys(n.inputs[0] for n in network.activations))
        """The nodes whose bounds the relaxations need, in topological order."""
        self._consumers: dict[str, list[Node]] = {}
        for node in network.activations:
            self._consumers.setdefault(node.inputs[0], []).append(node)
        self._matrices: dict[str, sp.csr_array] = {}
        self._exact_interval = _exact_intervals(network)
        self.rounding = Rounding(network, root)
        known = self.relax(root.lower[None, :], root.upper[None, :], nodes=(network.output,))
        self.root_bounds: Intervals = known.intervals
        """Bounds of all preactivations and of the output on the root box (one box)."""
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
            if name in parents:
                a, b = np.maximum(a, parents[name][0]), np.minimum(b, parents[name][1])
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

    # -- backward ----------------------------------------------------------------------------------------
    def lower(
        self,
        start: str,
        rows: Array | SignedEntries,
        box_of: Index,
        relaxations: Relaxations,
        low: Array,
        high: Array,
        *,
        slopes: Mapping[str, Array] | None = None,
        multipliers: Mapping[str, Array] | None = None,
        keep: bool = False,
    ) -> Rows:
        """Proved lower bounds of rows over a node's value, each on its own box.

        Args:
            start: the node that the rows speak of.
            rows: ``(R, size)`` coefficients, or `SignedEntries`.
            box_of: ``(R,)`` the box of each row.
            relaxations: for the B boxes, of all activations before ``start``.
            low, high: ``(B, n)``.
            slopes: by ReLU node ``(R, size)`` lower slopes in [0, 1], used where the neuron is unstable.
            multipliers: by node ``(R, size)``, added to the coefficients of that node's value: β for phase
                constraints (``-β`` for ``z >= 0``, ``+β`` for ``z <= 0``; β >= 0), and what multiplies the input
                in side constraints. The constants that belong to them are the caller's.
            keep: whether to return the activations' coefficients.
        """
        size = max(n.size for n in self.network.nodes)
        step = max(16, CHUNK // size)
        parts = []
        for first in range(0, len(rows), step):
            part = slice(first, first + step)
            some = (
                SignedEntries(rows.entries[part], rows.signs[part]) if isinstance(rows, SignedEntries) else rows[part]
            )
            alpha = None if slopes is None else {k: v[part] for k, v in slopes.items()}
            beta = None if multipliers is None else {k: v[part] for k, v in multipliers.items()}
            parts.append(self._lower(start, some, box_of[part], relaxations, low, high, alpha, beta, keep))
        if len(parts) == 1:
            return parts[0]
        return Rows(
            np.concatenate([p.lower for p in parts]),
            np.concatenate([p.slopes for p in parts]),
            np.concatenate([p.constants for p in parts]),
            {k: np.concatenate([p.coefficients[k] for p in parts]) for k in parts[0].coefficients},
        )

    def _lower(
        self,
        start: str,
        rows: Array | SignedEntries,
        box_of: Index,
        relaxations: Relaxations,
        low: Array,
        high: Array,
        slopes: Mapping[str, Array] | None,
        multipliers: Mapping[str, Array] | None,
        keep: bool,
    ) -> Rows:
        network = self.network
        count = len(rows)
        constant = np.zeros(count)
        kept: dict[str, Array] = {}
        pending: dict[str, Array] = {}
        if isinstance(rows, SignedEntries):
            slack = self.rounding.errors[start][rows.entries]
            self._start_entries(network[start], rows, pending, constant)
        else:
            slack = np.abs(rows) @ self.rounding.errors[start]
            pending[start] = rows
        for name, beta in (multipliers or {}).items():
            slack = slack + 2 * (
                np.abs(beta) @ (self.rounding.errors[name] + self.rounding.gamma * self.rounding.magnitudes[name])
            )
            pending[name] = pending[name] + beta if name in pending else beta
        # `pending` holds, for every node reached, the sum of what its readers send to it.
        for node in reversed(network.nodes[1:]):
            a = pending.pop(node.name, None)
            if a is None:
                continue
            poll(f"while linear bounds went back through node {node.name!r}")
            operator = node.operator
            if isinstance(operator, AffineOperator):
                if node.name in self.rounding.constants:
                    constant += a @ self.rounding.constants[node.name]
                found = self._transpose(node, a)
            else:
                if keep:
                    kept[node.name] = a
                relaxation = relaxations[node.name]
                if isinstance(relaxation, PoolRelaxation):
                    found = (self._through_pool(node, relaxation, a, box_of, constant),)
                elif isinstance(relaxation, ProductRelaxation):
                    found = (_through_product(relaxation, a, box_of, constant),)
                else:
                    alpha = None if slopes is None else slopes.get(node.name)
                    found = (_through_relaxation(relaxation, a, box_of, constant, alpha),)
            for name, part in zip(node.inputs, found, strict=True):
                pending[name] = pending[name] + part if name in pending else part
        a = pending.get(network.input, np.zeros((count, network.input_size)))
        middle = low + (high - low) / 2
        radius = np.maximum(high - middle, middle - low) * (1 + 4 * UNIT_ROUNDOFF)
        least = np.einsum("ij,ij->i", a, middle[box_of]) - np.einsum("ij,ij->i", np.abs(a), radius[box_of])
        lower = least + constant - slack
        return Rows(np.where(lower < np.inf, lower, -np.inf), a, constant, kept)  # NaN and overflow prove nothing

    def _start_entries(self, node: Node, signed: SignedEntries, pending: dict[str, Array], constant: Array) -> None:
        """Unit rows, taken through the node's own affine operator without a matrix product."""
        if isinstance(node.operator, AffineOperator) and len(node.inputs) == 1:
            dense = isinstance(node.operator, Dense) and len(node.shape) == 1 and node.operator.sparse_weight is None
            if dense:
                assert isinstance(node.operator, Dense)
                picked = node.operator.weight[signed.entries]
            else:
                picked = self.matrix(node)[signed.entries].toarray()
            pending[node.inputs[0]] = picked * signed.signs[:, None]
            if node.name in self.rounding.constants:
                constant += self.rounding.constants[node.name][signed.entries] * signed.signs
            return
        rows = np.zeros((len(signed), node.size))
        rows[np.arange(len(signed)), signed.entries] = signed.signs
        pending[node.name] = rows

    def matrix(self, node: Node) -> sp.csr_array:
        """The matrix of an affine node with one input (kept)."""
        if node.name not in self._matrices:
            assert isinstance(node.operator, AffineOperator)
            (self._matrices[node.name],) = node.operator.matrices(*(self.network[i].shape for i in node.inputs))
        return self._matrices[node.name]

    def _transpose(self, node: Node, a: Array) -> tuple[Array, ...]:
        operator = node.operator
        assert isinstance(operator, AffineOperator)
        if isinstance(operator, Reshape):
            return (a,)
        if isinstance(operator, Select):
            return (np.ascontiguousarray((self.matrix(node).T @ a.T).T),)
        shapes = [self.network[i].shape for i in node.inputs]
        found = operator.transpose(a.reshape(len(a), *node.shape), *shapes)
        return tuple(part.reshape(len(a), -1) for part in found)

    def _through_pool(self, node: Node, relaxation: PoolRelaxation, a: Array, box_of: Index, constant: Array) -> Array:
        size = self.network[node.inputs[0]].size
        passes = relaxation.decided[box_of] | (a > 0)
        constant += np.einsum("ij,ij->i", np.where(passes, 0.0, a), relaxation.upper[box_of])
        flat = relaxation.chosen[box_of] + np.arange(len(a))[:, None] * size
        total = np.bincount(flat[passes], weights=a[passes], minlength=len(a) * size)
        return total.astype(np.float64).reshape(len(a), size)  # without any entry bincount counts in integers


def _through_relaxation(
    relaxation: LinearRelaxation, a: Array, box_of: Index, constant: Array, alpha: Array | None
) -> Array:
    """Coefficients of the preactivations; the intercepts go to ``constant`` in place."""
    negative = np.minimum(a, 0.0)
    constant += np.einsum("ij,ij->i", negative, relaxation.upper_intercept[box_of])
    below = relaxation.lower_slope[box_of]
    if alpha is not None:
        below = np.where(relaxation.unstable[box_of], alpha, below)
    if relaxation.lower_intercept is not None:
        constant += np.einsum("ij,ij->i", a - negative, relaxation.lower_intercept[box_of])
    return np.where(a < 0, relaxation.upper_slope[box_of], below) * a


def _through_product(relaxation: ProductRelaxation, a: Array, box_of: Index, constant: Array) -> Array:
    """Coefficients of both factors; the intercepts and errors go to ``constant`` in place."""
    constant += np.einsum("ij,ij->i", a, relaxation.intercept[box_of]) - np.einsum(
        "ij,ij->i", np.abs(a), relaxation.error[box_of]
    )
    return np.concatenate([a * relaxation.x_slope[box_of], a * relaxation.y_slope[box_of]], axis=1)


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
