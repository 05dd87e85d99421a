"""Depth-first search over phases on one LP that stays loaded.

Fixing a phase changes bounds of columns only: a node costs a few simplex iterations from its parent's basis, in place
of new bounds and a new LP. So are the phases of the last hidden layer searched, once all earlier ones are known, and
those of all layers where few are unknown in a small network. Branching is by pseudo-costs (Bénichou et al., 1971),
started by trials (reliability branching: Achterberg, Koch, Martin, 2005) and kept for the whole search.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from verifier.bab import (
    Bounded,
    BranchAndBound,
    Children,
    DepthStore,
    Ending,
    Items,
    LastResort,
    LeafAnswer,
    Settings,
    Verdict,
)
from verifier.engines.saliency.relaxation import Relaxation, scatter
from verifier.engines.saliency.selection import branch_trial
from verifier.engines.saliency.settings import DiveSettings
from verifier.errors import MemoryLimitError, TimeLimitError
from verifier.limits import Deadline, MemoryBudget
from verifier.lp.program import LpStatus
from verifier.network.operators import Array
from verifier.properties.numbers import Point

Neuron = tuple[int, int]
"""Layer and neuron."""
Fixing = tuple[tuple[Neuron, int], ...]
"""Units and their phases (1 or -1)."""


class PseudoCosts:
    """Mean gain of the LP's objective per unit and phase.

    Source:
        Bénichou et al., Mathematical Programming 1971; reliability: Achterberg, Koch, Martin, Operations
        Research Letters 2005.
    """

    def __init__(self, settings: DiveSettings = DiveSettings()) -> None:
        self.settings = settings
        self._known: dict[tuple[Neuron, int], tuple[float, int]] = {}

    def gain(self, neuron: Neuron, phase: int) -> float | None:
        """The mean gain, once it is reliable."""
        total, count = self._known.get((neuron, phase), (0.0, 0))
        return total / count if count >= self.settings.reliable else None

    def add(self, neuron: Neuron, phase: int, gain: float) -> None:
        """One more observation."""
        total, count = self._known.get((neuron, phase), (0.0, 0))
        self._known[neuron, phase] = (total + min(gain, self.settings.most_gain), count + 1)


@dataclass(eq=False)
class _Fixed:
    """A subproblem: some neurons' phases.

    Attributes:
        basis: its parent's last one.
        point, objective: the optimum of its program, once it was solved; None if there is none.
    """

    fixing: Fixing
    basis: Any = None
    point: Array | None = None
    objective: float = 0.0


class Dive(LastResort):
    """The search below one state over all its unknown phases, for one disjunct: the parts of its branch and bound.

    Attributes:
        nodes, depth: how many nodes were visited, and the most phases fixed by branching.
        unsettled: fixings of all phases that neither the LP nor a witness settled.

    Source:
        diving on one program: Achterberg, Constraint Integer Programming, 2007.
    """

    def __init__(
        self,
        relaxation: Relaxation,
        disjunct: int,
        costs: PseudoCosts,
        find: Callable[[Array, Deadline], Point | None],
        candidates: int = DiveSettings().candidates,
    ) -> None:
        """
        Args:
            candidates: neurons among which a node chooses its branching; 0: by the relaxation's solution alone.
            find: looks for a witness where a point of the LP leads.
        """
        self.relaxation, self.disjunct, self.costs, self.find = relaxation, disjunct, costs, find
        self.candidates = candidates
        self.nodes = self.depth = 0
        self.unsettled: list[Fixing] = []
        state = relaxation.state
        self.free: list[Neuron] = [
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

    def run(self, deadline: Deadline, start: Fixing = ()) -> Point | None:
        """Search below a fixing; a witness, or None: then all but `unsettled` is refuted.

        The program's bounds are then what they were.

        Raises:
            TimeLimitError, MemoryLimitError: a limit was reached before.

        Raises:
            TimeLimitError, MemoryLimitError: why it came to no end.
        """
        search = BranchAndBound(
            store=DepthStore[Items[_Fixed]](MemoryBudget.of(None)),
            bounder=self,
            brancher=self,
            leaf=self,
            settings=Settings(batch=1, piece=1),
        )
        try:
            found = search.run(Items((_Fixed(start),)), deadline)
        finally:
            self._apply(())
        if found.ending is Ending.OPEN:
            raise (TimeLimitError if found.late else MemoryLimitError)(found.reason)
        return found.witness

    # -- the parts of the branch and bound ---------------------------------------------------------------
    def bound(self, batch: Items[_Fixed], deadline: Deadline) -> Bounded[Items[_Fixed]]:
        """See `verifier.bab.Bounder.bound`."""
        (node,), lp = batch.items, self.relaxation.lp
        self.nodes += 1
        self.depth = max(self.depth, len(node.fixing))
        self._apply(node.fixing)
        if node.basis is not None:
            lp.restore_basis(node.basis)
        answer = self.relaxation.solve(self.disjunct, deadline)
        if answer.status is LpStatus.INFEASIBLE:
            return Bounded(batch, np.ones(1))
        if answer.status is LpStatus.STOPPED:
            deadline.check("while a linear program was solved")
        witness = None if answer.point is None else self.find(answer.point, deadline)
        node.basis, node.point, node.objective = lp.keep_basis(), answer.point, answer.objective
        return Bounded(batch, np.full(1, -1.0), witness)

    def split(self, batch: Items[_Fixed], lower: Array) -> Children[Items[_Fixed]]:
        """See `verifier.bab.Brancher.split`: the phase that is searched first is the last one."""
        (node,) = batch.items
        branch = self._branch(node.fixing, node.point, node.objective, node.basis)
        if branch is None:
            return Children(Items(()), np.zeros(0, dtype=np.intp))
        neuron, first = branch
        children = tuple(_Fixed((*node.fixing, (neuron, phase)), node.basis) for phase in (-first, first))
        return Children(Items(children), np.zeros(2, dtype=np.intp))

    def solve(self, leaf: Items[_Fixed], deadline: Deadline) -> LeafAnswer:
        """See `verifier.bab.LeafSolver.solve`: it is done with here, and left to others."""
        self.unsettled.append(leaf.items[0].fixing)
        return LeafAnswer(Verdict.REFUTED)

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

    def _branch(self, fixing: Fixing, point: Array | None, objective: float, basis: Any) -> tuple[Neuron, int] | None:
        """Unit and the phase to search first; None if all phases are fixed."""
        fixed = {neuron for neuron, _ in fixing}
        left = np.array([i for i, neuron in enumerate(self.free) if neuron not in fixed], dtype=np.int64)
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
            neuron, gains = self.free[i], []
            for phase in (1, -1):
                gain = self.costs.gain(neuron, phase)
                if gain is None:
                    gain = max(branch_trial(relaxation, neuron[0], neuron[1], phase) - objective, 1e-9)
                    relaxation.lp.restore_basis(basis)
                    self.costs.add(neuron, phase, gain)
                gains.append(min(gain, self.costs.settings.most_gain))
            if gains[0] * gains[1] > best:
                best, choice = gains[0] * gains[1], (neuron, 1 if gains[0] <= gains[1] else -1)
        return choice
