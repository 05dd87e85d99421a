"""The linear program of a repair, kept in HiGHS so that each round of row generation starts from the last basis."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from verifier.limits import NEVER, Deadline
from verifier.lp.program import LinearProgram, LpSettings
from verifier.network.operators import Array

TOLERANCE = 1e-9
"""Feasibility tolerance of the linear program."""

NOISE = 1e-13
"""Coefficients smaller than this share of their row's largest are rounding errors, and left out."""


WORDS = {"kInfeasible": "infeasible", "kObjectiveBound": "beyond", "kTimeLimit": "time"}
"""HiGHS's words for what a repair goes on with."""

LOST = ("kNotset", "kUnknown", "kSolveError")
"""Where another method may do what one could not."""

NORMS = ("l1", "linf", "mixed")


def norm_weights(norm: str, size: int) -> tuple[float, float]:
    """What the L1 and the L∞ norm count for in "l1", "linf" and "mixed" (L∞ by the root of the layer's size)."""
    return {"l1": (1.0, 0.0), "linf": (0.0, 1.0), "mixed": (1.0, float(np.sqrt(size)))}[norm]


def measure(delta: Array, l1: float, linf: float) -> float:
    """The norm ``l1 · |Δ|₁ + linf · |Δ|∞``.

    Shapes: delta ``(parameters,)``.
    """
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

    Source:
        Sotoudeh, Thakur, Patching, 2019, Appendix B, with a norm to be least; HiGHS: Huangfu, Hall, 2018.
    """

    def __init__(self, size: int, weights: tuple[float, float], soft: float | None, reach: float) -> None:
        self.size, self.soft = size, soft
        self._l1, self._linf = weights
        # a tiny L1 price keeps Δ⁺ and Δ⁻ from growing together under L∞
        cost = np.full(2 * size, self._l1 if self._l1 else 1e-6)
        rows: list[Any] = []
        upper: list[float] = []
        if self._linf:
            cost = np.append(cost, self._linf)
            eye = sp.eye_array(size)
            rows.append(sp.hstack([eye, eye, sp.csr_array(-np.ones((size, 1)))]))
            upper += [0.0] * size
        if soft is not None and np.isfinite(reach):
            rows.append(sp.csr_array(np.where(np.arange(len(cost)) < 2 * size, self._l1, self._linf)[None]))
            upper.append(reach)
        matrix = sp.vstack(rows) if rows else sp.csr_array((0, len(cost)))
        bound = np.inf if soft is not None else reach
        self._lp = LinearProgram(
            matrix,
            np.full(len(upper), -np.inf),
            np.array(upper),
            np.zeros(len(cost)),
            np.full(len(cost), np.inf),
            cost,
            # perturbed costs leave multipliers that prove less
            settings=LpSettings(tolerance=TOLERANCE, perturbed=False, objective_bound=bound, interruptible=True),
        )
        self._own_rows, self._scales, self._infeasible = len(upper), list[Array](), False

    def add(self, coefficients: Array, bound: Array, *, equal: bool = False) -> None:
        """Add rows ``coefficients @ Δ <= bound`` (or ``==``), each scaled so that its largest coefficient is 1."""
        if not len(bound):
            return
        scale = np.abs(coefficients).max(axis=1, initial=0.0)
        scale = np.where(scale == 0.0, 1.0, scale)
        scaled = coefficients / scale[:, None]
        scaled = sp.csr_array(np.where(np.abs(scaled) <= NOISE, 0.0, scaled))
        before = len(self._lp.cost) - 2 * self.size
        parts = [scaled, -scaled, sp.csr_array((len(bound), before))]
        if self.soft is not None:
            count = len(bound)
            self._lp.add_columns(np.full(count, self.soft), np.zeros(count), np.full(count, np.inf))
            parts.append(sp.diags_array(-1.0 / scale))
        lower = bound / scale if equal else np.full(len(bound), -np.inf)
        self._lp.add_rows(sp.csr_array(sp.hstack(parts)), lower, bound / scale)
        self._scales.append(scale)

    def solve(self, deadline: Deadline = NEVER) -> tuple[str, Array | None]:
        """What came out, and Δ if that is "optimal".

        "beyond": the norm of every Δ exceeds the reach; "infeasible": there is no Δ; "time": the time was over, and
        the next call goes on; else HiGHS's status in its own word.
        """
        answer = self._lp.solve(deadline)
        for perturbed, simplex in ((True, True), (True, False)):
            if answer.word not in LOST:
                break
            # the method got lost: start again with perturbed costs, then by the interior-point method
            self._lp.restart(perturbed=perturbed, simplex=simplex)
            answer = self._lp.solve(deadline)
        self._infeasible = answer.word == "kInfeasible"
        if answer.point is not None:
            return "optimal", answer.point[: self.size] - answer.point[self.size : 2 * self.size]
        return WORDS.get(answer.word, answer.word), None

    def multipliers(self) -> list[Array]:
        """After any answer: candidates for multipliers of the added rows ``a @ Δ <= b``.

        Positive ones hold the upper end of a row, negative ones the lower end of an equality.
        """
        found = [self._lp.duals()]
        if self._infeasible:
            # only here, and last: without a ray at hand, HiGHS would solve again and forget its multipliers
            ray = self._lp.ray()
            found += [] if ray is None else [ray]
        scale = np.concatenate(self._scales) if self._scales else np.zeros(0)
        return [-m[self._own_rows :] / scale for m in found if len(m) == self._own_rows + len(scale)]

    def norm(self, delta: Array) -> float:
        """The norm that is minimised.

        Shapes: delta ``(parameters,)``.
        """
        return measure(delta, self._l1, self._linf)

    def dual_norm(self, direction: Array) -> float:
        """The smallest d with ``|direction @ Δ| <= d * norm(Δ)`` for every Δ: reached by equal changes of the top k."""
        largest = np.sort(np.abs(direction))[::-1]
        price = self._l1 * np.arange(1, len(largest) + 1) + self._linf
        return float((np.cumsum(largest) / price).max(initial=0.0))
