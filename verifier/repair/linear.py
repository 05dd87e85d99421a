"""Repair of one layer by linear programming: the smallest change of its weights that meets every row.

The rows are ``coefficients @ Δ <= slack`` at all key points (`verifier.repair.rows.LayerRows`): often
hundreds of thousands, nearly all of them slack at the optimum. So the program starts with those that are demanded
in both directions (class borders inside a linear region: equations) and takes in the most violated ones (row
generation) until no row is violated. Weights that no row depends on are left out.

What comes out here is right up to the solver's tolerance; `verifier.repair.search` makes it exact.
"""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from verifier.events import Listener, Progress, ignore
from verifier.limits import NEVER, Deadline
from verifier.network.operators import Array
from verifier.repair.frozen import parameters
from verifier.repair.program import TOLERANCE, Program, measure, norm_weights
from verifier.repair.rows import LayerRows
from verifier.repair.settings import ProgramSettings
from verifier.rounding import SPACING


class Answer(enum.StrEnum):
    """What a linear program said: a change within the reach, that there is none, or nothing."""

    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    UNFINISHED = "unfinished"


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearRepair:
    """What the linear program found, numerically.

    Attributes:
        answer: see `Answer`; the reason says why it is unfinished (time ran out, or the solver gave up).
        delta: ``(size,)`` parameter changes, if feasible.
        objective: the norm of ``delta``.
        multipliers: λ >= 0 of rows: by weak duality every Δ that meets them has
            ``norm(Δ) >= -Σ λ · bound / dual_norm(Σ λ · coefficients)``.
        beyond: that lower bound, with rounding errors taken off; infinite when the combined coefficients vanish.
        reach: the largest norm that counts as a repair.
        rows: rows of the specification, each once.
        rows_used: rows that the final program held.
        rounds: number of programs solved.

    Source:
        weak duality for `multipliers` and `beyond`.
    """

    answer: Answer
    delta: Array | None = None
    objective: float = 0.0
    multipliers: Mapping[int, float] = field(default_factory=dict)
    beyond: float = 0.0
    reach: float = np.inf
    reason: str = ""
    rows: int = 0
    rows_used: int = 0
    rounds: int = 0
    seconds: float = 0.0


def solve_layer(
    rows: LayerRows,
    *,
    norm: str = "l1",
    margins: Array | float = 0.0,
    opposites: npt.NDArray[np.int64] | None = None,
    soft: float | None = None,
    reach: float | None = None,
    unit: float = 1.0,
    settings: ProgramSettings = ProgramSettings(),
    deadline: Deadline = NEVER,
    listener: Listener = ignore,
) -> LinearRepair:
    """The smallest change of a layer's parameters that meets every row, or the multipliers that exclude small ones.

    Args:
        norm: "l1", "linf" or "mixed" (their sum, L∞ weighted by the square root of the number of parameters).
        margins: what each row ``(R,)`` is demanded to have to spare.
        opposites: ``(R,)`` for each row one that demands its opposite at the same place, or -1
            (`KeyPoints.opposites`): the two can only hold by a tie.
        soft: None for hard rows; else the price of one unit of violation of a row: the program minimises
            norm + soft · Σ violations, and always has an answer.
        reach: the largest norm of a change; by default that of the layer's own parameters (none for soft rows): what
            changes a layer by more than it is, is no repair. (Without such a limit many programs are almost feasible,
            with huge changes.)
        unit: about the size of the answer's entries: tolerances are relative to it.
        settings: how the program is solved.

    Raises:
        EngineError: HiGHS ends with a status that nobody knows.

    Source:
        Sotoudeh, Thakur, Patching, 2019, Appendix B; row generation: Dantzig, Fulkerson, Johnson, 1954; the
        norm's lower bound: weak duality.
    """
    return _Generation(rows, norm, margins, opposites, soft, reach, unit, settings, deadline, listener).run()


