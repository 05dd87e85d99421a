"""Search along exact lines: on every piece of a line the gradient is constant and the outputs are linear.

So on a piece "the gradient is in its box" is one comparison, and every row over inputs and outputs holds on one
interval, whose ends are two linear crossings (the counterexample search of Le et al., ACML 2023, by ExactLine).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from verifier.falsify.attack import Margins
from verifier.network.operators import Array
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import Query


@dataclass(frozen=True, eq=False)
class LineHits:
    """What lines found.

    Attributes:
        candidates: ``(k, n)`` points that meet the condition as far as the arithmetic of the lines can tell,
            those with the most room around them first.
        near: ``(l, n)`` points that come closest to it otherwise, the best first.
        margins: ``(l,)`` how far they are from it (negative).
    """

    candidates: Array
    near: Array
    margins: Array


def along_lines(
    query: Query, starts: Array, ends: Array, keep: int = 16, pieces: int = 2048, deadline: float | None = None
) -> LineHits:
    """Look for witnesses on the segments from ``starts`` to ``ends``, ``(lines, n)`` each (one start serves all).

    Args:
        keep: how many near misses to return.
        pieces: how many pieces have their gradient compared, at most; those with the best outputs first.
        deadline: ``time.monotonic`` seconds at which the work stops.

    Raises:
        TimeLimitError: if the deadline passes.

    Source:
        Sotoudeh, Thakur, ExactLine, NeurIPS 2019, Theorems 1 to 3.
    """
    from verifier.regions import lines

    found = lines(query.network, starts, ends, deadline=deadline)
    first = np.delete(np.arange(len(found.breakpoints)), found.offsets[1:] - 1)
    line = np.repeat(np.arange(len(found)), np.diff(found.offsets) - 1)
    t0, t1 = found.breakpoints[first], found.breakpoints[first + 1]
    a, b = found.starts[line], found.ends[line]
    margins = Margins.of(query)
    best = np.full(len(first), -np.inf)
    low, high = np.zeros(len(first)), np.zeros(len(first))
    chosen = np.zeros(len(first), dtype=np.int64)
    left, right = (_points(a, b, t) for t in (t0, t1))
    for disjunct in range(len(query.disjuncts)):
        at_left = margins.slack(disjunct, left, found.values[first])
        at_right = margins.slack(disjunct, right, found.values[first + 1])
        s0, s1 = _interval(at_left, at_right)
        # the room at the interval's middle; at the better end where the interval is empty
        middle = np.where(s0 <= s1, (s0 + s1) / 2, np.where(_worst(at_left) >= _worst(at_right), 0.0, 1.0))[:, None]
        room = _worst((1 - middle) * at_left + middle * at_right)
        room = np.where((s0 <= s1) & (room < 0), 0.0, np.where(s0 > s1, np.minimum(room, -1e-300), room))
        better = room > best
        best = np.where(better, room, best)
        low, high = (
            np.where(better, np.where(s0 <= s1, s0, middle[:, 0]), low),
            np.where(better, np.where(s0 <= s1, s1, middle[:, 0]), high),
        )
        chosen = np.where(better, disjunct, chosen)
    order = np.argsort(-best, kind="stable")[:pieces]
    middle_t = t0 + (t1 - t0) * (low + high) / 2
    points = _points(a[order], b[order], middle_t[order])
    score = best[order]
    if query.gradient is not None:
        g = found.patterns.gradient(query.gradient.output, order)
        score = np.minimum(score, _gradient_room(query, g, points, chosen[order]))
    hit = score >= 0
    length = np.abs(b[order] - a[order]).max(axis=1) * ((t1 - t0) * (high - low))[order]
    hits = np.flatnonzero(hit)
    hits = hits[np.argsort(-length[hits], kind="stable")]
    misses = np.flatnonzero(~hit)
    misses = misses[np.argsort(-score[misses], kind="stable")][:keep]
    return LineHits(points[hits], points[misses], score[misses])


def _points(a: Array, b: Array, t: Array) -> Array:
    return (1 - t)[:, None] * a + t[:, None] * b


def _worst(slack: Array) -> Array:
    return slack.min(axis=1) if slack.shape[1] else np.full(len(slack), np.inf)


def _interval(at_left: Array, at_right: Array) -> tuple[Array, Array]:
    """Where in [0, 1] all rows, linear between their ends, are >= 0: lower and upper ends (crossed if nowhere)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = at_left / (at_left - at_right)
    low = np.where(at_left >= 0, 0.0, np.where(at_right >= 0, crossing, 2.0))
    high = np.where(at_right >= 0, 1.0, np.where(at_left >= 0, crossing, -1.0))
    return low.max(axis=1, initial=0.0), high.min(axis=1, initial=1.0)


def _gradient_room(query: Query, g: Array, points: Array, disjuncts: Array) -> Array:
    """Smallest slack of everything that speaks of the gradient, ``(pieces,)``."""
    assert query.gradient is not None
    room = query.gradient.room(g)
    if all(part.g_rows is None for part in query.parts):
        return np.asarray(room)
    y = query.network.forward(points).reshape(len(points), -1)

    def least(part: Conjunction, chosen: Array) -> None:
        if part.g_rows is not None and chosen.any():
            slack = part.slack(points[chosen], y[chosen], g[chosen])
            room[chosen] = np.minimum(room[chosen], slack.min(axis=1))

    if query.common is not None:
        least(query.common, np.ones(len(points), dtype=bool))
    for k, disjunct in enumerate(query.disjuncts):
        least(disjunct, disjuncts == k)
    return np.asarray(room)
