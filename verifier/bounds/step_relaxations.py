"""Linear relaxations of functions with jumps.

On ``[l, u]`` such a function lies between the lines through its corners: its values at the ends and at breakpoints, and
the two limits at each of these. A line is below it if it is below every corner, whatever its slope, as long as the slope
is used with the least intercept that they allow. Steep chords are left out, for the error that rounding makes in an
argument counts as often as the slope is large.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt

from verifier.bounds.relaxation import Elementwise, Ends, LinearRelaxation, Mask, Slopes
from verifier.errors import UnsupportedOperatorError
from verifier.network.operators import Array, Shape
from verifier.network.steps import Jumping
from verifier.rounding import OUTWARD, TINY

STEEPEST = 100.0
"""The largest slope of a line, but for long stairs."""


def _corners(operator: Jumping, low: Array, high: Array) -> list[tuple[Array, Array]]:
    """Points and values, ``(boxes, size)`` each; what lies outside of an interval repeats its lower end."""
    at_low, at_high = operator.forward(low), operator.forward(high)
    corners = [(low, at_low), (high, at_high)]
    if len(operator.breaks) > 2 and operator.even:
        return corners + _corners_of_stairs(operator, low, high)
    for k, b in enumerate(operator.breaks):
        left = operator.slopes[k] * b + operator.intercepts[k]
        right = operator.slopes[k + 1] * b + operator.intercepts[k + 1]
        for value, there in (
            (left, (low < b) & (b <= high)),
            (right, (low <= b) & (b < high)),
            (operator.values[k], (low <= b) & (b <= high)),
        ):
            corners.append((np.where(there, b, low), np.where(there, value, at_low)))
    return corners


def _corners_of_stairs(operator: Jumping, low: Array, high: Array) -> list[tuple[Array, Array]]:
    """The corners at the first and the last breakpoint inside: those between lie on the straight lines through them."""
    breaks, levels = np.asarray(operator.breaks), np.asarray(operator.intercepts)
    first = np.searchsorted(breaks, low, side="left")
    last = np.searchsorted(breaks, high, side="right") - 1
    some, corners = (first <= last) & (low < high), []
    for k in (first, last):
        k = np.clip(k, 0, len(breaks) - 1)
        # a limit that lies outside of the interval, at an end of it, costs tightness there and nothing else
        there, outside = np.where(some, breaks[k], low), operator.forward(low)
        corners += [(there, np.where(some, level, outside)) for level in (levels[k], levels[k + 1])]
    return corners


def _steepest(operator: Jumping) -> float:
    """The largest slope of a line: long stairs need their own."""
    if len(operator.breaks) < 3 or not operator.even:
        return STEEPEST
    rise = (operator.intercepts[1] - operator.intercepts[0]) / (operator.breaks[1] - operator.breaks[0])
    return max(STEEPEST, 2.0 * abs(rise))


def _slack(operator: Jumping, low: Array, high: Array) -> Array:
    reach = np.maximum(np.abs(low), np.abs(high))
    size = np.abs(operator.slopes).max() * reach + max(map(abs, (*operator.intercepts, *operator.values)))
    exact = not any(operator.slopes)
    return np.zeros_like(low) if exact else np.asarray(4 * OUTWARD * size + TINY)


class StepRelaxation(Elementwise[Jumping]):
    """Functions with jumps."""

    roundings = 2

    def range(self, operator: Jumping, shape: Shape, low: Array, high: Array) -> Ends:
        values = [v for _, v in _corners(operator, low, high)]
        slack = _slack(operator, low, high)
        return np.min(values, axis=0) - slack, np.max(values, axis=0) + slack

    def derivatives(self, operator: Jumping, shape: Shape, low: Array, high: Array) -> Slopes:
        raise UnsupportedOperatorError(f"{operator.label} jumps and has no gradient", fix="ask about values")

    def linear(self, operator: Jumping, shape: Shape, low: Array, high: Array) -> LinearRelaxation:
        corners = _corners(operator, low, high)
        middle, steepest = low + (high - low) / 2, _steepest(operator)
        slopes = [np.zeros_like(low)]
        for (x, v), (z, w) in combinations(corners, 2):
            gap = z - x
            with np.errstate(all="ignore"):
                slope = np.where(gap != 0, (w - v) / np.where(gap != 0, gap, 1.0), 0.0)
            slopes.append(np.clip(np.nan_to_num(slope), -steepest, steepest))
        chosen = []
        for sign in (1.0, -1.0):
            best, best_slope = np.full(low.shape, -np.inf), np.zeros_like(low)
            for slope in slopes:
                height = sign * slope * middle + np.min([sign * (v - slope * x) for x, v in corners], axis=0)
                best_slope = np.where(height > best, slope, best_slope)
                best = np.maximum(best, height)
            chosen.append(best_slope)
        lower, upper = self.intercepts(operator, low, high, chosen[0], chosen[1])
        unstable = (operator.met(low, high) > 0) & (low < high)
        return LinearRelaxation(chosen[0], lower, chosen[1], upper, unstable)

    def intercepts(self, operator: Jumping, low: Array, high: Array, below: Array, above: Array) -> Ends:
        corners, reach = _corners(operator, low, high), np.maximum(np.abs(low), np.abs(high))
        slack, found = _slack(operator, low, high), []
        for sign, slope in ((1.0, below), (-1.0, above)):
            least = np.min([sign * (v - slope * x) for x, v in corners], axis=0)
            size = np.max([np.abs(v) for _, v in corners], axis=0) + np.abs(slope) * reach
            found.append(sign * (least - 4 * OUTWARD * size * (slope != 0) - slack))
        return found[0], found[1]

    def undecided(self, operator: Jumping, shape: Shape, low: Array, high: Array) -> Mask:
        return operator.met(low, high) > 0

    def choices(self, operator: Jumping, shape: Shape, low: Array, high: Array) -> npt.NDArray[np.int64]:
        return np.asarray((operator.met(low, high) * (low < high)).sum(axis=1))

    def limits(self, operator: Jumping, magnitude: Array) -> tuple[float | Array, Array]:
        most = max(map(abs, (*operator.intercepts, *operator.values)))
        steepest = max(_steepest(operator), *map(abs, operator.slopes))
        return steepest, np.asarray((most + 2 * steepest * magnitude) * (1 + 1e-9) + TINY)
