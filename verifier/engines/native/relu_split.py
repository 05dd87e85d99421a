"""Branch and bound over ReLU phases, for inputs of high dimension (β-CROWN: Wang et al., NeurIPS 2021).

The network is written over the ReLUs that are open on the box (`OpenForm`), with bounds optimised for each of
them; these serve the whole search. A node fixes phases of some ReLUs; its bound is CROWN's with optimised lower
slopes α and multipliers β for the fixed phases, both started from its parent's. Nodes are bounded in batches, the
lowest bound first. The ReLU to split is chosen among those that cost the bound most at its minimiser, by trying
both children of a few candidates (filtered smart branching: De Palma et al., 2021).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.bounds.crown_slopes import UnitBounder, ascend, backward, initial_weights, prove
from verifier.bounds.open_form import OpenForm, Start
from verifier.engines.base import Answer, Deadline, EngineResult
from verifier.engines.native.conditions import Conditions
from verifier.engines.native.node_store import Nodes, NodeStore
from verifier.engines.native.region_lp import decide_region
from verifier.events import Listener, Note, Progress
from verifier.network.operators import Array
from verifier.properties.query import Query
from verifier.search.replay import first_confirmed
from verifier.verdict import Certainty

ROOT_STEPS, TIGHTEN_STEPS, NODE_STEPS = (1, 20, 80), 20, 12
BATCH = 128
"""Nodes that are bounded together."""
CANDIDATES, MOST_CANDIDATES = 4, 32
"""ReLUs of a node that are tried before one is split: more while there are few nodes."""
MARGIN = 1e-5
"""A bound in float32 must be so far above zero to be tried in float64."""


@dataclass(frozen=True, eq=False)
class ReluProof:
    """Why a query has no solution: for each case a division into phases, with the weights that refute each part.

    Attributes:
        units: by block of the `OpenForm`: the places of its open units in their operator's output.
        bounds: by block ``(2, open units)``: bounds of the open units' inputs on the whole box.
        rows: by leaf the row of the condition that is refuted.
        phases: ``(leaves, units)`` over the open ReLUs, block after block: 1, -1 or 0 (free).
        weights: ``(leaves, units)``: lower slopes where free, else multipliers of the phase.
    """

    units: Sequence[npt.NDArray[np.intp]]
    bounds: Sequence[Array]
    rows: Array
    phases: Array
    weights: Array


class ReluSplit:
    """One search; see the module."""

    def __init__(self, query: Query, conditions: Conditions, threads: int = 1, keep_tree: bool = False) -> None:
        self.query, self.conditions, self.threads = query, conditions, threads
        self.count = 0
        self.leaves: list[Nodes] | None = [] if keep_tree else None
        self.form: OpenForm
        self.start: Start

    def run(self, deadline: Deadline, listener: Listener) -> EngineResult:
        """Search until every case is refuted, a witness is found, or the deadline passes."""
        begin = time.monotonic()
        until = np.inf if deadline.at is None else deadline.at
        network, box = self.query.network, self.query.box
        cases = list(range(self.conditions.cases))
        nodes, points = Nodes(*(np.zeros(0),) * 4), np.zeros((0, box.size))
        for stage, steps in enumerate(ROOT_STEPS):
            if stage == 0:
                self.form = OpenForm(network, box, UnitBounder(1, self.threads, until))
            elif stage == len(ROOT_STEPS) - 1:
                limit = min(until, time.monotonic() + 0.3 * deadline.left)
                self.form = self.form.refined(UnitBounder(TIGHTEN_STEPS, self.threads, limit))
            nodes, points = self._root(cases, steps)
            if not len(nodes):
                return self._unsat()
            cases = [int(k) for k in self.conditions.case_of[nodes.row]]
            if deadline.passed:
                return self._result(Answer.TIMEOUT, reason="the time was over during the bounds of the root")
        witness = self._look(points)
        if witness is not None:
            return self._result(Answer.SAT, x=witness)
        if not self.form.units:
            return self._result(Answer.UNKNOWN, reason="bounds do not decide it, and there is no ReLU to split")
        text = f"{len(nodes)} cases and {self.form.units} open ReLUs left after the root's bounds"
        listener(Note(seconds=time.monotonic() - begin, text=text))
        return self._search(nodes, deadline, listener, begin)

    # -- the root ----------------------------------------------------------------------------------------
    def _root(self, cases: list[int], steps: int) -> tuple[Nodes, Array]:
        """The cases that bounds on the whole box do not refute, as nodes, and their minimisers."""
        conditions = self.conditions
        self.start = self.form.rows(conditions.y_rows, conditions.x_rows, conditions.bound)
        flat = np.concatenate([conditions.members(case) for case in cases])
        rows = self.start.take(flat)
        weights = initial_weights(self.form, len(flat))
        phases = np.zeros(weights.shape, dtype=np.int8)
        found = ascend(self.form, rows, weights, phases, steps=steps)
        margin = prove(self.form, rows, found.weights, phases)
        chosen = []
        for case in cases:
            members = np.flatnonzero(conditions.case_of[flat] == case)
            best = members[margin[members].argmax()]
            if margin[best] > 0:
                self._keep(Nodes(margin[[best]], flat[[best]], phases.T[[best]], found.weights.T[[best]]))
            else:
                chosen.append(best)
        pick = np.array(chosen, dtype=np.intp)
        return Nodes(margin[pick], flat[pick], phases.T[pick], found.weights.T[pick]), found.minimiser[pick]

    # -- the search --------------------------------------------------------------------------------------
    def _search(self, nodes: Nodes, deadline: Deadline, listener: Listener, begin: float) -> EngineResult:
        store, last = NodeStore(self.form.units), 0.0
        store.add(nodes)
        with ThreadPoolExecutor(self.threads) as pool:
            while len(store):
                if deadline.passed:
                    return self._result(Answer.TIMEOUT, reason=f"{len(store)} nodes left after {self.count}")
                some = store.pop(BATCH * self.threads)
                closed = (some.phases != 0).all(axis=1)
                for k in np.flatnonzero(closed):
                    result = self._decide_region(some.take(slice(k, k + 1)))
                    if result is not None:
                        return result
                some = some.take(~closed)
                step = max(1, -(-len(some) // self.threads))
                parts = [some.take(slice(k, k + step)) for k in range(0, len(some), step)]
                for children, leaves, points in pool.map(self._step, parts):
                    store.add(children)
                    self._keep(leaves)
                    witness = self._look(points)
                    if witness is not None:
                        return self._result(Answer.SAT, x=witness)
                self.count += len(closed)
                now = time.monotonic() - begin
                if now - last > 0.5:
                    last = now
                    left, worst = len(store), store.worst
                    listener(
                        Progress(seconds=now, stage="solve", done=self.count, unit="nodes", left=left, bound=worst)
                    )
        return self._unsat()

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
            margin = prove(self.form, rows.take(maybe), found.weights[:, maybe], phases[:, maybe])
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

    def _decide_region(self, node: Nodes) -> EngineResult | None:
        """A node without free units, by linear programming; None if it is refuted."""
        row = self.start.take(node.row)
        weights, point = decide_region(self.form, row, node.phases[0])
        phases = np.ascontiguousarray(node.phases.T)
        if prove(self.form, row, weights[:, None], phases)[0] > 0:
            self._keep(Nodes(node.bound, node.row, node.phases, weights[None]))
            return None
        witness = self._look(point[None])
        if witness is not None:
            return self._result(Answer.SAT, x=witness)
        return self._result(Answer.UNKNOWN, reason="a linear region stays undecided within rounding")

    # -- helpers -----------------------------------------------------------------------------------------
    def _keep(self, nodes: Nodes) -> None:
        if self.leaves is not None and len(nodes):
            self.leaves.append(nodes)

    def _look(self, points: Array) -> Array | None:
        """Whether a bound's minimiser is a witness."""
        if not len(points):
            return None
        return first_confirmed(self.query, self.query.box.clip(points.astype(np.float64)))

    def _unsat(self) -> EngineResult:
        return self._result(Answer.UNSAT, certainty=Certainty.RIGOROUS, proof=self._proof())

    def _proof(self) -> ReluProof | None:
        """The leaves, if they were kept."""
        if self.leaves is None:
            return None
        blocks, units = self.form.blocks[1:], self.form.units
        leaves = [leaf for leaf in self.leaves if leaf.phases.shape[1] == units]  # the root's own are on other forms
        return ReluProof(
            [b.units[: b.count] for b in blocks],
            [np.stack([b.z_low, b.z_high]) for b in blocks],
            np.concatenate([leaf.row for leaf in leaves] or [np.zeros(0)]).astype(np.int32),
            np.concatenate([leaf.phases for leaf in leaves] or [np.zeros((0, units))]).astype(np.int8),
            np.concatenate([leaf.weights for leaf in leaves] or [np.zeros((0, units))]).astype(np.float32),
        )

    def _result(self, answer: Answer, **details: Any) -> EngineResult:
        return EngineResult(answer=answer, statistics={"nodes": self.count, "method": "ReLU splitting"}, **details)
