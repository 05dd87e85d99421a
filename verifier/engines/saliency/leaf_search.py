"""Branch and bound over the phases of the last hidden layer by Lagrangian bounds (`verifier.engines.saliency.leaf`).

A subproblem is first tightened: the bounds of all free preactivations under *all* its rows, by one short ascent each,
again and again while that pays. Tighter bounds move the corners of every neuron, and fix phases; this closes most
subproblems by itself, or makes their trees small. A tree that stays open after a few nodes is cut into the two
children of its root, which are tightened on their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from verifier.engines.base import Deadline
from verifier.engines.saliency.leaf import Leaf
from verifier.engines.saliency.leaf_kernels import Data, ascend, search, tighten
from verifier.engines.saliency.problem import UNIT, Phases
from verifier.network.operators import Array

ROUNDS, ENOUGH = 6, 0.93
"""Most rounds of tightening, and the factor on the mean width above which another round does not pay."""
TIGHTEN_STEPS, ROOT_STEPS, STEPS, TRIAL = 60, 150, 80, 25
"""Steps of the ascents: of one bound, of a subproblem's root, of a node of a tree, of a branching on trial."""
CANDIDATES = 4
"""Branchings tried at a node."""
NODES = 60
"""Nodes of a tree before its root's children are tightened on their own."""
FEW = 6
"""Subproblems with at most so many free phases are left to linear programs."""


@dataclass(eq=False)
class _Part:
    """A subproblem: bounds, phases, and the multipliers of its bound and of each preactivation's bounds."""

    low: Array
    high: Array
    phases: Phases
    s: Array
    mu: Array
    all_s: Array
    all_mu: Array
    depth: int


class LeafSearch:
    """The tree below one leaf; `run` yields the parts that it leaves to others."""

    def __init__(self, leaf: Leaf) -> None:
        self.leaf = leaf
        self.nodes, self.depth = 0, 0
        self.timed_out = False
        if leaf.case.any():
            self._data, self._target_unit = _data(leaf)
        self._nothing = np.zeros(len(leaf.coordinates))

    def run(self, deadline: Deadline) -> Iterator[Phases]:
        """Phases ``(m,)`` of subproblems that are neither closed nor worth another branching here."""
        leaf = self.leaf
        if not leaf.case.any():  # a case that speaks of the input or the gradient alone
            yield leaf.phases
            return
        m, rows = leaf.outputs.shape[1], len(leaf.row_low)
        mu = leaf.case / leaf.case.sum()
        alpha = mu @ leaf.outputs
        with np.errstate(divide="ignore", invalid="ignore"):
            chord = np.where(leaf.high > leaf.low, leaf.high / (leaf.high - leaf.low), 0.0)
        s = np.where(alpha > 0, 0.0, alpha * chord)
        parts = [
            _Part(leaf.low.copy(), leaf.high.copy(), leaf.phases.astype(np.int8), s, mu,
                  np.zeros((2 * m, m)), np.zeros((2 * m, rows)), 0)
        ]  # fmt: skip
        while parts:
            if deadline.passed:
                self.timed_out = True
                return
            part = parts.pop()
            self.depth = max(self.depth, part.depth)
            if not self._tighten(part, deadline):
                continue
            yield from self._search(part, parts, deadline)
            if self.timed_out:
                return

    def _tighten(self, part: _Part, deadline: Deadline) -> bool:
        """Tighten a part's bounds; False if that closes it."""
        data = self._data._replace(low=part.low, high=part.high)
        on = np.zeros(len(part.low))
        self.nodes += 1
        for _ in range(ROUNDS):
            if ascend(data, part.phases, self._nothing, 0.0, 1.0, part.s, part.mu, ROOT_STEPS, 0.2, 0.98, on, True) > 0:
                return False
            if deadline.passed or not (part.phases == 0).any():
                return True
            possible, factor = tighten(
                data, part.phases, part.all_s, part.all_mu, self._target_unit, data.neuron_size, TIGHTEN_STEPS
            )
            if not possible:
                return False
            if factor > ENOUGH:
                break
        return True

    def _search(self, part: _Part, parts: list[_Part], deadline: Deadline) -> Iterator[Phases]:
        """A tree of few nodes; what it does not close is yielded or pushed as two parts."""
        data = self._data._replace(low=part.low, high=part.high)
        m, rows = len(part.low), len(part.mu)
        stack = np.zeros((m + 3, m), dtype=np.int8), np.zeros((m + 3, m)), np.zeros((m + 3, rows))

        def visit(count: int, nodes: int) -> tuple[int, bool]:
            count, visited, few = search(data, *stack, count, nodes, STEPS, TRIAL, CANDIDATES, FEW)
            self.nodes += visited
            return count, few

        for nodes in (NODES, 1):
            stack[0][0], stack[1][0], stack[2][0] = part.phases, part.s, part.mu
            count, few = visit(1, nodes)
            while few:
                yield stack[0][count - 1].copy()
                if nodes == 1:
                    return
                if deadline.passed:
                    self.timed_out = True
                    return
                count, few = visit(count - 1, nodes)
            if not count:
                return
        for k in range(count):
            rest = (stack[1][k].copy(), stack[2][k].copy(), part.all_s.copy(), part.all_mu.copy(), part.depth + 1)
            parts.append(_Part(part.low.copy(), part.high.copy(), stack[0][k].copy(), *rest))


def _data(leaf: Leaf) -> tuple[Data, Array]:
    """The kernels' data, and the size of each preactivation in terms of the case's rows."""
    a, d, e = leaf.outputs, leaf.phase_rows, leaf.coordinate_rows
    reach = np.abs(leaf.coordinates) @ (np.abs(leaf.center) + leaf.radius)
    most = np.maximum(leaf.high, 0.0)  # of outputs; phases that are assumed may have bounds below zero
    moved = np.abs(a) @ most + np.abs(d).sum(axis=1) + np.abs(e @ leaf.coordinates) @ leaf.radius
    case = leaf.case > 0
    unit = moved[case].mean() + 1e-12
    ends = [np.where(np.isfinite(end), np.abs(end), 0.0) for end in (leaf.row_low, leaf.row_high)]
    terms = UNIT * (leaf.coordinates.shape[1] + sum(a.shape) + len(reach) + 8)
    sizes = ends[0] + ends[1] + np.abs(a) @ most + np.abs(d).sum(axis=1) + np.abs(e) @ reach
    size = np.maximum(-leaf.low, most) + most + np.abs(leaf.offset) + np.abs(leaf.slope_matrix) @ reach
    speaks = np.stack([(matrix != 0).any(axis=1) for matrix in (a, d, e)], axis=1)
    data = Data(
        low=leaf.low,
        high=leaf.high,
        coordinates=np.ascontiguousarray(leaf.coordinates),
        center=np.ascontiguousarray(leaf.center),
        radius=np.ascontiguousarray(leaf.radius),
        slope_matrix=np.ascontiguousarray(leaf.slope_matrix),
        offset=leaf.offset,
        outputs=np.ascontiguousarray(a),
        phase_rows=np.ascontiguousarray(d),
        coordinate_rows=np.ascontiguousarray(e),
        row_low=leaf.row_low,
        row_high=leaf.row_high,
        row_size=terms * sizes,
        neuron_size=terms * size + leaf.padding,
        row_unit=unit / np.maximum(moved, 1e-9),
        neuron_unit=np.full(a.shape[1], np.abs(a[case]).mean()),
        speaks=speaks,
        case=case,
    )
    return data, np.abs(leaf.slope_matrix @ leaf.coordinates) @ leaf.radius / unit
