"""One part of the box in ReLU splitting: branch and bound with one set of preactivation bounds.

A node fixes phases of some ReLUs; its bound is CROWN's with optimised lower slopes α and multipliers β for the
fixed phases, both started from its parent's (β-CROWN: Wang et al., NeurIPS 2021). Nodes are bounded in batches,
the lowest bound first. The ReLU to split is chosen among those that cost the bound most at its minimiser, by
trying both children of a few candidates (filtered smart branching: De Palma et al., 2021).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from verifier.bounds.crown_slopes import ascend, backward, initial_weights, prove
from verifier.bounds.open_form import OpenForm, Start
from verifier.engines.native.node_store import Nodes, NodeStore
from verifier.engines.native.region_lp import decide_region
from verifier.limits import Deadline
from verifier.network.operators import Array
from verifier.properties.query import Query
from verifier.properties.rows import Conditions
from verifier.search.replay import first_confirmed

NODE_STEPS = 12
"""Steps of the ascent on a node."""
PATIENCE = 0.5
"""A part is searched for so many times the seconds that its bounds took before the search may be given up."""
BATCH = 128
"""Nodes that are bounded together."""
CANDIDATES, MOST_CANDIDATES = 4, 32
"""ReLUs of a node that are tried before one is split: more while there are few nodes."""
RESERVE = 10.0
"""Leaves that are kept for a proof are refuted with so many times the slack for rounding, for others will round otherwise."""
MARGIN = 1e-5
"""A bound in float32 must be so far above zero to be tried in float64."""


@dataclass(eq=False)
class Outcome:
    """How the search of a part ended.

    Attributes:
        left: the cases that it gave up.
        witness: a counterexample, if one was met.
        failure: why nothing more can be done, "" if there is no such reason.
        leaves: the nodes refuted, if they are kept.
    """

    left: list[int] = field(default_factory=list)
    witness: Array | None = None
    failure: str = ""
    leaves: list[Nodes] = field(default_factory=list)


class PartSearch:
    """The search of one part.

    Args:
        form: bounds that hold on the part.
        keep: whether to keep the leaves.
        pool: shares the nodes of a batch among ``threads`` threads; None: one thread.
        progress: called with the number of nodes done since the last call, of open nodes, and the lowest bound.
    """

    def __init__(
        self,
        query: Query,
        conditions: Conditions,
        form: OpenForm,
        deadline: Deadline,
        keep: bool = False,
        pool: ThreadPoolExecutor | None = None,
        threads: int = 1,
        progress: Callable[[int, int, float], None] = lambda done, left, worst: None,
    ) -> None:
        self.query, self.conditions, self.form, self.deadline = query, conditions, form, deadline
        self.keep, self.pool, self.threads, self.progress = keep, pool, threads if pool else 1, progress
        self.reserve = RESERVE if keep else 1.0
        self.start = form.rows(conditions.y_rows, conditions.x_rows, conditions.bound)
        self.outcome = Outcome()

    def cases(self, nodes: Nodes) -> list[int]:
        """The cases that nodes belong to, one each."""
        return [int(k) for k in self.conditions.case_of[nodes.row]]

    def root(self, cases: Sequence[int], steps: int) -> tuple[Nodes, Array]:
        """The cases that bounds on the whole part do not refute, as nodes, and their minimisers."""
        conditions = self.conditions
        flat = np.concatenate([conditions.members(case) for case in cases])
        rows = self.start.take(flat)
        weights = initial_weights(self.form, len(flat))
        phases = np.repeat(self.form.phases[:, None], len(flat), axis=1)
        found = ascend(self.form, rows, weights, phases, steps=steps)
        margin = prove(self.form, rows, found.weights, phases, self.reserve)
        chosen = []
        for case in cases:
            members = np.flatnonzero(conditions.case_of[flat] == case)
            best = members[margin[members].argmax()]
            if margin[best] > 0:
                self._refuted(Nodes(margin[[best]], flat[[best]], phases.T[[best]], found.weights.T[[best]]))
            else:
                chosen.append(best)
        pick = np.array(chosen, dtype=np.intp)
        return Nodes(margin[pick], flat[pick], phases.T[pick], found.weights.T[pick]), found.minimiser[pick]

    def run(self, nodes: Nodes, spent: float, lenience: float = np.inf) -> Outcome:
        """Search from these nodes on.

        Args:
            spent: seconds that the bounds of the part took.
            lenience: the search is given up unless it is expected to end within so many times these seconds.
        """
        store, outcome = NodeStore(self.form.units), self.outcome
        store.add(nodes)
        started = time.monotonic()
        check = started + PATIENCE * spent
        if (self.form.phases != 0).all():
            lenience = np.inf
        closed, base = 0.0, int((self.form.phases != 0).sum())
        while len(store):
            now = time.monotonic()
            if self.deadline.passed:
                outcome.failure = f"{len(store)} nodes left"
                return outcome
            if now > check and lenience < np.inf:
                share = closed / len(nodes)  # a leaf at depth d counts 2^-d of its case
                if (now - started) * (1 - share) > share * lenience * spent:
                    outcome.left = sorted({int(self.conditions.case_of[r]) for r in store.rows()})
                    return outcome
                check = now + PATIENCE * spent
            some = store.pop(BATCH * self.threads)
            count, ends = len(some), (some.phases != 0).all(axis=1)
            for k in np.flatnonzero(ends):
                if not self._decide_region(some.take(slice(k, k + 1))):
                    return outcome
            some = some.take(~ends)
            step = max(1, -(-len(some) // self.threads))
            pieces = [some.take(slice(k, k + step)) for k in range(0, len(some), step)]
            for children, leaves, points in self.pool.map(self._step, pieces) if self.pool else map(self._step, pieces):
                store.add(children)
                self._refuted(leaves)
                closed += float((0.5 ** ((leaves.phases != 0).sum(axis=1) - base)).sum())
                outcome.witness = self.look(points)
                if outcome.witness is not None:
                    return outcome
            self.progress(count, len(store), store.worst)
        return outcome

    def _step(self, nodes: Nodes) -> tuple[Nodes, Nodes, Array]:
        """Bound nodes and split those that stay open: the children, the nodes refuted, the lowest minimiser."""
        rows = self.start.take(nodes.row)
        phases = np.ascontiguousarray(nodes.phases.T)
        weights = nodes.weights.T.astype(np.float32)
        found = ascend(self.form, rows, weights, phases, steps=NODE_STEPS, target=MARGIN, score=True)
        assert found.scores is not None
        bound = found.lower.copy()
        maybe = np.flatnonzero(bound > MARGIN)
        proved = np.zeros(len(nodes), dtype=bool)
        if len(maybe):
            margin = prove(self.form, rows.take(maybe), found.weights[:, maybe], phases[:, maybe], self.reserve)
            proved[maybe] = margin > 0
        leaves = Nodes(bound[proved], nodes.row[proved], nodes.phases[proved], found.weights.T[proved])
        left = np.flatnonzero(~proved)
        if not len(left):
            return leaves.take(slice(0, 0)), leaves, found.minimiser[:0]
        rows, phases, weights = rows.take(left), phases[:, left], found.weights[:, left]
        unit, ahead = self._choose(rows, phases, weights, found.scores[:, left])
        column = np.arange(len(left))
        weights[unit, column] = 0.0
        children = []
        for side, sign in enumerate((1, -1)):
            fixed = phases.copy()
            fixed[unit, column] = sign
            children.append(Nodes(np.maximum(ahead[side], bound[left]), nodes.row[left], fixed.T, weights.T))
        joined = Nodes(*(np.concatenate([getattr(c, n) for c in children]) for n in vars(children[0])))
        return joined, leaves, found.minimiser[[int(left[bound[left].argmin()])]]

    def _choose(self, rows: Start, phases: Any, weights: Array, scores: Array) -> tuple[Any, Array]:
        """The unit to split in each node, and bounds of both children: of the best by score the one whose weaker
        child is strongest."""
        count = len(rows)
        tries = int(np.clip(BATCH * CANDIDATES // count, CANDIDATES, MOST_CANDIDATES))
        tries = min(tries, int((scores >= 0).sum(axis=0).min()))
        best = np.argpartition(-scores, tries - 1, axis=0)[:tries]
        bounds = np.zeros((2, tries, count), dtype=np.float32)
        columns = np.arange(count)
        for k in range(tries):
            for side, sign in enumerate((1, -1)):
                fixed, tried = phases.copy(), weights.copy()
                fixed[best[k], columns] = sign
                tried[best[k], columns] = 0.0
                bounds[side, k] = backward(self.form, rows, tried, fixed).lower
        cut = np.minimum(bounds, 0.0)
        choice = (2 * cut.min(axis=0) + cut.max(axis=0)).argmax(axis=0)
        return best[choice, columns], bounds[:, choice, columns]

    def _decide_region(self, node: Nodes) -> bool:
        """Whether a node without free units is refuted, by linear programming; else the search has ended."""
        row = self.start.take(node.row)
        weights, point = decide_region(self.form, row, node.phases[0], self.deadline)
        phases = np.ascontiguousarray(node.phases.T)
        if prove(self.form, row, weights[:, None], phases, self.reserve)[0] > 0:
            self._refuted(Nodes(node.bound, node.row, node.phases, weights[None]))
            return True
        self.outcome.witness = self.look(point[None])
        self.outcome.failure = "a linear region stays undecided within rounding"
        return False

    def _refuted(self, nodes: Nodes) -> None:
        if self.keep and len(nodes):
            self.outcome.leaves.append(nodes)

    def look(self, points: Array) -> Array | None:
        """The first of these points that is a witness."""
        if not len(points):
            return None
        return first_confirmed(self.query, self.query.box.clip(points.astype(np.float64)))
