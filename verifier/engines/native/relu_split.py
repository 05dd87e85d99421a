"""Branch and bound over ReLU phases, for inputs of high dimension.

The network is written over the ReLUs that are open on the box (`OpenForm`), with bounds optimised for each of
them. With these bounds the box is searched (`PartSearch`: β-CROWN). Where that does not soon succeed and bounds are
cheap, the bound of each ReLU is searched for as well (`UnitSearch`), with more and more effort; then the box is divided
by the phase of one ReLU, and both parts get bounds of their own. That ReLU is an early one, whose relaxation loosens
all bounds after it; the search within a part splits the late ones.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

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
from verifier.bounds.crown_slopes import UnitBounder
from verifier.bounds.open_form import Bounder, OpenForm, Start
from verifier.bounds.open_refine import RowsKept, refine
from verifier.bounds.unit_search import UnitSearch
from verifier.engines.base import Answer, EngineResult
from verifier.engines.native.part_search import Outcome, PartSearch
from verifier.engines.native.settings import ReluSettings
from verifier.errors import TimeLimitError
from verifier.events import Event, Listener, Note, Progress
from verifier.limits import Deadline, MemoryBudget, thread_pool
from verifier.network.operators import Array
from verifier.options import Options
from verifier.properties.query import Query
from verifier.properties.rows import Conditions
from verifier.search.prepass import find_witness, thorough_seconds
from verifier.verdict import Certainty

if TYPE_CHECKING:
    from verifier.engines.native.relu_record import ReluRecord


@dataclass(frozen=True, eq=False)
class Part:
    """A part of the box, on which the bounds of all units are found anew.

    Attributes:
        form: a form that holds on it.
        phases: ``(units of the form,)``: the phases that make it the part.
        cases: the cases that are still open on it.
        effort: of the searches for its units' bounds; 0: there are none.
        node, bounds: its number in the proof, and the number there of the form's bounds.
        halves, failure: once it is searched, what is left of it, or why nothing more can be done.
    """

    form: OpenForm
    phases: Array
    cases: Sequence[int]
    effort: int = 0
    node: int = 0
    bounds: int = -1
    halves: tuple[Part, ...] = ()
    failure: str = ""


class ReluSplit(LastResort):
    """One search; see the module."""

    def __init__(
        self, query: Query, conditions: Conditions, options: Options, settings: ReluSettings = ReluSettings()
    ) -> None:
        self.original, self.conditions, self.options, self.threads = query, conditions, options, options.threads
        self.settings = settings
        self.query = query
        self.record: ReluRecord | None = None
        if options.proof:
            from verifier.engines.native.relu_record import ReluRecord
            from verifier.proofs.builder import ProofBuilder
            from verifier.proofs.relu_network import relu_network

            self.query = replace(query, network=relu_network(query.network))
            self.record = ReluRecord(self.query.network, conditions, ProofBuilder())
        self.count = self.parts = 0
        self._failure = ""
        self._whole = False
        self._lock = threading.Lock()

    def run(self, deadline: Deadline, listener: Listener) -> EngineResult:
        """Search until every case is refuted, a witness is found, or the deadline passes."""
        self._deadline, self._listener, self._begin = deadline, listener, time.monotonic()
        until = np.inf if deadline.at is None else deadline.at
        form = OpenForm(self.query.network, self.query.box, UnitBounder(1, self.threads, until))
        search = PartSearch(
            self.query, self.conditions, form, deadline, self.record is not None, settings=self.settings.part
        )
        nodes, points = search.root(range(self.conditions.cases), 1)
        if len(nodes):
            nodes, points = search.root(search.cases(nodes), self.settings.root_steps)
        bounds = -1
        if self.record is not None:
            bounds = self.record.default_bounds(form)
            self.record.leaves(0, bounds, form, search.outcome.leaves, ())
        if not len(nodes):
            return self._unsat()
        witness = search.look(points)
        if witness is None and self.options.prepass:
            most = thorough_seconds(self.query.network)
            witness = find_witness(self.query, deadline, self.options.seed + 1, listener, most)
        if witness is not None:
            return self._result(Answer.SAT, x=witness)
        if not form.units:  # one linear region
            search.run(nodes, 0.0)
            if search.outcome.witness is not None:
                return self._result(Answer.SAT, x=search.outcome.witness)
            if search.outcome.failure:
                return self._result(Answer.UNKNOWN, reason=search.outcome.failure)
            return self._unsat()
        return self._divide(Part(form, form.phases, search.cases(nodes), bounds=bounds))

    def _divide(self, root: Part) -> EngineResult:
        """Refute parts, the last ones first, several at once as soon as there are several."""
        search = BranchAndBound(
            store=DepthStore(MemoryBudget.of(self.options.memory)),
            bounder=self,
            brancher=self,
            leaf=self,
            settings=Settings(batch=self.threads, piece=self.threads, unit="parts"),
            stop=lambda so_far: "a part stays open" if so_far.stuck else "",
        )
        found = search.run(Items((root,), root.form.nbytes), self._deadline)  # progress is told within parts
        if found.ending is Ending.WITNESS:
            return self._result(Answer.SAT, x=found.witness)
        if found.ending is Ending.PROVED:
            return self._unsat()
        if found.late:
            reason = f"{found.left} parts left: {found.reason} after {self.count} nodes and {self.parts} parts"
            return self._result(Answer.TIMEOUT, reason=reason)
        return self._result(Answer.UNKNOWN, reason=self._failure or found.reason)

    # -- the parts of the branch and bound ---------------------------------------------------------------
    def bound(self, batch: Items[Part], deadline: Deadline) -> Bounded[Items[Part]]:
        """See `verifier.bab.Bounder.bound`: searches the parts, one by all threads, several side by side."""
        if len(batch) == 1:
            ends = [self._refute(batch.items[0], self.threads)]
        else:
            with thread_pool(len(batch)) as pool:
                ends = list(pool.map(lambda part: self._refute(part, 1), batch.items))
        searched = []
        for part, (outcome, halves) in zip(batch.items, ends, strict=True):
            if outcome.witness is not None:
                return Bounded(batch, np.full(len(batch), -1.0), outcome.witness)
            if outcome.failure and deadline.passed:
                raise TimeLimitError(outcome.failure)
            searched.append(replace(part, halves=tuple(halves), failure=outcome.failure))
        lower = np.array([-1.0 if part.halves or part.failure else 1.0 for part in searched])
        return Bounded(Items(tuple(searched), batch.size), lower)

    def split(self, batch: Items[Part], lower: Array) -> Children[Items[Part]]:
        """See `verifier.bab.Brancher.split`: what the search of each part left open, in halves."""
        parents = [k for k, part in enumerate(batch.items) if not part.failure for _ in part.halves]
        halves = tuple(half for part in batch.items if not part.failure for half in part.halves)
        return Children(Items(halves, batch.size), np.array(parents, dtype=np.intp))

    def solve(self, leaf: Items[Part], deadline: Deadline) -> LeafAnswer:
        """See `verifier.bab.LeafSolver.solve`: why a part cannot be divided further."""
        self._failure = leaf.items[0].failure
        return LeafAnswer(Verdict.OPEN, reason=self._failure)

    def _refute(self, part: Part, threads: int) -> tuple[Outcome, list[Part]]:
        """Search a part; the halves of what is left of it."""
        began = time.monotonic()
        with self._lock:
            self.parts += 1
            first = self.parts == 1
        limit = began + (0.3 if first else 1.0) * self._deadline.left
        keep = self.record is not None
        kept_rows: RowsKept | None = [] if keep else None
        plain = UnitBounder(
            self.settings.tighten_steps if first else self.settings.refine_steps, threads, limit, half=keep
        )
        units: Bounder = (
            UnitSearch(plain, part.effort, began + self.settings.patience * self._deadline.left)
            if part.effort
            else plain
        )
        form = refine(part.form, units, part.phases, kept_rows)
        seconds, spent = time.monotonic() - began, form.work.done
        if first:
            self._whole = spent >= self.settings.longest_refinement
        harder = part.effort * self.settings.harder or self.settings.effort
        expected = seconds * self.settings.harder if part.effort else 0.0
        worth = not part.effort or form.units <= (1 - self.settings.worth) * part.form.units
        if part.effort == self.settings.effort and not part.phases.any() and not worth:
            self._whole = True  # its early ReLUs are not what loosens the bounds: dividing it by one gains little
        more = worth and not keep and not part.phases.any() and expected < self.settings.share * self._deadline.left
        """Whether the whole box's bounds will be searched for with more effort."""
        bounds = -1
        if self.record is not None and kept_rows is not None:
            bounds = self.record.weighted_bounds(part.node, part.bounds, form, kept_rows)
        search = PartSearch(self.query, self.conditions, form, self._deadline, keep, threads, self.settings.part)
        parts: list[Part] = []
        if not form.empty:
            nodes, points = search.root(part.cases, self.settings.root_steps)
            search.outcome.witness = search.look(points)
            if not part.phases.any():
                text = f"{len(nodes)} cases and {form.units} open ReLUs left by the bounds of the whole box"
                self._listener(Note(seconds=time.monotonic() - self._begin, text=text))
            if len(nodes) and search.outcome.witness is None:
                lenience = self.settings.lenience_at_first if more else self.settings.lenience
                patience = np.inf if self._whole else lenience
                found = search.run(nodes, form.work.done, patience, self._progress)
                with self._lock:
                    self.count += found.done
        left = search.outcome.left
        if left and more:
            parts.append(Part(form, form.phases, left, harder))
        elif left:
            rows = search.start.take(nodes.row[np.isin(self.conditions.case_of[nodes.row], left)])
            unit = self._unit(form, rows, left, spent)
            halves = (0, 0)
            if self.record is not None:
                halves = self.record.builder.divide_unit(part.node, int(self.record.units(form)[unit]))
            for sign, node in zip((1, -1), halves, strict=True):
                phases = form.phases
                phases[unit] = sign
                parts.append(Part(form, phases, left, 0 if keep else self.settings.part_effort, node, bounds))
        if self.record is not None:
            self.record.leaves(part.node, bounds, form, search.outcome.leaves, left)
        return search.outcome, parts

    def _unit(self, form: OpenForm, rows: Start, cases: Sequence[int], most: float) -> int:
        """The unit to divide a part by: of those with the highest scores the one whose parts have the best bounds.

        Args:
            most: work after which no further one is tried.
        """
        scores = form.unit_scores(rows)
        best, choice, done = -np.inf, int(scores.argmax()), 0.0
        for unit in np.argsort(-scores)[: self.settings.tried_units]:
            if scores[unit] <= 0 or done > most:
                break
            ends = []
            for sign in (1, -1):
                phases = form.phases
                phases[unit] = sign
                half = refine(form, UnitBounder(self.settings.trial_steps), phases)
                bound = np.zeros(1)
                if not half.empty:
                    search = PartSearch(self.query, self.conditions, half, self._deadline, settings=self.settings.part)
                    bound = search.root(cases, self.settings.trial_root_steps)[0].bound
                done += half.work.done
                ends.append(float(np.minimum(bound, 0.0).sum()))
            value = 2 * min(ends) + max(ends)
            if value > best:
                best, choice = value, int(unit)
        return choice

    # -- helpers -----------------------------------------------------------------------------------------
    def _progress(self, event: Event) -> None:
        """A part's progress, with what earlier parts did and when the whole search began."""
        if isinstance(event, Progress):
            event = replace(event, seconds=time.monotonic() - self._begin, done=self.count + event.done)
        self._listener(event)

    def _unsat(self) -> EngineResult:
        proof = None if self.record is None else self.record.builder.proof(self.original, "ReLU splitting")
        return self._result(Answer.UNSAT, certainty=Certainty.RIGOROUS, proof=proof)

    def _result(self, answer: Answer, **details: Any) -> EngineResult:
        statistics: dict[str, float | int | str] = {"method": "ReLU splitting", "nodes": self.count}
        statistics["parts"] = self.parts
        return EngineResult(answer=answer, statistics=statistics, **details)
