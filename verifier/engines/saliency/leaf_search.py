"""Branch and bound over the phases of the last hidden layer by Lagrangian bounds (`verifier.engines.saliency.leaf`).

A subproblem is tightened: the bounds of all free preactivations under the rows that all its open disjuncts share (under
all rows, once one disjunct is left), and those of the disjuncts, by ascents side by side that use each other's results every
few steps. Tighter bounds move the corners of every neuron, and fix phases; this closes most subproblems by itself. What
stays open is branched on the phase that raises the bound of its worst case most on trial.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from verifier.bab import (
    Bounded,
    BranchAndBound,
    Children,
    DepthStore,
    Ending,
    Items,
    LeafAnswer,
    Settings,
    Verdict,
)
from verifier.engines.saliency.leaf import Leaf
from verifier.engines.saliency.leaf_lagrangian import Columns, Lagrangian, Proof, Single
from verifier.engines.saliency.problem import Phases
from verifier.engines.saliency.settings import LeafSettings
from verifier.errors import MemoryLimitError, TimeLimitError
from verifier.limits import Deadline, MemoryBudget
from verifier.network.operators import Array
from verifier.properties.numbers import Point


@dataclass(eq=False)
class _Subproblem:
    """A subproblem: bounds, phases, open disjuncts, multipliers of the disjuncts' bounds and of each preactivation's two.

    Attributes:
        disjuncts: ``(c,)`` places in the leaf's disjuncts; of_disjuncts: ``(m + K, c)``; of_neurons: ``(m + K, 2 m)``.
        worst: the place of the disjunct with the least bound.
        score: what branching on each neuron promises, once the subproblem is tightened.
        closed: whether a branching closes both its halves.
    """

    low: Array
    high: Array
    phases: Phases
    disjuncts: Array
    of_disjuncts: Single
    of_neurons: Single
    depth: int
    worst: int = 0
    score: Array | None = None
    closed: bool = False


class LeafSearch:
    """The tree below one leaf: the parts of its branch and bound.

    Attributes:
        nodes, depth: how many subproblems were visited, and the most phases fixed by branching.

    Source:
        Lagrangian relaxation in branch and bound: Geoffrion, 1974; multipliers by Adam: Kingma, Ba, ICLR
        2015.
    """

    def __init__(
        self, leaf: Leaf, settle: Callable[[int, Phases], Point | None], settings: LeafSettings = LeafSettings()
    ) -> None:
        """
        Args:
            settle: takes over a disjunct of a subproblem, ``(m,)`` phases, that is neither closed nor worth another branching
                here; gives a witness if it finds one.
        """
        self.leaf, self.lagrangian, self.settle, self.settings = leaf, Lagrangian(leaf), settle, settings
        self.nodes, self.depth = 0, 0
        self._allowed = (self.lagrangian.disjuncts > 0).astype(np.float32)

    def run(self, deadline: Deadline) -> Point | None:
        """A witness, or None: then all that `settle` was not given is refuted.

        Raises:
            TimeLimitError, MemoryLimitError: a limit was reached before.

        Raises:
            TimeLimitError, MemoryLimitError: why it came to no end.
        """
        leaf = self.leaf
        for k in np.flatnonzero(~leaf.disjunct_rows.any(axis=1)):  # these speak of the input or the gradient alone
            witness = self.settle(leaf.disjuncts[k], leaf.phases)
            if witness is not None:
                return witness
        disjuncts = np.flatnonzero(leaf.disjunct_rows.any(axis=1))
        roots = (self._root(disjuncts),) if len(disjuncts) else ()
        search = BranchAndBound(
            store=DepthStore[Items[_Subproblem]](MemoryBudget.of(None)),
            bounder=self,
            brancher=self,
            leaf=self,
            settings=Settings(batch=1, piece=1),
        )
        found = search.run(Items(roots), deadline)
        if found.ending is Ending.OPEN:
            raise (TimeLimitError if found.late else MemoryLimitError)(found.reason)
        return found.witness

    # -- the parts of the branch and bound ---------------------------------------------------------------
    def bound(self, batch: Items[_Subproblem], deadline: Deadline) -> Bounded[Items[_Subproblem]]:
        """See `verifier.bab.Bounder.bound`."""
        (subproblem,) = batch.items
        self.depth = max(self.depth, subproblem.depth)
        self.nodes += 1
        subproblem.score = self._tighten(subproblem, deadline)
        return Bounded(batch, np.full(1, 1.0 if subproblem.score is None else -1.0))

    def split(self, batch: Items[_Subproblem], lower: Array) -> Children[Items[_Subproblem]]:
        """See `verifier.bab.Brancher.split`."""
        (subproblem,) = batch.items
        assert subproblem.score is not None
        children = self._branch(subproblem, subproblem.score)
        subproblem.closed = not children
        return Children(Items(tuple(children)), np.zeros(len(children), dtype=np.intp))

    def takes(self, batch: Items[_Subproblem], lower: Array) -> npt.NDArray[np.bool_]:
        """See `verifier.bab.LeafSolver.takes`."""
        return np.array([(subproblem.phases == 0).sum() <= self.settings.few for subproblem in batch.items])

    def solve(self, leaf: Items[_Subproblem], deadline: Deadline) -> LeafAnswer:
        """See `verifier.bab.LeafSolver.solve`: others take over what is open, and this search is done with it."""
        (subproblem,) = leaf.items
        for k in () if subproblem.closed else subproblem.disjuncts:
            witness = self.settle(self.leaf.disjuncts[k], subproblem.phases)
            if witness is not None:
                return LeafAnswer(Verdict.WITNESS, witness)
        return LeafAnswer(Verdict.REFUTED)

    def _root(self, disjuncts: Array) -> _Subproblem:
        """All of the leaf; its ascents start at CROWN's slopes."""
        leaf, m = self.leaf, self.lagrangian.m
        mu = self.lagrangian.disjuncts[:, disjuncts] / self.lagrangian.disjuncts[:, disjuncts].sum(axis=0)
        alpha = self.lagrangian.by_a[: len(mu)].T @ mu
        with np.errstate(divide="ignore", invalid="ignore"):
            chord = np.where(leaf.high > leaf.low, leaf.high / (leaf.high - leaf.low), 0.0)
        of_disjuncts = np.zeros((m + self.lagrangian.rows, len(disjuncts)), dtype=np.float32)
        of_disjuncts[:m], of_disjuncts[m : m + len(mu)] = np.where(alpha > 0, 0.0, alpha * chord[:, None]), mu
        of_neurons = np.zeros((m + self.lagrangian.rows, 2 * m), dtype=np.float32)
        return _Subproblem(
            leaf.low.copy(), leaf.high.copy(), leaf.phases.astype(np.int8), disjuncts, of_disjuncts, of_neurons, 0
        )

    def _tighten(self, subproblem: _Subproblem, deadline: Deadline) -> Array | None:
        """Tighten a subproblem's bounds; what branching on each neuron promises, None if that closes the subproblem."""
        s, width = self.settings, np.inf
        lengths = s.tighten_later if subproblem.depth else s.tighten
        free = np.flatnonzero(subproblem.phases == 0)
        neuron, sign = np.concatenate([free, free]), np.repeat(np.array([1, -1], dtype=np.int8), len(free))
        place = 2 * neuron + (sign < 0)
        columns = Columns(
            multipliers=np.concatenate([subproblem.of_disjuncts, subproblem.of_neurons[:, place]], axis=1),
            phases=np.repeat(subproblem.phases[:, None], len(subproblem.disjuncts) + len(place), axis=1),
            sign=np.concatenate([np.zeros(len(subproblem.disjuncts), dtype=np.int8), sign]),
            neuron=np.concatenate([np.zeros(len(subproblem.disjuncts), dtype=np.int64), neuron]),
            allowed=self._allow(subproblem.disjuncts, len(place)),
        )
        for block in range(s.blocks):
            mean = self.lagrangian.ascend(columns, subproblem.low, subproblem.high, s.block, *lengths)
            proof = self.lagrangian.prove(columns, subproblem.low, subproblem.high)
            bounds, count = proof.bounds, len(subproblem.disjuncts)
            subproblem.of_disjuncts, subproblem.of_neurons[:, place] = (
                columns.multipliers[:, :count],
                columns.multipliers[:, count:],
            )
            lower, upper = columns.sign > 0, columns.sign < 0
            np.maximum.at(subproblem.low, columns.neuron[lower], bounds[lower])
            np.minimum.at(subproblem.high, columns.neuron[upper], -bounds[upper])
            if (subproblem.low > subproblem.high).any():
                return None
            left = np.flatnonzero(bounds[:count] <= 0)
            if not len(left):
                return None
            free = subproblem.phases == 0
            subproblem.phases[free & ((subproblem.low > 0) | (bounds + proof.inactive > 0)[:, left].all(axis=1))] = 1
            subproblem.phases[free & ((subproblem.high < 0) | (bounds + proof.active > 0)[:, left].all(axis=1))] = -1
            kept = np.where(columns.sign == 0, bounds <= 0, subproblem.phases[columns.neuron] == 0)
            worst = left[np.argmin(bounds[left])]
            score = _score(proof, columns.multipliers[: self.lagrangian.m], mean, worst, subproblem)
            subproblem.disjuncts, subproblem.of_disjuncts = subproblem.disjuncts[left], subproblem.of_disjuncts[:, left]
            subproblem.worst = int(np.searchsorted(left, worst))
            free = subproblem.phases == 0
            before, width = width, float((subproblem.high - subproblem.low)[free].sum())
            if not free.any() or deadline.passed:
                break
            if block >= s.least_blocks and width > s.enough * before:
                break
            if not kept.all():
                columns.keep(kept)
                place = place[kept[count:]]
                columns.allowed = self._allow(subproblem.disjuncts, len(place))
            columns.phases[:] = subproblem.phases[:, None]
        return score

    def _allow(self, disjuncts: Array, targets: int) -> Single:
        """Which rows of disjuncts columns of disjuncts and of preactivations may use."""
        shared = (
            self._allowed[:, disjuncts] if len(disjuncts) == 1 else np.zeros((len(self._allowed), 1), dtype=np.float32)
        )
        return np.concatenate([self._allowed[:, disjuncts], np.repeat(shared, targets, axis=1)], axis=1)

    def _branch(self, subproblem: _Subproblem, score: Array) -> list[_Subproblem]:
        """One subproblem or two, or none if a branching closes both; the likelier to close is last."""
        tried = np.argsort(-score)[: self.settings.candidates]
        disjunct = subproblem.disjuncts[subproblem.worst]
        count = 2 * len(tried)
        phases = np.repeat(subproblem.phases[:, None], count, axis=1)
        phases[tried, np.arange(0, count, 2)], phases[tried, np.arange(1, count, 2)] = 1, -1
        columns = Columns(
            multipliers=np.repeat(subproblem.of_disjuncts[:, [subproblem.worst]], count, axis=1),
            phases=phases,
            sign=np.zeros(count, dtype=np.int8),
            neuron=np.zeros(count, dtype=np.int64),
            allowed=np.repeat(self._allowed[:, [disjunct]], count, axis=1),
        )
        self.lagrangian.ascend(columns, subproblem.low, subproblem.high, self.settings.trial, *self.settings.branching)
        bounds = self.lagrangian.prove(columns, subproblem.low, subproblem.high).bounds.reshape(-1, 2)
        gain = np.maximum(bounds - bounds.min(), 1e-9)
        best = int(np.argmax(np.where((bounds > 0).any(axis=1), np.inf, gain[:, 0] * gain[:, 1])))
        children = []
        for side in np.argsort(bounds[best]):
            kept = np.ones(len(subproblem.disjuncts), dtype=bool)
            kept[subproblem.worst] = bounds[best, side] <= 0
            if not kept.any():
                continue
            of_disjuncts = subproblem.of_disjuncts.copy()
            of_disjuncts[:, subproblem.worst] = columns.multipliers[:, 2 * best + side]
            child = subproblem.phases.copy()
            child[tried[best]] = 1 - 2 * side
            rest = subproblem.disjuncts[kept], of_disjuncts[:, kept], subproblem.of_neurons.copy(), subproblem.depth + 1
            children.append(_Subproblem(subproblem.low.copy(), subproblem.high.copy(), child, *rest))
        return children


def _score(proof: Proof, slopes: Single, mean: Single, c: int, subproblem: _Subproblem) -> Array:
    """What a branching on each neuron promises for the bound of column c; -1 where the phase is known."""
    size = np.abs(proof.kappa[:, c]) + np.abs(proof.alpha[:, c]) * subproblem.high
    size += np.abs(slopes[:, c]) * (subproblem.high - subproblem.low)
    score = (np.minimum(mean[:, c], 1 - mean[:, c]) + 1e-3) * size
    return np.where(subproblem.phases == 0, score, -1.0)
