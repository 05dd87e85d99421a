"""Counterexamples to "these features are free": gradient attacks on many free sets at once, and what they have in common.

All points move inside the one region; a free set is a mask on what may differ from x. Corners that the margins' slopes
point to (repeated FGSM) do most of the work, since the region is a box and the network piecewise linear. What float64
says is wrong is only a candidate: `Explained.refuted_by` decides in exact arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from verifier.explain.explained import Explained
from verifier.falsify.attack import Margins, batch_size
from verifier.network.operators import Array

CLASSES, POOL = 4, 12
"""Other labels that an attack tries at once: the nearest; and points that it starts from at most."""
STEPS = (1.0, 1.0, 0.5, 1.0, 0.25, 0.5, 0.1)
"""Of one attack, in widths of the region."""
LOOKS = 64
"""Prefixes of an order that are evaluated at once."""
REACH = 3.0
"""A feature is tried if the slope promises this fraction ``1 / REACH`` of what is missing."""


class Adversary:
    """Attacks that remember how far they came for the features that are free so far."""

    def __init__(self, explained: Explained) -> None:
        self.explained = explained
        e = explained
        self._margins = Margins.of(e.query)
        self._width = e.high - e.low
        self._batch = batch_size(e.network)
        nearest = np.argsort(self._outputs(e.x[None])[1][0])[::-1]
        classes = nearest[: min(CLASSES, len(nearest))].astype(np.int64)
        corners = np.where(np.random.default_rng(0).random((len(classes), e.x.size)) < 0.5, e.low, e.high)
        self._pool: Array = np.concatenate([np.repeat(e.x[None], len(classes), axis=0), corners])
        """Where attacks start, and the disjunct that each climbs: the other labels in order."""
        self._classes = np.concatenate([classes, classes])

    def attack(self, free: frozenset[int]) -> Array | None:
        """A point that refutes these features, in float64, or None; the pool of good points is improved."""
        mask = self.explained.features.mask(free)
        start = np.where(mask, self._pool, self.explained.x)
        points, margins = self._climb(start, self._classes, mask[None])
        if margins.max() > 0:
            wrong = self._wrong(points)
            if len(wrong):
                return np.asarray(wrong[0])
        return None

    def learn(self, point: Array) -> None:
        """A wrong point that others found: attacks start from it, too, where only free features keep what it changes.

        Shapes: point ``(n,)``.
        """
        _, margins = self._outputs(point[None])
        self._pool = np.concatenate([point[None], self._pool])[:POOL]
        self._classes = np.concatenate([margins[:1].argmax(axis=1), self._classes])[:POOL]

    def settle(self, free: frozenset[int]) -> None:
        """Features are free now, proved: later attacks start from the lowest margins that these allow."""
        mask = self.explained.features.mask(free)
        self._pool, _ = self._climb(np.where(mask, self._pool, self.explained.x), self._classes, mask[None])

    def shortest(self, point: Array, free: frozenset[int], pending: Sequence[int]) -> tuple[int, Array]:
        """The fewest of the first pending features that a wrong point needs to move, and the point with those alone.

        Shapes: point ``(n,)``.

        Returns:
            count and point: it differs from x in free features and ``pending[:count]`` only, and the last of them is needed.
        """
        low, high, best = 1, len(pending), point
        while low < high:
            counts = np.unique(np.linspace(low, high - 1, min(LOOKS, high - low)).round().astype(int)).tolist()
            points = np.stack([self._cut(point, free, pending[:count]) for count in counts])
            wrong = np.flatnonzero(self.explained.clearly_wrong(self._forward(points)))
            if not len(wrong):
                break
            first = int(wrong[0])
            high, best = counts[first], points[first]
            low = counts[first - 1] + 1 if first else high
        return high, best

    def prefix(self, free: frozenset[int], pending: Sequence[int]) -> tuple[int, Array] | None:
        """The shortest prefix of the pending features that an attack refutes: its length, and the point."""
        point = self.attack(free.union(pending))
        if point is None:  # where the longest is not refuted none is likely to be
            return None
        low, found = 0, self.shortest(point, free, pending)
        while found[0] - low > 1:
            middle = (low + found[0]) // 2
            point = self.attack(free.union(pending[:middle]))
            if point is None:
                low = middle
            else:
                found = self.shortest(point, free, pending[:middle])
        return found

    def few(self, point: Array) -> Array:
        """A wrong point that changes fewer features than this one, if one comes to mind: still wrong, in float64.

        Shapes: point ``(n,)``.

        In turns: the features in the order of what they contribute by the slope there, the shortest prefix that is wrong,
        and an attack inside it, which makes the first ones worth more.
        """
        e = self.explained
        changed = e.changed(point)
        while len(changed) > 1:
            _, margins = self._outputs(point[None])
            _, slope = self._margins.ascent(point[None], margins.argmax(axis=1))
            worth = e.features.sums(slope[0] * (point - e.x))
            count, fewer = self.shortest(point, frozenset(), sorted(changed, key=lambda k: (-worth[k], k)))
            if count == len(changed):
                return point
            again = self.attack(e.changed(fewer))
            point = fewer if again is None else again
            changed = e.changed(point)
        return point

    def singles(self, free: frozenset[int], pending: Sequence[int]) -> dict[int, Array]:
        """Points that refute the free features with one pending one each, in float64."""
        e, found = self.explained, dict[int, Array]()
        if not pending:
            return found
        fixed = e.features.mask(free)
        pool = np.where(fixed, self._pool, e.x)
        margins, slopes = self._margins.ascent(pool, self._classes)
        gain = e.features.sums(np.maximum(slopes * (e.low - e.x), slopes * (e.high - e.x)).clip(0))[:, list(pending)]
        promise = np.where(margins[:, None] + REACH * gain >= 0, margins[:, None] + gain, -np.inf)
        masks = np.stack([e.features.mask([k]) for k in pending])
        for _ in range(min(2, len(self._classes))):
            chosen = promise.argmax(axis=0)
            todo = [i for i, k in enumerate(pending) if k not in found and np.isfinite(promise[chosen[i], i])]
            for first in range(0, len(todo), self._batch):
                some = np.array(todo[first : first + self._batch])
                classes, may = self._classes[chosen[some]], masks[some] | fixed
                # the feature's own corner first, then all together
                start = pool[chosen[some]]
                corner = np.where(slopes[chosen[some]] > 0, e.high, np.where(slopes[chosen[some]] < 0, e.low, start))
                start = np.where(masks[some], corner, start)
                points, reached = self._climb(start, classes, may)
                wrong = np.flatnonzero((reached > 0) & e.clearly_wrong(self._forward(points)))
                found.update({pending[some[j]]: points[j] for j in wrong.tolist()})
            promise[chosen, np.arange(len(pending))] = -np.inf
        return found

    def without_one(self, point: Array, features: Sequence[int]) -> Array | None:
        """From a wrong point one that is still wrong, in float64, and leaves out one of these features, which it changes.

        Shapes: point ``(n,)``.
        """
        e = self.explained
        masks = np.stack([e.features.mask([k]) for k in features])
        may = e.features.mask(e.changed(point)) & ~masks
        _, margins = self._outputs(point[None])
        for first in range(0, len(features), self._batch):
            some = may[first : first + self._batch]
            classes = np.full(len(some), margins[0].argmax(), dtype=np.int64)
            points, reached = self._climb(np.where(some, point, e.x), classes, some)
            best = int(reached.argmax())
            if reached[best] > 0 and e.clearly_wrong(self._forward(points[best : best + 1]))[0]:
                return np.asarray(points[best])
        return None

    # -- parts -------------------------------------------------------------------------------------------
    def _climb(self, start: Array, classes: Array, may: Array) -> tuple[Array, Array]:
        """Ascend the margins inside masks ``(k or 1, n)``: the best points and their margins."""
        e, points = self.explained, start.copy()
        best, reached = start.copy(), np.full(len(start), -np.inf)
        for step in (*STEPS, 0.0):
            margin, slope = self._margins.ascent(points, classes)
            better = margin > reached
            best[better], reached[better] = points[better], margin[better]
            if not step or (reached > 0).all():
                break
            moved = np.clip(points + step * self._width * np.sign(slope), e.low, e.high)
            points = np.where(may & (slope != 0), moved, points)
        return best, reached

    def _cut(self, point: Array, free: frozenset[int], some: Sequence[int]) -> Array:
        return np.where(self.explained.features.mask(free.union(some)), point, self.explained.x)

    def _forward(self, points: Array) -> Array:
        parts = [
            self.explained.network.forward(points[k : k + self._batch]) for k in range(0, len(points), self._batch)
        ]
        return np.concatenate([part.reshape(len(part), -1) for part in parts])

    def _outputs(self, points: Array) -> tuple[Array, Array]:
        """Outputs, and the margins of the other labels: above 0 where one is wrong."""
        y = self._forward(points)
        return y, self._margins.at(points, y)

    def _wrong(self, points: Array) -> Array:
        return points[self.explained.clearly_wrong(self._forward(points))]
