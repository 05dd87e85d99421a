"""Phases propagated both ways: preactivation bounds forward, gradient inversion backward, to a fixed point.

Forward: CROWN with optimised slopes and multipliers (`verifier.engines.saliency.crown`).
Backward: intervals of ``h_s = Σ M[r, s]ᵀ v_r + const`` and, in the other direction, a left inverse: for
*any* matrix K, ``v = K h + (I - K G) v`` where ``h = G v + const``, so intervals of h and v give new
intervals of v. K is the Bayes estimator with the interval radii as standard deviations, which is the
pseudo-inverse when the equations determine v and degrades gracefully when they do not. All bounds are
widened by proved bounds on the rounding errors.
"""

from __future__ import annotations

import numpy as np

from verifier.engines.saliency.crown import preactivation_bounds
from verifier.engines.saliency.problem import Infeasible, Problem, State
from verifier.limits import Deadline
from verifier.network.operators import Array
from verifier.network.relu_form import INPUT
from verifier.rounding import EIGHT_ROUNDINGS

ROOM = 1e-9
"""By how much the bounds of a preactivation that is exactly 0 are widened where its phase has to stay open."""


def propagate(problem: Problem, state: State, *, start: int = 0, deadline: Deadline | None = None) -> None:
    """Tighten a state in place until nothing changes.

    Args:
        start: the first layer whose preactivation bounds may have changed.
        deadline: when it has passed, the rest is left as it is; a layer is never interrupted.

    Raises:
        Infeasible: if the subproblem has no solution.

    Source:
        interval constraint propagation to a fixed point: Davis, Artificial Intelligence 1987; both ways
        through the gradient is this package's own.
    """
    has_gradient = problem.query.gradient is not None
    first = start
    settings = problem.settings.propagation
    iterations = settings.later if state.depth else settings.steps
    if sum(problem.form.sizes) <= settings.small:
        iterations = settings.small_steps
    for _ in range(settings.rounds):
        before = [p.copy() for p in state.phase]
        for r in range(first, len(state.phase)):
            if deadline is not None and deadline.passed:
                return
            forward_layer(problem, state, r, iterations, deadline)
        if not has_gradient:
            return
        backward(problem, state)
        changed = [r for r, old in enumerate(before) if (old != state.phase[r]).any()]
        forward_news = list(changed)
        if not forward_news:
            return
        first = min(forward_news) + 1
        if first >= len(state.phase):
            return


# -- forward ---------------------------------------------------------------------------------------------
def forward_layer(problem: Problem, state: State, r: int, iterations: int, deadline: Deadline | None) -> None:
    """Bounds of the preactivations of layer r under the known phases of earlier ones."""
    todo = np.flatnonzero(state.phase[r] == 0)
    if len(todo):
        lower, upper = preactivation_bounds(problem, state, r, todo, iterations, deadline)
        settle_values(state, r, todo, lower, upper, zero_is_inactive=bool(problem.form.nodes[r]))


def settle_values(state: State, r: int, todo: Array, lower: Array, upper: Array, *, zero_is_inactive: bool) -> None:
    """Take over new bounds of preactivations, and the phases that follow from them.

    Shapes: todo, lower, upper ``(k,)``: numbers of neurons, and their bounds.

    Args:
        zero_is_inactive: whether the gradient at 0 is that of the inactive phase. So it is at a ReLU of the network; a
            ReLU that is part of Clip or MaxPool may have the other one there, and stays open.

    Raises:
        Infeasible: bounds that cross: the state has no point.
    """
    lower = np.maximum(lower, state.z_lower[r][todo])
    upper = np.minimum(upper, state.z_upper[r][todo])
    phase = state.phase[r][todo]
    lower = np.where(phase > 0, np.maximum(lower, 0), lower)
    upper = np.where(phase < 0, np.minimum(upper, 0), upper)
    if (lower > upper).any():
        raise Infeasible
    free = phase == 0
    if not zero_is_inactive:  # both phases stay possible: with room around 0, for relaxations divide by the width
        touching = free & (upper == 0)
        lower, upper = np.where(touching, np.minimum(lower, -ROOM), lower), np.where(touching, ROOM, upper)
    state.z_lower[r][todo], state.z_upper[r][todo] = lower, upper
    state.phase[r][todo[free & (lower > 0)]] = 1
    state.phase[r][todo[free & ((upper < 0) | (zero_is_inactive & (upper <= 0)))]] = -1


