"""Compiled inner loops of `verifier.bounds.condensed`: one column per row that is bounded, any float type.

Column layout (neurons first, rows last) keeps all loops contiguous: a sparse matrix is applied by adding multiples
of whole lines, and everything that happens at a ReLU, the step of its slopes included, is one sweep.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from verifier.bounds.crown_dense import jit
from verifier.network.operators import Array


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
