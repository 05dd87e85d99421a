"""The model of rounding that every analysis shares: float64, to nearest, sums in any order, fused operations allowed.

An operation's result is the exact one times ``1 + d`` with ``|d| <= UNIT_ROUNDOFF``, unless it underflows, which `TINY`
covers. A sum of k products is wrong by at most ``gamma(k)`` times the sum of their absolute values (Higham, *Accuracy
and Stability of Numerical Algorithms*, Section 3.1), whatever the order: so the analyses hold on every processor and for
every BLAS. `verifier.proofs.checker.kernel` has a model of its own on purpose: the check must not lean on the search's code.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

Number = Decimal | Fraction
"""An exact number: a decimal of a file, or a fraction."""
UNIT_ROUNDOFF = 2.0**-53
"""Largest relative error of one operation."""
SPACING = 2 * UNIT_ROUNDOFF
"""Distance from 1 to the next larger number: two roundings."""
EIGHT_ROUNDINGS = 8 * UNIT_ROUNDOFF
"""Reserve for each term of sums whose factors were themselves computed in a few operations."""
OUTWARD = 32 * UNIT_ROUNDOFF
"""Relative reserve for the handful of operations that compute one number from given ones (an intercept, say)."""
SUM_RESERVE = 1e-12
"""Relative reserve for sums of at most some thousand terms (γ_4000 < 5e-13)."""
TINY = 1e-290
"""Added to magnitudes so that underflow is covered too."""
LARGEST = 1e150
"""Coefficients stay below this, so that no product or sum of them overflows: infinities and NaN prove nothing."""


def gamma(k: int, unit: float = UNIT_ROUNDOFF) -> float:
    """γ_k = k u / (1 - k u), rounded up (Higham, Section 3.1): the relative error of a sum of k products.

    Args:
        unit: the unit roundoff u of the float type; infinity is returned where k u is not well below 1.
    """
    return k * unit / (1 - k * unit) * (1 + 1e-6) if k * unit < 0.5 else math.inf


def float_around(value: Number) -> tuple[float, float]:
    """The largest float64 at most, and the smallest at least, an exact number; infinities around all of them."""
    try:
        nearest = value.numerator / value.denominator if isinstance(value, Fraction) else float(value)
    except OverflowError:
        nearest = math.inf if value > 0 else -math.inf
    if math.isinf(nearest):  # beyond the largest float64: nothing lies between
        largest = math.nextafter(math.inf, 0.0)
        return (largest, math.inf) if nearest > 0 else (-math.inf, -largest)
    exact: Any = Fraction(nearest) if isinstance(value, Fraction) else Decimal(nearest)
    if exact == value:
        return nearest, nearest
    if exact < value:
        return nearest, math.nextafter(nearest, math.inf)
    return math.nextafter(nearest, -math.inf), nearest


def floats_around(values: Sequence[Number]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """`float_around` of many numbers, below and above: ``(n,)`` each. A property file has thousands of decimals."""
    nearest = np.fromiter(map(float, values), dtype=np.float64, count=len(values)) if _decimals(values) else None
    if nearest is None or not np.isfinite(nearest).all():
        pairs = np.array([float_around(v) for v in values], dtype=np.float64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]
    exact = list(map(Decimal, nearest.tolist()))
    less = np.fromiter(map(operator.lt, exact, values), dtype=bool, count=len(values))
    more = np.fromiter(map(operator.gt, exact, values), dtype=bool, count=len(values))
    below = np.where(more, np.nextafter(nearest, -np.inf), nearest)
    above = np.where(less, np.nextafter(nearest, np.inf), nearest)
    return below, above


def _decimals(values: Sequence[Number]) -> bool:
    return all(type(v) is Decimal for v in values)


def float_below(value: Number) -> float:
    """The largest float64 that is <= an exact number; -infinity below all of them."""
    return float_around(value)[0]


def float_above(value: Number) -> float:
    """The smallest float64 that is >= an exact number; infinity above all of them."""
    return float_around(value)[1]
