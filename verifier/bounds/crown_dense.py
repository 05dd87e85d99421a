"""CROWN for chains of dense layers and ReLUs, compiled: one box after the other, all its data in the cache.

The same bounds, and the same rounding analysis, as `verifier.bounds.crown`, an order of magnitude faster on
small layers: nothing but the units that are still undecided is bounded, and units that are off are skipped.
Compiled by numba at first use and kept on disk; releases the interpreter lock, so threads run in parallel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from verifier.network.operators import Array

OUTWARD = 2.0**-48
UNIT = 2.0**-53


def jit(function: Any) -> Any:
    """Compiled without the interpreter lock; sums in any order, fused or not (the analysis covers both)."""
    return njit(nogil=True, cache=True, fastmath={"contract", "nsz", "reassoc"}, error_model="numpy")(function)


@jit
def _line(low: float, high: float) -> tuple[float, float, float]:
    """Lower slope, upper slope and upper intercept of ReLU on ``[low, high]``."""
    if low >= 0.0:
        return 1.0, 1.0, 0.0
    if high <= 0.0:
        return 0.0, 0.0, 0.0
    slope = min(high / (high - low), 1.0)
    intercept = max(-slope * low, high * (1.0 - slope)) + OUTWARD * (high - low) + 1e-290
    return (1.0 if high > -low else 0.0), slope, intercept


@jit
def _multiply(cur: Array, nxt: Array, rows: int, live: Any, count: int, weight: Array) -> None:
    """``nxt[:rows] = cur[:rows] @ weight``, only the live units of the layer, four rows at a time."""
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
def _backward(
    cur: Array,
    nxt: Array,
    constant: Array,
    rows: int,
    layer: int,
    flat: Array,
    offsets: Any,
    biases: Array,
    starts: Any,
    is_relu: Any,
    lower_slope: Array,
    upper_slope: Array,
    upper_intercept: Array,
    live: Any,
    counts: Any,
    cost: Array,
) -> Array:
    """Rows over the outputs of hidden layer ``layer`` (in ``cur``) taken back to the input; returns where they are."""
    for k in range(layer, -1, -1):
        first, size = starts[k], starts[k + 1] - starts[k]
        count = counts[k]
        units = live[first : first + count]
        bias = biases[first : first + size]
        weight = flat[offsets[k] : offsets[k + 1]].reshape(size, -1)
        low_slope, up_slope = lower_slope[first : first + size], upper_slope[first : first + size]
        up_intercept = upper_intercept[first : first + size]
        for r in range(rows):
            total = 0.0
            row = cur[r]
            if is_relu[k]:
                for p in range(count):
                    i = units[p]
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
        _multiply(cur, nxt, rows, units, count, weight)
        cur, nxt = nxt, cur
    return cur


@jit
def _least(row: Array, middle: Array, radius: Array) -> float:
    """The least value of ``row @ x`` on a box."""
    total = 0.0
    for j in range(middle.size):
        total += row[j] * middle[j] - abs(row[j]) * radius[j]
    return total


@jit
def bound_boxes(
    low: Array,
    high: Array,
    pre_low: Array,
    pre_high: Array,
    outputs: Array,
    output_bias: Array,
    x_rows: Array,
    wanted: Any,
    flat: Array,
    offsets: Any,
    biases: Array,
    starts: Any,
    is_relu: Any,
    errors: Array,
    interval_errors: Array,
    output_errors: Array,
    lower: Array,
    slopes: Array,
    empty: Any,
    unit: Any,
    split_units: Any,
    split_phases: Any,
    split_count: Any,
    spaces: Array,
) -> None:
    """Bounds for boxes ``low, high (B, n)``; everything else by reference.

    Args:
        pre_low, pre_high: ``(B, units)`` bounds of all hidden preactivations that are already known (of a parent);
            tightened in place where the sign is still open.
        outputs, output_bias: ``(S, last hidden)`` and ``(S,)`` rows over the last hidden layer.
        x_rows: ``(S, n)``: what each row adds directly on the input.
        wanted: ``(B, S)`` which rows to bound.
        flat, offsets, biases, starts, is_relu: the hidden layers: weights one after the other, where each begins,
            all biases, the first unit of each layer, and whether a ReLU follows.
        errors, interval_errors, output_errors: rounding slack of the preactivations' backward bounds, of their
            interval bounds, and of the rows.
        lower, slopes: results ``(B, S)`` and ``(B, S, n)`` (the linear function below each row, without constant).
        empty: ``(B,)`` set where the bounds contradict each other.
        unit: ``(B,)`` the open unit whose relaxation costs the rows most (-1: none is open).
    """
    layers = is_relu.size
    inputs = low.shape[1]
    widest = inputs
    for k in range(layers):
        widest = max(widest, starts[k + 1] - starts[k])
    most = max(2 * widest, outputs.shape[0])
    ping, pong = np.empty((most, widest)), np.empty((most, widest))
    constant = np.empty(most)
    picked = np.empty(most, dtype=np.int64)
    total = starts[layers]
    cost, no_cost = np.zeros(total), np.zeros(0)
    lower_slope, upper_slope, upper_intercept = np.ones(total), np.ones(total), np.zeros(total)
    live = np.empty(total, dtype=np.int64)
    counts = np.zeros(layers, dtype=np.int64)
    middle, radius = np.empty(inputs), np.empty(inputs)
    centers, spreads = np.empty(widest), np.empty(widest)
    for box in range(low.shape[0]):
        for j in range(inputs):
            middle[j] = low[box, j] + (high[box, j] - low[box, j]) / 2
            radius[j] = max(high[box, j] - middle[j], middle[j] - low[box, j]) * (1 + 4 * UNIT)
        z_low, z_high = pre_low[box], pre_high[box]
        for k in range(layers):
            first, size = starts[k], starts[k + 1] - starts[k]
            counts[k] = 0
            if not is_relu[k]:
                for i in range(size):
                    live[first + i] = i
                counts[k] = size
                continue
            weight = flat[offsets[k] : offsets[k + 1]].reshape(size, -1)
            interval = k == 0 or is_relu[k - 1]
            if k == 0:
                centers[:inputs], spreads[:inputs] = middle, radius
            elif interval:
                before = starts[k - 1]
                for j in range(weight.shape[1]):
                    value_low, value_high = max(z_low[before + j], 0.0), max(z_high[before + j], 0.0)
                    centers[j] = 0.5 * (value_low + value_high)
                    spreads[j] = (0.5 + 2 * UNIT) * (value_high - value_low)
            open_units = 0
            for i in range(size):
                if z_high[first + i] < 0.0:
                    continue  # a bound of exactly zero may come from a phase: that has to be checked
                if interval:
                    center, spread = biases[first + i], interval_errors[first + i]
                    row = weight[i]
                    for j in range(row.size):
                        center += row[j] * centers[j]
                        spread += abs(row[j]) * spreads[j]
                    z_low[first + i] = max(z_low[first + i], center - spread)
                    z_high[first + i] = min(z_high[first + i], center + spread)
                if z_low[first + i] < 0.0 and z_high[first + i] > 0.0 and k > 0:
                    picked[open_units] = i
                    open_units += 1
            for p in range(open_units):
                i = picked[p]
                constant[2 * p], constant[2 * p + 1] = biases[first + i], -biases[first + i]
                for j in range(weight.shape[1]):
                    ping[2 * p, j], ping[2 * p + 1, j] = weight[i, j], -weight[i, j]
            found = _backward(
                ping,
                pong,
                constant,
                2 * open_units,
                k - 1,
                flat,
                offsets,
                biases,
                starts,
                is_relu,
                lower_slope,
                upper_slope,
                upper_intercept,
                live,
                counts,
                no_cost,
            )
            for p in range(open_units):
                i = first + picked[p]
                bound = _least(found[2 * p], middle, radius) + constant[2 * p] - errors[i]
                z_low[i] = max(z_low[i], bound)
                bound = _least(found[2 * p + 1], middle, radius) + constant[2 * p + 1] - errors[i]
                z_high[i] = min(z_high[i], -bound)
            count = 0
            for i in range(size):
                if z_low[first + i] > z_high[first + i]:
                    empty[box] = True
                    z_low[first + i] = z_high[first + i]
                line = _line(z_low[first + i], z_high[first + i])
                lower_slope[first + i], upper_slope[first + i], upper_intercept[first + i] = line
                if line[1] > 0.0:
                    live[first + count] = i
                    count += 1
            counts[k] = count
        if empty[box]:
            continue
        rows = 0
        for s in range(outputs.shape[0]):
            if wanted[box, s]:
                picked[rows] = s
                constant[rows] = output_bias[s]
                for j in range(outputs.shape[1]):
                    ping[rows, j] = outputs[s, j]
                rows += 1
        cost[:] = 0.0
        found = _backward(
            ping,
            pong,
            constant,
            rows,
            layers - 1,
            flat,
            offsets,
            biases,
            starts,
            is_relu,
            lower_slope,
            upper_slope,
            upper_intercept,
            live,
            counts,
            cost,
        )
        for p in range(rows):
            s = picked[p]
            for j in range(inputs):
                found[p, j] += x_rows[s, j]
            lower[box, s] = _least(found[p], middle, radius) + constant[p] - output_errors[s]
            for j in range(inputs):
                slopes[box, s, j] = found[p, j]
        for h in range(split_count[box]):
            u = split_units[box, h]
            k = 0
            while starts[k + 1] <= u:
                k += 1
            sign = -1.0 if split_phases[box, h] > 0 else 1.0
            weight = flat[offsets[k] : offsets[k + 1]].reshape(starts[k + 1] - starts[k], -1)
            constant[0] = sign * biases[u]
            for j in range(weight.shape[1]):
                ping[0, j] = sign * weight[u - starts[k], j]
            found = _backward(
                ping,
                pong,
                constant,
                1,
                k - 1,
                flat,
                offsets,
                biases,
                starts,
                is_relu,
                lower_slope,
                upper_slope,
                upper_intercept,
                live,
                counts,
                no_cost,
            )
            for j in range(inputs):
                spaces[box, h, j] = found[0, j]
            spaces[box, h, inputs] = constant[0] - errors[u]
        unit[box] = -1
        greatest = 0.0
        for k in range(layers):
            for i in range(starts[k], starts[k + 1]):
                if is_relu[k] and z_low[i] < 0.0 and z_high[i] > 0.0 and cost[i] > greatest:
                    greatest, unit[box] = cost[i], i
