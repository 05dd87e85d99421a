"""The condition "the map at x is similar to this one": at points, exactly, and on boxes.

On a box the map is known by an interval of the gradient behind it; what a condition says of them is interval arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.errors import PropertyError
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.properties.maps import SaliencyMap
from verifier.properties.numbers import Numbers
from verifier.properties.similarity import MAKERS, NAMES, Similarity

NOISE = 1e-11
"""Share of a map's largest entry by which float64 may miss it: a first test lets such points pass to the replay."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MapCondition:
    """``distance(map(x), reference) <= delta``.

    Attributes:
        network: the network that the map explains.
        map: the kind of map.
        output: ``(m,)`` coefficients of the output combination that the map explains.
        similarity: the distance.
        exact_reference: the map to compare with, as it is in rational arithmetic.
        delta: >= 0.

    Raises:
        PropertyError: an unknown similarity, a negative or infinite delta, or a map beyond float64.

    Source:
        Le et al., ACML 2023, Equations 7 and 12.
    """

    network: Network
    map: SaliencyMap
    output: Array
    similarity: Similarity
    exact_reference: Numbers
    delta: float

    @staticmethod
    def at(
        network: Network, saliency_map: SaliencyMap, x: Array, label: int, similarity: str, delta: float, k: int = 0
    ) -> MapCondition:
        """The condition of similarity to the map at ``x``.

        Args:
            k: for "top-k", how many pixels.

        Raises:
            PropertyError: no such similarity, delta out of range, k not between 1 and n - 1.
        """
        if similarity not in NAMES:
            raise PropertyError(f"there is no similarity {similarity!r}", fix=f"similarities: {', '.join(NAMES)}")
        if not np.isfinite(delta) or delta < 0:
            raise PropertyError(f"delta must be a finite number >= 0, got {delta}")
        exact = ExactNetwork(network)
        point = [Fraction(v) for v in x.tolist()]
        output = saliency_map.output(exact, point, label)
        found = saliency_map.exact(exact, output, point)
        reference = Numbers.given_as(found)
        if not np.isfinite(reference.below + reference.above).all():
            raise PropertyError("the map at the input has entries beyond all float64 numbers")
        condition = MapCondition(
            network=network,
            map=saliency_map,
            output=output,
            similarity=MAKERS[similarity](found, k),
            exact_reference=reference,
            delta=float(delta),
        )
        condition.__dict__["exact_network"] = exact
        return condition

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "exact_network"}  # large, and soon made again

    @property
    def reference(self) -> Array:
        """``(n,)``: the map to compare with, rounded down; `exact_reference` is at most one float64 number above."""
        return self.exact_reference.below

    @cached_property
    def ends(self) -> tuple[Numbers, Numbers]:
        """``reference - delta`` and ``reference + delta``: the ends of the L∞ condition."""
        delta = Fraction(self.delta)
        return self.exact_reference.minus(delta), self.exact_reference.minus(-delta)

    @property
    def lower(self) -> Array:
        """The lower ends of the L∞ condition, rounded down."""
        return self.ends[0].below

    @property
    def upper(self) -> Array:
        """The upper ends of the L∞ condition, rounded up."""
        return self.ends[1].above

    @property
    def is_box(self) -> bool:
        """Whether it is no more than a box for the gradient of F (`gradient_box`)."""
        simple = self.map.by_gradient and self.map.baseline is None and not self.map.absolute
        return self.similarity.is_box and simple

    # -- at points ---------------------------------------------------------------------------------------
    def distance(self, values: Array) -> Array:
        """Distances of maps ``(batch, n)`` from the reference, in float64."""
        return self.similarity.distance(values, self.reference)

    def margin(self, x: Array) -> Array:
        """``delta - distance`` at points ``(batch, n)``, in float64; 0 where it may be no more than a rounding error."""
        values = self.map.values(self.network, self.output, x)
        found = self.delta - self.distance(values)
        error = NOISE * np.abs(values).max(axis=1, initial=0.0)
        return np.where((found < 0) & (found >= -error), 0.0, found)

    def admits(self, values: Sequence[Fraction]) -> bool:
        """Whether a map is similar, in exact arithmetic."""
        return self.similarity.admits(self.exact_distance(values), Fraction(self.delta))

    def exact_distance(self, values: Sequence[Fraction]) -> Fraction:
        """The distance of a map from the reference in exact arithmetic; its square for "l2"."""
        return self.similarity.exact_distance(values, self.exact_reference.fractions())

    @cached_property
    def exact_network(self) -> ExactNetwork:
        """The network in exact form."""
        return ExactNetwork(self.network)

    def exact_map(self, x: Sequence[Fraction]) -> list[Fraction]:
        """The map of the original network at a point, in rational arithmetic."""
        return self.map.exact(self.exact_network, self.output, x)

    # -- on boxes ----------------------------------------------------------------------------------------
    def enclosure(self, low: Array, high: Array, g_low: Array, g_high: Array) -> tuple[Array, Array]:
        """An interval of the map for ``low <= x <= high`` and ``g_low <= ∇F <= g_high``, rounded outwards.

        Of Grad-CAM, which is no function of a ∇F, what is given in its place are bounds on the map.
        """
        a, b = g_low, g_high
        if self.map.baseline is not None:
            s, t = _outward(low - self.map.baseline, high - self.map.baseline)
            products = np.stack([s * a, s * b, t * a, t * b])
            products = np.where(np.isnan(products), 0.0, products)  # 0 times infinity
            a, b = _outward(products.min(axis=0), products.max(axis=0))
        if self.map.absolute:
            smallest = np.where((a <= 0) & (b >= 0), 0.0, np.minimum(np.abs(a), np.abs(b)))
            a, b = smallest, np.maximum(np.abs(a), np.abs(b))
        return a, b

    def least_distance(self, low: Array, high: Array) -> Array:
        """A lower bound of the distance over maps in ``[low, high]``, ``(…, n)``; rounding errors taken off."""
        return self.similarity.least_distance(low, high, self.exact_reference)

    def excludes(self, low: Array, high: Array, g_low: Array, g_high: Array) -> npt.NDArray[np.bool_]:
        """Whether no x in the box with ∇F in its interval has a similar map (batches: one answer per row)."""
        with np.errstate(invalid="ignore", over="ignore"):
            return np.asarray(self.least_distance(*self.enclosure(low, high, g_low, g_high)) > self.delta)

    def cuts(self, g: Array) -> tuple[Array, Array]:
        """Linear inequalities that every similar ∇F meets and that ``g`` does not: rows ``(c, n)`` and bounds.

        None for maps that depend on x beyond the gradient, and where no linear one is known.
        """
        if self.map.baseline is not None:
            return np.zeros((0, len(g))), np.zeros(0)
        return self.similarity.cuts(g, self.reference, self.delta, self.map.absolute)

    def gradient_box(self, low: Array, high: Array) -> tuple[Array, Array]:
        """An interval of ∇F outside of which no x of the box has a similar map; infinite where none is known."""
        free = np.full(len(self.reference), np.inf)
        if not self.similarity.bounds_entries:
            return -free, free
        a, b = self.lower, self.upper
        if self.map.absolute:
            a = -b
        if self.map.baseline is None:
            return a, b
        s, t = _outward(low - self.map.baseline, high - self.map.baseline)
        return divide(a, b, s, t)

    def contract(self, low: Array, high: Array, g_low: Array, g_high: Array) -> tuple[Array, Array]:
        """The box cut to where the map can be similar, given the interval of ∇F; crossed ends where nothing is left.

        Only maps with a baseline and a norm tie x to ∇F; other boxes come back as they are.
        """
        if self.map.baseline is None or not self.similarity.bounds_entries:
            return low, high
        a, b = self.lower, self.upper
        if self.map.absolute:
            a = -b
        s, t = divide(a, b, g_low, g_high)
        s, t = _outward(s + self.map.baseline, t + self.map.baseline)
        return np.maximum(low, s), np.minimum(high, t)


def divide(a: Array, b: Array, c: Array, d: Array) -> tuple[Array, Array]:
    """All q with ``q · r in [a, b]`` for some ``r in [c, d]``, as an interval, rounded outwards.

    Shapes: ends ``(…)``, the same shape; so are the results.

    Infinite where r can be 0 and so can the product; crossed (+∞, -∞) where r is 0 and the product cannot be.

    Source:
        division of intervals: Moore, Interval Analysis, 1966.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        quotients = np.stack(np.broadcast_arrays(a / c, a / d, b / c, b / d))
    low, high = _outward(quotients.min(axis=0), quotients.max(axis=0))
    around = (c <= 0) & (d >= 0)
    nothing = (c == 0) & (d == 0) & ((a > 0) | (b < 0))
    low = np.where(nothing, np.inf, np.where(around | np.isnan(low), -np.inf, low))
    high = np.where(nothing, -np.inf, np.where(around | np.isnan(high), np.inf, high))
    return low, high


def _outward(low: Array, high: Array) -> tuple[Array, Array]:
    return np.nextafter(low, -np.inf), np.nextafter(high, np.inf)
