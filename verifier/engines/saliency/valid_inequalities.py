"""Linear facts about the network's values that every solution of a subproblem meets.

They tighten the bounds of the last hidden layer (`verifier.engines.saliency.crown`): the rows of the
condition, Euler's identity (see `Relaxation`), and what gradient inversion found about h. The latter
speak of the phases d, which are eliminated: ``a / u <= d <= 1 - s / (-l)`` for a neuron with preactivation
bounds l < 0 < u, so that

    κ d >= κ a / u  (κ >= 0)            κ d >= κ + (-κ / -l) s,  s = a - z  (κ < 0).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from verifier.engines.saliency.problem import Problem, State
from verifier.network.affine import dense
from verifier.network.operators import Array
from verifier.network.relu_form import INPUT
from verifier.rounding import EIGHT_ROUNDINGS

_DISJUNCT, _IDENTITY, _GRADIENT = 0, 10_000, 20_000


@dataclass(frozen=True, eq=False)
class ValidInequalities:
    """``Σ_s matrices[s] @ a_s + constant >= 0`` (the input is source -1).

    Attributes:
        keys: what each row is, the same in related subproblems.
        padding: bound on the rounding error of each row's value anywhere.
    """

    keys: Array
    matrices: dict[int, Array]
    constant: Array
    padding: Array


class _Rows:
    """Collects rows ``coefficients · values <= bound`` and turns them into `ValidInequalities`."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.keys: list[Array] = []
        self.blocks: list[dict[int, Array]] = []
        self.bounds: list[Array] = []
        self.sizes: list[Array] = []

    def add(self, keys: Array, block: dict[int, Array], bound: Array, size: Array) -> None:
        self.keys.append(keys)
        self.blocks.append(block)
        self.bounds.append(bound)
        self.sizes.append(size)

    def build(self) -> ValidInequalities | None:
        if not self.keys:
            return None
        form = self.problem.form
        sources = sorted({s for block in self.blocks for s in block})
        width = {s: form.input_size if s == INPUT else form.sizes[s] for s in sources}
        matrices = {
            s: np.concatenate(
                [-b[s] if s in b else np.zeros((len(k), width[s])) for b, k in zip(self.blocks, self.keys, strict=True)]
            )
            for s in sources
        }
        constant = np.concatenate(self.bounds)
        padding = EIGHT_ROUNDINGS * self.problem.terms * (np.concatenate(self.sizes) + np.abs(constant))
        return ValidInequalities(np.concatenate(self.keys), matrices, constant + padding, 2 * padding)


def valid_inequalities(problem: Problem, state: State) -> ValidInequalities | None:
    """All side rows of a subproblem with one disjunct left; None if there are none.

    Source:
        valid inequalities of mixed-integer programs: Nemhauser, Wolsey, 1988; here from the query's rows and
        Euler's identity.
    """
    rows = _Rows(problem)
    _condition_rows(problem, state, rows)
    if problem.query.gradient is not None and np.isfinite(state.h_upper[-1]).all():
        _identity_rows(problem, state, rows)
        _gradient_rows(problem, state, rows)
    return rows.build()


def _condition_rows(problem: Problem, state: State, rows: _Rows) -> None:
    """Common rows, and the disjunct's, that do not speak of the gradient."""
    parts = [problem.query.common] if problem.query.common is not None else []
    if len(state.disjuncts) == 1:
        parts.append(problem.disjuncts[state.disjuncts[0]])
    output = problem.form.output
    for number, part in enumerate(parts):
        if not len(part) or part.g_rows is not None:
            continue
        y_rows = np.zeros((len(part), len(output.constant))) if part.y_rows is None else dense(part.y_rows)
        block = {s: np.asarray(y_rows @ dense(m)) for s, m in output.matrices.items()}
        size = np.abs(y_rows) @ problem.output_magnitude
        if part.x_rows is not None:
            x_rows = dense(part.x_rows)
            block[INPUT] = block.get(INPUT, np.zeros_like(x_rows)) + x_rows
            size = size + np.abs(x_rows) @ problem.magnitude[INPUT]
        keys = _DISJUNCT + 1000 * number + np.arange(len(part))
        rows.add(keys, block, part.bound - y_rows @ output.constant, size)


