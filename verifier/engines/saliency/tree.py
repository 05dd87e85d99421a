"""Branch and bound over the phases that propagation leaves open: propagation, certified LPs, searches of whole leaves."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from verifier.bab import (
    Bounded,
    BranchAndBound,
    Children,
    DepthStore,
    Ending,
    Items,
    LeafAnswer,
    SearchResult,
    Settings,
    Verdict,
)
from verifier.engines.saliency.dive import Dive, Fixing, PseudoCosts
from verifier.engines.saliency.maps import check_map, settle_leaf
from verifier.engines.saliency.problem import Infeasible, Phases, Problem, State
from verifier.engines.saliency.propagation import propagate
from verifier.engines.saliency.relaxation import Relaxation, scatter
from verifier.engines.saliency.selection import choose_branch
from verifier.engines.saliency.witness import WitnessFinder
from verifier.limits import Deadline, MemoryBudget
from verifier.lp.program import LpStatus
from verifier.network.operators import Array
from verifier.properties.numbers import Point

PAUSED = "paused"


@dataclass
class Statistics:
    """What a search did; counted by any number of threads."""

    nodes: int = 0
    programs: int = 0
    iterations: int = 0
    doubtful: int = 0
    deepest: int = 0
    by_propagation: int = 0
    first_unknown: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def count(self, *, depth: int = 0, **more: int) -> None:
        """Add to the counters, and remember the depth if it is the greatest."""
        with self._lock:
            for name, value in more.items():
                setattr(self, name, getattr(self, name) + value)
            self.deepest = max(self.deepest, depth)

    def as_dict(self) -> dict[str, float | int | str]:
        """For an engine's result."""
        return {
            "boxes": self.nodes,
            "linear programs": self.programs,
            "simplex iterations": self.iterations,
            "pruned by propagation": self.by_propagation,
            "depth": self.deepest,
        }


@dataclass(eq=False)
class Node:
    """A subproblem.

    Attributes:
        state: its phases and bounds; its own, so that no thread changes what another proves from.
        start: the first layer whose preactivation bounds may have changed; None: it is tightened already.
        relaxation, point: its linear program once one was solved, and where a disjunct that is left takes its optimum.
        searched: whether its leaf was searched.
        children: what that search left to others.
        empty: whether both phases of a neuron contradict what is known.
    """

    state: State
    start: int | None = None
    relaxation: Relaxation | None = None
    point: Array | None = None
    searched: bool = False
    children: list[Node] = field(default_factory=list)
    empty: bool = False


