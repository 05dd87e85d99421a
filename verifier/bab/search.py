"""The one loop: take a batch, bound it, refute, ask the leaf solver, split, and put the children back.

Which subproblems are taken together does not depend on the number of threads, so neither does the result, unless a
limit of time ends the search.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic

import numpy as np

from verifier.bab.parts import B, Bounder, Brancher, LeafAnswer, LeafSolver, NoLeafSolver, Open, Verdict
from verifier.bab.store import Store
from verifier.errors import EngineError, MemoryLimitError, TimeLimitError
from verifier.events import Listener, Progress, ignore
from verifier.limits import NEVER, Deadline
from verifier.network.operators import Array


class Ending(enum.Enum):
    """How a search ended."""

    PROVED = "proved"
    WITNESS = "witness"
    OPEN = "open"


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """How far a search came.

    Attributes:
        ending: PROVED only if every subproblem was refuted.
        witness: for WITNESS, the point.
        reason: for OPEN, why the search stopped.
        late: for OPEN, whether that was for want of time.
        done: subproblems that were bounded.
        left: subproblems that are open.
        stuck: of these, how many can neither be split nor decided.
        worst: the lowest bound among these.
        closed: how many roots' worth is refuted, the children of a parent counting as equal parts of it.
    """

    ending: Ending = Ending.OPEN
    witness: Array | None = None
    reason: str = ""
    late: bool = False
    done: int = 0
    left: int = 0
    stuck: int = 0
    worst: float = 0.0
    closed: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a search is run.

    Attributes:
        batch: subproblems taken at once; between batches the deadline and `BranchAndBound.stop` are looked at.
        piece: of these, as many are worked on in one call; the pieces are shared among the threads.
        threads: that work on pieces side by side.
        unit: what events call a subproblem.
        pause: seconds between two Progress events, at least.
    """

    batch: int = 64
    piece: int = 64
    threads: int = 1
    unit: str = "subproblems"
    pause: float = 0.5


@dataclass
class _Worked(Generic[B]):
    """What became of a piece."""

    count: int
    children: Open[B] | None = None
    witness: Array | None = None
    closed: float = 0.0
    stuck: list[tuple[float, str]] = field(default_factory=list)


