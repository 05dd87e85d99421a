"""Branch and bound over the phases that propagation leaves open, with certified LPs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from verifier.engines.saliency.dive import CANDIDATES, Dive, Fixing, PseudoCosts
from verifier.engines.saliency.maps import check_map, settle_leaf
from verifier.engines.saliency.problem import Infeasible, Problem, State
from verifier.engines.saliency.propagation import SMALL, propagate
from verifier.engines.saliency.relaxation import Relaxation, scatter
from verifier.engines.saliency.selection import choose_branch
from verifier.engines.saliency.witness import WitnessFinder
from verifier.limits import Deadline
from verifier.lp.program import LpStatus
from verifier.network.operators import Array
from verifier.properties.numbers import Point

FEW = 12
"""Unknown phases of a small network up to which they are searched on one linear program."""


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

    def add(self, other: Statistics) -> None:
        """Count what another part of the search did."""
        for name in ("nodes", "programs", "iterations", "doubtful", "by_propagation", "open_leaves"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.deepest = max(self.deepest, other.deepest)

    def as_dict(self) -> dict[str, float | int | str]:
        """For an engine's result."""
        return {
            "boxes": self.nodes,
            "linear programs": self.programs,
            "simplex iterations": self.iterations,
            "pruned by propagation": self.by_propagation,
            "depth": self.deepest,
        }


Child = tuple[State, int | None]
"""A subproblem and the first layer whose preactivation bounds may have changed; None: it is tightened already."""


