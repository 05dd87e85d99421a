"""A network on one box, written over its unstable ReLUs alone: for many CROWN bounds on the same box.

On a box most ReLUs are inactive or active all over. What is inactive is left out; what is active passes its value. So the network
becomes blocks of ReLUs with sparse or dense matrices between them,

    z_k = d_k + Σ_{s < k} M_ks v_s,     v_s = relu(z_s)  (v_0 = x),

whatever the operators were: convolutions, sums and reshapes are folded into the M_ks, MaxPool is a tournament of
``max(a, b) = b + relu(a - b)``, with the ReLUs before it moved behind it (``max(relu(a), relu(b)) =
relu(max(a, b))``: fewer neurons, and differences of what is affine in the input are bounded exactly), and any
elementwise function is a combination of shifted ReLUs.

**Rounding** (float64; γ_k = k u / (1 - k u) as in `verifier.bounds.crown_rounding`). Every step of a backward pass turns
computed coefficients into other computed coefficients, and is off by at most a local error times values that are
met on the box; so the errors add up, each weighted by the coefficients that the pass really had:

* a block's matrices: M̂ is a product of few matrices, and A >= |W_1| |W_2| … is computed beside it; ``a M̂`` differs
  from the exact ``a M`` by at most ``γ |a| A`` for each of the two reasons, and it multiplies values of at most m. So
  `Block.cost` is ``3 γ_k Σ_s A_ks m_s + 3 γ_N D_k``, k counting the terms of the sums in one product and of the
  products of earlier blocks that are added to its result;
* a ReLU's linear relaxation: slopes are at most 1, intercepts at most m: `Block.relaxation_cost` is ``3 γ_N m``;
* the minimum over the box: ``3 γ_N m_0``.

N is more than all terms that are ever added to a row's constant. 1 + 1e-6 covers the second order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from verifier.bounds.condensed_values import Affine, Matrix, longest_row
from verifier.bounds.relaxations import relu_relaxation
from verifier.errors import InputError
from verifier.limits import Work, poll
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator, Array
from verifier.network.piecewise import MaxPool, PiecewiseLinear
from verifier.properties.sets import Box
from verifier.rounding import LARGEST, TINY, gamma

Ends = tuple[Array, Array]


@dataclass(eq=False)
class Block:
    """ReLUs that stand side by side: first the unstable ones, then the active ones; block 0 is the input.

    Attributes:
        neurons: ``(live,)`` their places in the operator's output.
        low, high: bounds of the values v of the live neurons.
        magnitude, reach: ``(live,)``: bounds on the values, and on the coefficients that a neuron may meet before it.
        cost: ``(live,)``: what rounding loses for each unit of coefficient of z (the module's docstring).
        edges: ``(earlier block, matrix)``; constant: d.
        count, first: how many neurons are unstable, and the number of the first among all unstable neurons.
        z_low, z_high: ``(count,)`` bounds of the unstable neurons' preactivations.
        slope, intercept, start: ``(count,)`` of their linear relaxation above, and CROWN's choice of the lower slope.
        phases: ``(count,)``: 1 or -1 for neurons whose phase is assumed, else 0.
        row_weights: ``(neurons before, 2 count)`` float16: the weights that gave z_low, and then z_high, if known.
        relaxation_cost: ``(count,)``: what rounding at the ReLU loses for each unit of coefficient of v.
    """

    neurons: npt.NDArray[np.intp]
    low: Array
    high: Array
    magnitude: Array
    cost: Array
    reach: Array
    edges: list[tuple[int, Matrix]] = field(default_factory=list)
    constant: Array = field(default_factory=lambda: np.zeros(0))
    count: int = 0
    first: int = 0
    z_low: Array = field(default_factory=lambda: np.zeros(0))
    z_high: Array = field(default_factory=lambda: np.zeros(0))
    slope: Array = field(default_factory=lambda: np.zeros(0))
    intercept: Array = field(default_factory=lambda: np.zeros(0))
    start: Array = field(default_factory=lambda: np.zeros(0))
    phases: npt.NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, dtype=np.int8))
    row_weights: Array | None = None
    relaxation_cost: Array = field(default_factory=lambda: np.zeros(0))

    _lines: dict[Any, Ends] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of live neurons."""
        return len(self.low)

    def relaxation(self, dtype: Any) -> Ends:
        """`slope` and `intercept` in a float type."""
        key = np.dtype(dtype)
        if key not in self._lines:
            self._lines[key] = (self.slope.astype(key), self.intercept.astype(key))
        return self._lines[key]


@dataclass(frozen=True, eq=False)
class Start:
    """Rows to be bounded, as columns: coefficients over blocks, constants, and the slack of the start.

    Attributes:
        coefficients: by block ``(live, R)``, float64.
        constant, slack: ``(R,)``.
    """

    coefficients: dict[int, Array]
    constant: Array
    slack: Array

    def __len__(self) -> int:
        return len(self.constant)

    def take(self, which: Any) -> Start:
        """Some of the rows."""
        some = {s: np.ascontiguousarray(a[:, which]) for s, a in self.coefficients.items()}
        return Start(some, self.constant[which], self.slack[which])


Bounder = Callable[["CondensedNetwork", Start, Array | None], tuple[Array, Array]]
"""Proved lower bounds ``(R,)`` of rows over the blocks that exist so far, and the weights ``(neurons, R)`` that gave
them; the third argument is where to start."""


class CondensedNetwork:
    """One network, condensed on one box; see the module.

    Args:
        bounder: how the signs of ReLUs that intervals leave open are bounded.
    """

    def __init__(self, network: Network, box: Box, bounder: Bounder) -> None:
        self._bounder = bounder
        self._begin(network, box)
        values: dict[str, Affine] = {network.input: Affine.variables(box.size, 0)}
        readers = {name: sum(name in n.inputs for n in network.nodes) for name in [n.name for n in network.nodes]}
        # ReLUs that only a MaxPool reads; they come after it, for there they are fewer
        late = {n.name for n in network.nodes if readers[n.name] == 1 and _is_relu(n)} - {network.output}
        late &= {n.inputs[0] for n in network.nodes if isinstance(n.operator, MaxPool)}
        for node in network.nodes[1:]:
            poll(f"while node {node.name!r} was written over its unstable ReLUs")
            inputs = [values[i] for i in node.inputs]
            if node.name in late:
                values[node.name] = inputs[0]
            elif isinstance(node.operator, MaxPool):
                windows, after = node.operator.windows(network[node.inputs[0]].shape), node.inputs[0] in late
                winners = self._tournament(inputs[0], windows, after)
                values[node.name] = self._relu(winners) if after else winners
            else:
                values[node.name] = self._value(network, node, inputs)
            for i in set(node.inputs):
                readers[i] -= 1
                if not readers[i]:
                    del values[i]
        self.output = values[network.output]

    @property
    def nbytes(self) -> float:
        """Bytes of its matrices, about."""
        return float(16 * sum(matrix.entries for block in self.blocks for _, matrix in block.edges))

    @classmethod
    def on_box(cls, box: Box, network: Network) -> CondensedNetwork:
        """A condensed network with the input alone, to which others add blocks and the output."""
        condensed = cls.__new__(cls)
        condensed._begin(network, box)
        return condensed

    def _begin(self, network: Network, box: Box) -> None:
        self.gamma = gamma(8 * sum(_terms(network, n) for n in network.nodes) + 1024)
        """γ_N."""
        magnitude = np.maximum(np.abs(box.lower), np.abs(box.upper))
        if not (magnitude < LARGEST).all():
            raise InputError("the input's numbers are too large for bounds in float64")
        cost = 3 * self.gamma * magnitude + TINY
        self.blocks = [Block(np.arange(box.size), box.lower, box.upper, magnitude, cost, magnitude + 1.0)]
        self.empty = False
        """Whether the assumed phases contradict each other."""
        self.neurons = 0
        self.work = Work()
        """What passes through it have cost so far."""

    # -- construction ------------------------------------------------------------------------------------
    def _value(self, network: Network, node: Node, inputs: list[Affine]) -> Affine:
        operator = node.operator
        if isinstance(operator, AffineOperator):
            matrices = operator.matrices(*(network[i].shape for i in node.inputs))
            constant = operator.constant()
            total = inputs[0].mapped(sp.csr_array(matrices[0]))
            for matrix, value in zip(matrices[1:], inputs[1:], strict=True):
                total = total.plus(value.mapped(sp.csr_array(matrix)))
            if constant is not None:
                total = total.shifted(np.broadcast_to(constant, node.shape).reshape(-1))
            return total
        assert isinstance(operator, PiecewiseLinear)
        if operator.is_relu:
            return self._relu(inputs[0])
        size = len(inputs[0].constant)
        scaled = sp.csr_array(sp.diags_array(np.full(size, operator.slopes[0])))
        total = inputs[0].mapped(scaled, np.full(size, operator.intercepts[0]))
        gap = 0.0
        for j, point in enumerate(operator.breaks):
            bend = operator.slopes[j + 1] - operator.slopes[j]
            jump = abs(bend * point + operator.intercepts[j + 1] - operator.intercepts[j])
            gap += jump + 1e-15 * (abs(point) * (abs(operator.slopes[j]) + abs(operator.slopes[j + 1])) + 1.0)
            total = total.plus(self._relu(inputs[0].shifted(np.full(size, -point))), bend)
        # pieces need not meet exactly: what the condensed network is off by counts as rounding
        return Affine(total.terms, total.absolute, total.constant, total.weight + gap / self.gamma, total.length)

    def _tournament(self, entries: Affine, windows: npt.NDArray[np.int64], positive: bool) -> Affine:
        """The maxima over windows of entries; with ``positive`` they count only where they are above zero."""
        low, high = self.interval(entries)
        lows = np.where(windows >= 0, low[windows], -np.inf)
        highs = np.where(windows >= 0, high[windows], -np.inf)
        possible = (highs >= lows.max(axis=1, keepdims=True)) & (windows >= 0)
        if positive:  # one entry of each window stays, whatever it is
            possible &= (highs > 0) | (np.arange(windows.shape[1]) == highs.argmax(axis=1)[:, None])
        players = [w[p] for w, p in zip(windows, possible, strict=True)]
        pool = entries.take(np.concatenate(players))
        ends = np.cumsum([0] + [len(p) for p in players])
        groups = [list(range(a, b)) for a, b in pairwise(ends)]
        while any(len(g) > 1 for g in groups):
            pairs = [(g[k], g[k + 1]) for g in groups for k in range(0, len(g) - 1, 2)]
            left, right = np.array(pairs).T
            second = pool.take(right)
            winners = second.plus(self._relu(pool.take(left).plus(second, -1.0)))
            alone = np.array([g[-1] for g in groups if len(g) % 2], dtype=np.intp)
            rest = pool.take(alone)
            count, regrouped, single = 0, [], len(pairs)
            for g in groups:
                new = list(range(count, count + len(g) // 2))
                count += len(new)
                if len(g) % 2:
                    new.append(single)
                    single += 1
                regrouped.append(new)
            pool, groups = winners.stacked(rest), regrouped
        return pool.take(np.array([g[0] for g in groups]))

    def cost(self, value: Affine) -> Array:
        """What rounding loses for each unit of coefficient of these values."""
        total = 3 * self.gamma * value.weight
        for s, m in value.absolute.items():
            longest = int(np.bincount(m.indices, minlength=1).max(initial=0)) + longest_row(m)
            longest += sum(edge.longest_column for b in self.blocks for t, edge in b.edges if t == s)
            total = total + 3 * gamma(2 * (longest + value.length) + 64) * (m @ self.blocks[s].magnitude)
        return total * (1 + 1e-6) + TINY

    def interval(self, value: Affine) -> Ends:
        """Interval bounds from the bounds of the blocks."""
        middle, radius = value.constant.copy(), 2 * self.cost(value)
        for s, m in value.terms.items():
            block = self.blocks[s]
            center = block.low + (block.high - block.low) / 2
            middle += m @ center
            radius += abs(m) @ np.maximum(block.high - center, center - block.low)
        return middle - radius, middle + radius

    def _relu(self, value: Affine) -> Affine:
        """Adds a block; its outputs."""
        number = len(self.blocks)
        low, high = self.interval(value)
        cost = self.cost(value)
        reach = value.weight + 1.0
        for s, m in value.absolute.items():
            reach = reach + m @ self.blocks[s].reach
        if not (reach < LARGEST).all():
            raise InputError("the network's numbers are too large for bounds in float64")
        if set(value.terms) != {0}:
            neurons = np.flatnonzero((low < 0) & (high > 0))
            if len(neurons):
                found, _ = self._bounder(self, self.neuron_rows(value.take(neurons)), None)
                low, high = low.copy(), high.copy()
                low[neurons] = np.maximum(low[neurons], found[: len(neurons)])
                high[neurons] = np.minimum(high[neurons], -found[len(neurons) :])
        high = np.maximum(low, high)  # ends that cross by rounding prove nothing
        opened = np.flatnonzero((low < 0) & (high > 0))
        live = np.concatenate([opened, np.flatnonzero(low >= 0)])
        edges = [(s, Matrix(m[live])) for s, m in value.terms.items() if m.nnz]
        self.add_block(
            Block(live, low[live], high[live], np.zeros(0), cost[live], reach[live], edges, value.constant[live]),
            np.zeros(len(opened), dtype=np.int8),
        )
        pick = sp.csr_array((np.ones(len(live)), (live, np.arange(len(live)))), shape=(len(low), len(live)))
        return Affine({number: pick}, {number: pick}, np.zeros(len(low)), np.zeros(len(low)))

    def add_block(self, block: Block, phases: npt.NDArray[np.int8]) -> None:
        """Completes a block: ``low, high`` come as bounds of z, the first ``len(phases)`` neurons are the unstable ones."""
        count = len(phases)
        block.magnitude = np.maximum(np.abs(block.low), np.abs(block.high))
        block.z_low, block.z_high = block.low[:count], block.high[:count]
        block.low, block.high = np.maximum(block.low, 0.0), np.maximum(block.high, 0.0)
        relaxation = relu_relaxation(block.z_low, block.z_high)
        block.slope, block.intercept = relaxation.upper_slope, relaxation.upper_intercept
        block.start = np.where(phases == 0, relaxation.lower_slope, 0.0)
        block.relaxation_cost = 3 * self.gamma * block.magnitude[:count] + TINY
        block.phases, block.count, block.first = phases, count, self.neurons
        self.neurons += count
        self.blocks.append(block)

    @property
    def phases(self) -> npt.NDArray[np.int8]:
        """The phases assumed, over the unstable neurons of the blocks so far: ``(neurons,)``."""
        return np.concatenate([b.phases for b in self.blocks])

    def neuron_scores(self, start: Start) -> Array:
        """By how much the relaxation of each free neuron may move some rows, through all bounds that depend on it.

        The height of its triangle times the sum of absolute weights on all paths to the rows: early neurons count
        for more than in a bound's coefficients, for they also loosen the bounds of the neurons after them. -1 where fixed.
        """
        weight = [np.zeros(b.size) for b in self.blocks]
        for s, a in start.coefficients.items():
            weight[s] += np.abs(a).sum(axis=1)
        scores = np.zeros(self.neurons)
        for number in range(len(self.blocks) - 1, 0, -1):
            block = self.blocks[number]
            part = slice(block.first, block.first + block.count)
            w = weight[number]
            scores[part] = np.where(block.phases == 0, w[: block.count] * block.intercept, -1.0)
            w[: block.count] *= np.where(block.phases == 0, block.slope, block.phases > 0)
            for s, matrix in block.edges:
                weight[s] += abs(matrix.matrix).T @ w
        return scores

    # -- rows --------------------------------------------------------------------------------------------
    def neuron_rows(self, value: Affine) -> Start:
        """Each value, and then each value negated."""
        both = {s: m.toarray().T for s, m in value.terms.items()}
        cost = self.cost(value)
        return Start(
            {s: np.hstack([a, -a]) for s, a in both.items()},
            np.concatenate([value.constant, -value.constant]),
            np.concatenate([cost, cost]),
        )

    def rows(self, y_rows: Array, x_rows: Array, bound: Array) -> Start:
        """``y_rows y + x_rows x - bound``, one column each."""
        value = self.output.mapped(sp.csr_array(y_rows), -bound)
        if x_rows.any():
            extra = sp.csr_array(x_rows)
            value = value.plus(Affine({0: extra}, {0: abs(extra)}, np.zeros(len(bound)), np.zeros(len(bound))))
        sizes = [value.absolute[s] @ self.blocks[s].reach for s in value.absolute]
        if not (np.sum(sizes, axis=0) + value.weight < LARGEST).all():
            raise InputError("the numbers of the condition are too large for bounds in float64")
        return Start({s: m.toarray().T.copy() for s, m in value.terms.items()}, value.constant, self.cost(value))


def _is_relu(node: Node) -> bool:
    return isinstance(node.operator, PiecewiseLinear) and node.operator.is_relu


def _terms(network: Network, node: Node) -> int:
    """Values of a node, or the ReLUs that make them, if there are more of these."""
    operator = node.operator
    if isinstance(operator, MaxPool):
        return int(operator.windows(network[node.inputs[0]].shape).size)
    return node.size * max(1, len(operator.breaks)) if isinstance(operator, PiecewiseLinear) else node.size
