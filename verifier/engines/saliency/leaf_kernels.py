"""Compiled inner loops of `verifier.engines.saliency.leaf`: the Lagrangian, its ascent, and the tree over phases."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from verifier.bounds.crown_dense import jit
from verifier.network.operators import Array

FIRST, SECOND = 0.9, 0.99
"""Decay of Adam's averages (Kingma, Ba, 2015)."""


class Data(NamedTuple):
    """What a `Leaf` gives its kernels; names as there.

    Attributes:
        row_size, neuron_size: ``(K,), (m,)``: what rounding loses, at most, per unit of |μ| and of |s|.
        row_unit, neuron_unit: lengths of steps.
    """

    low: Array
    high: Array
    coordinates: Array
    center: Array
    radius: Array
    slope_matrix: Array
    offset: Array
    outputs: Array
    phase_rows: Array
    coordinate_rows: Array
    row_low: Array
    row_high: Array
    row_size: Array
    neuron_size: Array
    row_unit: Array
    neuron_unit: Array
    speaks: Any
    case: Any


@jit
def lagrangian(
    data: Any,
    phases: Any,
    target: Array,
    s: Array,
    mu: Array,
    alpha: Array,
    kappa: Array,
    by_s: Array,
    by_mu: Array,
    corner: Any,
) -> float:
    """The bound of ``target · y`` for multipliers s, μ, and its supergradient ``by_s, by_mu``.

    Args:
        corner: becomes which corner each t is at.
    """
    k_count, m = data.outputs.shape
    q, n = data.coordinates.shape
    alpha[:], kappa[:] = 0.0, 0.0
    eta = target.copy()
    total = 0.0
    for k in range(k_count):
        u = mu[k]
        if u != 0.0:
            total -= u * (data.row_high[k] if u > 0 else data.row_low[k])
            a, d, e = data.outputs[k], data.phase_rows[k], data.coordinate_rows[k]
            if data.speaks[k, 0]:
                for j in range(m):
                    alpha[j] += u * a[j]
            if data.speaks[k, 1]:
                for j in range(m):
                    kappa[j] += u * d[j]
            if data.speaks[k, 2]:
                for i in range(q):
                    eta[i] += u * e[i]
    for j in range(m):
        least = np.inf
        if phases[j] <= 0:
            least, corner[j] = -s[j] * data.low[j], 0
            if least > 0.0:
                least, corner[j] = 0.0, 1
        if phases[j] >= 0:
            if kappa[j] < least:
                least, corner[j] = kappa[j], 2
            end = (alpha[j] - s[j]) * data.high[j] + kappa[j]
            if end < least:
                least, corner[j] = end, 3
        total += least + s[j] * data.offset[j]
        row = data.slope_matrix[j]
        for i in range(q):
            eta[i] += s[j] * row[i]
    x = np.zeros(n)
    i, lines = 0, data.coordinates
    while i + 4 <= q:
        w0, w1, w2, w3 = eta[i], eta[i + 1], eta[i + 2], eta[i + 3]
        l0, l1, l2, l3 = lines[i], lines[i + 1], lines[i + 2], lines[i + 3]
        for p in range(n):
            x[p] += (w0 * l0[p] + w1 * l1[p]) + (w2 * l2[p] + w3 * l3[p])
        i += 4
    while i < q:
        w0, l0 = eta[i], lines[i]
        for p in range(n):
            x[p] += w0 * l0[p]
        i += 1
    for p in range(n):
        w = x[p]
        total += w * data.center[p] - abs(w) * data.radius[p]
        x[p] = data.center[p] - (data.radius[p] if w > 0 else -data.radius[p])
    y, i = eta, 0
    while i + 4 <= q:
        l0, l1, l2, l3 = lines[i], lines[i + 1], lines[i + 2], lines[i + 3]
        y0, y1, y2, y3 = 0.0, 0.0, 0.0, 0.0
        for p in range(n):
            y0 += l0[p] * x[p]
            y1 += l1[p] * x[p]
            y2 += l2[p] * x[p]
            y3 += l3[p] * x[p]
        y[i], y[i + 1], y[i + 2], y[i + 3] = y0, y1, y2, y3
        i += 4
    while i < q:
        l0, y0 = lines[i], 0.0
        for p in range(n):
            y0 += l0[p] * x[p]
        y[i] = y0
        i += 1
    passing, ending = np.zeros(m), np.zeros(m)
    for j in range(m):
        passing[j] = 1.0 if corner[j] >= 2 else 0.0
        ending[j] = data.high[j] if corner[j] == 3 else 0.0
    for k in range(k_count):
        g = 0.0
        a, d, e = data.outputs[k], data.phase_rows[k], data.coordinate_rows[k]
        if data.speaks[k, 2]:
            for i in range(q):
                g += e[i] * y[i]
        if data.speaks[k, 0]:
            for j in range(m):
                g += a[j] * ending[j]
        if data.speaks[k, 1]:
            for j in range(m):
                g += d[j] * passing[j]
        if mu[k] > 0 or (mu[k] == 0 and g > data.row_high[k]):
            g -= data.row_high[k]
        elif mu[k] < 0 or g < data.row_low[k]:
            g -= data.row_low[k]
        else:
            g = 0.0
        by_mu[k] = g
    for j in range(m):
        z, row = data.offset[j], data.slope_matrix[j]
        for i in range(q):
            z += row[i] * y[i]
        if corner[j] == 0:
            z -= data.low[j]
        elif corner[j] == 3:
            z -= data.high[j]
        by_s[j] = z
    return total


