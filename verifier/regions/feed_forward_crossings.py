"""Compiled kernels for what happens at one layer of a fully connected network: which neurons change their sign, and where.

``tracked`` says of which neurons it is known on which side
they begin, ``begins``; ``extras`` collects rows (layer, point, neuron) of neurons that change their sign at a point made by
an earlier layer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from verifier.regions.kernels import grown, grown1
from verifier.regions.segment_kernels import NEAR, crossing_place, place_crossings
from verifier.rounding import TINY


@njit(cache=True, fastmath={"reassoc", "contract", "nsz"})
def activate(z: Any, before: Any, h: Any, low: float, high: float, near: float) -> tuple[float, float, float]:
    """One point of a layer: activations, their norm squared, how many values may have changed sign, how many are near.

    Only the norm is summed in another order than written; it scales a tolerance.
    """
    norm = 0.0
    doubtful = 0.0
    small = 0.0
    for j in range(z.shape[0]):
        x = z[j]
        y = x * high if x > 0.0 else x * low
        h[j] = y
        norm += y * y
        doubtful += 1.0 if x * before[j] <= 0.0 else 0.0
        small += 1.0 if abs(x) < near else 0.0
    return norm, doubtful, small


@njit(cache=True, nogil=True)
def norm(h: Any, squares: float) -> float:
    """The root of a sum of squares, which is summed again in other units if it has overflowed or underflowed."""
    if TINY < squares < 1.0 / TINY:
        return np.sqrt(squares)
    largest = np.abs(h).max()
    if largest == 0.0 or not np.isfinite(largest):
        return largest
    total = 0.0
    for x in h:
        total += (x / largest) ** 2
    return largest * np.sqrt(total)


@njit(cache=True, nogil=True)
def along(z: Any, before: Any, weight: Any, offset: Any, scale: float, scale_before: float) -> bool:
    """Whether a neuron stays so near its breakpoint between two points that floats cannot tell which side it is on."""
    wide = max(scale, scale_before)
    for j in range(z.shape[0]):
        tolerance = weight[j] * wide + offset[j]
        low, high = min(z[j], before[j]), max(z[j], before[j])
        if max(-low, high) < NEAR * tolerance and low <= tolerance and high >= -tolerance:
            return True
    return False


@njit(cache=True, inline="always")
def _sign(x: float, tolerance: float) -> int:
    """Sign of a value beyond its tolerance, else 0."""
    if x > tolerance:
        return 1
    return -1 if x < -tolerance else 0


@njit(cache=True, inline="always")
def _note(extras: Any, count: int, layer: int, point: int, neuron: int) -> int:
    """Add a row (layer, point, neuron); returns the new number of rows."""
    extras[count, 0], extras[count, 1], extras[count, 2] = layer, point, neuron
    return count + 1


@njit(cache=True, inline="always")
def at_breakpoints(z: Any, weight: Any, offset: Any, scale: float, pending: Any, left_by: Any, released: Any,
                    waiting: int, layer: int, point: int, tracked: Any, begins: Any, extras: Any, extra: int) -> Any:  # fmt: skip
    """Neurons that were on their breakpoint at the point before: below it as long as they stay there.

    Args:
        z, scale: values, and the scale of their tolerance, at this point.
        pending, left_by: the ``waiting`` neurons, and the side they are counted on; those that stay are kept in front.
        released: filled with those that leave.
        point: the number of the point before.

    Returns:
        how many stay, and the new number of extras.
    """
    kept = 0
    for q in range(waiting):
        j = pending[q]
        now = _sign(z[j], weight[j] * scale + offset[j])
        if (now == 0 and left_by[q] > 0) or now * left_by[q] < 0:
            extra = _note(extras, extra, layer, point, j)
            if not tracked[j]:
                tracked[j] = True
                begins[j] = left_by[q] > 0
        if now == 0:
            pending[kept], left_by[kept] = j, -1
            kept += 1
        else:
            released[q - kept] = j
    return kept, extra


@njit(cache=True, nogil=True)
def workspace(size: int) -> Any:
    """What `scan` needs for layers of at most so many neurons.

    Neurons on their kink, the side they are counted on, and those that leave; neurons that cross between two points,
    their signs before, one of them for each place, places and how uncertain they are; and who is on a kink.
    """
    pending, left_by, released = np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size, np.int64)
    found, came_from, anchor = np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size, np.int64)
    return (
        pending,
        left_by,
        released,
        found,
        came_from,
        anchor,
        np.empty(size),
        np.empty(size),
        np.zeros(size, np.bool_),
    )


@njit(cache=True, nogil=True)
def no_points() -> Any:
    """Room for the new points of a layer: shares of their pieces, pieces, first of their neurons; and these neurons."""
    return np.empty(256), np.empty(256, np.int64), np.empty(257, np.int64), np.empty(256, np.int64)


@njit(cache=True, nogil=True)
def scan(
    z: Any, h: Any, weight: Any, offset: Any, scale: Any, t: Any, point: Any, low: float, high: float, unit: float,
    mean: Any, new_scale: Any, layer: int, tracked: Any, begins: Any, work: Any, extras: Any, extra: int, made: Any,
) -> tuple[bool, int, int, int, Any, Any]:  # fmt: skip
    """Where the neurons of a layer change their sign along a line, and the layer's activations.

    Args:
        z, h: ``(points, n)`` preactivations, and activations to be filled in; scale, t, point: of the points.
        weight, offset: tolerance factors; unit, mean: what makes ``new_scale`` of the norms of activations.
        low, high: slopes below and above the breakpoint; layer: from 1.
        work: see `workspace`; made: `Made` of the layer before, whose arrays are used again.

    Returns:
        whether a line runs along a kink (and all else is unfinished), the number of new points, that of their
        neurons, the new number of extras, and the arrays of extras and of new points, which may have grown.
    """
    n = z.shape[1]
    pending, left_by, released, found, came_from, anchor, where, blur, on_breakpoint = work
    places, place_piece, place_first, crossing = made
    heaviest, largest = weight.max(), offset.max()
    tracked[:n] = False
    count, crossed, waiting = 0, 0, 0
    place_first[0] = 0
    for i in range(z.shape[0]):
        s = scale[i]
        squares, doubtful, small = activate(z[i], z[max(i - 1, 0)], h[i], low, high, NEAR * (heaviest * s + largest))
        new_scale[i] = unit * norm(h[i], squares) + mean[0] * s + mean[1]
        if small > 0 and i > 0 and along(z[i], z[i - 1], weight, offset, s, scale[i - 1]):
            return True, 0, 0, extra, extras, made
        if i == 0 or (doubtful == 0 and waiting == 0):
            continue
        while extra + 3 * n > extras.shape[0]:
            extras = grown(extras, extra)
        gone = 0
        if waiting > 0:
            kept, extra = at_breakpoints(
                z[i], weight, offset, s, pending, left_by, released, waiting, layer, point[i - 1], tracked, begins, extras,
                extra,
            )  # fmt: skip
            gone, waiting = waiting - kept, kept
        c = 0
        for j in range(n):
            if on_breakpoint[j] or z[i, j] * z[i - 1, j] > 0.0:
                continue
            now = _sign(z[i, j], weight[j] * s + offset[j])
            then = _sign(z[i - 1, j], weight[j] * scale[i - 1] + offset[j])
            if now * then < 0:
                found[c] = j
                where[c] = crossing_place(z[i - 1, j], z[i, j])
                came_from[c] = then
                c += 1
                continue
            if then == 0:
                # on its kink at the point before without having been noticed: since when, and what before?
                k = i - 2
                while k >= 0 and then == 0:
                    then = _sign(z[k, j], weight[j] * scale[k] + offset[j])
                    k -= 1
                zero = k + 2 if then != 0 else 0
                if now == 0 or zero < i - 1 or now * then < 0:
                    if not tracked[j]:
                        tracked[j] = True
                        begins[j] = then > 0
                    if then > 0:
                        extra = _note(extras, extra, layer, point[zero], j)
                    if now > 0:
                        extra = _note(extras, extra, layer, point[i - 1], j)
                then = -1
            if now == 0:
                on_breakpoint[j] = True
                pending[waiting], left_by[waiting] = j, then
                waiting += 1
        for q in range(gone):
            on_breakpoint[released[q]] = False
        if c == 0:
            continue
        while crossed + c + count + 2 > crossing.shape[0]:
            crossing, places = grown1(crossing, crossed), grown1(places, count)
            place_piece, place_first = grown1(place_piece, count), grown1(place_first, count + 1)
        number = 1
        anchor[0] = 0
        if c > 1:
            wide = max(scale[i - 1], s)
            for q in range(c):
                j = found[q]
                blur[q] = (weight[j] * wide + offset[j]) / abs(z[i, j] - z[i - 1, j])
            number = place_crossings(where[:c], blur[:c], anchor)
        previous = t[i - 1]
        for k in range(number):
            x = where[anchor[k]]
            here = t[i - 1] + x * (t[i] - t[i - 1])
            separate = previous < here < t[i]
            for q in range(c):
                if where[q] != x:
                    continue
                j = found[q]
                if not tracked[j]:
                    tracked[j] = True
                    begins[j] = came_from[q] > 0
                if separate or (here < t[i] and previous > t[i - 1]):
                    crossing[crossed] = j
                    crossed += 1
                    continue
                # no float lies between: the neuron changes its sign at the end that is there
                extra = _note(extras, extra, layer, point[i if here >= t[i] else i - 1], j)
            if separate:
                previous = here
                places[count] = x
                place_piece[count] = i - 1
                count += 1
            place_first[count] = crossed
    for q in range(waiting):
        on_breakpoint[pending[q]] = False
    # neurons that never changed their side are on that of their first sign
    for j in range(n):
        k, now = 0, 0
        while not tracked[j] and now == 0 and k < z.shape[0]:
            now = _sign(z[k, j], weight[j] * scale[k] + offset[j])
            begins[j] = now > 0
            k += 1
    return False, count, crossed, extra, extras, (places, place_piece, place_first, crossing)


@njit(cache=True, nogil=True)
def level_of(
    layer: int,
    first: int,
    size: int,
    point: Any,
    offsets: Any,
    born: Any,
    starts: Any,
    neurons: Any,
    initial: Any,
    extras: Any,
) -> tuple[Any, Any]:
    """Parents and packed sides of the pieces right after a layer (from 1) has cut them.

    Args:
        first, size: the layer's neurons in ``initial``.
    """
    words = (size + 63) // 64
    count = 0
    for i in range(point.shape[0]):
        count += born[point[i]] <= layer
    count -= offsets.shape[0] - 1
    parents = np.empty(count, np.int64)
    sides = np.zeros((count, words), np.uint64)
    state = np.empty(words, np.uint64)
    # a linked list of the changes at points of earlier layers
    latest = np.full(born.shape[0], -1, np.int64)
    another = np.empty(extras.shape[0], np.int64)
    for e in range(extras.shape[0]):
        if extras[e, 0] == layer:
            another[e] = latest[extras[e, 1]]
            latest[extras[e, 1]] = e
    made, parent = 0, -1
    for line in range(offsets.shape[0] - 1):
        state[:] = np.uint64(0)
        for j in range(size):
            if initial[line, first + j]:
                state[j >> 6] |= np.uint64(1) << np.uint64(j & 63)
        for i in range(offsets[line], offsets[line + 1] - 1):
            p = point[i]
            if born[p] > layer:
                continue
            if born[p] < layer:
                parent += 1
            e = latest[p]
            while e >= 0:
                j = extras[e, 2]
                state[j >> 6] ^= np.uint64(1) << np.uint64(j & 63)
                e = another[e]
            if born[p] == layer:
                for q in range(starts[p], starts[p + 1]):
                    j = neurons[q]
                    state[j >> 6] ^= np.uint64(1) << np.uint64(j & 63)
            parents[made] = parent
            sides[made] = state
            made += 1
    return parents, sides
