"""Repair of one layer by linear programming: the smallest change of its weights that meets every row.

The rows are ``coefficients @ Δ <= slack`` at all key points (`verifier.repair.keypoints.LayerRows`): often
hundreds of thousands, nearly all of them slack at the optimum. So the program starts with none and takes in
the most violated ones (row generation) until no row is violated.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.errors import EngineError, InputError
from verifier.events import Listener, Progress, ignore
from verifier.network.operators import Array
from verifier.repair.keypoints import LayerRows

NORMS = ("l1", "linf", "mixed")

TOLERANCE = 1e-9
"""Feasibility tolerance of the linear program."""

INTERIOR_POINT_ABOVE = 1000
"""Parameters above which programs are solved by the interior-point method."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearRepair:
    """What the linear program found.

    Attributes:
        status: "feasible", "infeasible", or "unfinished" (time ran out, or the solver gave up: see ``reason``).
        delta: ``(size,)`` parameter changes, if feasible (or the best effort of a soft repair).
        objective: the norm of ``delta``.
        conflict: if infeasible, the rows that cannot hold together, with their multipliers λ >= 0:
            ``Σ λ · coefficients`` is (numerically) zero while ``Σ λ · slack`` is negative.
        shortfall: if infeasible, the smallest possible largest violation of any row.
        rows_used: rows that the final program held.
        rounds: number of programs solved.
    """

    status: str
    delta: Array | None = None
    objective: float = 0.0
    conflict: Mapping[int, float] = field(default_factory=dict)
    shortfall: float = 0.0
    reason: str = ""
    rows_used: int = 0
    rounds: int = 0
    seconds: float = 0.0


def solve_layer(
    rows: LayerRows,
    *,
    norm: str = "l1",
    margin: float | Array = 0.0,
    soft: float | None = None,
    timeout: float | None = None,
    batch: int | None = None,
    listener: Listener = ignore,
) -> LinearRepair:
    """The smallest change of a layer's parameters that meets every row, or the proof that there is none.

    Args:
        norm: "l1", "linf" or "mixed" (their sum, L∞ weighted by the square root of the number of parameters).
        margin: what rows are demanded to have to spare, one number or one per row: above the solver's tolerance,
            so that the rows then hold without any. Rows that are met now need keep no more than half of what
            they have.
        soft: None for hard rows; else the price of one unit of violation of a row: the program minimises
            norm + soft · Σ violations, and always has an answer.
        timeout: seconds.
        batch: rows taken in per round; by default more where each round starts anew.
    """
    if norm not in NORMS:
        raise InputError(f"norm {norm!r} is not known", fix=f"norms: {', '.join(NORMS)}")
    start = time.perf_counter()
    batch = batch or (1000 if rows.size > INTERIOR_POINT_ABOVE else 400)
    program = _Program(rows.size, norm, soft)
    bound = rows.slack - np.where(rows.slack < 0.0, margin, np.minimum(margin, rows.slack / 2))
    taken = np.zeros(len(bound), dtype=bool)
    rounds = 0
    while True:
        left = None if timeout is None else timeout - (time.perf_counter() - start)
        if left is not None and left <= 0:
            return _unfinished("the time limit was reached", taken, rounds, start)
        status, delta = program.solve(left)
        rounds += 1
        if status == "infeasible":
            return _conflict(rows, bound, np.flatnonzero(taken), rounds, start, left)
        if status != "optimal" or delta is None:
            return _unfinished(f"HiGHS answered {status}", taken, rounds, start)
        violation = rows.change(delta) - bound
        new = np.flatnonzero((violation > TOLERANCE) & ~taken)
        listener(
            Progress(
                seconds=time.perf_counter() - start,
                stage="lp",
                done=int(taken.sum()),
                unit="rows",
                left=len(new),
                bound=program.norm(delta),
            )
        )
        if len(new) == 0:
            return LinearRepair(
                status="feasible",
                delta=delta,
                objective=program.norm(delta),
                rows_used=int(taken.sum()),
                rounds=rounds,
                seconds=time.perf_counter() - start,
            )
        new = _most_violated(rows, new, violation[new], batch)
        program.add(rows.coefficients(new), bound[new])
        taken[new] = True


