"""Linear relaxations of curved operators, sound in floating point.

Below ``f`` on ``[l, u]`` lies the line of slope k through the least value of ``g(z) = f(z) - k z``. Between its bends f
is convex or concave: on a concave piece g is least at an end; on a convex piece it is nowhere below its tangents, so one at
about its least point gives a lower bound whatever the point (Singh et al., POPL 2019, Section 4.2, take such tangents
for sigmoids). So every slope gives a sound line. Tried are the chord, the tangents at both ends and at the middle, and
the tangents from the ends to the convex pieces, among which the convex envelope has its line; kept is the line that is
best at the middle.

A product is linear up to a product of two small deviations: ``x y = y₀ x + x₀ y - x₀ y₀ + (x - x₀)(y - y₀)`` (the mean of
McCormick's two planes on either side, Mathematical Programming 10, 1976).

**Rounding.** Values and slopes from numpy and scipy are taken to be right up to `CARE` of their size, some thousand times
what their libraries state; every line is moved outwards by that share of all numbers that went into it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from verifier.bounds.relaxation import (
    Elementwise,
    Ends,
    LinearRelaxation,
    Mask,
    ProductRelaxation,
    Relaxation,
    Slopes,
)
from verifier.errors import InputError, UnsupportedOperatorError
from verifier.network.curved import Function, Product, Smooth
from verifier.network.operators import Array, Shape
from verifier.rounding import OUTWARD, TINY

CARE = 2.0**-42
"""Relative error of a value or a slope that is allowed for."""
HALVINGS = 22
"""Of the interval in which a tangent's point is looked for."""

Index = npt.NDArray[np.intp]


class SmoothRelaxation(Elementwise[Smooth]):
    """Functions of `verifier.network.curved.FUNCTIONS`.

    Source:
        tangents and chords of functions that curve one way: Zhang et al., NeurIPS 2018; which
        point a tangent touches is this package's own.
    """

    roundings = 4
    needs_bounds = True

    def range(self, operator: Smooth, shape: Shape, low: Array, high: Array) -> Ends:
        wide = _beyond(operator, low, high)
        slope = np.zeros_like(low)
        least, most = self._intercepts(operator, low, high, slope, slope)
        return np.where(wide, -1 - CARE, least), np.where(wide, 1 + CARE, most)

    def derivatives(self, operator: Smooth, shape: Shape, low: Array, high: Array) -> Slopes:
        raise UnsupportedOperatorError(
            f"no bounds on gradients are known for {operator.label}", fix="ask about values, or about a ReLU network"
        )

    def linear(self, operator: Smooth, shape: Shape, low: Array, high: Array) -> LinearRelaxation:
        wide = _beyond(operator, low, high)
        (below, under), (above, over) = (_Side(operator.function, s, low, high).best_line() for s in (1.0, -1.0))
        return LinearRelaxation(
            np.where(wide, 0.0, below),
            np.where(wide, -1 - CARE, under),
            np.where(wide, 0.0, -above),
            np.where(wide, 1 + CARE, -over),
            np.asarray(high > low),
        )

    def intercepts(self, operator: Smooth, low: Array, high: Array, below: Array, above: Array) -> Ends:
        _beyond(operator, low, high)
        return self._intercepts(operator, low, high, below, above)

    @staticmethod
    def _intercepts(operator: Smooth, low: Array, high: Array, below: Array, above: Array) -> Ends:
        lower = _Side(operator.function, 1.0, low, high).least(below)
        return lower, -_Side(operator.function, -1.0, low, high).least(-above)

    def undecided(self, operator: Smooth, shape: Shape, low: Array, high: Array) -> Mask:
        return np.asarray(high > low)

    def choices(self, operator: Smooth, shape: Shape, low: Array, high: Array) -> npt.NDArray[np.int64]:
        return np.asarray((high > low).sum(axis=1), dtype=np.int64)

    def limits(self, operator: Smooth, magnitude: Array) -> tuple[float | Array, Array]:
        return self.limits_between(operator, -magnitude, magnitude)

    def limits_between(self, operator: Smooth, low: Array, high: Array) -> tuple[float | Array, Array]:
        wide, function = _beyond(operator, low, high), operator.function
        bends, _ = function.bends(low)
        points = [low, *(np.clip(b, low, high) for b in bends), high]
        with np.errstate(all="ignore"):  # the derivative is monotone between bends, and so are values up to it
            slope = np.max([np.abs(function.slope(p)) for p in points], axis=0) * (1 + CARE) + TINY
            value = np.abs(function.value(low)) + slope * (high - low)
        slope, value = np.where(wide, 1.0, slope), np.where(wide, 1.0, value)
        return slope, (value + slope * np.maximum(np.abs(low), np.abs(high))) * (1 + 1e-9) + TINY


