"""Certificates of lattice networks: maxima and minima spelled out in ReLUs, over few inputs.

Going back from a row, the greater of two values is bounded from below by either of them, which needs no bounds of anything: the one
that is greater at the box's centre is taken. Where it is to be bounded from above, the two phases of its ReLU are told apart. So a
box needs as many leaves as the affected maxima have entries, each a single affine function; boxes are divided until all are positive.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from verifier.engines.native.settings import LatticeSettings
from verifier.limits import Deadline
from verifier.network.operators import Array
from verifier.proofs.checker.claim import Claim
from verifier.proofs.checker.evaluate import Evaluator, ProofError, Record, Region, Task
from verifier.proofs.checker.graph import Graph, through
from verifier.proofs.tree import NoCertificate, ProofTree, Term, Weights


@dataclass(eq=False)
class _Path:
    """A row on its way back: the phases that were told apart for it, and the sides that were chosen."""

    phases: dict[int, int] = field(default_factory=dict)
    chosen: dict[int, float] = field(default_factory=dict)

    def told(self, unit: int, sign: int) -> _Path:
        """The same in one phase more."""
        return _Path({**self.phases, unit: sign}, dict(self.chosen))


class LatticeProver:
    """Finds the proof of one claim.

    Attributes:
        tree: what was found so far; it speaks of the claim's own disjuncts and rows.
    """

    def __init__(self, graph: Graph, claim: Claim, settings: LatticeSettings = LatticeSettings()) -> None:
        self.settings = settings
        self.graph, self.claim = graph, claim
        self.checker = Evaluator(graph, claim)
        self.tree = ProofTree()

    def prove(self, deadline: Deadline) -> ProofTree:
        """The proof, as a tree for each disjunct.

        Raises:
            NoCertificate: there is none, or none was found in time.
        """
        for disjunct, part in enumerate(self.claim.disjuncts):
            if not part.empty:
                self._disjunct(disjunct, deadline)
        return self.tree

    def _disjunct(self, disjunct: int, deadline: Deadline) -> None:
        low, high, phases = root = self.checker.begin([disjunct])
        node, empty = self.tree.root([disjunct]), np.zeros(0, dtype=np.intp)
        record = Record(root, self.checker.nothing(root), 1, empty, (empty, np.zeros(0), []))
        record.found = self.checker.bounded([record])
        self.tree.weighted_bounds(node, empty, [])
        todo = [(node, low, high)]
        while todo:
            if deadline.passed:
                raise NoCertificate(f"the time for it was over with {len(todo)} boxes left")
            node, low, high = todo.pop()
            axis = self._box(node, disjunct, (low, high, phases), record)
            if axis is None:
                continue
            middle = float(low[axis] + (high[axis] - low[axis]) / 2)
            if high[axis] - low[axis] <= self.settings.narrow * (root[1][axis] - root[0][axis]):
                raise NoCertificate("a box stayed undecided within rounding errors")
            below, above = high.copy(), low.copy()
            below[axis] = above[axis] = middle
            first, second = self.tree.divide_input(node, axis, middle)
            todo += [(first, low, below), (second, above, high)]

    def _box(self, node: int, disjunct: int, region: Region, record: Record) -> int | None:
        """Refute a disjunct on a box; else the input to divide it by."""
        low, high, _ = region
        rows = self.claim.disjuncts[disjunct].rows
        values, slopes, axis = self._values((low + high) / 2), np.zeros(len(low)), 0
        for row in range(len(rows)):
            paths, functions, constants = self._back(disjunct, row, values)
            least = constants + (np.maximum(functions, 0) * low + np.minimum(functions, 0) * high).sum(axis=1)
            if (least > 0).all() and self._holds(disjunct, row, region, record, paths):
                self._write(node, disjunct, row, paths)
                return None
            slopes = np.abs(functions[int(least.argmin())]) * (high - low)
            axis = int(slopes.argmax()) if slopes.any() else int((high - low).argmax())
        return axis

    def _values(self, x: Array) -> dict[int, Array]:
        """The values of all nodes at an input."""
        found = {0: x[None]}
        for k, node in enumerate(self.graph.nodes[1:], start=1):
            if node.kind == "relu":
                found[k] = np.maximum(found[node.terms[0][0]], 0)
            else:
                found[k] = sum(through(m, found[source]) for source, m in node.terms) + node.constant
        return found

    def _back(self, disjunct: int, row: int, values: dict[int, Array]) -> tuple[list[_Path], Array, Array]:
        """Functions ``(leaves, n)`` and constants below a row, and the leaf that each is for."""
        pending, paths = dict[int, Array](), [_Path()]
        exact = self.claim.disjuncts[disjunct].rows[row]
        constants = np.array([-float(exact.bound)])
        for name, entries in exact.coefficients.items():
            number = self.graph.outputs[name]
            pending[number] = np.zeros((1, self.graph.nodes[number].size))
            for index, c in entries.items():
                pending[number][0, index] = float(c)
        for k in range(len(self.graph.nodes) - 1, 0, -1):
            node, a = self.graph.nodes[k], pending.pop(k, None)
            if a is None:
                continue
            if node.kind == "affine":
                constants = constants + a @ node.constant
                more = [(source, through(m, a, back=True)) for source, m in node.terms]
            else:
                source = node.terms[0][0]
                on = values[source][0] > 0
                which, paths, a = self._told_apart(paths, a, node.part.start, on)
                pending, constants = {s: v[which] for s, v in pending.items()}, constants[which]
                more = [(source, a)]
            for source, rows in more:
                pending[source] = pending[source] + rows if source in pending else rows
        return paths, pending.get(0, np.zeros((len(paths), self.graph.nodes[0].size))), constants

    def _told_apart(self, paths: list[_Path], a: Array, first: int, on: Array) -> tuple[Array, list[_Path], Array]:
        """Rows through ReLUs: which row each one comes from, their paths, and what they hand on."""
        which, found, out = list[int](), list[_Path](), list[Array]()
        for k, path in enumerate(paths):
            for j in np.flatnonzero(a[k] > 0).tolist():
                path.chosen[first + j] = float(on[j])
            parts = [(path, np.where(a[k] > 0, a[k] * on, 0.0))]
            for j in np.flatnonzero(a[k] < 0).tolist():
                handed, told = np.zeros(a.shape[1]), list[tuple[_Path, Array]]()
                handed[j] = a[k, j]
                for p, v in parts:
                    told += [(p.told(first + j, sign), v + handed if sign > 0 else v) for sign in (1, -1)]
                parts = told
                if len(parts) + len(found) > self.settings.most_leaves:
                    raise NoCertificate("it is no lattice: too many phases would have to be told apart")
            which += [k] * len(parts)
            found += [p for p, _ in parts]
            out += [v for _, v in parts]
        return np.array(which), found, np.stack(out)

    # -- what is written ---------------------------------------------------------------------------------
    def _holds(self, disjunct: int, row: int, region: Region, record: Record, paths: list[_Path]) -> bool:
        """Whether the checker takes all leaves."""
        tasks = []
        for path in paths:
            phases = region[2].copy()
            phases[list(path.phases)] = list(path.phases.values())
            units, weights = _sides(path)
            term: Any = (np.array([row]), np.ones(1), (units, weights, False))
            tasks.append(Task(0, (region[0], region[1], phases), record, disjunct, [term]))
        try:
            self.checker.refuted(tasks)
        except ProofError:
            return False
        return True

    def _write(self, node: int, disjunct: int, row: int, paths: list[_Path]) -> None:
        stack = [(node, paths, 0)]
        while stack:
            here, some, depth = stack.pop()
            if len(some) == 1 and len(some[0].phases) == depth:
                self.tree.refute(here, disjunct, [Term([row], [1.0], Weights(*_sides(some[0])))])
                continue
            unit = list(some[0].phases)[depth]
            parts = self.tree.divide_neuron(here, unit)
            stack += [
                (part, [p for p in some if p.phases[unit] == sign], depth + 1)
                for part, sign in zip(parts, (1, -1), strict=True)
            ]


def _sides(path: _Path) -> tuple[Array, Array]:
    units = np.array(sorted(path.chosen), dtype=np.intp)
    return units, np.array([path.chosen[unit] for unit in units.tolist()])
