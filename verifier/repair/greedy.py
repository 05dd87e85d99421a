"""Greedy single-weight patching: interval MAX-SMT by a sweep, one weight at a time.

With all other weights fixed, each key point is met for the values δ of one weight's change in an interval.
The δ that meets the most key points is found by sorting the intervals' ends (Sotoudeh & Thakur 2019,
Section 5.1 and Theorem 3); the best weight of a layer is changed, and again, until all are met or nothing improves.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numba as nb
import numpy as np
import numpy.typing as npt

from verifier.events import Listener, Progress, ignore
from verifier.limits import NEVER, Deadline
from verifier.network.operators import Array, Dense
from verifier.repair.frozen import FrozenNetwork, parameter_label, parameters
from verifier.repair.keypoints import KeyPoints
from verifier.repair.rows import LayerRows, layer_rows


@dataclass(frozen=True, kw_only=True)
class Step:
    """One single-weight change of a greedy patch.

    Attributes:
        layer: the layer's name.
        parameter: the weight's name, e.g. "weight[3, 17]".
        index: its place among the layer's parameters (`verifier.repair.frozen.parameters`).
        delta: what was added to it.
        met: key points met afterwards.
        seconds: wall-clock time of the step.
        cpu: processor time of the step, all threads together, in seconds.
    """

    layer: str
    parameter: str
    index: int
    delta: float
    met: int
    seconds: float
    cpu: float


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
    deadline: Deadline = NEVER,
    listener: Listener = ignore,
) -> tuple[FrozenNetwork, list[Step]]:
    """Change single weights, each time the best one of the layers, until nothing improves.

    The number of key points met never decreases.

    Args:
        layers: the layers whose weights may change.
        steps: most changes.

    Returns:
        the patched network and the steps taken.
    """
    start = time.perf_counter()
    taken: list[Step] = []
    met = int(points.met(points.slack(frozen)).sum())
    while len(taken) < steps and met < len(points) and not deadline.passed:
        begin, processor = time.perf_counter(), time.process_time()
        best = best_change(frozen, points, layers)
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
                index=best.parameter,
                delta=best.delta,
                met=met,
                seconds=time.perf_counter() - begin,
                cpu=time.process_time() - processor,
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


def best_change(frozen: FrozenNetwork, points: KeyPoints, layers: Sequence[str]) -> Candidate | None:
    """The single-weight change that meets the most key points; among equals the smallest |δ|."""
    best: Candidate | None = None
    for layer in layers:
        own, weight = points.distinct(frozen, layer)
        met, delta = best_deltas(layer_rows(frozen, own, layer), own.row_start, weight)
        k = int(np.lexsort((np.abs(delta), -met))[0])
        found = Candidate(layer, k, float(delta[k]), int(met[k]))
        if best is None or (found.met, -abs(found.delta)) > (best.met, -abs(best.delta)):
            best = found
    return best


def best_deltas(
    rows: LayerRows, row_start: npt.NDArray[np.int64], weight: npt.NDArray[np.int64] | None = None
) -> tuple[npt.NDArray[np.int64], Array]:
    """For every parameter of a layer: the most key points that a change of it alone can meet, and that change.

    Args:
        row_start: ``(K + 1,)`` the rows of each key point.
        weight: ``(K,)`` how many key points each stands for; one by default.

    Returns:
        counts ``(size,)`` and changes δ ``(size,)``.
    """
    points = len(row_start) - 1
    weight = np.ones(points, dtype=np.int64) if weight is None else weight
    met = np.logical_and.reduceat(rows.slack >= 0, row_start[:-1])
    order = np.argsort(met, kind="stable")  # unmet key points first
    unmet = int(points - met.sum())
    ones = np.ones(points)
    if isinstance(rows.operator, Dense) and rows.upstream.ndim == 2:
        upstream = np.ascontiguousarray(rows.upstream.T)
        inputs = np.concatenate([np.ascontiguousarray(rows.inputs.T), ones[None]])
        outs, ins = rows.operator.weight.shape
        used = rows.used()
        is_weight = used < outs * ins
        unit = np.where(is_weight, used // ins, used - outs * ins)
        pairs = np.stack([unit, np.where(is_weight, used % ins, ins)], axis=1)
        counts, deltas = np.full(rows.size, int(weight[met].sum())), np.zeros(rows.size)
        found = _sweep_all(upstream, inputs, pairs, rows.slack, row_start, weight, order, unmet)
        counts[used], deltas[used] = found
        return counts, deltas
    counts, deltas = np.zeros(rows.size, dtype=np.int64), np.zeros(rows.size)
    step = max(1, 40_000_000 // max(1, len(rows.slack)))
    for start in range(0, rows.size, step):
        chosen = np.arange(start, min(start + step, rows.size))
        pairs = np.stack([np.arange(len(chosen)), np.zeros(len(chosen), dtype=np.int64)], axis=1)
        found = _sweep_all(rows.columns(chosen), ones[None], pairs, rows.slack, row_start, weight, order, unmet)
        counts[chosen], deltas[chosen] = found
    return counts, deltas


@nb.njit(cache=True)  # type: ignore[untyped-decorator]
def _interval(column, factor, slack, first, last):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """The δ for which ``column[r] * factor * δ <= slack[r]`` for all rows first..last; empty is (1, 0)."""
    low, high = -np.inf, np.inf
    for r in range(first, last):
        c = column[r] * factor
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
def _gains(column, factor, slack, row_start, weight, order, unmet):  # type: ignore[no-untyped-def] # pragma: no cover
    """The intervals of δ that win key points that are unmet now, and these points' weights."""
    n = 0
    lows, highs, sizes = np.empty(unmet), np.empty(unmet), np.empty(unmet, dtype=np.int64)
    for position in range(unmet):
        k = order[position]
        low, high = _interval(column, factor[k], slack, row_start[k], row_start[k + 1])
        if low <= high:
            lows[n], highs[n], sizes[n] = low, high, weight[k]
            n += 1
    return lows[:n], highs[:n], sizes[:n]


