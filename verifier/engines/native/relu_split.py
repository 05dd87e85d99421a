"""Branch and bound over ReLU phases, for inputs of high dimension (β-CROWN: Wang et al., NeurIPS 2021).

The root's preactivation bounds, with slopes optimised for every open unit, serve the whole search. A node fixes
phases of some ReLUs; its bound is CROWN's with optimised lower slopes α and multipliers β for the fixed phases,
both started from its parent's. Nodes are bounded in batches, the lowest bound first. The ReLU to split is chosen
among those that cost the bound most at its minimiser, by trying both children of a few candidates (filtered smart
branching: De Palma et al., 2021).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.bounds.crown import AllLines, Crown, Intervals
from verifier.bounds.crown_slopes import Ascent, ascend, tighten
from verifier.engines.base import Answer, Deadline, EngineResult
from verifier.engines.native.bounding import row_errors
from verifier.engines.native.conditions import Conditions
from verifier.events import Listener, Note, Progress
from verifier.network.operators import Array
from verifier.network.piecewise import PiecewiseLinear
from verifier.properties.query import Query
from verifier.search.replay import first_confirmed
from verifier.verdict import Certainty

ROOT_STEPS, TIGHTEN_STEPS, NODE_STEPS = 60, 12, 12
WORK = 1 << 18
"""Numbers in a batch: about this many coefficients over the widest layer."""
CANDIDATES = 4


@dataclass(eq=False)
class Nodes:
    """Open nodes, one row each.

    Attributes:
        bound: ``(N,)`` proved bound of the parent.
        row: ``(N,)`` which row (of the combined rows) is to be refuted.
        phases: ``(N, units)`` 1, -1 or 0 (free).
        alpha, beta: ``(N, units)`` where the ascent starts.
    """

    bound: Array
    row: npt.NDArray[np.intp]
    phases: npt.NDArray[np.int8]
    alpha: npt.NDArray[np.float32]
    beta: npt.NDArray[np.float32]

    def take(self, which: Any) -> Nodes:
        """Some of the nodes."""
        return Nodes(self.bound[which], self.row[which], self.phases[which], self.alpha[which], self.beta[which])

    @staticmethod
    def join(parts: list[Nodes]) -> Nodes:
        """All nodes of several groups."""
        return Nodes(*(np.concatenate([getattr(p, name) for p in parts]) for name in vars(parts[0])))


class ReluSplit:
    """One search; see the module."""

    def __init__(self, query: Query, crown: Crown, conditions: Conditions, keep_tree: bool = False) -> None:
        self.query, self.crown, self.conditions = query, crown, conditions
        self.low, self.high = query.box.lower[None], query.box.upper[None]
        network = crown.network
        self.relus = [n for n in network.activations if isinstance(n.operator, PiecewiseLinear) and n.operator.is_relu]
        ends = np.cumsum([0] + [n.size for n in self.relus])
        self.parts = {n.name: slice(ends[k], ends[k + 1]) for k, n in enumerate(self.relus)}
        self.units = int(ends[-1])
        self.intervals: Intervals = dict(crown.root_bounds)
        self.errors = row_errors(crown, conditions)
        self.count = 0
        self.leaves: list[Nodes] | None = [] if keep_tree else None
        self.x_part = {network.input: conditions.x_rows} if conditions.x_rows.any() else None

    # -- the root ----------------------------------------------------------------------------------------
    def run(self, deadline: Deadline, listener: Listener) -> EngineResult:
        """Search until every case is refuted, a witness is found, or the deadline passes."""
        begin = time.monotonic()
        if self.x_part is not None:
            return self._result(Answer.UNKNOWN, reason="conditions on many inputs are not taken by ReLU splitting")
        cases = list(range(self.conditions.cases))
        nodes, witness = self._root(cases, 1)
        cases = [] if nodes is None else [int(k) for k in nodes.row]
        if cases and witness is None:
            nodes, witness = self._root(cases, ROOT_STEPS // 3)
            cases = [] if nodes is None else [int(k) for k in nodes.row]
        if cases and witness is None:
            limit = time.monotonic() + min(0.25 * deadline.left, 60.0)
            self.intervals = tighten(self.crown, self.low, self.high, self.intervals, TIGHTEN_STEPS, limit)
            nodes, witness = self._root(cases, ROOT_STEPS)
        if witness is not None:
            return self._result(Answer.SAT, x=witness)
        if nodes is None or not len(nodes.row):
            return self._result(Answer.UNSAT, certainty=Certainty.RIGOROUS, proof=self.leaves)
        if not self.units:
            return self._result(Answer.UNKNOWN, reason="bounds do not decide it, and there is no ReLU to split")
        listener(Note(seconds=time.monotonic() - begin, text=f"{len(nodes.row)} cases left after the root's bounds"))
        return self._search(nodes, deadline, listener, begin)

    def _root(self, cases: list[int], steps: int) -> tuple[Nodes | None, Array | None]:
        """The cases that bounds on the whole box do not refute, as nodes; and a witness if one was met."""
        conditions = self.conditions
        rows = [conditions.members(case) for case in cases]
        flat = np.concatenate(rows)
        lines = self.crown.lines(self.intervals)
        found = ascend(
            self.crown,
            self.crown.network.output,
            conditions.y_rows[flat],
            np.zeros(len(flat), dtype=np.intp),
            lines,
            self.low,
            self.high,
            steps=steps,
        )
        margin = found.lower - conditions.bound[flat] - self.errors[flat]
        witness = self._look(found.minimiser)
        chosen, first = [], 0
        for members in rows:
            part = margin[first : first + len(members)]
            if not part.max() > 0:  # NaN refutes nothing
                chosen.append(first + int(part.argmax()))
            first += len(members)
        if not chosen:
            return None, witness
        pick = np.array(chosen)
        count = len(pick)
        nodes = Nodes(
            margin[pick],
            conditions.case_of[flat[pick]],
            np.zeros((count, self.units), dtype=np.int8),
            self._flat({k: v[pick] for k, v in found.slopes.items()}, count),
            np.zeros((count, self.units), dtype=np.float32),
        )
        self._row_of_case = {int(conditions.case_of[flat[k]]): int(flat[k]) for k in pick}
        return nodes, witness

    def _flat(self, by_name: dict[str, Array], count: int) -> npt.NDArray[np.float32]:
        total = np.zeros((count, self.units), dtype=np.float32)
        for name, part in self.parts.items():
            if name in by_name:
                total[:, part] = by_name[name]
        return total

    # -- the search --------------------------------------------------------------------------------------
    def _search(self, nodes: Nodes, deadline: Deadline, listener: Listener, begin: float) -> EngineResult:
        widest = max(n.size for n in self.crown.network.nodes)
        batch = int(np.clip(WORK // widest, 4, 128))
        pool, last = [nodes], 0.0
        while pool:
            if deadline.passed:
                left = sum(len(p.row) for p in pool)
                return self._result(Answer.TIMEOUT, reason=f"{left} nodes left after {self.count}")
            every = Nodes.join(pool)
            order = np.argsort(every.bound, kind="stable")
            some, rest = every.take(order[:batch]), every.take(order[batch:])
            children, witness = self._step(some, deadline)
            if witness is not None:
                return self._result(Answer.SAT, x=witness)
            pool = [p for p in (rest, *children) if len(p.row)]
            now = time.monotonic() - begin
            if now - last > 0.5:
                last = now
                left = sum(len(p.row) for p in pool)
                worst = min((float(p.bound.min()) for p in pool), default=0.0)
                listener(Progress(seconds=now, stage="solve", done=self.count, unit="nodes", left=left, bound=worst))
            if any((p.phases != 0).all(axis=1).any() for p in pool):
                return self._result(Answer.UNKNOWN, reason="a linear region stays undecided within rounding")
        return self._result(Answer.UNSAT, certainty=Certainty.RIGOROUS, proof=self.leaves)

    def _bound(self, nodes: Nodes, steps: int) -> tuple[Ascent, Array]:
        """The ascent on some nodes, and the margins of their rows."""
        count = len(nodes.row)
        lines, phases, alpha, beta = self._inputs(nodes)
        rows = np.array([self._row_of_case[int(k)] for k in nodes.row])
        low, high = np.repeat(self.low, count, 0), np.repeat(self.high, count, 0)
        found = ascend(
            self.crown,
            self.crown.network.output,
            self.conditions.y_rows[rows],
            np.arange(count),
            lines,
            low,
            high,
            steps=steps,
            slopes=alpha,
            phases=phases,
            multipliers=beta,
        )
        return found, found.lower - self.conditions.bound[rows] - self.errors[rows]

    def _inputs(self, nodes: Nodes) -> tuple[AllLines, dict[str, Any], dict[str, Array], dict[str, Array]]:
        """Lines under the nodes' phases, and the rest of what `ascend` wants, by name."""
        intervals: Intervals = {}
        count = len(nodes.row)
        phases: dict[str, Any] = {}
        alpha: dict[str, Array] = {}
        beta: dict[str, Array] = {}
        for name, (a, b) in self.intervals.items():
            intervals[name] = (np.repeat(a, count, 0), np.repeat(b, count, 0))
        for node in self.relus:
            part, name = self.parts[node.name], node.inputs[0]
            phase = nodes.phases[:, part]
            a, b = intervals[name]
            intervals[name] = (
                np.where(phase > 0, np.maximum(a, 0.0), a),
                np.where(phase < 0, np.minimum(b, 0.0), b),
            )
            phases[name], beta[name] = phase, nodes.beta[:, part].astype(np.float64)
            alpha[node.name] = nodes.alpha[:, part].astype(np.float64)
        return self.crown.lines(intervals), phases, alpha, beta

    def _step(self, nodes: Nodes, deadline: Deadline) -> tuple[list[Nodes], Array | None]:
        """Bound nodes, split those that stay open, bound the children; what stays open, and a witness if met."""
        found, margin = self._bound(nodes, NODE_STEPS)
        self.count += len(nodes.row)
        self._keep(nodes, margin)
        witness = self._look(found.minimiser)
        keep = np.flatnonzero(~(margin > 0))
        if witness is not None or not len(keep):
            return [], witness
        nodes = Nodes(
            margin,
            nodes.row,
            nodes.phases,
            self._flat(found.slopes, len(margin)),
            self._flat(
                {n.name: found.multipliers[n.inputs[0]] for n in self.relus if n.inputs[0] in found.multipliers},
                len(margin),
            ),
        ).take(keep)
        scores = self._flat(found.scores, len(margin))[keep]
        scores = np.where(nodes.phases != 0, -1.0, scores)
        unit = self._choose(nodes, scores, deadline)
        children = []
        for sign in (1, -1):
            child = nodes.take(slice(None))
            child.phases = child.phases.copy()
            child.phases[np.arange(len(unit)), unit] = sign
            children.append(child)
        return children, None

    def _choose(self, nodes: Nodes, scores: Array, deadline: Deadline) -> npt.NDArray[np.intp]:
        """The unit to split in each node: of the best by score the one whose weaker child is strongest."""
        tries = min(CANDIDATES, scores.shape[1])
        best = np.argpartition(-scores, tries - 1, axis=1)[:, :tries]
        if tries < 2 or deadline.passed:
            return best[:, 0]
        count = len(best)
        sides = []
        for sign in (1, -1):
            child = nodes.take(np.repeat(np.arange(count), tries))
            child.phases = child.phases.copy()
            child.phases[np.arange(count * tries), best.reshape(-1)] = sign
            sides.append(self._bound(child, 1)[1].reshape(count, tries))
        ranked = np.minimum(sides[0], 0.0) + np.minimum(sides[1], 0.0) + np.minimum(*sides)
        ranked = np.where(np.take_along_axis(scores, best, 1) <= 0, -np.inf, ranked)
        top = np.take_along_axis(scores, best, 1).argmax(axis=1)
        choice = np.where(np.isfinite(ranked).any(axis=1), ranked.argmax(axis=1), top)
        unit = best[np.arange(count), choice]
        # without any open unit that costs something, split any that is free
        stuck = np.flatnonzero(scores[np.arange(count), unit] < 0)
        for k in stuck:
            free = np.flatnonzero(nodes.phases[k] == 0)
            unit[k] = free[0] if len(free) else 0
        return unit

    def _keep(self, nodes: Nodes, margin: Array) -> None:
        if self.leaves is not None and (margin > 0).any():
            self.leaves.append(nodes.take(np.flatnonzero(margin > 0)))

    def _look(self, points: Array) -> Array | None:
        """Whether a bound's minimiser is a witness."""
        return first_confirmed(self.query, self.query.box.clip(points))

    def _result(self, answer: Answer, **details: Any) -> EngineResult:
        return EngineResult(answer=answer, statistics={"nodes": self.count, "method": "ReLU splitting"}, **details)
