"""The search for a counterexample before any engine is asked: attacks and exact lines, within seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from verifier.engines.base import Deadline
from verifier.events import Listener, Progress, ignore
from verifier.network.exact import ExactNetwork
from verifier.network.operators import Array
from verifier.properties.query import Query
from verifier.search.attack import Margins, batch_size, pgd, sharpest_corners, starts
from verifier.search.replay import replay

SHARE, MOST = 0.15, 6.0
"""The search takes at most this share of the time that is left, and at most so many seconds."""
LINES = 48
"""Lines restricted at once."""


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
        self.began = time.monotonic()
        self.tried = 0
        self.points = 0
        self.exact: ExactNetwork | None = None
        self.pool: list[tuple[float, Array]] = []
        """Points with their margins (values only), the best kept: where lines go to."""

    def run(self) -> Array | None:
        """The stages in turn, attacks and lines alternating until the time is over."""
        stages: list[Callable[[int], Array | None]] = [self._samples, self._attack]
        if self.query.gradient is not None:
            stages.append(self._lines)
        for round_number in range(10_000):
            for stage in stages:
                if self.deadline.passed:
                    return None
                found = stage(round_number)
                if found is not None:
                    return found
            self.listener(
                Progress(
                    seconds=time.monotonic() - self.began, stage="search", done=self.points, unit="points"
                )
            )
        return None

    # -- stages ------------------------------------------------------------------------------------------
    def _samples(self, round_number: int) -> Array | None:
        """The anchor, corners, random points; the sharpest corners (FGSM) in the first round."""
        x = starts(self.query, self.batch if round_number else max(4, self.batch), self.rng)
        if round_number == 0:
            x = np.concatenate([x, sharpest_corners(self.query, x[:2])])
        return self._try(x)

    def _attack(self, round_number: int) -> Array | None:
        """Projected gradient ascent from the best points so far and from random ones."""
        count = max(1, self.batch // 2)
        best = [x for _, x in self.pool[: count // 2]] if round_number % 2 == 0 else []
        fresh = self.query.box.sample(max(1, count - len(best)), self.rng)
        x = np.concatenate([np.array(best).reshape(-1, self.query.box.size), fresh])
        cases = self._cases(x, round_number)
        softness = (0.0, 0.5, 2.0)[round_number % 3]
        for points, margin in pgd(
            self.query, x, cases, steps=20 + 10 * (round_number % 3), softness=softness, deadline=self.deadline
        ):
            self.points += len(points)
            met = np.flatnonzero(margin >= 0)
            found = self._check(points[met][np.argsort(-margin[met])])
            if found is not None:
                return found
            self._remember(points, margin)
        return None

    def _lines(self, round_number: int) -> Array | None:
        """Exact lines from the anchor to the pool, then from near misses in all directions."""
        from verifier.search.lines import along_lines

        query, count = self.query, LINES
        ends = [x for _, x in self.pool[: count // 2]]
        target = np.concatenate([np.array(ends).reshape(-1, query.box.size), starts(query, count, self.rng)])
        hits = along_lines(query, query.box.clip(query.start)[None], target[:count])
        for _ in range(20):
            found = self._check(hits.candidates)
            if found is not None or self.deadline.passed or not len(hits.near):
                return found
            # hit and run: the most promising misses, each along random directions to the box's boundary
            origin = hits.near[self.rng.integers(0, min(6, len(hits.near)), size=count)]
            hits = along_lines(query, *self._chords(origin))
        return None

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

    # -- points ------------------------------------------------------------------------------------------
    def _cases(self, x: Array, round_number: int) -> np.ndarray:
        """A case for each point: mostly the one it is nearest to, else taken in turn."""
        count = len(self.query.cases)
        if count == 1:
            return np.zeros(len(x), dtype=np.int64)
        cases = np.concatenate(
            [self._margins(x[k : k + self.batch]).argmax(axis=1) for k in range(0, len(x), self.batch)]
        )
        turn = (np.arange(len(x)) + round_number * len(x)) % count
        return np.where(np.arange(len(x)) % 2 == 0, cases, turn)

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
        """Keep the best points, for the next attacks and lines."""
        for k in np.argsort(-margin)[:8]:
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
