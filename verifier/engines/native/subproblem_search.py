"""One subproblem of the box in ReLU splitting: branch and bound with one set of preactivation bounds.

A node fixes phases of some ReLUs; its bound is CROWN's with optimised lower slopes α and multipliers β for the
fixed phases, both started from its parent's (β-CROWN: Wang et al., NeurIPS 2021). Nodes are bounded in batches,
the lowest bound first. The ReLU to split is chosen among those that cost the bound most at its minimiser, by
trying both children of a few candidates (filtered smart branching: De Palma et al., 2021).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.bab import (
    Bounded,
    BranchAndBound,
    Children,
    Ending,
    LastResort,
    LeafAnswer,
    SearchResult,
    Settings,
    Verdict,
)
from verifier.bounds.condensed import CondensedNetwork, Start
from verifier.bounds.crown_slopes import CHUNK, ascend, backward, initial_weights, prove
from verifier.engines.exact_regions import RegionSearch
from verifier.engines.native.node_store import Nodes, NodeStore
from verifier.engines.native.region_lp import decide_region
from verifier.engines.native.settings import SubproblemSettings
from verifier.events import Listener, ignore
from verifier.falsify.replay import first_confirmed
from verifier.limits import Deadline
from verifier.network.operators import Array
from verifier.properties.numbers import Point
from verifier.properties.query import Query
from verifier.properties.rows import Conditions

GIVEN_UP = "given up"


@dataclass(eq=False)
class Outcome:
    """How the search of a subproblem ended.

    Attributes:
        left: the disjuncts that it gave up.
        witness: a counterexample, if one was met.
        failure: why nothing more can be done, "" if there is no such reason.
        leaves: the nodes refuted, if they are kept.
    """

    left: list[int] = field(default_factory=list)
    witness: Point | None = None
    failure: str = ""
    leaves: list[Nodes] = field(default_factory=list)


def _growth(earlier: SearchResult, now: SearchResult) -> float:
    """By how much the nodes will have grown at the end, if they go on to grow with the lowest bound as they did."""
    rise = now.worst - earlier.worst
    if not rise > 0:
        return np.inf
    return float(np.exp(min(np.log(now.done / earlier.done) * -now.worst / rise, 50.0)))


class SubproblemSearch(LastResort):
    """The search of one subproblem: bounder, brancher and leaf solver of its `verifier.bab.BranchAndBound`.

    Args:
        condensed: bounds that hold on the subproblem.
        keep: whether to keep the leaves.
        threads: share the nodes of a batch.

    Source:
        β-CROWN: Wang et al., NeurIPS 2021, Theorem 3.1; of a few candidates on trial: filtered smart
        branching, De Palma et al., 2021.
    """

    def __init__(
        self,
        query: Query,
        conditions: Conditions,
        condensed: CondensedNetwork,
        deadline: Deadline,
        keep: bool = False,
        threads: int = 1,
        settings: SubproblemSettings = SubproblemSettings(),
    ) -> None:
        self.query, self.conditions, self.condensed, self.deadline = query, conditions, condensed, deadline
        self.keep, self.threads, self.settings = keep, threads, settings
        self.reserve = settings.reserve if keep else 1.0
        self.start = condensed.rows(conditions.y_rows, conditions.x_rows, conditions.bound)
        self.outcome = Outcome()

    def on(self, condensed: CondensedNetwork) -> SubproblemSearch:
        """A search like this one, with other bounds."""
        return SubproblemSearch(
            self.query, self.conditions, condensed, self.deadline, self.keep, self.threads, self.settings
        )

    def disjuncts(self, nodes: Nodes) -> list[int]:
        """The disjuncts that nodes belong to, one each."""
        return [int(k) for k in self.conditions.disjunct_of[nodes.row]]

    def root(self, disjuncts: Sequence[int], steps: int) -> tuple[Nodes, Array]:
        """The disjuncts that bounds on the whole subproblem do not refute, as nodes, and their minimisers."""
        conditions = self.conditions
        flat = np.concatenate([conditions.members(disjunct) for disjunct in disjuncts])
        rows = self.start.take(flat)
        weights = initial_weights(self.condensed, len(flat))
        phases = np.repeat(self.condensed.phases[:, None], len(flat), axis=1)
        found = ascend(self.condensed, rows, weights, phases, steps=steps)
        weights = self._short(found.weights)
        margin = prove(self.condensed, rows, weights, phases, self.reserve)
        chosen = []
        for disjunct in disjuncts:
            members = np.flatnonzero(conditions.disjunct_of[flat] == disjunct)
            best = members[margin[members].argmax()]
            if margin[best] > 0:
                self._refuted(Nodes(margin[[best]], flat[[best]], phases.T[[best]], weights.T[[best]]))
            else:
                chosen.append(best)
        pick = np.array(chosen, dtype=np.intp)
        return Nodes(margin[pick], flat[pick], phases.T[pick], weights.T[pick]), found.minimiser[pick]

    def run(self, nodes: Nodes, spent: float, lenience: float = np.inf, listener: Listener = ignore) -> SearchResult:
        """Search from these nodes on; `outcome` says what became of it.

        Args:
            spent: work that the bounds of the subproblem took (`CondensedNetwork.work`).
            lenience: the search is given up unless it is expected to end within so many times this work.
        """
        store, outcome = NodeStore(self.condensed.neurons), self.outcome
        batch = self.settings.batch
        search = BranchAndBound(
            store=store,
            bounder=self,
            brancher=self,
            leaf=self,
            settings=Settings(batch=batch * self.threads, piece=batch, threads=self.threads, unit="nodes"),
            stop=self._patience(len(nodes), spent, lenience),
        )
        found = search.run(nodes, self.deadline, listener)
        outcome.witness = found.witness
        if found.ending is Ending.OPEN:
            if found.reason == GIVEN_UP:
                outcome.left = sorted({int(self.conditions.disjunct_of[r]) for r in store.rows()})
            else:
                outcome.failure = found.reason if found.stuck else f"{found.left} nodes left"
        return found

    def _patience(self, roots: int, spent: float, lenience: float) -> Any:
        """When to stop: at a linear region that stays open, or where the end is too far away to wait for."""
        started = self.condensed.work.done
        pause = self.settings.patience * spent
        check = started + pause
        if (self.condensed.phases != 0).all():
            lenience = np.inf
        began = time.monotonic()
        earlier: SearchResult | None = None

        def stop(so_far: SearchResult) -> str:
            nonlocal check, earlier
            if so_far.stuck:
                return "a linear region stays undecided"
            now = self.condensed.work.done
            if now > check and lenience < np.inf:
                share, done = so_far.closed / roots, now - started
                if done * (1 - share) > share * lenience * spent:
                    return GIVEN_UP
                if self.condensed.cut is not None:  # near its end, or never: shares of closed nodes say little there
                    more = np.inf if earlier is None else _growth(earlier, so_far) - 1
                    too_long = (time.monotonic() - began) * more > self.settings.hope * self.deadline.left
                    if earlier is not None and too_long and done * more > lenience * spent:
                        return GIVEN_UP
                    earlier, check = so_far, now + max(done, pause)
                else:
                    check = now + pause
            return ""

        return stop

    # -- the parts of the branch and bound ---------------------------------------------------------------
    def bound(self, batch: Nodes, deadline: Deadline) -> Bounded[Nodes]:
        """See `verifier.bab.Bounder.bound`: refutes nodes in float64 where the ascent in float32 promises it."""
        rows = self.start.take(batch.row)
        phases = np.ascontiguousarray(batch.phases.T)
        weights = batch.weights.T.astype(np.float32)
        margin = self.settings.margin
        found = ascend(self.condensed, rows, weights, phases, steps=self.settings.steps, target=margin, score=True)
        assert found.scores is not None
        maybe = np.flatnonzero(found.lower > margin)
        proved = np.zeros(len(batch), dtype=bool)
        weights = self._short(found.weights)
        if len(maybe):
            certain = prove(self.condensed, rows.take(maybe), weights[:, maybe], phases[:, maybe], self.reserve)
            proved[maybe] = certain > 0
        nodes = Nodes(found.lower, batch.row, batch.phases, weights.T, found.scores.T)
        self._refuted(nodes.take(proved))
        left = np.flatnonzero(~proved)
        witness = None
        if len(left):
            witness = self.look(found.minimiser[[int(left[found.lower[left].argmin()])]])
        return Bounded(nodes, np.where(proved, 1.0, -1.0), witness)

    def split(self, batch: Nodes, lower: Array) -> Children[Nodes]:
        """See `verifier.bab.Brancher.split`: both phases of a neuron; none where all phases are fixed."""
        assert batch.scores is not None
        parent = np.flatnonzero((batch.phases == 0).any(axis=1))
        if not len(parent):
            return Children(batch.take(parent), parent)
        some = batch.take(parent)
        assert some.scores is not None
        phases, weights = np.ascontiguousarray(some.phases.T), np.ascontiguousarray(some.weights.T)
        neuron, ahead = self._choose(self.start.take(some.row), phases, weights, some.scores.T)
        column = np.arange(len(parent))
        weights[neuron, column] = 0.0
        children = []
        for side, sign in enumerate((1, -1)):
            fixed = phases.copy()
            fixed[neuron, column] = sign
            children.append(Nodes(np.maximum(ahead[side], some.bound), some.row, fixed.T, weights.T))
        return Children(Nodes.join(children), np.concatenate([parent, parent]))

    def solve(self, leaf: Nodes, deadline: Deadline) -> LeafAnswer:
        """See `verifier.bab.LeafSolver.solve`: a node without free neurons, by linear programming."""
        row = self.start.take(leaf.row)
        weights, point = decide_region(self.condensed, row, leaf.phases[0], deadline, self.settings.penalty)
        phases, weights = np.ascontiguousarray(leaf.phases.T), self._short(weights)
        if prove(self.condensed, row, weights[:, None], phases, self.reserve)[0] > 0:
            self._refuted(Nodes(leaf.bound, leaf.row, leaf.phases, weights[None]))
            return LeafAnswer(Verdict.REFUTED)
        witness = self.look(point[None])
        if witness is not None:
            return LeafAnswer(Verdict.WITNESS, witness)
        return self._exactly(leaf, deadline)

    def _exactly(self, leaf: Nodes, deadline: Deadline) -> LeafAnswer:
        """A linear region that rounding leaves open (a tie, say), in rational arithmetic; proofs cannot speak of that."""
        reason = "a linear region stays undecided within rounding"
        if self.keep or not self.query.network.is_relu_only:
            return LeafAnswer(Verdict.OPEN, reason=reason)
        assumed, known = self.condensed.signs(leaf.phases[0])
        box = self.condensed.blocks[0]
        disjunct = int(self.conditions.disjunct_of[leaf.row[0]])
        search = RegionSearch(self.query, box.low, box.high, assumed=assumed, known=known, disjuncts=[disjunct])
        if search.maps_cost > self.settings.exact_work:
            return LeafAnswer(Verdict.OPEN, reason=reason)
        search.run(self.settings.exact_work, deadline)
        if search.witness is not None:
            return LeafAnswer(Verdict.WITNESS, search.witness)
        if search.finished and not search.unsettled:
            return LeafAnswer(Verdict.REFUTED)
        return LeafAnswer(Verdict.OPEN, reason=search.unsettled or reason)

    def _choose(
        self, rows: Start, phases: npt.NDArray[np.int8], weights: Array, scores: Array
    ) -> tuple[npt.NDArray[np.intp], Array]:
        """The neuron to split in each node, and bounds of both children: of the best by score the one whose weaker
        child is strongest."""
        count, s = len(rows), self.settings
        tries = int(np.clip(s.batch * s.candidates // count, s.candidates, s.most_candidates))
        tries = min(tries, int((scores >= 0).sum(axis=0).min()))
        best = np.argpartition(-scores, tries - 1, axis=0)[:tries]
        bounds = np.zeros((2, tries, count), dtype=np.float32)
        columns = np.arange(count)
        together = max(1, CHUNK // (2 * count))  # a pass costs little more for many rows than for one
        for first in range(0, tries, together):
            neurons = best[first : first + together].reshape(-1)
            tried = np.tile(columns, 2 * len(neurons) // count)
            sign = np.repeat(np.array([1, -1], dtype=np.int8), len(neurons))
            fixed, weight = phases[:, tried], weights[:, tried]
            fixed[np.tile(neurons, 2), np.arange(len(tried))] = sign
            weight[np.tile(neurons, 2), np.arange(len(tried))] = 0.0
            found = backward(self.condensed, rows.take(tried), weight, fixed).lower
            bounds[:, first : first + together] = found.reshape(2, -1, count)
        cut = np.minimum(bounds, 0.0)
        choice = (2 * cut.min(axis=0) + cut.max(axis=0)).argmax(axis=0)
        return best[choice, columns], bounds[:, choice, columns]

    def _short(self, weights: Array) -> Array:
        """Weights that are written into a proof, in few bits: float16."""
        return weights.astype(np.float16).astype(weights.dtype) if self.keep else weights

    def _refuted(self, nodes: Nodes) -> None:
        if self.keep and len(nodes):
            self.outcome.leaves.append(nodes)

    def look(self, points: Array) -> Array | None:
        """The first of these points that is a witness.

        Shapes: points ``(k, n)``.
        """
        if not len(points):
            return None
        return first_confirmed(self.query, self.query.box.clip(points.astype(np.float64)))
