"""Functions with jumps: Sign, comparisons, thresholds.

What the value at a jump is belongs to the function: ``Sign(0)`` is 0, and a comparison with ``>=`` is true there. So a
network with jumps is evaluated, and its counterexamples are replayed, in exact rationals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from verifier.errors import NetworkError
from verifier.network.activation import Activation
from verifier.network.operators import Array, Shape
from verifier.network.rationals import Rationals


@dataclass(frozen=True, eq=False)
class Jumping(Activation):
    """An elementwise function that is affine between breakpoints and may jump at them.

    Attributes:
        breaks: increasing, ``k`` of them.
        slopes, intercepts: ``k + 1`` each: the function before, between and after the breakpoints.
        values: its value at each breakpoint.
        label: its name in the source.
    """

    breaks: tuple[float, ...]
    slopes: tuple[float, ...]
    intercepts: tuple[float, ...]
    values: tuple[float, ...]
    label: str = "Step"

    def __post_init__(self) -> None:
        k = len(self.breaks)
        if k < 1 or len(self.slopes) != k + 1 or len(self.intercepts) != k + 1 or len(self.values) != k:
            raise NetworkError(f"{self.label}: k breaks need k + 1 slopes and intercepts and k values at breaks")

    @property
    def kind(self) -> str:
        return "step"

    @cached_property
    def even(self) -> bool:
        """Whether it is a staircase: level pieces, equal widths and heights, at breakpoints a value of either side or between."""
        levels = np.asarray(self.intercepts)
        rises, widths, values = np.diff(levels), np.diff(self.breaks), np.asarray(self.values)
        between = (np.minimum(levels[:-1], levels[1:]) <= values) & (values <= np.maximum(levels[:-1], levels[1:]))
        return bool(
            not any(self.slopes) and (rises == rises[0]).all() and (widths == widths[:1]).all() and between.all()
        )

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def met(self, low: Array, high: Array) -> npt.NDArray[np.int64]:
        """How many breakpoints lie in each closed interval, in the shape of its ends."""
        breaks = np.asarray(self.breaks)
        found = np.searchsorted(breaks, high, side="right") - np.searchsorted(breaks, low, side="left")
        return np.asarray(found, dtype=np.int64)

    def places(self, x: Array) -> npt.NDArray[np.int64]:
        """Where each entry lies: the number of its piece, or ``k + 1 + j`` at breakpoint j of k.

        Shapes: x ``(batch, *shape)``; so is the result.
        """
        breaks = np.asarray(self.breaks)
        piece = np.searchsorted(breaks, x, side="left")
        at = np.minimum(piece, len(breaks) - 1)
        return np.asarray(np.where(breaks[at] == x, len(breaks) + 1 + at, piece), dtype=np.int64)

    def table(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Slopes and intercepts by `places`."""
        return (*self.slopes, *(0.0 for _ in self.breaks)), (*self.intercepts, *self.values)

    def forward(self, *inputs: Array) -> Array:
        (z,) = inputs
        slopes, intercepts = (np.asarray(row) for row in self.table())
        where = self.places(z)
        return np.asarray(slopes[where] * z + intercepts[where])

    def vjp(self, grad: Array, x: Array) -> Array:
        """A direction to search in, since the derivative says nothing of jumps.

        Shapes: grad, x ``(batch, *shape)``.

        The slope of the pieces, and for each jump its height spread over the values that are usual here (the
        straight-through estimator: Bengio, Léonard, Courville, *Estimating or propagating gradients through stochastic
        neurons*, 2013; with a width that fits the data instead of 1).
        """
        return self.surrogate(grad, x, (None,) * len(self.breaks))

    def surrogate(self, grad: Array, x: Array, reached: Sequence[npt.NDArray[np.bool_] | None]) -> Array:
        """`vjp` where only some entries can reach a breakpoint: ``reached``, for each breakpoint, of x's shape without the batch."""
        if len(self.breaks) > 2 and self.even:  # straight through a long staircase
            width, height = self.breaks[1] - self.breaks[0], self.intercepts[1] - self.intercepts[0]
            inside = (x > self.breaks[0] - width) & (x < self.breaks[-1] + width)
            return np.asarray(grad * np.where(inside, height / width, 0.0))
        slope = np.asarray(self.slopes)[np.searchsorted(np.asarray(self.breaks), x, side="left")]
        for k, (b, some) in enumerate(zip(self.breaks, reached, strict=True)):
            jump = self.slopes[k + 1] * b + self.intercepts[k + 1] - self.slopes[k] * b - self.intercepts[k]
            away = np.abs(x - b)
            usual = away if some is None else away[:, some]
            width = max(float(usual.mean()) if usual.size else 0.0, 1e-30)
            bump = jump / width / (1.0 + (away / width) ** 2)
            slope = slope + (bump if some is None else np.where(some, bump, 0.0))
        return np.asarray(grad * slope)

    def exact(self, x: Rationals, pattern: npt.NDArray[np.int16] | None = None) -> Rationals:
        place = sum(x.above(b) for b in self.breaks)
        for k, b in enumerate(self.breaks):
            place = np.where(x.equals(b), len(self.breaks) + 1 + k, place)
        slopes, intercepts = (Rationals.of(row) for row in self.table())
        linear = Rationals(slopes.numerators[place] * x.numerators, slopes.denominator * x.denominator)
        return (linear + Rationals(intercepts.numerators[place], intercepts.denominator)).reduced()

    @property
    def corners(self) -> tuple[tuple[Fraction, tuple[Fraction, ...]], ...]:
        pieces = [(Fraction(s), Fraction(t)) for s, t in zip(self.slopes, self.intercepts, strict=True)]
        sides = zip(map(Fraction, self.breaks), pairwise(pieces), self.values, strict=True)
        return tuple((b, (*(s * b + t for s, t in two), Fraction(value))) for b, two, value in sides)


def sign() -> Jumping:
    """-1, 0 or 1."""
    return Jumping((0.0,), (0.0, 0.0), (-1.0, 1.0), (0.0,), "Sign")


def rounding(scale: float, low: int, high: int) -> Jumping:
    """The whole number that is nearest to ``x / scale``, the even one of two, kept in ``low … high`` (QuantizeLinear)."""
    steps = np.arange(low, high + 1)
    level = (0.0,) * len(steps)
    even = np.where(steps[:-1] % 2 == 0, steps[:-1], steps[1:])
    halves, values, at = (tuple(map(float, part)) for part in (scale * (steps[:-1] + 0.5), steps, even))
    return Jumping(halves, level, values, at, "Round")
