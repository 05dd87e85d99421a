"""The linear program of a repair, kept in HiGHS so that each round of row generation starts from the last basis."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import scipy.sparse as sp

from verifier.highs import new_highs
from verifier.network.operators import Array

TOLERANCE = 1e-9
"""Feasibility tolerance of the linear program."""

NOISE = 1e-13
"""Coefficients smaller than this share of their row's largest are rounding errors, and left out."""


NORMS = ("l1", "linf", "mixed")


def norm_weights(norm: str, size: int) -> tuple[float, float]:
    """What the L1 and the L∞ norm count for in "l1", "linf" and "mixed" (L∞ by the root of the layer's size)."""
    return {"l1": (1.0, 0.0), "linf": (0.0, 1.0), "mixed": (1.0, float(np.sqrt(size)))}[norm]


def measure(delta: Array, l1: float, linf: float) -> float:
    """The norm ``l1 · |Δ|₁ + linf · |Δ|∞``."""
    size = np.abs(delta)
    return float(l1 * size.sum() + linf * size.max(initial=0.0))


class Program:
    """Minimise a norm of Δ subject to rows that are added bit by bit.

    Columns: Δ⁺ and Δ⁻ (Δ = Δ⁺ - Δ⁻, both >= 0), then the L∞ radius where the norm has one, then one violation per
    row of a soft repair. The dual simplex method starts each round from the last basis; when the objective, a lower
    bound of the norm, exceeds ``reach``, it stops. A soft program has ``norm <= reach`` as a row instead.

    Args:
        size: number of parameters.
        weights: what the L1 and the L∞ norm count for (`norm_weights`).
        soft: the price of one unit of violation of a row; None: rows are hard.
    """

    def __init__(self, size: int, weights: tuple[float, float], soft: float | None, reach: float) -> None:
        import highspy

        self._highspy: Any = highspy
        self._solver = new_highs()
        self._solver.setOptionValue("primal_feasibility_tolerance", TOLERANCE)
        self._solver.setOptionValue("solver", "simplex")
        self._solver.setOptionValue("presolve", "off")  # presolve would take away the proof of infeasibility
        self._solver.HandleUserInterrupt = True
        # perturbed costs leave multipliers that prove less
        self._solver.setOptionValue("dual_simplex_cost_perturbation_multiplier", 0.0)
        if soft is None:
            self._solver.setOptionValue("objective_bound", reach)
        self.size, self.soft = size, soft
        self._l1, self._linf = weights
        # a tiny L1 price keeps Δ⁺ and Δ⁻ from growing together under L∞
        self._columns(2 * size, self._l1 if self._l1 else 1e-6)
        if self._linf:
            self._columns(1, self._linf)
            eye = sp.eye_array(size)
            self._rows(sp.hstack([eye, eye, sp.csr_array(-np.ones((size, 1)))]), None, np.zeros(size))
        if soft is not None and np.isfinite(reach):
            whole = np.full((1, 2 * size + bool(self._linf)), self._l1)
            if self._linf:
                whole[0, -1] = self._linf
            self._rows(sp.csr_array(whole), None, np.array([reach]))
        self._own_rows = self._solver.getNumRow()
        self._scales: list[Array] = []

    def _columns(self, count: int, cost: float) -> None:
        none, infinity = np.zeros(0, dtype=np.int32), self._highspy.kHighsInf
        limits = np.zeros(count), np.full(count, infinity)
        self._solver.addCols(count, np.full(count, cost), *limits, 0, np.zeros(count, dtype=np.int32), none, none * 0.0)

    def _rows(self, matrix: Any, lower: Array | None, upper: Array) -> None:
        m = sp.csr_array(matrix)
        lower = np.full(m.shape[0], -self._highspy.kHighsInf) if lower is None else lower
        starts, indices = m.indptr[:-1].astype(np.int32), m.indices.astype(np.int32)
        self._solver.addRows(m.shape[0], lower, upper, m.nnz, starts, indices, m.data)

    def add(self, coefficients: Array, bound: Array, *, equal: bool = False) -> None:
        """Add rows ``coefficients @ Δ <= bound`` (or ``==``), each scaled so that its largest coefficient is 1."""
        if not len(bound):
            return
        scale = np.abs(coefficients).max(axis=1, initial=0.0)
        scale = np.where(scale == 0.0, 1.0, scale)
        scaled = coefficients / scale[:, None]
        scaled = sp.csr_array(np.where(np.abs(scaled) <= NOISE, 0.0, scaled))
        parts = [scaled, -scaled]
        if self.soft is not None:
            self._columns(len(bound), self.soft)
            before = self._solver.getNumCol() - 2 * self.size - len(bound)
            parts += [sp.csr_array((len(bound), before)), sp.diags_array(-1.0 / scale)]
        self._rows(sp.hstack(parts), bound / scale if equal else None, bound / scale)
        self._scales.append(scale)

    def solve(self, timeout: float | None) -> tuple[str, Array | None]:
        """What came out, and Δ if that is "optimal".

        "beyond": the norm of every Δ exceeds the reach; "infeasible": there is no Δ; "time": the time was over, and
        the next call goes on; else HiGHS's status in words.
        """
        began = time.perf_counter()
        self._run(timeout)
        known = self._highspy.HighsModelStatus
        for option, value in (("dual_simplex_cost_perturbation_multiplier", 1.0), ("solver", "ipm")):
            if self._solver.getModelStatus() not in (known.kNotset, known.kUnknown, known.kSolveError):
                break
            # the method got lost: start again with perturbed costs, then by the interior-point method
            self._solver.clearSolver()
            self._solver.setOptionValue(option, value)
            self._solver.setOptionValue("run_crossover", "off")
            self._run(None if timeout is None else max(1.0, timeout - (time.perf_counter() - began)))
        status = self._solver.getModelStatus()
        if status == known.kInfeasible:
            return "infeasible", None
        if status == known.kObjectiveBound:
            return "beyond", None
        if status == known.kTimeLimit:
            return "time", None
        if status != known.kOptimal:
            return str(self._solver.modelStatusToString(status)), None
        values = np.array(self._solver.getSolution().col_value)
        return "optimal", values[: self.size] - values[self.size : 2 * self.size]

    def _run(self, timeout: float | None) -> None:
        """Run the solver in a thread of its own, so that Ctrl-C ends it."""
        if timeout is not None:
            self._solver.setOptionValue("time_limit", float(self._solver.getRunTime() + timeout))
        done = threading.Event()  # not Thread.join: an interrupted join takes the thread for ended

        def run() -> None:
            try:
                self._solver.run()
            finally:
                done.set()

        threading.Thread(target=run).start()
        try:
            while not done.wait(0.2):
                pass
        except BaseException:
            self._solver.cancelSolve()
            done.wait()
            raise

    def multipliers(self) -> list[Array]:
        """After any answer: candidates for multipliers of the added rows ``a @ Δ <= b``.

        Positive ones hold the upper end of a row, negative ones the lower end of an equality.
        """
        found = [np.array(self._solver.getSolution().row_dual)]
        if self._solver.getModelStatus() == self._highspy.HighsModelStatus.kInfeasible:
            # only here, and last: without a ray at hand, HiGHS would solve again and forget its multipliers
            _, has_ray, ray = self._solver.getDualRay()
            if has_ray:
                found.append(np.array(ray))
        scale = np.concatenate(self._scales) if self._scales else np.zeros(0)
        return [-m[self._own_rows :] / scale for m in found if len(m) == self._own_rows + len(scale)]

    def norm(self, delta: Array) -> float:
        """The norm that is minimised."""
        return measure(delta, self._l1, self._linf)

    def dual_norm(self, direction: Array) -> float:
        """The smallest d with ``|direction @ Δ| <= d * norm(Δ)`` for every Δ: reached by equal changes of the top k."""
        largest = np.sort(np.abs(direction))[::-1]
        price = self._l1 * np.arange(1, len(largest) + 1) + self._linf
        return float((np.cumsum(largest) / price).max(initial=0.0))
