"""Input splitting on a condensed network: for few inputs and tens of thousands of ReLUs.

The network is written over the ReLUs that are unstable on the whole box (`bounds.restriction`). A subproblem is
a part of the box with the condensed network of its parent: bounds of all ReLUs are found again on the part, what is
stable there falls away, and so networks shrink from level to level. Where many halvings seem to lie ahead, the slopes of all ReLUs'
bounds are optimised once, and inherited: a box costs twice as much then, and its descendants nothing more. Where bounds
do not refute a box, the input is halved that, by the chords of the relaxation, moves the ReLUs most whose relaxation
costs the bound; where little is missing, or few ReLUs are unstable, their phases are searched (`subproblem_search`).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

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
from verifier.bounds.condensed import CondensedNetwork
from verifier.bounds.condensed_refine import refine
from verifier.bounds.crown_slopes import NeuronBounder, ascend
from verifier.bounds.restriction import restrict
from verifier.engines.base import Answer, EngineResult
from verifier.engines.native.node_store import Nodes
from verifier.engines.native.settings import NativeSettings
from verifier.engines.native.subproblem_search import SubproblemSearch
from verifier.errors import MemoryLimitError, TimeLimitError
from verifier.events import Listener, Note
from verifier.falsify.falsifier import Falsifier
from verifier.falsify.replay import first_confirmed
from verifier.falsify.search import FalsifierSettings
from verifier.limits import Deadline, MemoryBudget
from verifier.network.operators import Array
from verifier.options import Options
from verifier.properties.query import Query
from verifier.properties.rows import Conditions
from verifier.verdict import Certainty


@dataclass(frozen=True, eq=False)
class Subproblem:
    """A subproblem of the box.

    Attributes:
        condensed: a condensed network that holds on it; its block 0 is the subproblem itself.
        disjuncts: that are still open on it.
        fresh: whether its bounds are those of the subproblem already.
        optimised: whether its bounds come from optimised slopes, its own or a parent's.
        nodes: the best row of each of these disjuncts, with its bound and the weights that gave it; None before.
        miss: by how much the bounds miss the rows' values at their minimisers, as a multiple of these values: 1 would do.
        spent: work that these bounds took (`CondensedNetwork.work`).
    """

    condensed: CondensedNetwork
    disjuncts: Sequence[int]
    fresh: bool
    optimised: bool = False
    nodes: Nodes | None = None
    miss: float = np.inf
    spent: float = 0.0


class BoxSearch:
    """One search; it is its own bounder, brancher and leaf solver.

    Source:
        input splitting: Wang et al., USENIX Security 2018; α-CROWN: Xu et al., ICLR 2021, Section 3; on
        condensed networks it is this package's own.
    """

    def __init__(self, query: Query, conditions: Conditions, options: Options, settings: NativeSettings) -> None:
        self.query, self.conditions, self.options, self.settings = query, conditions, options, settings
        self.memory = MemoryBudget.of(options.memory)

    def run(self, deadline: Deadline, listener: Listener) -> EngineResult:
        """Search until every disjunct is refuted, a witness is found, or a limit is met."""
        began, until = time.monotonic(), np.inf if deadline.at is None else deadline.at
        threads = self.options.threads
        try:
            condensed = restrict(
                self.query.network,
                self.query.box,
                NeuronBounder(1, threads, until),
                fold_active=True,
                memory=self.memory,
                deadline=deadline,
                threads=threads,
            )
        except TimeLimitError as error:
            return EngineResult(answer=Answer.TIMEOUT, reason=str(error))
        except MemoryLimitError as error:
            return EngineResult(answer=Answer.UNKNOWN, reason=str(error))
        text = f"{condensed.neurons} of {self.query.network.neurons} ReLUs are unstable on the whole box"
        listener(Note(seconds=time.monotonic() - began, text=text))
        root = Items((Subproblem(condensed, range(self.conditions.disjuncts), True),), condensed.nbytes)
        try:
            first = self.bound(root, deadline)
        except TimeLimitError as error:
            return EngineResult(answer=Answer.TIMEOUT, reason=str(error))
        if first.lower[0] > 0:
            return self._result(SearchResult(ending=Ending.PROVED, done=1))
        witness = first.witness
        if witness is None and self.options.prepass:
            witness = Falsifier(FalsifierSettings(most=self.settings.condensed.look)).run(
                self.query, deadline, seed=self.options.seed + 1, listener=listener
            )
        if witness is not None:
            return self._result(SearchResult(ending=Ending.WITNESS, witness=witness, done=1))
        search = BranchAndBound(
            store=DepthStore(self.memory),
            bounder=self,
            brancher=self,
            leaf=self,
            settings=Settings(batch=self.settings.condensed.batch, piece=1, threads=threads, unit="boxes"),
        )
        return self._result(search.run(self.split(first.batch, first.lower).batch, deadline, listener))

    # -- the parts of branch and bound -------------------------------------------------------------------
    def bound(self, batch: Items[Subproblem], deadline: Deadline) -> Bounded[Items[Subproblem]]:
        """Bounds of all ReLUs, and then of the rows; see `bab.interfaces.Bounder`."""
        done, lower, witness = [], [], None
        for subproblem in batch.items:
            deadline.check("while bounding a box")
            condensed = subproblem.condensed if subproblem.fresh else self._refined(subproblem.condensed, 1, deadline)
            now, points = self._rows(subproblem, condensed, deadline)
            first = not subproblem.fresh and not subproblem.optimised
            if first and now.disjuncts and now.miss > self.settings.condensed.far:
                condensed = self._refined(condensed, self.settings.condensed.neuron_steps, deadline)
                now, points = self._rows(replace(now, optimised=True), condensed, deadline)
            assert now.nodes is not None
            done.append(now)
            lower.append(float(now.nodes.bound.min()) if now.disjuncts else np.inf)
            if witness is None:
                witness = first_confirmed(self.query, self.query.box.clip(points)) if len(points) else None
        return Bounded(Items(tuple(done), batch.size), np.array(lower), witness)

    def _refined(self, condensed: CondensedNetwork, steps: int, deadline: Deadline) -> CondensedNetwork:
        return refine(condensed, NeuronBounder(steps, until=np.inf if deadline.at is None else deadline.at))

    def _rows(
        self, subproblem: Subproblem, condensed: CondensedNetwork, deadline: Deadline
    ) -> tuple[Subproblem, Array]:
        """The subproblem with bounds of its rows over better bounds of its ReLUs, and these bounds' minimisers."""
        conditions = self.conditions
        search = SubproblemSearch(self.query, conditions, condensed, deadline, settings=self.settings.relu.subproblem)
        nodes, x = search.root(subproblem.disjuncts, 1)
        if len(nodes):
            nodes, x = search.root(search.disjuncts(nodes), self.settings.condensed.row_steps)
        x, miss = x.astype(np.float64), 0.0
        if len(nodes):
            y = self.query.network.forward(x).reshape(len(x), -1)
            rows = nodes.row
            value = (conditions.y_rows[rows] * y).sum(1) + (conditions.x_rows[rows] * x).sum(1) - conditions.bound[rows]
            with np.errstate(divide="ignore", invalid="ignore"):
                miss = float(np.where(value > 0, (value - nodes.bound) / value, np.inf).max())
        done = Subproblem(
            condensed,
            search.disjuncts(nodes),
            True,
            subproblem.optimised,
            nodes,
            miss,
            subproblem.spent + condensed.work.done,
        )
        return done, x

    def split(self, batch: Items[Subproblem], lower: Array) -> Children[Items[Subproblem]]:
        """Two halves of each subproblem; see `bab.interfaces.Brancher`."""
        children: list[Subproblem] = []
        parents: list[int] = []
        for k, subproblem in enumerate(batch.items):
            box = subproblem.condensed.blocks[0]
            size = np.maximum(np.abs(box.low), np.abs(box.high))
            wide = box.high - box.low > self.settings.boxes.narrow * size
            if not wide.any():
                continue
            axis = int(np.where(wide, self._influence(subproblem), -1.0).argmax())
            middle = box.low[axis] + (box.high[axis] - box.low[axis]) / 2
            for end in ("high", "low"):
                half = getattr(box, end).copy()
                half[axis] = middle
                condensed = copy.copy(subproblem.condensed)
                condensed.blocks = [replace(box, **{end: half}), *subproblem.condensed.blocks[1:]]
                children.append(Subproblem(condensed, subproblem.disjuncts, False, subproblem.optimised))
                parents.append(k)
        return Children(Items(tuple(children), batch.size), np.array(parents, dtype=np.intp))

    def takes(self, batch: Items[Subproblem], lower: Array) -> npt.NDArray[np.bool_]:
        """Subproblems that are nearly refuted, or have few unstable ReLUs; see `bab.interfaces.LeafSolver`."""
        settings = self.settings.condensed
        few = [0 < part.condensed.neurons <= settings.few_neurons for part in batch.items]
        near = [part.condensed.neurons > 0 and part.miss < settings.near for part in batch.items]
        return np.array(few) | np.array(near)

    def solve(self, leaf: Items[Subproblem], deadline: Deadline) -> LeafAnswer:
        """A search over phases, for a short time; see `bab.interfaces.LeafSolver`."""
        (subproblem,) = leaf.items
        assert subproblem.nodes is not None
        if not subproblem.condensed.neurons:
            return LeafAnswer(Verdict.OPEN, reason="a box without unstable ReLUs stays undecided within rounding")
        search = SubproblemSearch(
            self.query, self.conditions, subproblem.condensed, deadline, settings=self.settings.relu.subproblem
        )
        found = search.run(subproblem.nodes, subproblem.spent, self.settings.condensed.lenience)
        if found.ending is Ending.PROVED:
            return LeafAnswer(Verdict.REFUTED)
        if found.ending is Ending.WITNESS:
            return LeafAnswer(Verdict.WITNESS, witness=found.witness)
        return LeafAnswer(Verdict.OPEN, reason=found.reason)

    def _influence(self, subproblem: Subproblem) -> Array:
        """How much each input bears on what the relaxation costs the worst row, ``(n,)``.

        A ReLU's cost is laid upon the inputs in proportion to how far they move it, by the chords.
        """
        condensed, box = subproblem.condensed, subproblem.condensed.blocks[0]
        assert subproblem.nodes is not None
        some, conditions = subproblem.nodes.row, self.conditions
        rows = condensed.rows(conditions.y_rows[some], conditions.x_rows[some], conditions.bound[some])
        weights, phases = (np.ascontiguousarray(a.T) for a in (subproblem.nodes.weights, subproblem.nodes.phases))
        found = ascend(condensed, rows, weights, phases, steps=1, score=True)
        assert found.scores is not None
        cost = np.maximum(found.scores[:, int(found.lower.argmin())], 0.0)
        total = np.zeros(box.size)
        values = [np.diag(box.high - box.low).astype(np.float32)]
        for block in condensed.blocks[1:]:
            z = np.zeros((block.size, box.size), dtype=np.float32)
            for s, matrix in block.edges:
                matrix.forward(values[s], z)
            count = block.count
            spread = np.maximum(block.z_high - block.z_low, np.finfo(np.float64).tiny)
            total += (cost[block.first : block.first + count] / spread) @ np.abs(z[:count])
            z[:count] *= block.slope[:, None].astype(np.float32)
            values.append(z)
        return total

    def _result(self, found: SearchResult) -> EngineResult:
        statistics: dict[str, float | int | str] = {"boxes": found.done, "method": "input splitting, condensed"}
        if found.ending is Ending.PROVED:
            return EngineResult(answer=Answer.UNSAT, certainty=Certainty.RIGOROUS, statistics=statistics)
        if found.ending is Ending.WITNESS:
            return EngineResult(answer=Answer.SAT, x=found.witness, statistics=statistics)
        answer = Answer.TIMEOUT if found.late else Answer.UNKNOWN
        reason = f"{found.reason}; {found.left} boxes left, the lowest bound is {found.worst:.3g}"
        return EngineResult(answer=answer, reason=reason, statistics=statistics)
