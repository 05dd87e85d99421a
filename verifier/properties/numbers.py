"""The numbers of a question, exactly as they were given, beside the float64 numbers around them.

A query's numbers are rationals: decimals of a file, the float64 values of an array, a sum ``x̂ ± ε``, an entry of a map
that was evaluated in rational arithmetic. Few of them are float64 numbers. So each is held exactly, lazily where it can
be, together with its neighbours ``below <= number <= above``, both equal to it where it is a float64 number. What proves
works on the outer neighbours (a superset of the question), what proposes a witness on the inner ones, what refutes and
what solves in rational arithmetic on the number itself. See ``docs/soundness.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from math import gcd, lcm
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from verifier.network.operators import Array
from verifier.rounding import Number, float_around, floats_around

Point: TypeAlias = Array | tuple[Fraction, ...]
"""An input: float64 numbers ``(n,)``, or a rational point where no float64 one will do."""


@dataclass(frozen=True, eq=False)
class Numbers:
    """A vector of real numbers (infinite ones allowed), held exactly.

    Attributes:
        below, above: ``(n,)`` the largest float64 at most, and the smallest at least, each number. They are equal where
            the number is a float64 number, else neighbours.
        terms: arrays ``(n,)`` of which each number is the exact sum.
        given: the numbers that are no such sum, by index.
    """

    below: Array
    above: Array
    terms: tuple[Array, ...] = ()
    given: Mapping[int, Number] = field(default_factory=dict)

    @staticmethod
    def of(values: npt.ArrayLike | Numbers) -> Numbers:
        """Float64 numbers; a `Numbers` as it is."""
        if isinstance(values, Numbers):
            return values
        array = np.array(values, dtype=np.float64).reshape(-1)
        array.flags.writeable = False
        return Numbers(array, array)

    @staticmethod
    def sum(a: Array, b: float) -> Numbers:
        """``a + b`` without rounding: float64 entries and a float64 number."""
        shift = np.full(len(a), b)
        with np.errstate(invalid="ignore", over="ignore"):
            total = a + shift
            back = total - a
            error = (a - (total - back)) + (shift - back)  # exact (Knuth, TAOCP 2, Section 4.2.2, Theorem B)
            below = np.where(error < 0, np.nextafter(total, -np.inf), total)
            above = np.where(error > 0, np.nextafter(total, np.inf), total)
        if not np.isfinite(error).all():  # the sum overflows somewhere
            return Numbers.given_as([Fraction(v) + Fraction(b) for v in a.tolist()])
        return Numbers(below, above, (a, shift))

    @staticmethod
    def given_as(values: Sequence[Number]) -> Numbers:
        """Decimals and fractions."""
        return Numbers.sparse(dict(enumerate(values)), len(values), 0.0)

    @staticmethod
    def sparse(values: Mapping[int, Number], size: int, otherwise: float) -> Numbers:
        """Numbers at some indices, and a float64 number at all others."""
        below = np.full(size, otherwise)
        above = below.copy()
        if values:
            places = np.fromiter(values, dtype=np.int64, count=len(values))
            below[places], above[places] = floats_around(list(values.values()))
        return Numbers(below, above, given=values)

    def __len__(self) -> int:
        return len(self.below)

    def __getitem__(self, k: int) -> Fraction:
        """One number, exactly; it must be finite."""
        return Fraction(self.number(k))

    def number(self, k: int) -> Number:
        """One number, finite, in the form in which it is held."""
        if self.below[k] == self.above[k]:
            return Fraction(float(self.below[k]))
        given = self.given.get(k)
        return sum((Fraction(float(t[k])) for t in self.terms), Fraction(0)) if given is None else given

    def fractions(self) -> list[Fraction]:
        """All numbers, exactly; they must be finite."""
        return [self[k] for k in range(len(self))]

    @property
    def is_float(self) -> npt.NDArray[np.bool_]:
        """``(n,)``: which of them are float64 numbers."""
        return np.asarray(self.below == self.above)

    @property
    def rounded(self) -> npt.NDArray[np.intp]:
        """Indices of those that are none."""
        return np.flatnonzero(self.below != self.above)

    def at(self, places: npt.NDArray[Any]) -> Numbers:
        """The numbers at some indices."""
        given = {k: self.number(j) for k, j in enumerate(places.tolist()) if self.below[j] != self.above[j]}
        return Numbers(self.below[places], self.above[places], given=given)

    def less(self, other: Numbers) -> npt.NDArray[np.bool_]:
        """``(n,)``: where each is less than the other's, exactly."""
        # neighbours have no float64 number between them: two such pairs are the same, or ordered
        found = (self.below < other.below) | (self.above < other.above)
        same = (self.below == other.below) & (self.above == other.above) & (self.below != self.above)
        if self.given is other.given and self.terms is other.terms:
            return np.asarray(found)
        for k in np.flatnonzero(same).tolist():
            own = self.given.get(k)
            if own is None or own is not other.given.get(k):
                found[k] = self[k] < other[k]
        return np.asarray(found)

    def at_least(self, floor: Numbers) -> Numbers:
        """The larger of each two."""
        return self._where(self.less(floor), floor)

    def at_most(self, ceiling: Numbers) -> Numbers:
        """The smaller of each two."""
        return self._where(ceiling.less(self), ceiling)

    def where(self, kept: npt.NDArray[np.bool_], otherwise: float) -> Numbers:
        """Those that are ``kept (n,)``, a float64 number in place of all others."""
        return self._where(~kept, Numbers.of(np.full(len(self), otherwise)))

    def _where(self, taken: npt.NDArray[np.bool_], other: Numbers) -> Numbers:
        if not taken.any():
            return self
        if taken.all():
            return other
        below, above = np.where(taken, other.below, self.below), np.where(taken, other.above, self.above)
        if other.is_float.all():
            return Numbers(below, above, self.terms, self.given)
        rounded = np.flatnonzero(below != above).tolist()
        return Numbers(below, above, given={k: (other if taken[k] else self).number(k) for k in rounded})

    def __neg__(self) -> Numbers:
        given = {k: v.copy_negate() if isinstance(v, Decimal) else -v for k, v in self.given.items()}
        return Numbers(-self.above, -self.below, tuple(-t for t in self.terms), given)

    def scaled(self, exponent: int) -> Numbers:
        """Each times a power of two; infinite ones stay."""
        factor, finite = Fraction(2) ** exponent, np.isfinite(self.below) & np.isfinite(self.above)
        given = {k: self[k] * factor for k in np.flatnonzero(finite).tolist()}
        held = Numbers.sparse(given, len(self), 0.0)
        return Numbers(np.where(finite, held.below, self.below), np.where(finite, held.above, self.above), given=given)

    def minus(self, shift: Fraction) -> Numbers:
        """Each minus an exact number; finite ones only."""
        return Numbers.given_as([v - shift for v in self.fractions()])


