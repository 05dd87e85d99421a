"""Input sets: boxes and boxes cut by half-spaces, over the flattened input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from verifier.errors import PropertyError
from verifier.network.operators import Array


@dataclass(frozen=True, eq=False)
class Box:
    """``lower <= x <= upper``, flattened, float64, both ends included.

    Attributes:
        lower, upper: ``(n,)``; finite, ``lower <= upper``.
    """

    lower: Array
    upper: Array

    def __post_init__(self) -> None:
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
        empty = np.flatnonzero(lower > upper)
        if empty.size:
            k = empty[0]
            raise PropertyError(f"the box is empty: input {k} has lower {lower[k]} > upper {upper[k]}")
        lower.flags.writeable = upper.flags.writeable = False
        object.__setattr__(self, "lower", lower)
        object.__setattr__(self, "upper", upper)

    @staticmethod
    def around(center: npt.ArrayLike, epsilon: float, domain: tuple[float, float] | None = (0.0, 1.0)) -> Box:
        """The L∞ ball of radius ``epsilon`` around ``center``, cut to ``domain`` (None: not cut)."""
        x = np.asarray(center, dtype=np.float64).reshape(-1)
        if not np.isfinite(x).all():
            raise PropertyError("the center contains NaN or infinity")
        if not np.isfinite(epsilon) or epsilon < 0:
            raise PropertyError(f"epsilon must be a finite number >= 0, got {epsilon}")
        lower, upper = x - epsilon, x + epsilon
        if domain is not None:
            low, high = domain
            outside = np.flatnonzero((x < low) | (x > high))
            if outside.size:
                raise PropertyError(
                    f"the center is outside the domain [{low}, {high}]: entry {outside[0]} is {x[outside[0]]}",
                    fix="scale the input, or pass domain=None (no clipping) or the right domain",
                )
            lower, upper = np.maximum(lower, low), np.minimum(upper, high)
        return Box(lower, upper)

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
        """Whether each point of ``(..., n)`` is inside, ends included; no tolerance."""
        point = np.asarray(x, dtype=np.float64)
        return np.asarray(((point >= self.lower) & (point <= self.upper)).all(axis=-1))

    def clip(self, x: npt.ArrayLike) -> Array:
        """The nearest point of the box, for each point of ``(..., n)``."""
        return np.clip(np.asarray(x, dtype=np.float64), self.lower, self.upper)

    def sample(self, count: int, rng: np.random.Generator) -> Array:
        """Uniform points ``(count, n)``."""
        return self.clip(self.lower + rng.random((count, self.size)) * self.width)
