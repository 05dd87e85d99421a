"""Compiled kernels that cut segments where the winners of MaxPool windows change (rules: `verifier.regions.kernels`).

On a segment all entries of a window are affine, so their maximum is an upper envelope. Where one entry is the largest
at both ends of a segment it is so in between: only the other windows are followed along the segment.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from verifier.regions.kernels import grown1
from verifier.regions.segment_kernels import NEAR, place_crossings

ZERO_WINS = -1
"""Position of the constant zero that takes part where a ReLU is computed together with the MaxPool behind it."""


@njit(cache=True, nogil=True)
def vertex_maxima(
    values: Any, windows: Any, zero: bool, weight: Any, offset: Any, scale: Any, best: Any, winner: Any, near: Any
) -> None:
    """The largest entry of every window at every vertex, and whether another one is within `NEAR` tolerances of it.

    Args:
        values: ``(V, n)``; windows: ``(outputs, size)`` entries, -1 for none.
        zero: whether the constant zero takes part, and wins ties.
        weight, offset: ``(outputs,)`` tolerance factors of a difference of two entries; scale: ``(V,)``.
        best, winner, near: ``(V, outputs)``, filled with maxima, positions and doubts.
    """
    outputs, size = windows.shape
    for v in range(values.shape[0]):
        for o in range(outputs):
            top, second, where = -np.inf, -np.inf, ZERO_WINS
            if zero:
                top = 0.0
            for k in range(size):
                if windows[o, k] < 0:
                    continue
                x = values[v, windows[o, k]]
                if x > top:
                    second = top
                    top, where = x, k
                elif x > second:
                    second = x
            best[v, o] = top
            winner[v, o] = where
            near[v, o] = top - second < NEAR * (weight[o] * scale[v] + offset[o])


@njit(cache=True, inline="always")
def _entry(values: Any, v: int, window: Any, k: int) -> float:
    return 0.0 if k == ZERO_WINS else values[v, window[k]]


@njit(cache=True, nogil=True)
def _parallel(values: Any, a: int, b: int, window: Any, zero: bool, best_a: float, reach: float) -> bool:
    """Whether two entries are within reach of the maximum at one end, and of each other at the other end.

    They are equal but for rounding errors as long as one of them is the maximum, be it on a part of the segment only.
    """
    low = ZERO_WINS if zero else 0
    for i in range(low, window.shape[0]):
        if (i != ZERO_WINS and window[i] < 0) or _entry(values, a, window, i) - best_a <= -reach:
            continue
        for k in range(i + 1, window.shape[0]):
            if window[k] < 0 or _entry(values, a, window, k) - best_a <= -reach:
                continue
            if abs(_entry(values, b, window, i) - _entry(values, b, window, k)) < reach:
                return True
    return False


@njit(cache=True, nogil=True)
def _follow(
    values: Any, a: int, b: int, window: Any, zero: bool, tolerance: float, where: Any, blur: Any, order: Any
) -> int:
    """Follow a window's maximum along a segment.

    Args:
        where, blur, order: filled with the places in [0, 1] at which the winner changes, how uncertain they are, and
            the winners, the first of which (without a place of its own) begins.

    Returns:
        the number of changes.
    """
    low = ZERO_WINS if zero else 0
    top = -np.inf
    for k in range(low, window.shape[0]):
        if k == ZERO_WINS or window[k] >= 0:
            top = max(top, _entry(values, a, window, k))
    current = -2
    for k in range(low, window.shape[0]):
        if (k != ZERO_WINS and window[k] < 0) or _entry(values, a, window, k) < top - tolerance:
            continue
        if current == -2 or _entry(values, b, window, k) > _entry(values, b, window, current):
            current = k
    order[0] = current
    count = 0
    done = 0.0
    while True:
        following, place, width = -2, 2.0, 0.0
        for k in range(low, window.shape[0]):
            if k == current or (k != ZERO_WINS and window[k] < 0):
                continue
            ahead = _entry(values, b, window, k) - _entry(values, b, window, current)
            if ahead <= tolerance:
                continue
            behind = _entry(values, a, window, current) - _entry(values, a, window, k)
            x = 1.0 / (1.0 + ahead / behind) if behind > 0.0 else 0.0
            if x < place or (x == place and _entry(values, b, window, k) > _entry(values, b, window, following)):
                following, place, width = k, x, tolerance / (ahead + max(behind, 0.0))
        if following == -2:
            return count
        where[count], blur[count] = max(done, place), width
        done = where[count]
        count += 1
        order[count] = following
        current = following


@njit(cache=True, nogil=True)
def cut_pools(
    cells: Any,
    place: Any,
    values: Any,
    windows: Any,
    zero: bool,
    weight: Any,
    offset: Any,
    scale: Any,
    best: Any,
    winner: Any,
    near: Any,
) -> tuple[Any, ...]:
    """Cut segments into those on which one entry of each window is the maximum.

    Args:
        cells: ``(P, 2)`` vertices; place: ``(V,)`` their t.
        values, windows, zero, weight, offset, scale: see `vertex_maxima`, which has filled ``best, winner, near``.

    Returns:
        ``(doubtful, cells, parents, winners, start, end, alpha, place, best)``. If two entries are equal all along a
        segment, up to rounding errors, the cut is ``doubtful`` and nothing else means anything. Otherwise the new
        cells, the old one each came from, the winners on each ``(P', outputs)``, how new vertices were made, and the
        places and maxima with those at the new vertices appended.
    """
    count, outputs = best.shape
    size = windows.shape[1]
    capacity = cells.shape[0] + 64
    out = np.empty((capacity, 2), np.int64)
    parents = np.empty(capacity, np.int64)
    winners = np.empty((capacity, outputs), np.int16)
    start, end, alpha = np.empty(64, np.int64), np.empty(64, np.int64), np.empty(64)
    new_place = np.empty(count + 64)
    new_place[:count] = place
    new_best = np.empty((count + 64, outputs))
    new_best[:count] = best
    where, blur, anchor = np.empty(64), np.empty(64), np.empty(64, np.int64)
    unit, rank, after = np.empty(64, np.int64), np.empty(64, np.int64), np.empty(64, np.int64)
    order = np.empty(size + 2, np.int64)
    step_where, step_blur = np.empty(size + 2), np.empty(size + 2)
    reached = np.zeros(outputs, np.int64)
    current = np.empty(outputs, np.int16)
    used, made = count, 0
    doubtful = False
    for c in range(cells.shape[0]):
        a, b = cells[c, 0], cells[c, 1]
        wide = max(scale[a], scale[b])
        m = 0
        for o in range(outputs):
            current[o] = winner[a, o]
            reach = NEAR * (weight[o] * wide + offset[o])
            if (near[a, o] and _parallel(values, a, b, windows[o], zero, best[a, o], reach)) or (
                near[b, o] and _parallel(values, b, a, windows[o], zero, best[b, o], reach)
            ):
                doubtful = True
                break
            if winner[a, o] == winner[b, o]:
                continue
            tolerance = weight[o] * wide + offset[o]
            steps = _follow(values, a, b, windows[o], zero, tolerance, step_where, step_blur, order)
            current[o] = order[0]
            reached[o] = 0
            while m + steps > where.shape[0]:
                where, blur, anchor = grown1(where, m), grown1(blur, m), grown1(anchor, 0)
                unit, rank, after = grown1(unit, m), grown1(rank, m), grown1(after, m)
            for k in range(steps):
                where[m], blur[m], unit[m], rank[m], after[m] = step_where[k], step_blur[k], o, k + 1, order[k + 1]
                m += 1
        if doubtful:
            break
        places = place_crossings(where[:m], blur[:m], anchor)
        while made + places + 1 > out.shape[0]:
            grown_out = np.empty((2 * out.shape[0] + 16, 2), np.int64)
            grown_out[:made] = out[:made]
            grown_winners = np.empty((grown_out.shape[0], outputs), np.int16)
            grown_winners[:made] = winners[:made]
            out, winners, parents = grown_out, grown_winners, grown1(parents, made)
            while parents.shape[0] < out.shape[0]:
                parents = grown1(parents, made)
        while used + places > new_place.shape[0]:
            new_place = grown1(new_place, used)
            grown_best = np.empty((new_place.shape[0], outputs))
            grown_best[:used] = new_best[:used]
            new_best = grown_best
        while used - count + places > start.shape[0]:
            start, end, alpha = grown1(start, used - count), grown1(end, used - count), grown1(alpha, used - count)
        previous = a
        for i in range(places):
            x = where[anchor[i]]
            t = place[a] + x * (place[b] - place[a])
            if t >= place[b]:
                break
            fresh = t > new_place[previous]
            if fresh:
                out[made, 0], out[made, 1], parents[made] = previous, used, c
                winners[made] = current
                made += 1
            for k in range(m):
                if where[k] == x and rank[k] > reached[unit[k]]:
                    reached[unit[k]] = rank[k]
                    current[unit[k]] = after[k]
            if fresh:
                new_place[used] = t
                start[used - count], end[used - count], alpha[used - count] = a, b, x
                for o in range(outputs):
                    k = current[o]
                    low, high = _entry(values, a, windows[o], k), _entry(values, b, windows[o], k)
                    new_best[used, o] = (1.0 - x) * low + x * high
                previous = used
                used += 1
        out[made, 0], out[made, 1], parents[made] = previous, b, c
        winners[made] = current
        made += 1
    new = used - count
    return (
        doubtful,
        out[:made].copy(),
        parents[:made].copy(),
        winners[:made].copy(),
        start[:new].copy(),
        end[:new].copy(),
        alpha[:new].copy(),
        new_place[:used].copy(),
        new_best[:used],
    )
