"""Bounds of a network of affine operators and ReLUs, in plain numpy: what proofs are checked with.

Nothing of the searches, nor of their bounds, is used here. For a row ``a`` over a node's value, `ReluGraph.lower` finds
a linear function of the input that is below ``a · v`` on a region (a box, and phases of some ReLUs), going
backwards: at a ReLU ``v = relu(z)``

* whose phase is fixed, v is z (or 0), and ``z >= 0`` (or ``z <= 0``) may be subtracted with a multiplier β >= 0;
* that is open on ``[l, h]``, a positive coefficient takes the line ``α z`` below, α in [0, 1], and a negative one the
  chord above (Zhang et al., NeurIPS 2018; Wang et al., NeurIPS 2021, Theorem 3.1).

**Rounding.** u = 2^-53, γ_k = k u / (1 - k u) (Higham, *Accuracy and Stability of Numerical Algorithms*, Section 3.1). Each
step turns computed coefficients into computed coefficients; its own rounding error is at most γ times the absolute values
of its terms, and these multiply values that are met on the region. So `Linear.slack` adds, at an affine node
``v = Σ M w + c``, ``γ |a| (Σ |M| |w| + |c|)`` with bounds on |w|, at a ReLU ``γ (|a| + β) |z|``, and at the input
``γ |a| |x|``. k counts the terms of the longest sum twice, and the nodes; `TINY` covers underflow, and sizes above
`LARGEST` are refused, so nothing overflows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.errors import InputError
from verifier.lazy import sp
from verifier.network.graph import Network
from verifier.network.operators import AffineOperator, Array, Reshape
from verifier.network.piecewise import PiecewiseLinear

UNIT = 2.0**-53
TINY = 1e-140
LARGEST = 1e120
CHUNK = 1 << 22
"""Numbers in one working array at most."""
PREFERENCE = 1e-9
"""An open ReLU's default lower slope is 1 if h exceeds -l by this share (rounding must not decide it), else 0."""

Phases = npt.NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class Bounds:
    """What is known of a network on a region.

    Attributes:
        low, high: ``(neurons,)``: bounds of the ReLUs' inputs.
        sizes: by node, ``(size,)``: bounds on the terms' absolute values (of a ReLU: on its input's).
        contradiction: a ReLU whose bounds contradict each other, so that the region has no point; -1 if there is none.
    """

    low: Array
    high: Array
    sizes: dict[str, Array]
    contradiction: int = -1


@dataclass(frozen=True, eq=False)
class WeightedRows:
    """Bounds of single ReLUs' inputs with weights of their own.

    Attributes:
        neuron, sign: ``(R,)`` ascending by the ReLU's node: 1 for the lower bound of the neuron's input, -1 for the upper.
        neurons: ``(U,)`` ascending: the ReLUs that the weights are for.
        weights: by row, for the first of ``neurons``: those of the nodes before the row's own.
    """

    neuron: npt.NDArray[np.int64]
    sign: npt.NDArray[np.int8]
    neurons: npt.NDArray[np.int64]
    weights: list[Array]


@dataclass(frozen=True, eq=False)
class Linear:
    """Functions ``slopes @ x + constants`` below R rows on a region, up to ``slack``: ``(R, n), (R,), (R,)``."""

    slopes: Array
    constants: Array
    slack: Array

    def least(self, low: Array, high: Array) -> Array:
        """Proved lower bounds ``(R,)`` on boxes ``(n,)`` or ``(R, n)`` within the region."""
        value = self.constants + (np.maximum(self.slopes, 0.0) * low + np.minimum(self.slopes, 0.0) * high).sum(axis=1)
        value -= self.slack
        return np.where(np.isfinite(value), value, -np.inf)


