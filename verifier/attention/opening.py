"""Regions opened one at a time or in waves: polygons for one and two parameters, linear programs for more.

The places of a wave are opened by several threads, each with an explorer of its own. What a place's region is does not
depend on who opens it, or on what was opened before, so the number of threads changes nothing.
"""

from __future__ import annotations

import queue
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from verifier.attention.problem import Problem, problem
from verifier.attention.run import MapRun
from verifier.attention.traversal.cells import Cell, PolygonExplorer
from verifier.attention.traversal.programs import LPExplorer
from verifier.limits import thread_pool
from verifier.network.operators import Array

Explorer = PolygonExplorer | LPExplorer
Opened = Cell | int | None
"""See `verifier.attention.traversal.cells.Explorer.open`."""


class TimeUp(Exception):
    """The time limit was reached."""


class Openers:
    """Opens the regions of one problem; a context, which its threads do not outlive.

    Args:
        run: the map's arguments.
        prepared: its problem, or that of a tile of it.
        kind: what opens regions; by default polygons for one and two parameters, else linear programs.
    """

    def __init__(self, run: MapRun, prepared: Problem | None = None, kind: type[Explorer] | None = None) -> None:
        self.run, self._kind = run, kind
        self.prepared = prepared or problem(run.perturbed, run.settings, run.label)
        self.first = self._explorer()
        """The explorer that `open` uses: its state is that of the region opened last."""
        self._all = [self.first, *(self._explorer() for _ in range(run.how.threads - 1))]
        self._free: queue.SimpleQueue[Explorer] = queue.SimpleQueue()
        for explorer in self._all:
            self._free.put(explorer)
        self._pool: ThreadPoolExecutor | None = None

    def _explorer(self) -> Explorer:
        p = self.prepared
        kind = self._kind or (PolygonExplorer if len(p.tnet.width) == 2 else LPExplorer)
        return kind(p.tnet, p.expected, self.run.delta, self.run.label)

    def __enter__(self) -> Openers:
        if len(self._all) > 1:
            self._pool = thread_pool(len(self._all))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    @property
    def programs(self) -> int:
        """Linear programs solved so far."""
        return sum(getattr(explorer, "programs", 0) for explorer in self._all)

    def open(self, at: Array, into: Array, known: Collection[int]) -> Opened:
        """The region at a point towards a direction.

        Shapes: at, into ``(d,)``.

        Raises:
            TimeUp: the time is up.
        """
        return self._open(self.first, at, into, known)

    def open_all(self, places: Sequence[tuple[Array, Array]], known: Collection[int]) -> list[Opened]:
        """The regions at some points towards some directions, in their order.

        Shapes: places: pairs of ``(d,)``.

        Raises:
            TimeUp: the time is up.
        """
        if self._pool is None or len(places) < 2:
            return [self._open(self.first, at, into, known) for at, into in places]

        def one(place: tuple[Array, Array]) -> Opened:
            explorer = self._free.get()
            try:
                return self._open(explorer, *place, known)
            finally:
                self._free.put(explorer)

        return list(self._pool.map(one, places))

    def _open(self, explorer: Explorer, at: Array, into: Array, known: Collection[int]) -> Opened:
        if self.run.late and known:  # the region at θ = 0 is always opened
            raise TimeUp
        return explorer.open(at, into, known)