# -- backward --------------------------------------------------------------------------------------------
def backward(problem: Problem, state: State) -> None:
    """Intervals of h and v from the output down, then inversions from the input up.

    Raises:
        Infeasible: intervals that cross: the state has no point.
    """
    layers = range(len(problem.form.layers))
    for s in reversed(layers):
        lower, upper = _gradient_interval(problem, state, s)
        state.h_lower[s] = np.maximum(state.h_lower[s], lower)
        state.h_upper[s] = np.minimum(state.h_upper[s], upper)
        _settle_gradient(state, s)
    gradient = problem.query.gradient
    assert gradient is not None
    pad = problem.gradient_padding[INPUT]
    low, high = _gradient_interval(problem, state, INPUT)
    if (low > gradient.upper).any() or (high < gradient.lower).any():
        raise Infeasible
    state.g_lower, state.g_upper = low, high
    target = (np.maximum(gradient.lower - pad, low), np.minimum(gradient.upper + pad, high))
    informative = (target[0] > low) | (target[1] < high)
    _invert(problem, state, INPUT, np.flatnonzero(informative), *target)
    for s in layers:
        low, high = _gradient_interval(problem, state, s)
        informative = (state.h_lower[s] > low + 1e-12) | (state.h_upper[s] < high - 1e-12)
        _invert(problem, state, s, np.flatnonzero(informative), state.h_lower[s], state.h_upper[s])


def _gradient_interval(problem: Problem, state: State, s: int) -> tuple[Array, Array]:
    """Interval of h_s from the intervals of v, widened."""
    pad = 0.0 if problem.seed_exact and not problem.form.users[s] else problem.gradient_padding[s]
    lower, upper = problem.seed[s] - pad, problem.seed[s] + pad
    for r in problem.form.users[s]:
        positive, negative = problem.parts[r, s]
        v_lower, v_upper = state.v_lower[r], state.v_upper[r]
        lower = lower + positive.T @ v_lower + negative.T @ v_upper
        upper = upper + positive.T @ v_upper + negative.T @ v_lower
    return lower, upper


def _settle_gradient(state: State, r: int) -> None:
    """Make h, v and the phases of layer r agree."""
    phase = state.phase[r]
    h_lower, h_upper = state.h_lower[r], state.h_upper[r]
    active, inactive, free = phase > 0, phase < 0, phase == 0
    lower = np.where(inactive, 0.0, np.where(active, h_lower, np.minimum(h_lower, 0.0)))
    upper = np.where(inactive, 0.0, np.where(active, h_upper, np.maximum(h_upper, 0.0)))
    lower, upper = np.maximum(lower, state.v_lower[r]), np.minimum(upper, state.v_upper[r])
    if (lower > upper).any():
        raise Infeasible
    apart = free & ((lower > h_upper) | (upper < h_lower))
    zero_out = free & ((lower > 0) | (upper < 0))
    if (apart & zero_out).any():
        raise Infeasible
    state.fix(r, np.flatnonzero(apart), -1)
    state.fix(r, np.flatnonzero(zero_out), 1)
    active = state.phase[r] > 0
    lower, upper = np.where(apart, 0.0, lower), np.where(apart, 0.0, upper)
    state.h_lower[r] = np.where(active, np.maximum(h_lower, lower), h_lower)
    state.h_upper[r] = np.where(active, np.minimum(h_upper, upper), h_upper)
    if (state.h_lower[r] > state.h_upper[r]).any():
        raise Infeasible
    state.v_lower[r] = np.where(active, np.maximum(lower, state.h_lower[r]), lower)
    state.v_upper[r] = np.where(active, np.minimum(upper, state.h_upper[r]), upper)


