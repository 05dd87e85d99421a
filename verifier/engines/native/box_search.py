"""Input splitting on a condensed network: for few inputs and tens of thousands of ReLUs.

The network is written over the ReLUs that are unstable on the whole box (`bounds.structured.condense`). A subproblem is
a part of the box with the form of its parent: bounds of all ReLUs are found again on the part, what is stable there
falls away, and so forms shrink from level to level. Where bounds do not refute it, the input is halved that, by the
chords of the relaxation, moves the ReLUs most whose relaxation costs the bound; once few ReLUs are unstable, their
phases are searched (`part_search`).
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
from verifier.bounds.crown_slopes import UnitBounder, ascend
from verifier.bounds.open_form import OpenForm
from verifier.bounds.open_refine import refine
from verifier.bounds.structured.condense import Condenser
from verifier.engines.base import Answer, EngineResult
from verifier.engines.native.part_search import PartSearch
from verifier.engines.native.settings import NativeSettings
from verifier.errors import MemoryLimitError, TimeLimitError
from verifier.events import Listener, Note
from verifier.limits import Deadline, MemoryBudget
from verifier.network.operators import Array
from verifier.options import Options
from verifier.properties.query import Query
from verifier.properties.rows import Conditions
from verifier.search.prepass import find_witness
from verifier.verdict import Certainty

ROOT_STEPS = 20
"""Steps of the ascent on the rows of a box."""
FEW_UNITS, LENIENCE = 400, 2.0
"""With at most so many unstable ReLUs their phases are searched, for as long as this many times the box's bounds took."""
BATCH = 4
"""Boxes between two looks at the clock."""
LOOK = 3.0
"""Seconds of the search for counterexamples once the bounds of the whole box have failed, at most."""
NARROW = 1e-14
"""Boxes no wider than this, relative to the size of their ends, are not halved."""


@dataclass(frozen=True, eq=False)
class Part:
    """A part of the box.

    Attributes:
        form: a form that holds on it; its block 0 is the part itself.
        cases: that are still open on it.
        fresh: whether the form's bounds are those of the part already.
        spent: work that these bounds took (`OpenForm.work`).
        rows, weights: of these cases' rows, the weights that gave their bounds ``(units, rows)``; None before.
    """

    form: OpenForm
    cases: Sequence[int]
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
        """Search until every case is refuted, a witness is found, or a limit is met."""
        began, until = time.monotonic(), np.inf if deadline.at is None else deadline.at
        threads = self.options.threads
        try:
            condenser = Condenser(
                self.query.network,
                self.query.box,
                UnitBounder(1, threads, until),
                memory=self.memory,
                deadline=deadline,
                threads=threads,
            )
            form = condenser.run()
        except TimeLimitError as error:
            return EngineResult(answer=Answer.TIMEOUT, reason=str(error))
        except MemoryLimitError as error:
            return EngineResult(answer=Answer.UNKNOWN, reason=str(error))
        text = f"{form.units} of {self.query.network.neurons} ReLUs are unstable on the whole box"
        listener(Note(seconds=time.monotonic() - began, text=text))
        root = Items((Part(form, range(self.conditions.cases), True),), form.nbytes)
        try:
            first = self.bound(root, deadline)
        except TimeLimitError as error:
            return EngineResult(answer=Answer.TIMEOUT, reason=str(error))
        if first.lower[0] > 0:
            return self._result(SearchResult(ending=Ending.PROVED, done=1))
        witness = first.witness
        if witness is None and self.options.prepass:
            witness = find_witness(self.query, deadline, self.options.seed + 1, listener, LOOK)
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
    def bound(self, batch: Items[Part], deadline: Deadline) -> Bounded[Items[Part]]:
        """Bounds of all ReLUs, and then of the rows; see `bab.parts.Bounder`."""
        done, lower, witness = [], [], None
        for part in batch.items:
            deadline.check("while bounding a box")
            form = part.form
            if not part.fresh:
                form = refine(form, UnitBounder(1, until=np.inf if deadline.at is None else deadline.at))
            search = PartSearch(self.query, self.conditions, form, deadline, settings=self.settings.relu.part)
            nodes, points = search.root(part.cases, 1)
            if len(nodes):
                nodes, points = search.root(search.cases(nodes), ROOT_STEPS)
            done.append(Part(form, search.cases(nodes), True, nodes.row, nodes.weights.T, form.work.done))
            lower.append(float(nodes.bound.min()) if len(nodes) else np.inf)
            witness = search.look(points) if witness is None else witness
        return Bounded(Items(tuple(done), batch.size), np.array(lower), witness)

    def split(self, batch: Items[Part], lower: Array) -> Children[Items[Part]]:
        """Two halves of each part; see `bab.parts.Brancher`."""
        children: list[Part] = []
        parents: list[int] = []
        for k, part in enumerate(batch.items):
            box = part.form.blocks[0]
            size = np.maximum(np.abs(box.low), np.abs(box.high))
            wide = box.high - box.low > NARROW * size
            if not wide.any():
                continue
            axis = int(np.where(wide, self._influence(part), -1.0).argmax())
            middle = box.low[axis] + (box.high[axis] - box.low[axis]) / 2
            for end in ("high", "low"):
                half = getattr(box, end).copy()
                half[axis] = middle
                form = copy.copy(part.form)
                form.blocks = [replace(box, **{end: half}), *part.form.blocks[1:]]
                children.append(Part(form, part.cases, False))
                parents.append(k)
        return Children(Items(tuple(children), batch.size), np.array(parents, dtype=np.intp))

    def takes(self, batch: Items[Part], lower: Array) -> npt.NDArray[np.bool_]:
        """Parts with few unstable ReLUs; see `bab.parts.LeafSolver`."""
        return np.array([0 < part.form.units <= FEW_UNITS for part in batch.items])

    def solve(self, leaf: Items[Part], deadline: Deadline) -> LeafAnswer:
        """A search over phases, for a short time; see `bab.parts.LeafSolver`."""
        (part,) = leaf.items
        search = PartSearch(self.query, self.conditions, part.form, deadline, settings=self.settings.relu.part)
        nodes, _ = search.root(part.cases, ROOT_STEPS)
        if not len(nodes):
            return LeafAnswer(Verdict.REFUTED)
        if not part.form.units:
            return LeafAnswer(Verdict.OPEN, reason="a box without unstable ReLUs stays undecided within rounding")
        found = search.run(nodes, part.spent, LENIENCE)
        if found.ending is Ending.PROVED:
            return LeafAnswer(Verdict.REFUTED)
        if found.ending is Ending.WITNESS:
            return LeafAnswer(Verdict.WITNESS, witness=found.witness)
        return LeafAnswer(Verdict.OPEN, reason=found.reason)

    def _influence(self, part: Part) -> Array:
        """How much each input bears on what the relaxation costs the worst row, ``(n,)``.

        A ReLU's cost is laid upon the inputs in proportion to how far they move it, by the chords.
        """
        form, box = part.form, part.form.blocks[0]
        assert part.rows is not None
        assert part.weights is not None
        search = form.rows(
            self.conditions.y_rows[part.rows], self.conditions.x_rows[part.rows], self.conditions.bound[part.rows]
        )
        phases = np.repeat(form.phases[:, None], len(search), axis=1)
        found = ascend(form, search, part.weights, phases, steps=1, score=True)
        assert found.scores is not None
        cost = np.maximum(found.scores[:, int(found.lower.argmin())], 0.0)
        total = np.zeros(box.size)
        values = [np.diag(box.high - box.low).astype(np.float32)]
        for block in form.blocks[1:]:
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
