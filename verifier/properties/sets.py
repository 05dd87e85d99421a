"""Input sets: boxes and boxes cut by half-spaces, over the flattened input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from verifier.arguments import check_fields, checked
from verifier.errors import PropertyError
from verifier.network.operators import Array
from verifier.properties.numbers import Numbers

Ends: TypeAlias = tuple[float | Array, float | Array]
"""Lower and upper ends: a number for all inputs, or one for each ``(n,)``."""


@dataclass(frozen=True, eq=False)
class Box:
    """``lower <= x <= upper``, flattened, both ends included.

    The ends are exact numbers (`verifier.properties.numbers`). Where one is no float64 number, ``lower`` and ``upper``
    are rounded outwards, which is what proofs need, while points are clipped to the float64 numbers inside. An input
    whose ends have no float64 number between them (0.1 ≤ x ≤ 0.1) is represented by a neighbour; `point` says what
    rational it stands for.

    Attributes:
        lower, upper: ``(n,)``; finite float64, ``lower <= upper``.
        exact_lower, exact_upper: the ends as they were given; None: the float64 numbers.

    Raises:
        PropertyError: ends of different sizes, crossed, or not a number.

    Source:
        Le et al., ACML 2023, Equation 13.
    """

    lower: Array
    upper: Array
    exact_lower: Numbers | None = None
    exact_upper: Numbers | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        lower = np.array(self.lower, dtype=np.float64).reshape(-1)
        upper = np.array(self.upper, dtype=np.float64).reshape(-1)
        if lower.shape != upper.shape:
            raise PropertyError(f"a box with {lower.size} lower and {upper.size} upper ends")
        bad = np.flatnonzero(~(np.isfinite(lower) & np.isfinite(upper)))
        if bad.size:
            raise PropertyError(
                f"input {bad[0]} is not bounded: [{lower[bad[0]]}, {upper[bad[0]]}]",
                fix="give every input a finite lower and upper bound",
            )
        lower.flags.writeable = upper.flags.writeable = False
        object.__setattr__(self, "lower", lower)
        object.__setattr__(self, "upper", upper)
        low, high = self.ends
        empty = np.flatnonzero(high.less(low))
        if empty.size:
            k = empty[0]
            raise PropertyError(f"the box is empty: input {k} has lower {lower[k]} > upper {upper[k]}")

    @staticmethod
    def exactly(lower: Numbers, upper: Numbers) -> Box:
        """The box between exact ends."""
        return Box(lower.below, upper.above, lower, upper)

    @staticmethod
    @checked
    def around(center: npt.ArrayLike, epsilon: float, domain: Ends | None = (0.0, 1.0)) -> Box:
        """The L∞ ball of radius ``epsilon`` around ``center``, cut to ``domain`` (None: not cut); without rounding."""
        x = np.asarray(center, dtype=np.float64).reshape(-1)
        if not np.isfinite(x).all():
            raise PropertyError("the center contains NaN or infinity")
        if not math.isfinite(epsilon) or epsilon < 0:
            raise PropertyError(f"epsilon must be a finite number >= 0, got {epsilon}")
        lower, upper = Numbers.sum(x, -epsilon), Numbers.sum(x, epsilon)
        if domain is not None:
            low, high = (np.broadcast_to(np.asarray(end, dtype=np.float64), x.shape) for end in domain)
            outside = np.flatnonzero((x < low) | (x > high))
            if outside.size:
                k = outside[0]
                raise PropertyError(
                    f"the center is outside the domain [{low[k]}, {high[k]}]: entry {k} is {x[k]}",
                    fix="scale the input, or pass domain=None (no clipping) or the right domain",
                )
            ends = (Numbers.of(end.copy()) for end in (low, high))
            lower, upper = lower.at_least(next(ends)), upper.at_most(next(ends))
        return Box.exactly(lower, upper)

    @cached_property
    def ends(self) -> tuple[Numbers, Numbers]:
        """The lower and the upper ends as they were given."""
        return (
            Numbers.of(self.lower) if self.exact_lower is None else self.exact_lower,
            Numbers.of(self.upper) if self.exact_upper is None else self.exact_upper,
        )

    @cached_property
    def inside(self) -> tuple[Array, Array]:
        """The least and the largest float64 number that an input takes; the outer neighbours where there is none."""
        low, high = self.ends
        none = low.above > high.below
        return np.where(none, low.below, low.above), np.where(none, high.above, high.below)

    def integers(self) -> Box | None:
        """The smallest box around the integer points; None if there are none."""
        low, high = self.ends
        lower, upper = np.ceil(low.above), np.floor(high.below)  # every integer between is a float64 number
        return None if (lower > upper).any() else Box(lower, upper)

    def point(self, x: Array) -> list[Fraction]:
        """The point of the box that a float64 point ``(n,)`` stands for, clipped into it."""
        low, high = self.ends
        found = [Fraction(v) for v in self.clip(x).tolist()]
        for k in np.flatnonzero(low.above > high.below).tolist():
            found[k] = (low[k] + high[k]) / 2
        return found

    def contains_exactly(self, x: Sequence[Fraction]) -> bool:
        """Whether a rational point is inside."""
        return all(low <= v <= high for v, low, high in zip(x, *(e.fractions() for e in self.ends), strict=True))

    @property
    def size(self) -> int:
        """Number of inputs."""
        return self.lower.size

    @property
    def center(self) -> Array:
        """The midpoint, ``(n,)``."""
        return self.lower + (self.upper - self.lower) / 2

    @property
    def width(self) -> Array:
        """``upper - lower``, ``(n,)``."""
        return self.upper - self.lower

    @property
    def varying(self) -> int:
        """How many inputs vary."""
        return int(np.count_nonzero(self.lower != self.upper))

    def contains(self, x: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Whether each float64 point of ``(..., n)`` is inside, or stands for one that is; no tolerance."""
        point, (low, high) = np.asarray(x, dtype=np.float64), self.inside
        return np.asarray(((point >= low) & (point <= high)).all(axis=-1))

    def clip(self, x: npt.ArrayLike) -> Array:
        """The nearest float64 point of the box, for each point of ``(..., n)``."""
        return np.clip(np.asarray(x, dtype=np.float64), *self.inside)

    def sample(self, count: int, rng: np.random.Generator) -> Array:
        """Uniform points ``(count, n)``."""
        return self.clip(self.lower + rng.random((count, self.size)) * self.width)
