"""Compiled loops of `verifier.engines.saliency.leaf_lagrangian`: what is not a product of matrices.

Multipliers, and everything that follows from them, are matrices with one column per bound. The ascents are computed in
float32, for any multipliers prove; proofs in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from verifier.bounds.crown_dense import jit
from verifier.network.operators import Array

FIRST, SECOND = 0.9, 0.99
"""Decay of Adam's averages (Kingma, Ba, 2015)."""


@jit
def corners(
    alpha: Any,
    kappa: Any,
    s: Any,
    low: Any,
    high: Any,
    phases: Any,
    passing: Any,
    ending: Any,
    shift: Any,
) -> None:
    """Where each t of `verifier.engines.saliency.leaf` is least.

    Args:
        alpha, kappa, s, phases: ``(m, R)``; low, high: ``(m,)``.
        passing: becomes 1 at the corners with the phase on, else 0; ending: high at the corner ``z = high``, else 0.
        shift: becomes minus the value of z at the corner.
    """
    m, count = alpha.shape
    one, zero, infinite = np.float32(1), np.float32(0), np.float32(np.inf)
    for j in range(m):
        lower, upper = low[j], high[j]
        for c in range(count):
            slope, phase = s[j, c], phases[j, c]
            at_low, rise = -slope * lower, (alpha[j, c] - slope) * upper
            inactive = infinite if phase > 0 else min(at_low, zero)
            active = infinite if phase < 0 else kappa[j, c] + min(rise, zero)
            passes = active < inactive
            top = upper if passes and rise < zero else zero
            bottom = lower if not passes and at_low < zero else zero
            passing[j, c] = one if passes else zero
            ending[j, c] = top
            shift[j, c] = -(top + bottom)


@jit
def minimisers(x: Any, center: Any, radius: Any) -> None:
    """In place: the point of the box where each column of weights ``(n, R)`` is least."""
    n, count = x.shape
    for p in range(n):
        middle, reach = center[p], radius[p]
        for c in range(count):
            x[p, c] = middle - reach if x[p, c] > 0 else middle + reach


@jit
def step_slopes(
    s: Any, gradient: Any, shift: Any, offset: Any, first: Any, second: Any, unit: Any, scale: Any, rates: Any
) -> None:
    """One step of Adam, in place, from the supergradient ``gradient + shift + offset`` of the slopes s ``(m, R)``.

    Args:
        first, second: the averages; unit: ``(m,)``, scale: ``(R,)``: length of a step is their product.
        rates: the step's length, and both averages' corrections of their start at 0.
    """
    m, count = s.shape
    keep1, keep2, tiny = np.float32(FIRST), np.float32(SECOND), np.float32(1e-12)
    new1, new2 = np.float32(1 - FIRST), np.float32(1 - SECOND)
    for j in range(m):
        length, add = rates[0] * unit[j] * rates[1], offset[j]
        for c in range(count):
            g = gradient[j, c] + shift[j, c] + add
            a, b = keep1 * first[j, c] + new1 * g, keep2 * second[j, c] + new2 * g * g
            first[j, c], second[j, c] = a, b
            s[j, c] += length * scale[c] * a / (np.sqrt(b * rates[2]) + tiny)


@jit
def step_rows(
    mu: Any, gradient: Any, low: Any, high: Any, first: Any, second: Any, unit: Any, scale: Any, rates: Any
) -> None:
    """One step of Adam, in place, of the rows' multipliers ``(K, R)``; gradient: the rows' values at the minimisers."""
    rows, count = mu.shape
    keep1, keep2, tiny, zero = np.float32(FIRST), np.float32(SECOND), np.float32(1e-12), np.float32(0)
    new1, new2 = np.float32(1 - FIRST), np.float32(1 - SECOND)
    for k in range(rows):
        length, lower, upper = rates[0] * unit[k] * rates[1], low[k], high[k]
        not_above, not_below = upper == np.inf, lower == -np.inf
        for c in range(count):
            value, weight = gradient[k, c], mu[k, c]
            above, below = value - upper, value - lower
            g = above if above > zero else (below if below < zero else zero)
            g = above if weight > zero else (below if weight < zero else g)
            a, b = keep1 * first[k, c] + new1 * g, keep2 * second[k, c] + new2 * g * g
            first[k, c], second[k, c] = a, b
            weight += length * scale[c] * a / (np.sqrt(b * rates[2]) + tiny)
            wrong = (weight > zero and not_above) or (weight < zero and not_below)
            mu[k, c] = zero if wrong else weight


@jit
def share(mu: Any, allowed: Any, fixed: Any) -> None:
    """Multipliers of the disjuncts' rows ``(k, R)``, in place: 0 where not allowed, sums of 1 in columns that are fixed."""
    rows, count = mu.shape
    for c in range(count):
        total = np.float32(0)
        for k in range(rows):
            mu[k, c] *= allowed[k, c]
            total += mu[k, c]
        if fixed[c]:
            for k in range(rows):
                mu[k, c] = mu[k, c] / total if total > np.float32(1e-9) else allowed[k, c]


@jit
def prove(
    alpha: Array,
    kappa: Array,
    s: Array,
    mu: Array,
    low: Array,
    high: Array,
    offset: Array,
    row_low: Array,
    row_high: Array,
    neuron_size: Array,
    row_size: Array,
    phases: Any,
    total: Array,
    inactive: Array,
    active: Array,
) -> None:
    """Add to each column's total what neurons and rows contribute to its bound, less what rounding may have added.

    Args:
        neuron_size, row_size: ``(m,), (K,)``: what rounding loses, at most, per unit of |s| and of |μ|.
        inactive, active: ``(m, R)`` become what the bound gains if the phase is only inactive, only active.
    """
    m, count = s.shape
    for j in range(m):
        for c in range(count):
            slope, phase = s[j, c], phases[j, c]
            least_inactive = min(0.0, -slope * low[j])
            least_active = kappa[j, c] + min(0.0, (alpha[j, c] - slope) * high[j])
            least = min(least_inactive, least_active)
            least = least_active if phase > 0 else (least_inactive if phase < 0 else least)
            inactive[j, c], active[j, c] = least_inactive - least, least_active - least
            total[c] += least + slope * offset[j] - abs(slope) * neuron_size[j]
    for k in range(len(mu)):
        for c in range(count):
            weight = mu[k, c]
            if weight != 0.0:
                total[c] -= weight * (row_high[k] if weight > 0 else row_low[k]) + abs(weight) * row_size[k]
