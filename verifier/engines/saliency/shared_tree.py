"""One search's tree shared among threads: linear programs, products of matrices and kernels run without the lock.

Each thread searches depth first by itself. Where another one has nothing left to do, a thread gives away its subproblem
nearest to the root.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from verifier.engines.saliency.branching import Child, Search
from verifier.limits import Deadline
from verifier.properties.numbers import Point


@dataclass(frozen=True)
class _Stop(Deadline):
    """A deadline that passes at once when the search is over."""

    over: threading.Event = field(default_factory=threading.Event)

    @property
    def left(self) -> float:
        return 0.0 if self.over.is_set() else super().left

    @property
    def passed(self) -> bool:
        return self.over.is_set() or super().passed


class SharedTree:
    """The rest of a search by several threads."""

    def __init__(self, search: Search, threads: int) -> None:
        self.search = search
        self.deadline = _Stop(search.deadline.at)
        self.workers = [Search(search.problem, self.deadline) for _ in range(threads)]
        self._waiting: deque[Child] = deque(search.stack)
        self._changed = threading.Condition()
        self._busy = 0
        self._witness: Point | None = None

    def run(self) -> Point | None:
        """A witness, or None; what the threads did and left open is then the search's."""
        with ThreadPoolExecutor(len(self.workers)) as pool:
            try:
                for done in [pool.submit(self._work, worker) for worker in self.workers]:
                    done.result()
            finally:
                self._end()  # also after an interruption, that no thread goes on
        for worker in self.workers:
            self.search.statistics.add(worker.statistics)
            self.search.timed_out |= worker.timed_out
        self.search.stack = list(self._waiting)  # empty, unless the search was ended
        return self._witness

    def _work(self, worker: Search) -> None:
        try:
            while (child := self._take()) is not None:
                worker.stack = [child]
                while worker.stack:
                    if self.deadline.passed:
                        worker.timed_out = True
                        return self._end()
                    found = worker.step()
                    if found is not None:
                        self._witness = found
                        return self._end()
                    self._give(worker)
                with self._changed:
                    self._busy -= 1
                    self._changed.notify_all()
        except BaseException:
            self._end()
            raise

    def _take(self) -> Child | None:
        """A subproblem; None once there are none left and nobody is at work on one."""
        with self._changed:
            while not self._waiting and self._busy and not self.deadline.over.is_set():
                self._changed.wait()
            if not self._waiting or self.deadline.over.is_set():
                return None
            self._busy += 1
            return self._waiting.popleft()

    def _give(self, worker: Search) -> None:
        """Give one of several subproblems away where a thread has none."""
        if len(worker.stack) > 1 and not self._waiting and self._busy < len(self.workers):
            with self._changed:
                self._waiting.append(worker.stack.pop(0))
                self._changed.notify_all()

    def _end(self) -> None:
        self.deadline.over.set()
        with self._changed:
            self._changed.notify_all()
