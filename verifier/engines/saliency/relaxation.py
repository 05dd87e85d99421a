"""The linear program of a subproblem: `verifier.engines.saliency.state_rows`, kept loaded, with rows that are added lazily.

The rows ``lower <= g <= upper`` of the gradient box, and what a condition on the map says of its solutions, are added only as
they are violated.
"""

from __future__ import annotations

import numpy as np

from verifier.engines.saliency.problem import Problem, State
from verifier.engines.saliency.state_rows import KIND, LAYER, StateRows, key
from verifier.limits import Deadline
from verifier.lp.program import LinearProgram, LpAnswer, LpStatus
from verifier.lp.rows import RowBuilder
from verifier.network.operators import Array
from verifier.network.relu_form import INPUT

BASIC = 1
"""HiGHS's number for a basic variable."""
VIOLATED = 1e-9
"""A row that a solution breaks by less is met, as far as the linear program tells."""


class Relaxation(StateRows):
    """The LP of a state, for all its disjuncts: its rows, and what is added as it is violated.

    Source:
        cutting planes, lazily: Kelley, 1960; the rest: `StateRows`.
    """

    def __init__(self, problem: Problem, state: State, *, identity: bool = True) -> None:
        """
        Args:
            identity: whether Euler's identity is one of its rows.
        """
        super().__init__(problem, state, identity=identity)
        self.settings = problem.settings.programs
        self.lower, self.upper = np.concatenate(self._lower), np.concatenate(self._upper)
        self.matrix = self.rows.matrix(self._columns)
        cost = np.zeros(self._columns)
        cost[self.t] = 1.0
        self.lp = LinearProgram(self.matrix, *self.rows.bounds(), self.lower, self.upper, cost)
        self._cut = np.zeros(problem.query.box.size, dtype=bool)
        if self.has_gradient:
            self._input_gradient()
        if state.basis is not None:
            self._warm_start(*state.basis)

    def _warm_start(self, column_keys: Array, column_status: Array, row_keys: Array, row_status: Array) -> None:
        """Start from a related LP's basis; new columns at a bound, new rows basic."""
        cuts = row_keys[(row_keys // KIND == 10) & (row_status != BASIC)] % LAYER
        if self.has_gradient and len(cuts):
            self._add_cuts(cuts)
        columns = _match(np.concatenate(self._keys), column_keys, column_status, 0)
        rows = _match(np.concatenate(self.rows.keys), row_keys, row_status, BASIC)
        self.lp.start_from(columns, rows)

    def basis(self) -> tuple[Array, Array, Array, Array]:
        """Keys and status of columns and rows, for the LPs of children."""
        columns, rows = self.lp.basis()
        return np.concatenate(self._keys), columns, np.concatenate(self.rows.keys), rows

    # -- the gradient box, lazily ------------------------------------------------------------------------
    def _input_gradient(self) -> None:
        blocks, columns = [], []
        for r in self.problem.form.users[INPUT]:
            live = np.flatnonzero(self.v[r] >= 0)
            block = self.problem.form.layers[r].matrices[INPUT][live]
            if not isinstance(block, np.ndarray):
                block = block.toarray()
            blocks.append(block * self.v_scale[r][live][:, None])
            columns.append(self.v[r][live])
        self._g_matrix = np.concatenate(blocks).T if blocks else np.zeros((self.problem.form.input_size, 0))
        self._g_columns = np.concatenate(columns) if columns else np.zeros(0, dtype=np.int64)

    def _violated(self, point: Array) -> Array:
        gradient = self.problem.query.gradient
        assert gradient is not None
        g = self.problem.seed[INPUT] + self._g_matrix @ point[self._g_columns]
        excess = np.maximum(gradient.lower - g, g - gradient.upper)
        excess[self._cut] = -np.inf
        worst = np.argsort(-excess)[: self.settings.cuts]
        return worst[excess[worst] > VIOLATED]

    def _add_cuts(self, entries: Array) -> None:
        gradient = self.problem.query.gradient
        assert gradient is not None
        pad = 2 * self.problem.gradient_padding[INPUT][entries]
        seed = self.problem.seed[INPUT][entries]
        builder = RowBuilder()
        rows = builder.add(
            len(entries),
            gradient.lower[entries] - seed - pad,
            gradient.upper[entries] - seed + pad,
            key(10, 0, entries),
        )
        builder.block(rows, self._g_columns, self._g_matrix[entries])
        self.rows.keys += builder.keys
        self.lp.add_rows(builder.matrix(self._columns), *builder.bounds())
        self._cut[entries] = True

    def _cut_by_map(self, point: Array) -> bool:
        """Add linear inequalities of a condition on the map that a solution does not meet; whether there were any."""
        condition = self.problem.query.condition
        if condition is None:
            return False
        seed, pad = self.problem.seed[INPUT], self.problem.gradient_padding[INPUT]
        weights, bounds = condition.cuts(seed + self._g_matrix @ point[self._g_columns])
        bounds = bounds - weights @ seed + 4 * (np.abs(weights) @ pad)
        kept = np.flatnonzero(weights @ (self._g_matrix @ point[self._g_columns]) > bounds + VIOLATED)
        if not len(kept):
            return False
        builder = RowBuilder()
        rows = builder.add(len(kept), -np.inf, bounds[kept], np.full(len(kept), -1))
        builder.block(rows, self._g_columns, weights[kept] @ self._g_matrix)
        self.rows.keys += builder.keys
        self.lp.add_rows(builder.matrix(self._columns), *builder.bounds())
        return True

    def condition_rows(self, disjunct: int) -> Array:
        """The rows of the program that are a disjunct's and the common ones, in this order."""
        kinds, _, _ = row_kinds(self)
        of_disjuncts = np.concatenate(
            [np.zeros(0, dtype=np.int64), *(rows for rows, _ in self._disjunct_rows.values())]
        )
        return np.concatenate(
            [self._disjunct_rows[disjunct][0], np.setdiff1d(np.flatnonzero(kinds == 9), of_disjuncts)]
        )

    # -- solving -----------------------------------------------------------------------------------------
    def select(self, disjunct: int) -> None:
        """Make this disjunct's rows the ones that count."""
        for other, (rows, bound) in self._disjunct_rows.items():
            if len(rows):
                upper = bound if other == disjunct else np.full(len(rows), np.inf)
                self.lp.bound_rows(rows, np.full(len(rows), -np.inf), upper)

    def solve(self, disjunct: int, deadline: Deadline) -> LpAnswer:
        """Minimise the disjunct's worst row; OPTIMAL means the relaxation meets the disjunct."""
        self.select(disjunct)
        rounds = 0
        while True:
            answer = self.lp.solve(deadline)
            if answer.status is not LpStatus.OPTIMAL or not self.has_gradient:
                return answer
            assert answer.point is not None
            violated = self._violated(answer.point)
            if len(violated):
                self._add_cuts(violated)
            elif rounds < self.settings.map_rounds and self._cut_by_map(answer.point):
                rounds += 1
            else:
                return answer


def row_kinds(relaxation: Relaxation) -> tuple[Array, Array, Array]:
    """Of each row of the program what it says, of which layer and neuron; kind -1 for a cut of its own."""
    keys = np.concatenate(relaxation.rows.keys)
    return np.where(keys < 0, -1, keys // KIND), keys % KIND // LAYER, keys % LAYER


def _match(keys: Array, known: Array, status: Array, default: int) -> Array:
    """Status by key; the default for keys that are not known."""
    order = np.argsort(known, kind="stable")
    place = np.minimum(np.searchsorted(known, keys, sorter=order), len(known) - 1)
    found = known[order[place]] == keys
    return np.where(found & (keys >= 0), status[order[place]], default)


def scatter(columns: Array, point: Array, default: float = 0.0) -> Array:
    """Values of an array of columns, ``default`` where there is none.

    Shapes: columns ``(k,)``, numbers or -1; point ``(columns of the program,)``.
    """
    return np.where(columns >= 0, point[np.maximum(columns, 0)], default)
