"""What to do with boxes of low dimension: refute them, cut them, and choose how to split them. Compiled.

The functions that a witness would make <= 0 are linear: below the rows of a disjunct (from CROWN), and below what the
ReLU splits on the way to a box have left. `verifier.engines.native.combine` refutes and cuts with them.

More functions are made where they are needed (cutting planes, Kelley 1960): at the point where the
greatest of the functions is least, the combination of rows that the linear program found is bounded as one row, with
each ReLU's lower slope right for this point. Terms cancel in the combination, so its bound is better than the
combination of the rows' bounds.

A box is split where the relaxation loses most: what each unstable ReLU's upper line costs the combination is laid upon
the inputs in proportion to how far they move the ReLU's preactivation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from verifier.bounds.crown_dense import FeedForward, Work, backward, evaluate, jit, tighten, workspace
from verifier.engines.native.combine import Functions, best_weights, cut, put, shorten, workspace_of
from verifier.engines.native.rows import Certificates, Flags, Integers, Results
from verifier.engines.native.settings import CutSettings
from verifier.network.operators import Array


class DisjunctRows(NamedTuple):
    """The rows of all disjuncts over the last hidden layer of a feed-forward network: ``outputs @ h + constants + x_rows @ x <= 0``.

    Attributes:
        outputs, constants, x_rows: ``(S, last)``, ``(S,)``, ``(S, n)``.
        errors: ``(S,)`` rounding slack of each row's bound.
        disjunct_of: ``(S,)`` the disjunct of each row, not decreasing.
    """

    outputs: Array
    constants: Array
    x_rows: Array
    errors: Array
    disjunct_of: Integers


class Splits(NamedTuple):
    """The ReLUs that were split on the way to each box, and the half-spaces they leave (see `tighten`)."""

    neurons: Integers
    phases: npt.NDArray[np.int8]
    counts: Integers
    spaces: Array


@jit
def _any(flags: Flags) -> bool:
    found = False
    for flag in flags:
        found = found or flag
    return found


@jit
def _margin(network: FeedForward, rows: DisjunctRows, first: int, last: int, x: Array, z: Array) -> float:
    """The greatest row of a disjunct at a point with known preactivations."""
    width = rows.outputs.shape[1]
    start, rectified = network.biases.size - width, network.is_relu[network.is_relu.size - 1]
    greatest = -np.inf
    for s in range(first, last):
        y = rows.constants[s]
        for i in range(width):
            value = z[start + i]
            y += rows.outputs[s, i] * (max(value, 0.0) if rectified else value)
        for j in range(x.size):
            y += rows.x_rows[s, j] * x[j]
        greatest = max(greatest, y)
    return greatest


@jit
def _bound_rows(
    network: FeedForward, work: Work, rows: DisjunctRows, wanted: Flags, slopes: Array, constants: Array
) -> None:
    """Linear functions below the rows of the wanted disjuncts, with the default lower slopes."""
    count, width = 0, rows.outputs.shape[1]
    for s in range(rows.disjunct_of.size):
        if wanted[rows.disjunct_of[s]]:
            work.picked[count], work.constant[count] = s, rows.constants[s]
            work.ping[count, :width] = rows.outputs[s]
            count += 1
    none = np.zeros(0)
    found = backward(network, work, work.lower_slope, count, network.is_relu.size - 1, none)
    for p in range(count):
        s = work.picked[p]
        constants[s] = work.constant[p] - rows.errors[s]
        for j in range(slopes.shape[1]):
            slopes[s, j] = found[p, j] + rows.x_rows[s, j]


@jit
def _new_function(
    network: FeedForward,
    work: Work,
    rows: DisjunctRows,
    f: Functions,
    count: int,
    first: int,
    last: int,
    lower_slope: Array,
    cost: Array,
    slope: Array,
    free: Integers,
    parts: int,
) -> bool:
    """Bound the best combination of the rows of a disjunct as one row: function ``count``. False if no row is in it.

    What the unstable ReLUs cost it is written to ``cost``.

    Args:
        parts: shares of rows are rounded to so many parts of 1; 0: they are not.
    """
    width, n = rows.outputs.shape[1], work.middle.size
    mix = np.zeros(last - first)
    whole = 0.0
    for s in range(first, last):
        for i in range(count):
            mix[s - first] += f.weights[i] * f.shares[i, s]
        whole += mix[s - first]
    if whole < 1e-9:
        return False
    constant, error = 0.0, 0.0
    work.ping[0, :width] = 0.0
    slope[:] = 0.0
    for s in range(first, last):
        share = mix[s - first] / whole
        if parts > 0:
            share = np.floor(share * parts + 0.5) / parts
        mix[s - first] = share
        if share > 0.0:
            constant += share * rows.constants[s]
            error += share * rows.errors[s]
            for i in range(width):
                work.ping[0, i] += share * rows.outputs[s, i]
            for j in range(n):
                slope[j] += share * rows.x_rows[s, j]
    work.constant[0] = constant
    cost[:] = 0.0
    found = backward(network, work, lower_slope, 1, network.is_relu.size - 1, cost)
    for j in range(n):
        slope[j] += found[0, j]
    # the errors of the rows cover the rounding of a combination of few of them: see `row_errors`
    put(f, count, slope, work.constant[0] - error * (1 + 1e-9), work.middle, work.radius, free)
    for s in range(first, last):
        f.shares[count, s] = mix[s - first]
    return True


@jit
def _losses(work: Work, z_low: Array, z_high: Array, cost: Array, free: Integers, loss: Array) -> int:
    """Lay the costs of the unstable ReLUs upon the inputs; returns the ReLU that costs most, -1 for none."""
    greatest, neuron = 0.0, -1
    loss[:] = 0.0
    for i in range(cost.size):
        if z_low[i] >= 0.0 or z_high[i] <= 0.0 or cost[i] <= 0.0:
            continue
        if cost[i] > greatest:
            greatest, neuron = cost[i], i
        whole = 1e-300
        for p in range(free.size):
            whole += work.reach[i, free[p]]
        for p in range(free.size):
            loss[p] += cost[i] * work.reach[i, free[p]] / whole
    return neuron


@jit
def _axis(
    gain: Array, even: float, radius: Array, hull_low: Array, hull_high: Array, widths: Array, free: Integers
) -> int:
    """The input to split: that with the greatest gain, less what cutting has gained there already."""
    whole, all_widths = 1e-300, 1e-300
    for p in range(free.size):
        whole += gain[p]
        all_widths += (hull_high[p] - hull_low[p]) / widths[p]
    best, axis = -1.0, 0
    for p in range(free.size):
        width = hull_high[p] - hull_low[p]
        shrunk = width / max(2 * radius[free[p]], 1e-300)
        score = shrunk * gain[p] / whole + even * width / widths[p] / all_widths
        if score > best:
            best, axis = score, p
    return axis


@jit
def examine_dense(
    low: Array,
    high: Array,
    pre_low: Array,
    pre_high: Array,
    open_disjuncts: Flags,
    splits: Splits,
    network: FeedForward,
    rows: DisjunctRows,
    free: Integers,
    widths: Array,
    results: Results,
    kept: Certificates,
    cuts: CutSettings,
) -> None:
    """Bound, refute and cut boxes for a feed-forward network, and choose how to split what stays open.

    Args:
        low, high: ``(B, n)`` the boxes, cut in place.
        pre_low, pre_high: ``(B, neurons)`` known bounds of the preactivations, tightened in place.
        open_disjuncts: ``(B, C)``; False is written where a disjunct is refuted.
        splits: ReLU splits; the half-spaces are made tighter in place.
        free: the inputs that vary.
        widths: their widths in the root box.
        kept: where it is written why a disjunct is refuted; then only combinations of functions refute.
        cuts: what is spent on a box.
    """
    boxes, n = low.shape
    keep = kept.empty.size > 0
    parts = cuts.parts if keep else 0
    row_count, neurons, varying = rows.disjunct_of.size, network.biases.size, free.size
    work = workspace(network, n, row_count)
    f = workspace_of(row_count + splits.spaces.shape[1] + cuts.functions, varying, row_count)
    z, lower_slope, cost, all_costs = np.empty(neurons), np.empty(neurons), np.empty(neurons), np.empty(neurons)
    x, slope, middle, loss = np.empty(n), np.empty(n), np.empty(varying), np.empty(varying)
    hull_low, hull_high = np.empty(varying), np.empty(varying)
    row_slopes, row_constants = np.empty((row_count, n)), np.empty(row_count)
    for box in range(boxes):
        z_low, z_high, split_count, spaces = pre_low[box], pre_high[box], splits.counts[box], splits.spaces[box]
        results.bound[box], results.neuron[box], results.margin[box] = np.inf, -1, np.inf
        if not tighten(
            network,
            work,
            low[box],
            high[box],
            z_low,
            z_high,
            splits.neurons[box],
            splits.phases[box],
            split_count,
            spaces,
        ):
            open_disjuncts[box, :] = False
            if keep:
                kept.empty[box] = True
            continue
        _bound_rows(network, work, rows, open_disjuncts[box], row_slopes, row_constants)
        hull_low[:], hull_high[:], all_costs[:] = np.inf, -np.inf, 0.0
        for p in range(varying):
            middle[p] = work.middle[free[p]]
        last = 0
        for disjunct in range(open_disjuncts.shape[1]):
            first = last
            while last < row_count and rows.disjunct_of[last] == disjunct:
                last += 1
            if not open_disjuncts[box, disjunct]:
                continue
            count = 0
            for s in range(first, last):
                put(f, count, row_slopes[s], row_constants[s], work.middle, work.radius, free)
                f.shares[count, s] = 1.0
                count += 1
            for h in range(split_count):
                put(f, count, spaces[h, :n], spaces[h, n], work.middle, work.radius, free)
                count += 1
            cost[:] = 0.0
            given = count
            value = best_weights(f, count) if count > 0 else -np.inf
            for _ in range(cuts.functions):
                if value > 0.0:
                    break
                for j in range(n):
                    x[j] = work.middle[j]
                for p in range(varying):
                    x[free[p]] += f.target[p] * work.radius[free[p]]
                evaluate(network, work, x, z)
                margin = _margin(network, rows, first, last, x, z)
                if margin < results.margin[box]:
                    results.margin[box] = margin
                    results.point[box] = x
                for i in range(neurons):
                    lower_slope[i] = work.lower_slope[i]
                    if z_low[i] < 0.0 and z_high[i] > 0.0:
                        lower_slope[i] = 1.0 if z[i] > 0.0 else 0.0
                if not _new_function(network, work, rows, f, count, first, last, lower_slope, cost, slope, free, parts):
                    break
                here = f.values[count]
                for p in range(varying):
                    here += f.scaled[count, p] * f.target[p]
                if not here > value + cuts.worth * abs(value):  # NaN is worth nothing
                    break
                if keep:
                    kept.mixes[box, disjunct, count - given] = f.shares[count]
                    for i in range(neurons):
                        kept.slopes[box, disjunct, count - given, i] = lower_slope[i] > 0.5
                count += 1
                value = best_weights(f, count)
            for p in range(varying):
                f.low[p], f.high[p] = low[box, free[p]], high[box, free[p]]
            if value > 0.0 and keep:
                shorten(f, count)
                for i in range(count):
                    kept.weights[box, disjunct, i] = f.weights[i]
            possible = value <= 0.0 and cut(f, count, middle, cuts.turns)
            if value > 0.0 or not (possible or keep):
                open_disjuncts[box, disjunct] = False
                continue
            if not possible:  # without a combination that says so
                for p in range(varying):
                    f.low[p], f.high[p] = low[box, free[p]], high[box, free[p]]
            results.bound[box] = min(results.bound[box], value)
            for i in range(neurons):
                all_costs[i] += cost[i]
            for p in range(varying):
                hull_low[p], hull_high[p] = min(hull_low[p], f.low[p]), max(hull_high[p], f.high[p])
        if not _any(open_disjuncts[box]):
            continue
        results.neuron[box] = _losses(work, z_low, z_high, all_costs, free, loss)
        results.axis[box] = _axis(loss, cuts.even, work.radius, hull_low, hull_high, widths, free)
        for p in range(varying):
            low[box, free[p]], high[box, free[p]] = hull_low[p], hull_high[p]
