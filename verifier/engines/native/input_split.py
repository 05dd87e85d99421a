"""Branch and bound over boxes of the input, for inputs of low dimension.

A batch of boxes is examined (`bounding`, `decide`), and what stays open is split: along an input while many ReLUs
are open, on the ReLU that costs the bound most when few are.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from verifier.engines.base import Answer, EngineResult
from verifier.engines.native.bounding import Block, BoxBounds
from verifier.engines.native.probe import HIT, TRIES, Probe
from verifier.events import Listener, Progress
from verifier.limits import Deadline
from verifier.network.operators import Array
from verifier.properties.numbers import Point
from verifier.properties.query import Query
from verifier.search.replay import first_confirmed
from verifier.verdict import Certainty

if TYPE_CHECKING:
    from verifier.engines.native.certify import BoxCertifier
    from verifier.engines.native.exact_leaves import ExactLeaves
    from verifier.engines.native.rows import Results

BATCH, STEP_SECONDS = 512, 0.5
"""Boxes examined at once at most, and seconds that this should take: deadlines are looked at in between."""
FEW_OPEN = 12
"""With at most this many open ReLUs a box is split on a ReLU."""
PROBE_AFTER, PROBE_SHARE = 1.0, 0.3
"""After so many seconds the search for counterexamples begins, and takes this share of the time."""
SPACES = 12
"""How many half-spaces a box can carry."""


class InputSplit:
    """One search.

    Args:
        low, high: ``(cases, n)`` the box of each case, in the query's.
        probe: looks for counterexamples meanwhile.
        certifier: writes a proof; only what it can certify counts as refuted or cut off. None: no proof.
        leaves: settles boxes in exact arithmetic; None: none are.
    """

    def __init__(
        self,
        query: Query,
        bounds: BoxBounds,
        low: Array,
        high: Array,
        probe: Probe,
        certifier: BoxCertifier | None = None,
        leaves: ExactLeaves | None = None,
    ) -> None:
        self.query, self.bounds, self.probe, self.certifier = query, bounds, probe, certifier
        self.leaves = leaves
        self.free = np.flatnonzero(query.box.width > 0)
        self.widths = query.box.width[self.free]
        self.boxes = 0
        self.batch = 64
        ends, owners = np.unique(np.hstack([low, high]), axis=0, return_inverse=True)
        count, n = len(ends), query.box.size
        root: Block = {
            "low": ends[:, :n].copy(),
            "high": ends[:, n:].copy(),
            "pre_low": np.repeat(bounds.root[0], count, axis=0),
            "pre_high": np.repeat(bounds.root[1], count, axis=0),
            "open": owners.reshape(-1) == np.arange(count)[:, None],
            "spaces": np.zeros((count, SPACES, n + 1)),
            "units": np.full((count, SPACES), -1, dtype=np.int64),
            "phases": np.zeros((count, SPACES), dtype=np.int8),
            "space_count": np.zeros(count, dtype=np.int64),
            "node": np.zeros(count, dtype=np.int64),
            "region": np.full(count, None),
            "bound": np.full(count, -np.inf),
            "share": np.full(count, 1 / count),
        }
        possible = (root["low"] <= root["high"]).all(axis=1)
        self.stack: list[Block] = []
        if possible.any():
            self.stack.append({name: value[possible] for name, value in root.items()})

    def run(self, deadline: Deadline, listener: Listener) -> EngineResult:
        """Search until no box is left, a witness is found, or the deadline passes."""
        begin = last = time.monotonic()
        stuck = 0
        while self.stack:
            if deadline.passed:
                return self._result(
                    Answer.TIMEOUT,
                    reason=f"{self._left()} boxes left after {self.boxes}; {1 - self._open_share():.1%} done",
                )
            block, began = self._take(), time.monotonic()
            witness = self._step(block, deadline)
            if time.monotonic() - began < STEP_SECONDS:
                self.batch = min(2 * self.batch, BATCH)
            else:
                self.batch = max(1, self.batch // 2)
            if witness is not None:
                return self._result(Answer.SAT, x=witness)
            if self.leaves is not None:
                result = self.leaves.beside(len(block["low"]), deadline)
                if result is not None:
                    return result
            spent = time.monotonic() - begin
            if spent > PROBE_AFTER and self.probe.seconds < PROBE_SHARE * spent:
                witness = self.probe.step()
                if witness is not None:
                    return self._result(Answer.SAT, x=witness)
            stuck += int((self._narrow(block)).sum())
            if stuck > 10_000:
                return self._result(Answer.UNKNOWN, reason="boxes too small to be split in float64 stay undecided")
            now = time.monotonic()
            if now - last > 0.5:
                last = now
                worst = min((float(b["bound"].min()) for b in self.stack), default=0.0)
                listener(
                    Progress(
                        seconds=now - begin,
                        stage="solve",
                        done=self.boxes,
                        unit="boxes",
                        left=self._left(),
                        bound=worst,
                    )
                )
        if self.leaves is not None and self.leaves.unsettled:
            return self._result(Answer.UNKNOWN, reason=self.leaves.unsettled)
        proof = None if self.certifier is None else self.certifier.builder.proof(self.query, "input splitting")
        return self._result(Answer.UNSAT, certainty=Certainty.RIGOROUS, proof=proof)

    def _left(self) -> int:
        return sum(len(b["low"]) for b in self.stack)

    def _open_share(self) -> float:
        """What is left, where each child counts half of its parent."""
        return float(sum(b["share"].sum() for b in self.stack))

    def _result(self, answer: Answer, **details: Any) -> EngineResult:
        return EngineResult(answer=answer, statistics={"boxes": self.boxes, "method": "input splitting"}, **details)

    def _narrow(self, block: Block) -> Any:
        """Boxes no wider than a few units in the last place: splitting them further leads nowhere."""
        low, high = block["low"][:, self.free], block["high"][:, self.free]
        size = np.maximum(np.abs(low), np.abs(high))
        return (high - low <= 1e-14 * size).all(axis=1) & (block["space_count"] >= SPACES)

    def _take(self) -> Block:
        """The boxes on top of the stack, as one block."""
        parts, count = [], 0
        while self.stack and count < self.batch:
            block, need = self.stack.pop(), self.batch - count
            if len(block["low"]) > need:
                self.stack.append({name: value[:-need].copy() for name, value in block.items()})
                block = {name: value[-need:].copy() for name, value in block.items()}
            parts.append(block)
            count += len(block["low"])
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    def _step(self, block: Block, deadline: Deadline) -> Point | None:
        """Examine one batch and push the children; a point that meets the condition, if one is seen."""
        self.boxes += len(block["low"])
        found = self._examine(block)
        block["bound"] = found.bound
        hits = np.flatnonzero(found.margin <= HIT)
        if len(hits):
            best = hits[np.argsort(found.margin[hits])][:TRIES]
            witness = first_confirmed(self.query, self.query.box.clip(found.point[best]))
            if witness is not None:
                return witness
        if self.leaves is not None:
            settled = self.leaves.settle(block, deadline)
            if settled is not None:
                return settled
        keep = np.flatnonzero(block["open"].any(axis=1))
        if not len(keep):
            return None
        order = keep[np.argsort(-block["bound"][keep])]
        undecided = ((block["pre_low"] < 0) & (block["pre_high"] > 0)).sum(axis=1)
        on_unit = (found.unit >= 0) & (undecided <= FEW_OPEN) & (block["space_count"] < SPACES)
        block = {name: value[order] for name, value in block.items()}
        self._push(block, on_unit[order], found.unit[order], found.axis[order])
        return None

    def _examine(self, block: Block) -> Results:
        """Examine one batch; with a certifier, only what it certifies is refuted."""
        if self.certifier is None:
            return self.bounds.examine(block, self.free, self.widths)
        before = {name: block[name].copy() for name in ("low", "high", "open")}
        found = self.bounds.examine(block, self.free, self.widths)
        shrunk = (block["high"] - block["low"] < before["high"] - before["low"]).any(axis=1)
        block["low"][:], block["high"][:] = before["low"], before["high"]
        for k in range(len(shrunk)):
            node, low, high = int(block["node"][k]), block["low"][k], block["high"][k]
            count, closed = block["space_count"][k], not block["open"][k].any()
            units = self.bounds.relu_numbers[block["units"][k, :count]]
            phases = self.certifier.phases(units, block["phases"][k, :count])
            cases = np.flatnonzero(before["open"][k] & ~block["open"][k]).tolist()
            region = self.certifier.region(node, low, high, phases, block["region"][k])
            block["region"][k] = region  # the children's bounds will start from its own
            refuted = self.certifier.refute(region, cases) if cases else []
            again = [case for case in cases if case not in refuted]
            block["open"][k, again] = True
            left = np.flatnonzero(block["open"][k]).tolist()
            if left and (shrunk[k] or again):
                node, low, high = self.certifier.cut(region, left)
                block["node"][k], block["low"][k], block["high"][k] = node, low, high
            if again and closed:  # nothing was chosen
                found.bound[k] = 0.0
                found.axis[k] = ((high - low)[self.free] / self.widths).argmax()
        return found

    def _push(self, block: Block, on_unit: Any, unit: Any, axis: Any) -> None:
        """Two children per box, on a ReLU or along an input."""
        pair = {name: np.repeat(value, 2, axis=0) for name, value in block.items()}
        pair["share"] /= 2
        along = np.flatnonzero(~on_unit)
        column = self.free[axis[along]]
        middle = block["low"][along, column] + (block["high"][along, column] - block["low"][along, column]) / 2
        pair["high"][2 * along, column] = middle
        pair["low"][2 * along + 1, column] = middle
        on = np.flatnonzero(on_unit)
        for side, phase in ((0, 1), (1, -1)):
            rows, units = 2 * on + side, unit[on]
            pair["units"][rows, pair["space_count"][rows]] = units
            pair["phases"][rows, pair["space_count"][rows]] = phase
            if phase > 0:
                pair["pre_low"][rows, units] = np.maximum(pair["pre_low"][rows, units], 0.0)
            else:
                pair["pre_high"][rows, units] = np.minimum(pair["pre_high"][rows, units], 0.0)
            pair["space_count"][rows] += 1
        if self.certifier is not None:
            builder = self.certifier.builder
            for k, node in enumerate(block["node"].tolist()):
                if on_unit[k]:
                    children = builder.divide_unit(node, int(self.bounds.relu_numbers[unit[k]]))
                else:
                    j = int(self.free[axis[k]])
                    children = builder.divide_input(node, j, float(pair["high"][2 * k, j]))
                pair["node"][2 * k], pair["node"][2 * k + 1] = children
        size = 128
        for first in range(0, len(pair["low"]), size):
            self.stack.append({name: value[first : first + size].copy() for name, value in pair.items()})
