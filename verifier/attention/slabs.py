"""All regions of the unit square, each once: small maps in one walk, large ones in slabs that threads share.

A slab is walked from region to region across the edges that meet it (`Regions`), so that its regions are whole, and one
that meets two slabs is found in both: the first of them counts. How Θ is cut is told by a first walk that is given up
(`WalkSettings.probe`), and not by the number of threads, so that the regions, their order and their last bits are the
same for any number.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from verifier.attention.problem import Problem
from verifier.attention.run import MapRun
from verifier.attention.traversal.walk import EVERYWHERE, RegionChunk, Regions
from verifier.limits import thread_pool
from verifier.network.operators import Array

Keys = npt.NDArray[np.uint64]
FEWEST, MOST = 4, 128
"""Slabs of a large map, at least and at most."""
REACH = 1e-9
"""A slab's walk also takes regions this far outside it, so that none is lost between two slabs to rounding."""
ASIDE, INTO = 0.4371, np.array([0.6, 0.8])
"""Where a slab's walk begins: its middle along the axis, this along the other, and the direction from there."""


@dataclass
class _Slab:
    """A slab's range, and what its walk has found."""

    low: float
    high: float
    chunks: list[RegionChunk] = field(default_factory=list)
    aliases: int = 0


class PlaneRegions:
    """The regions of a problem of one or two parameters, chunk by chunk; the first one is that at θ = 0.

    Attributes:
        pairs: ``(keys (V,), neighbours (V,))`` of regions that were met again, complete once all were handed out:
            neighbours that the first meeting may not have known.
    """

    def __init__(self, run: MapRun, prepared: Problem, *, most: int | None = None) -> None:
        """``most``: regions in one chunk, if fewer than `WalkSettings.probe`."""
        self.run, self.prepared = run, prepared
        self.chunk = min(run.how.probe, most or run.how.probe)
        self.pairs: list[tuple[Keys, Keys]] = []
        self._aliases: dict[int, int] = {}
        self._slab_aliases = 0
        self._stop = threading.Event()

    def __iter__(self) -> Iterator[RegionChunk]:
        """The regions; ends early when the time is up."""
        prepared = self.prepared
        walk = self._regions(prepared.origin, prepared.into)
        chunks = iter(walk)
        first = next(chunks)
        about = len(first) / max(float(first.areas.sum()), 1e-9)
        if about < self.run.how.large:
            self._aliases = walk.aliases  # filled while the walk goes on
            yield first
            yield from chunks
        else:
            yield from self._in_slabs(first, about)

    @property
    def aliases(self) -> int:
        """How many neighbours' keys were not foreseen."""
        return len(self._aliases) + self._slab_aliases

    def resolved(self, keys: Keys, neighbours: Keys) -> Keys:
        """Neighbours' keys as they turned out, of a map with these regions."""
        return resolved(keys, neighbours, self._aliases)

    def _regions(self, start: Array, into: Array, slab: tuple[int, float, float] = EVERYWHERE) -> Regions:
        p, run = self.prepared, self.run
        return Regions(p.tnet, p.expected, run.delta, run.label, start, into, chunk=self.chunk, slab=slab)

    def _in_slabs(self, first: RegionChunk, about: float) -> Iterator[RegionChunk]:
        """The regions slab by slab, the one at θ = 0 first."""
        widths = [float(np.mean(high - low)) for low, high in (first.extent(0), first.extent(1))]
        axis = int(np.argmin(widths))  # across which regions are thin: few are met twice
        count = min(max(math.ceil(about / self.run.how.slab), FEWEST), MOST)
        ends = np.linspace(0.0, 1.0, count + 1).tolist()
        slabs = [_Slab(low, high) for low, high in itertools.pairwise(ends)]
        home = min(int(self.prepared.origin[axis] * count), count - 1)
        slabs.insert(0, slabs.pop(home))
        met = np.zeros(0, dtype=np.uint64)
        for k, slab in enumerate(self._walked(slabs, axis)):
            self._slab_aliases += slab.aliases
            found = [*slab.chunks]
            slab.chunks.clear()
            while found:
                chunk = found.pop(0)
                low, high = chunk.extent(axis)
                shared = (low <= slab.low + REACH) | (high >= slab.high - REACH)
                again = np.isin(chunk.keys, met) if k else np.zeros(len(chunk), dtype=bool)
                if again.any():
                    repeats = chunk.take(again)
                    self.pairs.append((np.repeat(repeats.keys, np.diff(repeats.offsets)), repeats.neighbours))
                met = np.concatenate([met, chunk.keys[shared & ~again]])
                if not again.all():
                    yield chunk.take(~again) if again.any() else chunk

    def _walked(self, slabs: list[_Slab], axis: int) -> Iterator[_Slab]:
        """The slabs in order, walked; a few ahead by other threads."""
        threads = self.run.how.threads
        if threads == 1:
            for k, slab in enumerate(slabs):
                self._walk(slab, axis, home=k == 0)
                yield slab
            return
        with thread_pool(threads) as pool:
            waiting: deque[Future[None]] = deque()
            todo = iter(enumerate(slabs))
            try:
                for k, slab in itertools.islice(todo, threads):
                    waiting.append(pool.submit(self._walk, slab, axis, home=k == 0))
                for slab in slabs:
                    waiting.popleft().result()
                    for k, further in itertools.islice(todo, 1):
                        waiting.append(pool.submit(self._walk, further, axis, home=k == 0))
                    yield slab
            finally:
                self._stop.set()

    def _walk(self, slab: _Slab, axis: int, *, home: bool) -> None:
        """Walk one slab; stops between chunks when the time is up or nobody listens any more."""
        start, into = np.full(2, ASIDE), INTO
        start[axis] = (slab.low + slab.high) / 2
        if home:
            start, into = self.prepared.origin, self.prepared.into
        regions = self._regions(start, into, (axis, slab.low - REACH, slab.high + REACH))
        for chunk in regions:
            slab.chunks.append(chunk)
            if self.run.late or self._stop.is_set():
                break
        slab.aliases = len(regions.aliases)
        keys = np.concatenate([c.keys for c in slab.chunks])
        slab.chunks = [replace(c, neighbours=resolved(keys, c.neighbours, regions.aliases)) for c in slab.chunks]


def resolved(keys: Keys, neighbours: Keys, aliases: dict[int, int]) -> Keys:
    """Neighbours' keys, those that were not foreseen (and are no region's) replaced by what they turned out to be."""
    if not aliases:
        return neighbours
    names = np.array(list(aliases), dtype=np.uint64)
    values = np.array(list(aliases.values()), dtype=np.uint64)
    order = np.argsort(names)
    names, values = names[order], values[order]
    place = np.minimum(np.searchsorted(names, neighbours), len(names) - 1)
    known = np.isin(neighbours, keys)
    return np.where(~known & (names[place] == neighbours), values[place], neighbours)
