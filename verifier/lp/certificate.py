"""What row multipliers of a linear program prove, with all rounding errors bounded.

HiGHS answers within tolerances, so its multipliers are only a hint: *any* vector of row multipliers gives a valid bound
by weak duality, and it is evaluated here in float64 with a proved bound on the errors (Neumaier, Shcherbina, *Safe
bounds in linear and mixed-integer programming*, 2004). No other place of the program concludes from an LP.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from verifier.network.operators import Array
from verifier.rounding import EIGHT_ROUNDINGS, TINY


def dual_bound(
    matrix: Any,
    row_lower: Array,
    row_upper: Array,
    lower: Array,
    upper: Array,
    cost: Array,
    multipliers: Array,
) -> float:
    """A lower bound of ``cost · x`` over all ``lower <= x <= upper`` with ``row_lower <= A x <= row_upper``.

    ``cost · x = y · A x + (cost - Aᵀ y) · x >= Σ_{y>0} y row_lower + Σ_{y<0} y row_upper + min over the box``;
    rounding errors are subtracted.

    Args:
        matrix: A, ``(rows, columns)``, dense or sparse.
        row_lower, row_upper: ``(rows,)``, infinite for none; a multiplier that would need such an end counts as 0.
        lower, upper: ``(columns,)``; where one is infinite, only a reduced cost that is exactly 0 there is of use.
        cost: ``(columns,)``.
        multipliers: y, ``(rows,)``, any numbers.

    Source:
        Neumaier, Shcherbina, Mathematical Programming 2004: safe bounds from any multipliers by
        weak duality.
    """
    y = multipliers
    needed = np.where(y > 0, row_lower, np.where(y < 0, row_upper, 0.0))
    usable = np.isfinite(needed)
    if not usable.all():
        y, needed = np.where(usable, y, 0.0), np.where(usable, needed, 0.0)
    reduced = cost - y @ matrix
    spread = np.abs(cost) + np.abs(y) @ abs(matrix)
    rows = y * needed
    magnitude = np.maximum(np.abs(lower), np.abs(upper))
    terms = matrix.shape[0] + matrix.shape[1] + 8
    with np.errstate(invalid="ignore"):  # an infinite end times a reduced cost of 0 is no number, and means 0
        ends = np.where(reduced == 0, 0.0, np.minimum(reduced * lower, reduced * upper))
        weighed = np.where(spread > 0, spread * magnitude, 0.0)  # infinite unless the reduced cost is exact
    error = EIGHT_ROUNDINGS * terms * (weighed.sum() + np.abs(rows).sum()) + TINY
    return float(rows.sum() + ends.sum() - error)


def refutes(matrix: Any, row_lower: Array, row_upper: Array, lower: Array, upper: Array, multipliers: Array) -> bool:
    """Whether row multipliers prove that no x in the box meets the rows: a positive bound of the zero objective.

    Shapes: matrix ``(m, n)``; row_lower, row_upper, multipliers ``(m,)``; lower, upper ``(n,)``.

    Source:
        Farkas, 1902; Neumaier, Shcherbina, Mathematical Programming 2004.
    """
    bound = dual_bound(matrix, row_lower, row_upper, lower, upper, np.zeros(len(lower)), multipliers)
    return bound > 0


def ray_refutes(matrix: Any, row_lower: Array, row_upper: Array, lower: Array, upper: Array, ray: Array) -> bool:
    """Whether a solver's dual ray, with either sign and its noise removed, proves that no x in the box meets the rows.

    Shapes: matrix ``(m, n)``; row_lower, row_upper, ray ``(m,)``; lower, upper ``(n,)``.

    Source:
        Farkas, 1902; Neumaier, Shcherbina, Mathematical Programming 2004.
    """
    size = np.abs(ray).max(initial=0.0)
    if not np.isfinite(size) or size == 0:
        return False
    for threshold in (0.0, 1e-9, 1e-7):
        kept = np.where(np.abs(ray) > threshold * size, ray, 0.0) / size
        for candidate in (kept, -kept):
            if refutes(matrix, row_lower, row_upper, lower, upper, candidate):
                return True
    return False
