"""A linear region of a `CondensedNetwork`, all phases fixed, by linear programming."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from verifier.bounds.condensed import CondensedNetwork, Start
from verifier.limits import Deadline
from verifier.lp.program import LinearProgram
from verifier.network.operators import Array


def decide_region(
    condensed: CondensedNetwork, row: Start, phases: npt.NDArray[np.int8], deadline: Deadline, penalty: float
) -> tuple[Array, Array]:
    """Multipliers for the phase constraints that raise the row's least value most, and the point that takes it.

    Nothing is proved here: the multipliers are for `verifier.bounds.crown_slopes.prove`.

    Args:
        row: one row.
        phases: ``(neurons,)``, none of them 0.
        penalty: what breaking a phase constraint costs: a bound on its multiplier.

    Returns:
        weights ``(neurons,)`` float32 and a point of the box ``(n,)``.

    Source:
        exact penalties: Zangwill, Management Science 1967.
    """
    box = condensed.blocks[0]
    n = box.size
    values: list[tuple[Array, Array]] = [(np.eye(n), np.zeros(n))]
    matrix, shift = np.zeros((condensed.neurons, n)), np.zeros(condensed.neurons)
    for block in condensed.blocks[1:]:
        z, constant = np.zeros((block.size, n)), block.constant.copy()
        for s, edge in block.edges:
            z += edge.matrix @ values[s][0]
            constant += edge.matrix @ values[s][1]
        part = slice(block.first, block.first + block.count)
        matrix[part], shift[part] = z[: block.count], constant[: block.count]
        active = np.ones(block.size)
        active[: block.count] = phases[part] > 0
        values.append((active[:, None] * z, active * constant))
    cost = np.zeros(n)
    for s, a in row.coefficients.items():
        cost += a[:, 0] @ values[s][0]
    sign = phases.astype(np.float64)
    # sign * (matrix x + shift) + slack >= 0
    program = LinearProgram(
        np.hstack([sign[:, None] * matrix, np.eye(condensed.neurons)]),
        -sign * shift,
        np.full(condensed.neurons, np.inf),
        np.concatenate([box.low, np.zeros(condensed.neurons)]),
        np.concatenate([box.high, np.full(condensed.neurons, np.inf)]),
        np.concatenate([cost, np.full(condensed.neurons, penalty)]),
    )
    found = program.solve(deadline)
    if found.point is None:
        return np.zeros(condensed.neurons, dtype=np.float32), box.low.copy()
    return np.maximum(program.duals(), 0.0).astype(np.float32), found.point[:n]
