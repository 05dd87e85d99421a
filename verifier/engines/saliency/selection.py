"""Which phase to branch on: strong branching on the LP, the first layer first."""

from __future__ import annotations

import numpy as np

from verifier.engines.saliency.relaxation import Relaxation, scatter
from verifier.lp.program import LpStatus
from verifier.network.operators import Array


def choose_branch(relaxation: Relaxation, point: Array | None) -> tuple[int, int, int] | None:
    """Layer, neuron and the phase to search first; None if every phase is known.

    Shapes: point ``(columns of the program,)``.

    Source:
        strong branching: Applegate et al., Finding Cuts in the TSP, 1995; product score: Achterberg, 2007.
    """
    state = relaxation.state
    layer = next((r for r, phase in enumerate(state.phase) if (phase == 0).any()), None)
    if layer is None:
        return None
    free = np.flatnonzero(state.phase[layer] == 0)
    if point is None or len(free) == 1:
        return layer, int(free[0]), 1
    a, s = scatter(relaxation.a[layer], point)[free], scatter(relaxation.s[layer], point)[free]
    d = scatter(relaxation.d[layer], point)[free]
    width = state.z_upper[layer][free] - state.z_lower[layer][free]
    if relaxation.has_gradient:
        influence = np.maximum(np.abs(state.h_lower[layer][free]), np.abs(state.h_upper[layer][free]))
    else:
        influence = np.ones(len(free))
    by_value = np.minimum(a, s) * (influence + 1e-3 * influence.mean() + 1e-12)
    by_phase = np.minimum(d, 1 - d) * influence * np.sqrt(width)
    most = relaxation.settings.candidates
    ranked = [np.argsort(-by_value)[:most], np.argsort(-by_phase)[:most]]
    tried = list(dict.fromkeys(int(k) for pair in zip(*ranked, strict=True) for k in pair))
    best, choice = -np.inf, (layer, int(free[tried[0]]), 1)
    columns, rows = relaxation.lp.basis()
    objective = point[relaxation.t]
    for k in tried:
        gains = []
        for phase in (1, -1):
            gain = branch_trial(relaxation, layer, int(free[k]), phase) - objective
            relaxation.lp.start_from(columns, rows)
            gains.append(gain)
        up, down = (min(max(g, 1e-9), 1e3) for g in gains)
        score = up * down
        if score > best:
            best, choice = score, (layer, int(free[k]), 1 if up <= down else -1)
    return choice


def branch_trial(relaxation: Relaxation, layer: int, neuron: int, phase: int) -> float:
    """The LP's objective after a few iterations with the phase fixed; infinite if that is infeasible."""
    d, off = relaxation.d[layer][neuron], (relaxation.s if phase > 0 else relaxation.a)[layer][neuron]
    columns = np.array([c for c in (d, off) if c >= 0])
    lower, upper = relaxation.lp.lower[columns].copy(), relaxation.lp.upper[columns].copy()
    fixed = np.zeros(len(columns))
    if d >= 0:
        fixed[0] = 1.0 if phase > 0 else 0.0
    relaxation.lp.bound_columns(columns, fixed, fixed)
    status, objective = relaxation.lp.trial(relaxation.settings.iterations)
    relaxation.lp.bound_columns(columns, lower, upper)
    return np.inf if status is LpStatus.INFEASIBLE else objective