def _eliminated(problem: Problem, state: State, r: int, kappa: Array) -> tuple[dict[int, Array], Array, Array]:
    """A lower bound of ``kappa @ v_r`` as ``Σ blocks[s] @ a_s + constant``, and the size of the numbers.

    Args:
        kappa: ``(rows, neurons of layer r)``.
    """
    phase = state.phase[r]
    low, high = state.z_lower[r], state.z_upper[r]
    free, active = phase == 0, phase > 0
    sure = np.where(kappa > 0, kappa * state.v_lower[r], kappa * state.v_upper[r])
    constant = (sure * active).sum(axis=1)
    # κ v >= m d with m the least of κ h, v = h d
    least = np.minimum(kappa * state.h_lower[r], kappa * state.h_upper[r]) * free
    rising, falling = np.maximum(least, 0), np.minimum(least, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        per_a = np.where(free, 1 / high, 0.0)
        per_s = np.where(free & (low < 0), -1 / low, 0.0)  # d <= 1 is all that low = 0 says
    slope = -falling * per_s
    blocks = {r: rising * per_a + slope}
    constant = constant + falling.sum(axis=1)
    layer = problem.form.layers[r]
    constant = constant - slope @ layer.constant
    for s, m in layer.matrices.items():
        blocks[s] = -np.asarray((m.T @ slope.T).T)
    size = np.abs(sure).sum(axis=1) + np.abs(least).sum(axis=1)
    size = size + (np.abs(blocks[r]) + slope) @ problem.magnitude[r]
    return blocks, constant, size


def _add(total: dict[int, Array], more: dict[int, Array]) -> None:
    for s, m in more.items():
        total[s] = total[s] + m if s in total else m


def _identity_rows(problem: Problem, state: State, rows: _Rows) -> None:
    """Both directions of ``c · y - g · ξ - Σ v_r · β_r = const``, with the v eliminated."""
    gradient, box, form = problem.query.gradient, problem.query.box, problem.form
    assert gradient is not None
    lower, upper = np.maximum(gradient.lower, state.g_lower), np.minimum(gradient.upper, state.g_upper)
    middle, _radius = (lower + upper) / 2, np.maximum(upper - lower, 0) / 2
    x0, free = box.center, float(np.maximum(upper - lower, 0) / 2 @ (box.width / 2))
    used = {s: np.asarray(m.T @ gradient.output)[None] for s, m in form.output.matrices.items()}
    direct = used.get(INPUT, np.zeros((1, box.size)))
    used[INPUT] = direct - middle[None]
    constant = float((direct[0] - middle) @ x0)
    size = float(np.abs(gradient.output) @ problem.output_magnitude + np.abs(middle) @ np.abs(x0))
    for number, sign in enumerate((1.0, -1.0)):
        block = {s: sign * m for s, m in used.items()}
        bound, total = sign * constant + free, size
        for r, layer in enumerate(form.layers):
            bias = layer.constant + (layer.matrices[INPUT] @ x0 if INPUT in layer.matrices else 0.0)
            more, offset, part = _eliminated(problem, state, r, -sign * bias[None])
            _add(block, more)
            bound -= float(offset[0])
            total += float(part[0])
        rows.add(np.array([_IDENTITY + number]), block, np.array([bound]), np.array([total]))


def _gradient_rows(problem: Problem, state: State, rows: _Rows) -> None:
    """``h_lower <= h_s <= h_upper`` for active neurons where that says more than the intervals of v."""
    form = problem.form
    last = len(form.layers) - 1
    for s in range(last):
        users = form.users[s]
        if users != (last,) or not np.isfinite(state.h_upper[s]).all():
            continue
        matrix = form.layers[last].matrices[s]
        chosen = np.flatnonzero((state.phase[s] > 0) & (state.h_upper[s] > state.h_lower[s]))[
            : problem.settings.propagation.inequalities // 2
        ]
        if not len(chosen):
            continue
        kappa = dense(matrix[:, chosen]).T
        pad = problem.gradient_padding[s][chosen]
        for number, sign in enumerate((1.0, -1.0)):
            block, offset, size = _eliminated(problem, state, last, sign * kappa)
            end = state.h_upper[s][chosen] if sign > 0 else -state.h_lower[s][chosen]
            bound = end - sign * problem.seed[s][chosen] + pad - offset
            rows.add(_GRADIENT + 100_000 * (s + 1) + 2 * chosen + number, block, bound, size)