class ReluGraph:
    """A network of affine operators and ReLUs as matrices.

    Args:
        network: see `verifier.proofs.relu_network.relu_network`.

    Attributes:
        relus: the ReLU nodes in the network's order; ``first`` the number of the first neuron of each, and the end.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.relus: list[str] = []
        self.first = [0]
        self._source: dict[str, str] = {}
        """Where a node's value comes from: a reshaped value is the value itself."""
        self._inputs: dict[str, list[tuple[str, Any, Any]]] = {}
        """By affine node: each input, its matrix and the matrix's absolute values."""
        self._constants: dict[str, Array] = {}
        longest = network.input_size
        for node in network.nodes:
            name, operator = node.name, node.operator
            sources = [self._source[i] for i in node.inputs]
            self._source[name] = name
            longest = max(longest, node.size)
            if isinstance(operator, PiecewiseLinear):
                if not operator.is_relu:
                    raise InputError(f"node {name!r} is no ReLU", fix="reduce the network first")
                self.relus.append(name)
                self.first.append(self.first[-1] + node.size)
            elif isinstance(operator, Reshape):
                self._source[name] = sources[0]
            elif isinstance(operator, AffineOperator):
                matrices = operator.matrices(*(network[i].shape for i in node.inputs))
                self._inputs[name] = [(s, *_forms(m)) for s, m in zip(sources, matrices, strict=True)]
                constant = operator.constant()
                full = np.zeros(node.shape) if constant is None else np.broadcast_to(constant, node.shape)
                self._constants[name] = np.ascontiguousarray(full, dtype=np.float64).reshape(-1)
        self.output = self._source[network.output]
        self.preactivation = [self._source[network[name].inputs[0]] for name in self.relus]
        k = 2 * longest + 4 * len(network.nodes) + 64
        self.gamma = k * UNIT / (1 - k * UNIT) * (1 + 1e-6)
        self._nodes = [n.name for n in network.nodes if self._source[n.name] == n.name]
        self._number = {name: k for k, name in enumerate(self.relus)}

    @property
    def neurons(self) -> int:
        """Number of ReLUs."""
        return self.first[-1]

    def part(self, relu: int) -> slice:
        """The neurons of a ReLU node, by the node's place in `relus`."""
        return slice(self.first[relu], self.first[relu + 1])

    # -- bounds ------------------------------------------------------------------------------------------
    def bounds(
        self, low: Array, high: Array, phases: Phases, base: Bounds | None = None, rows: WeightedRows | None = None
    ) -> Bounds:
        """Bounds of all ReLUs' inputs on a region, by a rule that leaves nothing open.

        ReLU nodes in order: intervals from the values before; cut by ``base`` and by the phases; then, for every neuron
        whose sign is still open (by the rows of ``rows`` for the node, if these are given), a lower and an upper
        bound by `lower` with default slopes (with the rows' weights); cut by the phases again. Where a node is one
        affine function of the input, intervals are the best bounds and nothing follows them.

        Args:
            low, high: ``(n,)``.
            phases: ``(neurons,)``: 1, -1, or 0 where free.
            base: bounds that hold on a region around this one.
        """
        values: dict[str, tuple[Array, Array]] = {}
        sizes: dict[str, Array] = {}
        infinite = np.full(self.neurons, np.inf)
        known = Bounds(
            -infinite if base is None else base.low.copy(), infinite if base is None else base.high.copy(), sizes
        )
        for name in self._nodes:
            if name == self.network.input:
                values[name], sizes[name] = (low, high), np.maximum(np.abs(low), np.abs(high))
            elif name in self._number:
                number = self._number[name]
                part, source = self.part(number), self.preactivation[number]
                known.low[part] = np.maximum(known.low[part], values[source][0])
                known.high[part] = np.minimum(known.high[part], values[source][1])
                _cut(known, part, phases)
                sizes[name] = np.maximum(np.abs(known.low[part]), np.abs(known.high[part]))
                if not self._is_direct(source):
                    self._tighten(number, low, high, phases, known, rows)
                    _cut(known, part, phases)
                crossed = np.flatnonzero(known.low[part] > known.high[part])
                if len(crossed):
                    return Bounds(known.low, known.high, sizes, part.start + int(crossed[0]))
                sizes[name] = np.maximum(np.abs(known.low[part]), np.abs(known.high[part]))
                values[name] = np.maximum(known.low[part], 0.0), np.maximum(known.high[part], 0.0)
            else:
                values[name] = self._interval(name, values, sizes)
            if not (sizes[name] < LARGEST).all():
                raise InputError("the network's numbers are too large for bounds in float64", place=f"node {name!r}")
        return known

    def _is_direct(self, name: str) -> bool:
        inputs = self._inputs.get(name)
        return inputs is None or (len(inputs) == 1 and inputs[0][0] == self.network.input)

    def _interval(
        self, name: str, values: dict[str, tuple[Array, Array]], sizes: dict[str, Array]
    ) -> tuple[Array, Array]:
        middle, size = self._constants[name].copy(), np.abs(self._constants[name])
        radius = np.zeros(len(middle))
        for source, matrix, absolute in self._inputs[name]:
            a, b = values[source]
            center = a + (b - a) / 2
            middle += matrix @ center
            radius += absolute @ (np.maximum(b - center, center - a) * (1 + 4 * UNIT))
            # values of ReLUs are no larger than their inputs
            size += absolute @ np.maximum(np.abs(a), np.abs(b))
        sizes[name] = size * (1 + 1e-6)
        error = radius + 4 * self.gamma * sizes[name] + TINY
        return middle - error, middle + error

    def _tighten(
        self, number: int, low: Array, high: Array, phases: Phases, known: Bounds, rows: WeightedRows | None
    ) -> None:
        part = self.part(number)
        size, source = part.stop - part.start, self.preactivation[number]
        if rows is None:
            undecided = np.flatnonzero((known.low[part] < 0) & (known.high[part] > 0))
            places, signs = np.repeat(undecided, 2), np.tile([1, -1], len(undecided))
            which = np.zeros(0, dtype=np.intp)
        else:
            begin, end = np.searchsorted(rows.neuron, [part.start, part.stop])
            which = np.arange(begin, end)
            places, signs = rows.neuron[which] - part.start, rows.sign[which]
        step = max(1, CHUNK // max(self.neurons, *(len(c) for c in self._constants.values())))
        for first in range(0, len(places), step):
            some = slice(first, first + step)
            start = np.zeros((len(places[some]), size))
            start[np.arange(len(start)), places[some]] = signs[some]
            weights = None
            if rows is not None:
                weights = self.default_slopes(known, len(start), phases[None])
                for r, k in enumerate(which[some]):
                    weights[r, rows.neurons[: len(rows.weights[k])]] = rows.weights[k]
            function = self.lower({source: start}, np.zeros(len(start)), phases[None], known, weights)
            found = function.least(low, high)
            neurons, upper = part.start + places[some], signs[some] < 0
            np.maximum.at(known.low, neurons[~upper], found[~upper])
            np.minimum.at(known.high, neurons[upper], -found[upper])

    def default_slopes(self, bounds: Bounds, rows: int, phases: Phases) -> Array:
        """``(rows, neurons)``: the lower slopes used where no others are given; 0 (no multiplier) for fixed phases."""
        slopes = (bounds.high > -bounds.low * (1 + PREFERENCE)).astype(np.float64)
        return np.where(np.broadcast_to(phases, (rows, self.neurons)) == 0, slopes, 0.0)

    # -- rows --------------------------------------------------------------------------------------------
    def lower(
        self,
        start: dict[str, Array],
        constant: Array,
        phases: Phases,
        bounds: Bounds,
        weights: Array | None = None,
    ) -> Linear:
        """Linear functions of the input below R rows.

        Args:
            start: by node the rows' coefficients ``(R, size)``.
            constant: ``(R,)``.
            phases: ``(R, neurons)`` or ``(1, neurons)``: 1, -1, or 0 where free.
            bounds: that hold on the region.
            weights: ``(R, neurons)``: α in [0, 1] where free, β >= 0 where fixed; None: default slopes, no multipliers.
        """
        pending = {self._source[name]: rows for name, rows in start.items()}
        total, slack = constant.copy(), np.full(len(constant), TINY)
        for name in reversed(self._nodes[1:]):
            a = pending.pop(name, None)
            if a is None:
                continue
            if name in self._number:
                number = self._number[name]
                part = self.part(number)
                phase = phases[:, part]
                low, high = bounds.low[part], bounds.high[part]
                if weights is None:
                    weight = np.where(phase == 0, high > -low * (1 + PREFERENCE), 0.0)
                else:
                    weight = weights[:, part]
                slope, intercept = _chord(low, high)
                active, inactive = (phase > 0) | ((phase == 0) & (low >= 0)), (phase < 0) | ((phase == 0) & (high <= 0))
                free = ~(active | inactive)
                negative = np.minimum(a, 0.0)
                total += (np.where(free, intercept, 0.0) * negative).sum(axis=1)
                out = np.where(free, (a - negative) * weight + negative * slope, np.where(active, a, 0.0))
                multiplier = np.where(phase != 0, weight, 0.0)
                out -= phase * multiplier
                slack += self.gamma * ((np.abs(a) + multiplier) @ bounds.sizes[name])
                self._add(pending, self.preactivation[number], out)
                continue
            total += a @ self._constants[name]
            slack += self.gamma * (np.abs(a) @ bounds.sizes[name])
            for source, matrix, _ in self._inputs[name]:
                self._add(pending, source, a @ matrix)
        x = self.network.input
        slopes = pending.get(x, np.zeros((len(total), self.network.input_size)))
        slack += self.gamma * (np.abs(slopes) @ bounds.sizes[x])
        return Linear(slopes, total, slack * (1 + 1e-6))

    @staticmethod
    def _add(pending: dict[str, Array], name: str, rows: Array) -> None:
        pending[name] = pending[name] + rows if name in pending else rows


def _cut(known: Bounds, part: slice, phases: Phases) -> None:
    phase = phases[part]
    known.low[part] = np.where(phase > 0, np.maximum(known.low[part], 0.0), known.low[part])
    known.high[part] = np.where(phase < 0, np.minimum(known.high[part], 0.0), known.high[part])


def _chord(low: Array, high: Array) -> tuple[Array, Array]:
    """Slope and intercept of a line above ReLU on ``[low, high]``: any slope in [0, 1], the intercept rounded up."""
    open_units = (low < 0) & (high > 0)
    slope = np.where(open_units, np.minimum(high / np.where(open_units, high - low, 1.0), 1.0), 0.0)
    with np.errstate(invalid="ignore"):
        intercept = np.where(open_units, np.maximum(-slope * low, high * (1.0 - slope)), 0.0)
    return slope, intercept * (1 + 8 * UNIT) + np.where(open_units, 8 * UNIT * high + TINY, 0.0)


def _forms(matrix: Any) -> tuple[Any, Any]:
    """A matrix and its absolute values, dense where that is faster."""
    rows, columns = matrix.shape
    if rows * columns <= 1 << 12 or matrix.nnz > 0.2 * rows * columns:
        dense = matrix.toarray()
        return dense, np.abs(dense)
    matrix = sp.csr_array(matrix)
    return matrix, abs(matrix)
