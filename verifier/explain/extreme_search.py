"""The parts of the search for an extreme of a map: the objective, its bounds on boxes with assumed ReLU phases, and the split."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from verifier.bab.interfaces import Bounded, Children
from verifier.engines.maps.boxes import Boxes
from verifier.engines.maps.enclosure import Enclosure, Enclosures
from verifier.limits import Deadline
from verifier.network.exact import ExactNetwork
from verifier.network.operators import Array
from verifier.properties.query import Query

LEAST_GAP = 1e-9
"""No search goes nearer than this: bounds cover rounding errors, and so never meet what is reached."""


class Objective(Protocol):
    """A function of the map, to be as large as possible.

    Attributes:
        symbolic: "l1" or "l2" where it is that norm of the map, "" else.
    """

    @property
    def symbolic(self) -> str: ...

    def above(self, lower: Array, upper: Array) -> Array:
        """``(B,)``: at least its value at every map between ``lower`` and ``upper (B, n)``, rounding included."""

    def linear(self, lower: Array, upper: Array) -> tuple[Array, Array] | None:
        """Coefficients ``(B, n)`` and constants ``(B,)`` of linear functions that are at least its value between ``lower``
        and ``upper``, rounding included; None where that gains nothing.
        """

    def values(self, maps: Array) -> Array:
        """Its value at maps ``(B, n)``, ``(B,)``, in float64."""

    def exact(self, found: Sequence[Fraction]) -> float:
        """At most its value at one map, next to it."""


@dataclass(frozen=True, kw_only=True)
class ExtremeSettings:
    """How boxes are searched.

    Attributes:
        cells: boxes times neurons bounded at once.
        few_inputs: with more inputs than this, only ReLUs are split.
        few_unstable: with fewer inputs, a box with at most so many unstable ReLUs is split on one of them.
        narrow: boxes narrower than this share of the root in every input are not split again.
        stuck: more subproblems than this that cannot be split end the search.
        samples, seed: points that are evaluated first.
    """

    cells: int = 1 << 15
    few_inputs: int = 12
    few_unstable: int = 12
    narrow: float = 1e-9
    stuck: int = 200
    samples: int = 256
    seed: int = 0


DEFAULT = ExtremeSettings()


@dataclass(eq=False)
class ObjectiveBounder:
    """Bounds of the objective on boxes, and the best point so far."""

    query: Query
    objective: Objective
    gap: float
    target: float | None
    best: float = -np.inf
    highest: float = -np.inf
    """The highest bound of a box that was closed."""
    first: float | None = None
    """The limit when the first box was bounded: what the search's bounds are relative to."""
    candidates: list[tuple[float, Array]] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert self.query.condition is not None
        self.condition = self.query.condition
        self.enclosures = Enclosures(self.query)
        self._lock = threading.Lock()
        self._exact: ExactNetwork | None = None
        plain = self.condition.map.baseline is None and not self.condition.map.absolute and not self.condition.map.path
        free = np.zeros((1, self.query.network.input_size))
        self._linear: Any = self.objective.linear if plain and self.objective.linear(free, free) is not None else None
        """For maps that are ∇F itself."""

    @property
    def limit(self) -> float:
        """Boxes whose bound is not above this are closed."""
        if self.target is not None:
            return self.target
        return self.best + max(self.gap, LEAST_GAP) * abs(self.best) if np.isfinite(self.best) else -np.inf

    @property
    def over(self) -> str:
        """Why the search may end: a point exceeds the target."""
        if self.target is None or self.best <= self.target:
            return ""
        return "a point exceeds the target" if self.reached()[0] > self.target else ""

    def look(self, points: Array) -> None:
        """Evaluate the objective at points ``(k, n)``."""
        c = self.condition
        values = self.objective.values(c.map.values(c.network, c.output, points))
        k = int(values.argmax())
        with self._lock:
            if values[k] > self.best:
                self.best = float(values[k])
                self.candidates.append((self.best, points[k].copy()))

    def reached(self) -> tuple[float, Array | None, Array | None]:
        """The best value by exact evaluation, the point, and the map there."""
        with self._lock:
            candidates = self.candidates[-3:]
        c, results = self.condition, []
        self._exact = self._exact or ExactNetwork(c.network)
        for _, point in candidates:
            found = c.map.exact(self._exact, c.output, self.query.box.point(point))
            results.append((self.objective.exact(found), point, np.array([float(v) for v in found])))
        return max(results, key=lambda r: r[0]) if results else (-np.inf, None, None)

    def bound(self, batch: Boxes, deadline: Deadline) -> Bounded[Boxes]:
        """See `verifier.bab.Bounder.bound`: 1 for a closed box, else how far its bound is above the limit, negated."""
        found = self.enclosures.of(batch.low, batch.high, batch.phase, self._linear)
        lower, upper = map_bounds(self.condition.map.baseline, self.condition.map.absolute, batch, found)
        above = np.where(found.open, np.minimum(self.objective.above(lower, upper), found.above), -np.inf)
        bounded = Boxes(batch.low, batch.high, batch.phase, found.influence, found.neurons)
        if found.open.any():
            low, high = batch.low[found.open], batch.high[found.open]
            self.look(np.concatenate([low + (high - low) / 2, np.clip(found.corners[found.open], low, high)]))
        return Bounded(bounded, self.closed(above))

    def closed(self, above: Array) -> Array:
        """Bounds from above as those of a search: 1 for a closed box, else how far it is above the first limit, negated.

        Shapes: above ``(boxes,)``; so is the result.
        """
        limit = self.limit
        with self._lock:
            self.highest = max(self.highest, float(above[above <= limit].max(initial=-np.inf)))
            if self.first is None:
                self.first = limit
        return np.where(above <= limit, 1.0, np.minimum(self.first - above, -1e-300))

    def above(self, lower: float) -> float:
        """What a bound of the search means: a bound of the objective from above, rounding included."""
        if not lower < 0 or self.first is None:
            return np.inf if lower < 0 else -np.inf
        return float(np.nextafter(self.first - lower, np.inf))

    def near(self, lower: float) -> bool:
        """Whether nothing that is open can come farther above the best point than asked."""
        return self.first is not None and self.above(lower) <= self.limit


