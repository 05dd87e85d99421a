"""What every query's search for counterexamples does in turn: samples, gradient attacks, linear programs, exact lines."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from verifier.errors import TimeLimitError
from verifier.falsify.attack import diversify, pgd, polish, sharpest_corners, starts
from verifier.falsify.search import Search
from verifier.network.operators import Array

if TYPE_CHECKING:
    from verifier.falsify.lines import LineHits


class Samples:
    """First the anchor, corners and the sharpest corners (FGSM); later many random points, if they are cheap.

    Source:
        FGSM: Goodfellow, Shlens, Szegedy, ICLR 2015.
    """

    done = False

    def step(self, search: Search, turn: int) -> Array | None:
        """See `verifier.falsify.search.Part.step`."""
        if turn == 0:
            x = starts(search.query, max(4, search.batch), search.rng)
            return self._try(search, np.concatenate([x, sharpest_corners(search.query, x[:2])]))
        if not search.small:
            return None
        best, points = np.empty(0), np.empty((0, search.query.box.size))
        for _ in range(search.settings.many // search.batch):
            if search.deadline.passed:
                return None
            x = self._random(search, search.batch)
            margin = search.evaluate(x).max(axis=1)
            search.points += len(x)
            found = search.check(x[margin >= 0])
            if found is not None:
                return found
            best, points = np.concatenate([best, margin]), np.concatenate([points, x])
            order = np.argsort(-best)[: search.batch // 2]
            best, points = best[order], points[order]
        return climb(search, points, turn, first=0.03, last=0.001, softness=0.5)

    @staticmethod
    def _try(search: Search, x: Array) -> Array | None:
        for k in range(0, len(x), search.batch):
            some = x[k : k + search.batch]
            margin = search.evaluate(some).max(axis=1)
            search.points += len(some)
            search.remember(some, margin)
            found = search.check(some[margin >= 0])
            if found is not None or search.deadline.passed:
                return found
        return None

    @staticmethod
    def _random(search: Search, count: int) -> Array:
        """Random points, half of them on random faces of the box, where witnesses like to sit."""
        box = search.query.box
        x = box.sample(count, search.rng)
        roll = search.rng.random(x.shape)
        roll[: count // 2] = 1.0
        return np.where(roll < 0.2, box.lower, np.where(roll < 0.4, box.upper, x))


class Attacks:
    """Projected gradient ascent from the best points so far, from random and from diversified ones.

    Source:
        PGD: Madry et al., ICLR 2018; starts: Tashiro, Song, Ermon, NeurIPS 2020.
    """

    done = False

    def step(self, search: Search, turn: int) -> Array | None:
        """See `verifier.falsify.search.Part.step`."""
        count = max(2, search.batch // 2)
        best = search.best(count // 4)
        fresh = search.query.box.sample(max(2, count - len(best)), search.rng)
        half = len(fresh) // 2
        spread = diversify(search.query, fresh[:half], search.rng, steps=3 + 2 * (turn % 3))
        x = np.concatenate([best, spread, fresh[half:]])
        return climb(search, x, turn, softness=(0.0, 0.5, 2.0)[turn % 3])


def climb(
    search: Search, x: Array, turn: int, *, first: float = 0.25, last: float = 0.005, softness: float = 0.0
) -> Array | None:
    """Projected gradient ascent from points ``(batch, n)``; every point that meets the condition is replayed.

    Args:
        turn: sets the number of steps, and which disjuncts points work on.
        first, last, softness: see `verifier.falsify.attack.pgd`.

    Source:
        PGD: Madry et al., ICLR 2018.
    """
    disjuncts = _disjuncts(search, x, turn)
    top, reached = np.full(len(x), -np.inf), x
    for points, margin in pgd(
        search.query,
        x,
        disjuncts,
        steps=20 + 10 * (turn % 3),
        first=first,
        last=last,
        softness=softness,
        deadline=search.deadline,
    ):
        search.points += len(points)
        met = np.flatnonzero(margin >= 0)
        found = search.check(points[met][np.argsort(-margin[met])])
        if found is not None:
            return found
        better = margin > top
        top, reached = np.where(better, margin, top), np.where(better[:, None], points, reached)
    search.remember(reached, top)
    return None


def _disjuncts(search: Search, x: Array, turn: int) -> npt.NDArray[np.int64]:
    """A disjunct for each point: mostly the one it is nearest to, else taken in turn."""
    count = len(search.query.disjuncts)
    if count == 1:
        return np.zeros(len(x), dtype=np.int64)
    nearest = [search.evaluate(x[k : k + search.batch]).argmax(axis=1) for k in range(0, len(x), search.batch)]
    others = (np.arange(len(x)) + turn * len(x)) % count
    return np.where(np.arange(len(x)) % 2 == 0, np.concatenate(nearest), others)


class Polish:
    """Linear programs from the best few points, where rows compete for few inputs.

    Source:
        sequential linear programming: Griffith, Stewart, Management Science 1961.
    """

    done = False

    def __init__(self) -> None:
        self._seen: set[bytes] = set()
        """Points from which, or to which, linear programs have climbed."""

    def step(self, search: Search, turn: int) -> Array | None:
        """See `verifier.falsify.search.Part.step`."""
        if not search.small or turn == 0:
            return None
        fresh = [x for x in search.best(12) if x.tobytes() not in self._seen]
        for start in fresh[:4]:
            self._seen.add(start.tobytes())
            disjunct = int(search.evaluate(start[None])[0].argmax())
            last = None
            for last in polish(search.query, start, disjunct, search.deadline):
                found = search.check(last[None])
                if found is not None:
                    return found
            if last is not None:
                self._seen.add(last.tobytes())
                search.remember(last[None], search.evaluate(last[None]).max(axis=1))
        return None


class Lines:
    """Exact lines from the anchor to the best points, then from near misses in all directions.

    Source:
        Sotoudeh, Thakur, ExactLine, NeurIPS 2019.
    """

    done = False

    def __init__(self) -> None:
        self._seconds = 0.0
        """What one line took last; 0 before the first."""

    def step(self, search: Search, turn: int) -> Array | None:
        """See `verifier.falsify.search.Part.step`."""
        if not search.query.network.is_piecewise_linear:  # no line has finitely many pieces there
            self.done = True
            return None
        query, count = search.query, self._affordable(search)
        if query.gradient is None and (turn == 0 or query.network.neurons > search.settings.line_neurons):
            return None  # the outputs have slopes to follow: lines come after them, and where they are cheap
        target = np.concatenate([search.best(max(1, count // 2)), starts(query, count, search.rng)])[:count]
        hits = self._along(search, query.box.clip(query.start)[None], target) if count else None
        for _ in range(20 if query.gradient is not None else 1):
            if hits is None:
                return None
            found = search.check(hits.candidates)
            count = self._affordable(search)
            if found is not None or search.deadline.passed or not len(hits.near) or not count:
                return found
            # hit and run: the most promising misses, each along random directions to the box's boundary
            origin = hits.near[search.rng.integers(0, min(6, len(hits.near)), size=count)]
            hits = self._along(search, *_chords(search, origin))
        return None

    def _affordable(self, search: Search) -> int:
        """How many lines to restrict next: about a fifth of the time that is left, and none if one takes it all."""
        most = search.settings.lines
        if self._seconds == 0:
            return most if search.query.network.neurons < 1000 else 1
        left = search.deadline.left
        if self._seconds > left:
            return 0
        return int(np.clip(left / 5 / self._seconds, 1, most))

    def _along(self, search: Search, origin: Array, ends: Array) -> LineHits | None:
        """What lines find; None if the time does not suffice."""
        from verifier.falsify.lines import along_lines

        began = time.monotonic()
        pieces = int(np.clip(4 * search.batch, 16, 2048))
        try:
            hits = along_lines(search.query, origin, ends, pieces=pieces, deadline=search.deadline.at)
        except TimeLimitError:
            return None
        self._seconds = (time.monotonic() - began) / len(ends)
        return hits


def _chords(search: Search, origin: Array) -> tuple[Array, Array]:
    """The chord of the box through each point in a random direction: its two ends."""
    box, rng = search.query.box, search.rng
    direction = rng.normal(size=origin.shape) * box.width
    sparse = rng.random(origin.shape) < 0.5
    direction = np.where(sparse & (rng.random((len(origin), 1)) < 0.5), 0.0, direction)
    with np.errstate(divide="ignore", invalid="ignore"):
        to_low, to_high = (box.lower - origin) / direction, (box.upper - origin) / direction
    ahead = np.where(direction != 0, np.maximum(to_low, to_high), np.inf).min(axis=1, keepdims=True)
    behind = np.where(direction != 0, np.minimum(to_low, to_high), -np.inf).max(axis=1, keepdims=True)
    ahead, behind = np.where(np.isfinite(ahead), ahead, 0.0), np.where(np.isfinite(behind), behind, 0.0)
    return box.clip(origin + behind * direction), box.clip(origin + ahead * direction)
