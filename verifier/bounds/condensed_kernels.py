"""Compiled inner loops of `verifier.bounds.condensed`: one column per row that is bounded, any float type.

Column layout (neurons first, rows last) keeps all loops contiguous: a sparse matrix is applied by adding multiples
of whole lines, and everything that happens at a ReLU, the step of its slopes included, is one sweep.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from verifier.bounds.crown_dense import jit
from verifier.network.operators import Array

CUT_ROUNDS = 5
"""Multipliers of a cut that are tried."""


@jit
def add_product(starts: Any, indices: Any, data: Array, x: Array, out: Array) -> None:
    """``out += A x`` for a matrix in CSR form."""
    columns = x.shape[1]
    for i in range(len(starts) - 1):
        line = out[i]
        k, end = starts[i], starts[i + 1]
        while k + 4 <= end:
            w0, w1, w2, w3 = data[k], data[k + 1], data[k + 2], data[k + 3]
            x0, x1, x2, x3 = x[indices[k]], x[indices[k + 1]], x[indices[k + 2]], x[indices[k + 3]]
            for r in range(columns):
                line[r] += (w0 * x0[r] + w1 * x1[r]) + (w2 * x2[r] + w3 * x3[r])
            k += 4
        while k < end:
            w0, x0 = data[k], x[indices[k]]
            for r in range(columns):
                line[r] += w0 * x0[r]
            k += 1


@jit
def add_constant(a: Array, values: Array, total: Array) -> None:
    """``total += values @ a``."""
    columns = a.shape[1]
    for i in range(len(values)):
        w, line = values[i], a[i]
        if w != 0:
            for r in range(columns):
                total[r] += w * line[r]


@jit
def add_sizes(a: Array, values: Array, total: Array) -> None:
    """``total += values @ |a|``."""
    columns = a.shape[1]
    for i in range(len(values)):
        w, line = values[i], a[i]
        for r in range(columns):
            total[r] += w * abs(line[r])


@jit
def relax(a: Array, weights: Array, phases: Any, slope: Array, intercept: Array, kept: Array, total: Array) -> None:
    """From coefficients of ReLUs' outputs to those of their inputs, in place; the intercepts go to ``total``.

    Args:
        a: ``(>= k, R)``: the first k neurons are unstable, the others are active and pass unchanged.
        weights: ``(k, R)``: lower slope where the phase is 0, else the multiplier of the phase constraint.
        phases: ``(k, R)`` 0, 1, -1.
        kept: result, ``(k, R)``: the coefficients as they came.
    """
    columns = a.shape[1]
    zero = a.dtype.type(0)
    for i in range(len(weights)):
        s, t = slope[i], intercept[i]
        line, keep, weight, phase = a[i], kept[i], weights[i], phases[i]
        for r in range(columns):
            c = line[r]
            keep[r] = c
            negative = min(c, zero)
            free = phase[r] == 0
            total[r] += t * negative if free else zero
            bent = (c - negative) * weight[r] + negative * s
            fixed = c - weight[r] if phase[r] > 0 else weight[r]
            line[r] = bent if free else fixed


@jit
def least(a: Array, low: Array, high: Array, total: Array, x: Array) -> None:
    """``total += min a·x`` over the box; the minimiser is written to ``x (n, R)``."""
    columns = a.shape[1]
    zero = a.dtype.type(0)
    for i in range(len(low)):
        bottom, top, line, point = low[i], high[i], a[i], x[i]
        for r in range(columns):
            c = line[r]
            p = bottom if c > zero else top
            point[r] = p
            total[r] += c * p


@jit
def _least_with(a: Array, low: Array, high: Array, slope: Array, scale: Array, value: Array, gain: Array) -> None:
    """``value += min (a + scale slope)·x`` over the box; the cut's ``slope·x`` there is added to ``gain``."""
    columns = a.shape[1]
    zero = a.dtype.type(0)
    for i in range(len(low)):
        bottom, top, line, s = low[i], high[i], a[i], slope[i]
        for r in range(columns):
            c = line[r] + scale[r] * s
            p = bottom if c > zero else top
            value[r] += c * p
            gain[r] += s * p