class _Generation:
    """Row generation for one program: the rows that it holds so far, and what its multipliers prove."""

    def __init__(
        self,
        rows: LayerRows,
        norm: str,
        margins: Array | float,
        opposites: npt.NDArray[np.int64] | None,
        soft: float | None,
        reach: float | None,
        unit: float,
        settings: ProgramSettings,
        deadline: Deadline,
        listener: Listener,
    ) -> None:
        self.rows, self.soft, self.unit, self.settings = rows, soft, unit, settings
        self.deadline, self.listener, self.start = deadline, listener, time.perf_counter()
        self.used, self.weights = rows.used(), norm_weights(norm, rows.size)
        self.reach = default_reach(rows, norm, soft) if reach is None else reach
        # a little beyond the reach, so that a proof goes beyond it too
        beyond = self.reach / unit * (settings.beyond if soft is None else 1.0)
        self.program = Program(len(self.used), self.weights, soft, beyond)
        self.bound = (rows.slack - margins) / unit
        self.tolerance = TOLERANCE * np.maximum(rows.scale, np.finfo(np.float64).tiny)
        self.held = _Equations.of(rows, self.bound, self.used, None if soft is not None else opposites)
        self.program.add(self.held.coefficients, self.held.bound, equal=True)
        self.taken = np.zeros(len(self.bound), dtype=bool)
        self.taken[self.held.rows] = self.taken[self.held.opposite] = True
        self.order = [self.held.rows]
        self.rounds, self.best, self.multipliers, self.beyond = 0, np.zeros(rows.size), dict[int, float](), 0.0

    def run(self) -> LinearRepair:
        """Programs with more and more rows, until one answers for all."""
        fixed = np.flatnonzero((self.rows.scale == 0.0) & (self.bound < 0.0))
        if self.soft is None and len(fixed):  # no parameter moves these rows: each is a proof of its own
            self.multipliers, self.beyond = {int(fixed[0]): 1.0}, np.inf
            return self._result(Answer.INFEASIBLE)
        if not len(self.used):
            return self._result(Answer.FEASIBLE, delta=self.best)
        while not self.deadline.passed:
            found = self._round()
            if found is not None:
                return found
        return self._unfinished(f"time limit; changes of a norm below {self._proved:.3g} are excluded")

    def _round(self) -> LinearRepair | None:
        """Solve the program, and take in the rows that its answer breaks; None if another round is needed."""
        hard = self.soft is None
        status, part = self.program.solve(self.deadline.sooner(self.settings.glimpse))
        self.rounds += 1
        if hard:
            self.multipliers, self.beyond = _certificate(
                self.program, self.rows, self.bound, self.used, self.held, np.concatenate(self.order)
            )
        if status in ("infeasible", "beyond", "time"):
            if hard and self._proved > self.reach:
                return self._result(Answer.INFEASIBLE)
            if status == "time":
                return None
            return self._unfinished(
                f"HiGHS says {status}, but its multipliers prove it only for changes of a norm below {self._proved:.3g}"
            )
        if status != "optimal" or part is None:
            return self._unfinished(f"HiGHS answered {status}")
        delta, norm = np.zeros(self.rows.size), self.unit * self.program.norm(part)
        delta[self.used] = part
        self.best, excess = delta, self.rows.change(delta) - self.bound
        new = np.flatnonzero((excess > self.tolerance) & ~self.taken)
        self._tell(len(new), norm)
        if hard and norm > self.reach * (1 + TOLERANCE):  # the rows so far need this much
            if self._proved > self.reach:
                return self._result(Answer.INFEASIBLE)
            return self._unfinished(f"a norm of {norm:.3g} seems to be needed")
        if len(new) == 0:
            return self._result(Answer.FEASIBLE, delta=delta)
        new = _most_violated(self.rows, new, excess[new], self.settings.batch)
        self.program.add(self.rows.coefficients(new)[:, self.used], self.bound[new])
        self.taken[new] = True
        self.order.append(new)
        return None

    @property
    def _proved(self) -> float:
        """Every change that meets the rows has at least this norm."""
        return self.unit * self.beyond

    def _tell(self, left: int, norm: float) -> None:
        seconds, done = time.perf_counter() - self.start, sum(map(len, self.order))
        self.listener(Progress(seconds=seconds, stage="lp", done=done, unit="rows", left=left, bound=norm))

    def _unfinished(self, reason: str) -> LinearRepair:
        """What is left to say: for a soft repair the best change so far, which is an answer."""
        if self.soft is None:
            return self._result(Answer.UNFINISHED, reason)
        return self._result(Answer.FEASIBLE, reason, self.best)

    def _result(self, answer: Answer, reason: str = "", delta: Array | None = None) -> LinearRepair:
        return LinearRepair(
            answer=answer,
            delta=None if delta is None else self.unit * delta,
            objective=0.0 if delta is None else self.unit * measure(delta, *self.weights),
            multipliers=self.multipliers,
            beyond=self._proved,
            reason=reason,
            reach=self.reach,
            rows=len(self.bound),
            rows_used=sum(map(len, self.order)),
            rounds=self.rounds,
            seconds=time.perf_counter() - self.start,
        )


