"""One linear program over HiGHS, kept between solves so that each starts from the last one's basis.

Its answers are numerical but for one: INFEASIBLE is said only where `verifier.lp.certificate` proves it.
"""

from __future__ import annotations

import enum
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from verifier.errors import EngineError
from verifier.highs import new_highs
from verifier.limits import NEVER, Deadline
from verifier.lp.certificate import dual_bound, ray_refutes
from verifier.network.operators import Array

if TYPE_CHECKING:
    import highspy


class LpStatus(enum.Enum):
    """What is known after a solve."""

    OPTIMAL = "optimal"
    INFEASIBLE = "infeasible"
    """Proved: the certificate was checked with outward rounding."""
    DOUBTFUL = "doubtful"
    """HiGHS says infeasible, and the certificate is too weak to prove it."""
    STOPPED = "stopped"
    """A limit of time or iterations."""
    FAILED = "failed"
    """No bounded optimum, or a numerical failure: nothing is known."""


STATUSES = {
    "kOptimal": LpStatus.OPTIMAL,
    "kModelEmpty": LpStatus.OPTIMAL,
    "kInfeasible": LpStatus.DOUBTFUL,
    "kTimeLimit": LpStatus.STOPPED,
    "kIterationLimit": LpStatus.STOPPED,
    "kSolutionLimit": LpStatus.STOPPED,
    "kObjectiveBound": LpStatus.STOPPED,
    "kObjectiveTarget": LpStatus.STOPPED,
    "kUnboundedOrInfeasible": LpStatus.FAILED,
    "kUnbounded": LpStatus.FAILED,
    "kUnknown": LpStatus.FAILED,
    "kInterrupt": LpStatus.STOPPED,
    "kHighsInterrupt": LpStatus.STOPPED,
    "kMemoryLimit": LpStatus.FAILED,
    "kLoadError": LpStatus.FAILED,
    "kModelError": LpStatus.FAILED,
    "kPresolveError": LpStatus.FAILED,
    "kSolveError": LpStatus.FAILED,
    "kPostsolveError": LpStatus.FAILED,
    "kNotset": LpStatus.FAILED,
}
"""What HiGHS's own words mean before any certificate; one that is not here raises."""


@dataclass(frozen=True, kw_only=True)
class LpSettings:
    """How HiGHS works.

    Attributes:
        tolerance: of primal and dual feasibility.
        presolve: without it every solve starts from the last basis, and an infeasibility has a ray.
        devex: whether edge weights are approximate: exact ones would be computed anew after every change of basis.
        small_matrix: entries up to which the matrix is kept dense for the checks of certificates, where that costs less.
        perturbed: whether costs may be perturbed on the way, which is faster; multipliers of a solve that is stopped then
            prove less.
        objective_bound: a solve stops where the objective is known to exceed this.
        interruptible: whether Ctrl-C ends a solve; that takes a thread for each.
    """

    tolerance: float = 1e-9
    presolve: bool = False
    devex: bool = True
    small_matrix: int = 100_000
    perturbed: bool = True
    objective_bound: float = np.inf
    interruptible: bool = False


@dataclass(frozen=True, eq=False)
class LpAnswer:
    """What a solve gave.

    Attributes:
        point: for OPTIMAL, ``(columns,)``.
        objective: for OPTIMAL, its cost.
        word: HiGHS's own word for how it ended ("kTimeLimit", "kObjectiveBound" …).
    """

    status: LpStatus
    point: Array | None = None
    objective: float = 0.0
    word: str = ""