def map_bounds(baseline: Array | None, absolute: bool, batch: Boxes, found: Enclosure) -> tuple[Array, Array]:
    """Bounds on the map from those on ∇F, ``(B, n)`` each, rounded outwards."""
    lower, upper = found.g_lower, found.g_upper
    if baseline is not None:
        left = np.nextafter(batch.low - baseline, -np.inf)
        right = np.nextafter(batch.high - baseline, np.inf)
        ends = np.stack([left * lower, left * upper, right * lower, right * upper])
        lower, upper = np.nextafter(ends.min(axis=0), -np.inf), np.nextafter(ends.max(axis=0), np.inf)
    if absolute:
        size = np.maximum(np.abs(lower), np.abs(upper))
        lower, upper = np.where((lower <= 0) & (upper >= 0), 0.0, np.minimum(np.abs(lower), np.abs(upper))), size
    return lower, upper


class BoxBrancher:
    """Splits on the ReLU that moves the map most; with few inputs and many unstable ReLUs, on an input.

    Args:
        width: ``(n,)`` of the root.
        constant: whether the map is the same on all of a box that has no unstable ReLU: splitting it gains nothing.
    """

    def __init__(self, width: Array, settings: ExtremeSettings, constant: bool) -> None:
        self.constant = constant
        self.width, self.narrow = np.where(width > 0, width, 1.0), settings.narrow
        self.by_inputs = int((width > 0).sum()) <= settings.few_inputs
        self.few = settings.few_unstable if self.by_inputs else width.size + (1 << 30)

    def split(self, batch: Boxes, lower: Array) -> Children[Boxes]:
        """See `verifier.bab.Brancher.split`."""
        width = batch.high - batch.low
        splittable = (width > self.narrow * self.width) & self.by_inputs
        score = np.where(splittable, width / self.width * (batch.influence + 1e-3), 0.0)
        unstable = (batch.effect > 0).sum(axis=1)
        by_phase = (unstable > 0) & ((unstable <= self.few) | (score.max(axis=1) == 0))
        divided = by_phase | ((score.max(axis=1) > 0) & ~((unstable == 0) & self.constant))
        parent = np.repeat(np.flatnonzero(divided), 2)
        lows, highs, phases = batch.low[parent], batch.high[parent], batch.phase[parent]
        for k in range(0, len(parent), 2):
            p = int(parent[k])
            if by_phase[p]:
                neuron = int(batch.effect[p].argmax())
                phases[k, neuron], phases[k + 1, neuron] = 1, -1
            else:
                i = int(score[p].argmax())
                highs[k, i] = lows[k + 1, i] = batch.low[p, i] + width[p, i] / 2
        return Children(Boxes.unbounded(lows, highs, phases), parent)
