"""Bounds on label and attention over tiles of Θ."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from verifier.attention.answer import ASPECTS, failing
from verifier.attention.area_journal import AreaJournal, Found
from verifier.attention.area_result import OPEN, PROVED, REFUTED, AreaSettings, Tiles
from verifier.attention.condensed_tiles import available, condensed_on, known_signs, output_bounds
from verifier.attention.map_bounds import MapBounder
from verifier.attention.replay import Replay
from verifier.attention.table import Aspect
from verifier.bab.interfaces import Bounded
from verifier.bab.search import SearchResult
from verifier.bounds.condensed import Signs
from verifier.bounds.crown import Crown
from verifier.bounds.forward import Forward
from verifier.limits import Deadline
from verifier.network.graph import Network, Node
from verifier.network.operators import Array, Dense, Reshape
from verifier.network.reduction import reduce
from verifier.network.relu_reductions import WITHOUT_POOLS


class AreaBounder:
    """Bounds label and inconsistency over tiles, and looks for failures where it cannot.

    Args:
        question: network, image, perturbations, how inconsistency is measured, and the label.
        delta: the largest inconsistency that holds.
        how: with ``answers_only`` an aspect that was seen to fail, exactly, is not bounded any further.
        witness: by aspect a parameter at which it fails; those found are added, between batches.
        journal: where what was found is kept, if anywhere.
    """

    def __init__(
        self,
        question: Replay,
        delta: float,
        how: AreaSettings,
        witness: dict[Aspect, Array | None],
        journal: AreaJournal | None = None,
    ) -> None:
        perturbed = question.perturbed
        self.question, self.delta, self.how, self.witness = question, delta, how, witness
        self.journal = journal
        self._network = margin_network(perturbed.network, question.label)
        self._margins = Forward(self._network, np.arange(perturbed.dimension))
        self._condense = self._network.neurons > how.backward and available()
        if self._condense:
            self._network = reduce(self._network, WITHOUT_POOLS).network
        self._back: Crown | None = None
        self._maps: MapBounder | None = None
        if "attention" in how.aspects:
            rows = 0 if self._condense else how.rows
            self._maps = MapBounder(perturbed, question.settings, question.label, rows)
        self._lock, self.finished = threading.Lock(), list[Tiles]()
        self.lowest: tuple[float, list[float]] | None = None
        """The smallest margin met where the label was not proved, and its parameter."""
        self._lower: list[tuple[float, list[float]]] = []

    def bound(self, batch: Tiles, deadline: Deadline) -> Bounded[Tiles]:
        """See `verifier.bab.interfaces.Bounder`; finished tiles are put aside."""
        told = [self.how.answers_only and self.witness[a] is not None for a in ASPECTS]
        found = None if self.journal is None else self.journal.recall(batch, told)
        if found is None:
            found = self._found(batch, told, deadline)
            if self.journal is not None and not deadline.passed:
                self.journal.note(batch, told, found)
        bounded = Tiles(batch.low, batch.high, found.kinds)
        done = (found.kinds != OPEN).all(axis=1)
        with self._lock:
            self.finished.append(bounded.take(done))
            if found.lowest is not None:
                self._lower.append(found.lowest)
        return Bounded(bounded, np.where(done, 1.0, -1.0))

    def between(self, so_far: SearchResult) -> str:
        """Called between batches, when no tile is at work: the lowest margin so far is replayed; why to stop, or ""."""
        lower = min(self._lower, default=None)
        self._lower.clear()
        if lower is not None and (self.lowest is None or lower < self.lowest):
            self.lowest = lower
            if self.how.answers_only and lower[0] <= 0 and self.witness["label"] is None:
                self.witness["label"] = failing(self.question, "label", self.delta, [np.array(lower[1])])
        over = self.how.answers_only and all(self.witness[a] is not None for a in self.how.aspects)
        return "all that is asked has an answer" if over else ""

    def _found(self, batch: Tiles, told: list[bool], deadline: Deadline) -> Found:
        """The kinds of some tiles, of which those of aspects that are ``told`` are of no interest."""
        kinds, lowest = batch.kinds.copy(), None
        for k, known in enumerate(told):
            if known:
                kinds[kinds[:, k] == OPEN, k] = REFUTED
        if self._condense:
            return self._one_by_one(batch, kinds, deadline)
        todo = np.flatnonzero(kinds[:, 0] == OPEN)
        if len(todo):
            symbolic, boxes = self._margins.bounds(batch.low[todo], batch.high[todo])
            low, high = self._margins.ranges(symbolic, boxes)
            kinds[todo, 0] = _label_kinds(low, high)
            left = np.flatnonzero(kinds[todo, 0] == OPEN)
            slopes = symbolic.lower[low[left].argmin(axis=1), left, :-1]
            lowest = self._look(np.where(slopes > 0, batch.low[todo[left]], batch.high[todo[left]]))
            again = todo[left[self._loose(batch.take(todo[left]), low[left], high[left])]]
            if len(again) and not deadline.passed:
                relaxed = self._backwards().relax(batch.low[again], batch.high[again], nodes=(self._network.output,))
                kinds[again, 0] = _label_kinds(*relaxed.intervals[self._network.output])
        if self._maps is not None:
            for k in np.flatnonzero(kinds[:, 1] == OPEN).tolist():
                if deadline.passed:  # what is left stays open; the search ends before its next batch
                    break
                kinds[k, 1] = self._map_kind(batch.low[k], batch.high[k])
        return Found(kinds, lowest)

    def _one_by_one(self, batch: Tiles, kinds: npt.NDArray[np.int8], deadline: Deadline) -> Found:
        """The kinds of tiles of a large network, each by the network over the ReLUs that are unstable on it."""
        for k in np.flatnonzero((kinds == OPEN).any(axis=1)).tolist():
            if deadline.passed:
                break
            low, high = batch.low[k], batch.high[k]
            condensed = condensed_on(self._network, low, high, deadline)
            if condensed is not None and kinds[k, 0] == OPEN:
                kinds[k, 0] = _label_kinds(*output_bounds(condensed, self._network.output_size, len(low)))[0]
            if self._maps is not None and kinds[k, 1] == OPEN:
                kinds[k, 1] = self._map_kind(low, high, None if condensed is None else known_signs(condensed))
        left = np.flatnonzero(kinds[:, 0] == OPEN)
        return Found(kinds, self._look((batch.low[left] + batch.high[left]) / 2))

    def _map_kind(self, low: Array, high: Array, signs: Mapping[str, Signs] | None = None) -> int:
        """The kind of one tile in attention."""
        assert self._maps is not None
        least, greatest = self._maps.inconsistency(low, high, signs)
        return PROVED if greatest <= self.delta else (REFUTED if least > self.delta else OPEN)

    def _backwards(self) -> Crown:
        """Backward bounds, prepared when they are first needed."""
        with self._lock:
            if self._back is None:
                self._back = Crown(self._network, self.question.perturbed.box)
            return self._back

    def _loose(self, tiles: Tiles, low: Array, high: Array) -> npt.NDArray[np.intp]:
        """Tiles on which going back from the outputs may tell what going forward does not.

        Those where the outputs at the center are far from a tie for the bounds' width: deep networks, large tiles.
        """
        if not len(tiles) or self._network.neurons > self.how.backward:
            return np.zeros(0, dtype=np.intp)
        margins = self._network.forward((tiles.low + tiles.high) / 2).reshape(len(tiles), -1)
        holds, fails = (margins > 0).all(axis=1), (margins <= 0).any(axis=1)
        below = (low < -self.how.loose * np.abs(margins)).any(axis=1)
        above = (np.where(margins <= 0, high, np.inf) > self.how.loose * np.abs(margins)).all(axis=1)
        return np.flatnonzero((holds & below) | (fails & above))

    def _look(self, points: Array) -> tuple[float, list[float]] | None:
        """The smallest margin at some points (the corners where bounds on the label are lowest), and its parameter."""
        if not len(points):
            return None
        outputs = self.question.perturbed.network.forward(points).reshape(len(points), -1)
        label = self.question.label
        margins = outputs[:, label] - np.delete(outputs, label, axis=1).max(axis=1)
        best = int(margins.argmin())
        return float(margins[best]), points[best].tolist()


def _label_kinds(low: Array, high: Array) -> npt.NDArray[np.int8]:
    """The kinds of tiles by bounds on the label's output less each other one, ``(N, others)``."""
    proved, refuted = (low > 0).all(axis=1), (high <= 0).any(axis=1)
    return np.where(proved, PROVED, np.where(refuted, REFUTED, OPEN)).astype(np.int8)


def margin_network(network: Network, label: int) -> Network:
    """The same network with the label's output less each other one as outputs."""
    others = [j for j in range(network.output_size) if j != label]
    rows = np.zeros((len(others), network.output_size))
    rows[:, label] = 1.0
    rows[np.arange(len(others)), others] = -1.0
    nodes, last = list(network.nodes), network.output
    if len(network.output_shape) != 1:
        flat = (network.output_size,)
        nodes.append(Node("margins/flat", Reshape(flat), (last,), flat))
        last = "margins/flat"
    nodes.append(Node("margins", Dense(rows, np.zeros(len(others))), (last,), (len(others),)))
    return Network(tuple(nodes), "margins", network.source)
