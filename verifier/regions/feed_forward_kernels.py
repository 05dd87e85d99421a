"""Compiled kernel for lines through fully connected networks with one breakpoint per neuron.

A line is taken through all layers before the next one, so that its points stay in the cache. Two observations save
most of the work:

* The next layer's values at a point that the layer before has just made need no matrix product: between two older
  points they run straight towards a target, and at each crossing the target moves by one column of the weights
  (a rank-one update). Only the older points go through the product.
* Neurons that are zero at all points of a block are left out of the block's product.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from verifier.regions.kernels import grown, grown1
from verifier.regions.segment_kernels import NEAR, crossing_place, place_crossings
from verifier.rounding import TINY

BLOCK = 128
"""Points whose common zero neurons are left out of the matrix product."""


@njit(cache=True)
def _product(hidden: Any, weight: Any, result: Any) -> None:
    """``result = hidden @ weight`` without the columns of hidden that are zero throughout a block."""
    rows, inputs = hidden.shape
    outputs = weight.shape[1]
    if rows < 16 or inputs < 128:
        np.dot(hidden, weight, result)
    else:
        kept = np.empty(inputs, np.int64)
        used = np.empty(inputs, np.bool_)
        for first in range(0, rows, BLOCK):
            last = min(rows, first + BLOCK)
            used[:] = False
            for i in range(first, last):
                for j in range(inputs):
                    used[j] |= hidden[i, j] != 0.0
            count = 0
            for j in range(inputs):
                if used[j]:
                    kept[count] = j
                    count += 1
            if 10 * count > 9 * inputs:
                np.dot(hidden[first:last], weight, result[first:last])
                continue
            small = np.empty((count, outputs))
            for k in range(count):
                small[k] = weight[kept[k]]
            narrow = np.empty((last - first, count))
            for i in range(first, last):
                for k in range(count):
                    narrow[i - first, k] = hidden[i, kept[k]]
            np.dot(narrow, small, result[first:last])


@njit(cache=True, fastmath={"reassoc", "contract", "nsz"})
def _pass(z: Any, before: Any, h: Any, low: float, high: float, near: float) -> tuple[float, float, float]:
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


@njit(cache=True)
def _norm(h: Any, squares: float) -> float:
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


@njit(cache=True)
def _along(z: Any, before: Any, weight: Any, offset: Any, scale: float, scale_before: float) -> bool:
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


@njit(cache=True)
def trace(
    firsts: Any,
    reach: Any,
    sizes: Any,
    weights: Any,
    biases: Any,
    slack_weight: Any,
    slack_offset: Any,
    means: Any,
    slopes: Any,
    unit: float,
    values: Any,
    hidden: Any,
    product: Any,
) -> tuple[Any, ...]:
    """Take lines through a network of affine layers with one breakpoint at zero per neuron between them.

    Args:
        firsts: ``(2 · lines, sizes[0])`` first preactivations at every line's start and end.
        reach: ``(2 · lines,)`` their tolerance scales.
        sizes: ``(layers,)`` number of values of each affine layer.
        weights: all transposed weights but the first layer's, flat; biases likewise.
        slack_weight, slack_offset: tolerance factors of all hidden layers, flat.
        means: ``(layers - 1, 2)`` their root mean squares.
        slopes: ``(layers - 1, 2)`` slope below and above zero.
        unit: rounding per unit of a layer's input norm.
        values, hidden, product: working memory of one length, at least four times the widest layer.

    Returns:
        ``(t, values, scale, point, offsets, born, starts, neurons, initial, extras, along, values, hidden, product)``:
        parameters, outputs, output
        tolerance scales and point numbers along the lines; line offsets; for each point number the layer (from 1)
        that made it (0: an end) and where its crossing neurons begin in ``neurons``; for each line which hidden
        neurons are positive on its first piece; and ``extras``, rows (layer, point, neuron) of neurons that change
        their sign at a point made by an earlier layer; ``along``: a line runs along a kink, so that floats do not suffice
        and everything else is unfinished. Last the working memory, which may have grown.
    """
    lines = firsts.shape[0] // 2
    layers = sizes.shape[0]
    hidden_total = 0
    for k in range(layers - 1):
        hidden_total += sizes[k]
    widest = 0
    for k in range(layers):
        widest = max(widest, sizes[k])
    outputs = sizes[layers - 1]
    guess = 64 + 8 * lines + min(lines * hidden_total // 2, 200_000)
    out_t = np.empty(guess)
    out_scale = np.empty(guess)
    out_point = np.empty(guess, np.int64)
    out_values = np.empty((guess, outputs))
    offsets = np.zeros(lines + 1, np.int64)
    born = np.empty(guess, np.int64)
    starts = np.zeros(guess + 1, np.int64)
    neurons = np.empty(guess, np.int64)
    initial = np.zeros((lines, hidden_total), np.bool_)
    total, points, events = 0, 0, 0
    along = False

    capacity = values.shape[0] // widest
    t, new_t = np.empty(capacity), np.empty(capacity)
    scale, new_scale = np.empty(capacity), np.empty(capacity)
    point, new_point = np.empty(capacity, np.int64), np.empty(capacity, np.int64)
    came_from = np.empty(widest, np.int64)
    # neurons on their kink: which, and the side they are counted on
    on_breakpoint = np.zeros(widest, np.bool_)
    pending, left_by = np.empty(widest, np.int64), np.empty(widest, np.int64)
    released = np.empty(widest, np.int64)
    extras = np.empty((3 * widest, 3), np.int64)
    extra = 0
    found = np.empty(widest, np.int64)
    where, blur = np.empty(widest), np.empty(widest)
    anchor = np.empty(widest, np.int64)
    current, target = np.empty(widest), np.empty(widest)
    tracked = np.empty(widest, np.bool_)
    # crossings of the layer at hand: piece by piece, place by place
    places = np.empty(256)  # share of the piece
    place_piece = np.empty(256, np.int64)
    place_first = np.empty(257, np.int64)
    crossing = np.empty(256, np.int64)

    for line in range(lines):
        count = 2
        t[0], t[1] = 0.0, 1.0
        scale[0], scale[1] = reach[2 * line], reach[2 * line + 1]
        for e in range(2):
            if points + 1 >= born.shape[0]:
                born = grown1(born, points)
                starts = grown1(starts, points + 1)
            born[points] = 0
            point[e] = points
            points += 1
            starts[points] = events
        for j in range(sizes[0]):
            values[j] = firsts[2 * line, j]
            values[sizes[0] + j] = firsts[2 * line + 1, j]
        at_weight, at_bias, at_hidden = 0, 0, 0
        for layer in range(layers - 1):
            n, m = sizes[layer], sizes[layer + 1]
            z = values[: count * n].reshape(count, n)
            h = hidden[: count * n].reshape(count, n)
            w = slack_weight[at_hidden : at_hidden + n]
            o = slack_offset[at_hidden : at_hidden + n]
            begins = initial[line, at_hidden : at_hidden + n]
            low, high = slopes[layer, 0], slopes[layer, 1]
            heaviest, largest = w.max(), o.max()
            tracked[:n] = False
            made, crossed = 0, 0
            place_first[0] = 0
            waiting = 0
            for i in range(count):
                s = scale[i]
                squares, doubtful, small = _pass(
                    z[i], z[max(i - 1, 0)], h[i], low, high, NEAR * (heaviest * s + largest)
                )
                new_scale[i] = unit * _norm(h[i], squares) + means[layer, 0] * s + means[layer, 1]
                if small > 0 and i > 0 and _along(z[i], z[i - 1], w, o, s, scale[i - 1]):
                    along = True
                    break
                if i == 0 or (doubtful == 0 and waiting == 0):
                    continue
                if extra + 3 * n > extras.shape[0]:
                    extras = grown(extras, extra)
                    while extra + 3 * n > extras.shape[0]:
                        extras = grown(extras, extra)
                # neurons on their kink at the point before: they are below it as long as they stay
                kept = 0
                for q in range(waiting):
                    j = pending[q]
                    now = _sign(z[i, j], w[j] * s + o[j])
                    if (now == 0 and left_by[q] > 0) or now * left_by[q] < 0:
                        extra = _note(extras, extra, layer + 1, point[i - 1], j)
                        if not tracked[j]:
                            tracked[j] = True
                            begins[j] = left_by[q] > 0
                    if now == 0:
                        pending[kept], left_by[kept] = j, -1
                        kept += 1
                    else:
                        released[q - kept] = j
                gone = waiting - kept
                waiting = kept
                c = 0
                for j in range(n):
                    if on_breakpoint[j] or z[i, j] * z[i - 1, j] > 0.0:
                        continue
                    now = _sign(z[i, j], w[j] * s + o[j])
                    then = _sign(z[i - 1, j], w[j] * scale[i - 1] + o[j])
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
                            then = _sign(z[k, j], w[j] * scale[k] + o[j])
                            k -= 1
                        zero = k + 2 if then != 0 else 0
                        if now == 0 or zero < i - 1 or now * then < 0:
                            if not tracked[j]:
                                tracked[j] = True
                                begins[j] = then > 0
                            if then > 0:
                                extra = _note(extras, extra, layer + 1, point[zero], j)
                            if now > 0:
                                extra = _note(extras, extra, layer + 1, point[i - 1], j)
                        then = -1
                    if now == 0:
                        on_breakpoint[j] = True
                        pending[waiting], left_by[waiting] = j, then
                        waiting += 1
                for q in range(gone):
                    on_breakpoint[released[q]] = False
                if c == 0:
                    continue
                while crossed + c + made + 2 > crossing.shape[0]:
                    crossing = grown1(crossing, crossed)
                    places = grown1(places, made)
                    place_piece = grown1(place_piece, made)
                    place_first = grown1(place_first, made + 1)
                number = 1
                anchor[0] = 0
                if c > 1:
                    wide = max(scale[i - 1], s)
                    for q in range(c):
                        j = found[q]
                        blur[q] = (w[j] * wide + o[j]) / abs(z[i, j] - z[i - 1, j])
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
                        extra = _note(extras, extra, layer + 1, point[i if here >= t[i] else i - 1], j)
                    if not separate:
                        place_first[made] = crossed
                    if separate:
                        previous = here
                        places[made] = x
                        place_piece[made] = i - 1
                        made += 1
                        place_first[made] = crossed
            if along:
                break
            for q in range(waiting):
                on_breakpoint[pending[q]] = False
            for j in range(n):
                k, now = 0, 0
                while not tracked[j] and now == 0 and k < count:
                    now = _sign(z[k, j], w[j] * scale[k] + o[j])
                    begins[j] = now > 0
                    k += 1
            weight = weights[at_weight : at_weight + n * m].reshape(n, m)
            bias = biases[at_bias : at_bias + m]
            if (count + made) > capacity:
                while (count + made) > capacity:
                    capacity *= 2
                bigger = np.empty(capacity * widest)
                bigger[: count * n] = hidden[: count * n]
                hidden = bigger
                h = hidden[: count * n].reshape(count, n)
                kept = values
                values = np.empty(capacity * widest)
                values[: count * n] = kept[: count * n]
                z = values[: count * n].reshape(count, n)
                product = np.empty(capacity * widest)
                t, new_t = _enlarged(t, capacity), np.empty(capacity)
                scale, new_scale = np.empty(capacity), _enlarged(new_scale, capacity)
                point, new_point = _enlarged(point, capacity), np.empty(capacity, np.int64)
            result = product[: count * m].reshape(count, m)
            _product(h, weight, result)
            # the values of the next layer at the old and the new points, written where h was
            after = hidden[: (count + made) * m].reshape(count + made, m)
            g = 0
            row = 0
            for i in range(count):
                for k in range(m):
                    after[row, k] = result[i, k] + bias[k]
                new_t[row], scale[row], new_point[row] = t[i], new_scale[i], point[i]
                row += 1
                if g == made or place_piece[g] != i:
                    continue
                last = g
                while last < made and place_piece[last] == i:
                    last += 1
                for k in range(m):
                    current[k] = result[i, k] + bias[k]
                    target[k] = result[i + 1, k] + bias[k]
                for q in range(place_first[g], place_first[last]):
                    j = crossing[q]
                    end = z[i + 1, j]
                    step = (high - low) * abs(end)
                    for k in range(m):
                        target[k] -= step * weight[j, k]
                done = 0.0
                wide = max(new_scale[i], new_scale[i + 1])
                for p in range(g, last):
                    share = (places[p] - done) / (1.0 - done)
                    done = places[p]
                    for k in range(m):
                        current[k] += share * (target[k] - current[k])
                        after[row, k] = current[k]
                    new_t[row] = t[i] + places[p] * (t[i + 1] - t[i])
                    scale[row] = wide
                    if points + 1 >= born.shape[0]:
                        born = grown1(born, points)
                        starts = grown1(starts, points + 1)
                    size = place_first[p + 1] - place_first[p]
                    while events + size > neurons.shape[0]:
                        neurons = grown1(neurons, events)
                    for q in range(place_first[p], place_first[p + 1]):
                        j = crossing[q]
                        step = (high - low) * abs(z[i + 1, j])
                        for k in range(m):
                            target[k] += step * weight[j, k]
                        neurons[events] = j
                        events += 1
                    born[points] = layer + 1
                    new_point[row] = points
                    points += 1
                    starts[points] = events
                    row += 1
                g = last
            count = row
            values, hidden = hidden, values
            t, new_t = new_t, t
            point, new_point = new_point, point
            at_weight += n * m
            at_bias += m
            at_hidden += n
        if along:
            break
        while total + count > out_t.shape[0]:
            out_t = grown1(out_t, total)
            out_scale = grown1(out_scale, total)
            out_point = grown1(out_point, total)
            out_values = grown(out_values, total)
        out_t[total : total + count] = t[:count]
        out_scale[total : total + count] = scale[:count]
        out_point[total : total + count] = point[:count]
        out_values[total : total + count] = values[: count * outputs].reshape(count, outputs)
        total += count
        offsets[line + 1] = total
    return (
        out_t[:total],
        out_values[:total],
        out_scale[:total],
        out_point[:total],
        offsets,
        born[:points],
        starts[: points + 1],
        neurons[:events],
        initial,
        extras[:extra],
        along,
        values,
        hidden,
        product,
    )


@njit(cache=True)
def _enlarged(array: Any, capacity: int) -> Any:
    new = np.empty(capacity, array.dtype)
    new[: array.shape[0]] = array
    return new


@njit(cache=True)
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
