"""Arrays of rationals: Python integers over one common denominator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.errors import InputError

Array = npt.NDArray[Any]
Number = int | float | Fraction


@dataclass(frozen=True, eq=False)
class Rationals:
    """An array of rationals with a common denominator.

    Attributes:
        numerators: object array of Python integers.
        denominator: positive integer.
    """

    numerators: Array
    denominator: int

    def fractions(self) -> list[Fraction]:
        """The entries in row-major order."""
        return [Fraction(int(n), self.denominator) for n in self.numerators.reshape(-1)]

    def floats(self) -> Array:
        """The entries rounded to float64, in the array's shape."""
        flat = [float(f) for f in self.fractions()]
        return np.array(flat, dtype=np.float64).reshape(self.numerators.shape)

    @staticmethod
    def of(values: Sequence[Number] | Array) -> Rationals:
        """From floats (taken exactly), integers or fractions; keeps an array's shape."""
        array = np.asarray(values)
        if array.dtype.kind == "f":
            return dyadic(array.astype(np.float64))
        fractions = [Fraction(v) for v in array.reshape(-1).tolist()]
        common = lcm(*(f.denominator for f in fractions)) if fractions else 1
        numerators = np.empty(len(fractions), dtype=object)
        numerators[:] = [f.numerator * (common // f.denominator) for f in fractions]
        return Rationals(numerators.reshape(array.shape), common)

    def __add__(self, other: Rationals) -> Rationals:
        if self.denominator == other.denominator:
            return Rationals(self.numerators + other.numerators, self.denominator)
        common = lcm(self.denominator, other.denominator)
        left = self.numerators * (common // self.denominator)
        return Rationals(left + other.numerators * (common // other.denominator), common)

    def above(self, bound: Number) -> npt.NDArray[np.int64]:
        """1 where an entry is greater than a number, else 0."""
        b = Fraction(bound)
        return np.asarray(self.numerators * b.denominator > b.numerator * self.denominator).astype(np.int64)

    def equals(self, number: Number) -> npt.NDArray[np.bool_]:
        """Which entries are a number."""
        b = Fraction(number)
        return np.asarray(self.numerators * b.denominator == b.numerator * self.denominator).astype(np.bool_)

    def reduced(self) -> Rationals:
        """The same values with the common power of two taken out of the denominator."""
        bits = self.denominator
        for n in self.numerators.reshape(-1):
            bits |= int(n)
            if bits & 1:
                return self
        shift = (bits & -bits).bit_length() - 1
        return Rationals(self.numerators >> shift, self.denominator >> shift)


def dyadic(values: Array) -> Rationals:
    """Float64 values as integers over a power of two, exactly.

    Shapes: values ``(…)``, any shape.

    Raises:
        InputError: NaN or infinity.
    """
    if not np.isfinite(values).all():
        raise InputError("NaN or infinity has no exact value")
    mantissa, exponent = np.frexp(values)
    integers = (mantissa * 2.0**53).astype(np.int64)
    # odd integers times powers of two: with the lowest of these for denominator, nothing is left to be reduced
    twos = np.where(integers == 0, 0, np.frexp((integers & -integers).astype(np.float64))[1].astype(np.int64) - 1)
    exponents = np.where(integers == 0, 0, exponent.astype(np.int64) - 53 + twos)
    lowest = min(int(exponents.min(initial=0)), 0)
    odd, shift = integers >> twos, np.where(integers == 0, 0, exponents - lowest)
    fits = shift + (53 - twos) < 63
    numerators = np.where(fits, odd << np.where(fits, shift, 0), 0).astype(object)
    if not fits.all():
        numerators[~fits] = odd[~fits].astype(object) << shift[~fits].astype(object)
    return Rationals(np.asarray(numerators, dtype=object), 1 << -lowest)