@nb.njit(cache=True)  # type: ignore[untyped-decorator]
def _losses(column, factor, slack, row_start, weight, order, unmet, sign, reach, gain):  # type: ignore[no-untyped-def] # pragma: no cover
    """Where met key points are lost for δ of a sign, with their weights, and how far δ pays: up to ``reach`` or nearer."""
    losses, lost = np.empty(256), np.empty(256, dtype=np.int64)
    c = 0
    for position in range(unmet, len(order)):
        k = order[position]
        f = factor[k] * sign
        high = np.inf
        for r in range(row_start[k], row_start[k + 1]):
            coefficient = column[r] * f
            if coefficient > 0.0 and slack[r] <= reach * coefficient:
                high = min(high, slack[r] / coefficient)
        if high > reach:
            continue
        if c == len(losses):
            if c >= 4096:
                # keep the nearest: beyond them more is lost than can be gained
                limit = _limit(losses[:c], lost[:c], gain)
                if limit < reach:
                    reach = limit
                    kept = 0
                    for q in range(c):
                        if losses[q] <= reach:
                            losses[kept], lost[kept] = losses[q], lost[q]
                            kept += 1
                    c = kept
            if 2 * c > len(losses):
                grown, counts = np.empty(4 * len(losses)), np.empty(4 * len(losses), dtype=np.int64)
                grown[:c], counts[:c] = losses[:c], lost[:c]
                losses, lost = grown, counts
        losses[c], lost[c] = high, weight[k]
        c += 1
    return losses[:c], lost[:c], reach


@nb.njit(cache=True)  # type: ignore[untyped-decorator]
def _best_of_side(starts, ends, own, losses, lost, reach, sign, met, best, delta):  # type: ignore[no-untyped-def] # pragma: no cover
    """The best δ of one sign, from small to large: intervals begin, end, and met key points are lost."""
    m, c = len(starts), len(losses)
    by_start, by_end, by_loss = np.argsort(starts), np.argsort(ends), np.argsort(losses)
    i, j, q, now = 0, 0, 0, met
    while i < m:
        s = starts[by_start[i]]
        if s > reach:
            break
        while i < m and starts[by_start[i]] == s:
            now += own[by_start[i]]
            i += 1
        while j < m and ends[by_end[j]] < s:
            now -= own[by_end[j]]
            j += 1
        while q < c and losses[by_loss[q]] < s:
            now -= lost[by_loss[q]]
            q += 1
        if now >= best:
            end = ends[by_end[j]] if j < m else np.inf
            if q < c:
                end = min(end, losses[by_loss[q]])
            candidate = sign * _nearest_to_zero(s, end)
            if now > best or abs(candidate) < abs(delta):
                best, delta = now, candidate
    return best, delta


@nb.njit(cache=True)  # type: ignore[untyped-decorator]
def _sweep(column, factor, slack, row_start, weight, order, unmet, total):  # type: ignore[no-untyped-def] # pragma: no cover
    """The most intervals that one δ lies in, by weight, and the δ of smallest absolute value that reaches it.

    A change can win at most the key points that are unmet now, so it pays only while it loses fewer: the
    intervals of met key points matter only where they end near zero. That leaves few to sort.
    """
    lows, highs, sizes = _gains(column, factor, slack, row_start, weight, order, unmet)
    met = total
    for position in range(unmet):
        met -= weight[order[position]]
    gain, n = sizes.sum(), len(lows)
    best, delta = met, 0.0
    for side in range(2 if n else 0):
        # δ > 0 first, then δ < 0 by mirroring
        sign = 1.0 if side == 0 else -1.0
        starts, ends, own = np.empty(n), np.empty(n), np.empty(n, dtype=np.int64)
        m, reach = 0, 0.0
        for k in range(n):
            low, high = (lows[k], highs[k]) if side == 0 else (-highs[k], -lows[k])
            if high >= 0.0:
                starts[m], ends[m], own[m] = max(low, 0.0), high, sizes[k]
                reach = max(reach, starts[m])
                m += 1
        if m == 0:
            continue
        reach += 2e-9 * max(1.0, reach)  # as far inside an interval as a δ may be put
        # where met key points are lost: only those before the last start of a gain matter
        losses, lost, reach = _losses(column, factor, slack, row_start, weight, order, unmet, sign, reach, gain)
        best, delta = _best_of_side(starts[:m], ends[:m], own[:m], losses, lost, reach, sign, met, best, delta)
    return best, delta


@nb.njit(cache=True)  # type: ignore[untyped-decorator]
def _limit(losses, lost, gain):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """The smallest δ by which more than ``gain`` is lost."""
    order = np.argsort(losses)
    total = 0
    for k in order:
        total += lost[k]
        if total > gain:
            return losses[k]
    return np.inf


@nb.njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def _sweep_all(upstream, inputs, pairs, slack, row_start, weight, order, unmet):  # type: ignore[no-untyped-def] # pragma: no cover
    counts, deltas = np.zeros(len(pairs), dtype=np.int64), np.zeros(len(pairs))
    total = weight.sum()
    for p in nb.prange(len(pairs)):
        column, factor = upstream[pairs[p, 0]], inputs[pairs[p, 1]]
        counts[p], deltas[p] = _sweep(column, factor, slack, row_start, weight, order, unmet, total)
    return counts, deltas
