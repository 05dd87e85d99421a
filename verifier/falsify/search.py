"""One search for a counterexample: its settings, what its parts share, and what a part is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from verifier.falsify.attack import Margins, batch_size
from verifier.falsify.replay import replay
from verifier.limits import Deadline
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.properties.query import Query


@dataclass(frozen=True, kw_only=True)
class FalsifierSettings:
    """How long and how hard counterexamples are looked for.

    Attributes:
        share, most: at most this share of the time that is left, and at most so many seconds.
        longest, neurons_a_second: seconds of a thorough search at most, and for how many neurons it gets one.
        many: random points in one round, for networks whose points are cheap.
        cheap, few_inputs: points are cheap where so many fit into a batch; then, with at most so many inputs, linear
            programs over all inputs are small.
        lines: lines restricted at once.
        line_neurons: networks of more neurons without a condition on the gradient get no lines.
        pool, apart: how many of the best points are kept, and how far apart in box widths.
        rounds: of all parts.
    """

    share: float = 0.15
    most: float = 4.0
    longest: float = 6.0
    neurons_a_second: float = 50.0
    many: int = 40_000
    cheap: int = 256
    few_inputs: int = 32
    lines: int = 48
    line_neurons: int = 2000
    pool: int = 64
    apart: float = 0.02
    rounds: int = 10_000

    def lasting(self, seconds: float) -> FalsifierSettings:
        """These settings with another limit in seconds."""
        return replace(self, most=seconds)

    def thorough(self, network: Network) -> FalsifierSettings:
        """For an engine whose first bounds have failed: longer for larger networks, whose proofs take longer too."""
        return self.lasting(min(self.longest, network.neurons / self.neurons_a_second))


class Part(Protocol):
    """One way of looking; it may keep a state of its own between its turns."""

    @property
    def done(self) -> bool:
        """Whether further turns lead nowhere."""

    def step(self, search: Search, turn: int) -> Array | None:
        """One turn: a confirmed witness ``(n,)``, or None. Ends soon after ``search.deadline``."""


class Search:
    """One search, and what its parts share.

    Attributes:
        query, deadline, settings, parts: what is looked for, until when, and how.
        rng: of everything random.
        margins: the margins that attacks climb.
        batch: points that are evaluated at once.
        small: whether points are cheap and linear programs over all inputs small.
        points: how many were evaluated.
        pool: points with their margins (values only), the best kept, the best first: where attacks and lines begin.
        turn: turns taken.
    """

    def __init__(
        self, query: Query, deadline: Deadline, seed: int, settings: FalsifierSettings, parts: Sequence[Part]
    ) -> None:
        self.query, self.deadline, self.settings, self.parts = query, deadline, settings, parts
        self.rng = np.random.default_rng(seed)
        self.margins = Margins.of(query)
        self.batch = batch_size(query.network)
        self.small = self.batch >= settings.cheap and query.box.size <= settings.few_inputs
        self.began = time.monotonic()
        self.points = self.turn = 0
        self.pool: list[tuple[float, Array]] = []
        self._exact: ExactNetwork | None = None

    @property
    def over(self) -> bool:
        """Whether the time is over, or no part leads further."""
        return self.deadline.passed or all(part.done for part in self.parts)

    def step(self) -> Array | None:
        """One turn of every part; a confirmed witness if one met one."""
        turn, self.turn = self.turn, self.turn + 1
        for part in self.parts:
            if self.deadline.passed:
                return None
            found = None if part.done else part.step(self, turn)
            if found is not None:
                return found
        return None

    def evaluate(self, x: Array) -> Array:
        """The margins of every disjunct at points ``(batch, n)``: ``(batch, disjuncts)``."""
        return self.margins.at(x, self.query.network.forward(x).reshape(len(x), -1))

    def best(self, count: int) -> Array:
        """The best points so far: ``(at most count, n)``."""
        return np.array([x for _, x in self.pool[:count]]).reshape(-1, self.query.box.size)

    def remember(self, x: Array, margin: Array) -> None:
        """Keep the best points that are not close to a better one, for the next attacks and lines.

        Shapes: x ``(batch, n)``; margin ``(batch,)``.
        """
        apart = self.settings.apart * np.maximum(self.query.box.width, 1e-300)
        for k in np.argsort(-margin)[:16]:
            if any(m >= margin[k] and (np.abs(x[k] - p) <= apart).all() for m, p in self.pool):
                continue
            self.pool = [(m, p) for m, p in self.pool if m > margin[k] or (np.abs(x[k] - p) > apart).any()]
            self.pool.append((float(margin[k]), x[k].copy()))
        self.pool.sort(key=lambda entry: -entry[0])
        del self.pool[self.settings.pool :]

    def check(self, x: Array) -> Array | None:
        """The first of these points ``(k, n)`` that float64 and then the exact replay confirm."""
        if not len(x):
            return None
        x = self.query.box.clip(x[: self.batch * 4])
        for point in x[self.query.holds(x)][:8]:
            self._exact = self._exact or ExactNetwork(self.query.network)
            if replay(self.query, point, self._exact).exact:
                return np.asarray(point)
            if self.deadline.passed:
                break
        return None
