"""The parts of the maps engine's branch and bound: boxes with assumed phases, how they are bounded and how split."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.bab import Bounded, Children
from verifier.engines.maps.enclosure import Enclosures, EnclosureSettings
from verifier.falsify.replay import first_confirmed
from verifier.limits import Deadline
from verifier.network.operators import Array
from verifier.properties.query import Query
from verifier.rounding import SPACING

Phases = npt.NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class Boxes:
    """A batch of boxes.

    Attributes:
        low, high: ``(N, n)`` their ends.
        phase: ``(N, neurons)`` what is assumed of the ReLUs: 1 active, -1 inactive, 0 nothing.
        influence: ``(N, n)`` how much each input can matter; 0 before they are bounded.
        effect: ``(N, neurons)`` how far each unstable ReLU can move the map; 0 before they are bounded.
    """

    low: Array
    high: Array
    phase: Phases
    influence: Array
    effect: Array

    @staticmethod
    def root(low: Array, high: Array, neurons: int) -> Boxes:
        """One box, of which nothing is known."""
        return Boxes.unbounded(low[None], high[None], np.zeros((1, neurons), dtype=np.int8))

    @staticmethod
    def unbounded(low: Array, high: Array, phase: Phases) -> Boxes:
        """Boxes that are still to be bounded."""
        return Boxes(low, high, phase, np.zeros_like(low), np.zeros(phase.shape))

    def __len__(self) -> int:
        return len(self.low)

    def take(self, which: Any) -> Boxes:
        """See `verifier.bab.Batch.take`."""
        return Boxes(self.low[which], self.high[which], self.phase[which], self.influence[which], self.effect[which])

    @classmethod
    def join(cls, parts: Sequence[Boxes]) -> Boxes:
        """See `verifier.bab.Batch.join`."""
        columns = zip(*((p.low, p.high, p.phase, p.influence, p.effect) for p in parts), strict=True)
        return Boxes(*(np.concatenate(column) for column in columns))

    @property
    def nbytes(self) -> float:
        """See `verifier.bab.Batch.nbytes`."""
        return float(sum(a.nbytes for a in (self.low, self.high, self.phase, self.influence, self.effect)))


class Bounder:
    """Closes boxes where the label cannot change or no map is similar, and cuts the others to where both agree.

    Attributes:
        by_label, by_map: how many boxes each closed.

    Source:
        CROWN: Zhang et al., NeurIPS 2018, Theorem 3.2; on the gradient: Shi et al., NeurIPS 2022, Section 3;
        cutting by both is this package's own.
    """

    def __init__(self, query: Query, settings: EnclosureSettings = EnclosureSettings()) -> None:
        assert query.condition is not None
        self.query, self.condition = query, query.condition
        self.enclosures = Enclosures(query, settings)
        self.by_label = self.by_map = 0
        self._lock = threading.Lock()

    def bound(self, batch: Boxes, deadline: Deadline) -> Bounded[Boxes]:
        """See `verifier.bab.Bounder.bound`; the bound is 1 for a closed box and -1 for others."""
        found = self.enclosures.of(batch.low, batch.high, batch.phase)
        g = found.g_lower, found.g_upper
        low, high = self.condition.contract(batch.low, batch.high, *g)
        crossed = (low > high).any(axis=1)
        closed = found.open & (self.condition.excludes(batch.low, batch.high, *g) | self._misses_box(*g) | crossed)
        with self._lock:
            self.by_label += int((~found.open).sum())
            self.by_map += int(closed.sum())
        still = found.open & ~closed
        cut = Boxes(
            np.where(still[:, None], low, batch.low),
            np.where(still[:, None], high, batch.high),
            batch.phase,
            found.influence,
            found.neurons,
        )
        witness = None
        if still.any():
            low, high = low[still], high[still]
            points = np.concatenate([low + (high - low) / 2, np.clip(found.corners[still], low, high)])
            witness = first_confirmed(self.query, points)
        return Bounded(cut, np.where(still, -1.0, 1.0), witness)

    def _misses_box(self, g_lower: Array, g_upper: Array) -> Array:
        """Whether the gradient misses the query's gradient box."""
        gradient = self.query.gradient
        if gradient is None:
            return np.zeros(len(g_lower), dtype=bool)
        return np.asarray(((g_lower > gradient.upper) | (g_upper < gradient.lower)).any(axis=1))


class Brancher:
    """Splits on a ReLU's phase where few are unstable, else halves the box along the input that matters most.

    The phases of a ReLU on whose kink the map jumps must be told apart: bounds on both at once allow every map in
    between, on boxes of any size.

    Args:
        width: ``(n,)`` of the root.
        few: with at most so many unstable ReLUs a box is split on the one that moves the map most.
        narrow: boxes narrower than this share of the root in every input are not split again.

    Source:
        the longest influence, as "smear" in Kearfott, Rigorous Global Search, 1996, and ReluVal: Wang et al.,
        USENIX Security 2018.
    """

    def __init__(self, width: Array, few: int, narrow: float) -> None:
        self.width, self.few, self.narrow = np.where(width > 0, width, 1.0), few, narrow

    def split(self, batch: Boxes, lower: Array) -> Children[Boxes]:
        """See `verifier.bab.Brancher.split`."""
        low, high = batch.low, batch.high
        width, size = high - low, np.maximum(np.abs(low), np.abs(high))
        splittable = (width > self.narrow * self.width) & (width > 8 * SPACING * size)
        # a little of the width itself, so that no input is forgotten
        score = np.where(splittable, width / self.width * (batch.influence + 1e-3), 0.0)
        axis, unstable = score.argmax(axis=1), (batch.effect > 0).sum(axis=1)
        by_phase = (unstable > 0) & (unstable <= self.few)
        divided = by_phase | (score.max(axis=1) > 0)
        parent = np.repeat(np.flatnonzero(divided), 2)
        first = np.arange(0, len(parent), 2)
        lows, highs, phases = low[parent], high[parent], batch.phase[parent]
        neuron = batch.effect.argmax(axis=1) if batch.effect.shape[1] else axis
        for k in first.tolist():
            p = int(parent[k])
            if by_phase[p]:
                phases[k, neuron[p]], phases[k + 1, neuron[p]] = 1, -1
            else:
                i = int(axis[p])
                highs[k, i] = lows[k + 1, i] = low[p, i] + width[p, i] / 2
        return Children(Boxes.unbounded(lows, highs, phases), parent)