@jit
def rounding(data: Any, s: Array, mu: Array) -> float:
    """What rounding may have added to the bound."""
    total = 0.0
    for k in range(len(mu)):
        total += abs(mu[k]) * data.row_size[k]
    for j in range(len(s)):
        total += abs(s[j]) * data.neuron_size[j]
    return total


@jit
def ascend(
    data: Any,
    phases: Any,
    target: Array,
    goal: float,
    unit: float,
    s: Array,
    mu: Array,
    steps: int,
    step: float,
    decay: float,
    on: Array,
    fixed_scale: bool,
) -> float:
    """Adam from s, μ, which become the best met; returns their bound, rounding of these multipliers subtracted.

    Args:
        target: what is bounded is ``target · y``.
        goal: a bound above this is enough.
        unit: size of the target in terms of the case's rows.
        on: becomes the averages of the phases at the minimisers.
    """
    k_count, m = data.outputs.shape
    alpha, kappa, by_s, by_mu = np.zeros(m), np.zeros(m), np.zeros(m), np.zeros(k_count)
    corner = np.zeros(m, dtype=np.int8)
    s1, s2, mu1, mu2 = np.zeros(m), np.zeros(m), np.zeros(k_count), np.zeros(k_count)
    best, best_s, best_mu = -np.inf, s.copy(), mu.copy()
    for k in range(steps):
        value = lagrangian(data, phases, target, s, mu, alpha, kappa, by_s, by_mu, corner)
        value -= rounding(data, s, mu)
        if value > best:
            best = value
            best_s[:], best_mu[:] = s, mu
            if best > goal:
                break
        share = 0.05 if k else 1.0
        rate1, rate2 = 1 - FIRST ** (k + 1), 1 - SECOND ** (k + 1)
        for j in range(m):
            on[j] += share * ((1.0 if corner[j] >= 2 else 0.0) - on[j])
            s1[j] = FIRST * s1[j] + (1 - FIRST) * by_s[j]
            s2[j] = SECOND * s2[j] + (1 - SECOND) * by_s[j] * by_s[j]
            s[j] += step * unit * data.neuron_unit[j] * s1[j] / rate1 / (np.sqrt(s2[j] / rate2) + 1e-12)
        for r in range(k_count):
            mu1[r] = FIRST * mu1[r] + (1 - FIRST) * by_mu[r]
            mu2[r] = SECOND * mu2[r] + (1 - SECOND) * by_mu[r] * by_mu[r]
            w = mu[r] + step * unit * data.row_unit[r] * mu1[r] / rate1 / (np.sqrt(mu2[r] / rate2) + 1e-12)
            if (w < 0 and data.row_low[r] == -np.inf) or (w > 0 and data.row_high[r] == np.inf):
                w = 0.0
            mu[r] = w
        if fixed_scale:
            weight = 0.0
            for r in range(k_count):
                weight += mu[r] if data.case[r] else 0.0
            for r in range(k_count):
                if data.case[r]:
                    mu[r] = mu[r] / weight if weight > 1e-9 else 1.0
        step *= decay
    s[:], mu[:] = best_s, best_mu
    return best


@jit
def settle(data: Any, phases: Any, s: Array, mu: Array, score: Array, on: Array) -> int:
    """Fix the phases whose opposite these multipliers refute; the number fixed. Scores of the free neurons."""
    k_count, m = data.outputs.shape
    alpha, kappa, by_s, by_mu = np.zeros(m), np.zeros(m), np.zeros(m), np.zeros(k_count)
    corner = np.zeros(m, dtype=np.int8)
    target = np.zeros(len(data.coordinates))
    value = lagrangian(data, phases, target, s, mu, alpha, kappa, by_s, by_mu, corner) - rounding(data, s, mu)
    fixed = 0
    for j in range(m):
        score[j] = -1.0
        if phases[j] != 0:
            continue
        off = min(0.0, -s[j] * data.low[j])
        turned_on = min(kappa[j], (alpha[j] - s[j]) * data.high[j] + kappa[j])
        least = min(off, turned_on)
        if value + (off - least) > 0:
            phases[j] = 1
            fixed += 1
        elif value + (turned_on - least) > 0:
            phases[j] = -1
            fixed += 1
        else:
            width = data.high[j] - data.low[j]
            size = abs(kappa[j]) + abs(alpha[j]) * data.high[j] + abs(s[j]) * width
            score[j] = min(on[j], 1 - on[j]) * size + 1e-3 * size
    return fixed


