"""Branch and bound over the phases that propagation leaves open, with certified LPs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from verifier.engines.base import Deadline
from verifier.engines.saliency.lp import LpStatus
from verifier.engines.saliency.maps import check_map, settle_leaf
from verifier.engines.saliency.problem import Infeasible, Problem, State
from verifier.engines.saliency.propagation import propagate
from verifier.engines.saliency.relaxation import Relaxation, scatter
from verifier.engines.saliency.selection import choose_branch
from verifier.engines.saliency.witness import WitnessFinder
from verifier.network.operators import Array


@dataclass
class Statistics:
    """What a search did."""

    nodes: int = 0
    programs: int = 0
    iterations: int = 0
    doubtful: int = 0
    deepest: int = 0
    by_propagation: int = 0
    open_leaves: int = 0
    first_unknown: list[int] = field(default_factory=list)

    def as_dict(self) -> dict[str, float | int | str]:
        """For an engine's result."""
        return {
            "boxes": self.nodes,
            "linear programs": self.programs,
            "simplex iterations": self.iterations,
            "pruned by propagation": self.by_propagation,
            "depth": self.deepest,
        }


SPLIT_CASES = -1
"""Instead of a layer: branch over the cases of the disjunction."""


class Search:
    """Depth-first branch and bound. `run` returns a witness, or None when the query is refuted.

    After `run`: ``complete`` says whether None is a proof.
    """

    def __init__(self, problem: Problem, deadline: Deadline) -> None:
        self.problem, self.deadline = problem, deadline
        self.statistics = Statistics()
        self.finder = WitnessFinder(problem)
        self.timed_out = False

    @property
    def complete(self) -> bool:
        """Whether every subproblem was closed."""
        return not self.timed_out and self.statistics.open_leaves == 0

    def run(self) -> Array | None:
        """Search the whole tree until a witness, the end, or the deadline."""
        root = State.root(self.problem)
        stack = [(root, 0)]
        while stack:
            if self.deadline.passed:
                self.timed_out = True
                return None
            state, start = stack.pop()
            self.statistics.nodes += 1
            self.statistics.deepest = max(self.statistics.deepest, state.depth)
            try:
                propagate(self.problem, state, start=start)
                check_map(self.problem, state)
            except Infeasible:
                self.statistics.by_propagation += 1
                continue
            if not self.statistics.first_unknown:
                self.statistics.first_unknown = [int((p == 0).sum()) for p in state.phase]
            found, branch = self._bound(state)
            if found is not None:
                return found
            if branch is None:
                continue
            stack += self._children(state, *branch)
        return None

    def _bound(self, state: State) -> tuple[Array | None, tuple[int, int, int] | None]:
        """Solve the LP of every case; a witness, or where to branch (None: closed)."""
        relaxation = Relaxation(self.problem, state)
        left, point = [], None
        for case in state.cases:
            answer = relaxation.solve(case, self.deadline.left)
            self.statistics.programs += 1
            if answer.status is LpStatus.INFEASIBLE:
                continue
            left.append(case)
            if answer.status is LpStatus.DOUBTFUL:
                self.statistics.doubtful += 1
                continue
            point = answer.point
            if point is None:
                self.timed_out = True
                break
            found = self._try(relaxation, point, case)
            if found is not None:
                return found, None
        self.statistics.iterations += relaxation.lp.iterations
        state.cases = tuple(left)
        if not left:
            return None, None
        if point is not None:
            state.basis = relaxation.basis()
        if len(left) > 1:
            return None, (SPLIT_CASES, 0, 0)
        branch = choose_branch(relaxation, point)
        if branch is None:
            found, closed = settle_leaf(self.problem, state, self.deadline.left)
            if found is not None:
                return found, None
            self.statistics.open_leaves += not closed
        return None, branch

    def _try(self, relaxation: Relaxation, point: Array, case: int) -> Array | None:
        """Look for a witness where the LP's solution points."""
        found = self.finder.near(point[: self.problem.query.box.size], case, self.deadline.left)
        if found is not None:
            return found
        pattern = []
        for r, phase in enumerate(relaxation.state.phase):
            a, s = scatter(relaxation.a[r], point), scatter(relaxation.s[r], point)
            d = np.where(relaxation.d[r] >= 0, scatter(relaxation.d[r], point) - 0.5, a - s)
            pattern.append(((phase > 0) | ((phase == 0) & (d > 0))).astype(np.int8))
        return self.finder.region(tuple(pattern), case, self.deadline.left)

    def _children(self, state: State, r: int, neuron: int, first: int) -> list[tuple[State, int]]:
        """Both phases (or one child per case); the preferred one is searched first (last in the list)."""
        children = []
        if r == SPLIT_CASES:
            for case in state.cases:
                child = state.copy()
                child.cases = (case,)
                children.append((child, max(len(state.phase) - 1, 0)))
            return children
        for phase in (-first, first):
            child = state.copy()
            child.depth += 1
            try:
                child.fix(r, np.array([neuron]), phase)
            except Infeasible:
                continue
            children.append((child, r))
        return children
