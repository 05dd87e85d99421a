"""Linear functions on a box: the best convex combination of them, and what they cut off. Compiled.

A box is refuted if a convex combination of functions that a witness would make <= 0 is positive all over it. The
best combination is a small linear program,

    max over w >= 0, Σ w = 1 of  Σ w_i c_i - Σ_j |Σ_i w_i s_ij|     (c at the middle, s times the radius),

solved by the primal simplex method from a basis that is there at once. Only the weights found are used: the bound
that they give is computed anew, with slack for rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from verifier.bounds.crown_dense import jit
from verifier.network.operators import Array
from verifier.rounding import SUM_RESERVE, TINY, UNIT_ROUNDOFF


class Functions(NamedTuple):
    """Functions ``values[i] + plain[i] @ (x - middle)`` on one box, over the inputs that vary, and room to work.

    Attributes:
        values, plain: ``(most,)``, ``(most, n)``.
        scaled: ``plain`` times the radius of the box.
        shares: ``(most, rows)`` of which rows of the condition each function is a bound.
        weights, target: results of `best_weights`, ``(most,)``, ``(n,)``.
        low, high: what `cut` leaves of the box.
    """

    values: Array
    plain: Array
    scaled: Array
    shares: Array
    weights: Array
    target: Array
    low: Array
    high: Array


@jit
def workspace_of(most: int, inputs: int, rows: int) -> Functions:
    """Room for so many functions."""
    return Functions(
        np.empty(most),
        np.empty((most, inputs)),
        np.empty((most, inputs)),
        np.zeros((most, rows)),
        np.empty(most),
        np.empty(inputs),
        np.empty(inputs),
        np.empty(inputs),
    )


@jit
def put(
    f: Functions, k: int, slope: Array, constant: float, middle: Array, radius: Array, free: npt.NDArray[np.int64]
) -> None:
    """Store ``slope @ x + constant`` as function k, its value at the middle of the box rounded downwards."""
    value, size = constant, abs(constant)
    for j in range(middle.size):
        value += slope[j] * middle[j]
        size += abs(slope[j]) * (abs(middle[j]) + radius[j])
    for p in range(free.size):
        f.plain[k, p], f.scaled[k, p] = slope[free[p]], slope[free[p]] * radius[free[p]]
    f.values[k] = value - (SUM_RESERVE + 4 * UNIT_ROUNDOFF * middle.size) * size
    f.shares[k, :] = 0.0


@jit
def _least(f: Functions, count: int, weights: Array) -> float:
    """A proved lower bound of a combination of the first functions."""
    total, size = 0.0, 0.0
    for i in range(count):
        total += weights[i] * f.values[i]
        size += weights[i] * abs(f.values[i])
    for j in range(f.scaled.shape[1]):
        slope = 0.0
        for i in range(count):
            slope += weights[i] * f.scaled[i, j]
            size += weights[i] * abs(f.scaled[i, j])
        total -= abs(slope)
    return total - SUM_RESERVE * size - TINY


@jit
def best_weights(f: Functions, count: int) -> float:
    """The greatest least value that a convex combination of the first functions has on the box.

    Writes ``f.weights``, and ``f.target``: where the greatest of the functions is least (in [-1, 1]^n).
    """
    values, slopes, weights, point = f.values, f.scaled, f.weights, f.target
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
    for j in range(n):
        point[j] = -1.0 if slopes[start, j] > 0.0 else 1.0
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
    for j in range(n):
        point[j] = min(max(-1.0 - table[n + 1, count + 2 * j], -1.0), 1.0)
    return _least(f, count, weights)


@jit
def shorten(f: Functions, count: int) -> None:
    """Round the weights of a combination that is positive to few bits, as long as it stays so."""
    short = np.empty(count)
    parts = 4.0
    for _ in range(6):
        for i in range(count):
            short[i] = np.floor(f.weights[i] * parts + 0.5) / parts
        if _least(f, count, short) > 0.0:
            f.weights[:count] = short
            return
        parts *= 8.0 if parts > 30.0 else 2.0


@jit
def cut(f: Functions, count: int, middle: Array, turns: int) -> bool:
    """Cut ``f.low, f.high`` to what the first functions leave (all <= 0), by interval reasoning; False: nothing."""
    for _ in range(turns):
        for i in range(count):
            least, size = f.values[i], abs(f.values[i])
            for j in range(f.low.size):
                slope = f.plain[i, j]
                end = f.low[j] if slope > 0.0 else f.high[j]
                least += slope * (end - middle[j])
                size += abs(slope) * (abs(end) + abs(middle[j]))
            remaining = max(-least, 0.0) + SUM_RESERVE * size
            for j in range(f.low.size):
                slope = f.plain[i, j]
                if slope > 0.0:
                    reach = f.low[j] + remaining / slope * (1.0 + SUM_RESERVE)
                    f.high[j] = min(f.high[j], reach + SUM_RESERVE * abs(reach))
                elif slope < 0.0:
                    reach = f.high[j] + remaining / slope * (1.0 + SUM_RESERVE)
                    f.low[j] = max(f.low[j], reach - SUM_RESERVE * abs(reach))
    possible = True
    for j in range(f.low.size):
        possible = possible and f.low[j] <= f.high[j]
    return possible
