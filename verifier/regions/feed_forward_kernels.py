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

from verifier.regions.feed_forward_crossings import no_points, scan, workspace
from verifier.regions.kernels import grown, grown1

BLOCK = 128
"""Points whose common zero neurons are left out of the matrix product."""


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
def _advance(
    z: Any, result: Any, weight: Any, bias: Any, rise: float, t: Any, new_scale: Any, point: Any, fresh: Any, made: int,
    current: Any, target: Any, layer: int, after: Any, new_t: Any, scale: Any, new_point: Any, born: Any, starts: Any,
    points: int, neurons: Any, events: int,
) -> tuple[int, int]:  # fmt: skip
    """The next layer's values at the old points, which are given, and at those that this layer makes between them.

    Args:
        z, result: this layer's values at the old points, and their products with the next layer's weights.
        fresh, made: the new points (`feed_forward_crossings.no_points`), and how many there are.
        rise: by how much the slope above a breakpoint exceeds the one below.
        after, new_t, scale, new_point: filled with values, places, tolerance scales and numbers of all points.
        born, starts, neurons: of the ``points`` and ``events`` so far; the new ones are added.

    Returns:
        the new numbers of points and of events.
    """
    count, m = result.shape
    places, place_piece, place_first, crossing = fresh
    g, row = 0, 0
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
            step = rise * abs(z[i + 1, j])
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
            for q in range(place_first[p], place_first[p + 1]):
                j = crossing[q]
                step = rise * abs(z[i + 1, j])
                for k in range(m):
                    target[k] += step * weight[j, k]
                neurons[events] = j
                events += 1
            born[points] = layer
            new_point[row] = points
            points += 1
            starts[points] = events
            row += 1
        g = last
    return points, events


@njit(cache=True, nogil=True)
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
    hidden_total = sizes[:-1].sum()
    widest = sizes.max()
    outputs = sizes[layers - 1]
    guess = 64 + 8 * lines + min(lines * hidden_total // 2, 200_000)
    out_t, out_scale, out_point = np.empty(guess), np.empty(guess), np.empty(guess, np.int64)
    out_values = np.empty((guess, outputs))
    offsets = np.zeros(lines + 1, np.int64)
    born, starts, neurons = np.empty(guess, np.int64), np.zeros(guess + 1, np.int64), np.empty(guess, np.int64)
    initial = np.zeros((lines, hidden_total), np.bool_)
    total, points, events = 0, 0, 0
    along = False
    # the points of a line, now and after the layer at hand
    capacity = values.shape[0] // widest
    t, new_t = np.empty(capacity), np.empty(capacity)
    scale, new_scale = np.empty(capacity), np.empty(capacity)
    point, new_point = np.empty(capacity, np.int64), np.empty(capacity, np.int64)
    tracked, work, fresh = np.empty(widest, np.bool_), workspace(widest), no_points()
    extras, extra = np.empty((3 * widest, 3), np.int64), 0
    current, target = np.empty(widest), np.empty(widest)

    for line in range(lines):
        count = 2
        t[0], t[1] = 0.0, 1.0
        while points + 3 > born.shape[0]:
            born, starts = grown1(born, points), grown1(starts, points + 1)
        for e in range(2):
            scale[e], point[e] = reach[2 * line + e], points
            values[e * sizes[0] : (e + 1) * sizes[0]] = firsts[2 * line + e]
            born[points] = 0
            points += 1
            starts[points] = events
        at_weight, at_bias, at_hidden = 0, 0, 0
        for layer in range(layers - 1):
            n, m = sizes[layer], sizes[layer + 1]
            z = values[: count * n].reshape(count, n)
            h = hidden[: count * n].reshape(count, n)
            w = slack_weight[at_hidden : at_hidden + n]
            o = slack_offset[at_hidden : at_hidden + n]
            begins = initial[line, at_hidden : at_hidden + n]
            low, high = slopes[layer, 0], slopes[layer, 1]
            along, made, crossed, extra, extras, fresh = scan(
                z, h, w, o, scale, t, point, low, high, unit, means[layer], new_scale, layer + 1, tracked, begins, work,
                extras, extra, fresh,
            )  # fmt: skip
            if along:
                break
            if count + made > capacity:
                while count + made > capacity:
                    capacity *= 2
                values = _enlarged(values[: count * n], capacity * widest)
                hidden = _enlarged(hidden[: count * n], capacity * widest)
                product = np.empty(capacity * widest)
                z = values[: count * n].reshape(count, n)
                h = hidden[: count * n].reshape(count, n)
                t, new_t = _enlarged(t, capacity), np.empty(capacity)
                scale, new_scale = np.empty(capacity), _enlarged(new_scale, capacity)
                point, new_point = _enlarged(point, capacity), np.empty(capacity, np.int64)
            while points + made + 1 > born.shape[0]:
                born, starts = grown1(born, points), grown1(starts, points + 1)
            while events + crossed > neurons.shape[0]:
                neurons = grown1(neurons, events)
            weight = weights[at_weight : at_weight + n * m].reshape(n, m)
            result = product[: count * m].reshape(count, m)
            _product(h, weight, result)
            # the values of the next layer at the old and the new points, written where h was
            after = hidden[: (count + made) * m].reshape(count + made, m)
            points, events = _advance(
                z, result, weight, biases[at_bias : at_bias + m], high - low, t, new_scale, point, fresh, made,
                current, target, layer + 1, after, new_t, scale, new_point, born, starts, points, neurons, events,
            )  # fmt: skip
            count += made
            values, hidden = hidden, values
            t, new_t = new_t, t
            point, new_point = new_point, point
            at_weight += n * m
            at_bias += m
            at_hidden += n
        if along:
            break
        while total + count > out_t.shape[0]:
            out_t, out_scale = grown1(out_t, total), grown1(out_scale, total)
            out_point, out_values = grown1(out_point, total), grown(out_values, total)
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


@njit(cache=True, nogil=True)
def _enlarged(array: Any, capacity: int) -> Any:
    new = np.empty(capacity, array.dtype)
    new[: array.shape[0]] = array
    return new
