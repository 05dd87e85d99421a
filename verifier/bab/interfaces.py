"""What a branch and bound is made of: the interfaces of its parts, and what they hand to each other.

A subproblem asks whether some set holds a witness. It is *refuted* where a proved lower bound is above zero. Subproblems
travel in batches (arrays with one line each, or `Items`), because bounds of many cost little more than bounds of one.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from verifier.limits import Deadline
from verifier.network.operators import Array
from verifier.properties.numbers import Point


class Batch(Protocol):
    """Some subproblems, in order."""

    def __len__(self) -> int: ...

    def take(self, which: Any) -> Self:
        """Some of them (an index array or a boolean mask): a copy that keeps nothing else alive."""

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """All of them, in order; ``parts`` has at least one entry."""

    @property
    def nbytes(self) -> float:
        """Bytes that they hold, about."""


B = TypeVar("B", bound=Batch)
T = TypeVar("T")
In = TypeVar("In", bound=Batch, contravariant=True)


@dataclass(frozen=True)
class Items(Generic[T]):
    """A batch of any objects.

    Attributes:
        items: one per subproblem.
        size: bytes that one of them holds, about.
    """

    items: tuple[T, ...]
    size: float = 1e3

    def __len__(self) -> int:
        return len(self.items)

    def take(self, which: Any) -> Items[T]:
        """See `Batch.take`."""
        if isinstance(which, slice):
            return Items(self.items[which], self.size)
        if which.dtype == bool:
            which = np.flatnonzero(which)
        return Items(tuple(self.items[k] for k in which.tolist()), self.size)

    @classmethod
    def join(cls, parts: Sequence[Items[T]]) -> Items[T]:
        """See `Batch.join`."""
        return Items(tuple(item for part in parts for item in part.items), parts[0].size)

    @property
    def nbytes(self) -> float:
        """See `Batch.nbytes`."""
        return self.size * len(self.items)


@dataclass(frozen=True)
class Open(Generic[B]):
    """Subproblems that are open, with what is known of them.

    Attributes:
        batch: the subproblems.
        lower: ``(N,)`` lower bounds, of their parents at least.
        share: ``(N,)`` of a root each is, where the children of a parent count the same.
    """

    batch: B
    lower: Array
    share: Array

    def __len__(self) -> int:
        return len(self.lower)

    def take(self, which: Any) -> Open[B]:
        """Some of them."""
        return Open(self.batch.take(which), self.lower[which], self.share[which])

    @classmethod
    def join(cls, parts: Sequence[Open[B]]) -> Open[B]:
        """All of them, in order."""
        batch = type(parts[0].batch).join([p.batch for p in parts])
        return Open(batch, np.concatenate([p.lower for p in parts]), np.concatenate([p.share for p in parts]))


@dataclass(frozen=True)
class Bounded(Generic[B]):
    """What a bounder found.

    Attributes:
        batch: the subproblems as they came, in their order, with what their children may start from.
        lower: ``(N,)`` proved lower bounds: a subproblem is refuted where this is above 0 (NaN proves nothing).
        witness: a confirmed witness, if one was met on the way.
    """

    batch: B
    lower: Array
    witness: Point | None = None


@dataclass(frozen=True)
class Children(Generic[B]):
    """What a brancher makes.

    Attributes:
        batch: the children; those of one parent cover all its witnesses.
        parent: ``(children,)`` whose child each is, by the parent's place in its batch. A parent without a child
            cannot be split.
    """

    batch: B
    parent: npt.NDArray[np.intp]


class Verdict(enum.Enum):
    """What a leaf solver says of one subproblem."""

    REFUTED = "refuted"
    WITNESS = "witness"
    OPEN = "open"


@dataclass(frozen=True)
class LeafAnswer:
    """A leaf solver's answer, with a confirmed witness or the reason why it is open."""

    verdict: Verdict
    witness: Point | None = None
    reason: str = ""


class Bounder(Protocol[B]):
    """Bounds subproblems. Called from several threads, for different batches.

    Source:
        Bunel et al., JMLR 2020: "bounding".
    """

    def bound(self, batch: B, deadline: Deadline) -> Bounded[B]:
        """Bound a batch; may raise TimeLimitError once the deadline has passed, and MemoryLimitError.

        Raises:
            TimeLimitError: there was no time for the batch.
        """


class Brancher(Protocol[B]):
    """Splits subproblems. Called from several threads, for different batches.

    Source:
        Bunel et al., JMLR 2020: "branching".
    """

    def split(self, batch: B, lower: Array) -> Children[B]:
        """Split a bounded batch, whose lower bounds are given.

        Shapes: lower ``(batch,)``.
        """


class LeafSolver(Protocol[In]):
    """Decides subproblems for good."""

    def takes(self, batch: In, lower: Array) -> npt.NDArray[np.bool_]:
        """Which bounded subproblems it wants, ``(N,)``; it is also asked about all that cannot be split.

        Shapes: lower ``(batch,)``.
        """

    def solve(self, leaf: In, deadline: Deadline) -> LeafAnswer:
        """Decide a batch of one; what stays OPEN is split if it can be."""


class LastResort:
    """The `takes` of a leaf solver that is asked only about what cannot be split."""

    def takes(self, batch: Batch, lower: Array) -> npt.NDArray[np.bool_]:
        """None of them.

        Shapes: lower ``(batch,)``.
        """
        return np.zeros(len(batch), dtype=bool)


class NoLeafSolver(LastResort):
    """Takes nothing and decides nothing."""

    def solve(self, leaf: Batch, deadline: Deadline) -> LeafAnswer:
        """Open."""
        return LeafAnswer(Verdict.OPEN, reason="a subproblem that cannot be split stays undecided")
