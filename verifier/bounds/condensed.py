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

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from verifier.bounds.condensed_values import Matrix
from verifier.bounds.relaxations import relu_relaxation
from verifier.errors import InputError
from verifier.limits import Work
from verifier.network.affine import Affine, longest_row
from verifier.network.operators import Array
from verifier.properties.sets import Box
from verifier.rounding import LARGEST, TINY, gamma

Ends = tuple[Array, Array]
Signs = npt.NDArray[np.int8]


@dataclass(eq=False)
class Block:
    """ReLUs that stand side by side: first the unstable ones, then the active ones; block 0 is the input.

    Attributes:
        neurons: ``(live,)`` their places in the output of their node.
        node: the ReLU node that they are of; "" for ReLUs that make something else.
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
    phases: Signs = field(default_factory=lambda: np.zeros(0, dtype=np.int8))
    row_weights: Array | None = None
    node: str = ""
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
class Cut:
    """An inequality that all inputs of interest satisfy: ``slope @ x + constant <= 0``.

    Attributes:
        slope: ``(n,)``.
        cost: what rounding loses for each unit of the inequality's multiplier in a bound.
    """

    slope: Array
    constant: float
    cost: float

    def share(self, low: Array, high: Array) -> float:
        """How far the function is below zero at its least on a box, as a share of its range: 1 cuts nothing off."""
        least = self.constant + float(np.minimum(self.slope * low, self.slope * high).sum())
        return -least / max(float(np.abs(self.slope) @ (high - low)), TINY)


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
    """One network, condensed on one box; see the module. It is made by `verifier.bounds.restriction.restrict`.

    Args:
        first: block 0, the inputs.
        gamma: γ_N.

    Attributes:
        blocks: the inputs, and the blocks of ReLUs so far.
        output: the network's outputs.
        neurons: the number of unstable neurons so far.
        fixed: by ReLU node ``(size,)``: 1 for neurons that are folded in as active, -1 for those left out as inactive, 0
            for those in the node's block.
        empty: whether the assumed phases contradict each other.
        cut: what else is known of the inputs that matter: bounds hold on the part of the box that it leaves. None for nothing.
        work: what passes through it have cost so far.

    Source:
        CROWN: Zhang et al., NeurIPS 2018, Theorem 3.2, written over unstable ReLUs alone; that is this
        package's own.
    """

    output: Affine

    def __init__(self, first: Block, gamma: float) -> None:
        self.blocks, self.gamma = [first], gamma
        self.fixed: dict[str, Signs] = {}
        self.cut: Cut | None = None
        self.neurons, self.empty, self.work = 0, False, Work()

    @staticmethod
    def begun(box: Box, terms: int) -> CondensedNetwork:
        """The inputs alone, to which others add blocks and the output.

        Args:
            terms: values of all nodes, or the ReLUs that make them, if there are more of these.

        Raises:
            InputError: if the box's numbers are too large for float64.
        """
        magnitude, precision = np.maximum(np.abs(box.lower), np.abs(box.upper)), gamma(8 * terms + 1024)
        if not (magnitude < LARGEST).all():
            raise InputError("the input's numbers are too large for bounds in float64")
        cost = 3 * precision * magnitude + TINY
        first = Block(np.arange(box.size), box.lower, box.upper, magnitude, cost, magnitude + 1.0)
        return CondensedNetwork(first, precision)

    def within(self, slope: Array, constant: float) -> CondensedNetwork | None:
        """The same on the part of the box where ``slope @ x + constant <= 0``; None if these numbers are too large."""
        size = abs(constant) + float(np.abs(slope) @ self.blocks[0].magnitude)
        if not size < LARGEST:
            return None
        cut = copy.copy(self)
        cut.cut = Cut(slope, constant, 4 * self.gamma * size + TINY)
        return cut

    @property
    def nbytes(self) -> float:
        """Bytes of its matrices, about."""
        return float(16 * sum(matrix.entries for block in self.blocks for _, matrix in block.edges))

    def cost(self, value: Affine) -> Array:
        """What rounding loses for each unit of coefficient of these values."""
        total = 3 * self.gamma * value.constant_size
        for s, m in value.sizes.items():
            longest = int(np.bincount(m.indices, minlength=1).max(initial=0)) + longest_row(m)
            longest += sum(edge.longest_column for b in self.blocks for t, edge in b.edges if t == s)
            total = total + 3 * gamma(2 * (longest + value.roundings) + 64) * (m @ self.blocks[s].magnitude)
        return total * (1 + 1e-6) + TINY

    def interval(self, value: Affine) -> Ends:
        """Interval bounds from the bounds of the blocks."""
        middle, radius = value.constant.copy(), 2 * self.cost(value)
        for s, m in value.matrices.items():
            block = self.blocks[s]
            center = block.low + (block.high - block.low) / 2
            middle += m @ center
            radius += abs(m) @ np.maximum(block.high - center, center - block.low)
        return middle - radius, middle + radius

    def add_block(self, block: Block, phases: Signs) -> None:
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
    def phases(self) -> Signs:
        """The phases assumed, over the unstable neurons of the blocks so far: ``(neurons,)``."""
        return np.concatenate([b.phases for b in self.blocks])

    def signs(self, phases: Signs) -> tuple[dict[str, Signs], dict[str, Signs]]:
        """What ``(neurons,)`` phases assume of the network's own ReLUs, and what is known of them here, by node.

        Both ``(size,)``: 1 for ``z >= 0``, -1 for ``z <= 0``, 0 for nothing.
        """
        known = {name: signs.copy() for name, signs in self.fixed.items()}
        assumed = {name: np.zeros_like(signs) for name, signs in self.fixed.items()}
        for block in self.blocks[1:]:
            if block.node:
                assumed[block.node][block.neurons[: block.count]] = phases[block.first : block.first + block.count]
                known[block.node][block.neurons[block.count :]] = 1
        return assumed, known

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
        both = {s: m.toarray().T for s, m in value.matrices.items()}
        cost = self.cost(value)
        return Start(
            {s: np.hstack([a, -a]) for s, a in both.items()},
            np.concatenate([value.constant, -value.constant]),
            np.concatenate([cost, cost]),
        )

    def rows(self, y_rows: Array, x_rows: Array, bound: Array) -> Start:
        """``y_rows y + x_rows x - bound``, one column each.

        Raises:
            InputError: numbers too large for bounds in float64.
        """
        value = self.output.mapped(sp.csr_array(y_rows), -bound)
        if x_rows.any():
            extra = sp.csr_array(x_rows)
            value = value.plus(Affine({0: extra}, np.zeros(len(bound))))
        sizes = [value.sizes[s] @ self.blocks[s].reach for s in value.sizes]
        if not (np.sum(sizes, axis=0) + value.constant_size < LARGEST).all():
            raise InputError("the numbers of the condition are too large for bounds in float64")
        return Start({s: m.toarray().T.copy() for s, m in value.matrices.items()}, value.constant, self.cost(value))
