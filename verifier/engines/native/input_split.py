"""Branch and bound over boxes of the input, for inputs of low dimension.

A batch of boxes is examined (`bounding`, `decide`), and what stays open is split: along an input while many ReLUs
are open, on the ReLU that costs the bound most when few are.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from verifier.bab import (
    Bounded,
    BranchAndBound,
    Children,
    DepthStore,
    Ending,
    LastResort,
    LeafAnswer,
    SearchResult,
    Settings,
    Verdict,
)
from verifier.engines.base import Answer, EngineResult
from verifier.engines.native.bounding import Block, BoxBounds
from verifier.engines.native.settings import BoxSettings
from verifier.events import Listener
from verifier.falsify.replay import first_confirmed
from verifier.falsify.search import Search
from verifier.limits import Deadline, MemoryBudget
from verifier.network.operators import Array
from verifier.properties.numbers import Point
from verifier.properties.query import Query
from verifier.properties.rows import varying
from verifier.verdict import Certainty

if TYPE_CHECKING:
    from verifier.engines.native.box_record import BoxRecord
    from verifier.engines.native.exact_leaves import ExactLeaves
    from verifier.engines.native.rows import Results

DECIDED_BESIDE = "decided beside"
NARROW = "boxes too small to be split in float64 stay undecided"


@dataclass(frozen=True, eq=False)
class Boxes:
    """A batch of boxes (`verifier.bab.Batch`).

    Attributes:
        block: their columns.
        found: what was found on them, once they are examined; else None.
    """

    block: Block
    found: Results | None = None

    def __len__(self) -> int:
        return len(self.block["low"])

    def take(self, which: Any) -> Boxes:
        """Some of them: a copy."""
        block = {name: value[which].copy() for name, value in self.block.items()}
        return Boxes(block, None if self.found is None else type(self.found)(*(v[which] for v in self.found)))

    @classmethod
    def join(cls, parts: Sequence[Boxes]) -> Boxes:
        """All of them, as they were before they were examined."""
        return Boxes({name: np.concatenate([p.block[name] for p in parts]) for name in parts[0].block})

    @property
    def nbytes(self) -> float:
        """Bytes that they hold."""
        return float(sum(value.nbytes for value in self.block.values()))


class InputSplit(LastResort):
    """One search: bounder, brancher and leaf solver of its `verifier.bab.BranchAndBound`.

    Args:
        low, high: ``(disjuncts, n)`` the box of each disjunct, in the query's.
        falsifier: looks for counterexamples meanwhile, a step at a time.
        record: writes a proof. None: no proof.
        leaves: settles boxes in exact arithmetic; None: none are.

    Source:
        ReluVal: Wang et al., USENIX Security 2018 (halving inputs); Bunel et al., JMLR 2020 (ReLUs); where a
        box is cut: `verifier.engines.native.decide`.
    """

    def __init__(
        self,
        query: Query,
        bounds: BoxBounds,
        low: Array,
        high: Array,
        falsifier: Search,
        record: BoxRecord | None = None,
        leaves: ExactLeaves | None = None,
        *,
        memory: float | None = None,
        settings: BoxSettings = BoxSettings(),
    ) -> None:
        self.query, self.bounds, self.falsifier, self.record = query, bounds, falsifier, record
        self.leaves, self.memory, self.settings = leaves, memory, settings
        self.free = varying(query.box, low, high)
        self.widths = query.box.width[self.free]
        self._slice, self._asked = settings.first_slice, 0
        self._beside: EngineResult | None = None
        self._found: Point | None = None
        ends, owners = np.unique(np.hstack([low, high]), axis=0, return_inverse=True)
        count, n, spaces = len(ends), query.box.size, settings.spaces
        root: Block = {
            "low": ends[:, :n].copy(),
            "high": ends[:, n:].copy(),
            "pre_low": np.repeat(bounds.root[0], count, axis=0),
            "pre_high": np.repeat(bounds.root[1], count, axis=0),
            "open": owners.reshape(-1) == np.arange(count)[:, None],
            "spaces": np.zeros((count, spaces, n + 1)),
            "units": np.full((count, spaces), -1, dtype=np.int64),
            "phases": np.zeros((count, spaces), dtype=np.int8),
            "space_count": np.zeros(count, dtype=np.int64),
        }
        self.root = Boxes(root).take((root["low"] <= root["high"]).all(axis=1))
        if record is not None:
            record.begin(self.root.block)

    def run(self, deadline: Deadline, listener: Listener) -> EngineResult:
        """Search until no box is left, a witness is found, or the deadline passes."""
        self._deadline = deadline
        search = BranchAndBound(
            store=DepthStore[Boxes](MemoryBudget.of(self.memory), hardest_first=True),
            bounder=self,
            brancher=self,
            leaf=self,
            settings=Settings(batch=self.settings.batch, piece=self.settings.batch, unit="boxes"),
            stop=self._meanwhile,
        )
        found = search.run(self.root, deadline, listener)
        if self._beside is not None:
            return self._beside
        witness = found.witness if self._found is None else self._found
        if witness is not None:
            return self._result(found, Answer.SAT, x=witness)
        if found.ending is Ending.OPEN:
            if not found.late:
                return self._result(found, Answer.UNKNOWN, reason=found.reason)
            share = found.closed / max(len(self.root), 1)
            reason = f"{found.left} boxes left after {found.done}; {share:.1%} done"
            return self._result(found, Answer.TIMEOUT, reason=reason)
        if self.leaves is not None and self.leaves.unsettled:
            return self._result(found, Answer.UNKNOWN, reason=self.leaves.unsettled)
        tree = None if self.record is None else self.record.tree
        return self._result(found, Answer.UNSAT, certainty=Certainty.RIGOROUS, proof=tree)

    @staticmethod
    def _result(found: SearchResult, answer: Answer, **details: Any) -> EngineResult:
        return EngineResult(answer=answer, statistics={"boxes": found.done, "method": "input splitting"}, **details)

    def _meanwhile(self, so_far: SearchResult) -> str:
        """Between batches: the search region by region, and the one for counterexamples, by the boxes that were done."""
        boxes, self._asked = so_far.done - self._asked, so_far.done
        if self.leaves is not None and boxes:
            self._beside = self.leaves.beside(boxes, self._deadline)
            if self._beside is not None:
                return DECIDED_BESIDE
        s = self.settings
        if so_far.done > s.falsify_after and self.falsifier.points < s.falsify_per_box * so_far.done:
            self._found = self.falsifier.step()
            if self._found is not None:
                return DECIDED_BESIDE
        return NARROW if so_far.stuck > s.stuck else ""

    # -- the parts of the branch and bound ---------------------------------------------------------------
    def bound(self, batch: Boxes, deadline: Deadline) -> Bounded[Boxes]:
        """See `verifier.bab.Bounder.bound`: boxes are examined in slices, between which the deadline is looked at."""
        parts, first, witness = [], 0, None
        while first < len(batch) and witness is None:
            deadline.check("while boxes were examined")
            began = time.monotonic()
            part = batch.take(slice(first, first + self._slice))
            first += self._slice
            found = self._examine(part.block)
            witness = self._look(found)
            if witness is None and self.leaves is not None:
                witness = self.leaves.settle(part.block, deadline)
            parts.append((part.block, found))
            quick = time.monotonic() - began < self.settings.step_seconds
            self._slice = min(2 * self._slice, self.settings.batch) if quick else max(1, self._slice // 2)
        if witness is not None:
            return Bounded(batch, np.full(len(batch), -1.0), witness)
        block = {name: np.concatenate([b[name] for b, _ in parts]) for name in batch.block}
        results = type(parts[0][1])(*(np.concatenate(columns) for columns in zip(*(f for _, f in parts), strict=True)))
        still = block["open"].any(axis=1)
        return Bounded(Boxes(block, results), np.where(still, np.minimum(results.bound, 0.0), 1.0))

    def _look(self, found: Results) -> Point | None:
        """A point that meets the condition, if one is seen."""
        hits = np.flatnonzero(found.margin <= self.settings.hit)
        if not len(hits):
            return None
        best = hits[np.argsort(found.margin[hits])][: self.settings.tries]
        return first_confirmed(self.query, self.query.box.clip(found.point[best]))

    def _examine(self, block: Block) -> Results:
        if self.record is None:
            return self.bounds.examine(block, self.free, self.widths)
        return self.record.examine(block, self.free, self.widths)

    def solve(self, leaf: Boxes, deadline: Deadline) -> LeafAnswer:
        """See `verifier.bab.LeafSolver.solve`."""
        return LeafAnswer(Verdict.OPEN, reason=NARROW)

    def split(self, batch: Boxes, lower: Array) -> Children[Boxes]:
        """See `verifier.bab.Brancher.split`: two children per box, on a ReLU or along an input."""
        assert batch.found is not None
        parent = np.flatnonzero(~self._narrow(batch.block))
        some = batch.take(parent)
        block, found = some.block, some.found
        assert found is not None
        undecided = ((block["pre_low"] < 0) & (block["pre_high"] > 0)).sum(axis=1)
        s = self.settings
        on_neuron = (found.neuron >= 0) & (undecided <= s.few_unstable) & (block["space_count"] < s.spaces)
        on_neuron &= self.record is None
        return Children(Boxes(self._pairs(block, on_neuron, found.neuron, found.axis)), np.repeat(parent, 2))

    def _narrow(self, block: Block) -> Any:
        """Boxes no wider than a few units in the last place: splitting them further leads nowhere."""
        low, high = block["low"][:, self.free], block["high"][:, self.free]
        size = np.maximum(np.abs(low), np.abs(high))
        return (high - low <= self.settings.narrow * size).all(axis=1) & (
            (block["space_count"] >= self.settings.spaces) | (self.record is not None)
        )

    def _pairs(self, block: Block, on_neuron: Any, neuron: Any, axis: Any) -> Block:
        """The children, those of a box side by side."""
        pair = {name: np.repeat(value, 2, axis=0) for name, value in block.items()}
        along = np.flatnonzero(~on_neuron)
        column = self.free[axis[along]]
        value = block["low"][along, column] + (block["high"][along, column] - block["low"][along, column]) / 2
        if self.record is not None:
            column, value = self.record.divisions(block, self.free, axis)
            self.record.divide(block, pair, column, value)
        pair["high"][2 * along, column] = value
        pair["low"][2 * along + 1, column] = value
        on = np.flatnonzero(on_neuron)
        for side, phase in ((0, 1), (1, -1)):
            rows, neurons = 2 * on + side, neuron[on]
            pair["units"][rows, pair["space_count"][rows]] = neurons
            pair["phases"][rows, pair["space_count"][rows]] = phase
            if phase > 0:
                pair["pre_low"][rows, neurons] = np.maximum(pair["pre_low"][rows, neurons], 0.0)
            else:
                pair["pre_high"][rows, neurons] = np.minimum(pair["pre_high"][rows, neurons], 0.0)
            pair["space_count"][rows] += 1
        return pair