def _invert(problem: Problem, state: State, s: int, rows: Array, lower: Array, upper: Array) -> None:
    """Tighten v of the layers that read s from ``lower <= h_s <= upper`` on some rows."""
    users = problem.form.users[s]
    if not len(rows) or not users:
        return
    columns = [np.flatnonzero(state.v_upper[r] > state.v_lower[r]) for r in users]
    if not sum(map(len, columns)):
        return
    blocks, centers, radii = [], [], []
    offset = problem.seed[s][rows].copy()
    for r, chosen in zip(users, columns, strict=True):
        transposed = problem.form.layers[r].matrices[s].T
        center = (state.v_lower[r] + state.v_upper[r]) / 2
        rest = np.ones(len(center), dtype=bool)
        rest[chosen] = False
        offset += (transposed @ np.where(rest, center, 0.0))[rows]
        block = (
            transposed[rows][:, chosen]
            if isinstance(transposed, np.ndarray)
            else (transposed.tocsr()[rows].tocsc()[:, chosen].toarray())
        )
        blocks.append(block)
        centers.append(center[chosen])
        radii.append(((state.v_upper[r] - state.v_lower[r]) / 2)[chosen])
    pad = problem.gradient_padding[s][rows]
    target = (lower[rows] + upper[rows]) / 2 - offset
    slack = (upper[rows] - lower[rows]) / 2 + 2 * pad
    center, radius = contract(
        np.concatenate(blocks, axis=1), target, slack, np.concatenate(centers), np.concatenate(radii)
    )
    place = 0
    for r, chosen in zip(users, columns, strict=True):
        part = slice(place, place + len(chosen))
        place += len(chosen)
        v_lower, v_upper = state.v_lower[r], state.v_upper[r]
        v_lower[chosen] = np.maximum(v_lower[chosen], center[part] - radius[part])
        v_upper[chosen] = np.minimum(v_upper[chosen], center[part] + radius[part])
        if (v_lower[chosen] > v_upper[chosen]).any():
            raise Infeasible
        _settle_gradient(state, r)


def contract(matrix: Array, target: Array, slack: Array, center: Array, radius: Array) -> tuple[Array, Array]:
    """New center and radius of v from ``|matrix @ v - target| <= slack`` and ``|v - center| <= radius``.

    Shapes: matrix ``(m, k)``; target, slack ``(m,)``; center, radius ``(k,)``.

    Valid for any K (see the module's text); rounding errors are added to the radius.

    Source:
        the linear minimum mean-square estimate (Gauss, Markov): K is optimal for independent errors of these
        sizes, and any K is sound.
    """
    m, k = matrix.shape
    noise = np.maximum(slack, 1e-12 * (1 + np.abs(target))) ** 2
    prior = np.maximum(radius, 1e-300) ** 2
    if k <= m:
        weighted = matrix.T / noise
        normal = weighted @ matrix
        normal[np.diag_indices(k)] += 1 / prior
        gain = np.linalg.lstsq(normal, weighted, rcond=None)[0] if k < 2 else _solve(normal, weighted)
    else:
        spread = matrix * prior
        covariance = spread @ matrix.T
        covariance[np.diag_indices(m)] += noise
        gain = _solve(covariance, spread).T
    residual = -(gain @ matrix)
    residual[np.diag_indices(k)] += 1.0
    absolute = np.abs(gain)
    error = EIGHT_ROUNDINGS * (m + k + 8)
    magnitude = np.abs(center) + radius
    rounding = error * (absolute @ (np.abs(target) + np.abs(matrix) @ magnitude) + np.abs(residual) @ magnitude)
    new_center = gain @ target + residual @ center
    new_radius = absolute @ slack + np.abs(residual) @ radius + rounding + error * np.abs(new_center)
    if not np.isfinite(new_radius).all():
        return center, np.full_like(radius, np.inf)  # nothing new; the old ends, computed again, would be rounded
    return new_center, new_radius


def _solve(normal: Array, right: Array) -> Array:
    """Solution of a positive definite system; scaled, since the diagonal spans many orders of magnitude."""
    scale = 1 / np.sqrt(np.diag(normal))
    scaled = normal * scale[:, None] * scale
    try:
        return np.asarray(np.linalg.solve(scaled, right * scale[:, None]) * scale[:, None])
    except np.linalg.LinAlgError:
        return np.zeros_like(right)
