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


class Task(NamedTuple):
    """What is the same for all boxes of a search.

    Attributes:
        network, rows: what is bounded.
        free, widths: the inputs that vary, and their widths in the root box.
        cuts: what may be spent on a box.
    """

    network: FeedForward
    rows: DisjunctRows
    free: Integers
    widths: Array
    cuts: CutSettings


class Scratch(NamedTuple):
    """Working memory for the disjuncts of one box, beside `crown_dense.Work`.

    Attributes:
        functions: below the rows of a disjunct.
        row_slopes, row_constants: ``(S, n)``, ``(S,)`` the functions that CROWN finds below all rows.
        z, lower_slope: ``(neurons,)`` preactivations at a point, and the lower slopes that are right for it.
        cost, all_costs: ``(neurons,)`` what the ReLUs' upper lines cost a disjunct, and all that stay open.
        x, slope: ``(n,)``.
        middle, loss, hull_low, hull_high: over the inputs that vary: of the box, of the costs, around what is left.
    """

    functions: Functions
    row_slopes: Array
    row_constants: Array
    z: Array
    lower_slope: Array
    cost: Array
    all_costs: Array
    x: Array
    slope: Array
    middle: Array
    loss: Array
    hull_low: Array
    hull_high: Array


@jit
def _scratch(task: Task, inputs: int, spaces: int) -> Scratch:
    rows, neurons, varying = task.rows.disjunct_of.size, task.network.biases.size, task.free.size
    return Scratch(
        workspace_of(rows + spaces + task.cuts.functions, varying, rows),
        np.empty((rows, inputs)),
        np.empty(rows),
        np.empty(neurons),
        np.empty(neurons),
        np.empty(neurons),
        np.empty(neurons),
        np.empty(inputs),
        np.empty(inputs),
        np.empty(varying),
        np.empty(varying),
        np.empty(varying),
        np.empty(varying),
    )


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
def _new_function(task: Task, work: Work, s: Scratch, count: int, first: int, last: int, parts: int) -> bool:
    """Bound the best combination of the rows of a disjunct as one row: function ``count``. False if no row is in it.

    What the unstable ReLUs cost it is written to ``s.cost``.

    Args:
        first, last: the disjunct's rows.
        parts: shares of rows are rounded to so many parts of 1; 0: they are not.
    """
    network, rows, f, slope = task.network, task.rows, s.functions, s.slope
    width, n = rows.outputs.shape[1], work.middle.size
    mix = np.zeros(last - first)
    whole = 0.0
    for k in range(first, last):
        for i in range(count):
            mix[k - first] += f.weights[i] * f.shares[i, k]
        whole += mix[k - first]
    if whole < 1e-9:
        return False
    constant, error = 0.0, 0.0
    work.ping[0, :width] = 0.0
    slope[:] = 0.0
    for k in range(first, last):
        share = mix[k - first] / whole
        if parts > 0:
            share = np.floor(share * parts + 0.5) / parts
        mix[k - first] = share
        if share > 0.0:
            constant += share * rows.constants[k]
            error += share * rows.errors[k]
            for i in range(width):
                work.ping[0, i] += share * rows.outputs[k, i]
            for j in range(n):
                slope[j] += share * rows.x_rows[k, j]
    work.constant[0] = constant
    s.cost[:] = 0.0
    found = backward(network, work, s.lower_slope, 1, network.is_relu.size - 1, s.cost)
    for j in range(n):
        slope[j] += found[0, j]
    # the errors of the rows cover the rounding of a combination of few of them: see `row_errors`
    put(f, count, slope, work.constant[0] - error * (1 + 1e-9), work.middle, work.radius, task.free)
    for k in range(first, last):
        f.shares[count, k] = mix[k - first]
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
def _given(task: Task, work: Work, s: Scratch, first: int, last: int, spaces: Array, split_count: int) -> int:
    """The functions below the rows of a disjunct, and the half-spaces that ReLU splits leave; returns how many."""
    count, n = 0, work.middle.size
    for k in range(first, last):
        put(s.functions, count, s.row_slopes[k], s.row_constants[k], work.middle, work.radius, task.free)
        s.functions.shares[count, k] = 1.0
        count += 1
    for h in range(split_count):
        put(s.functions, count, spaces[h, :n], spaces[h, n], work.middle, work.radius, task.free)
        count += 1
    return count


@jit
def _visit(
    task: Task, work: Work, s: Scratch, first: int, last: int, z_low: Array, z_high: Array, results: Results, box: int
) -> None:
    """Evaluate the network where the greatest function is least, note the point, and take the slopes right for it."""
    f, free, n = s.functions, task.free, work.middle.size
    for j in range(n):
        s.x[j] = work.middle[j]
    for p in range(free.size):
        s.x[free[p]] += f.target[p] * work.radius[free[p]]
    evaluate(task.network, work, s.x, s.z)
    margin = _margin(task.network, task.rows, first, last, s.x, s.z)
    if margin < results.margin[box]:
        results.margin[box] = margin
        results.point[box] = s.x
    for i in range(s.z.size):
        s.lower_slope[i] = work.lower_slope[i]
        if z_low[i] < 0.0 and z_high[i] > 0.0:
            s.lower_slope[i] = 1.0 if s.z[i] > 0.0 else 0.0