@jit
def search(
    data: Any,
    stack: Any,
    stack_s: Array,
    stack_mu: Array,
    count: int,
    nodes: int,
    steps: int,
    trial: int,
    candidates: int,
    few: int,
) -> tuple[int, int, bool]:
    """Depth-first search from a stack of subproblems, in place.

    Args:
        stack: phases ``(capacity, m)``; with stack_s, stack_mu: where the ascents start.
        count: subproblems on the stack.
        nodes: most nodes to visit.
        few: subproblems with at most so many free phases are left to the caller.

    Returns:
        subproblems left; nodes visited; whether the last on the stack is one for the caller.
    """
    m = stack.shape[1]
    k_count = stack_mu.shape[1]
    on, score = np.zeros(m), np.zeros(m)
    child_on, nothing = np.zeros(m), np.zeros(len(data.coordinates))
    visited = 0
    kept_s, kept_mu = np.zeros((4, m)), np.zeros((4, k_count))
    while count > 0 and visited < nodes:
        visited += 1
        top = count - 1
        phases, s, mu = stack[top].copy(), stack_s[top].copy(), stack_mu[top].copy()
        value = ascend(data, phases, nothing, 0.0, 1.0, s, mu, steps, 0.1, 0.97, on, True)
        if value > 0:
            count -= 1
            continue
        while settle(data, phases, s, mu, score, on) > 0 and value <= 0:
            value = ascend(data, phases, nothing, 0.0, 1.0, s, mu, trial, 0.05, 0.95, on, True)
        if value > 0:
            count -= 1
            continue
        free = 0
        for j in range(m):
            free += phases[j] == 0
        if free <= few:
            stack[top], stack_s[top], stack_mu[top] = phases, s, mu
            return count, visited, True
        best, chosen, place, first = -1.0, -1, 0, 1
        closed = False
        for _ in range(candidates):
            j = int(np.argmax(score))
            if score[j] < 0:
                break
            score[j] = -1.0
            if phases[j] != 0:
                continue
            gains = np.zeros(2)
            for side in range(2):
                row = place + side
                kept_s[row], kept_mu[row] = s, mu
                phases[j] = 1 - 2 * side
                gains[side] = ascend(
                    data, phases, nothing, 0.0, 1.0, kept_s[row], kept_mu[row], trial, 0.05, 0.95, child_on, True
                )
            phases[j] = 0
            if gains[0] > 0 and gains[1] > 0:
                closed = True
                break
            if gains[0] > 0 or gains[1] > 0:
                side = 1 if gains[0] > 0 else 0
                phases[j] = 1 - 2 * side
                s[:], mu[:] = kept_s[place + side], kept_mu[place + side]
                value = max(value, gains[side])
                continue
            up, down = max(gains[0] - value, 1e-9), max(gains[1] - value, 1e-9)
            if up * down > best:
                best, chosen = up * down, j
                first = 0 if up <= down else 1
                place = 2 - place
        if closed:
            count -= 1
            continue
        if chosen < 0 or phases[chosen] != 0:
            stack[top], stack_s[top], stack_mu[top] = phases, s, mu
            continue
        row = 2 - place
        for position in range(2):
            side = first if position == 1 else 1 - first
            target = top + position
            stack[target], stack_s[target], stack_mu[target] = phases, kept_s[row + side], kept_mu[row + side]
            stack[target, chosen] = 1 - 2 * side
        count = top + 2
    return count, visited, False


@jit
def tighten(
    data: Any, phases: Any, all_s: Array, all_mu: Array, target_unit: Array, target_size: Array, steps: int
) -> tuple[bool, float]:
    """Better bounds of the free neurons' preactivations under all rows, in place.

    Args:
        all_s, all_mu: ``(2 m, m), (2 m, K)``: where the ascents start, and then what they found.
        target_unit, target_size: ``(m,)``: the size of each preactivation in terms of the case's rows, and what
            rounding loses.

    Returns:
        whether the phases are still possible; by how much the mean width shrank, as a factor.
    """
    m = len(phases)
    on = np.zeros(m)
    before, after = 0.0, 0.0
    for j in range(m):
        if phases[j] != 0:
            continue
        before += data.high[j] - data.low[j]
        for side in range(2):
            sign = 1.0 - 2.0 * side
            row = 2 * j + side
            target = sign * data.slope_matrix[j]
            s, mu = all_s[row], all_mu[row]
            goal = -sign * data.offset[j] + target_size[j]
            bound = ascend(data, phases, target, goal, target_unit[j], s, mu, steps, 0.2, 0.95, on, False)
            bound += sign * data.offset[j] - target_size[j]
            if side == 0:
                data.low[j] = max(data.low[j], bound)
            else:
                data.high[j] = min(data.high[j], -bound)
            if bound > 0:
                phases[j] = 1 - 2 * side
                break
        if data.low[j] > data.high[j]:
            return False, 0.0
        after += data.high[j] - data.low[j]
    return True, after / max(before, 1e-300)