class ProductOfHalves(Relaxation[Product]):
    """Products of two tensors.

    Source:
        envelopes of a product: McCormick, Mathematical Programming 1976; as in Shi et al., ICLR 2020, for
        self-attention.
    """

    roundings = 4

    def range(self, operator: Product, shape: Shape, low: Array, high: Array) -> Ends:
        (x_low, y_low), (x_high, y_high) = _halves(low), _halves(high)
        ends = [a * b for a in (x_low, x_high) for b in (y_low, y_high)]
        least, most = np.min(ends, axis=0), np.max(ends, axis=0)
        return least - OUTWARD * np.abs(least) - TINY, most + OUTWARD * np.abs(most) + TINY

    def derivatives(self, operator: Product, shape: Shape, low: Array, high: Array) -> Slopes:
        raise UnsupportedOperatorError("no bounds on gradients are known for a product", fix="ask about values")

    def linear(self, operator: Product, shape: Shape, low: Array, high: Array) -> ProductRelaxation:
        centre = low + (high - low) / 2
        x, y = _halves(centre)
        rx, ry = _halves(np.maximum(high - centre, centre - low) * (1 + OUTWARD))
        error = (rx * ry + np.abs(x * y) * OUTWARD) * (1 + OUTWARD) + TINY
        return ProductRelaxation(y, x, -x * y, error, np.asarray((rx > 0) & (ry > 0)))

    def undecided(self, operator: Product, shape: Shape, low: Array, high: Array) -> Mask:
        return np.asarray(high > low)

    def choices(self, operator: Product, shape: Shape, low: Array, high: Array) -> npt.NDArray[np.int64]:
        x, y = _halves(high > low)
        return np.asarray((x & y).sum(axis=1), dtype=np.int64)

    def spread(
        self, operator: Product, shape: Shape, sizes: tuple[Array, Array, Array], between: Ends | None
    ) -> tuple[Array, Array, Array]:
        (x, y), (ex, ey), (rx, ry) = ((a[0], b[0]) for a, b in (_halves(v[None]) for v in sizes))
        return 4 * x * y, y * ex + x * ey, y * rx + x * ry


def _halves(flat: Array) -> tuple[Array, Array]:
    """Both factors, ``(boxes, k)`` each, of ``(boxes, 2 k)``."""
    k = flat.shape[1] // 2
    return flat[:, :k], flat[:, k:]


def _beyond(operator: Smooth, low: Array, high: Array) -> Mask:
    """Where a function that repeats itself takes all its values, between -1 and 1.

    Raises:
        InputError: an interval leaves the function's domain.
    """
    function = operator.function
    least, most = function.domain
    outside = (low <= least) | (high >= most)
    if np.isfinite(function.period):
        return np.asarray(outside | (high - low >= function.period))
    if function.pole is not None and ((low <= function.pole) & (high >= function.pole)).any():
        raise InputError(f"the argument of {operator.label} may be {function.pole:g}", fix="a smaller set of inputs")
    if not outside.any():
        return np.zeros(low.shape, dtype=bool)
    end = low.min() if (low <= least).any() else high.max()
    raise InputError(
        f"the argument of {operator.label} may reach {end:.6g}, and bounds of it are known between {least:g} and {most:g}",
        fix="a smaller set of inputs",
    )


