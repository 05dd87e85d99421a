"""Branch and bound over ReLU phases, for inputs of high dimension.

The network is written over the ReLUs that are open on the box (`CondensedNetwork`), with bounds optimised for each of
them. With these bounds the box is searched (`SubproblemSearch`: β-CROWN). Where that does not soon succeed and bounds are
cheap, the bound of each ReLU is searched for as well (`NeuronSearch`), with more and more effort; then the box is divided
by the phase of one ReLU, and both subproblems get bounds of their own. A bound that misses zero by little cuts the box
(`cuts`), and bounds are found again on what that leaves. That ReLU is an early one, whose relaxation loosens
all bounds after it; the search within a subproblem splits the late ones.
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
from verifier.bounds.condensed import Bounder, CondensedNetwork, Start
from verifier.bounds.condensed_refine import RowsKept, refine
from verifier.bounds.crown_slopes import NeuronBounder
from verifier.bounds.neuron_search import NeuronSearch
from verifier.bounds.restriction import restrict
from verifier.engines.base import Answer, EngineResult
from verifier.engines.native.cuts import sharpened
from verifier.engines.native.node_store import Nodes
from verifier.engines.native.settings import ReluSettings
from verifier.engines.native.subproblem_search import Outcome, SubproblemSearch
from verifier.errors import TimeLimitError
from verifier.events import Event, Listener, Note, Progress
from verifier.falsify.falsifier import Falsifier
from verifier.falsify.search import FalsifierSettings
from verifier.limits import Deadline, MemoryBudget, thread_pool
from verifier.network.operators import Array
from verifier.options import Options
from verifier.properties.query import Query
from verifier.properties.rows import Conditions
from verifier.verdict import Certainty

if TYPE_CHECKING:
    from verifier.engines.native.relu_record import ReluRecord


@dataclass(frozen=True)
class Refined:
    """What finding a subproblem's bounds anew took and gave.

    Attributes:
        seconds, work: spent on it.
        gain: the share of the unstable neurons that it fixed.
    """

    seconds: float
    work: float
    gain: float


@dataclass(frozen=True, eq=False)
class Subproblem:
    """A subproblem of the box, on which the bounds of all neurons are found anew.

    Attributes:
        condensed: a condensed network that holds on it.
        phases: ``(neurons of it,)``: the phases that make it the subproblem.
        disjuncts: the disjuncts that are still open on it.
        effort: of the searches for its neurons' bounds; 0: there are none.
        node: its number in the proof.
        refined: what finding these bounds anew took, if that is done already.
        left, failure: once it is searched, the subproblems that take its place, or why nothing more can be done.
    """

    condensed: CondensedNetwork
    phases: Array
    disjuncts: Sequence[int]
    effort: int = 0
    node: int = 0
    refined: Refined | None = None
    left: tuple[Subproblem, ...] = ()
    failure: str = ""


class ReluSplit(LastResort):
    """One search; see the module.

    Source:
        β-CROWN: Wang et al., NeurIPS 2021, Theorem 3.1, and "bab-refine" there; dividing the box by early
        ReLUs is this module's own.
    """

    def __init__(
        self, query: Query, conditions: Conditions, options: Options, settings: ReluSettings = ReluSettings()
    ) -> None:
        self.original, self.conditions, self.options, self.threads = query, conditions, options, options.threads
        self.settings = settings
        self.query = query
        self.record: ReluRecord | None = None
        if options.proof:
            from verifier.engines.native.relu_record import ReluRecord
            from verifier.proofs.relu_network import relu_network

            self.query = replace(query, network=relu_network(query.network))
            self.record = ReluRecord(self.query.network, conditions)
        self.count = self.subproblems = 0
        self._failure = ""
        self._whole = False
        self._lock = threading.Lock()

    def run(self, deadline: Deadline, listener: Listener) -> EngineResult:
        """Search until every disjunct is refuted, a witness is found, or the deadline passes."""
        self._deadline, self._listener, self._begin = deadline, listener, time.monotonic()
        until = np.inf if deadline.at is None else deadline.at
        condensed = restrict(self.query.network, self.query.box, NeuronBounder(1, self.threads, until))
        search = SubproblemSearch(
            self.query, self.conditions, condensed, deadline, self.record is not None, settings=self.settings.subproblem
        )
        nodes, points = search.root(range(self.conditions.disjuncts), 1)
        if len(nodes):
            nodes, points = search.root(search.disjuncts(nodes), self.settings.root_steps)
        if self.record is not None:
            self.record.tree.bounds(self.record.root)
            self.record.leaves(self.record.root, condensed, search.outcome.leaves, ())
        if not len(nodes):
            return self._unsat()
        witness = search.look(points)
        if witness is None and self.options.prepass:
            falsifier = Falsifier(FalsifierSettings().thorough(self.query.network))
            witness = falsifier.run(self.query, deadline, seed=self.options.seed + 1, listener=listener)
        if witness is not None:
            return self._result(Answer.SAT, x=witness)
        if not condensed.neurons:  # one linear region
            search.run(nodes, 0.0)
            if search.outcome.witness is not None:
                return self._result(Answer.SAT, x=search.outcome.witness)
            if search.outcome.failure:
                return self._result(Answer.UNKNOWN, reason=search.outcome.failure)
            return self._unsat()
        return self._divide(Subproblem(condensed, condensed.phases, search.disjuncts(nodes)))

    def _divide(self, root: Subproblem) -> EngineResult:
        """Refute subproblems, the last ones first, several at once as soon as there are several."""
        search = BranchAndBound(
            store=DepthStore(MemoryBudget.of(self.options.memory)),
            bounder=self,
            brancher=self,
            leaf=self,
            settings=Settings(batch=self.threads, piece=self.threads, unit="parts"),
            stop=lambda so_far: "a subproblem stays open" if so_far.stuck else "",
        )
        found = search.run(Items((root,), root.condensed.nbytes), self._deadline)  # progress is told within subproblems
        if found.ending is Ending.WITNESS:
            return self._result(Answer.SAT, x=found.witness)
        if found.ending is Ending.PROVED:
            return self._unsat()
        if found.late:
            reason = f"{found.left} subproblems left: {found.reason} after {self.count} nodes and {self.subproblems} subproblems"
            return self._result(Answer.TIMEOUT, reason=reason)
        return self._result(Answer.UNKNOWN, reason=self._failure or found.reason)

    # -- the parts of the branch and bound ---------------------------------------------------------------
    def bound(self, batch: Items[Subproblem], deadline: Deadline) -> Bounded[Items[Subproblem]]:
        """See `verifier.bab.Bounder.bound`: searches the subproblems, one by all threads, several side by side."""
        if len(batch) == 1:
            ends = [self._refute(batch.items[0], self.threads)]
        else:
            with thread_pool(len(batch)) as pool:
                ends = list(pool.map(lambda subproblem: self._refute(subproblem, 1), batch.items))
        searched = []
        for subproblem, (outcome, left) in zip(batch.items, ends, strict=True):
            if outcome.witness is not None:
                return Bounded(batch, np.full(len(batch), -1.0), outcome.witness)
            if outcome.failure and deadline.passed:
                raise TimeLimitError(outcome.failure)
            searched.append(replace(subproblem, left=tuple(left), failure=outcome.failure))
        lower = np.array([-1.0 if subproblem.left or subproblem.failure else 1.0 for subproblem in searched])
        return Bounded(Items(tuple(searched), batch.size), lower)

    def split(self, batch: Items[Subproblem], lower: Array) -> Children[Items[Subproblem]]:
        """See `verifier.bab.Brancher.split`: what takes the place of each subproblem."""
        parents = [k for k, subproblem in enumerate(batch.items) if not subproblem.failure for _ in subproblem.left]
        children = tuple(child for subproblem in batch.items if not subproblem.failure for child in subproblem.left)
        return Children(Items(children, batch.size), np.array(parents, dtype=np.intp))

    def solve(self, leaf: Items[Subproblem], deadline: Deadline) -> LeafAnswer:
        """See `verifier.bab.LeafSolver.solve`: why a subproblem cannot be divided further."""
        self._failure = leaf.items[0].failure
        return LeafAnswer(Verdict.OPEN, reason=self._failure)

    def _refute(self, subproblem: Subproblem, threads: int) -> tuple[Outcome, list[Subproblem]]:
        """Search a subproblem; what is to be searched instead of what is left of it."""
        settings, keep = self.settings, self.record is not None
        subproblem, refined = self._refined(subproblem, threads)
        more = self._more(subproblem, refined)
        search = SubproblemSearch(
            self.query, self.conditions, subproblem.condensed, self._deadline, keep, threads, settings.subproblem
        )
        nodes: Nodes | None = None
        if not subproblem.condensed.empty:
            nodes, points = search.root(subproblem.disjuncts, settings.root_steps)
            search.outcome.witness = search.look(points)
            self._tell(subproblem, nodes)
            if len(nodes) and search.outcome.witness is None:
                affordable = refined.seconds * settings.sharpen.times <= self._deadline.left
                if affordable and not keep and subproblem.refined is None:
                    parts = self._sharpened(search, nodes, threads)
                    if len(parts) != 1:
                        return search.outcome, [_of(subproblem, part, some, refined) for part, some in parts]
                    search, nodes = parts[0]
                self._search(search, nodes, refined, more)
        left = search.outcome.left
        subproblems: list[Subproblem] = []
        if left and more:
            harder = subproblem.effort * settings.harder or settings.effort
            subproblems = [Subproblem(search.condensed, search.condensed.phases, left, harder)]
        elif left:
            assert nodes is not None
            subproblems = self._halves(subproblem, search, nodes, refined)
        if self.record is not None:
            self.record.leaves(subproblem.node, search.condensed, search.outcome.leaves, left)
        return search.outcome, subproblems

    def _more(self, subproblem: Subproblem, refined: Refined) -> bool:
        """Whether the whole box's bounds will be searched for with more effort."""
        settings, effort, whole_box = self.settings, subproblem.effort, not subproblem.phases.any()
        worth = not effort or refined.gain >= settings.worth
        if effort == settings.effort and whole_box and not worth:
            self._whole = True  # its early ReLUs are not what loosens the bounds: dividing it by one gains little
        expected = refined.seconds * settings.harder if effort else 0.0
        return worth and self.record is None and whole_box and expected < settings.share * self._deadline.left

    def _search(self, search: SubproblemSearch, nodes: Nodes, refined: Refined, more: bool) -> None:
        """Search within the bounds that a subproblem has, for as long as they are worth."""
        spent, cut = refined.work, search.condensed.cut is not None
        if cut:
            spent += search.condensed.work.done
        lenience = self.settings.lenience_at_first if more else self.settings.lenience
        found = search.run(nodes, spent, np.inf if self._whole and not cut else lenience, self._progress)
        with self._lock:
            self.count += found.done

    def _halves(
        self, subproblem: Subproblem, search: SubproblemSearch, nodes: Nodes, refined: Refined
    ) -> list[Subproblem]:
        """Two subproblems by the phase of one ReLU."""
        condensed, left = search.condensed, search.outcome.left
        rows = search.start.take(nodes.row[np.isin(self.conditions.disjunct_of[nodes.row], left)])
        neuron = self._unit(condensed, rows, left, refined.work)
        halves, effort = (0, 0), self.settings.subproblem_effort
        if self.record is not None:
            halves = self.record.tree.divide_neuron(subproblem.node, int(self.record.neurons(condensed)[neuron]))
            effort = 0
        subproblems = []
        for sign, node in zip((1, -1), halves, strict=True):
            phases = condensed.phases
            phases[neuron] = sign
            subproblems.append(Subproblem(condensed, phases, left, effort, node))
        return subproblems

    def _refined(self, subproblem: Subproblem, threads: int) -> tuple[Subproblem, Refined]:
        """A subproblem with its own bounds of all neurons."""
        if subproblem.refined is not None:
            return subproblem, subproblem.refined
        began, settings, keep = time.monotonic(), self.settings, self.record is not None
        with self._lock:
            self.subproblems += 1
            first = self.subproblems == 1
        limit = began + (0.3 if first else 1.0) * self._deadline.left
        steps = settings.tighten_steps if first else settings.refine_steps
        neurons: Bounder = NeuronBounder(steps, threads, limit, half=keep)
        if subproblem.effort:
            assert isinstance(neurons, NeuronBounder)
            patience = began + settings.patience * self._deadline.left
            neurons = NeuronSearch(neurons, subproblem.effort, patience, settings.neurons)
        kept_rows: RowsKept | None = [] if keep else None
        condensed = refine(subproblem.condensed, neurons, subproblem.phases, kept_rows)
        if self.record is not None and kept_rows is not None:
            self.record.weighted_bounds(subproblem.node, condensed, kept_rows)
        if first:
            self._whole = condensed.work.done >= settings.longest_refinement
        gain = 1.0 - condensed.neurons / max(1, subproblem.condensed.neurons)
        return replace(subproblem, condensed=condensed), Refined(time.monotonic() - began, condensed.work.done, gain)

    def _sharpened(self, search: SubproblemSearch, nodes: Nodes, threads: int) -> list[tuple[SubproblemSearch, Nodes]]:
        """What is left of a subproblem, each disjunct under the cut that its bound makes; those without one stay together."""
        bounder = NeuronBounder(self.settings.refine_steps, threads, self._deadline.at or np.inf)
        parts: list[tuple[SubproblemSearch, Nodes]] = []
        uncut: list[int] = []
        for k in range(len(nodes)):
            part, some = sharpened(
                search, nodes.take(np.array([k])), bounder, self.settings.sharpen, self.settings.root_steps
            )
            if part is search:
                uncut.append(k)
            elif len(some):
                parts.append((part, some))
        if uncut:
            parts.append((search, nodes.take(np.array(uncut))))
        return parts

    def _unit(self, condensed: CondensedNetwork, rows: Start, disjuncts: Sequence[int], most: float) -> int:
        """The neuron to divide a subproblem by: of those with the highest scores the one whose subproblems have the best bounds.

        Args:
            most: work after which no further one is tried.
        """
        scores = condensed.neuron_scores(rows)
        best, choice, done = -np.inf, int(scores.argmax()), 0.0
        for neuron in np.argsort(-scores)[: self.settings.tried_neurons]:
            if scores[neuron] <= 0 or done > most:
                break
            ends = []
            for sign in (1, -1):
                phases = condensed.phases
                phases[neuron] = sign
                half = refine(condensed, NeuronBounder(self.settings.trial_steps), phases)
                bound = np.zeros(1)
                if not half.empty:
                    search = SubproblemSearch(
                        self.query, self.conditions, half, self._deadline, settings=self.settings.subproblem
                    )
                    bound = search.root(disjuncts, self.settings.trial_root_steps)[0].bound
                done += half.work.done
                ends.append(float(np.minimum(bound, 0.0).sum()))
            value = 2 * min(ends) + max(ends)
            if value > best:
                best, choice = value, int(neuron)
        return choice

    # -- helpers -----------------------------------------------------------------------------------------
    def _tell(self, subproblem: Subproblem, nodes: Nodes) -> None:
        """How far bounds alone came, if the subproblem is the whole box."""
        if not subproblem.phases.any():
            left = f"{len(nodes)} disjuncts and {subproblem.condensed.neurons} unstable ReLUs"
            text = f"{left} left by the bounds of the whole box"
            self._listener(Note(seconds=time.monotonic() - self._begin, text=text))

    def _progress(self, event: Event) -> None:
        """A subproblem's progress, with what earlier subproblems did and when the whole search began."""
        if isinstance(event, Progress):
            event = replace(event, seconds=time.monotonic() - self._begin, done=self.count + event.done)
        self._listener(event)

    def _unsat(self) -> EngineResult:
        proof = None if self.record is None else self.record.tree
        return self._result(Answer.UNSAT, certainty=Certainty.RIGOROUS, proof=proof)

    def _result(self, answer: Answer, **details: Any) -> EngineResult:
        statistics: dict[str, float | int | str] = {"method": "ReLU splitting", "nodes": self.count}
        statistics["parts"] = self.subproblems
        return EngineResult(answer=answer, statistics=statistics, **details)


def _of(subproblem: Subproblem, search: SubproblemSearch, nodes: Nodes, refined: Refined) -> Subproblem:
    """A subproblem of some disjuncts, under their cut."""
    condensed = search.condensed
    return replace(
        subproblem,
        condensed=condensed,
        phases=condensed.phases,
        disjuncts=search.disjuncts(nodes),
        refined=refined,
    )
