"""Linear programs over boxed variables, solved by HiGHS, with infeasibility proved from the dual vector.

HiGHS answers within tolerances. Since every variable has finite bounds, *any* vector of row multipliers
gives a valid bound by weak duality, so its dual ray is only a hint: `refutes` evaluates the bound in
float64 with a proved bound on all rounding errors (Neumaier, Shcherbina, *Safe bounds in linear and
mixed-integer programming*, 2004).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from verifier.network.operators import Array
from verifier.rounding import EIGHT_ROUNDINGS

if TYPE_CHECKING:
    import highspy


_SMALL_MATRIX = 100_000
"""Entries up to which a matrix is used as a dense one."""


class LpStatus(enum.Enum):
    """What is known after a solve."""

    OPTIMAL = "optimal"
    INFEASIBLE = "infeasible"
    """Proved: the certificate was checked with outward rounding."""
    DOUBTFUL = "doubtful"
    """HiGHS says infeasible, and the certificate is too weak to prove it."""
    STOPPED = "stopped"
    """Time limit or a numerical failure."""


@dataclass(frozen=True, eq=False)
class LpAnswer:
    """Status, and for OPTIMAL the point and objective."""

    status: LpStatus
    point: Array | None = None
    objective: float = 0.0


class RowBuilder:
    """Collects rows of a sparse matrix as blocks."""

    def __init__(self) -> None:
        self.rows: list[Array] = []
        self.columns: list[Array] = []
        self.data: list[Array] = []
        self.lower: list[Array] = []
        self.upper: list[Array] = []
        self.keys: list[Array] = []
        self.count = 0

    def add(self, count: int, lower: Any, upper: Any, keys: Any = -1) -> Array:
        """Reserve ``count`` rows with these bounds and return their indices.

        Args:
            keys: what the rows are, the same in related LPs; -1 for nothing in particular.
        """
        self.keys.append(np.broadcast_to(np.asarray(keys, dtype=np.int64), count))
        self.lower.append(np.broadcast_to(np.asarray(lower, dtype=np.float64), count))
        self.upper.append(np.broadcast_to(np.asarray(upper, dtype=np.float64), count))
        self.count += count
        return np.arange(self.count - count, self.count)

    def entries(self, rows: Array, columns: Array, data: Any) -> None:
        """One entry per row."""
        self.rows.append(rows)
        self.columns.append(columns)
        self.data.append(np.broadcast_to(np.asarray(data, dtype=np.float64), len(rows)))

    def block(self, rows: Array, columns: Array, matrix: Any) -> None:
        """A matrix ``(len(rows), len(columns))``, dense or sparse."""
        if not len(rows) or not len(columns):
            return
        if isinstance(matrix, np.ndarray):
            i, j = np.nonzero(matrix)
            data = matrix[i, j]
        else:
            coo = sp.coo_array(matrix)
            i, j, data = coo.row, coo.col, coo.data
        self.rows.append(rows[i])
        self.columns.append(columns[j])
        self.data.append(data)

    def matrix(self, columns: int) -> sp.csr_array:
        """The matrix of all rows."""
        if not self.rows:
            return sp.csr_array((self.count, columns))
        triple = (np.concatenate(self.data), (np.concatenate(self.rows), np.concatenate(self.columns)))
        return sp.csr_array(sp.coo_array(triple, shape=(self.count, columns)))

    def bounds(self) -> tuple[Array, Array]:
        """Lower and upper bounds of all rows."""
        if not self.lower:
            return np.zeros(0), np.zeros(0)
        return np.concatenate(self.lower), np.concatenate(self.upper)


class BoxedLp:
    """``min cost · x`` with ``row_lower <= A x <= row_upper`` and finite column bounds; rows can be added."""

    def __init__(
        self,
        matrix: sp.csr_array,
        row_lower: Array,
        row_upper: Array,
        lower: Array,
        upper: Array,
        cost: Array,
        integer: Array | None = None,
    ) -> None:
        import highspy

        self.matrix, self.row_lower, self.row_upper = matrix, row_lower.copy(), row_upper.copy()
        self.lower, self.upper, self.cost = lower, upper, cost
        self.iterations = 0
        self._product: Any = None
        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = len(lower), matrix.shape[0]
        model.col_cost_, model.col_lower_, model.col_upper_ = cost, lower, upper
        model.row_lower_, model.row_upper_ = row_lower, row_upper
        model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        model.a_matrix_.start_ = matrix.indptr.astype(np.int32)
        model.a_matrix_.index_ = matrix.indices.astype(np.int32)
        model.a_matrix_.value_ = matrix.data
        if integer is not None:
            kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
            model.integrality_ = [kinds[int(flag)] for flag in integer]
        self.solver: highspy.Highs = highspy.Highs()
        self.solver.setOptionValue("output_flag", False)
        self.solver.setOptionValue("threads", 1)
        self.solver.setOptionValue("presolve", "off")
        # Devex weights: exact steepest-edge weights would be computed anew after every change of basis
        self.solver.setOptionValue("simplex_dual_edge_weight_strategy", 1)
        self.solver.setOptionValue("small_matrix_value", 1e-12)
        self.solver.setOptionValue("primal_feasibility_tolerance", 1e-9)
        self.solver.setOptionValue("dual_feasibility_tolerance", 1e-9)
        self.solver.passModel(model)

    def bound_rows(self, rows: Array, lower: Array, upper: Array) -> None:
        """New bounds of some rows."""
        self.row_lower[rows], self.row_upper[rows] = lower, upper
        for row, low, high in zip(rows.tolist(), lower.tolist(), upper.tolist(), strict=True):
            self.solver.changeRowBounds(row, low, high)

    def bound_columns(self, columns: Array, lower: Array, upper: Array) -> None:
        """New bounds of some columns."""
        self.lower[columns], self.upper[columns] = lower, upper
        self.solver.changeColsBounds(len(columns), columns.astype(np.int32), lower, upper)

    def basis(self) -> tuple[Array, Array]:
        """Status of columns and rows in the last basis, as integers."""
        basis = self.solver.getBasis()
        columns = np.fromiter((int(s) for s in basis.col_status), dtype=np.int8, count=len(self.lower))
        rows = np.fromiter((int(s) for s in basis.row_status), dtype=np.int8, count=self.matrix.shape[0])
        return columns, rows

    def start_from(self, columns: Array, rows: Array) -> None:
        """Start the next solve from this basis, repaired where it does not fit."""
        import highspy

        kinds = {int(k): k for k in highspy.HighsBasisStatus.__members__.values()}
        basis = highspy.HighsBasis()
        basis.col_status = [kinds[s] for s in columns.tolist()]
        basis.row_status = [kinds[s] for s in rows.tolist()]
        basis.valid = basis.alien = True
        self.solver.setBasis(basis)

    def trial(self, iterations: int) -> tuple[LpStatus, float]:
        """Solve with few iterations; the objective is a dual bound only by the solver's word."""
        import highspy

        self.solver.setOptionValue("simplex_iteration_limit", iterations)
        self.solver.run()
        self.solver.setOptionValue("simplex_iteration_limit", 2**31 - 1)
        status = self.solver.getModelStatus()
        self.iterations += self.solver.getInfo().simplex_iteration_count
        if status == highspy.HighsModelStatus.kInfeasible:
            _, exists, ray = self.solver.getDualRay()
            if exists and self.refuted_by(np.asarray(ray, dtype=np.float64)):
                return LpStatus.INFEASIBLE, np.inf
            return LpStatus.DOUBTFUL, np.inf
        found = status in (highspy.HighsModelStatus.kOptimal, highspy.HighsModelStatus.kIterationLimit)
        return LpStatus.OPTIMAL, self.solver.getInfo().objective_function_value if found else -np.inf

    def add_rows(self, rows: sp.csr_array, lower: Array, upper: Array) -> None:
        """Append rows (cuts)."""
        self.solver.addRows(
            rows.shape[0],
            lower,
            upper,
            rows.nnz,
            rows.indptr[:-1].astype(np.int32),
            rows.indices.astype(np.int32),
            rows.data,
        )
        self.matrix = sp.csr_array(sp.vstack([self.matrix, rows]))
        self._product = None
        self.row_lower = np.concatenate([self.row_lower, lower])
        self.row_upper = np.concatenate([self.row_upper, upper])

    def solve(self, seconds: float) -> LpAnswer:
        """Solve, warm from the last basis, and check an infeasibility."""
        import highspy

        if seconds <= 0:
            return LpAnswer(LpStatus.STOPPED)
        self.solver.setOptionValue("time_limit", float(self.solver.getRunTime() + seconds))
        self.solver.run()
        status = self.solver.getModelStatus()
        self.iterations += self.solver.getInfo().simplex_iteration_count
        if status == highspy.HighsModelStatus.kOptimal:
            point = np.array(self.solver.getSolution().col_value)
            return LpAnswer(LpStatus.OPTIMAL, point, self.solver.getInfo().objective_function_value)
        if status == highspy.HighsModelStatus.kInfeasible:
            _, exists, ray = self.solver.getDualRay()
            if exists and self.refuted_by(np.asarray(ray, dtype=np.float64)):
                return LpAnswer(LpStatus.INFEASIBLE)
            return LpAnswer(LpStatus.DOUBTFUL)
        return LpAnswer(LpStatus.STOPPED)

    def set_cost(self, columns: Array, cost: Array) -> None:
        """A new objective: ``cost`` on these columns, 0 elsewhere."""
        dense = np.zeros(len(self.lower))
        dense[columns] = cost
        self.solver.changeColsCost(len(dense), np.arange(len(dense), dtype=np.int32), dense)
        self.cost = dense

    def proved_minimum(self) -> float:
        """A rigorous lower bound of the last solve's objective, from its dual vector."""
        duals = np.array(self.solver.getSolution().row_dual)
        bounds = (self.row_lower, self.row_upper, self.lower, self.upper)
        return dual_bound(self._own_matrix(), *bounds, self.cost, duals)

    def _own_matrix(self) -> Any:
        """The matrix for products with multipliers: dense if it is small, where that costs far less."""
        if self._product is None:
            rows, columns = self.matrix.shape
            self._product = self.matrix.toarray() if rows * columns <= _SMALL_MATRIX else self.matrix
        return self._product

    def refuted_by(self, ray: Array) -> bool:
        """Whether this ray, with either sign and its noise removed, proves infeasibility."""
        size = np.abs(ray).max(initial=0.0)
        if not np.isfinite(size) or size == 0:
            return False
        matrix = self._own_matrix()
        for threshold in (0.0, 1e-9, 1e-7):
            kept = np.where(np.abs(ray) > threshold * size, ray, 0.0) / size
            for candidate in (kept, -kept):
                if refutes(matrix, self.row_lower, self.row_upper, self.lower, self.upper, candidate):
                    return True
        return False


