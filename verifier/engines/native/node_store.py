"""Subproblems of ReLU splitting, one line each, and the store of the open ones, whose places are used again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from verifier.bab import Open
from verifier.network.operators import Array

LARGEST_WEIGHT = 6e4
"""Weights are kept in float16: any value is sound."""


@dataclass(frozen=True, eq=False)
class Nodes:
    """A batch of subproblems (`verifier.bab.Batch`).

    Attributes:
        bound: ``(N,)`` lower bound known for the node (float32 search: nothing is proved by it).
        row: ``(N,)`` which row of the condition is to be refuted.
        phases: ``(N, neurons)`` 1, -1 or 0 (free).
        weights: ``(N, neurons)`` where the ascent starts: slopes of free neurons, multipliers of fixed ones.
        scores: ``(N, neurons)`` what each neuron costs the bound, once the nodes are bounded; else None.
    """

    bound: Array
    row: Array
    phases: Array
    weights: Array
    scores: Array | None = None

    def __len__(self) -> int:
        return len(self.bound)

    def take(self, which: Any) -> Nodes:
        """Some of the nodes (a copy, or a view for a slice)."""
        scores = None if self.scores is None else self.scores[which]
        return Nodes(self.bound[which], self.row[which], self.phases[which], self.weights[which], scores)

    @classmethod
    def join(cls, parts: Sequence[Nodes]) -> Nodes:
        """All of them, without their scores."""
        columns = zip(*((p.bound, p.row, p.phases, p.weights) for p in parts), strict=True)
        return Nodes(*(np.concatenate(column) for column in columns))

    @property
    def nbytes(self) -> float:
        """Bytes that they hold."""
        return float(self.bound.nbytes + self.row.nbytes + self.phases.nbytes + self.weights.nbytes)


class NodeStore:
    """All open nodes of a search over ``neurons`` unstable ReLUs (`verifier.bab.Store`): those with the lowest bounds first.

    Args:
        memory: bytes for nodes; above half of it the nodes nearest to a proof are taken first, which lets the
            number of open nodes fall.
    """

    def __init__(self, neurons: int, memory: float = 2e9) -> None:
        self._nodes = Nodes(*_empty(64, neurons))
        self._lower, self._share = np.zeros(64), np.zeros(64)
        self._free = list(range(64))
        self._used = np.zeros(64, dtype=bool)
        self._many = int(memory / 2 / (3 * neurons + 32))

    def __len__(self) -> int:
        return len(self._used) - len(self._free)

    @property
    def worst(self) -> float:
        """The lowest bound."""
        return float(self._nodes.bound[self._used].min()) if len(self) else 0.0

    def rows(self) -> Array:
        """The rows of the condition that some node still has to refute."""
        return np.unique(self._nodes.row[self._used])

    def push(self, some: Open[Nodes]) -> None:
        """See `verifier.bab.Store.push`."""
        nodes = some.batch
        while len(self._free) < len(nodes):
            self._grow()
        places = np.array([self._free.pop() for _ in range(len(nodes))], dtype=np.intp)
        self._nodes.bound[places] = nodes.bound
        self._nodes.row[places] = nodes.row
        self._nodes.phases[places] = nodes.phases
        self._nodes.weights[places] = np.minimum(nodes.weights, LARGEST_WEIGHT)
        self._lower[places], self._share[places] = some.lower, some.share
        self._used[places] = True

    def _grow(self) -> None:
        old = len(self._used)
        extra = Nodes(*_empty(old, self._nodes.phases.shape[1]))
        self._nodes = Nodes.join([self._nodes, extra])
        self._lower, self._share = (np.concatenate([a, np.zeros(old)]) for a in (self._lower, self._share))
        self._used = np.concatenate([self._used, np.zeros(old, dtype=bool)])
        self._free.extend(range(old, 2 * old))

    def pop(self, most: int) -> Open[Nodes]:
        """Up to so many nodes: those with the lowest bounds, unless there are too many."""
        places = np.flatnonzero(self._used)
        if len(places) > most:
            bound = self._nodes.bound[places]
            order = np.argpartition(-bound if len(places) > self._many else bound, most - 1)
            places = places[order[:most]]
        some = Open(self._nodes.take(places), self._lower[places], self._share[places])
        self._used[places] = False
        self._free.extend(places.tolist())
        return some


def _empty(count: int, neurons: int) -> tuple[Array, ...]:
    return (
        np.zeros(count, dtype=np.float32),
        np.zeros(count, dtype=np.int32),
        np.zeros((count, neurons), dtype=np.int8),
        np.zeros((count, neurons), dtype=np.float16),
    )