@jit
def _examine_disjunct(
    task: Task,
    work: Work,
    s: Scratch,
    first: int,
    last: int,
    z_low: Array,
    z_high: Array,
    spaces: Array,
    split_count: int,
    results: Results,
    kept: Certificates,
    box: int,
    disjunct: int,
) -> tuple[int, float]:
    """Functions below the rows ``first`` to ``last`` of a disjunct, and new ones; how many, and the bound they give."""
    f, keep = s.functions, kept.empty.size > 0
    count = given = _given(task, work, s, first, last, spaces, split_count)
    s.cost[:] = 0.0
    value = best_weights(f, count) if count > 0 else -np.inf
    for _ in range(task.cuts.functions):
        if value > 0.0:
            break
        _visit(task, work, s, first, last, z_low, z_high, results, box)
        if not _new_function(task, work, s, count, first, last, task.cuts.parts if keep else 0):
            break
        here = f.values[count]
        for p in range(task.free.size):
            here += f.scaled[count, p] * f.target[p]
        if not here > value + task.cuts.worth * abs(value):  # NaN is worth nothing
            break
        if keep:
            kept.mixes[box, disjunct, count - given] = f.shares[count]
            for i in range(s.z.size):
                kept.slopes[box, disjunct, count - given, i] = s.lower_slope[i] > 0.5
        count += 1
        value = best_weights(f, count)
    if value > 0.0 and keep:
        shorten(f, count)
        for i in range(count):
            kept.weights[box, disjunct, i] = f.weights[i]
    return count, value


@jit
def _left_of_box(task: Task, s: Scratch, low: Array, high: Array, count: int, value: float, keep: bool) -> bool:
    """Cut the box with a disjunct's functions and join the hull of what they leave; False if the disjunct is refuted."""
    f, free = s.functions, task.free
    for p in range(free.size):
        f.low[p], f.high[p] = low[free[p]], high[free[p]]
    possible = value <= 0.0 and cut(f, count, s.middle, task.cuts.turns)
    if value > 0.0 or not (possible or keep):
        return False
    if not possible:  # without a combination that says so
        for p in range(free.size):
            f.low[p], f.high[p] = low[free[p]], high[free[p]]
    for i in range(s.cost.size):
        s.all_costs[i] += s.cost[i]
    for p in range(free.size):
        s.hull_low[p], s.hull_high[p] = min(s.hull_low[p], f.low[p]), max(s.hull_high[p], f.high[p])
    return True


@jit
def examine_dense(
    low: Array,
    high: Array,
    pre_low: Array,
    pre_high: Array,
    open_disjuncts: Flags,
    splits: Splits,
    task: Task,
    results: Results,
    kept: Certificates,
) -> None:
    """Bound, refute and cut boxes for a feed-forward network, and choose how to split what stays open.

    Args:
        low, high: ``(B, n)`` the boxes, cut in place.
        pre_low, pre_high: ``(B, neurons)`` known bounds of the preactivations, tightened in place.
        open_disjuncts: ``(B, C)``; False is written where a disjunct is refuted.
        splits: ReLU splits; the half-spaces are made tighter in place.
        kept: where it is written why a disjunct is refuted; then only combinations of functions refute.
    """
    keep, disjunct_of, free = kept.empty.size > 0, task.rows.disjunct_of, task.free
    work = workspace(task.network, low.shape[1], disjunct_of.size)
    s = _scratch(task, low.shape[1], splits.spaces.shape[1])
    for box in range(len(low)):
        z_low, z_high, split_count, spaces = pre_low[box], pre_high[box], splits.counts[box], splits.spaces[box]
        neurons, phases, alive = splits.neurons[box], splits.phases[box], open_disjuncts[box]
        results.bound[box], results.neuron[box], results.margin[box] = np.inf, -1, np.inf
        if not tighten(task.network, work, low[box], high[box], z_low, z_high, neurons, phases, split_count, spaces):
            alive[:] = False
            if keep:
                kept.empty[box] = True
            continue
        _bound_rows(task.network, work, task.rows, alive, s.row_slopes, s.row_constants)
        s.hull_low[:], s.hull_high[:], s.all_costs[:] = np.inf, -np.inf, 0.0
        for p in range(free.size):
            s.middle[p] = work.middle[free[p]]
        last = 0
        for disjunct in range(alive.size):
            first = last
            while last < disjunct_of.size and disjunct_of[last] == disjunct:
                last += 1
            if not alive[disjunct]:
                continue
            count, value = _examine_disjunct(
                task, work, s, first, last, z_low, z_high, spaces, split_count, results, kept, box, disjunct
            )
            alive[disjunct] = _left_of_box(task, s, low[box], high[box], count, value, keep)
            if alive[disjunct]:
                results.bound[box] = min(results.bound[box], value)
        if not _any(alive):
            continue
        results.neuron[box] = _losses(work, z_low, z_high, s.all_costs, free, s.loss)
        results.axis[box] = _axis(s.loss, task.cuts.even, work.radius, s.hull_low, s.hull_high, task.widths, free)
        for p in range(free.size):
            low[box, free[p]], high[box, free[p]] = s.hull_low[p], s.hull_high[p]
