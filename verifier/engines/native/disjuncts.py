"""Many disjuncts at once: each is bounded on its own box, hundreds of boxes in one pass through the network.

A disjunct's rows over single inputs make a box of its own (`Conditions.boxed`), and disjuncts with the same box share its
relaxation. What bounds refute falls away before any search begins, which then carries the hard ones alone.
"""

from __future__ import annotations

import numpy as np

from verifier.bounds.crown import Crown
from verifier.engines.native.bounding import row_errors
from verifier.limits import Deadline
from verifier.properties.query import Query
from verifier.properties.rows import Conditions


def open_disjuncts(query: Query, conditions: Conditions, deadline: Deadline, together: int = 256) -> list[int]:
    """The disjuncts that CROWN bounds on their own boxes do not refute (all that are left when the time is over).

    Args:
        together: boxes that are bounded together, and between two looks at the clock.

    Raises:
        InputError: if the network's numbers are too large for bounds in float64.

    Source:
        CROWN: Zhang et al., NeurIPS 2018, Theorem 3.2.
    """
    rest, low, high = conditions.boxed(query.box)
    crown = Crown(query.network, query.box)
    errors = row_errors(crown, rest)
    refuted = np.asarray((low > high).any(axis=1))
    alive = np.flatnonzero(~refuted)
    if not len(alive):
        return []
    n = query.box.size
    ends, owner = np.unique(np.hstack([low, high])[alive], axis=0, return_inverse=True)
    box_of_disjunct = np.full(conditions.disjuncts, -1)
    box_of_disjunct[alive] = owner.reshape(-1)
    box_of_row = box_of_disjunct[rest.disjunct_of]
    by_box = np.argsort(box_of_row, kind="stable")
    for first in range(0, len(ends), together):
        if deadline.passed:
            break
        count = min(together, len(ends) - first)
        box_low, box_high = ends[first : first + count, :n], ends[first : first + count, n:]
        begin, end = np.searchsorted(box_of_row[by_box], [first, first + count])
        rows = by_box[begin:end]
        relaxation = crown.relax(box_low, box_high)
        box_of = box_of_row[rows] - first
        x_rows = rest.x_rows[rows]
        found = crown.lower(
            query.network.output,
            rest.y_rows[rows],
            box_of,
            relaxation.relaxations,
            box_low,
            box_high,
            multipliers={query.network.input: x_rows} if x_rows.any() else None,
        )
        # these errors are more than twice what the rows' bounds had subtracted
        constants = found.constants - rest.bound[rows] - 2 * errors[rows]
        ends_met = np.where(found.slopes > 0, box_low[box_of], box_high[box_of])
        lower = np.einsum("rn,rn->r", found.slopes, ends_met) + constants
        size = np.einsum("rn,rn->r", np.abs(found.slopes), np.abs(ends_met)) + np.abs(constants)
        proved = lower - 2 * crown.rounding.gamma * size > 0
        refuted[rest.disjunct_of[rows[proved]]] = True
    return np.flatnonzero(~refuted).tolist()
