"""Input splitting on a condensed network: for few inputs and tens of thousands of ReLUs.

The network is written over the ReLUs that are unstable on the whole box (`bounds.structured.condense`). A subproblem is
a subproblem of the box with the condensed network of its parent: bounds of all ReLUs are found again on the subproblem, what is stable there
falls away, and so networks shrink from level to level. Where bounds do not refute it, the input is halved that, by the
chords of the relaxation, moves the ReLUs most whose relaxation costs the bound; once few ReLUs are unstable, their
phases are searched (`subproblem_search`).
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
from verifier.bounds.structured.condense import Condenser
from verifier.engines.base import Answer, EngineResult
from verifier.engines.native.settings import NativeSettings
from verifier.engines.native.subproblem_search import SubproblemSearch
from verifier.errors import MemoryLimitError, TimeLimitError
from verifier.events import Listener, Note
from verifier.falsify.falsifier import Falsifier
from verifier.falsify.search import FalsifierSettings
from verifier.limits import Deadline, MemoryBudget
from verifier.network.operators import Array
from verifier.options import Options
from verifier.properties.query import Query
from verifier.properties.rows import Conditions
from verifier.verdict import Certainty

ROOT_STEPS = 20
"""Steps of the ascent on the rows of a box."""
FEW_NEURONS, LENIENCE = 400, 2.0
"""With at most so many unstable ReLUs their phases are searched, for as long as this many times the box's bounds took."""
BATCH = 4
"""Boxes between two looks at the clock."""
LOOK = 3.0
"""Seconds of the search for counterexamples once the bounds of the whole box have failed, at most."""
NARROW = 1e-14
"""Boxes no wider than this, relative to the size of their ends, are not halved."""


@dataclass(frozen=True, eq=False)
class Subproblem:
    """A subproblem of the box.

    Attributes:
        condensed: a condensed network that holds on it; its block 0 is the subproblem itself.
        disjuncts: that are still open on it.
        fresh: whether its bounds are those of the subproblem already.
        spent: work that these bounds took (`CondensedNetwork.work`).
        rows, weights: of these disjuncts' rows, the weights that gave their bounds ``(neurons, rows)``; None before.
    """

    condensed: CondensedNetwork
    disjuncts: Sequence[int]
    fresh: bool
    rows: npt.NDArray[np.intp] | None = None
    weights: Array | None = None
    spent: float = 0.0


class BoxSearch:
    """One search; it is its own bounder, brancher and leaf solver."""

    def __init__(self, query: Query, conditions: Conditions, options: Options, settings: NativeSettings) -> None:
        self.query, self.conditions, self.options, self.settings = query, conditions, options, settings
        self.memory = MemoryBudget.of(options.memory)

    def run(self, deadline: Deadline, listener: Listener) -> EngineResult:
        """Search until every disjunct is refuted, a witness is found, or a limit is met."""
        began, until = time.monotonic(), np.inf if deadline.at is None else deadline.at
        threads = self.options.threads
        try:
            condenser = Condenser(
                self.query.network,
                self.query.box,
                NeuronBounder(1, threads, until),
                memory=self.memory,
                deadline=deadline,
                threads=threads,
            )
            condensed = condenser.run()
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
            witness = Falsifier(FalsifierSettings(most=LOOK)).run(
                self.query, deadline, seed=self.options.seed + 1, listener=listener
            )
        if witness is not None:
            return self._result(SearchResult(ending=Ending.WITNESS, witness=witness, done=1))
        search = BranchAndBound(
            store=DepthStore(self.memory),
            bounder=self,
            brancher=self,
            leaf=self,
            settings=Settings(batch=BATCH, piece=1, threads=threads, unit="boxes"),
        )
        return self._result(search.run(self.split(first.batch, first.lower).batch, deadline, listener))

    # -- the parts of branch and bound -------------------------------------------------------------------
    def bound(self, batch: Items[Subproblem], deadline: Deadline) -> Bounded[Items[Subproblem]]:
        """Bounds of all ReLUs, and then of the rows; see `bab.interfaces.Bounder`."""
        done, lower, witness = [], [], None
        for subproblem in batch.items:
            deadline.check("while bounding a box")
            condensed = subproblem.condensed
            if not subproblem.fresh:
                condensed = refine(condensed, NeuronBounder(1, until=np.inf if deadline.at is None else deadline.at))
            search = SubproblemSearch(
                self.query, self.conditions, condensed, deadline, settings=self.settings.relu.subproblem
            )
            nodes, points = search.root(subproblem.disjuncts, 1)
            if len(nodes):
                nodes, points = search.root(search.disjuncts(nodes), ROOT_STEPS)
            done.append(
                Subproblem(condensed, search.disjuncts(nodes), True, nodes.row, nodes.weights.T, condensed.work.done)
            )
            lower.append(float(nodes.bound.min()) if len(nodes) else np.inf)
            witness = search.look(points) if witness is None else witness
        return Bounded(Items(tuple(done), batch.size), np.array(lower), witness)

    def split(self, batch: Items[Subproblem], lower: Array) -> Children[Items[Subproblem]]:
        """Two halves of each subproblem; see `bab.interfaces.Brancher`."""
        children: list[Subproblem] = []
        parents: list[int] = []
        for k, subproblem in enumerate(batch.items):
            box = subproblem.condensed.blocks[0]
            size = np.maximum(np.abs(box.low), np.abs(box.high))
            wide = box.high - box.low > NARROW * size
            if not wide.any():
                continue
            axis = int(np.where(wide, self._influence(subproblem), -1.0).argmax())
            middle = box.low[axis] + (box.high[axis] - box.low[axis]) / 2
            for end in ("high", "low"):
                half = getattr(box, end).copy()
                half[axis] = middle
                condensed = copy.copy(subproblem.condensed)
                condensed.blocks = [replace(box, **{end: half}), *subproblem.condensed.blocks[1:]]
                children.append(Subproblem(condensed, subproblem.disjuncts, False))
                parents.append(k)
        return Children(Items(tuple(children), batch.size), np.array(parents, dtype=np.intp))

    def takes(self, batch: Items[Subproblem], lower: Array) -> npt.NDArray[np.bool_]:
        """Subproblems with few unstable ReLUs; see `bab.interfaces.LeafSolver`."""
        return np.array([0 < subproblem.condensed.neurons <= FEW_NEURONS for subproblem in batch.items])

    def solve(self, leaf: Items[Subproblem], deadline: Deadline) -> LeafAnswer:
        """A search over phases, for a short time; see `bab.interfaces.LeafSolver`."""
        (subproblem,) = leaf.items
        search = SubproblemSearch(
            self.query, self.conditions, subproblem.condensed, deadline, settings=self.settings.relu.subproblem
        )
        nodes, _ = search.root(subproblem.disjuncts, ROOT_STEPS)
        if not len(nodes):
            return LeafAnswer(Verdict.REFUTED)
        if not subproblem.condensed.neurons:
            return LeafAnswer(Verdict.OPEN, reason="a box without unstable ReLUs stays undecided within rounding")
        found = search.run(nodes, subproblem.spent, LENIENCE)
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
        assert subproblem.rows is not None
        assert subproblem.weights is not None
        search = condensed.rows(
            self.conditions.y_rows[subproblem.rows],
            self.conditions.x_rows[subproblem.rows],
            self.conditions.bound[subproblem.rows],
        )
        phases = np.repeat(condensed.phases[:, None], len(search), axis=1)
        found = ascend(condensed, search, subproblem.weights, phases, steps=1, score=True)
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
