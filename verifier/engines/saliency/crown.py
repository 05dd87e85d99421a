"""Bounds of preactivations by substitution down to the input, with optimised slopes and multipliers.

CROWN (Zhang et al., NeurIPS 2018) on the ReLU form; the lower slopes of unstable neurons are optimised as
in α-CROWN (Xu et al., ICLR 2021), and every phase that is a constraint of its own (``z >= 0`` or
``z <= 0``) enters with a Lagrange multiplier as in β-CROWN (Wang et al., NeurIPS 2021). Any slopes in
[0, 1] and any multipliers >= 0 give valid bounds, so no convergence is needed; rounding errors are added
at the end. Only neurons that can be active, or carry a multiplier, take part in the products.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from verifier.engines.saliency.form import INPUT
from verifier.engines.saliency.problem import Problem, State
from verifier.network.operators import Array

_LARGEST = 1_500_000
"""Target rows times neurons above which slopes and multipliers are not optimised."""


@dataclass(eq=False)
class _Layer:
    """The part of a layer that takes part in the products.

    Attributes:
        index: neurons that can be active or carry a multiplier, ``(k,)``.
        active, free, forced: masks over these; ``sign`` is +1 (forced active), -1 (forced inactive).
        matrices: rows ``index`` of M, by source; columns restricted to the source's own ``index``.
    """

    index: Array
    active: Array
    free: Array
    forced: Array
    sign: Array
    low: Array
    steep: Array
    constant: Array
    matrices: dict[int, Array]


def preactivation_bounds(
    problem: Problem, state: State, r: int, todo: Array, iterations: int
) -> tuple[Array, Array]:
    """Bounds of the preactivations ``todo`` of layer r under the state's phases and sign constraints."""
    layers = _active_part(problem, state, r)
    layer = problem.form.layers[r]
    rows: dict[int, Array] = {}
    for s, m in layer.matrices.items():
        picked = m[todo]
        picked = picked if s == INPUT or s not in layers else picked[:, layers[s].index]
        dense = picked if isinstance(picked, np.ndarray) else picked.toarray()
        rows[s] = np.concatenate([-dense, dense])
    offset = np.concatenate([-layer.constant[todo], layer.constant[todo]])
    size = len(state.phase[r])
    both = np.concatenate([todo, todo + size])
    tunable = [s for s, part in layers.items() if (part.free | part.forced).any()]
    rows_total = len(both)
    if not tunable or rows_total * sum(len(layers[s].index) for s in tunable) > _LARGEST:
        iterations = 0
    tuning = {}
    for s in tunable:
        part = layers[s]
        stored = state.tuning.get((r, s))
        default = np.where(part.free, (state.z_upper[s][part.index] > -part.low).astype(np.float64), 0.0)
        if stored is None:
            tuning[s] = np.broadcast_to(default, (rows_total, len(default))).copy()
        else:
            tuning[s] = stored[np.ix_(both, part.index)].astype(np.float64)
            missing = np.isnan(tuning[s])
            tuning[s] = np.where(missing, default, tuning[s])
    best, tuning = _optimise(problem, layers, rows, tuning, iterations)
    if iterations:
        for s in tunable:
            part = layers[s]
            stored = state.tuning.get((r, s))
            fresh = np.full((2 * size, len(state.phase[s])), np.nan, dtype=np.float32) if stored is None else stored.copy()
            fresh[np.ix_(both, part.index)] = tuning[s]
            state.tuning[r, s] = fresh
    best = best + offset
    pad = problem.value_padding[r][todo]
    return -best[: len(todo)] - pad, best[len(todo) :] + pad