@jit
def least_within(
    a: Array, low: Array, high: Array, slope: Array, constant: Any, total: Array, x: Array, scale: Array
) -> None:
    """`least` on the part of the box where ``slope·x + constant <= 0``: ``total`` by the best multiplier of this cut.

    The bound ``min over x of a·x + scale (slope·x + constant)`` is concave in the multiplier, with the cut's value at the
    minimiser as its slope. Two tangents hold the best one between them, at first those at 0 and at infinity; where
    they meet the next one is tried. Any multiplier >= 0 is sound.

    Args:
        scale: result, ``(R,)``: the multipliers.
        x: result, ``(n, R)``: between the minimisers of the last two tangents, where the cut is met with equality.
    """
    columns = a.shape[1]
    zero, one = a.dtype.type(0), a.dtype.type(1)
    left, right = np.zeros(columns, a.dtype), np.full(columns, np.inf, a.dtype)
    value_left, gain_left = total.copy(), np.full(columns, constant, a.dtype)
    value_right, gain_right = total.copy(), np.full(columns, constant, a.dtype)
    _least_with(a, low, high, slope, left, value_left, gain_left)
    for i in range(len(low)):  # the cut's own minimiser: the tangent at infinity
        s, line = slope[i], a[i]
        p = low[i] if s > zero else high[i]
        for r in range(columns):
            value_right[r] += line[r] * p
            gain_right[r] += s * p
    best = value_left.copy()
    scale[:] = zero
    value, gain, tried = np.empty(columns, a.dtype), np.empty(columns, a.dtype), np.empty(columns, a.dtype)
    offset = value_right.copy()  # of the right tangent at multiplier 0
    for _ in range(CUT_ROUNDS):
        some = False
        for r in range(columns):
            steep = gain_left[r] - gain_right[r]
            tried[r] = zero
            if gain_left[r] > zero and gain_right[r] < zero and steep > zero:
                tried[r] = max(zero, (offset[r] - (value_left[r] - left[r] * gain_left[r])) / steep)
                some = True
            value[r] = total[r] + tried[r] * constant
            gain[r] = constant
        if not some:
            break
        _least_with(a, low, high, slope, tried, value, gain)
        for r in range(columns):
            if tried[r] == zero or not abs(value[r]) + abs(gain[r]) < np.inf:
                continue
            if value[r] > best[r]:
                best[r], scale[r] = value[r], tried[r]
            if gain[r] > zero:
                left[r], value_left[r], gain_left[r] = tried[r], value[r], gain[r]
            else:
                right[r], gain_right[r] = tried[r], gain[r]
                offset[r] = value[r] - tried[r] * gain[r]
    total[:] = best
    for i in range(len(low)):
        bottom, top, line, s, point = low[i], high[i], a[i], slope[i], x[i]
        at_infinity = bottom if s > zero else top
        for r in range(columns):
            p = bottom if line[r] + left[r] * s > zero else top
            if gain_left[r] > zero and gain_right[r] <= zero:
                q = at_infinity
                if right[r] < np.inf:
                    q = bottom if line[r] + right[r] * s > zero else top
                share = gain_left[r] / (gain_left[r] - gain_right[r])
                p = (one - share) * p + share * q
            point[r] = p


@jit
def ascent_step(
    z: Array,
    weights: Array,
    phases: Any,
    slope: Array,
    intercept: Array,
    kept: Array,
    better: Any,
    best: Array,
    first: Array,
    second: Array,
    pace: Any,
) -> None:
    """Values of the relaxed ReLUs at the minimiser, in place of ``z``, and a step of Adam on the weights.

    Args:
        better: ``(R,)``: columns whose weights are the best so far; they are copied to ``best`` before the step.
        first, second: Adam's moments.
        pace: step lengths of slopes and of multipliers, and the two corrections of the moments' start.
    """
    columns = z.shape[1]
    one, zero = z.dtype.type(1), z.dtype.type(0)
    old, new = z.dtype.type(0.9), z.dtype.type(0.1)
    old2, new2 = z.dtype.type(0.99), z.dtype.type(0.01)
    tiny = z.dtype.type(1e-12)
    rate, rate_fixed, scale1, scale2 = pace[0], pace[1], pace[2], pace[3]
    for i in range(len(weights)):
        s, t = slope[i], intercept[i]
        line, weight, phase, coefficient, top = z[i], weights[i], phases[i], kept[i], best[i]
        m1, m2 = first[i], second[i]
        for r in range(columns):
            v, w, p, c = line[r], weight[r], phase[r], coefficient[r]
            top[r] = w if better[r] else top[r]
            free = p == 0
            gradient = max(c, zero) * v if free else (-v if p > 0 else v)
            bent = s * v + t if c < zero else w * v
            fixed = v if p > 0 else zero
            line[r] = bent if free else fixed
            f = old * m1[r] + new * gradient
            g = old2 * m2[r] + new2 * gradient * gradient
            m1[r], m2[r] = f, g
            w += (rate if free else rate_fixed) * (f * scale1) / (np.sqrt(g * scale2) + tiny)
            w = max(w, zero)
            weight[r] = min(w, one) if free else w


@jit
def score_neurons(
    z: Array, weights: Array, phases: Any, slope: Array, intercept: Array, kept: Array, scores: Array
) -> None:
    """How much each neuron's relaxation lowers the bound at the minimiser; ``z`` becomes the relaxed values."""
    columns = z.shape[1]
    zero = z.dtype.type(0)
    for i in range(len(weights)):
        s, t = slope[i], intercept[i]
        for r in range(columns):
            v, c, p = z[i, r], kept[i, r], phases[i, r]
            if p == 0:
                value = s * v + t if c < zero else weights[i, r] * v
                scores[i, r] = abs(c * (value - max(v, zero))) - z.dtype.type(0.1) * min(c, zero) * t
                z[i, r] = value
            else:
                scores[i, r] = z.dtype.type(-1)
                z[i, r] = v if p > 0 else zero
