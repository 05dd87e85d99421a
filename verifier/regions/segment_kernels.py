"""Compiled kernels that cut segments where functions change their sign (rules: `verifier.regions.kernels`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from verifier.regions.kernels import ONE, ZERO, grown1, trailing_zeros

NEAR = 4.0
"""A function that is within so many tolerances of zero at both ends of a segment gets an exact look."""


@njit(cache=True, nogil=True)
def _order(where: Any) -> Any:
    """Indices in increasing order, stable; few values are sorted by insertion."""
    m = where.shape[0]
    if m > 40:
        return np.argsort(where, kind="mergesort")
    order = np.empty(m, np.int64)
    for i in range(m):
        k = i
        while k > 0 and where[order[k - 1]] > where[i]:
            order[k] = order[k - 1]
            k -= 1
        order[k] = i
    return order


@njit(cache=True, inline="always")
def crossing_place(start: float, end: float) -> float:
    """Where an affine function with these values (of opposite sign) at a segment's ends is zero, in [0, 1]."""
    place = start / (start - end)
    if np.isfinite(start - end):
        return place
    return 0.5 * start / (0.5 * start - 0.5 * end)


@njit(cache=True, nogil=True)
def place_crossings(where: Any, blur: Any, anchor: Any) -> int:
    """Decide where on a segment vertices are made for the functions that cross on it.

    Of crossings that rounding errors cannot tell apart the best-conditioned one (whose place is the least
    uncertain) decides, and the others are moved to it.

    Args:
        where: ``(m,)`` the places in (0, 1) where functions cross; overwritten with the places decided.
        blur: ``(m,)`` how uncertain each place is.
        anchor: is filled with one index into ``where`` for every vertex, in increasing order of place.

    Returns:
        the number of vertices.
    """
    m = where.shape[0]
    if m == 0:
        return 0
    order = _order(where)
    count = 0
    i = 0
    while i < m:
        last = i + 1
        reach = where[order[i]] + blur[order[i]]
        while last < m and where[order[last]] - blur[order[last]] <= reach:
            reach = max(reach, where[order[last]] + blur[order[last]])
            last += 1
        if last == i + 1:
            anchor[count] = order[i]
            count += 1
        else:
            group = order[i:last]
            sharpest = _order(blur[group])
            chosen = np.empty(len(group), np.int64)
            size = 0
            for s in sharpest:
                k = group[s]
                nearest = -1
                for c in range(size):
                    gap = abs(where[chosen[c]] - where[k])
                    if gap <= blur[k] and (nearest < 0 or gap < abs(where[nearest] - where[k])):
                        nearest = chosen[c]
                if nearest < 0:
                    chosen[size] = k
                    size += 1
                else:
                    where[k] = where[nearest]
            for c in _order(where[chosen[:size]]):
                anchor[count] = chosen[c]
                count += 1
        i = last
    return count


@njit(cache=True, nogil=True)
def near_bits(values: Any, weight: Any, offset: Any, scale: Any, positive: Any, negative: Any, near: Any) -> bool:
    """Like `sign_bits` for all vertices; also which functions are within `NEAR` tolerances of zero.

    A function without tolerance is zero by construction there, and not near.

    Returns:
        whether any function is near zero anywhere.
    """
    count, n = values.shape
    words = positive.shape[1]
    some = ZERO
    for v in range(count):
        s = scale[v]
        for w in range(words):
            p = ZERO
            q = ZERO
            r = ZERO
            for k in range(w * 64, min(n, w * 64 + 64)):
                tolerance = weight[k] * s + offset[k]
                x = values[v, k]
                bit = np.uint64(k & 63)
                p |= np.uint64(x > tolerance) << bit
                q |= np.uint64(x < -tolerance) << bit
                r |= np.uint64(abs(x) < NEAR * tolerance) << bit
            positive[v, w] = p
            negative[v, w] = q
            near[v, w] = r
            some |= r
    return some != ZERO


@njit(cache=True, nogil=True)
def near_pairs(cells: Any, positive: Any, negative: Any, near: Any) -> tuple[Any, Any]:
    """The segments and functions of which the float values cannot tell where on the segment they have which sign.

    These are the functions that are near zero at both ends, but not clearly of one sign at both.

    Returns:
        segments (not decreasing) and functions, ``(pairs,)`` each.
    """
    which, functions = np.empty(16, np.int64), np.empty(16, np.int64)
    made = 0
    for c in range(cells.shape[0]):
        a, b = cells[c, 0], cells[c, 1]
        for w in range(near.shape[1]):
            x = near[a, w] & near[b, w] & ~((positive[a, w] & positive[b, w]) | (negative[a, w] & negative[b, w]))
            while x != ZERO:
                if made == which.shape[0]:
                    which, functions = grown1(which, made), grown1(functions, made)
                which[made], functions[made] = c, w * 64 + trailing_zeros(x)
                made += 1
                x &= x - ONE
    return which[:made].copy(), functions[:made].copy()


