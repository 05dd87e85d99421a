"""The open nodes of a ReLU splitting search, in arrays whose places are used again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from verifier.network.operators import Array

LARGEST_WEIGHT = 6e4
"""Weights are kept in float16: any value is sound."""


@dataclass(eq=False)
class Nodes:
    """Some nodes, one line each.

    Attributes:
        bound: ``(N,)`` lower bound known for the node (float32 search: nothing is proved by it).
        row: ``(N,)`` which row of the condition is to be refuted.
        phases: ``(N, units)`` 1, -1 or 0 (free).
        weights: ``(N, units)`` where the ascent starts: slopes of free units, multipliers of fixed ones.
    """

    bound: Array
    row: Array
    phases: Array
    weights: Array

    def __len__(self) -> int:
        return len(self.bound)

    def take(self, which: Any) -> Nodes:
        """Some of the nodes (a copy, or a view for a slice)."""
        return Nodes(self.bound[which], self.row[which], self.phases[which], self.weights[which])


class NodeStore:
    """All open nodes of a search over ``units`` open ReLUs.

    Args:
        memory: bytes for nodes; above half of it the nodes nearest to a proof are taken first, which lets the
            number of open nodes fall.
    """

    def __init__(self, units: int, memory: float = 2e9) -> None:
        self._nodes = Nodes(*_empty(64, units))
        self._free = list(range(64))
        self._used = np.zeros(64, dtype=bool)
        self._many = int(memory / 2 / (3 * units + 16))

    def __len__(self) -> int:
        return len(self._used) - len(self._free)

    @property
    def worst(self) -> float:
        """The lowest bound."""
        return float(self._nodes.bound[self._used].min()) if len(self) else 0.0

    def rows(self) -> Array:
        """The rows of the condition that some node still has to refute."""
        return np.unique(self._nodes.row[self._used])

    def add(self, nodes: Nodes) -> None:
        """Keep these nodes."""
        while len(self._free) < len(nodes):
            old = len(self._used)
            extra = _empty(old, self._nodes.phases.shape[1])
            names = ("bound", "row", "phases", "weights")
            self._nodes = Nodes(
                *(np.concatenate([getattr(self._nodes, n), e]) for n, e in zip(names, extra, strict=True))
            )
            self._used = np.concatenate([self._used, np.zeros(old, dtype=bool)])
            self._free.extend(range(old, 2 * old))
        places = np.array([self._free.pop() for _ in range(len(nodes))], dtype=np.intp)
        self._nodes.bound[places] = nodes.bound
        self._nodes.row[places] = nodes.row
        self._nodes.phases[places] = nodes.phases
        self._nodes.weights[places] = np.minimum(nodes.weights, LARGEST_WEIGHT)
        self._used[places] = True

    def pop(self, count: int) -> Nodes:
        """Take out up to so many nodes: those with the lowest bounds, unless there are too many."""
        places = np.flatnonzero(self._used)
        if len(places) > count:
            bound = self._nodes.bound[places]
            order = np.argpartition(-bound if len(places) > self._many else bound, count - 1)
            places = places[order[:count]]
        some = self._nodes.take(places)
        self._used[places] = False
        self._free.extend(places.tolist())
        return some


def _empty(count: int, units: int) -> tuple[Array, ...]:
    return (
        np.zeros(count, dtype=np.float32),
        np.zeros(count, dtype=np.int32),
        np.zeros((count, units), dtype=np.int8),
        np.zeros((count, units), dtype=np.float16),
    )
