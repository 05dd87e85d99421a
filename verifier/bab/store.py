"""Where open subproblems wait: a heap (the lowest bound first) or a stack (depth first), both of bounded memory."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Generic, Protocol

import numpy as np

from verifier.bab.interfaces import B, Open
from verifier.errors import MemoryLimitError
from verifier.limits import GIB, MemoryBudget
from verifier.network.operators import Array


class Store(Protocol[B]):
    """Open subproblems."""

    def __len__(self) -> int: ...

    def push(self, some: Open[B]) -> None:
        """Keep these. Raises MemoryLimitError if that is more than is allowed; they are kept all the same."""

    def pop(self, most: int) -> Open[B]:
        """Take out up to so many, at least one; the store must not be empty."""

    @property
    def worst(self) -> float:
        """The lowest bound of all (0 if there is none)."""


def _check(held: float, memory: MemoryBudget) -> None:
    if held > memory.limit:
        raise MemoryLimitError(
            f"the open subproblems hold {held / GIB:.2f} GiB and {memory.limit / GIB:.2f} GiB are allowed",
            fix=f"allow more than {held / GIB:.2f} GiB (memory=, --memory)",
        )


class PriorityStore(Generic[B]):
    """The lowest bound first; above half of its memory the one nearest to a proof first, so that the number falls.

    Args:
        memory: what the open subproblems may hold.
        key: from subproblems to priorities, the smallest first; their lower bounds by default.

    Source:
        best-first search: Hart, Nilsson, Raphael, 1968.
    """

    def __init__(self, memory: MemoryBudget, key: Callable[[Open[B]], Array] | None = None) -> None:
        self._memory, self._key, self._held = memory, key, 0.0
        self._heap: list[tuple[float, int, Open[B]]] = []
        self._serial = count()

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def worst(self) -> float:
        """See `Store.worst`."""
        if self._key is None:
            return self._heap[0][0] if self._heap else 0.0
        return min((float(one.lower[0]) for _, _, one in self._heap), default=0.0)

    def push(self, some: Open[B]) -> None:
        """See `Store.push`."""
        keys = some.lower if self._key is None else self._key(some)
        for k in range(len(some)):
            one = some.take(np.array([k]))
            heapq.heappush(self._heap, (float(keys[k]), next(self._serial), one))
            self._held += one.batch.nbytes
        _check(self._held, self._memory)

    def pop(self, most: int) -> Open[B]:
        """See `Store.pop`."""
        most = min(most, len(self._heap))
        if 2 * self._held > self._memory.limit:
            entries = heapq.nlargest(most, self._heap)
            gone = {serial for _, serial, _ in entries}
            self._heap = [entry for entry in self._heap if entry[1] not in gone]
            heapq.heapify(self._heap)
        else:
            entries = [heapq.heappop(self._heap) for _ in range(most)]
        self._held -= sum(one.batch.nbytes for _, _, one in entries)
        return Open.join([one for _, _, one in entries])


class DepthStore(Generic[B]):
    """The last ones first; of those that were pushed together, the highest bound first: few are open at any time.

    Args:
        memory: what the open subproblems may hold.
        hardest_first: of those that were pushed together, the lowest bound first: witnesses are likelier there.

    Source:
        depth-first branch and bound: Little et al., Operations Research 1963.
    """

    def __init__(self, memory: MemoryBudget, *, hardest_first: bool = False) -> None:
        self._memory, self._held, self._count = memory, 0.0, 0
        self._sign = -1.0 if hardest_first else 1.0
        self._stack: list[Open[B]] = []

    def __len__(self) -> int:
        return self._count

    @property
    def worst(self) -> float:
        """See `Store.worst`."""
        return min((float(some.lower.min()) for some in self._stack), default=0.0)

    def push(self, some: Open[B]) -> None:
        """See `Store.push`."""
        if len(some):
            rank = self._sign * some.lower
            sorted_already = len(some) == 1 or bool((rank[1:] >= rank[:-1]).all())
            self._stack.append(some if sorted_already else some.take(np.argsort(rank, kind="stable")))
            self._count += len(some)
            self._held += self._stack[-1].batch.nbytes
        _check(self._held, self._memory)

    def pop(self, most: int) -> Open[B]:
        """See `Store.pop`."""
        parts: list[Open[B]] = []
        while self._stack and most:
            some = self._stack.pop()
            self._held -= some.batch.nbytes
            over = max(0, len(some) - most)
            if over:
                rest = some.take(np.arange(over))
                self._stack.append(rest)
                self._held += rest.batch.nbytes
                some = some.take(np.arange(over, len(some)))
            parts.append(some)
            most -= len(some)
            self._count -= len(some)
        return parts[0] if len(parts) == 1 else Open.join(parts)
