"""Bounds on ReLUs' inputs by branch and bound: for each neuron a small search of its own over the phases of earlier neurons.

In a dense network the relaxation of one layer loosens the bounds of the next, and so on from layer to layer: three
layers on most neurons look open that are not. So the neurons' bounds are worth a search each, layer by layer (the idea of
refining bounds by a MIP before the branch and bound: Wang et al., NeurIPS 2021, "bab-refine"; here many thousands of
nodes of all rows of a block are bounded together, in the manner of `crown_slopes.ascend`). A row's leaves cover the box,
so the lowest of their bounds is a bound of the row.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.bounds.condensed import CondensedNetwork, Start
from verifier.bounds.crown_slopes import CHUNK, LARGEST_HALF, NeuronBounder, ascend, inputs_of, prove
from verifier.bounds.settings import NeuronSearchSettings
from verifier.limits import thread_pool
from verifier.network.operators import Array


@dataclass(eq=False)
class Leaves:
    """Leaves of many searches, one line each.

    Attributes:
        row: ``(N,)`` the row that a leaf belongs to.
        bound: ``(N,)`` its bound (in float32 while the search goes on).
        phases, weights: ``(N, neurons)`` as in `node_store.Nodes`; weights in float16.
        neuron: ``(N,)`` the free neuron that costs the bound most; -1: there is none.
    """

    row: npt.NDArray[np.intp]
    bound: Array
    phases: Any
    weights: Array
    neuron: npt.NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.row)

    def take(self, which: Any) -> Leaves:
        """Some of the leaves."""
        return Leaves(*(a[which] for a in vars(self).values()))

    @staticmethod
    def join(parts: list[Leaves]) -> Leaves:
        """All leaves of the parts."""
        return Leaves(*(np.concatenate([getattr(p, n) for p in parts]) for n in vars(parts[0])))


@dataclass(frozen=True)
class NeuronSearch:
    """A `condensed.Bounder` that searches for the rows of each neuron that `first` leaves open.

    Attributes:
        first: the bounds from which the searches start.
        effort: nodes of all searches of a block together, at first.
        patience: `time.monotonic` moment after which no block gets more than that.
        settings: how they are searched.

    Source:
        bounds refined before the branch and bound: Wang et al., NeurIPS 2021 ("bab-refine"); nodes by
        β-CROWN, ibid., Theorem 3.1; the search over all rows of a block at once is this module's own.
    """

    first: NeuronBounder
    effort: int
    patience: float = np.inf
    settings: NeuronSearchSettings = NeuronSearchSettings()

    def __call__(self, condensed: CondensedNetwork, start: Start, begin: Array | None = None) -> tuple[Array, Array]:
        """See `condensed.Bounder`."""
        lower, weights = self.first(condensed, start, begin)
        rows = _undecided(lower)
        if not len(rows) or not (condensed.phases == 0).any():
            return lower, weights
        with thread_pool(self.first.threads) as pool:
            opened, rows = _Searches(condensed, start, pool, self.first.until, self.settings).run(
                rows, weights, self.effort, self.patience
            )
        found = np.full(len(start), 0.0)
        np.minimum.at(found, opened.row, opened.bound)
        lower[rows] = np.maximum(lower[rows], found[rows])
        return lower, weights


def _undecided(lower: Array) -> npt.NDArray[np.intp]:
    """The rows of neurons neither of whose two rows, z and -z in the two halves, is proved to be above zero."""
    both = lower.reshape(2, -1)
    neurons = np.flatnonzero(((both < 0) & (both > -np.inf)).all(axis=0))
    return np.concatenate([neurons, neurons + both.shape[1]])


class _Searches:
    """The searches of the rows of one call."""

    def __init__(
        self,
        condensed: CondensedNetwork,
        start: Start,
        pool: ThreadPoolExecutor,
        until: float,
        settings: NeuronSearchSettings,
    ) -> None:
        self.settings = settings
        self.condensed, self.start, self.pool, self.until = condensed, start, pool, until
        self._points: list[Array] = []

    def run(
        self, rows: npt.NDArray[np.intp], weights: Array, effort: int, patience: float
    ) -> tuple[Leaves, npt.NDArray[np.intp]]:
        """The leaves that are open at the end, with proved bounds, and the rows whose other leaves are all refuted.

        Args:
            rows: in pairs, as `_undecided` gives them; where one of a pair is refuted, the other may be given up.
        """
        count = len(rows)
        phases = np.repeat(self.condensed.phases[None], count, axis=0)
        root = Leaves(rows, np.full(count, -np.inf), phases, _half(weights.T[rows]), np.zeros(count, int))
        leaves = self._bound(root)
        reached = self._least(self._points) < 0
        nodes, most, before = count, 1.0, count
        while len(leaves) and time.monotonic() < self.until:
            if nodes >= effort:
                left = np.zeros(len(self.start), dtype=bool)
                left[leaves.row] = True
                pairs = np.tile(left.reshape(2, -1).all(axis=0), 2)
                if (
                    pairs.sum() > (1 - self.settings.pays) * before
                    or effort >= self.settings.most
                    or time.monotonic() > patience
                ):
                    break
                effort, before = 2 * effort, int(pairs.sum())
                rows = rows[pairs[rows] | ~left[rows]]
                leaves = leaves.take(pairs[leaves.row])
            order = np.lexsort((leaves.bound, leaves.row))
            row = leaves.row[order]
            rank = np.arange(len(row)) - np.searchsorted(row, row)
            pick = order[
                (rank < np.where(reached[row], np.ceil(self.settings.reached_share * most), np.floor(most)))
                & (leaves.bound[order] < 0)
                & (leaves.neuron[order] >= 0)
            ]
            if not len(pick):
                break
            rest = np.ones(len(leaves), dtype=bool)
            rest[pick] = False
            children = []
            for sign in (1, -1):
                child = leaves.take(pick)
                place = np.arange(len(pick))
                child.phases[place, child.neuron], child.weights[place, child.neuron] = sign, 0.0
                children.append(child)
            leaves = Leaves.join([leaves.take(rest), self._bound(Leaves.join(children))])
            nodes += 2 * len(pick)
            most *= self.settings.growth

        def proved(part: Leaves) -> Array:
            if time.monotonic() > self.until:
                return np.full(len(part), -np.inf)
            return prove(self.condensed, self.start.take(part.row), *_columns(part))

        pieces = [leaves.take(slice(k, k + CHUNK)) for k in range(0, len(leaves), CHUNK)]
        if pieces:
            leaves.bound = np.concatenate(list(self.pool.map(proved, pieces)))
        return leaves, rows

    def _least(self, points: list[Array]) -> Array:
        """The least value of each row at some points ``(P, n)`` of the box, in float32."""
        x = np.ascontiguousarray(np.concatenate(points)[: self.settings.samples].T)
        values = [x]
        for number, block in enumerate(self.condensed.blocks[1:], 1):
            z = inputs_of(self.condensed, values, number, x.shape[1], x.dtype)
            np.maximum(z[: block.count], 0.0, out=z[: block.count])
            values.append(z)
        total = self.start.constant[:, None] + sum(
            a.T.astype(x.dtype) @ values[s] for s, a in self.start.coefficients.items()
        )
        return np.asarray(total.min(axis=1))

    def _bound(self, nodes: Leaves) -> Leaves:
        """Bound new nodes: those that are not refuted."""
        pieces = [nodes.take(slice(k, k + CHUNK)) for k in range(0, len(nodes), CHUNK)]
        return Leaves.join(list(self.pool.map(self._bound_piece, pieces)))

    def _bound_piece(self, nodes: Leaves) -> Leaves:
        if time.monotonic() > self.until and self._points:
            return nodes
        rows = self.start.take(nodes.row)
        weights, phases = _columns(nodes)
        found = ascend(
            self.condensed, rows, weights, phases, steps=self.settings.steps, target=self.settings.margin, score=True
        )
        assert found.scores is not None
        if sum(map(len, self._points)) < self.settings.samples:
            self._points.append(found.minimiser)
        nodes.weights = _half(np.ascontiguousarray(found.weights.T))
        nodes.bound = np.maximum(nodes.bound, found.lower)
        nodes.neuron = np.where(found.scores.max(axis=0) > 0, found.scores.argmax(axis=0), -1)
        refuted = found.lower > self.settings.margin
        maybe = np.flatnonzero(refuted)
        if len(maybe):
            refuted[maybe] = prove(self.condensed, rows.take(maybe), found.weights[:, maybe], phases[:, maybe]) > 0
        return nodes.take(~refuted)


def _columns(nodes: Leaves) -> tuple[Array, Any]:
    return np.ascontiguousarray(nodes.weights.T.astype(np.float32)), np.ascontiguousarray(nodes.phases.T)


def _half(weights: Array) -> Array:
    return np.minimum(weights, LARGEST_HALF).astype(np.float16)
