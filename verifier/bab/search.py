"""The one loop: take a batch, bound it, refute, ask the leaf solver, split, and put the children back.

Which subproblems are taken together does not depend on the number of threads, so neither does the result, unless a
limit of time ends the search (or `Settings.free` lets every thread go its own way).
"""

from __future__ import annotations

import contextlib
import enum
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic

import numpy as np

from verifier.bab.interfaces import B, Bounder, Brancher, LeafAnswer, LeafSolver, NoLeafSolver, Open, Verdict
from verifier.bab.store import Store
from verifier.errors import EngineError, MemoryLimitError, TimeLimitError
from verifier.events import Listener, Progress, ignore
from verifier.limits import NEVER, Deadline, thread_pool
from verifier.properties.numbers import Point


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
    witness: Point | None = None
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
        free: whether threads take pieces as they become free, for subproblems that cost very different times: none
            waits for another, but what is searched depends on the clock.
        unit: what events call a subproblem.
        pause: seconds between two Progress events, at least.
    """

    batch: int = 64
    piece: int = 64
    threads: int = 1
    free: bool = False
    unit: str = "subproblems"
    pause: float = 0.5


@dataclass
class _Worked(Generic[B]):
    """What became of a piece."""

    count: int
    children: Open[B] | None = None
    witness: Point | None = None
    closed: float = 0.0
    stuck: list[tuple[float, str]] = field(default_factory=list)


@dataclass
class BranchAndBound(Generic[B]):
    """Refutes all subproblems, or finds a witness, or says what is left. One object is one search.

    Attributes:
        store: where open subproblems wait; empty at first.
        bounder, brancher, leaf: the parts.
        stop: asked between batches with the search so far: a reason to give up, or ""; None: never.

    Source:
        Land, Doig, Econometrica 1960; for networks: Bunel et al., JMLR 2020, Algorithm 1; in batches: De
        Palma et al., 2021.
    """

    store: Store[B]
    bounder: Bounder[B]
    brancher: Brancher[B]
    leaf: LeafSolver[B] = field(default_factory=NoLeafSolver)
    settings: Settings = Settings()
    stop: Callable[[SearchResult], str] | None = None
    _done: int = 0
    _closed: float = 0.0
    _stuck: list[tuple[float, str]] = field(default_factory=list)
    _taken: list[Open[B]] = field(default_factory=list)
    _witness: Point | None = None
    _ended: str = ""

    def run(self, roots: B, deadline: Deadline = NEVER, listener: Listener = ignore) -> SearchResult:
        """Search from these subproblems on, which cover the question together.

        Raises:
            EngineError: if a bounder loses subproblems.
        """
        try:
            if len(roots):
                self.store.push(Open(roots, np.full(len(roots), -np.inf), np.ones(len(roots))))
        except MemoryLimitError as error:
            return self._so_far(reason=str(error))
        return self.resume(deadline, listener)

    def resume(self, deadline: Deadline = NEVER, listener: Listener = ignore) -> SearchResult:
        """Go on with what a run left open, because `stop` said so or a limit was met.

        What was interrupted is begun anew: a bounder and a leaf solver must be able to look at a subproblem again.
        """
        told, self._ended = _Told(time.monotonic(), listener, self.settings), ""
        try:
            drive = self._freely if self.settings.free and self.settings.threads > 1 else self._together
            with thread_pool(self.settings.threads) as pool:
                drive(pool, deadline, told)
        except TimeLimitError as error:
            if self._witness is None:
                return self._so_far(reason=str(error), late=True)
        except (MemoryLimitError, MemoryError) as error:
            return self._so_far(reason=str(error) or "out of memory")
        finally:
            interrupted, self._taken = self._taken, []
            for piece in interrupted:
                with contextlib.suppress(MemoryLimitError):  # it is kept all the same
                    self.store.push(piece)
        if self._witness is not None:
            return self._so_far(Ending.WITNESS)
        if self._ended:
            return self._so_far(reason=self._ended)
        if len(self.store):  # no end was reached: nothing is proved
            return self._so_far(reason="interrupted")
        return self._so_far(reason=self._stuck[0][1]) if self._stuck else self._so_far(Ending.PROVED)

    def _together(self, pool: ThreadPoolExecutor, deadline: Deadline, told: _Told) -> None:
        """Batch after batch, the pieces of each shared among the threads."""
        size, threads = self.settings.piece, self.settings.threads
        while len(self.store) and self._goes_on(deadline, told):
            some = self.store.pop(self.settings.batch)
            starts = range(0, len(some), size) if len(some) > size else ()
            pieces = [some.take(np.arange(k, min(k + size, len(some)))) for k in starts] or [some]
            self._taken = pieces
            if threads == 1 or len(pieces) == 1:
                results = [self._work(piece, deadline) for piece in pieces]
            else:
                results = list(pool.map(lambda piece: self._work(piece, deadline), pieces))
            self._taken, full = [], None
            for worked in results:
                try:
                    self._collect(worked)
                except MemoryLimitError as error:  # the others are not to be lost
                    full = error
            if full is not None:
                raise full

    def _freely(self, pool: ThreadPoolExecutor, deadline: Deadline, told: _Told) -> None:
        """Each thread takes the next piece as soon as it is free.

        After a witness or an error all deadlines have passed; where `stop` ends the search, pieces in work are finished.
        """
        changed, until = threading.Condition(), _Stoppable(deadline.at)

        def work() -> None:
            try:
                while True:
                    with changed:
                        while not len(self.store) and self._taken and not until.over.is_set():
                            changed.wait()
                        if until.over.is_set() or not len(self.store) or not self._goes_on(deadline, told):
                            return
                        piece = self.store.pop(self.settings.piece)
                        self._taken.append(piece)
                    worked = self._work(piece, until)
                    with changed:
                        self._taken = [other for other in self._taken if other is not piece]
                        self._collect(worked)
                        if self._witness is not None:
                            until.over.set()
                        changed.notify_all()
            except TimeLimitError:
                if not until.over.is_set() or deadline.passed:
                    raise
            finally:
                with changed:
                    if sys.exc_info()[0]:
                        until.over.set()
                    changed.notify_all()

        tasks = [pool.submit(work) for _ in range(self.settings.threads)]
        try:
            for task in tasks:
                task.result()
        finally:
            until.over.set()  # also after an interruption, that no thread goes on
            with changed:
                changed.notify_all()

    def _goes_on(self, deadline: Deadline, told: _Told) -> bool:
        """Whether more is to be done; raises if the time is over."""
        if self._witness is not None or self._ended:
            return False
        if told.due:
            told.tell(self._so_far())
        deadline.check("before the next subproblem")
        if self.stop is not None:
            self._ended = self.stop(self._so_far())
        return not self._ended

    def _collect(self, worked: _Worked[B]) -> None:
        """Count what became of a piece, and keep its children."""
        self._done += worked.count
        self._closed += worked.closed
        self._stuck += worked.stuck
        if self._witness is None:
            self._witness = worked.witness
        if worked.children is not None:
            self.store.push(worked.children)

    def _work(self, piece: Open[B], deadline: Deadline) -> _Worked[B]:
        """Bound, refute, solve or split the subproblems of a piece."""
        found = self.bounder.bound(piece.batch, deadline)
        if not len(found.batch) == len(found.lower) == len(piece):
            raise EngineError(f"a bounder returned {len(found.lower)} bounds for {len(piece)} subproblems")
        worked: _Worked[B] = _Worked(len(piece), witness=found.witness)
        if found.witness is not None:
            return worked
        closed = found.lower > 0  # NaN proves nothing
        left = Open(found.batch, np.fmax(found.lower, piece.lower), piece.share)
        if closed.any():
            worked.closed = float(piece.share[closed].sum())
            left = left.take(np.flatnonzero(~closed))
        if not len(left):
            return worked
        asked = np.flatnonzero(self.leaf.takes(left.batch, left.lower))
        if len(asked):
            keep = np.ones(len(left), dtype=bool)
            for k in asked.tolist():
                keep[k] = self._ask(worked, left, k, deadline).verdict is Verdict.OPEN
            if not keep.all():
                left = left.take(np.flatnonzero(keep))
        if worked.witness is not None or not len(left):
            return worked
        children = self.brancher.split(left.batch, left.lower)
        count = np.bincount(children.parent, minlength=len(left))
        for k in np.flatnonzero(count == 0).tolist():
            answer = self._ask(worked, left, k, deadline)
            if answer.verdict is Verdict.OPEN:
                worked.stuck.append((float(left.lower[k]), answer.reason))
        if len(children.parent):
            share = left.share / np.maximum(count, 1)
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

    def _so_far(self, ending: Ending = Ending.OPEN, *, reason: str = "", late: bool = False) -> SearchResult:
        taken = list(self._taken)
        return SearchResult(
            ending=ending,
            witness=self._witness if ending is Ending.WITNESS else None,
            reason=reason,
            late=late,
            done=self._done,
            left=len(self.store) + len(self._stuck) + sum(map(len, taken)),
            stuck=len(self._stuck),
            worst=min([self.store.worst, *(float(t.lower.min()) for t in taken), *(bound for bound, _ in self._stuck)]),
            closed=self._closed,
        )


@dataclass(frozen=True)
class _Stoppable(Deadline):
    """A deadline that passes at once when the search has ended."""

    over: threading.Event = field(default_factory=threading.Event)

    @property
    def left(self) -> float:
        return 0.0 if self.over.is_set() else super().left

    @property
    def passed(self) -> bool:
        return self.over.is_set() or super().passed


@dataclass
class _Told:
    """Tells a listener of the progress, now and then."""

    began: float
    listener: Listener
    settings: Settings
    last: float = 0.0

    @property
    def due(self) -> bool:
        """Whether the last time was long enough ago."""
        return time.monotonic() - self.began - self.last >= self.settings.pause

    def tell(self, now: SearchResult) -> None:
        """How far the search has come."""
        self.last = seconds = time.monotonic() - self.began
        unit = self.settings.unit
        self.listener(
            Progress(seconds=seconds, stage="solve", done=now.done, unit=unit, left=now.left, bound=now.worst)
        )
