"""Many disjuncts at once: each is bounded on its own box, hundreds of boxes in one pass through the network.

A disjunct's rows over single inputs make a box of its own (`Conditions.boxed`), and disjuncts with the same box share its
relaxation. What bounds refute falls away before any search begins, which then carries the hard ones alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np

from verifier.engines.base import Answer, EngineResult
from verifier.engines.native.rows import Integers
from verifier.limits import Deadline
from verifier.network.operators import Array
from verifier.properties.query import Query
from verifier.properties.rows import Conditions
from verifier.rounding import SUM_RESERVE, UNIT_ROUNDOFF
from verifier.verdict import Certainty


class PairBounds(Protocol):
    """Bounds of chosen rows on chosen boxes.

    Attributes:
        together: boxes that are best bounded together.
    """

    together: int

    def pairs(self, low: Array, high: Array, box_of: Integers, row_of: Integers) -> tuple[Array, Array]:
        """Functions below some rows, each on its own box: ``slopes (P, n)`` and ``constants (P,)``, rounding included.

        Args:
            low, high: ``(B, n)``.
            box_of, row_of: ``(P,)``.
        """


def open_disjuncts(bounds: PairBounds, rest: Conditions, low: Array, high: Array, deadline: Deadline) -> list[int]:
    """The disjuncts that bounds on their own boxes do not refute (all that are left when the time is over).

    Args:
        bounds: of the rows ``rest``.
        rest, low, high: as `Conditions.boxed` returns them: the ends are ``(disjuncts, n)``.

    Raises:
        InputError: if the network's numbers are too large for bounds in float64.

    Source:
        CROWN: Zhang et al., NeurIPS 2018, Theorem 3.2.
    """
    refuted = np.asarray((low > high).any(axis=1))
    alive = np.flatnonzero(~refuted)
    if not len(alive):
        return []
    n = low.shape[1]
    ends, owner = np.unique(np.hstack([low, high])[alive], axis=0, return_inverse=True)
    box_of_disjunct = np.full(rest.disjuncts, -1)
    box_of_disjunct[alive] = owner.reshape(-1)
    box_of_row = box_of_disjunct[rest.disjunct_of]
    by_box = np.argsort(box_of_row, kind="stable")
    for first in range(0, len(ends), bounds.together):
        if deadline.passed:
            break
        count = min(bounds.together, len(ends) - first)
        box_low, box_high = ends[first : first + count, :n], ends[first : first + count, n:]
        begin, end = np.searchsorted(box_of_row[by_box], [first, first + count])
        rows = by_box[begin:end]
        if not len(rows):
            continue
        box_of = box_of_row[rows] - first
        slopes, constants = bounds.pairs(box_low, box_high, box_of, rows)
        ends_met = np.where(slopes > 0, box_low[box_of], box_high[box_of])
        with np.errstate(invalid="ignore", over="ignore"):
            lower = np.einsum("rn,rn->r", slopes, ends_met) + constants
            size = np.einsum("rn,rn->r", np.abs(slopes), np.abs(ends_met)) + np.abs(constants)
            proved = lower - (SUM_RESERVE + 4 * UNIT_ROUNDOFF * n) * size > 0  # NaN proves nothing
        refuted[rest.disjunct_of[rows[proved]]] = True
    return np.flatnonzero(~refuted).tolist()


def with_disjuncts(query: Query, left: list[int]) -> Query:
    """The query with some of its disjuncts alone: a witness of it is one of the whole."""
    return replace(query, disjuncts=tuple(query.disjuncts[k] for k in left))


def refuted_all(conditions: Conditions) -> EngineResult:
    """What follows where none is left."""
    statistics: dict[str, float | int | str] = {"method": "disjuncts", "disjuncts": conditions.disjuncts}
    return EngineResult(answer=Answer.UNSAT, certainty=Certainty.RIGOROUS, statistics=statistics)
