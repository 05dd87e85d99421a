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

from verifier.engines.saliency.problem import Problem, State, Tuning
from verifier.engines.saliency.valid_inequalities import ValidInequalities, valid_inequalities
from verifier.limits import Deadline
from verifier.network.affine import dense
from verifier.network.operators import Array
from verifier.network.relu_form import INPUT


@dataclass(eq=False)
class _Layer:
    """The part of a layer that takes part in the products.

    Attributes:
        index: neurons that can be active or carry a multiplier, ``(k,)``.
        active, free, forced: masks over these; ``fresh`` is forced, with no multiplier yet known; ``sign`` is +1 (forced active), -1 (forced inactive).
        matrices: rows ``index`` of M, by source; columns restricted to the source's own ``index``.
    """

    index: Array
    active: Array
    free: Array
    forced: Array
    fresh: Array
    sign: Array
    low: Array
    steep: Array
    constant: Array
    matrices: dict[int, Array]


def preactivation_bounds(
    problem: Problem, state: State, r: int, todo: Array, iterations: int, deadline: Deadline | None = None
) -> tuple[Array, Array]:
    """Bounds of the preactivations ``todo`` of layer r under the state's phases and sign constraints.

    Shapes: todo ``(k,)``, numbers of neurons; so are the bounds.

    Args:
        iterations: steps of the optimisation of slopes and multipliers; fewer if the deadline passes.

    Source:
        α-CROWN: Xu et al., ICLR 2021, Section 3; β-CROWN: Wang et al., NeurIPS 2021, Theorem 3.1.
    """
    last = r == len(problem.form.layers) - 1
    known = bool(np.isfinite(state.z_upper[r]).all())
    conditions = valid_inequalities(problem, state) if last and known and iterations else None
    own = known and (state.forced[r].any() or conditions is not None)
    layers = _active_part(problem, state, r + 1 if own else r)
    layer = problem.form.layers[r]
    rows: dict[int, Array] = {}
    for s, m in layer.matrices.items():
        wanted = dense(m[todo] if s == INPUT else m[todo][:, layers[s].index])
        rows[s] = np.concatenate([-wanted, wanted])
    offset = np.concatenate([-layer.constant[todo], layer.constant[todo]])
    size = len(state.phase[r])
    both = np.concatenate([todo, todo + size])
    tunable = [s for s, part in layers.items() if (part.free | part.forced).any()]
    optimised = (
        bool(tunable) and len(both) * sum(len(layers[s].index) for s in tunable) <= problem.settings.propagation.largest
    )
    tuning = {s: _start(state, r, s, both, layers[s]) for s in tunable}
    valid = None
    if conditions is not None and optimised:
        matrices = {s: m if s == INPUT else m[:, layers[s].index] for s, m in conditions.matrices.items()}
        valid = ValidInequalities(conditions.keys, matrices, conditions.constant, conditions.padding)
        stored = state.tuning.get((r, _VALID))
        shape = len(both), len(valid.constant)
        tuning[_VALID] = np.zeros(shape) if stored is None else np.nan_to_num(stored.at(both, valid.keys))
    best, tuning = _optimise(problem, layers, rows, tuning, valid, iterations if optimised else 0, deadline)
    pad = np.concatenate([problem.value_padding[r][todo]] * 2)
    for s in tunable:
        forced = layers[s].forced
        pad += tuning[s][:, forced] @ problem.value_padding[s][layers[s].index[forced]]
    if valid is not None:
        pad += tuning[_VALID] @ valid.padding
    if optimised and iterations:
        for s in tunable:
            signed = np.where(layers[s].free, tuning[s], -np.maximum(tuning[s], 1e-30))
            state.tuning[r, s] = Tuning(both, layers[s].index, signed.astype(np.float32))
        if valid is not None:
            state.tuning[r, _VALID] = Tuning(both, valid.keys, tuning[_VALID].astype(np.float32))
    best = best + offset + pad
    return -best[: len(todo)], best[len(todo) :]


_VALID = 1_000_000
"""Key of the multipliers of the side rows."""


