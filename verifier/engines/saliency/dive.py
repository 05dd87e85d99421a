"""Depth-first search over phases on one LP that stays loaded.

Fixing a phase changes bounds of columns only: a node costs a few simplex iterations from its parent's basis, in place
of new bounds and a new LP. So are the phases of the last hidden layer searched, once all earlier ones are known, and
those of all layers where few are unknown in a small network. Branching is by pseudo-costs (Bénichou et al., 1971),
started by trials (reliability branching: Achterberg, Koch, Martin, 2005) and kept for the whole search.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from verifier.engines.saliency.relaxation import Relaxation, scatter
from verifier.engines.saliency.selection import branch_trial
from verifier.limits import Deadline
from verifier.lp.program import LpStatus
from verifier.network.operators import Array

CANDIDATES = 8
"""Neurons among which a node of a large network chooses its branching."""
RELIABLE = 2
"""Trials of a neuron's phase before its pseudo-cost is believed."""
MOST_GAIN = 2.0
"""Gains are counted up to this: an infeasible child gains no more than a very good one."""

Unit = tuple[int, int]
"""Layer and neuron."""
Fixing = tuple[tuple[Unit, int], ...]
"""Units and their phases (1 or -1)."""


class PseudoCosts:
    """Mean gain of the LP's objective per unit and phase."""

    def __init__(self) -> None:
        self._known: dict[tuple[Unit, int], tuple[float, int]] = {}

    def gain(self, unit: Unit, phase: int) -> float | None:
        """The mean gain, once it is reliable."""
        total, count = self._known.get((unit, phase), (0.0, 0))
        return total / count if count >= RELIABLE else None

    def add(self, unit: Unit, phase: int, gain: float) -> None:
        """One more observation."""
        total, count = self._known.get((unit, phase), (0.0, 0))
        self._known[unit, phase] = (total + min(gain, MOST_GAIN), count + 1)


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
    """The search below one state over all its unknown phases, for one case."""

    def __init__(
        self,
        relaxation: Relaxation,
        case: int,
        costs: PseudoCosts,
        find: Callable[[Array], Array | None],
        candidates: int = CANDIDATES,
    ) -> None:
        """
        Args:
            candidates: neurons among which a node chooses its branching; 0: by the relaxation's solution alone.
            find: looks for a witness where a point of the LP leads.
        """
        self.relaxation, self.case, self.costs, self.find = relaxation, case, costs, find
        self.candidates = candidates
        state = relaxation.state
        self.free: list[Unit] = [
            (r, k) for r, phase in enumerate(state.phase) for k in np.flatnonzero(phase == 0).tolist()
        ]
        self.base = relaxation.lp.lower.copy(), relaxation.lp.upper.copy()
        self.columns = np.array(
            [[columns[r][k] for r, k in self.free] for columns in (relaxation.a, relaxation.s, relaxation.d)]
        )
        self.influence, self.width = np.ones(len(self.free)), np.zeros(len(self.free))
        for i, (r, k) in enumerate(self.free):
            if relaxation.has_gradient:
                self.influence[i] = max(abs(state.h_lower[r][k]), abs(state.h_upper[r][k]))
            self.width[i] = state.z_upper[r][k] - state.z_lower[r][k]

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
                lp.restore_basis(basis)
            answer = self.relaxation.solve(self.case, deadline)
            if answer.status is LpStatus.INFEASIBLE:
                continue
            if answer.status is LpStatus.STOPPED:
                result.timed_out = True
                return result
            if answer.point is not None:
                result.witness = self.find(answer.point)
                if result.witness is not None:
                    return result
            basis = lp.keep_basis()
            branch = self._branch(fixing, answer.point, answer.objective, basis)
            if branch is None:
                result.unsettled.append(fixing)
                continue
            unit, first = branch
            stack += [((*fixing, (unit, phase)), basis) for phase in (-first, first)]
        return result

    def _apply(self, fixing: Fixing) -> None:
        """Bounds of the columns under a fixing."""
        relaxation = self.relaxation
        lower, upper = self.base[0].copy(), self.base[1].copy()
        for (r, neuron), phase in fixing:
            d, off = relaxation.d[r][neuron], (relaxation.s if phase > 0 else relaxation.a)[r][neuron]
            if d >= 0:
                lower[d] = upper[d] = float(phase > 0)
            upper[off] = 0.0
        changed = np.flatnonzero((lower != relaxation.lp.lower) | (upper != relaxation.lp.upper))
        if len(changed):
            relaxation.lp.bound_columns(changed, lower[changed], upper[changed])

    def _branch(self, fixing: Fixing, point: Array | None, objective: float, basis: Any) -> tuple[Unit, int] | None:
        """Unit and the phase to search first; None if all phases are fixed."""
        fixed = {unit for unit, _ in fixing}
        left = np.array([i for i, unit in enumerate(self.free) if unit not in fixed], dtype=np.int64)
        if not len(left):
            return None
        if point is None:
            return self.free[left[0]], 1
        relaxation, influence = self.relaxation, self.influence[left]
        a, s, d = scatter(self.columns[:, left], point)
        score = np.minimum(d, 1 - d) * influence * np.sqrt(self.width[left]) + np.minimum(a, s) * influence
        top = int(np.argmax(score))
        best, choice = -np.inf, (self.free[left[top]], 1 if d[top] > 0.5 else -1)
        for i in left[np.argsort(-score)[: self.candidates]].tolist():
            unit, gains = self.free[i], []
            for phase in (1, -1):
                gain = self.costs.gain(unit, phase)
                if gain is None:
                    gain = max(branch_trial(relaxation, unit[0], unit[1], phase) - objective, 1e-9)
                    relaxation.lp.restore_basis(basis)
                    self.costs.add(unit, phase, gain)
                gains.append(min(gain, MOST_GAIN))
            if gains[0] * gains[1] > best:
                best, choice = gains[0] * gains[1], (unit, 1 if gains[0] <= gains[1] else -1)
        return choice