def _most_violated(
    rows: LayerRows, candidates: npt.NDArray[np.int64], violation: Array, batch: int
) -> npt.NDArray[np.int64]:
    """The most violated rows, at first one for each key point: neighbours say nearly the same."""
    order = candidates[np.argsort(-violation, kind="stable")]
    _, first = np.unique(rows.row_point[order], return_index=True)
    chosen = order[np.sort(first)][:batch]
    return np.sort(chosen)


def _unfinished(reason: str, taken: npt.NDArray[np.bool_], rounds: int, start: float) -> LinearRepair:
    seconds = time.perf_counter() - start
    return LinearRepair(status="unfinished", reason=reason, rows_used=int(taken.sum()), rounds=rounds, seconds=seconds)


def _conflict(
    rows: LayerRows,
    bound: Array,
    taken: npt.NDArray[np.int64],
    rounds: int,
    start: float,
    left: float | None,
) -> LinearRepair:
    """Why some rows cannot hold together: the multipliers of "make the largest violation as small as it can be"."""
    import highspy

    size = rows.size
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    if left is not None:
        solver.setOptionValue("time_limit", max(1.0, left))
    infinity = highspy.kHighsInf
    for _ in range(size):
        solver.addVar(-infinity, infinity)
    solver.addVar(0.0, infinity)
    solver.changeColCost(size, 1.0)
    for coefficients, right in zip(rows.coefficients(taken), bound[taken], strict=True):
        entries = np.append(np.flatnonzero(coefficients), size).astype(np.int32)
        values = np.append(coefficients[entries[:-1]], -1.0)
        solver.addRow(-infinity, float(right), len(entries), entries, values)
    solver.run()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        text = solver.modelStatusToString(solver.getModelStatus())
        return LinearRepair(
            status="unfinished",
            reason=f"the rows seem infeasible, but HiGHS could not say why: {text}",
            rows_used=len(taken),
            rounds=rounds,
            seconds=time.perf_counter() - start,
        )
    shortfall = float(solver.getInfo().objective_function_value)
    seconds = time.perf_counter() - start
    if shortfall <= 5 * TOLERANCE:
        return LinearRepair(
            status="unfinished",
            reason=f"too close to call: the largest violation can be as small as {shortfall:g}",
            rows_used=len(taken),
            rounds=rounds,
            seconds=seconds,
        )
    duals = -np.array(solver.getSolution().row_dual)
    weights = {int(r): float(w) for r, w in zip(taken, duals, strict=True) if w > 1e-9}
    return LinearRepair(
        status="infeasible",
        conflict=weights,
        shortfall=shortfall,
        rows_used=len(taken),
        rounds=rounds,
        seconds=seconds,
    )