@njit(cache=True, nogil=True)
def count_crossings(cells: Any, positive: Any, negative: Any) -> int:
    """How many functions change their sign on segments, all together: no more vertices are made."""
    crossings = 0
    for c in range(cells.shape[0]):
        a, b = cells[c, 0], cells[c, 1]
        for w in range(positive.shape[1]):
            x = (positive[a, w] & negative[b, w]) | (negative[a, w] & positive[b, w])
            while x != ZERO:
                x &= x - ONE
                crossings += 1
    return crossings


@njit(cache=True, nogil=True)
def cut_segments(
    cells: Any,
    place: Any,
    values: Any,
    scale: Any,
    weight: Any,
    offset: Any,
    positive: Any,
    negative: Any,
    settled: Any,
) -> tuple[Any, ...]:
    """Cut segments where functions cross zero.

    Crossings of several functions at one place, up to rounding, become one vertex. A crossing so near an end that
    no float lies between is not made; its function has, on the segment, the sign that it has at the other end.

    Args:
        cells: ``(P, 2)`` vertex indices, start and end.
        place: ``(V,)`` parameter t of each vertex.
        values: ``(V, n)``; scale ``(V,)``; weight, offset ``(n,)``.
        positive, negative: ``(V, words)`` sign bits.
        settled: ``(which, functions, begins, roots)``: functions whose signs on a segment are known otherwise:
            the segments (not decreasing), the functions, whether each is positive at the segment's start, and the t
            at which it changes its sign, NaN if it does not.

    Returns:
        ``(cells, parents, sides, start, end, alpha, place, values)``: the new cells, the old cell each came from,
        the positive functions of each, how the new vertices were made, and the extended arrays.
    """
    which, functions, begins, roots = settled
    count, n = values.shape
    words = positive.shape[1]
    crossings = count_crossings(cells, positive, negative) + which.shape[0]
    capacity = count + crossings
    new_values = np.empty((capacity, n))
    new_values[:count] = values
    new_place = np.empty(capacity)
    new_place[:count] = place
    start = np.empty(crossings, np.int64)
    end = np.empty(crossings, np.int64)
    alpha = np.empty(crossings)
    out = np.empty((cells.shape[0] + crossings, 2), np.int64)
    parents = np.empty(out.shape[0], np.int64)
    sides = np.empty((out.shape[0], words), np.uint64)
    most = n + which.shape[0]
    found = np.empty(most, np.int64)
    where = np.empty(most)
    blur = np.empty(most)
    anchor = np.empty(most, np.int64)
    state = np.empty(words, np.uint64)
    known = np.empty(words, np.uint64)
    used, made, next_settled = count, 0, 0
    for c in range(cells.shape[0]):
        a, b = cells[c, 0], cells[c, 1]
        length = place[b] - place[a]
        m = 0
        known[:] = ZERO
        state[:] = positive[a] | positive[b]
        while next_settled < which.shape[0] and which[next_settled] == c:
            j = functions[next_settled]
            bit = ONE << np.uint64(j & 63)
            known[j >> 6] |= bit
            state[j >> 6] &= ~bit
            if begins[next_settled]:
                state[j >> 6] |= bit
            if not np.isnan(roots[next_settled]):
                found[m], where[m], blur[m] = j, (roots[next_settled] - place[a]) / length, 0.0
                m += 1
            next_settled += 1
        wide = max(scale[a], scale[b])
        for w in range(words):
            x = ((positive[a, w] & negative[b, w]) | (negative[a, w] & positive[b, w])) & ~known[w]
            state[w] = (state[w] & ~x) | (positive[a, w] & x)
            while x != ZERO:
                j = w * 64 + trailing_zeros(x)
                x &= x - ONE
                found[m] = j
                where[m] = crossing_place(values[a, j], values[b, j])
                blur[m] = (weight[j] * wide + offset[j]) / abs(values[b, j] - values[a, j])
                m += 1
        places = place_crossings(where[:m], blur[:m], anchor)
        previous = a
        for i in range(places):
            x0 = where[anchor[i]]
            t = place[a] + x0 * length
            if t >= place[b]:
                break
            if t > new_place[previous]:
                v = used
                used += 1
                new_place[v] = t
                for j in range(n):
                    new_values[v, j] = (1.0 - x0) * values[a, j] + x0 * values[b, j]
                start[v - count], end[v - count], alpha[v - count] = a, b, x0
                out[made, 0], out[made, 1], parents[made] = previous, v, c
                sides[made] = state
                made += 1
                previous = v
            for k in range(m):
                if where[k] == x0:
                    state[found[k] >> 6] ^= ONE << np.uint64(found[k] & 63)
                    if previous >= count:
                        new_values[previous, found[k]] = 0.0
        out[made, 0], out[made, 1], parents[made] = previous, b, c
        sides[made] = state
        made += 1
    new = used - count
    return (
        out[:made],
        parents[:made],
        sides[:made],
        start[:new],
        end[:new],
        alpha[:new],
        new_place[:used],
        new_values[:used],
    )