def _active_part(problem: Problem, state: State, r: int) -> dict[int, _Layer]:
    layers: dict[int, _Layer] = {}
    for s in range(r):
        phase, forced = state.phase[s], state.forced[s]
        index = np.flatnonzero((phase >= 0) | forced)
        chosen, chosen_forced = phase[index], forced[index]
        low, high = state.z_lower[s][index], state.z_upper[s][index]
        free = chosen == 0
        with np.errstate(invalid="ignore", divide="ignore"):
            steep = np.where(free, high / (high - low), 0.0)
        matrices = {}
        for t, m in problem.form.layers[s].matrices.items():
            picked = m[index]
            picked = picked if t == INPUT else picked[:, layers[t].index]
            matrices[t] = picked if isinstance(picked, np.ndarray) else picked.toarray()
        constant = problem.form.layers[s].constant[index]
        active = chosen > 0
        sign = np.where(active, 1.0, -1.0)
        layers[s] = _Layer(index, active, free, chosen_forced, sign, low, steep, constant, matrices)
    return layers


def _optimise(
    problem: Problem, layers: dict[int, _Layer], rows: dict[int, Array], tuning: dict[int, Array], iterations: int
) -> tuple[Array, dict[int, Array]]:
    """The least upper bounds found of ``rows @ sources`` (no constant), and the tuning that gave the last."""
    box = problem.query.box
    center, radius = box.center, box.width / 2
    count = len(next(iter(rows.values())))
    best = np.full(count, np.inf)
    first = {s: np.zeros_like(v) for s, v in tuning.items()}
    second = {s: np.zeros_like(v) for s, v in tuning.items()}
    kept = dict(tuning)
    for step in range(iterations + 1):
        total, coefficients, at_input = _substitute(layers, rows, tuning)
        value = total + at_input @ center + np.abs(at_input) @ radius
        better = value < best
        best = np.where(better, value, best)
        kept = {s: np.where(better[:, None], tuning[s], kept[s]) for s in tuning}
        if step == iterations:
            break
        values: dict[int, Array] = {INPUT: center + np.sign(at_input) * radius}
        for s, part in layers.items():
            z = part.constant + sum(values[t] @ m.T for t, m in part.matrices.items())
            above = coefficients.get(s)
            if above is None:
                above = np.zeros_like(z)
            slope = tuning[s] if s in tuning else np.zeros_like(z)
            relaxed = np.where(above > 0, part.steep * (z - part.low), slope * z)
            values[s] = np.where(part.active, z, np.where(part.free, relaxed, 0.0))
            if s not in tuning:
                continue
            down = np.where(part.free, np.minimum(above, 0) * z, np.where(part.forced, part.sign * z, 0.0))
            first[s] = 0.8 * first[s] + 0.2 * down
            second[s] = 0.95 * second[s] + 0.05 * down**2
            unit = np.where(part.free, 0.5, 0.5 * np.abs(above).mean(axis=1, keepdims=True) + 1e-12)
            rate = unit * 0.9**step
            move = first[s] / (1 - 0.8 ** (step + 1)) / (np.sqrt(second[s] / (1 - 0.95 ** (step + 1))) + 1e-12)
            changed = np.maximum(tuning[s] - rate * move, 0.0)
            tuning[s] = np.where(part.free, np.minimum(changed, 1.0), np.where(part.forced, changed, 0.0))
    return best, kept


def _substitute(
    layers: dict[int, _Layer], rows: dict[int, Array], tuning: dict[int, Array]
) -> tuple[Array, dict[int, Array], Array]:
    """Substitute from the rows down: constant, the coefficients met at each layer, coefficients of the input."""
    pending = dict(rows)
    count = len(next(iter(rows.values())))
    total = np.zeros(count)
    met: dict[int, Array] = {}
    for s in reversed(layers):
        part = layers[s]
        above = pending.pop(s, None)
        if above is None:
            if s not in tuning or not part.forced.any():
                continue
            above = np.zeros((count, len(part.index)))
        met[s] = above
        down = np.where(part.active, above, 0.0)
        if part.free.any():
            positive = np.maximum(above, 0)
            total -= (positive * part.steep) @ np.where(part.free, part.low, 0.0)
            down += np.where(part.free, positive * part.steep + (above - positive) * tuning[s], 0.0)
        if part.forced.any():
            down += np.where(part.forced, part.sign * tuning[s], 0.0)
        total += down @ part.constant
        for t, m in part.matrices.items():
            product = down @ m
            pending[t] = pending[t] + product if t in pending else product
    return total, met, pending.get(INPUT, np.zeros((count, 1)))