def refutes(matrix: Any, row_lower: Array, row_upper: Array, lower: Array, upper: Array, multipliers: Array) -> bool:
    """Whether row multipliers prove that no boxed x meets the rows; float64 with outward slack.

    A positive lower bound of the zero objective is the proof.
    """
    bound = dual_bound(matrix, row_lower, row_upper, lower, upper, np.zeros(len(lower)), multipliers)
    return bound > 0


def dual_bound(
    matrix: Any,
    row_lower: Array,
    row_upper: Array,
    lower: Array,
    upper: Array,
    cost: Array,
    multipliers: Array,
) -> float:
    """A lower bound of ``cost · x`` over all boxed x that meet the rows, for any row multipliers y.

    The matrix is dense or sparse.

    ``cost · x = y · A x + (cost - Aᵀ y) · x >= Σ_{y>0} y row_lower + Σ_{y<0} y row_upper + min over the box``;
    rounding errors are subtracted.
    """
    y = multipliers
    needed = np.where(y > 0, row_lower, np.where(y < 0, row_upper, 0.0))
    usable = np.isfinite(needed)
    if not usable.all():
        y, needed = np.where(usable, y, 0.0), np.where(usable, needed, 0.0)
    reduced = cost - y @ matrix
    spread = np.abs(cost) + np.abs(y) @ abs(matrix)
    rows = y * needed
    magnitude = np.maximum(np.abs(lower), np.abs(upper))
    error = EIGHT_ROUNDINGS * (matrix.shape[0] + matrix.shape[1] + 8) * (spread @ magnitude + np.abs(rows).sum())
    return float(rows.sum() + np.minimum(reduced * lower, reduced * upper).sum() - error)


def concatenate(parts: Sequence[Array]) -> Array:
    """One array of all parts (empty if there are none)."""
    return np.concatenate(list(parts)) if parts else np.zeros(0)