class _Side:
    """Lines below ``sign · f`` on intervals."""

    def __init__(self, function: Function, sign: float, low: Array, high: Array) -> None:
        self.function, self.sign = function, sign
        self.shape, self.low, self.high = low.shape, low.reshape(-1), high.reshape(-1)
        bends, first = function.bends(self.low)
        ends = [self.low, *(np.clip(b, self.low, self.high) for b in bends), self.high]
        self.reach = np.maximum(np.abs(self.low), np.abs(self.high))
        self.pieces: list[tuple[Array, Array, Index]] = []
        """Ends of each piece, and the entries in which it is convex and no single point."""
        for k, (a, b) in enumerate(pairwise(ends)):
            convex = (first ^ (k % 2 == 1)) == (sign > 0)
            self.pieces.append((a, b, np.flatnonzero(convex & (b > a))))

    def _value(self, z: Array) -> Array:
        return self.sign * self.function.value(z)

    def _slope(self, z: Array) -> Array:
        return np.nan_to_num(self.sign * self.function.slope(z))

    @np.errstate(all="ignore")
    def best_line(self) -> tuple[Array, Array]:
        """Slope and intercept of the best line at the middle."""
        low, high = self.low, self.high
        middle = low + (high - low) / 2
        at_low, at_high = self._value(low), self._value(high)
        chord = (at_high - at_low) / np.where(high > low, high - low, 1.0)
        slopes = [np.where(high > low, chord, self._slope(middle)), *map(self._slope, (middle, low, high))]
        for a, b, where in self.pieces:
            if not len(where):
                continue
            for ends, values, rising in ((high, at_high, True), (low, at_low, False)):
                tangent = slopes[1].copy()
                tangent[where] = self._slope(self._from(ends[where], values[where], a[where], b[where], rising))
                slopes.append(tangent)
        # the derivative is monotone between bends; a chord over a short interval is rounded beyond it
        steepest = np.max([np.abs(self._slope(z)) for z in (low, *(b for _, b, _ in self.pieces))], axis=0)
        best, best_slope, best_intercept = np.full(low.shape, -np.inf), slopes[0], np.full(low.shape, -np.inf)
        for given in slopes:
            slope = np.clip(given, -steepest, steepest)
            intercept = self._least(slope)
            height = slope * middle + intercept
            better = height > best
            best = np.where(better, height, best)
            best_slope = np.where(better, slope, best_slope)
            best_intercept = np.where(better, intercept, best_intercept)
        return best_slope.reshape(self.shape), best_intercept.reshape(self.shape)

    def _from(self, end: Array, value: Array, a: Array, b: Array, rising: bool) -> Array:
        """About where between a and b the tangent goes through an end of the interval."""
        return _halved(a, b, lambda t: self._value(t) + self._slope(t) * (end - t) - value, rising)

    @np.errstate(all="ignore")
    def least(self, slope: Array) -> Array:
        """A number below ``sign · f(z) - slope · z`` on each interval."""
        return self._least(np.asarray(slope, dtype=np.float64).reshape(-1)).reshape(self.shape)

    def _least(self, slope: Array) -> Array:
        found, size = np.full(self.low.shape, np.inf), np.abs(slope) * self.reach
        for a, b, where in self.pieces:
            at_a, at_b = self._value(a), self._value(b)
            size = np.maximum(size, np.maximum(np.abs(at_a), np.abs(at_b)))
            ends = np.minimum(at_a - slope * a, at_b - slope * b)
            if len(where):
                low, high, k = a[where], b[where], slope[where]
                t = _halved(low, high, lambda t, k=k: self._slope(t) - k, True)  # type: ignore[misc]
                touch, at_t = self._slope(t), self._value(t)
                ends[where] = np.minimum(at_t + touch * (low - t) - k * low, at_t + touch * (high - t) - k * high)
                size[where] = np.maximum(size[where], np.abs(at_t) + np.abs(touch) * (high - low))
            found = np.where((b > a) | (self.high == self.low), np.minimum(found, ends), found)
        lowest = found - 4 * CARE * size - TINY
        return np.asarray(np.where(lowest < np.inf, lowest, -np.inf))  # NaN bounds nothing


def _halved(low: Array, high: Array, function: Callable[[Array], Array], rising: bool) -> Array:
    """About where a monotone function changes its sign."""
    for _ in range(HALVINGS):
        middle = low + (high - low) / 2
        if not ((low < middle) & (middle < high)).any():  # no number is left in between
            break
        above = (function(middle) > 0) == rising
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.asarray(low + (high - low) / 2)
