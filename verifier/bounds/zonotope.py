"""Sets of arrays with a center, symbols and an error: ``terms[0] + Σ_k ε_k terms[k] ± error``, every ε_k in [-1, 1].

What entries have in common stays in common: of a norm that is worth more than of any one entry. From above it is bounded by
a semidefinite relaxation over the signs of the symbols (`verifier.bounds.norm_of_symbols`), the L2 norm from below by its component
along the center ``c = terms[0]``: ``‖c + Σ ε_k a_k‖ >= (‖c‖² - Σ_k |c · a_k|) / ‖c‖``. For a hundred symbols that point in
a hundred directions of a space of thousands the entries' own bounds, each at its worst, are several times as wide.

**Rounding** (γ as in `verifier.rounding`). A computed product ``c · a_k`` is off by at most ``γ_n ‖c‖ ‖a_k‖``, sums of K
numbers that are not negative by ``γ_K`` of the result. What an operation on terms rounds goes to the error.

Source: zonotopes, Girard, *Reachability of Uncertain Linear Systems Using Zonotopes*, HSCC 2005.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from verifier.bounds.norm_of_symbols import norm_of_symbols
from verifier.bounds.phases import Pair
from verifier.network.operators import Array
from verifier.rounding import SPACING, TINY, gamma

RESERVE = 1 + 1e-9
"""Covers terms of second order, and single operations."""


@dataclass(frozen=True, eq=False)
class Zonotope:
    """Some arrays, the outputs, with symbols of their own.

    Attributes:
        terms: ``(1 + symbols, outputs, *shape)``.
        error: ``(outputs, *shape)``, at least 0.
    """

    terms: Array
    error: Array

    @classmethod
    def between(cls, low: Array, high: Array) -> Zonotope:
        """The arrays between two of them, ``(outputs, *shape)`` each, without symbols."""
        middle = low + (high - low) / 2
        return cls(middle[None], np.maximum(high - middle, middle - low) * (1 + 2 * SPACING))

    def reach(self) -> Array:
        """At least the largest absolute value of every entry, ``(outputs, *shape)``."""
        return np.asarray((np.abs(self.terms).sum(axis=0) + self.error) * self._outward)

    def ends(self) -> Pair:
        """The smallest and the largest value of every entry, outwards."""
        spread = (np.abs(self.terms[1:]).sum(axis=0) + self.error) * self._outward
        return np.nextafter(self.terms[0] - spread, -np.inf), np.nextafter(self.terms[0] + spread, np.inf)

    @property
    def _outward(self) -> float:
        """What makes the sum of an entry's terms at least their sum without rounding."""
        return 1 + (len(self.terms) + 8) * SPACING

    def plus(self, other: Zonotope) -> Zonotope:
        """The sum; symbols of the same number are the same."""
        count = max(len(self.terms), len(other.terms))
        a, b = self.padded(count), other.padded(count)
        rounded = SPACING * (np.abs(a) + np.abs(b)).sum(axis=0)
        return Zonotope(a + b, (self.error + other.error + rounded) * (1 + (count + 8) * SPACING))

    def beside(self, other: Zonotope) -> Zonotope:
        """The sum with one whose symbols are others."""
        center = self.terms[0] + other.terms[0]
        rounded = SPACING * (np.abs(self.terms[0]) + np.abs(other.terms[0]))
        terms = np.concatenate([center[None], self.terms[1:], other.terms[1:]])
        return Zonotope(terms, (self.error + other.error + rounded) * RESERVE)

    def times(self, low: Array, high: Array) -> Zonotope:
        """The product, entry by entry, with arrays between two of them that vary on their own."""
        factor = Zonotope.between(low, high)
        middle, radius = factor.terms[0], factor.error
        reach = self.reach()
        size = (np.abs(middle) + radius) * RESERVE
        error = (self.error * size + reach * (radius + SPACING * np.abs(middle))) * RESERVE + TINY
        return Zonotope(self.terms * middle, error)

    def padded(self, count: int) -> Array:
        """The terms with zeros for symbols that they do not have."""
        if len(self.terms) == count:
            return self.terms
        return np.concatenate([self.terms, np.zeros((count - len(self.terms), *self.terms.shape[1:]))])

    def norms(self, order: int) -> Pair:
        """The least and the greatest L1 or L2 norm of each output, outwards: ``(outputs,)`` each.

        Args:
            order: 1 or 2.
        """
        flat, error = self.terms.reshape(*self.terms.shape[:2], -1), self.error.reshape(len(self.error), -1)
        name = "l1" if order == 1 else "l2"
        greatest = np.array([norm_of_symbols(flat[:, k], error[k], name).above for k in range(len(error))])
        spread = (np.abs(flat[1:]).sum(axis=0) + error) * self._outward
        nearest = np.maximum(np.abs(flat[0]) - spread, 0.0)
        sums = 1 + gamma(error.shape[1] + 16)
        if order == 1:
            return nearest.sum(axis=1) / sums, greatest
        least = np.sqrt((nearest**2).sum(axis=1)) / sums
        return np.fmax(least, [_along_the_center(flat[:, k], error[k]) for k in range(len(error))]), greatest


def _along_the_center(rows: Array, error: Array) -> float:
    """At most ‖a_0 + Σ ε_k a_k + e‖₂ for rows ``(1 + symbols, n)`` and ``|e| <= error (n,)``."""
    count, n = rows.shape
    slack = gamma(n + count + 64) * RESERVE
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows)) * (1 + slack) + TINY**0.5
    along = rows @ rows[0]
    across = float(np.abs(along[1:]).sum() + np.abs(rows[0]) @ error)
    least = along[0] - across - slack * (lengths[0] * lengths.sum() + across) * RESERVE
    return max(float(least), 0.0) / (float(lengths[0]) * RESERVE)
