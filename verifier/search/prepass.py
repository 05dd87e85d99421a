"""The search for a counterexample before any engine is asked: attacks and exact lines, within seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from verifier.errors import TimeLimitError
from verifier.events import Listener, Progress, ignore
from verifier.limits import Deadline
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.properties.query import Query
from verifier.search.attack import Margins, batch_size, diversify, pgd, polish, sharpest_corners, starts
from verifier.search.replay import replay

if TYPE_CHECKING:
    from verifier.search.lines import LineHits

SHARE, MOST = 0.15, 4.0
"""The search takes at most this share of the time that is left, and at most so many seconds."""
MANY = 40_000
"""Random points in one round, for small networks."""
LINES = 48
"""Lines restricted at once."""

LONGEST = 6.0
"""Seconds of a thorough search."""


def thorough_seconds(network: Network) -> float:
    """Seconds for the search of an engine whose first bounds have failed: more for larger networks, whose proofs take
    longer too."""
    return min(LONGEST, network.neurons / 50)


def find_witness(
    query: Query, deadline: Deadline, seed: int = 0, listener: Listener = ignore, most: float = MOST
) -> Array | None:
    """A point that refutes the property, confirmed by the exact replay; None if none was found in time.

    Args:
        deadline: of the whole question; the search takes a share of it (`SHARE`, at most ``most`` seconds).
        seed: of everything random.
        listener: hears of progress.
        most: seconds at most.
    """
    left = deadline.left
    limit = Deadline.after(min(most, SHARE * left) if np.isfinite(left) else most)
    return _Search(query, limit, seed, listener).run()


class _Search:
    """One search: what is shared by its stages."""

    def __init__(self, query: Query, deadline: Deadline, seed: int, listener: Listener) -> None:
        self.query, self.deadline, self.listener = query, deadline, listener
        self.rng = np.random.default_rng(seed)
        self.margins = Margins.of(query)
        self.batch = batch_size(query.network)
        self.small = self.batch >= 256 and query.box.size <= 32
        """Whether points are cheap and linear programs over all inputs small."""
        self.began = time.monotonic()
        self.points = 0
        self.exact: ExactNetwork | None = None
        self.polished: set[bytes] = set()
        """Points from which, or to which, linear programs have climbed."""
        self.line_seconds = 0.0
        """What one line took last; 0 before the first."""
        self.pool: list[tuple[float, Array]] = []
        """Points with their margins (values only), the best kept: where lines go to."""

    def run(self) -> Array | None:
        """The stages in turn, attacks and lines alternating until the time is over."""
        stages: list[Callable[[int], Array | None]] = [self._samples, self._attack, self._polish]
        if self.query.network.is_piecewise_linear:
            stages.append(self._lines)
        for round_number in range(10_000):
            for stage in stages:
                if self.deadline.passed:
                    return None
                found = stage(round_number)
                if found is not None:
                    return found
            if not self.query.box.width.any():
                return None
            self.listener(
                Progress(seconds=time.monotonic() - self.began, stage="search", done=self.points, unit="points")
            )
        return None

    # -- stages ------------------------------------------------------------------------------------------
    def _samples(self, round_number: int) -> Array | None:
        """First the anchor, corners and the sharpest corners (FGSM); later many random points, if they are cheap."""
        if round_number == 0:
            x = starts(self.query, max(4, self.batch), self.rng)
            return self._try(np.concatenate([x, sharpest_corners(self.query, x[:2])]))
        if not self.small:
            return None
        best, points = np.empty(0), np.empty((0, self.query.box.size))
        for _ in range(MANY // self.batch):
            if self.deadline.passed:
                return None
            x = self._random(self.batch)
            margin = self._margins(x).max(axis=1)
            self.points += len(x)
            found = self._check(x[margin >= 0])
            if found is not None:
                return found
            best, points = np.concatenate([best, margin]), np.concatenate([points, x])
            order = np.argsort(-best)[: self.batch // 2]
            best, points = best[order], points[order]
        return self._climb(points, round_number, first=0.03, last=0.001, softness=0.5)

    def _attack(self, round_number: int) -> Array | None:
        """Projected gradient ascent from the best points so far, from random and from diversified ones."""
        count = max(2, self.batch // 2)
        best = np.array([x for _, x in self.pool[: count // 4]]).reshape(-1, self.query.box.size)
        fresh = self.query.box.sample(max(2, count - len(best)), self.rng)
        half = len(fresh) // 2
        spread = diversify(self.query, fresh[:half], self.rng, steps=3 + 2 * (round_number % 3))
        x = np.concatenate([best, spread, fresh[half:]])
        return self._climb(x, round_number, softness=(0.0, 0.5, 2.0)[round_number % 3])

    def _climb(self, x: Array, round_number: int, **how: float) -> Array | None:
        """Projected gradient ascent from these points; every point that meets the condition is replayed."""
        disjuncts = self._disjuncts(x, round_number)
        top, reached = np.full(len(x), -np.inf), x
        for points, margin in pgd(
            self.query,
            x,
            disjuncts,
            steps=20 + 10 * (round_number % 3),
            deadline=self.deadline,
            **how,  # type: ignore[arg-type]
        ):
            self.points += len(points)
            met = np.flatnonzero(margin >= 0)
            found = self._check(points[met][np.argsort(-margin[met])])
            if found is not None:
                return found
            better = margin > top
            top, reached = np.where(better, margin, top), np.where(better[:, None], points, reached)
        self._remember(reached, top)
        return None

    def _polish(self, round_number: int) -> Array | None:
        """Linear programs from the best few points, where rows compete for few inputs."""
        if not self.small or round_number == 0:
            return None
        fresh = [x for _, x in self.pool[:12] if x.tobytes() not in self.polished]
        for start in fresh[:4]:
            self.polished.add(start.tobytes())
            disjunct = int(self._margins(start[None])[0].argmax())
            last = None
            for last in polish(self.query, start, disjunct, self.deadline):
                found = self._check(last[None])
                if found is not None:
                    return found
            if last is not None:
                self.polished.add(last.tobytes())
                self._remember(last[None], self._margins(last[None]).max(axis=1))
        return None

    def _lines(self, round_number: int) -> Array | None:
        """Exact lines from the anchor to the pool, then from near misses in all directions."""
        query, count = self.query, self._affordable()
        if query.gradient is None and (round_number == 0 or query.network.neurons > 2000):
            return None  # the outputs have slopes to follow: lines come after them, and where they are cheap
        ends = np.array([x for _, x in self.pool[: max(1, count // 2)]]).reshape(-1, query.box.size)
        target = np.concatenate([ends, starts(query, count, self.rng)])[:count]
        hits = self._along(query.box.clip(query.start)[None], target) if count else None
        for _ in range(20 if query.gradient is not None else 1):
            if hits is None:
                return None
            found = self._check(hits.candidates)
            count = self._affordable()
            if found is not None or self.deadline.passed or not len(hits.near) or not count:
                return found
            # hit and run: the most promising misses, each along random directions to the box's boundary
            origin = hits.near[self.rng.integers(0, min(6, len(hits.near)), size=count)]
            hits = self._along(*self._chords(origin))
        return None

    def _affordable(self) -> int:
        """How many lines to restrict next: about a fifth of the time that is left, and none if one takes it all."""
        if self.line_seconds == 0:
            return LINES if self.query.network.neurons < 1000 else 1
        left = self.deadline.left
        if self.line_seconds > left:
            return 0
        return int(np.clip(left / 5 / self.line_seconds, 1, LINES))

    def _along(self, origin: Array, ends: Array) -> LineHits | None:
        """What lines find; None if the time does not suffice."""
        from verifier.search.lines import along_lines

        began = time.monotonic()
        pieces = int(np.clip(4 * self.batch, 16, 2048))
        try:
            hits = along_lines(self.query, origin, ends, pieces=pieces, deadline=self.deadline.at)
        except TimeLimitError:
            return None
        self.line_seconds = (time.monotonic() - began) / len(ends)
        return hits

    def _chords(self, origin: Array) -> tuple[Array, Array]:
        """The chord of the box through each point in a random direction: its two ends."""
        box = self.query.box
        direction = self.rng.normal(size=origin.shape) * box.width
        sparse = self.rng.random(origin.shape) < 0.5
        direction = np.where(sparse & (self.rng.random((len(origin), 1)) < 0.5), 0.0, direction)
        with np.errstate(divide="ignore", invalid="ignore"):
            to_low, to_high = (box.lower - origin) / direction, (box.upper - origin) / direction
        ahead = np.where(direction != 0, np.maximum(to_low, to_high), np.inf).min(axis=1, keepdims=True)
        behind = np.where(direction != 0, np.minimum(to_low, to_high), -np.inf).max(axis=1, keepdims=True)
        ahead, behind = np.where(np.isfinite(ahead), ahead, 0.0), np.where(np.isfinite(behind), behind, 0.0)
        return box.clip(origin + behind * direction), box.clip(origin + ahead * direction)

    def _random(self, count: int) -> Array:
        """Random points, half of them on random faces of the box, where witnesses like to sit."""
        box = self.query.box
        x = box.sample(count, self.rng)
        roll = self.rng.random(x.shape)
        roll[: count // 2] = 1.0
        return np.where(roll < 0.2, box.lower, np.where(roll < 0.4, box.upper, x))

    # -- points ------------------------------------------------------------------------------------------
    def _disjuncts(self, x: Array, round_number: int) -> npt.NDArray[np.int64]:
        """A disjunct for each point: mostly the one it is nearest to, else taken in turn."""
        count = len(self.query.disjuncts)
        if count == 1:
            return np.zeros(len(x), dtype=np.int64)
        disjuncts = np.concatenate(
            [self._margins(x[k : k + self.batch]).argmax(axis=1) for k in range(0, len(x), self.batch)]
        )
        turn = (np.arange(len(x)) + round_number * len(x)) % count
        return np.where(np.arange(len(x)) % 2 == 0, disjuncts, turn)

    def _margins(self, x: Array) -> Array:
        return self.margins.at(x, self.query.network.forward(x).reshape(len(x), -1))

    def _try(self, x: Array) -> Array | None:
        for k in range(0, len(x), self.batch):
            part = x[k : k + self.batch]
            margin = self._margins(part).max(axis=1)
            self.points += len(part)
            self._remember(part, margin)
            found = self._check(part[margin >= 0])
            if found is not None or self.deadline.passed:
                return found
        return None

    def _remember(self, x: Array, margin: Array) -> None:
        """Keep the best points that are not close to a better one, for the next attacks and lines."""
        width = np.maximum(self.query.box.width, 1e-300)
        for k in np.argsort(-margin)[:16]:
            if any(m >= margin[k] and (np.abs(x[k] - p) <= 0.02 * width).all() for m, p in self.pool):
                continue
            self.pool = [(m, p) for m, p in self.pool if m > margin[k] or (np.abs(x[k] - p) > 0.02 * width).any()]
            self.pool.append((float(margin[k]), x[k].copy()))
        self.pool.sort(key=lambda entry: -entry[0])
        del self.pool[64:]

    def _check(self, x: Array) -> Array | None:
        """The first of these points that float64 and then the exact replay confirm."""
        if not len(x):
            return None
        x = self.query.box.clip(x[: self.batch * 4])
        for point in x[self.query.holds(x)][:8]:
            self.exact = self.exact or ExactNetwork(self.query.network)
            if replay(self.query, point, self.exact).exact:
                return np.asarray(point)
            if self.deadline.passed:
                break
        return None