@dataclass(frozen=True, eq=False)
class ExactRow:
    """One inequality ``x · X + y · Y + g · G <= bound`` with rational coefficients by index, none of them zero.

    Attributes:
        inner: the bound that a point must meet to count, where the true one is irrational and ``bound`` above it.
    """

    x: Mapping[int, Fraction]
    y: Mapping[int, Fraction]
    g: Mapping[int, Fraction]
    bound: Fraction
    inner: Fraction | None = None

    def floats(self) -> ExactRow:
        """The same inequality times a positive number, with float64 coefficients if there are such.

        Decimals have a common denominator; times it they are integers, and those are float64 numbers up to 2⁵³.
        """
        coefficients = [*self.x.values(), *self.y.values(), *self.g.values()]
        if not coefficients or all(is_float(a) for a in coefficients):
            return self
        factor = Fraction(lcm(*(a.denominator for a in coefficients)))
        factor /= gcd(*(int(a * factor) for a in coefficients))
        largest = max(abs(a) for a in coefficients)
        # back to about the size that they had, by a power of two
        factor /= Fraction(2) ** (int(largest * factor).bit_length() - max(int(largest).bit_length(), 1))
        scaled = self.times(factor)
        return scaled if all(is_float(a) for m in (scaled.x, scaled.y, scaled.g) for a in m.values()) else self

    def times(self, factor: Fraction) -> ExactRow:
        """The same inequality times a positive number."""
        x, y, g = ({k: a * factor for k, a in m.items()} for m in (self.x, self.y, self.g))
        return ExactRow(x, y, g, self.bound * factor, None if self.inner is None else self.inner * factor)


def is_float(value: Fraction) -> bool:
    """Whether an exact number is a float64 number."""
    below, above = float_around(value)
    return below == above


def dot(coefficients: Mapping[int, Fraction], values: Sequence[Fraction]) -> Fraction:
    """``Σ coefficients[k] · values[k]``."""
    return sum((a * values[k] for k, a in coefficients.items()), Fraction(0))
