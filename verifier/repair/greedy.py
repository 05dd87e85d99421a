"""Greedy single-weight patching: interval MAX-SMT by a sweep, one weight at a time.

With all other weights fixed, each key point is met for the values δ of one weight's change in an interval.
The δ that meets the most key points is found by sorting the intervals' ends (Sotoudeh & Thakur 2019,
Section 4); the best weight of a layer is changed, and again, until all are met or nothing improves.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numba as nb
import numpy as np
import numpy.typing as npt

from verifier.events import Listener, Progress, ignore
from verifier.network.operators import Array
from verifier.repair.frozen import FrozenNetwork, parameter_label, parameters
from verifier.repair.keypoints import KeyPoints, LayerRows, layer_rows


@dataclass(frozen=True, kw_only=True)
class Step:
    """One single-weight change of a greedy patch.

    Attributes:
        layer: the layer's name.
        parameter: the weight's name, e.g. "weight[3, 17]".
        delta: what was added to it.
        met: key points met afterwards.
        seconds: wall-clock time of the step.
    """

    layer: str
    parameter: str
    delta: float
    met: int
    seconds: float


@dataclass(frozen=True)
class Candidate:
    """The best change of one parameter: how many key points it meets, and its δ."""

    layer: str
    parameter: int
    delta: float
    met: int


def greedy(
    frozen: FrozenNetwork,
    points: KeyPoints,
    layers: Sequence[str],
    *,
    steps: int = 5,
    margin: float = 1e-9,
    listener: Listener = ignore,
) -> tuple[FrozenNetwork, list[Step]]:
    """Change single weights, each time the best one of the layers, until nothing improves.

    The number of key points met never decreases.

    Args:
        layers: the layers whose weights may change.
        steps: most changes.
        margin: every row is demanded with this much to spare, so that rounding does not undo it.

    Returns:
        the patched network and the steps taken.
    """
    start = time.perf_counter()
    taken: list[Step] = []
    met = int(points.met(points.slack(frozen)).sum())
    while len(taken) < steps and met < len(points):
        begin = time.perf_counter()
        best = best_change(frozen, points, layers, margin=margin)
        if best is None or best.met <= met:
            break
        operator = frozen.operator(frozen.network[best.layer])
        change = np.zeros(parameters(operator).size)
        change[best.parameter] = best.delta
        patched = frozen.patched(best.layer, change)
        now = int(points.met(points.slack(patched)).sum())
        if now <= met:
            break
        frozen, met = patched, now
        taken.append(
            Step(
                layer=best.layer,
                parameter=parameter_label(operator, best.parameter),
                delta=best.delta,
                met=met,
                seconds=time.perf_counter() - begin,
            )
        )
        listener(
            Progress(
                seconds=time.perf_counter() - start,
                stage="greedy",
                done=len(taken),
                unit="weights",
                left=steps - len(taken),
                bound=met / len(points),
            )
        )
    return frozen, taken


def best_change(
    frozen: FrozenNetwork, points: KeyPoints, layers: Sequence[str], *, margin: float = 1e-9
) -> Candidate | None:
    """The single-weight change that meets the most key points; among equals the smallest |δ|."""
    best: Candidate | None = None
    for layer in layers:
        rows = layer_rows(frozen, points, layer)
        met, delta = best_deltas(rows, points.row_start, margin=margin)
        order = np.lexsort((np.abs(delta), -met))
        k = int(order[0])
        found = Candidate(layer, k, float(delta[k]), int(met[k]))
        if best is None or (found.met, -abs(found.delta)) > (best.met, -abs(best.delta)):
            best = found
    return best


def best_deltas(
    rows: LayerRows, row_start: npt.NDArray[np.int64], *, margin: float = 0.0
) -> tuple[npt.NDArray[np.int64], Array]:
    """For every parameter of a layer: the most key points that a change of it alone can meet, and that change.

    Args:
        row_start: ``(K + 1,)`` the rows of each key point.
        margin: demanded of every row beyond its bound.

    Returns:
        counts ``(size,)`` and changes δ ``(size,)``. A parameter that cannot beat the best one found so far is
        not resolved further: its count is then a lower bound, and below the maximum.
    """
    size, total = rows.size, len(row_start) - 1
    met, delta = np.zeros(size, dtype=np.int64), np.zeros(size)
    slack = rows.slack - margin
    step = max(1, min(size, 40_000_000 // max(1, len(slack))))
    best = 0
    for start in range(0, size, step):
        chosen = np.arange(start, min(start + step, size))
        columns = rows.columns(chosen)
        counts, deltas = _sweep_all(columns, slack, row_start, best)
        met[chosen], delta[chosen] = counts, deltas
        best = max(best, int(counts.max(initial=0)))
        if best == total and not np.any(deltas[counts == total]):
            break
    return met, delta


@nb.njit(cache=True)  # type: ignore[untyped-decorator]
def _interval(column, slack, first, last):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """The δ for which ``column[r] * δ <= slack[r]`` for all rows first..last; empty is (1, 0)."""
    low, high = -np.inf, np.inf
    for r in range(first, last):
        c = column[r]
        if c > 0.0:
            high = min(high, slack[r] / c)
        elif c < 0.0:
            low = max(low, slack[r] / c)
        elif slack[r] < 0.0:
            return 1.0, 0.0
    return low, high


@nb.njit(cache=True)  # type: ignore[untyped-decorator]
def _nearest_to_zero(low, high):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """The point of [low, high] with the smallest absolute value, a little inside unless that is 0."""
    if low <= 0.0 <= high:
        return 0.0
    inner = min(0.5 * (high - low), 1e-9 * max(1.0, abs(low) if low > 0.0 else abs(high)))
    return low + inner if low > 0.0 else high - inner


@nb.njit(cache=True)  # type: ignore[untyped-decorator]
def _sweep(column, slack, row_start, lows, highs, floor):  # type: ignore[no-untyped-def] # pragma: no cover
    """The most intervals that one δ lies in, and the δ of smallest absolute value that reaches it."""
    points = len(row_start) - 1
    always, n = 0, 0
    for k in range(points):
        low, high = _interval(column, slack, row_start[k], row_start[k + 1])
        if low > high:
            continue
        if low == -np.inf and high == np.inf:
            always += 1
            continue
        lows[n], highs[n] = low, high
        n += 1
    if always + n < floor:
        return always, 0.0
    if n == 0:
        return always, 0.0
    starts, ends = np.sort(lows[:n]), np.sort(highs[:n])
    # Any best δ is as good as the largest start s below it, and all of [s, smallest end still to come] is as good.
    i, j, best, delta = 0, 0, -1, 0.0
    while i < n:
        s = starts[i]
        while i < n and starts[i] == s:
            i += 1
        while ends[j] < s:
            j += 1
        count = always + i - j
        if count >= best:
            candidate = _nearest_to_zero(s, ends[j])
            if count > best or abs(candidate) < abs(delta):
                best, delta = count, candidate
    return best, delta


@nb.njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def _sweep_all(columns, slack, row_start, floor):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    size, points = len(columns), len(row_start) - 1
    counts, deltas = np.zeros(size, dtype=np.int64), np.zeros(size)
    for p in nb.prange(size):
        lows, highs = np.empty(points), np.empty(points)
        counts[p], deltas[p] = _sweep(columns[p], slack, row_start, lows, highs, floor)
    return counts, deltas
