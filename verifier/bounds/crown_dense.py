"""CROWN for feed-forward networks of dense layers and ReLUs, compiled: one box after the other, all its data in the cache.

The same bounds, and the same rounding analysis, as `verifier.bounds.crown`, an order of magnitude faster on
small layers: nothing but the neurons that are still undecided is bounded, and inactive neurons are skipped.
Compiled by numba at first use and kept on disk; releases the interpreter lock, so threads run in parallel.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from verifier.network.operators import Array
from verifier.rounding import OUTWARD, SUM_RESERVE, TINY, UNIT_ROUNDOFF


def jit(function: Any) -> Any:
    """Compiled without the interpreter lock; sums in any order, fused or not (the analysis covers both).

    Reductions of arrays (``any``, ``sum`` …) are avoided in all kernels: a kernel that has one imports scipy.linalg.
    """
    return njit(nogil=True, cache=True, fastmath={"contract", "nsz", "reassoc"}, error_model="numpy")(function)


class FeedForward(NamedTuple):
    """The hidden layers of a feed-forward network, all neurons numbered from the first layer to the last.

    Attributes:
        flat, offsets: the weights one after the other, and where each layer's begin.
        biases: of all neurons.
        starts: the first neuron of each layer, and the end.
        is_relu: whether a ReLU follows the layer.
        errors, interval_errors: rounding slack of the neurons' backward bounds, and of their interval bounds.
    """

    flat: Array
    offsets: npt.NDArray[np.int64]
    biases: Array
    starts: npt.NDArray[np.int64]
    is_relu: npt.NDArray[np.bool_]
    errors: Array
    interval_errors: Array


class Work(NamedTuple):
    """Working memory for one box: its middle and radius, its ReLUs' relaxations, and scratch space.

    Attributes:
        middle, radius: of the box.
        lower_slope, upper_slope, upper_intercept: the line below (through 0) and the line above each ReLU.
        live, counts: the neurons of each layer that are not inactive, and how many.
        reach: ``(neurons, n)`` how far each input moves the unstable neurons' upper bounds.
        ping, pong, constant, picked: rows on their way back.
        centers, spreads: values of the layer before.
    """

    middle: Array
    radius: Array
    lower_slope: Array
    upper_slope: Array
    upper_intercept: Array
    live: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    reach: Array
    ping: Array
    pong: Array
    constant: Array
    picked: npt.NDArray[np.int64]
    centers: Array
    spreads: Array


@jit
def workspace(network: FeedForward, inputs: int, rows: int) -> Work:
    """Working memory for boxes of so many inputs, and for so many rows over the last layer."""
    layers = network.is_relu.size
    widest = inputs
    for k in range(layers):
        widest = max(widest, network.starts[k + 1] - network.starts[k])
    most = max(2 * widest, rows)
    total = network.starts[layers]
    return Work(
        np.empty(inputs),
        np.empty(inputs),
        np.ones(total),
        np.ones(total),
        np.zeros(total),
        np.empty(total, dtype=np.int64),
        np.zeros(layers, dtype=np.int64),
        np.zeros((total, inputs)),
        np.empty((most, widest)),
        np.empty((most, widest)),
        np.empty(most),
        np.empty(most, dtype=np.int64),
        np.empty(widest),
        np.empty(widest),
    )


@jit
def _line(low: float, high: float) -> tuple[float, float, float]:
    """Lower slope, upper slope and upper intercept of ReLU on ``[low, high]``."""
    if low >= 0.0:
        return 1.0, 1.0, 0.0
    if high <= 0.0:
        return 0.0, 0.0, 0.0
    slope = min(high / (high - low), 1.0)
    intercept = max(-slope * low, high * (1.0 - slope)) + OUTWARD * (high - low) + TINY
    return (1.0 if high > -low else 0.0), slope, intercept


@jit
def _multiply(cur: Array, nxt: Array, rows: int, live: Any, count: int, weight: Array) -> None:
    """``nxt[:rows] = cur[:rows] @ weight``, only the live neurons of the layer, four rows at a time."""
    width = weight.shape[1]
    full = rows - rows % 4
    for r in range(0, full, 4):
        n0, n1, n2, n3 = nxt[r, :width], nxt[r + 1, :width], nxt[r + 2, :width], nxt[r + 3, :width]
        n0[:] = 0.0
        n1[:] = 0.0
        n2[:] = 0.0
        n3[:] = 0.0
        for k in range(count):
            i = live[k]
            a0, a1, a2, a3 = cur[r, i], cur[r + 1, i], cur[r + 2, i], cur[r + 3, i]
            w = weight[i]
            for j in range(width):
                n0[j] += a0 * w[j]
                n1[j] += a1 * w[j]
                n2[j] += a2 * w[j]
                n3[j] += a3 * w[j]
    for r in range(full, rows):
        n0 = nxt[r, :width]
        n0[:] = 0.0
        for k in range(count):
            i = live[k]
            a0 = cur[r, i]
            w = weight[i]
            for j in range(width):
                n0[j] += a0 * w[j]


@jit
def backward(network: FeedForward, work: Work, lower_slope: Array, rows: int, layer: int, cost: Array) -> Array:
    """Rows over the outputs of hidden layer ``layer`` taken back to the input.

    The rows are in ``work.ping``, their constants in ``work.constant`` (added to). What each ReLU's upper line costs
    is added to ``cost`` (if that is not empty). Returns where the rows over the input are.
    """
    cur, nxt, constant = work.ping, work.pong, work.constant
    for k in range(layer, -1, -1):
        first, size = network.starts[k], network.starts[k + 1] - network.starts[k]
        count = work.counts[k]
        neurons = work.live[first : first + count]
        bias = network.biases[first : first + size]
        weight = network.flat[network.offsets[k] : network.offsets[k + 1]].reshape(size, -1)
        low_slope, up_slope = lower_slope[first : first + size], work.upper_slope[first : first + size]
        up_intercept = work.upper_intercept[first : first + size]
        for r in range(rows):
            total = 0.0
            row = cur[r]
            if network.is_relu[k]:
                for p in range(count):
                    i = neurons[p]
                    a = row[i]
                    if a < 0.0:
                        total += a * up_intercept[i]
                        if cost.size > 0:
                            cost[first + i] -= a * up_intercept[i]
                        a *= up_slope[i]
                    else:
                        a *= low_slope[i]
                    row[i] = a
                    total += a * bias[i]
            else:
                for i in range(size):
                    total += row[i] * bias[i]
            constant[r] += total
        _multiply(cur, nxt, rows, neurons, count, weight)
        cur, nxt = nxt, cur
    return cur


@jit
def _least(row: Array, constant: float, work: Work, spaces: Array, count: int) -> float:
    """A lower bound of ``row @ x + constant`` where ``spaces[h] @ (x, 1) <= 0`` for each h, on the box.

    One half-space at a time, its multiplier at the best kink of the dual function (weak duality: any is sound).
    """
    middle, radius = work.middle, work.radius
    n = middle.size
    least, value, size = constant, constant, abs(constant)
    for j in range(n):
        value += row[j] * middle[j]
        least += row[j] * middle[j] - abs(row[j]) * radius[j]
        size += abs(row[j]) * (abs(middle[j]) + radius[j])
    best = least
    for h in range(count):
        space = spaces[h]
        there, level, size_h = space[n], space[n], abs(space[n])
        for j in range(n):
            level += space[j] * middle[j]
            there += space[j] * (middle[j] + (-radius[j] if row[j] > 0.0 else radius[j]))
            size_h += abs(space[j]) * (abs(middle[j]) + radius[j])
        if there <= 0.0:
            continue
        for k in range(n):
            if row[k] * space[k] < 0.0 and radius[k] > 0.0:
                factor = -row[k] / space[k]
                total = value + factor * level - (SUM_RESERVE + 4 * UNIT_ROUNDOFF * n) * (size + factor * size_h)
                for j in range(n):
                    total -= abs(row[j] + factor * space[j]) * radius[j]
                if total > best:  # not if it is NaN
                    best = total
    return best


@jit
def tighten(
    network: FeedForward,
    work: Work,
    low: Array,
    high: Array,
    z_low: Array,
    z_high: Array,
    neurons: Any,
    phases: Any,
    count: int,
    spaces: Array,
) -> bool:
    """Bounds of the hidden preactivations on one box and the relaxations that follow; False if no point is left in it.

    Args:
        low, high: the box.
        z_low, z_high: known bounds (of a parent); tightened in place where the sign is still open.
        neurons, phases, count: the ReLUs that were split and their signs (already in ``z_low, z_high``).
        spaces: ``(>= count, n + 1)`` functions of the input (constant last) that are <= 0 where these signs hold:
            known ones, or zeros; made tighter in place.
    """
    layers, inputs = network.is_relu.size, low.size
    middle, radius, constant = work.middle, work.radius, work.constant
    ping, picked, none = work.ping, work.picked, np.zeros(0)
    centers, spreads = work.centers, work.spreads
    for j in range(inputs):
        middle[j] = low[j] + (high[j] - low[j]) / 2
        radius[j] = max(high[j] - middle[j], middle[j] - low[j]) * (1 + 4 * UNIT_ROUNDOFF)
    for k in range(layers):
        first, size = network.starts[k], network.starts[k + 1] - network.starts[k]
        work.counts[k] = 0
        if not network.is_relu[k]:
            for i in range(size):
                work.live[first + i] = i
            work.counts[k] = size
            continue
        weight = network.flat[network.offsets[k] : network.offsets[k + 1]].reshape(size, -1)
        interval = k == 0 or network.is_relu[k - 1]
        if k == 0:
            centers[:inputs], spreads[:inputs] = middle, radius
        elif interval:
            before = network.starts[k - 1]
            for j in range(weight.shape[1]):
                value_low, value_high = max(z_low[before + j], 0.0), max(z_high[before + j], 0.0)
                centers[j] = 0.5 * (value_low + value_high)
                spreads[j] = (0.5 + 2 * UNIT_ROUNDOFF) * (value_high - value_low)
        unstable_neurons = 0
        for i in range(size):
            if z_high[first + i] < 0.0:
                continue  # a bound of exactly zero may come from a phase: that has to be checked
            if interval:
                center, spread = network.biases[first + i], network.interval_errors[first + i]
                row = weight[i]
                for j in range(row.size):
                    center += row[j] * centers[j]
                    spread += abs(row[j]) * spreads[j]
                z_low[first + i] = max(z_low[first + i], center - spread)
                z_high[first + i] = min(z_high[first + i], center + spread)
            if z_low[first + i] < 0.0 and z_high[first + i] > 0.0:
                picked[unstable_neurons] = i
                unstable_neurons += 1
        for p in range(unstable_neurons):
            i = picked[p]
            constant[2 * p], constant[2 * p + 1] = network.biases[first + i], -network.biases[first + i]
            for j in range(weight.shape[1]):
                ping[2 * p, j], ping[2 * p + 1, j] = weight[i, j], -weight[i, j]
        found = backward(network, work, work.lower_slope, 2 * unstable_neurons, k - 1, none)
        for p in range(unstable_neurons):
            i = first + picked[p]
            for j in range(inputs):
                work.reach[i, j] = abs(found[2 * p + 1, j]) * radius[j]
            if k > 0 or count > 0:
                error = network.errors[i]
                z_low[i] = max(z_low[i], _least(found[2 * p], constant[2 * p] - error, work, spaces, count))
                z_high[i] = min(z_high[i], -_least(found[2 * p + 1], constant[2 * p + 1] - error, work, spaces, count))
        live = 0
        for i in range(first, first + size):
            if z_low[i] > z_high[i]:
                return False
            line = _line(z_low[i], z_high[i])
            work.lower_slope[i], work.upper_slope[i], work.upper_intercept[i] = line
            if line[1] > 0.0:
                work.live[first + live] = i - first
                live += 1
        work.counts[k] = live
        for h in range(count):
            i = neurons[h] - first
            if i < 0 or i >= size:
                continue
            sign = -1.0 if phases[h] > 0 else 1.0
            constant[0] = sign * network.biases[first + i]
            for j in range(weight.shape[1]):
                ping[0, j] = sign * weight[i, j]
            found = backward(network, work, work.lower_slope, 1, k - 1, none)
            for j in range(inputs):
                spaces[h, j] = found[0, j]
            spaces[h, inputs] = constant[0] - network.errors[first + i]
    return True


@jit
def evaluate(network: FeedForward, work: Work, x: Array, z: Array) -> None:
    """All hidden preactivations ``z (neurons,)`` at one point, in floating point; for choices only."""
    value, size = x, x.size
    for k in range(network.is_relu.size):
        first, width = network.starts[k], network.starts[k + 1] - network.starts[k]
        weight = network.flat[network.offsets[k] : network.offsets[k + 1]].reshape(width, -1)
        target = work.ping[k % 2]
        for i in range(width):
            total = network.biases[first + i]
            row = weight[i]
            for j in range(size):
                total += row[j] * value[j]
            z[first + i] = total
            target[i] = max(total, 0.0) if network.is_relu[k] else total
        value, size = target, width
