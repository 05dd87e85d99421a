"""What to do with each bounded box of low dimension: refute it, cut it, and choose how to split it. Compiled.

On a box a case is refuted if a convex combination of functions that a witness would make <= 0 is positive all
over the box. These functions are linear: below the rows of the case (from CROWN), and the half-spaces that the
ReLU splits on the way to this box have left. The best combination is a small linear program,

    max over w >= 0, Σ w = 1 of  Σ w_i c_i - Σ_j |Σ_i w_i s_ij|     (c at the middle, s times the radius),

solved by the primal simplex method from a basis that is there at once. Only the weights found are used: the bound
that they give is computed anew, with slack for rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from verifier.bounds.crown_dense import jit
from verifier.network.operators import Array

SLACK = 1e-12
"""Relative reserve for the sums of at most some hundred terms in this module (γ_500 < 1e-13)."""


@jit
def best_weights(values: Array, slopes: Array, count: int, weights: Array) -> float:
    """Weights of the combination of ``count`` functions with the greatest least value on [-1, 1]^n; its bound.

    Args:
        values: ``(>= count,)`` at the middle; slopes: ``(>= count, n)`` scaled by the radius.
        weights: result, ``(>= count,)``.
    """
    n = slopes.shape[1]
    best, start = -np.inf, 0
    for i in range(count):
        least = values[i]
        for j in range(n):
            least -= abs(slopes[i, j])
        if least > best:
            best, start = least, i
    weights[:count] = 0.0
    weights[start] = 1.0
    if best > 0.0 or count == 1:
        return best
    columns = count + 2 * n
    table = np.zeros((n + 2, columns + 1))
    basis = np.empty(n + 1, dtype=np.int64)
    basis[n] = start
    for i in range(count):
        table[n, i] = 1.0
        table[n + 1, i] = values[i] - values[start]
    table[n, columns] = 1.0
    table[n + 1, columns] = -values[start]
    for j in range(n):
        sign = 1.0 if slopes[start, j] >= 0.0 else -1.0
        basis[j] = count + 2 * j + (0 if sign > 0.0 else 1)
        table[j, count + 2 * j] = sign
        table[j, count + 2 * j + 1] = -sign
        table[n + 1, count + 2 * j + (1 if sign > 0.0 else 0)] = -2.0
        for i in range(count):
            table[j, i] = sign * (slopes[start, j] - slopes[i, j])
            table[n + 1, i] += table[j, i]
        table[j, columns] = abs(slopes[start, j])
        table[n + 1, columns] += table[j, columns]
    scale = 1e-11 * (1.0 + abs(best))
    for _ in range(10 * (n + count)):
        if table[n + 1, columns] < -scale:
            break  # the objective (its negative stands here) is positive: enough
        enter, gain = -1, scale
        for i in range(columns):
            if table[n + 1, i] > gain:
                enter, gain = i, table[n + 1, i]
        if enter < 0:
            break
        leave, ratio = -1, np.inf
        for j in range(n + 1):
            if table[j, enter] > 1e-12 and table[j, columns] / table[j, enter] < ratio:
                leave, ratio = j, table[j, columns] / table[j, enter]
        if leave < 0:
            break
        pivot = table[leave, enter]
        for i in range(columns + 1):
            table[leave, i] /= pivot
        for j in range(n + 2):
            factor = table[j, enter]
            if j != leave and factor != 0.0:
                for i in range(columns + 1):
                    table[j, i] -= factor * table[leave, i]
        basis[leave] = enter
    weights[:count] = 0.0
    for j in range(n + 1):
        if basis[j] < count:
            weights[basis[j]] = max(table[j, columns], 0.0)
    total, size = 0.0, 0.0
    for i in range(count):
        total += weights[i] * values[i]
        size += weights[i] * abs(values[i])
    for j in range(n):
        slope = 0.0
        for i in range(count):
            slope += weights[i] * slopes[i, j]
            size += weights[i] * abs(slopes[i, j])
        total -= abs(slope)
    return total - SLACK * size - 1e-290


@jit
def _cut(values: float, slope: Array, middle: Array, low: Array, high: Array) -> None:
    """Cut the box ``low, high`` in place to what ``value + slope (x - middle) <= 0`` leaves, by interval reasoning."""
    least, size = values, abs(values)
    for j in range(low.size):
        end = low[j] if slope[j] > 0.0 else high[j]
        least += slope[j] * (end - middle[j])
        size += abs(slope[j]) * (abs(end) + abs(middle[j]))
    room = max(-least, 0.0) + SLACK * size
    for j in range(low.size):
        if slope[j] > 0.0:
            reach = low[j] + room / slope[j] * (1.0 + SLACK)
            high[j] = min(high[j], reach + SLACK * abs(reach))
        elif slope[j] < 0.0:
            reach = high[j] + room / slope[j] * (1.0 + SLACK)
            low[j] = max(low[j], reach - SLACK * abs(reach))


@jit
def decide(
    low: Array,
    high: Array,
    lower: Array,
    slopes: Array,
    case_of: Any,
    spaces: Array,
    space_count: Any,
    widths: Array,
    open_cases: Any,
    bound: Array,
    axis: Any,
    point: Array,
) -> None:
    """Refute, cut and choose the axis to split, for boxes ``low, high (B, n)`` (cut in place).

    Args:
        lower, slopes: ``(B, S)`` bounds of the rows and ``(B, S, n)`` the linear functions that gave them.
        case_of: ``(S,)`` the case of each row.
        spaces, space_count: ``(B, H, n + 1)`` functions (constant last) that must be <= 0, and how many.
        widths: ``(n,)`` of the root box.
        open_cases: ``(B, C)``; False is written where a case is refuted.
        bound: ``(B,)`` result: the least bound over the cases that stay open.
        axis: ``(B,)`` result: the input to split.
        point: ``(B, n)`` result: where the least certain function is least: a candidate for a witness.
    """
    boxes, rows, n = slopes.shape
    most = rows + spaces.shape[1]
    values, scaled, plain, weights = np.empty(most), np.empty((most, n)), np.empty((most, n)), np.empty(most)
    middle, radius = np.empty(n), np.empty(n)
    new_low, new_high, case_low, case_high, share = np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    for box in range(boxes):
        for j in range(n):
            middle[j] = low[box, j] + (high[box, j] - low[box, j]) / 2
            radius[j] = max(high[box, j] - middle[j], middle[j] - low[box, j]) * (1.0 + 1e-15)
            new_low[j], new_high[j], share[j] = np.inf, -np.inf, 0.0
        bound[box] = np.inf
        first = 0
        for case in range(open_cases.shape[1]):
            last = first
            while last < rows and case_of[last] == case:
                last += 1
            if not open_cases[box, case]:
                first = last
                continue
            count = 0
            for s in range(first, last):
                size = abs(lower[box, s])
                values[count] = lower[box, s]
                for j in range(n):
                    plain[count, j] = slopes[box, s, j]
                    scaled[count, j] = slopes[box, s, j] * radius[j]
                    values[count] += abs(scaled[count, j])
                    size += abs(scaled[count, j])
                values[count] -= SLACK * size
                count += 1
            own = count
            for h in range(space_count[box]):
                size = abs(spaces[box, h, n])
                values[count] = spaces[box, h, n]
                for j in range(n):
                    plain[count, j] = spaces[box, h, j]
                    scaled[count, j] = spaces[box, h, j] * radius[j]
                    values[count] += spaces[box, h, j] * middle[j]
                    size += abs(spaces[box, h, j]) * (abs(middle[j]) + radius[j])
                values[count] -= SLACK * size
                count += 1
            first = last
            if count == 0:
                bound[box] = -np.inf
                new_low[:], new_high[:] = low[box], high[box]
                continue
            found = best_weights(values, scaled, count, weights)
            if found > 0.0:
                open_cases[box, case] = False
                continue
            if found < bound[box]:
                bound[box] = found
                for j in range(n):
                    slope = 0.0
                    for i in range(count):
                        slope += weights[i] * plain[i, j]
                    point[box, j] = low[box, j] if slope > 0.0 else high[box, j]
            case_low[:], case_high[:] = low[box], high[box]
            for _ in range(2):
                for i in range(count):
                    _cut(values[i], plain[i], middle, case_low, case_high)
            vanished = False
            for j in range(n):
                vanished = vanished or case_low[j] > case_high[j]
            if vanished:
                open_cases[box, case] = False
                continue
            total = 1e-300
            for i in range(own):
                for j in range(n):
                    total += abs(scaled[i, j])
            for j in range(n):
                new_low[j], new_high[j] = min(new_low[j], case_low[j]), max(new_high[j], case_high[j])
                for i in range(own):
                    share[j] += abs(scaled[i, j]) / total
        if not open_cases[box].any():
            continue
        total, best = 1e-300, -1.0
        for j in range(n):
            total += (new_high[j] - new_low[j]) / widths[j]
        for j in range(n):
            shrunk = (new_high[j] - new_low[j]) / max(high[box, j] - low[box, j], 1e-300)
            score = share[j] * shrunk + (new_high[j] - new_low[j]) / widths[j] / total
            if score > best:
                best, axis[box] = score, j
        low[box, :], high[box, :] = new_low, new_high
