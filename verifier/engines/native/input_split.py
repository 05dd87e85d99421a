"""Branch and bound over boxes of the input, for inputs of low dimension.

A batch of boxes is bounded (`bounding`), decided (`decide`), and what stays open is split: along an input while
many ReLUs are open, on the ReLU that costs the bound most when few are.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from verifier.engines.base import Answer, Deadline, EngineResult
from verifier.engines.native.bounding import Block, ChainBounds, GraphBounds
from verifier.engines.native.conditions import Conditions
from verifier.engines.native.tree import SearchTree
from verifier.events import Listener, Progress
from verifier.network.operators import Array
from verifier.properties.query import Query
from verifier.search.replay import first_confirmed
from verifier.verdict import Certainty

BATCH = 512
FEW_OPEN = 12
"""With at most this many open ReLUs a box is split on a ReLU."""
SPACES = 12
"""How many half-spaces a box can carry."""


class InputSplit:
    """One search.

    Args:
        tree: records the nodes, or None.
    """

    def __init__(
        self, query: Query, conditions: Conditions, bounds: ChainBounds | GraphBounds, tree: SearchTree | None = None
    ) -> None:
        self.query, self.conditions, self.bounds, self.tree = query, conditions, bounds, tree
        self.free = np.flatnonzero(query.box.width > 0)
        self.widths = query.box.width[self.free]
        self.boxes = 0
        root: Block = {
            "low": query.box.lower[None].copy(),
            "high": query.box.upper[None].copy(),
            "pre_low": bounds.root[0].copy(),
            "pre_high": bounds.root[1].copy(),
            "open": np.ones((1, conditions.cases), dtype=bool),
            "spaces": np.zeros((1, SPACES, query.box.size + 1)),
            "units": np.full((1, SPACES), -1, dtype=np.int64),
            "phases": np.zeros((1, SPACES), dtype=np.int8),
            "space_count": np.zeros(1, dtype=np.int64),
            "parent": np.array([-1]),
            "bound": np.array([-np.inf]),
            "share": np.ones(1),
        }
        self.stack: list[Block] = [root]

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
            block = self._take()
            witness = self._step(block)
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
        return self._result(Answer.UNSAT, certainty=Certainty.RIGOROUS, proof=self.tree)

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
        """The blocks on top of the stack, as one."""
        parts, count = [], 0
        while self.stack and count < BATCH:
            parts.append(self.stack.pop())
            count += len(parts[-1]["low"])
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    def _step(self, block: Block) -> Array | None:
        """Bound and decide one batch and push the children; a point that meets the condition, if one is seen."""
        from verifier.engines.native.decide import decide

        conditions, free = self.conditions, self.free
        self.boxes += len(block["low"])
        numbers = None if self.tree is None else self.tree.add(block)
        found = self.bounds.bound(block, block["open"][:, conditions.case_of])
        block["open"][found.empty] = False
        count = len(block["low"])
        low, high = np.ascontiguousarray(block["low"][:, free]), np.ascontiguousarray(block["high"][:, free])
        block["bound"], axis, point = np.full(count, np.inf), np.zeros(count, dtype=np.int64), low.copy()
        slopes = np.ascontiguousarray(found.slopes[:, :, free])
        decide(
            low,
            high,
            found.lower,
            slopes,
            conditions.case_of,
            self._reduced(block["spaces"]),
            block["space_count"],
            self.widths,
            block["open"],
            block["bound"],
            axis,
            point,
        )
        block["low"][:, free], block["high"][:, free] = low, high
        keep = np.flatnonzero(block["open"].any(axis=1))
        if not len(keep):
            return None
        order = keep[np.argsort(-block["bound"][keep])]
        witness = self._look(block, order[-32:], point)
        if witness is not None:
            return witness
        undecided = ((block["pre_low"] < 0) & (block["pre_high"] > 0)).sum(axis=1)
        on_unit = (found.unit >= 0) & (undecided <= FEW_OPEN) & (block["space_count"] < SPACES)
        block = {name: value[order] for name, value in block.items()}
        if numbers is not None:
            block["parent"] = numbers[order]
        self._push(block, on_unit[order], found.unit[order], axis[order])
        return None

    def _reduced(self, spaces: Array) -> Array:
        """Half-spaces over the inputs that vary, the others put into the constant (rounded downwards)."""
        if len(self.free) == self.query.box.size:
            return spaces
        fixed = np.setdiff1d(np.arange(self.query.box.size), self.free)
        parts = spaces[:, :, fixed] * self.query.box.lower[fixed]
        result = np.ascontiguousarray(spaces[:, :, [*self.free, -1]])
        size = np.abs(parts).sum(axis=2) + np.abs(result[:, :, -1])
        result[:, :, -1] += parts.sum(axis=2) - 4 * len(fixed) * 2.0**-52 * size
        return result

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
        size = 128
        for first in range(0, len(pair["low"]), size):
            self.stack.append({name: value[first : first + size].copy() for name, value in pair.items()})

    def _look(self, block: Block, which: Any, point: Array) -> Array | None:
        """Try the middles and the least points of the most promising boxes."""
        middles = (block["low"][which] + block["high"][which]) / 2
        corners = middles.copy()
        corners[:, self.free] = point[which]
        candidates = np.concatenate([middles, corners])
        return first_confirmed(self.query, self.query.box.clip(candidates))
