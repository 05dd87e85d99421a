"""When two saliency maps are similar: distances of maps.

A similarity is a class here, with all that the condition (`verifier.properties.map_condition`) asks of it, and its rows in `verifier.encodings.similarity` if it
has linear ones; engines declare the names that they take.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from verifier.errors import PropertyError
from verifier.network.operators import Array
from verifier.properties.numbers import Numbers

EPS = 2.0**-52
CUTS = 20
"""So many linear inequalities for "top-k" are given at once."""


class Similarity(ABC):
    """A distance of maps ``(n,)``; maps are similar where it is at most δ.

    Attributes:
        name: as engines declare it and users give it.
        words: for pictures.
        is_box: whether "similar" says no more than an interval for every entry, ``reference ± δ``.
        bounds_entries: whether it says at least that.
        adds_up: whether differences of all entries are added, and with them a solver's tolerances.

    Source:
        Le et al., ACML 2023, Equation 7: L∞ there.
    """

    name: ClassVar[str]
    words: ClassVar[str]
    is_box: ClassVar[bool] = False
    bounds_entries: ClassVar[bool] = True
    adds_up: ClassVar[bool] = False

    @abstractmethod
    def distance(self, values: Array, reference: Array) -> Array:
        """Distances of maps ``(batch, n)`` from the reference ``(n,)``, in float64: ``(batch,)``."""

    @abstractmethod
    def exact_distance(self, values: Sequence[Fraction], reference: Sequence[Fraction]) -> Fraction:
        """The distance of one map in exact arithmetic, or what `admits` compares in its place."""

    def admits(self, size: Fraction, delta: Fraction) -> bool:
        """Whether what `exact_distance` gave is within δ."""
        return size <= delta

    @abstractmethod
    def least_distance(self, low: Array, high: Array, reference: Numbers) -> Array:
        """A lower bound of the distance over maps in ``[low, high]``, ``(…, n)``; rounding errors taken off."""

    def cuts(self, g: Array, reference: Array, delta: float, absolute: bool) -> tuple[Array, Array]:
        """Rows ``(c, n)`` and bounds that every similar ∇F meets and ``g`` does not; none where none is known.

        Args:
            absolute: whether the map is the absolute value of ∇F.
        """
        return np.zeros((0, len(g))), np.zeros(0)


class _Norm(Similarity):
    """A norm of the difference."""

    @staticmethod
    @abstractmethod
    def _size(difference: Array) -> Array:
        """The norm of ``difference >= 0`` along the last axis."""

    def distance(self, values: Array, reference: Array) -> Array:
        """See `Similarity.distance`."""
        return self._size(np.abs(values - reference))

    def least_distance(self, low: Array, high: Array, reference: Numbers) -> Array:
        """See `Similarity.least_distance`."""
        gap = np.maximum(np.maximum(low - reference.above, reference.below - high), 0.0)
        return np.asarray(self._size(gap) * (1.0 - (0 if self.is_box else gap.shape[-1] + 8) * EPS))


class Linf(_Norm):
    """The largest difference of an entry."""

    name, words, is_box = "linf", "L∞", True

    @staticmethod
    def _size(difference: Array) -> Array:
        return np.asarray(difference.max(axis=-1))

    def exact_distance(self, values: Sequence[Fraction], reference: Sequence[Fraction]) -> Fraction:
        """See `Similarity.exact_distance`."""
        return max(abs(v - r) for v, r in zip(values, reference, strict=True))


class _Summed(_Norm):
    """A norm that adds up the differences of all entries."""

    adds_up = True

    @abstractmethod
    def _direction(self, difference: Array) -> Array:
        """The gradient of the norm."""

    def cuts(self, g: Array, reference: Array, delta: float, absolute: bool) -> tuple[Array, Array]:
        """See `Similarity.cuts`: the norm's supporting half-space at ``g``."""
        n, difference = len(g), g - reference
        if absolute:  # the norm of max(|g| - reference, 0) is below the distance, and convex
            difference = np.sign(g) * np.maximum(np.abs(g) - reference, 0.0)
        row = self._direction(difference)
        anchor = np.sign(row) * reference if absolute else reference
        slack = (n + 10) * EPS * (np.abs(reference).sum() + delta)  # the reference is rounded too
        bound = delta + float(row @ anchor) + slack
        if row @ g > bound:
            return row[None], np.array([bound])
        return np.zeros((0, n)), np.zeros(0)