class Search:
    """Depth-first branch and bound. `run` returns a witness, or None when the query is refuted.

    After `run`: ``complete`` says whether None is a proof.
    """

    def __init__(self, problem: Problem, deadline: Deadline) -> None:
        self.problem, self.deadline = problem, deadline
        self.statistics = Statistics()
        self.finder = WitnessFinder(problem)
        self.timed_out = False
        self.stack: list[Child] = []
        self._costs: dict[int, PseudoCosts] = {}
        self._small = sum(problem.form.sizes) <= SMALL

    @property
    def complete(self) -> bool:
        """Whether every subproblem was closed."""
        return not self.stack and not self.timed_out and self.statistics.open_leaves == 0

    def refuted_at_root(self) -> bool:
        """Whether propagation alone refutes the query; if not, `run` starts from what it found."""
        root = State.root(self.problem)
        self.stack = [(root, None)] if self._propagate(root, 0) else []
        if self.stack:
            self.statistics.first_unknown = [int((p == 0).sum()) for p in root.phase]
        return not self.stack

    def run(self, steps: float = float("inf")) -> Point | None:
        """Search the tree below the root until a witness, the end, the deadline, or for so many steps."""
        while self.stack and steps > 0:
            steps -= 1
            if self.deadline.passed:
                self.timed_out = True
                return None
            found = self.step()
            if found is not None:
                return found
        return None

    def step(self) -> Point | None:
        """Close the last subproblem on the stack, or put its parts in its place; a witness if one is met."""
        state, start = self.stack.pop()
        if start is not None and not self._propagate(state, start):
            return None
        found, children = self._expand(state)
        self.stack += children
        return found

    def _propagate(self, state: State, start: int) -> bool:
        """Tighten a state; False if that refutes it."""
        self.statistics.nodes += 1
        self.statistics.deepest = max(self.statistics.deepest, state.depth)
        try:
            propagate(self.problem, state, start=start, deadline=self.deadline)
            check_map(self.problem, state)
        except Infeasible:
            self.statistics.by_propagation += 1
            return False
        return True

    def _expand(self, state: State) -> tuple[Point | None, list[Child]]:
        """Solve the LP of every case; a witness, or the subproblems that are left (none: closed).

        Below the root of a large network one case that stays open is enough: the others wait for their leaves.
        """
        if self._can_dive(state) and (not self._small or len(state.cases) == 1):
            return self._dive(state)
        relaxation = Relaxation(self.problem, state)
        left, point = [], None
        for number, case in enumerate(state.cases):
            answer = relaxation.solve(case, self.deadline)
            self.statistics.programs += 1
            if answer.status is LpStatus.INFEASIBLE:
                continue
            left.append(case)
            if answer.status in (LpStatus.DOUBTFUL, LpStatus.FAILED):
                self.statistics.doubtful += 1
                continue
            point = answer.point
            if point is None:
                self.timed_out = True
                break
            found = self._try(relaxation, point, case)
            if found is not None:
                return found, []
            if state.depth and not self._small and state.unknown:
                left += state.cases[number + 1 :]
                break
        self.statistics.iterations += relaxation.lp.iterations
        state.cases = tuple(left)
        if not left:
            return None, []
        if point is not None:
            state.basis = relaxation.basis()
        if len(left) > 1 and (self._small or not state.unknown):
            return None, self._by_case(state)
        if self._can_dive(state):
            return self._dive(state, relaxation)
        branch = choose_branch(relaxation, point)
        if branch is None:
            settled, closed = settle_leaf(self.problem, state, self.deadline)
            self.statistics.open_leaves += settled is None and not closed
            return settled, []
        return None, self._children(state, *branch)

    def _can_dive(self, state: State) -> bool:
        """Whether only phases of the last layer are unknown, or few in a small network."""
        if not state.phase:
            return False
        if self._small and 0 < state.unknown <= FEW:
            return True
        return bool((state.phase[-1] == 0).any()) and all((phase != 0).all() for phase in state.phase[:-1])

    def _dive(self, state: State, relaxation: Relaxation | None = None) -> tuple[Point | None, list[Child]]:
        """Search below a state for its cases; a witness, or the leaves that are to be settled on their own."""
        left: list[Child] = []
        for case, start in self._starts(state):
            costs = self._costs.setdefault(case, PseudoCosts())
            relaxation = Relaxation(self.problem, state) if relaxation is None else relaxation
            known = relaxation.lp.iterations
            find = partial(self._try, relaxation, case=case)
            # in a small network a node costs no more than a trial
            dive = Dive(relaxation, case, costs, find, 0 if self._small else CANDIDATES)
            result = dive.run(self.deadline, start)
            self.statistics.nodes += result.nodes
            self.statistics.programs += result.nodes
            self.statistics.iterations += relaxation.lp.iterations - known
            self.statistics.deepest = max(self.statistics.deepest, state.depth + result.depth)
            self.timed_out |= result.timed_out
            if result.witness is not None:
                return result.witness, []
            left += [child for fixing in result.unsettled for child in self._leaf(state, case, fixing)]
            if self.timed_out:
                break
        return None, left

    def _starts(self, state: State) -> Iterator[tuple[int, Fixing]]:
        """The parts of a state's cases that only linear programs can settle; all of it if the network is small."""
        if self._small:
            yield from ((case, ()) for case in state.cases)
            return
        # imported here: compiled code that small networks need not wait for
        from verifier.engines.saliency.leaf import leaf_of
        from verifier.engines.saliency.leaf_search import LeafSearch

        leaf = leaf_of(self.problem, state)
        search = LeafSearch(leaf)
        for case, phases in search.run(self.deadline):
            known = np.flatnonzero((phases != 0) & (leaf.phases == 0))
            units = [(len(state.phase) - 1, neuron) for neuron in leaf.neurons[known].tolist()]
            yield case, tuple(zip(units, phases[known].tolist(), strict=True))
        self.statistics.nodes += search.nodes
        self.statistics.deepest = max(self.statistics.deepest, state.depth + search.depth)
        self.timed_out |= search.timed_out

    def _leaf(self, state: State, case: int, fixing: Fixing) -> list[Child]:
        """The state below with all phases known, which gets bounds and an LP of its own."""
        leaf = state.copy()
        leaf.cases = (case,)
        leaf.depth += len(fixing)
        try:
            for (layer, neuron), phase in fixing:
                leaf.fix(layer, np.array([neuron]), phase)
        except Infeasible:
            return []
        return [(leaf, min((layer for (layer, _), _ in fixing), default=0))]

    def _try(self, relaxation: Relaxation, point: Array, case: int) -> Array | None:
        """Look for a witness where the LP's solution points."""
        found = self.finder.near(point[: self.problem.query.box.size], case, self.deadline)
        if found is not None:
            return found
        pattern = []
        for r, phase in enumerate(relaxation.state.phase):
            a, s = scatter(relaxation.a[r], point), scatter(relaxation.s[r], point)
            d = np.where(relaxation.d[r] >= 0, scatter(relaxation.d[r], point) - 0.5, a - s)
            pattern.append(((phase > 0) | ((phase == 0) & (d > 0))).astype(np.int8))
        return self.finder.region(tuple(pattern), case, self.deadline)

    @staticmethod
    def _by_case(state: State) -> list[Child]:
        """One subproblem per case of the disjunction."""
        children: list[Child] = []
        for case in state.cases:
            child = state.copy()
            child.cases = (case,)
            children.append((child, max(len(state.phase) - 1, 0)))
        return children

    def _children(self, state: State, r: int, neuron: int, first: int) -> list[Child]:
        """Both phases; the preferred one is searched first (last in the list)."""
        children: list[Child] = []
        for phase in (-first, first):
            child = state.copy()
            child.depth += 1
            try:
                child.fix(r, np.array([neuron]), phase)
            except Infeasible:
                continue
            children.append((child, r))
        return children
