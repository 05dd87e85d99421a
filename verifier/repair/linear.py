"""Repair of one layer by linear programming: the smallest change of its weights that meets every row.

The rows are ``coefficients @ Δ <= slack`` at all key points (`verifier.repair.keypoints.LayerRows`): often
hundreds of thousands, nearly all of them slack at the optimum. So the program starts with those that are demanded
in both directions (class borders inside a linear region: equations) and takes in the most violated ones (row
generation) until no row is violated. Weights that no row depends on are left out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from verifier.errors import InputError
from verifier.events import Listener, Progress, ignore
from verifier.network.operators import Array
from verifier.repair.frozen import parameters
from verifier.repair.keypoints import LayerRows
from verifier.repair.program import TOLERANCE, Program, measure, norm_weights

NORMS = ("l1", "linf", "mixed")

BATCH = 400
"""Rows taken in per round."""

GLIMPSE = 4.0
"""Seconds after which a running program is asked what its multipliers prove so far."""

ROUNDING = 2.0**-52


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearRepair:
    """What the linear program found.

    Attributes:
        status: "feasible", "infeasible" (no change within the reach), or "unfinished" (time ran out, or the solver
            gave up: see ``reason``).
        delta: ``(size,)`` parameter changes, if feasible (or the best effort of a soft repair).
        objective: the norm of ``delta``.
        conflict: if infeasible, the rows that cannot hold together, with their multipliers λ >= 0: the proof.
            By weak duality every Δ that meets them has ``norm(Δ) >= -Σ λ · bound / dual_norm(Σ λ · coefficients)``.
        beyond: that lower bound, with rounding errors taken off; infinite when the combined coefficients vanish.
        reach: the largest norm that counts as a repair.
        rows: rows of the specification, each once.
        rows_used: rows that the final program held.
        rounds: number of programs solved.
    """

    status: str
    delta: Array | None = None
    objective: float = 0.0
    conflict: Mapping[int, float] = field(default_factory=dict)
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
    margin: float = 0.0,
    opposites: npt.NDArray[np.int64] | None = None,
    soft: float | None = None,
    reach: float | None = None,
    timeout: float | None = None,
    listener: Listener = ignore,
) -> LinearRepair:
    """The smallest change of a layer's parameters that meets every row, or the proof that there is none.

    Args:
        norm: "l1", "linf" or "mixed" (their sum, L∞ weighted by the square root of the number of parameters).
        margin: what rows are demanded to have to spare: above the solver's tolerance, so that the rows then hold
            without any. Rows that are met now need keep no more than half of what they have; ties have none.
        opposites: ``(R,)`` for each row one that demands its opposite at the same place, or -1
            (`KeyPoints.opposites`): the two can only hold by a tie.
        soft: None for hard rows; else the price of one unit of violation of a row: the program minimises
            norm + soft · Σ violations, and always has an answer.
        reach: the largest norm of a change; by default that of the layer's own parameters: what changes a layer by
            more than it is, is no repair. (Without such a limit many programs are almost feasible, with huge changes.)
        timeout: seconds.
    """
    if norm not in NORMS:
        raise InputError(f"norm {norm!r} is not known", fix=f"norms: {', '.join(NORMS)}")
    start = time.perf_counter()
    used = rows.used()
    if reach is None:
        reach = measure(parameters(rows.operator), *norm_weights(norm, rows.size))
    program = Program(len(used), norm, soft, reach)
    margins = np.where(rows.slack < 0.0, margin, np.minimum(margin, rows.slack / 2))
    bound = rows.slack - (margins if opposites is None else np.where(opposites >= 0, 0.0, margins))
    held = _Equations.of(rows, used, None if soft is not None else opposites)
    program.add(held.coefficients, held.bound, equal=True)
    taken = np.zeros(len(bound), dtype=bool)
    taken[held.rows] = taken[held.opposite] = True
    order = [held.rows]
    rounds, beyond = 0, 0.0

    def result(status: str, **found: object) -> LinearRepair:
        return LinearRepair(
            status=status,
            reach=reach,
            rows=len(bound),
            rows_used=sum(map(len, order)),
            rounds=rounds,
            seconds=time.perf_counter() - start,
            **found,  # type: ignore[arg-type]
        )

    while True:
        left = np.inf if timeout is None else timeout - (time.perf_counter() - start)
        if left <= 0:
            return result("unfinished", reason=f"time limit; changes of a norm below {beyond:.3g} are excluded")
        status, part = program.solve(min(left, GLIMPSE))
        rounds += 1
        if status in ("infeasible", "beyond", "time"):
            conflict, beyond = _certificate(program, rows, bound, used, held, np.concatenate(order))
            if beyond > reach:
                return result("infeasible", conflict=conflict, beyond=beyond)
            if status == "time":
                continue
            reason = f"HiGHS says {status}, but its multipliers prove it only for changes of a norm below {beyond:.3g}"
            return result("unfinished", reason=reason, beyond=beyond)
        if status != "optimal" or part is None:
            return result("unfinished", reason=f"HiGHS answered {status}")
        delta = np.zeros(rows.size)
        delta[used] = part
        violation = rows.change(delta) - bound
        new = np.flatnonzero((violation > TOLERANCE) & ~taken)
        listener(
            Progress(
                seconds=time.perf_counter() - start,
                stage="lp",
                done=sum(map(len, order)),
                unit="rows",
                left=len(new),
                bound=program.norm(part),
            )
        )
        if program.norm(part) > reach:  # the rows taken in so far need this much
            conflict, beyond = _certificate(program, rows, bound, used, held, np.concatenate(order))
            status = "infeasible" if beyond > reach else "unfinished"
            reason = "" if status == "infeasible" else f"a norm of {program.norm(part):.3g} seems to be needed"
            return result(status, conflict=conflict, beyond=beyond, reason=reason)
        if len(new) == 0:
            return result("feasible", delta=delta, objective=program.norm(part))
        new = _most_violated(rows, new, violation[new])
        program.add(rows.coefficients(new)[:, used], bound[new])
        taken[new] = True
        order.append(new)


def _most_violated(rows: LayerRows, candidates: npt.NDArray[np.int64], violation: Array) -> npt.NDArray[np.int64]:
    """The most violated rows, at first one for each key point: neighbours say nearly the same."""
    order = candidates[np.argsort(-violation, kind="stable")]
    _, first = np.unique(rows.row_point[order], return_index=True)
    return np.sort(order[np.sort(first)][:BATCH])


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
    def of(rows: LayerRows, used: npt.NDArray[np.int64], opposites: npt.NDArray[np.int64] | None) -> _Equations:
        if opposites is None:
            opposites = np.full(len(rows.slack), -1)
        first = np.flatnonzero((opposites >= 0) & (np.arange(len(opposites)) < opposites))
        # where a margin makes the two contradict each other, they are no equation
        first = first[np.abs(rows.slack[first] + rows.slack[opposites[first]]) <= TOLERANCE]
        _, unique = np.unique(opposites[first], return_index=True)
        first = first[unique]
        return _Equations(rows.coefficients(first)[:, used], rows.slack[first], first, opposites[first])


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
    coefficients: Array | None = None
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
            error = (len(which) + 2) * ROUNDING
            direction = np.abs(weight @ coefficients) + error * (weight @ np.abs(coefficients))
            shortage = -terms - error * (weight @ np.abs(bound[which]))
            if shortage > 0:
                size = program.dual_norm(direction)
                found = float(shortage / size) if size else np.inf
                if found > beyond:
                    best, beyond = dict(zip(which.tolist(), weight.tolist(), strict=True)), found
    return best, beyond