class L1(_Summed):
    """The sum of all differences."""

    name, words = "l1", "L1"

    @staticmethod
    def _size(difference: Array) -> Array:
        return np.asarray(difference.sum(axis=-1))

    def exact_distance(self, values: Sequence[Fraction], reference: Sequence[Fraction]) -> Fraction:
        """See `Similarity.exact_distance`."""
        return sum((abs(v - r) for v, r in zip(values, reference, strict=True)), Fraction(0))

    def _direction(self, difference: Array) -> Array:
        return np.sign(difference)


class L2(_Summed):
    """The Euclidean norm of the difference."""

    name, words = "l2", "L2"

    @staticmethod
    def _size(difference: Array) -> Array:
        return np.asarray(np.sqrt((difference**2).sum(axis=-1)))

    def exact_distance(self, values: Sequence[Fraction], reference: Sequence[Fraction]) -> Fraction:
        """See `Similarity.exact_distance`: the square."""
        return sum(((v - r) ** 2 for v, r in zip(values, reference, strict=True)), Fraction(0))

    def admits(self, size: Fraction, delta: Fraction) -> bool:
        """See `Similarity.admits`."""
        return size <= delta**2

    def _direction(self, difference: Array) -> Array:
        size = float(np.sqrt((difference**2).sum()))
        return difference / size if size > 0 else np.zeros(len(difference))


class TopK(Similarity):
    """With S the k largest entries of the reference: the largest entry outside S minus the smallest in S.

    At most 0 where the same k pixels are the most salient ones (ties count as similar); δ is the lead that others may have.

    Attributes:
        top: ``(n,)`` booleans, the set S.
    """

    name, words, bounds_entries = "top-k", "top-k lead", False

    def __init__(self, top: npt.NDArray[np.bool_]) -> None:
        self.top = top

    @staticmethod
    def of(reference: Sequence[Fraction], k: int) -> TopK:
        """The set of the k largest entries.

        Raises:
            PropertyError: k is not between 1 and n - 1.
        """
        n = len(reference)
        if not 1 <= k < n:
            raise PropertyError(f"top-k needs 1 <= k < {n}, got {k}", fix="give --top-k / top_k")
        top = np.zeros(n, dtype=bool)
        top[sorted(range(n), key=lambda j: -reference[j])[:k]] = True
        return TopK(top)

    def distance(self, values: Array, reference: Array) -> Array:
        """See `Similarity.distance`."""
        return np.asarray(values[:, ~self.top].max(axis=1) - values[:, self.top].min(axis=1))

    def exact_distance(self, values: Sequence[Fraction], reference: Sequence[Fraction]) -> Fraction:
        """See `Similarity.exact_distance`."""
        inside = min(v for v, s in zip(values, self.top, strict=True) if s)
        return max(v for v, s in zip(values, self.top, strict=True) if not s) - inside

    def least_distance(self, low: Array, high: Array, reference: Numbers) -> Array:
        """See `Similarity.least_distance`."""
        found = low[..., ~self.top].max(axis=-1) - high[..., self.top].min(axis=-1)
        return np.asarray(found - 2 * EPS * np.abs(found))

    def cuts(self, g: Array, reference: Array, delta: float, absolute: bool) -> tuple[Array, Array]:
        """See `Similarity.cuts`: the entries outside that lead by most."""
        if absolute:
            return super().cuts(g, reference, delta, absolute)
        outside, inside = np.flatnonzero(~self.top), np.flatnonzero(self.top)
        j = outside[np.argsort(-g[outside])[:CUTS]]
        i = inside[np.argmin(g[inside])]
        j = j[g[j] - g[i] > delta]
        rows = np.zeros((len(j), len(g)))
        rows[np.arange(len(j)), j], rows[:, i] = 1.0, -1.0
        return rows, np.full(len(j), delta)


MAKERS: dict[str, Callable[[Sequence[Fraction], int], Similarity]] = {
    "linf": lambda reference, k: Linf(),
    "l1": lambda reference, k: L1(),
    "l2": lambda reference, k: L2(),
    "top-k": TopK.of,
}
NAMES = tuple(MAKERS)
"""The similarities by name."""