class Tree:
    """One search: bounder, brancher and leaf solver of its `verifier.bab.BranchAndBound`, depth first.

    Attributes:
        statistics: what it did so far.
        result: how `run` ended; PROVED only if the query is refuted.

    Source:
        Bunel et al., JMLR 2020; its bounds are this package's own.
    """

    def __init__(self, problem: Problem, memory: float | None = None) -> None:
        """
        Args:
            memory: GiB for open subproblems; None: a share of the machine's.
        """
        self.problem, self.memory, self.settings = problem, MemoryBudget.of(memory), problem.settings
        self.statistics = Statistics()
        self.finder = WitnessFinder(problem)
        self.result = SearchResult()
        self._root: Node | None = None
        self._most = float("inf")
        self._search: BranchAndBound[Items[Node]] | None = None
        self._costs: dict[int, PseudoCosts] = {}
        self._small = sum(problem.form.sizes) <= self.settings.small

    def refuted_at_root(self, deadline: Deadline) -> bool:
        """Whether propagation alone refutes the query; if not, `run` starts from what it found."""
        root = Node(State.root(self.problem), 0)
        if not self._propagated(root, deadline):
            self.result = SearchResult(ending=Ending.PROVED)
            return True
        self.statistics.first_unknown = [int((p == 0).sum()) for p in root.state.phase]
        self._root = root
        return False

    def run(self, deadline: Deadline, threads: int = 1, most: float = float("inf")) -> Point | None:
        """Search the tree below the root until a witness, the end, or the deadline; `result` says which.

        Args:
            most: subproblems after which the search pauses: the next call goes on.
        """
        self._most = self.result.done + most
        if self._search is None:
            assert self._root is not None
            self._search = BranchAndBound(
                store=DepthStore[Items[Node]](self.memory),
                bounder=self,
                brancher=self,
                leaf=self,
                settings=Settings(batch=1, piece=1, threads=threads, free=True),
                stop=lambda so_far: PAUSED if so_far.done >= self._most else "",
            )
            self.result = self._search.run(self._items([self._root]), deadline)
        else:
            self.result = self._search.resume(deadline)
        return self.result.witness

    def _items(self, nodes: Iterable[Node]) -> Items[Node]:
        found = tuple(nodes)
        return Items(found, found[0].state.nbytes if found else 1.0)

    # -- the parts of the branch and bound ---------------------------------------------------------------
    def bound(self, batch: Items[Node], deadline: Deadline) -> Bounded[Items[Node]]:
        """See `verifier.bab.Bounder.bound`: propagation, then the LPs of the disjuncts, unless the leaf is searched."""
        lower, witness = np.full(len(batch), -1.0), None
        for k, node in enumerate(batch.items):
            if node.start is not None and not self._propagated(node, deadline):
                lower[k] = 1.0
            elif not self._is_leaf(node):
                witness = self._solve_disjuncts(node, deadline)
                if witness is not None:
                    break
                lower[k] = -1.0 if node.state.disjuncts else 1.0
        return Bounded(batch, lower, witness)

    def split(self, batch: Items[Node], lower: Array) -> Children[Items[Node]]:
        """See `verifier.bab.Brancher.split`: by disjunct where that is cheap, else by a phase."""
        children: list[Node] = []
        parents: list[int] = []
        for k, node in enumerate(batch.items):
            found = node.children if node.searched else self._halves(node)
            children += found
            parents += [k] * len(found)
        return Children(self._items(children), np.array(parents, dtype=np.intp))

    def takes(self, batch: Items[Node], lower: Array) -> npt.NDArray[np.bool_]:
        """See `verifier.bab.LeafSolver.takes`."""
        return np.array([self._is_leaf(node) for node in batch.items], dtype=bool)

    def solve(self, leaf: Items[Node], deadline: Deadline) -> LeafAnswer:
        """See `verifier.bab.LeafSolver.solve`: searches a leaf, or settles a linear region of the network."""
        (node,) = leaf.items
        if node.empty:
            return LeafAnswer(Verdict.REFUTED)
        if self._is_leaf(node) and not node.searched:
            witness, node.children = self._search_leaf(node, deadline)
            node.searched = True  # only now: a search that a limit interrupts says nothing
            closed = not node.children
        else:
            witness, closed = settle_leaf(self.problem, node.state, deadline)
        if witness is not None:
            return LeafAnswer(Verdict.WITNESS, witness)
        if closed:
            return LeafAnswer(Verdict.REFUTED)
        return LeafAnswer(Verdict.OPEN, reason="linear regions stayed undecided within rounding errors")

    # -- bounds ------------------------------------------------------------------------------------------
    def _propagated(self, node: Node, deadline: Deadline) -> bool:
        """Tighten a node's state; False if that refutes it."""
        state, start = node.state, node.start
        assert start is not None
        self.statistics.count(nodes=1, depth=state.depth)
        try:
            propagate(self.problem, state, start=start, deadline=deadline)
            check_map(self.problem, state)
        except Infeasible:
            self.statistics.count(by_propagation=1)
            return False
        node.start = None
        return True

    def _solve_disjuncts(self, node: Node, deadline: Deadline) -> Point | None:
        """Solve the LP of every disjunct and leave out those that are refuted; a witness, if one is met.

        Below the root of a large network one disjunct that stays open is enough: the others wait for their leaves.
        """
        state = node.state
        relaxation = node.relaxation = Relaxation(self.problem, state)
        left: list[int] = []
        for number, disjunct in enumerate(state.disjuncts):
            answer = relaxation.solve(disjunct, deadline)
            self.statistics.count(programs=1)
            if answer.status is LpStatus.INFEASIBLE:
                continue
            left.append(disjunct)
            if answer.point is None:
                deadline.check("while a linear program was solved")
                self.statistics.count(doubtful=1)
                continue
            node.point = answer.point
            found = self._try(relaxation, answer.point, deadline, disjunct=disjunct)
            if found is not None:
                return found
            if state.depth and not self._small and state.unknown:
                left += state.disjuncts[number + 1 :]
                break
        self.statistics.count(iterations=relaxation.lp.iterations)
        state.disjuncts = tuple(left)
        if left and node.point is not None:
            state.basis = relaxation.basis()
        return None

    def _try(self, relaxation: Relaxation, point: Array, deadline: Deadline, *, disjunct: int) -> Point | None:
        """Look for a witness where the LP's solution points."""
        found = self.finder.near(point[: self.problem.query.box.size], disjunct, deadline)
        if found is not None:
            return found
        pattern = []
        for r, phase in enumerate(relaxation.state.phase):
            a, s = scatter(relaxation.a[r], point), scatter(relaxation.s[r], point)
            d = np.where(relaxation.d[r] >= 0, scatter(relaxation.d[r], point) - 0.5, a - s)
            pattern.append(((phase > 0) | ((phase == 0) & (d > 0))).astype(np.int8))
        return self.finder.region(tuple(pattern), disjunct, deadline)

    # -- leaves ------------------------------------------------------------------------------------------
    def _is_leaf(self, node: Node) -> bool:
        """Whether only phases of the last layer are unknown, or few in a small network, for which one disjunct is left."""
        state = node.state
        if not state.phase or (self._small and len(state.disjuncts) > 1):
            return False
        if self._small and 0 < state.unknown <= self.settings.few:
            return True
        return bool((state.phase[-1] == 0).any()) and all((phase != 0).all() for phase in state.phase[:-1])

    def _search_leaf(self, node: Node, deadline: Deadline) -> tuple[Point | None, list[Node]]:
        """Search below a leaf: a witness if there is one, and the regions that are to be settled on their own."""
        state, left = node.state, list[Node]()

        def settle(disjunct: int, start: Fixing) -> Point | None:
            """Search on one linear program what a tree of bounds alone leaves open."""
            if node.relaxation is None:
                node.relaxation = Relaxation(self.problem, state)
            relaxation = node.relaxation
            known = relaxation.lp.iterations
            find = partial(self._try, relaxation, disjunct=disjunct)
            costs = self._costs.setdefault(disjunct, PseudoCosts(self.settings.dive))
            # in a small network a node costs no more than a trial
            dive = Dive(relaxation, disjunct, costs, find, 0 if self._small else self.settings.dive.candidates)
            try:
                witness = dive.run(deadline, start)
            finally:
                iterations = relaxation.lp.iterations - known
                depth = state.depth + dive.depth
                self.statistics.count(nodes=dive.nodes, programs=dive.nodes, iterations=iterations, depth=depth)
            left.extend(child for fixing in dive.unsettled for child in self._region(state, disjunct, fixing))
            return witness

        if self._small:
            found = (settle(disjunct, ()) for disjunct in state.disjuncts)
            return next((witness for witness in found if witness is not None), None), left
        # imported here: compiled code that small networks need not wait for
        from verifier.engines.saliency.leaf import leaf_of
        from verifier.engines.saliency.leaf_search import LeafSearch

        leaf, last = leaf_of(self.problem, state), len(state.phase) - 1

        def settle_phases(disjunct: int, phases: Phases) -> Point | None:
            known = np.flatnonzero((phases != 0) & (leaf.phases == 0))
            neurons = [(last, neuron) for neuron in leaf.neurons[known].tolist()]
            return settle(disjunct, tuple(zip(neurons, phases[known].tolist(), strict=True)))

        search = LeafSearch(leaf, settle_phases, self.settings.leaf)
        try:
            return search.run(deadline), left
        finally:
            self.statistics.count(nodes=search.nodes, depth=state.depth + search.depth)

    @staticmethod
    def _region(state: State, disjunct: int, fixing: Fixing) -> list[Node]:
        """The state below with all phases known, which gets bounds and an LP of its own."""
        leaf = state.copy()
        leaf.disjuncts = (disjunct,)
        leaf.depth += len(fixing)
        try:
            for (layer, neuron), phase in fixing:
                leaf.fix(layer, np.array([neuron]), phase)
        except Infeasible:
            return []
        return [Node(leaf, min((layer for (layer, _), _ in fixing), default=0))]

    # -- branching ---------------------------------------------------------------------------------------
    def _halves(self, node: Node) -> list[Node]:
        """One subproblem per disjunct, or the two phases of a neuron: the preferred one is searched first (last in the list)."""
        state = node.state
        if len(state.disjuncts) > 1 and (self._small or not state.unknown):
            return [self._of_disjunct(state, disjunct) for disjunct in state.disjuncts]
        assert node.relaxation is not None
        branch = choose_branch(node.relaxation, node.point)
        if branch is None:
            return []
        layer, neuron, first = branch
        children: list[Node] = []
        for phase in (-first, first):
            child = state.copy()
            child.depth += 1
            try:
                child.fix(layer, np.array([neuron]), phase)
            except Infeasible:
                continue
            children.append(Node(child, layer))
        node.empty = not children
        return children

    @staticmethod
    def _of_disjunct(state: State, disjunct: int) -> Node:
        child = state.copy()
        child.disjuncts = (disjunct,)
        return Node(child, max(len(state.phase) - 1, 0))
