"""The table of relaxations: one entry for each kind of activation, for all backends.

To add an activation: its operator (`verifier.network`), its reader, and a `Relaxation` here (or in a module of its own)
with its line in `TABLE`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.bounds.curved_relaxations import ProductOfHalves, SmoothRelaxation
from verifier.bounds.relaxation import (
    Elementwise,
    Ends,
    Limited,
    LinearRelaxation,
    Mask,
    PoolRelaxation,
    Relaxation,
    Slopes,
    Winners,
)
from verifier.bounds.step_relaxations import StepRelaxation
from verifier.errors import UnsupportedOperatorError
from verifier.network.curved import Product, Smooth
from verifier.network.operators import Array, Operator, Shape
from verifier.network.piecewise import MaxPool, PiecewiseLinear
from verifier.network.steps import Jumping
from verifier.rounding import OUTWARD, SPACING, TINY, float_above


def relu_relaxation(low: Array, high: Array) -> LinearRelaxation:
    """The chord above; below, the line 0 or z, whichever leaves less area (CROWN's adaptive choice).

    Shapes: low, high ``(…)``, any shape; so are the results.

    Source: Zhang et al., NeurIPS 2018, Table 2 and Section 3.3.
    """
    active = low >= 0
    unstable = (low < 0) & (high > 0)
    width = np.where(unstable, high - low, 1.0)
    upper_slope = np.where(unstable, np.minimum(high / width, 1.0), active)
    intercept = np.where(unstable, _above_relu(low, high, upper_slope), 0.0)
    lower_slope = np.where(unstable, high > -low, active).astype(np.float64)
    return LinearRelaxation(lower_slope, None, upper_slope, intercept, unstable)


def _above_relu(low: Array, high: Array, slope: Array) -> Array:
    """The least intercept of a line above ReLU with a slope in [0, 1] on ``[low, high]`` about 0."""
    intercept: Array = np.maximum(-slope * low, high * (1 - slope)) + (OUTWARD * (high - low) + TINY)
    return intercept


class Piecewise(Elementwise[PiecewiseLinear]):
    """Elementwise piecewise-linear functions: extreme at the ends of an interval and at their breakpoints.

    Pieces need not meet exactly where their numbers were rounded; at such a breakpoint both values count.

    Source:
        chords of the lower and the upper hull between an interval's ends; for ReLU the triangle of Ehlers,
        ATVA 2017.
    """

    def range(self, operator: PiecewiseLinear, shape: Shape, low: Array, high: Array) -> Ends:
        if operator.is_relu:
            return np.maximum(low, 0.0), np.maximum(high, 0.0)
        smallest, largest = np.full(low.shape, np.inf), np.full(low.shape, -np.inf)
        ends = (-np.inf, *operator.breaks, np.inf)
        for k, (slope, intercept) in enumerate(zip(operator.slopes, operator.intercepts, strict=True)):
            touched = (low <= ends[k + 1]) & (high >= ends[k])
            for z in (np.clip(low, ends[k], ends[k + 1]), np.clip(high, ends[k], ends[k + 1])):
                value = slope * z + intercept
                below = above = value
                if slope != 0 and not (abs(slope) == 1 and intercept == 0):
                    rounding = 2 * SPACING * (np.abs(slope * z) + abs(intercept)) + np.where(z != 0, 1e-300, 0.0)
                    below, above = value - rounding, value + rounding
                np.minimum(smallest, below, out=smallest, where=touched)
                np.maximum(largest, above, out=largest, where=touched)
        return smallest, largest

    def derivatives(self, operator: PiecewiseLinear, shape: Shape, low: Array, high: Array) -> Slopes:
        smallest, largest = np.full(low.shape, np.inf), np.full(low.shape, -np.inf)
        ends = (-np.inf, *operator.breaks, np.inf)
        pieces = [(slope, ends[k], ends[k + 1]) for k, slope in enumerate(operator.slopes)]
        pieces += [(slope, b, b) for slope, b in zip(operator.at_breaks, operator.breaks, strict=True)]
        for slope, left, right in pieces:
            touched = (low <= right) & (high >= left)
            np.minimum(smallest, slope, out=smallest, where=touched)
            np.maximum(largest, slope, out=largest, where=touched)
        return Slopes(smallest, largest)

    def linear(self, operator: PiecewiseLinear, shape: Shape, low: Array, high: Array) -> LinearRelaxation:
        """The best lines at the middle of each interval: segments of the convex and the concave envelope there.

        For a slope s the best intercepts are ``min f(p) - s p`` and ``max f(p) - s p`` over the ends and breakpoints p. The
        slopes tried are those of all chords between these; for ReLU the choice is CROWN's.
        """
        if operator.is_relu:
            return relu_relaxation(low, high)
        points, values = _vertices(operator, low, high)
        slopes, intercepts = np.asarray(operator.slopes), np.asarray(operator.intercepts)
        first = np.searchsorted(operator.breaks, low, side="right")
        stable = first >= np.searchsorted(operator.breaks, high, side="left")
        piece = np.minimum(first, len(slopes) - 1)
        middle = low + (high - low) / 2
        chosen = {}
        for sign in (1.0, -1.0):
            best_slope, best = np.zeros_like(low), np.full_like(low, -np.inf)
            for i in range(len(points)):
                for j in range(i + 1, len(points)):
                    width = points[j] - points[i]
                    slope = np.where(width > 0, (values[j] - values[i]) / np.where(width > 0, width, 1.0), 0.0)
                    slope = np.clip(slope, slopes.min(), slopes.max())
                    height = sign * slope * middle + _least(points, values, slope, sign)
                    best_slope = np.where(height > best, slope, best_slope)
                    best = np.maximum(best, height)
            chosen[sign] = best_slope
        lower, upper = self.intercepts(operator, low, high, chosen[1.0], chosen[-1.0])
        gap = _gap_at(operator, low)  # there the value is the left piece's
        return LinearRelaxation(
            np.where(stable, slopes[piece], chosen[1.0]),
            np.where(stable, intercepts[piece] - gap, lower),
            np.where(stable, slopes[piece], chosen[-1.0]),
            np.where(stable, intercepts[piece] + gap, upper),
            ~stable,
        )

    def intercepts(self, operator: PiecewiseLinear, low: Array, high: Array, below: Array, above: Array) -> Ends:
        points, values = _vertices(operator, low, high)
        slack = OUTWARD * sum((np.abs(v) for v in values), start=np.zeros_like(low)) + TINY + sum(_gaps(operator))
        reach = np.maximum(np.abs(low), np.abs(high))
        lower = _least(points, values, below, 1.0) - (slack + OUTWARD * (np.abs(below) * reach))
        upper = -(_least(points, values, above, -1.0) - (slack + OUTWARD * (np.abs(above) * reach)))
        return lower, upper

    def undecided(self, operator: PiecewiseLinear, shape: Shape, low: Array, high: Array) -> Mask:
        need = np.zeros(low.shape, dtype=bool)
        for point in operator.breaks:
            need |= (low < point) & (high > point)
        return need

    def choices(self, operator: PiecewiseLinear, shape: Shape, low: Array, high: Array) -> npt.NDArray[np.int64]:
        total = np.zeros(len(low), dtype=np.int64)
        for point in operator.breaks:
            total += ((low < point) & (high > point)).sum(axis=1)
        return total

    def limits(self, operator: PiecewiseLinear, magnitude: Array) -> tuple[float | Array, Array]:
        if operator.is_relu:
            return 1.0, magnitude
        limit = float(np.max(np.abs(operator.slopes)))
        ends = np.maximum(np.abs(operator.forward(magnitude)), np.abs(operator.forward(-magnitude)))
        at_breaks = max(abs(float(operator.forward(np.array([b]))[0])) for b in operator.breaks) + sum(_gaps(operator))
        intercepts = float(np.max(np.abs(operator.intercepts)))
        return limit, (ends + at_breaks + intercepts + limit * magnitude) * (1 + 1e-6)


def _vertices(operator: PiecewiseLinear, low: Array, high: Array) -> tuple[list[Array], list[Array]]:
    """The ends of the intervals and the breakpoints between, with the values there."""
    points = [low, *(np.clip(np.full_like(low, b), low, high) for b in operator.breaks), high]
    return points, [operator.forward(p) for p in points]


def _least(points: list[Array], values: list[Array], slope: Array, sign: float) -> Array:
    """The least of ``sign (f(p) - slope p)`` over the vertices, rounded to nearest."""
    found: Array = np.min([sign * (v - slope * p) for v, p in zip(values, points, strict=True)], axis=0)
    return found


def _gaps(operator: PiecewiseLinear) -> list[float]:
    """How far the pieces are apart at each breakpoint, rounded up more than sums of them need."""
    return [float_above(gap) * (1 + OUTWARD) for gap in operator.gaps]


def _gap_at(operator: PiecewiseLinear, z: Array) -> Array:
    """The gap at a breakpoint on which z lies exactly, else 0."""
    total = np.zeros_like(z)
    for b, gap in zip(operator.breaks, _gaps(operator), strict=True):
        total = np.where(z == b, gap, total)
    return total


class Pool(Limited[MaxPool]):
    """Maxima over windows.

    Source:
        DeepPoly, Singh et al., POPL 2019: the largest lower bound, and the largest upper one
        above.
    """

    roundings = 2

    def range(self, operator: MaxPool, shape: Shape, low: Array, high: Array) -> Ends:
        ends = [operator.forward(end.reshape(-1, *shape)).reshape(len(end), -1) for end in (low, high)]
        return ends[0], ends[1]

    def derivatives(self, operator: MaxPool, shape: Shape, low: Array, high: Array) -> Winners:
        """Entries that can be the maximum, ties included.

        Shapes: low, high ``(boxes, size)``.
        """
        windows, lows, highs = _in_windows(operator, shape, low, high)
        return Winners(windows, (highs >= lows.max(axis=-1, keepdims=True)) & (windows >= 0))

    def linear(self, operator: MaxPool, shape: Shape, low: Array, high: Array) -> PoolRelaxation:
        windows, lows, highs = _in_windows(operator, shape, low, high)
        position = lows.argmax(axis=2)
        chosen = np.take_along_axis(np.broadcast_to(windows, lows.shape), position[..., None], 2)[..., 0]
        upper = highs.max(axis=2)
        np.put_along_axis(highs, position[..., None], -np.inf, 2)
        decided = np.take_along_axis(lows, position[..., None], 2)[..., 0] >= highs.max(axis=2)
        return PoolRelaxation(chosen.astype(np.intp), decided, upper)

    def undecided(self, operator: MaxPool, shape: Shape, low: Array, high: Array) -> Mask:
        need = np.zeros(low.shape, dtype=bool)
        boxes, outputs = np.nonzero(self.linear(operator, shape, low, high).unstable)
        entries = operator.windows(shape)[outputs]
        boxes = np.broadcast_to(boxes[:, None], entries.shape)
        need[boxes[entries >= 0], entries[entries >= 0]] = True
        return need

    def choices(self, operator: MaxPool, shape: Shape, low: Array, high: Array) -> npt.NDArray[np.int64]:
        possible = self.derivatives(operator, shape, low, high).possible
        return np.asarray(possible.sum(axis=(1, 2)) - possible.shape[1], dtype=np.int64)

    def limits(self, operator: MaxPool, magnitude: Array) -> tuple[float | Array, Array]:
        return 1.0, np.zeros_like(magnitude)  # the upper constant is a bound of one entry, so `gathered` covers it

    def gathered(self, operator: MaxPool, shape: Shape, sizes: Array) -> Array:
        windows = operator.windows(shape)
        largest: Array = np.where(windows >= 0, sizes[windows], 0.0).max(axis=1)
        return largest


def _in_windows(operator: MaxPool, shape: Shape, low: Array, high: Array) -> tuple[npt.NDArray[np.int64], Array, Array]:
    """The windows, and the bounds of their entries ``(boxes, outputs, k)``; the padding is minus infinity."""
    windows = operator.windows(shape)
    padding = windows < 0
    return windows, np.where(padding, -np.inf, low[:, windows]), np.where(padding, -np.inf, high[:, windows])


TABLE: Mapping[type[Operator], Relaxation[Any]] = {
    PiecewiseLinear: Piecewise(),
    MaxPool: Pool(),
    Jumping: StepRelaxation(),
    Smooth: SmoothRelaxation(),
    Product: ProductOfHalves(),
}
"""By the operator's class."""


def relaxation(operator: Operator) -> Relaxation[Any]:
    """The entry of an activation.

    Raises:
        UnsupportedOperatorError: for an operator without one.
    """
    try:
        return TABLE[type(operator)]
    except KeyError:
        raise UnsupportedOperatorError(f"there are no bounds for {type(operator).__name__}") from None


def elementwise(operator: Operator) -> Elementwise[Any]:
    """The entry of an activation of one variable.

    Raises:
        UnsupportedOperatorError: for an operator that is none.
    """
    found = relaxation(operator)
    if not isinstance(found, Elementwise):
        raise UnsupportedOperatorError(f"{type(operator).__name__} is no function of one variable")
    return found