def default_reach(rows: LayerRows, norm: str, soft: float | None = None) -> float:
    """The norm of the layer's own parameters, not rounded down; no limit for a soft repair."""
    if soft is not None:
        return np.inf
    sizes, (l1, linf) = np.abs(parameters(rows.operator)), norm_weights(norm, rows.size)
    whole = l1 * math.fsum(sizes) + linf * float(sizes.max(initial=0.0))
    return math.nextafter(whole * (1 + SPACING), math.inf)


def _most_violated(
    rows: LayerRows, candidates: npt.NDArray[np.int64], violation: Array, most: int
) -> npt.NDArray[np.int64]:
    """The most violated rows, at first one for each key point: neighbours say nearly the same."""
    order = candidates[np.argsort(-violation, kind="stable")]
    _, first = np.unique(rows.row_point[order], return_index=True)
    return np.sort(order[np.sort(first)][:most])


@dataclass(frozen=True, eq=False)
class _Equations:
    """Rows that are demanded in both directions, each pair once: ``coefficients @ Δ == bound``.

    Attributes:
        rows: the rows that say ``<=``.
        opposite: the rows that say ``>=``.
    """

    coefficients: Array
    bound: Array
    rows: npt.NDArray[np.int64]
    opposite: npt.NDArray[np.int64]

    @staticmethod
    def of(
        rows: LayerRows, bound: Array, used: npt.NDArray[np.int64], opposites: npt.NDArray[np.int64] | None
    ) -> _Equations:
        if opposites is None:
            opposites = np.full(len(bound), -1)
        first = np.flatnonzero((opposites >= 0) & (np.arange(len(opposites)) < opposites))
        # where margins make the two contradict each other, they are no equation
        first = first[np.abs(bound[first] + bound[opposites[first]]) <= TOLERANCE]
        _, unique = np.unique(opposites[first], return_index=True)
        first = first[unique]
        return _Equations(rows.coefficients(first)[:, used], bound[first], first, opposites[first])


def _certificate(
    program: Program,
    rows: LayerRows,
    bound: Array,
    used: npt.NDArray[np.int64],
    held: _Equations,
    order: npt.NDArray[np.int64],
) -> tuple[dict[int, float], float]:
    """Multipliers λ >= 0 of rows, and the lower bound of the norm that they prove; (the best of) HiGHS's own."""
    best: dict[int, float] = {}
    beyond = 0.0
    for candidate in program.multipliers():
        for m in (candidate, -candidate):
            equations, rest = m[: len(held.rows)], np.maximum(m[len(held.rows) :], 0.0)
            which = np.concatenate([np.where(equations > 0, held.rows, held.opposite), order[len(held.rows) :]])
            weight = np.concatenate([np.abs(equations), rest])
            chosen = np.flatnonzero(weight > 1e-12 * weight.max(initial=0.0))
            if not len(chosen) or not np.isfinite(weight).all():
                continue
            weight, which = weight[chosen] / weight.max(), which[chosen]
            coefficients = rows.coefficients(which)[:, used]
            terms = weight @ bound[which]
            error = (len(which) + 2) * SPACING
            direction = np.abs(weight @ coefficients) + error * (weight @ np.abs(coefficients))
            shortage = -terms - error * (weight @ np.abs(bound[which]))
            if shortage > 0:
                size = program.dual_norm(direction)
                found = float(shortage / size) if size else np.inf
                if found > beyond:
                    best, beyond = dict(zip(which.tolist(), weight.tolist(), strict=True)), found
    return best, beyond