def _start(state: State, r: int, s: int, both: Array, part: _Layer) -> Array:
    """Slopes and multipliers to start with: those of the parent subproblem, CROWN's choice where new."""
    default = np.where(part.free, (state.z_upper[s][part.index] > -part.low).astype(np.float64), 0.0)
    stored = state.tuning.get((r, s))
    if stored is None:
        return np.broadcast_to(default, (len(both), len(default))).copy()
    found = stored.at(both, part.index)
    new = np.isnan(found) | (part.fresh & (found >= 0))
    return np.where(new, default, np.where(part.free, np.minimum(found, 1.0), np.abs(found)))


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
            matrices[t] = dense(m[index] if t == INPUT else m[index][:, layers[t].index])
        constant = problem.form.layers[s].constant[index]
        active = chosen > 0
        sign = np.where(active, 1.0, -1.0)
        layers[s] = _Layer(index, active, free, chosen_forced, chosen_forced, sign, low, steep, constant, matrices)
    return layers


def _optimise(
    problem: Problem,
    layers: dict[int, _Layer],
    rows: dict[int, Array],
    tuning: dict[int, Array],
    valid: ValidInequalities | None,
    iterations: int,
    deadline: Deadline | None,
) -> tuple[Array, dict[int, Array]]:
    """The least upper bounds found of ``rows @ sources`` (no constant), and the tuning that gave the last."""
    box = problem.query.box
    center, radius = box.center, box.width / 2
    count = len(next(iter(rows.values())))
    best = np.full(count, np.inf)
    first = {s: np.zeros_like(v) for s, v in tuning.items()}
    second = {s: np.zeros_like(v) for s, v in tuning.items()}
    kept = dict(tuning)
    row_size = max(_mean(m) for m in rows.values())
    inequality_scale = np.zeros(0)
    if valid is not None:
        sizes = [np.abs(m).mean(axis=1) for m in valid.matrices.values() if m.shape[1]]
        inequality_scale = 0.5 * row_size / (np.max(sizes, axis=0) + 1e-12) if sizes else np.zeros(len(valid.constant))

    def move(key: int, down: Array, step: int) -> Array:
        """Adam's step (Kingma, Ba, 2015), unit length, decaying."""
        first[key] = 0.8 * first[key] + 0.2 * down
        second[key] = 0.95 * second[key] + 0.05 * down**2
        size = np.sqrt(second[key] / (1 - 0.95 ** (step + 1))) + 1e-12
        return np.asarray(0.9**step * first[key] / (1 - 0.8 ** (step + 1)) / size)

    for step in range(iterations + 1):
        total, coefficients, at_input = _substitute(layers, rows, tuning, valid)
        value = total + at_input @ center + np.abs(at_input) @ radius
        better = value < best
        best = np.where(better, value, best)
        kept = {s: np.where(better[:, None], tuning[s], kept[s]) for s in tuning}
        if step == iterations or (deadline is not None and deadline.passed):
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
            scale = np.abs(above).sum(axis=1, keepdims=True) / max(above.shape[1], 1)
            if not above.any():
                scale = np.full((count, 1), row_size / (max(_mean(m) for m in part.matrices.values()) + 1e-12))
            unit = np.where(part.free, 0.5, 0.5 * scale + 1e-12)
            changed = np.maximum(tuning[s] - unit * move(s, down, step), 0.0)
            tuning[s] = np.where(part.free, np.minimum(changed, 1.0), np.where(part.forced, changed, 0.0))
        if valid is not None:
            down = valid.constant + sum(values[s] @ m.T for s, m in valid.matrices.items())
            tuning[_VALID] = np.maximum(tuning[_VALID] - inequality_scale * move(_VALID, down, step), 0.0)
    return best, kept


def _mean(matrix: Array) -> float:
    """Mean size of the entries; 0 for an empty matrix."""
    return float(np.abs(matrix).mean()) if matrix.size else 0.0


def _substitute(
    layers: dict[int, _Layer], rows: dict[int, Array], tuning: dict[int, Array], valid: ValidInequalities | None
) -> tuple[Array, dict[int, Array], Array]:
    """Substitute from the rows down: constant, the coefficients met at each layer, coefficients of the input."""
    pending = dict(rows)
    count = len(next(iter(rows.values())))
    total = np.zeros(count)
    if valid is not None:
        total += tuning[_VALID] @ valid.constant
        for s, m in valid.matrices.items():
            product = tuning[_VALID] @ m
            pending[s] = pending[s] + product if s in pending else product
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