class _Program:
    """The linear program, kept in the solver so that each round starts from the last one's basis.

    Columns: Δ⁺ and Δ⁻ (Δ = Δ⁺ - Δ⁻, both >= 0), then the L∞ radius where the norm has one, then one
    violation per row of a soft repair.
    """

    def __init__(self, size: int, norm: str, soft: float | None) -> None:
        import highspy

        self._highspy: Any = highspy
        self._solver = highspy.Highs()
        self._solver.setOptionValue("output_flag", False)
        self._solver.setOptionValue("primal_feasibility_tolerance", TOLERANCE)
        if size > INTERIOR_POINT_ABOVE:
            self._use_interior_point()
        self.size, self.soft = size, soft
        self._l1 = 1.0 if norm in ("l1", "mixed") else 0.0
        self._linf = {"l1": 0.0, "linf": 1.0, "mixed": float(np.sqrt(size))}[norm]
        infinity = highspy.kHighsInf
        for _ in range(2 * size):
            self._solver.addVar(0.0, infinity)
        # a tiny L1 price keeps Δ⁺ and Δ⁻ from growing together under L∞
        price = self._l1 if self._l1 else 1e-6
        for k in range(2 * size):
            self._solver.changeColCost(k, price)
        if self._linf:
            self._solver.addVar(0.0, infinity)
            self._solver.changeColCost(2 * size, self._linf)
            for k in range(size):
                entries = np.array([k, size + k, 2 * size], dtype=np.int32)
                self._solver.addRow(-infinity, 0.0, 3, entries, np.array([1.0, 1.0, -1.0]))

    def _use_interior_point(self) -> None:
        """Large, dense programs: several times faster, and each round starts anew."""
        self._solver.setOptionValue("solver", "ipm")
        self._solver.setOptionValue("run_crossover", "off")
        self._solver.setOptionValue("primal_feasibility_tolerance", 1e-7)

    def add(self, coefficients: Array, bound: Array) -> None:
        """Add rows ``coefficients @ Δ <= bound`` (each scaled so that its largest coefficient is 1)."""
        infinity = self._highspy.kHighsInf
        for row, right in zip(coefficients, bound, strict=True):
            nonzero = np.flatnonzero(row)
            scale = float(np.abs(row[nonzero]).max(initial=0.0)) or 1.0
            entries = np.concatenate([nonzero, self.size + nonzero])
            values = np.concatenate([row[nonzero], -row[nonzero]]) / scale
            if self.soft is not None:
                column = self._solver.getNumCol()
                self._solver.addVar(0.0, infinity)
                self._solver.changeColCost(column, self.soft)
                entries, values = np.append(entries, column), np.append(values, -1.0 / scale)
            self._solver.addRow(-infinity, float(right / scale), len(entries), entries.astype(np.int32), values)

    def solve(self, timeout: float | None) -> tuple[str, Array | None]:
        """("optimal", Δ), or another status in words and None."""
        began = time.perf_counter()
        if timeout is not None:
            self._solver.setOptionValue("time_limit", float(self._solver.getRunTime() + timeout))
        known = self._highspy.HighsModelStatus
        self._solver.run()
        if self._solver.getModelStatus() in (known.kNotset, known.kUnknown, known.kSolveError):
            # the simplex method got lost: start again, by the other method
            self._solver.clearSolver()
            self._use_interior_point()
            if timeout is not None:
                left = max(1.0, timeout - (time.perf_counter() - began))
                self._solver.setOptionValue("time_limit", float(self._solver.getRunTime() + left))
            self._solver.run()
        status = self._solver.getModelStatus()
        if status == known.kInfeasible:
            return "infeasible", None
        if status != known.kOptimal:
            return str(self._solver.modelStatusToString(status)), None
        values = np.array(self._solver.getSolution().col_value)
        return "optimal", values[: self.size] - values[self.size : 2 * self.size]

    def norm(self, delta: Array) -> float:
        """The norm that is minimised."""
        size = np.abs(delta)
        return float(self._l1 * size.sum() + self._linf * size.max(initial=0.0))


def solve_max_smt(
    rows: LayerRows, row_start: npt.NDArray[np.int64], parameters: npt.NDArray[np.int64], timeout: float | None = None
) -> tuple[Array, int]:
    """The change of a few parameters that meets the most key points, exactly, by Z3's MAX-SMT (Appendix B).

    For small problems only: one soft constraint for each key point, over rationals.

    Args:
        row_start: ``(K + 1,)`` the rows of each key point.
        parameters: indices of the parameters that may change.

    Returns:
        changes ``(size,)`` rounded to float64, and the number of key points met before that rounding.

    Raises:
        EngineError: if Z3 does not finish.
    """
    from fractions import Fraction

    import z3

    optimizer = z3.Optimize()
    if timeout is not None:
        optimizer.set("timeout", int(1000 * timeout))
    unknowns = [z3.Real(f"delta_{p}") for p in parameters]
    columns = rows.columns(np.asarray(parameters, dtype=np.int64))

    def exact(value: float) -> Any:
        return z3.RealVal(Fraction(float(value)))

    def row(r: int) -> Any:
        terms = [exact(c) * x for c, x in zip(columns[:, r], unknowns, strict=True) if c != 0.0]
        return z3.Sum(terms) <= exact(rows.slack[r]) if terms else z3.BoolVal(bool(rows.slack[r] >= 0))

    points = len(row_start) - 1
    demands = [z3.And([row(r) for r in range(row_start[k], row_start[k + 1])]) for k in range(points)]
    for demand in demands:
        optimizer.add_soft(demand, 1)
    if optimizer.check() != z3.sat:
        raise EngineError(f"Z3 did not finish the MAX-SMT problem: {optimizer.reason_unknown()}")
    model = optimizer.model()
    delta = np.zeros(rows.size)
    for p, unknown in zip(parameters, unknowns, strict=True):
        delta[p] = float(model.eval(unknown, model_completion=True).as_fraction())
    met = sum(z3.is_true(model.eval(d, model_completion=True)) for d in demands)
    return delta, met
