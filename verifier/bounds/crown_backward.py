"""The way back of CROWN: rows over a node's value become linear functions of the input, with a proved bound on rounding.

Every activation on the way is replaced by a line below it where its coefficient is positive, and above it where it is
negative. **Rows.** All work is done on flat lists of rows; row r belongs to box ``box_of[r]``. So each box has just the
rows that it still needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from verifier.bounds.crown_rounding import Rounding
from verifier.bounds.relaxation import LinearRelaxation, PoolRelaxation, ProductRelaxation
from verifier.lazy import sp
from verifier.limits import poll
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator, Array, Dense, Reshape, Select
from verifier.rounding import UNIT_ROUNDOFF

Index = npt.NDArray[np.intp]
Relaxations = dict[str, LinearRelaxation | PoolRelaxation | ProductRelaxation]
"""Relaxations by the name of the activation node."""

SUBNORMAL = 1e-140
"""More than what underflow can cost a row where rounding errors are added up on the way: counts of terms times `LARGEST`."""
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
    """What `BackwardPass.lower` found for R rows.

    Attributes:
        lower: ``(R,)``: a proved lower bound of each row on its box.
        slopes, constants: ``(R, n)``, ``(R,)``: the linear function of the input that gave it (``lower`` has the
            rounding slack subtracted, the linear function has not).
        coefficients: the coefficients of each activation's output in each row, ``(R, size)`` by the activation's
            name (kept on request).
        slack: ``(R,)``: by how much ``slopes @ x + constants`` may be above the row, rounding alone considered.
    """

    lower: Array
    slopes: Array
    constants: Array
    slack: Array
    coefficients: Mapping[str, Array] = field(default_factory=dict)


class BackwardPass:
    """Linear functions of the input below rows over a node's value, for any relaxations of the activations between.

    Args:
        network: any network of the framework's operators.
        rounding: its error analysis on a root box, in which all boxes lie.

    Source:
        CROWN: Zhang et al., NeurIPS 2018, Theorem 3.2; over a graph of operators: Xu et al., NeurIPS 2020; phases as
        multipliers: Wang et al., NeurIPS 2021, Theorem 3.1.
    """

    def __init__(self, network: Network, rounding: Rounding) -> None:
        self.network, self.rounding = network, rounding
        self._matrices: dict[str, sp.csr_array] = {}

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
        running: bool = False,
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
            running: whether rounding errors are bounded with the coefficients on the way (`verifier.bounds.crown_rounding`),
                which takes longer and loses less; not for single entries.
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
            parts.append(self._lower(start, some, box_of[part], relaxations, low, high, alpha, beta, keep, running))
        if len(parts) == 1:
            return parts[0]
        return Rows(
            np.concatenate([p.lower for p in parts]),
            np.concatenate([p.slopes for p in parts]),
            np.concatenate([p.constants for p in parts]),
            np.concatenate([p.slack for p in parts]),
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
        running: bool,
    ) -> Rows:
        network = self.network
        count = len(rows)
        constant = np.zeros(count)
        kept: dict[str, Array] = {}
        pending: dict[str, Array] = {}
        if isinstance(rows, SignedEntries):
            assert not running
            slack = self.rounding.errors[start][rows.entries]
            self._start_entries(network[start], rows, pending, constant)
        else:
            slack = np.full(count, SUBNORMAL) if running else np.abs(rows) @ self.rounding.errors[start]
            pending[start] = rows
        for name, beta in (multipliers or {}).items():
            further = 0.0 if running else self.rounding.errors[name]
            slack = slack + 2 * (np.abs(beta) @ (further + self.rounding.gamma * self.rounding.magnitudes[name]))
            pending[name] = pending[name] + beta if name in pending else beta
        # `pending` holds, for every node reached, the sum of what its readers send to it.
        for node in reversed(network.nodes[1:]):
            a = pending.pop(node.name, None)
            if a is None:
                continue
            poll(f"while linear bounds went back through node {node.name!r}")
            if running:
                slack += np.abs(a) @ self.rounding.local[node.name]
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
        if running:
            slack = (slack + np.abs(a) @ self.rounding.local[network.input]) * (1 + 1e-6)
        middle = low + (high - low) / 2
        radius = np.maximum(high - middle, middle - low) * (1 + 4 * UNIT_ROUNDOFF)
        least = np.einsum("ij,ij->i", a, middle[box_of]) - np.einsum("ij,ij->i", np.abs(a), radius[box_of])
        lower = least + constant - slack
        return Rows(
            np.where(lower < np.inf, lower, -np.inf), a, constant, slack, kept
        )  # NaN and overflow prove nothing

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
