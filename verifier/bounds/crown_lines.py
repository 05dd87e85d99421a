"""Lines above and below activations: the relaxations that `verifier.bounds.crown` propagates through.

Every line is valid in exact arithmetic for the float64 numbers returned: intercepts are moved outwards by more
than the rounding error of their computation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.network.operators import Array, Shape
from verifier.network.piecewise import MaxPool, PiecewiseLinear
from verifier.rounding import OUTWARD, TINY


@dataclass(frozen=True, eq=False)
class Lines:
    """``lower_slope z + lower_intercept <= f(z) <= upper_slope z + upper_intercept`` for z within the bounds.

    Attributes:
        lower_slope, upper_slope, upper_intercept: ``(boxes, size)``.
        lower_intercept: ``(boxes, size)``; None when all are zero (ReLU).
        unstable: ``(boxes, size)``: where the two lines differ.
    """

    lower_slope: Array
    lower_intercept: Array | None
    upper_slope: Array
    upper_intercept: Array
    unstable: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class PoolLines:
    """MaxPool: ``z[chosen] <= f <= z[chosen]`` where decided, else ``z[chosen] <= f <= upper``.

    Attributes:
        chosen: ``(boxes, outputs)`` flat index of the input with the largest lower bound in each window.
        decided: ``(boxes, outputs)``: no other input of the window can exceed the chosen one.
        upper: ``(boxes, outputs)`` largest upper bound in the window.
    """

    chosen: npt.NDArray[np.intp]
    decided: npt.NDArray[np.bool_]
    upper: Array

    @property
    def unstable(self) -> npt.NDArray[np.bool_]:
        """Where the maximum is not decided."""
        return ~self.decided


def relu_lines(low: Array, high: Array) -> Lines:
    """The chord above; below, the line 0 or z, whichever leaves less area (CROWN's adaptive choice)."""
    active = low >= 0
    unstable = (low < 0) & (high > 0)
    width = np.where(unstable, high - low, 1.0)
    upper_slope = np.where(unstable, np.minimum(high / width, 1.0), active)
    intercept = np.maximum(-upper_slope * low, high * (1 - upper_slope))
    intercept += OUTWARD * (high - low) + TINY
    lower_slope = np.where(unstable, high > -low, active).astype(np.float64)
    return Lines(lower_slope, None, upper_slope, np.where(unstable, intercept, 0.0), unstable)


def piecewise_lines(operator: PiecewiseLinear, low: Array, high: Array) -> Lines:
    """Lines for any elementwise function: on ``[low, high]`` it is extreme at the ends and at its breakpoints.

    For a slope s the best intercepts are ``min f(p) - s p`` and ``max f(p) - s p`` over these vertices p. The
    slopes tried are those of all chords between vertices; kept is the one whose line is best at the middle
    (the segment of the convex or concave envelope there), which for ReLU is CROWN's choice.
    """
    if operator.is_relu:
        return relu_lines(low, high)
    breaks = [np.clip(np.full_like(low, b), low, high) for b in operator.breaks]
    points = [low, *breaks, high]
    values = [operator.forward(p) for p in points]
    slack = OUTWARD * sum((np.abs(v) for v in values), start=np.zeros_like(low)) + TINY
    slopes, intercepts = np.asarray(operator.slopes), np.asarray(operator.intercepts)
    first = np.searchsorted(operator.breaks, low, side="right")
    last = np.searchsorted(operator.breaks, high, side="left")
    stable = first >= last
    piece = np.minimum(first, len(slopes) - 1)
    middle = low + (high - low) / 2
    result = {}
    for sign in (1.0, -1.0):
        best_slope, best_intercept = np.zeros_like(low), np.zeros_like(low)
        best = np.full_like(low, -np.inf)
        for i in range(len(points)):
            for j in range(i + 1, len(points)):
                gap = points[j] - points[i]
                slope = np.where(gap > 0, (values[j] - values[i]) / np.where(gap > 0, gap, 1.0), 0.0)
                slope = np.clip(slope, slopes.min(), slopes.max())
                intercept = np.min([sign * (v - slope * p) for v, p in zip(values, points, strict=True)], axis=0)
                height = sign * slope * middle + intercept
                better = height > best
                best = np.where(better, height, best)
                best_slope = np.where(better, slope, best_slope)
                best_intercept = np.where(better, intercept, best_intercept)
        reach = np.abs(best_slope) * np.maximum(np.abs(low), np.abs(high))
        best_intercept -= slack + OUTWARD * reach
        result[sign] = (
            np.where(stable, slopes[piece], best_slope),
            np.where(stable, intercepts[piece], sign * best_intercept),
        )
    (lower_slope, lower_intercept), (upper_slope, upper_intercept) = result[1.0], result[-1.0]
    return Lines(lower_slope, lower_intercept, upper_slope, upper_intercept, ~stable)


def pool_lines(operator: MaxPool, shape: Shape, low: Array, high: Array) -> PoolLines:
    """Relaxation of MaxPool over an input of ``shape`` with flat bounds ``(boxes, size)``."""
    windows = operator.windows(shape)
    padding = windows < 0
    lows = np.where(padding, -np.inf, low[:, windows])
    highs = np.where(padding, -np.inf, high[:, windows])
    position = lows.argmax(axis=2)
    chosen = np.take_along_axis(np.broadcast_to(windows, lows.shape), position[..., None], 2)[..., 0]
    upper = highs.max(axis=2)
    np.put_along_axis(highs, position[..., None], -np.inf, 2)
    decided = np.take_along_axis(lows, position[..., None], 2)[..., 0] >= highs.max(axis=2)
    return PoolLines(chosen.astype(np.intp), decided, upper)


def value_range(operator: PiecewiseLinear, low: Array, high: Array) -> tuple[Array, Array]:
    """The range of an elementwise function on intervals, rounded outwards."""
    if operator.is_relu:
        return np.maximum(low, 0.0), np.maximum(high, 0.0)
    points: tuple[Any, ...] = (low, *operator.breaks, high)
    values = [operator.forward(np.clip(p, low, high)) for p in points]
    limit, intercept = slope_limit(operator, np.maximum(np.abs(low), np.abs(high)))
    slack = OUTWARD * (limit * np.maximum(np.abs(low), np.abs(high)) + intercept) + TINY
    return np.min(values, axis=0) - slack, np.max(values, axis=0) + slack


def slope_limit(operator: PiecewiseLinear, magnitude: Array) -> tuple[float, Array]:
    """``L, t``: no relaxation line has a slope above L, or an intercept above t while ``|z| <= magnitude``."""
    limit = float(np.max(np.abs(operator.slopes)))
    if operator.is_relu:
        return 1.0, magnitude
    ends = np.maximum(np.abs(operator.forward(magnitude)), np.abs(operator.forward(-magnitude)))
    at_breaks = max(abs(float(operator.forward(np.array([b]))[0])) for b in operator.breaks)
    intercepts = float(np.max(np.abs(operator.intercepts)))
    return limit, (ends + at_breaks + intercepts + limit * magnitude) * (1 + 1e-6)
