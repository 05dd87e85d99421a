"""Depth-first search over the phases of the last hidden layer on one LP that stays loaded.

Once all earlier phases are known, fixing a phase of the last layer changes bounds of columns only: a node costs a
few simplex iterations from its parent's basis, in place of new bounds and a new LP. Branching is by pseudo-costs
(Bénichou et al., 1971), started by trials (reliability branching: Achterberg, Koch, Martin, 2005) and kept for the
whole search.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from verifier.engines.base import Deadline
from verifier.engines.saliency.lp import LpStatus
from verifier.engines.saliency.relaxation import Relaxation, scatter
from verifier.engines.saliency.selection import branch_trial
from verifier.network.operators import Array

CANDIDATES = 8
"""Neurons among which a node chooses its branching."""
RELIABLE = 2
"""Trials of a neuron's phase before its pseudo-cost is believed."""
MOST_GAIN = 2.0
"""Gains are counted up to this: an infeasible child gains no more than a very good one."""

Fixing = tuple[tuple[int, int], ...]
"""Neurons of the last layer and their phases (1 or -1)."""


class PseudoCosts:
    """Mean gain of the LP's objective per neuron and phase."""

    def __init__(self, size: int) -> None:
        self.total = {1: np.zeros(size), -1: np.zeros(size)}
        self.count = {1: np.zeros(size), -1: np.zeros(size)}

    def gain(self, neuron: int, phase: int) -> float | None:
        """The mean gain, once it is reliable."""
        count = self.count[phase][neuron]
        return float(self.total[phase][neuron] / count) if count >= RELIABLE else None

    def add(self, neuron: int, phase: int, gain: float) -> None:
        """One more observation."""
        self.total[phase][neuron] += min(gain, MOST_GAIN)
        self.count[phase][neuron] += 1


@dataclass
class DiveResult:
    """What a dive found.

    Attributes:
        witness: a confirmed witness, or None.
        nodes, programs: how many nodes were visited.
        depth: most phases fixed by branching.
        unsettled: fixings of all phases that neither the LP nor a witness settled.
        timed_out: whether the deadline stopped it.
    """

    witness: Array | None = None
    nodes: int = 0
    depth: int = 0
    unsettled: list[Fixing] = field(default_factory=list)
    timed_out: bool = False


class Dive:
    """The search below one state whose only unknown phases are in the last layer, for one case."""

    def __init__(
        self, relaxation: Relaxation, case: int, costs: PseudoCosts, find: Callable[[Array], Array | None]
    ) -> None:
        """
        Args:
            find: looks for a witness where a point of the LP leads.
        """
        self.relaxation, self.case, self.costs, self.find = relaxation, case, costs, find
        state = relaxation.state
        self.layer = len(state.phase) - 1
        self.free = np.flatnonzero(state.phase[self.layer] == 0)
        self.base = relaxation.lp.lower.copy(), relaxation.lp.upper.copy()
        low, high = state.h_lower[self.layer], state.h_upper[self.layer]
        self.influence = np.maximum(np.abs(low), np.abs(high)) if relaxation.has_gradient else np.ones(len(low))
        self.width = state.z_upper[self.layer] - state.z_lower[self.layer]

    def run(self, deadline: Deadline, start: Fixing = ()) -> DiveResult:
        """Search below a fixing to the end, a witness or the deadline; the LP's bounds are then what they were."""
        try:
            return self._run(deadline, start)
        finally:
            self._apply(())

    def _run(self, deadline: Deadline, start: Fixing) -> DiveResult:
        result = DiveResult()
        stack: list[tuple[Fixing, Any]] = [(start, None)]
        lp = self.relaxation.lp
        while stack:
            if deadline.passed:
                result.timed_out = True
                return result
            fixing, basis = stack.pop()
            result.nodes += 1
            result.depth = max(result.depth, len(fixing))
            self._apply(fixing)
            if basis is not None:
                lp.solver.setBasis(basis)
            answer = self.relaxation.solve(self.case, deadline.left)
            if answer.status is LpStatus.INFEASIBLE:
                continue
            if answer.status is LpStatus.STOPPED:
                result.timed_out = True
                return result
            if answer.point is not None:
                result.witness = self.find(answer.point)
                if result.witness is not None:
                    return result
            basis = lp.solver.getBasis()
            branch = self._branch(fixing, answer.point, answer.objective, basis)
            if branch is None:
                result.unsettled.append(fixing)
                continue
            neuron, first = branch
            stack += [((*fixing, (neuron, phase)), basis) for phase in (-first, first)]
        return result

    def _apply(self, fixing: Fixing) -> None:
        """Bounds of the columns under a fixing."""
        relaxation, r = self.relaxation, self.layer
        lower, upper = self.base[0].copy(), self.base[1].copy()
        for neuron, phase in fixing:
            d, off = relaxation.d[r][neuron], (relaxation.s if phase > 0 else relaxation.a)[r][neuron]
            if d >= 0:
                lower[d] = upper[d] = float(phase > 0)
            upper[off] = 0.0
        changed = np.flatnonzero((lower != relaxation.lp.lower) | (upper != relaxation.lp.upper))
        if len(changed):
            relaxation.lp.bound_columns(changed, lower[changed], upper[changed])

    def _branch(self, fixing: Fixing, point: Array | None, objective: float, basis: Any) -> tuple[int, int] | None:
        """Neuron and the phase to search first; None if all phases are fixed."""
        fixed = {neuron for neuron, _ in fixing}
        open_ = np.array([k for k in self.free.tolist() if k not in fixed], dtype=np.int64)
        if not len(open_):
            return None
        if point is None:
            return int(open_[0]), 1
        relaxation, r = self.relaxation, self.layer
        a, s = scatter(relaxation.a[r], point)[open_], scatter(relaxation.s[r], point)[open_]
        d, influence = scatter(relaxation.d[r], point)[open_], self.influence[open_]
        score = np.minimum(d, 1 - d) * influence * np.sqrt(self.width[open_]) + np.minimum(a, s) * influence
        best, choice = -np.inf, (int(open_[0]), 1)
        for k in open_[np.argsort(-score)[:CANDIDATES]].tolist():
            gains = []
            for phase in (1, -1):
                gain = self.costs.gain(k, phase)
                if gain is None:
                    gain = max(branch_trial(relaxation, r, k, phase) - objective, 1e-9)
                    relaxation.lp.solver.setBasis(basis)
                    self.costs.add(k, phase, gain)
                gains.append(min(gain, MOST_GAIN))
            if gains[0] * gains[1] > best:
                best, choice = gains[0] * gains[1], (k, 1 if gains[0] <= gains[1] else -1)
        return choice