@dataclass
class BranchAndBound(Generic[B]):
    """Refutes all subproblems, or finds a witness, or says what is left. One object is one search.

    Attributes:
        store: where open subproblems wait; empty at first.
        bounder, brancher, leaf: the parts.
        stop: asked between batches with the search so far: a reason to give up, or "".
    """

    store: Store[B]
    bounder: Bounder[B]
    brancher: Brancher[B]
    leaf: LeafSolver[B] = field(default_factory=NoLeafSolver)
    settings: Settings = Settings()
    stop: Callable[[SearchResult], str] = lambda so_far: ""
    _done: int = 0
    _closed: float = 0.0
    _stuck: list[tuple[float, str]] = field(default_factory=list)
    _taken: tuple[int, float] = (0, 0.0)

    def run(self, roots: B, deadline: Deadline = NEVER, listener: Listener = ignore) -> SearchResult:
        """Search from these subproblems on, which cover the question together.

        Raises:
            EngineError: if a bounder loses subproblems.
        """
        began = told = time.monotonic()
        try:
            if len(roots):
                self.store.push(Open(roots, np.full(len(roots), -np.inf), np.ones(len(roots))))
            with ThreadPoolExecutor(self.settings.threads) as pool:
                while len(self.store):
                    reason = self.stop(self._so_far())
                    if reason or deadline.passed:
                        return self._so_far(reason=reason or "the time was over", late=not reason)
                    witness = self._step(pool, deadline)
                    if witness is not None:
                        return self._so_far(Ending.WITNESS, witness)
                    if time.monotonic() - told >= self.settings.pause:
                        told, now = time.monotonic(), self._so_far()
                        seconds, unit = told - began, self.settings.unit
                        listener(
                            Progress(
                                seconds=seconds, stage="solve", done=now.done, unit=unit, left=now.left, bound=now.worst
                            )
                        )
        except TimeLimitError as error:
            return self._so_far(reason=str(error), late=True)
        except (MemoryLimitError, MemoryError) as error:
            return self._so_far(reason=str(error) or "out of memory")
        return self._so_far(reason=self._stuck[0][1]) if self._stuck else self._so_far(Ending.PROVED)

    def _step(self, pool: ThreadPoolExecutor, deadline: Deadline) -> Array | None:
        """One batch; a witness if one is met."""
        some = self.store.pop(self.settings.batch)
        self._taken = (len(some), float(some.lower.min()))
        size = self.settings.piece
        pieces = [some.take(np.arange(k, min(k + size, len(some)))) for k in range(0, len(some), size)]
        if self.settings.threads == 1 or len(pieces) == 1:
            results = [self._work(piece, deadline) for piece in pieces]
        else:
            results = list(pool.map(lambda piece: self._work(piece, deadline), pieces))
        self._taken = (0, 0.0)
        self._done += sum(worked.count for worked in results)
        for worked in results:
            if worked.witness is not None:
                return worked.witness
            self._closed += worked.closed
            self._stuck += worked.stuck
        for worked in results:
            if worked.children is not None:
                self.store.push(worked.children)
        return None

    def _work(self, piece: Open[B], deadline: Deadline) -> _Worked[B]:
        """Bound, refute, solve or split the subproblems of a piece."""
        found = self.bounder.bound(piece.batch, deadline)
        if not len(found.batch) == len(found.lower) == len(piece):
            raise EngineError(f"a bounder returned {len(found.lower)} bounds for {len(piece)} subproblems")
        worked: _Worked[B] = _Worked(len(piece), witness=found.witness)
        if found.witness is not None:
            return worked
        closed = found.lower > 0  # NaN proves nothing
        left = Open(found.batch, np.fmax(found.lower, piece.lower), piece.share).take(~closed)
        worked.closed = float(piece.share[closed].sum())
        if not len(left):
            return worked
        keep, asked = np.ones(len(left), dtype=bool), self.leaf.takes(left.batch, left.lower)
        for k in np.flatnonzero(asked).tolist():
            answer = self._ask(worked, left, k, deadline)
            keep[k] = answer.verdict is Verdict.OPEN
        left = left.take(keep)
        if worked.witness is not None or not len(left):
            return worked
        children = self.brancher.split(left.batch, left.lower)
        for k in np.setdiff1d(np.arange(len(left)), children.parent).tolist():
            answer = self._ask(worked, left, k, deadline)
            if answer.verdict is Verdict.OPEN:
                worked.stuck.append((float(left.lower[k]), answer.reason))
        share = left.share / np.maximum(np.bincount(children.parent, minlength=len(left)), 1)
        if len(children.parent):
            worked.children = Open(children.batch, left.lower[children.parent], share[children.parent])
        return worked

    def _ask(self, worked: _Worked[B], left: Open[B], k: int, deadline: Deadline) -> LeafAnswer:
        """The leaf solver's answer to one subproblem, written down."""
        answer = self.leaf.solve(left.batch.take(np.array([k])), deadline)
        if answer.verdict is Verdict.WITNESS:
            worked.witness = answer.witness
        elif answer.verdict is Verdict.REFUTED:
            worked.closed += float(left.share[k])
        return answer

    def _so_far(
        self, ending: Ending = Ending.OPEN, witness: Array | None = None, *, reason: str = "", late: bool = False
    ) -> SearchResult:
        left = len(self.store) + len(self._stuck) + self._taken[0]
        worst = min([self.store.worst, self._taken[1], *(bound for bound, _ in self._stuck)])
        return SearchResult(
            ending=ending,
            witness=witness,
            reason=reason,
            late=late,
            done=self._done,
            left=left,
            stuck=len(self._stuck),
            worst=worst,
            closed=self._closed,
        )