class LinearProgram:
    """``min cost · x`` with ``row_lower <= A x <= row_upper`` and ``lower <= x <= upper``; everything can be changed.

    Attributes:
        matrix: A, ``(rows, columns)``.
        row_lower, row_upper: ``(rows,)``, infinite for none.
        lower, upper, cost: ``(columns,)``.
        iterations: of the simplex method, over all solves.
        solved: number of solves.

    Source:
        HiGHS: Huangfu, Hall, Mathematical Programming Computation 2018 (dual revised simplex).
    """

    def __init__(
        self,
        matrix: Any,
        row_lower: Array,
        row_upper: Array,
        lower: Array,
        upper: Array,
        cost: Array | None = None,
        *,
        settings: LpSettings | None = None,
    ) -> None:
        import highspy

        self.settings = settings or LpSettings()
        self.matrix = sp.csr_array(matrix)
        self.row_lower, self.row_upper = np.array(row_lower, dtype=np.float64), np.array(row_upper, dtype=np.float64)
        self.lower, self.upper = lower, upper
        self.cost = np.zeros(len(lower)) if cost is None else cost
        self.iterations = self.solved = 0
        self._product: Any = None
        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = len(lower), self.matrix.shape[0]
        model.col_cost_, model.col_lower_, model.col_upper_ = self.cost, lower, upper
        model.row_lower_, model.row_upper_ = self.row_lower, self.row_upper
        model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        model.a_matrix_.start_ = self.matrix.indptr.astype(np.int32)
        model.a_matrix_.index_ = self.matrix.indices.astype(np.int32)
        model.a_matrix_.value_ = self.matrix.data
        self._solver: highspy.Highs = new_highs()
        self._configure()
        # HiGHS refuses coefficients beyond 1e15, say: then every solve fails
        self._accepted = self._solver.passModel(model) != highspy.HighsStatus.kError

    def _configure(self) -> None:
        s = self.settings
        for name, value in (
            ("threads", 1),
            ("solver", "simplex"),
            ("presolve", "on" if s.presolve else "off"),
            ("simplex_dual_edge_weight_strategy", 1 if s.devex else -1),
            ("small_matrix_value", 1e-12),
            ("primal_feasibility_tolerance", s.tolerance),
            ("dual_feasibility_tolerance", s.tolerance),
            ("dual_simplex_cost_perturbation_multiplier", float(s.perturbed)),
            ("objective_bound", s.objective_bound),
        ):
            self._solver.setOptionValue(name, value)
        self._solver.HandleUserInterrupt = s.interruptible

    # -- changes -----------------------------------------------------------------------------------------
    def bound_rows(self, rows: Array, lower: Array, upper: Array) -> None:
        """New bounds of some rows."""
        self.row_lower[rows], self.row_upper[rows] = lower, upper
        for row, low, high in zip(rows.tolist(), lower.tolist(), upper.tolist(), strict=True):
            self._solver.changeRowBounds(row, low, high)

    def bound_columns(self, columns: Array, lower: Array, upper: Array) -> None:
        """New bounds of some columns."""
        self.lower[columns], self.upper[columns] = lower, upper
        self._solver.changeColsBounds(len(columns), columns.astype(np.int32), lower, upper)

    def set_cost(self, cost: Array) -> None:
        """A new objective, ``(columns,)``."""
        self.cost = cost
        self._solver.changeColsCost(len(cost), np.arange(len(cost), dtype=np.int32), cost)

    def add_rows(self, rows: sp.csr_array, lower: Array, upper: Array) -> None:
        """Append rows (cuts)."""
        starts, indices = rows.indptr[:-1].astype(np.int32), rows.indices.astype(np.int32)
        self._solver.addRows(rows.shape[0], lower, upper, rows.nnz, starts, indices, rows.data)
        self.matrix = sp.csr_array(sp.vstack([self.matrix, rows]))
        self._product = None
        self.row_lower = np.concatenate([self.row_lower, lower])
        self.row_upper = np.concatenate([self.row_upper, upper])

    def add_columns(self, cost: Array, lower: Array, upper: Array) -> None:
        """Append columns that no row knows yet."""
        count, none = len(cost), np.zeros(0, dtype=np.int32)
        self._solver.addCols(count, cost, lower, upper, 0, np.zeros(count, dtype=np.int32), none, none * 0.0)
        self.cost, self.lower = np.concatenate([self.cost, cost]), np.concatenate([self.lower, lower])
        self.upper = np.concatenate([self.upper, upper])
        self.matrix = sp.csr_array(sp.hstack([self.matrix, sp.csr_array((self.matrix.shape[0], count))]))
        self._product = None

    def restart(self, *, perturbed: bool, simplex: bool) -> None:
        """Forget the last solve; the next one works with perturbed costs or not, by the simplex or an interior method."""
        self._solver.clearSolver()
        self._solver.setOptionValue("dual_simplex_cost_perturbation_multiplier", float(perturbed))
        self._solver.setOptionValue("solver", "simplex" if simplex else "ipm")
        self._solver.setOptionValue("run_crossover", "off")

    # -- bases -------------------------------------------------------------------------------------------
    def basis(self) -> tuple[Array, Array]:
        """Status of columns and rows in the last basis, as integers: fit for a related program."""
        basis = self._solver.getBasis()
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
        self._solver.setBasis(basis)

    def keep_basis(self) -> Any:
        """The last basis in HiGHS's own form, for `restore_basis` of this program."""
        return self._solver.getBasis()

    def restore_basis(self, basis: Any) -> None:
        """Start the next solve from a basis that `keep_basis` gave."""
        self._solver.setBasis(basis)

    # -- solving -----------------------------------------------------------------------------------------
    def solve(self, deadline: Deadline = NEVER) -> LpAnswer:
        """Solve, warm from the last basis, and check an infeasibility.

        Raises:
            EngineError: HiGHS ends with a status that the table does not list.
        """
        if deadline.passed:
            return LpAnswer(LpStatus.STOPPED)
        if not self._accepted:
            return LpAnswer(LpStatus.FAILED)
        # HiGHS counts its own run time across calls
        self._solver.setOptionValue("time_limit", float(self._solver.getRunTime() + deadline.left))
        status = self._run()
        word = str(self._solver.getModelStatus().name)
        if status is LpStatus.OPTIMAL:
            point = np.array(self._solver.getSolution().col_value)
            return LpAnswer(status, point, self._solver.getInfo().objective_function_value, word)
        return LpAnswer(self._checked(status), word=word)

    def trial(self, iterations: int) -> tuple[LpStatus, float]:
        """Solve with few iterations; the objective is a dual bound only by the solver's word."""
        if not self._accepted:
            return LpStatus.FAILED, -np.inf
        self._solver.setOptionValue("simplex_iteration_limit", iterations)
        status = self._run()
        self._solver.setOptionValue("simplex_iteration_limit", 2**31 - 1)
        if status is LpStatus.DOUBTFUL:
            return self._checked(status), np.inf
        found = self._solver.getModelStatus().name in ("kOptimal", "kIterationLimit")
        return LpStatus.OPTIMAL, self._solver.getInfo().objective_function_value if found else -np.inf

    def _run(self) -> LpStatus:
        if self.settings.interruptible:
            self._run_in_thread()
        else:
            self._solver.run()
        self.solved += 1
        self.iterations += self._solver.getInfo().simplex_iteration_count
        name = self._solver.getModelStatus().name
        if name not in STATUSES:
            raise EngineError(f"HiGHS ended with the unknown status {name!r}")
        return STATUSES[name]

    def _run_in_thread(self) -> None:
        """Run the solver in a thread of its own, so that Ctrl-C ends it."""
        done = threading.Event()  # not Thread.join: an interrupted join takes the thread for ended

        def run() -> None:
            try:
                self._solver.run()
            finally:
                done.set()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            while not done.wait(0.2):
                pass
        except BaseException:
            self._solver.cancelSolve()
            done.wait()
            raise
        finally:
            thread.join()  # it has nothing left to do

    def _checked(self, status: LpStatus) -> LpStatus:
        """INFEASIBLE in place of DOUBTFUL where the ray proves it."""
        if status is not LpStatus.DOUBTFUL:
            return status
        ray = self.ray()
        bounds = (self.row_lower, self.row_upper, self.lower, self.upper)
        if ray is not None and ray_refutes(self._own_matrix(), *bounds, ray):
            return LpStatus.INFEASIBLE
        return status

    # -- certificates ------------------------------------------------------------------------------------
    def duals(self) -> Array:
        """The last solve's multipliers of the rows, ``(rows,)``: positive where a lower end holds the optimum."""
        return np.array(self._solver.getSolution().row_dual)

    def ray(self) -> Array | None:
        """After an infeasible solve the multipliers of the rows that HiGHS says prove it, if it has them at hand."""
        _, exists, ray = self._solver.getDualRay()
        return np.array(ray, dtype=np.float64) if exists else None

    def proved_bound(self, duals: Array) -> float:
        """A rigorous lower bound of the optimum, from any multipliers of the rows (`duals`, say)."""
        bounds = (self.row_lower, self.row_upper, self.lower, self.upper)
        return dual_bound(self._own_matrix(), *bounds, self.cost, duals)

    def _own_matrix(self) -> Any:
        """The matrix for products with multipliers: dense if it is small, where that costs far less."""
        if self._product is None:
            rows, columns = self.matrix.shape
            self._product = self.matrix.toarray() if rows * columns <= self.settings.small_matrix else self.matrix
        return self._product
