"""Lines through large networks in bounded memory and by threads: walked in parts, and the parts are joined.

Each thread takes its share of the segments, or of a single segment's t. A part whose walk raises `MemoryLimitError` is
halved: into fewer segments, and a single one in t. Where a segment was halved the network does not bend, so the two
pieces beside that place are one and are united again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from threading import Lock

import numpy as np

from verifier.errors import MemoryLimitError
from verifier.events import Event, Listener, Progress
from verifier.limits import Deadline, MemoryBudget, thread_pool
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.regions.cells import Index, Segments
from verifier.regions.look import ExactLook
from verifier.regions.plan import Level
from verifier.regions.settings import LineSettings
from verifier.regions.subdivision import Subdivision


@dataclass(frozen=True, eq=False)
class Walked:
    """Pieces of lines, in the order of the lines, each with its two ends.

    Attributes:
        places: ``(pieces, 2)`` t at the ends.
        values: ``(pieces, 2, m)`` outputs there.
        tolerance: ``(pieces, 2)`` see `verifier.regions.line.LineRestriction`.
        levels: the activation patterns; the first level's parents are the lines.
        by_rounding: see `verifier.regions.look.ExactLook`.
    """

    places: Array
    values: Array
    tolerance: Array
    levels: list[Level]
    by_rounding: int = 0


@dataclass(frozen=True, eq=False)
class _Part:
    """Segments of lines: which lines, and t at their ends ``(segments, 2)``."""

    lines: Index
    places: Array

    def shares(self, count: int) -> list[_Part]:
        """As many parts, or as many as there are segments; of a single segment as many stretches of t."""
        if len(self.lines) > 1:
            pairs = zip(np.array_split(self.lines, count), np.array_split(self.places, count), strict=True)
            return [_Part(lines, places) for lines, places in pairs if len(lines)]
        low, high = self.places[0].tolist()
        ends = [low, *(low + (high - low) * k / count for k in range(1, count)), high]
        return [_Part(self.lines, np.array([stretch])) for stretch in pairwise(ends)]


def walk_lines(
    network: Network,
    starts: Array,
    ends: Array,
    deadline: Deadline,
    memory: MemoryBudget,
    listener: Listener,
    settings: LineSettings,
    threads: int = 1,
) -> Walked:
    """Walk lines from starts to ends ``(lines, n)`` through a network.

    Args:
        listener: is told after each layer of each part how many pieces there are, those of earlier parts included.
        threads: so many parts are walked at the same time, each with its share of the memory.

    Raises:
        TimeLimitError: the deadline passes.
        MemoryLimitError: even a very short segment does not fit.

    Source:
        Sotoudeh, Thakur, ExactLine, NeurIPS 2019, Theorems 1 to 3; in parts: this module's own.
    """
    count = len(starts)
    whole = _Part(np.arange(count), np.tile([0.0, 1.0], (count, 1)))
    shares = whole.shares(threads)
    memory, told = memory.part(len(shares)), _Told(listener)

    def walk(part: _Part) -> list[tuple[_Part, Walked]]:
        waiting, done = [part], []
        while waiting:
            part = waiting.pop()
            try:
                found = _walk(network, starts, ends, part, deadline, memory, told.by(part), settings)
            except MemoryLimitError:
                if len(part.lines) == 1 and float(np.ptp(part.places)) < settings.shortest:
                    raise
                waiting += reversed(part.shares(2))
                told.forget(part)
            else:
                done.append((part, found))
        return done

    if len(shares) == 1:
        done = walk(whole)
    else:
        with thread_pool(len(shares)) as pool:
            done = [one for found in pool.map(walk, shares) for one in found]
    return done[0][1] if len(done) == 1 else _joined(done)


class _Told:
    """What the parts tell of their progress, added up."""

    def __init__(self, listener: Listener) -> None:
        self._listener, self._lock = listener, Lock()
        self._pieces: dict[int, int] = {}

    def by(self, part: _Part) -> Listener:
        """The listener of one part."""

        def tell(event: Event) -> None:
            if not isinstance(event, Progress):
                self._listener(event)
                return
            with self._lock:
                self._pieces[id(part)] = event.done
                self._listener(replace(event, done=sum(self._pieces.values())))

        return tell

    def forget(self, part: _Part) -> None:
        """A part is walked again, in smaller ones."""
        with self._lock:
            self._pieces.pop(id(part), None)


def _walk(
    network: Network,
    starts: Array,
    ends: Array,
    part: _Part,
    deadline: Deadline,
    memory: MemoryBudget,
    listener: Listener,
    settings: LineSettings,
) -> Walked:
    a, b = starts[part.lines], ends[part.lines]
    t = part.places[..., None]
    inputs = np.where(t == 0, a[:, None], np.where(t == 1, b[:, None], (1 - t) * a[:, None] + t * b[:, None]))
    cells = Segments(np.arange(2 * len(a)).reshape(-1, 2), part.places.reshape(-1).copy())
    look = ExactLook(network, a, b, deadline, settings.exact_work)
    walk = Subdivision(network, cells, inputs.reshape(2 * len(a), -1), deadline, memory, look)
    walk.finish(listener, "line", "pieces")
    return Walked(
        cells.place[cells.ends], walk.output[cells.ends], walk.tolerance[cells.ends], walk.levels, look.by_rounding
    )


def _joined(done: Sequence[tuple[_Part, Walked]]) -> Walked:
    """All parts as one, segments that were halved united."""
    depth = len(done[0][1].levels)
    levels: list[list[Level]] = [[] for _ in range(depth)]
    sizes = [0] * depth
    places: list[Array] = []
    values: list[Array] = []
    tolerance: list[Array] = []
    for part, walked in done:
        same = part.places[0, 0] > 0  # so far the first piece may be the last one of the part before
        before: Index | None = None
        for k, level in enumerate(walked.levels):
            parents = part.lines[level.parents] if before is None else before[level.parents]
            same = same and _same(levels[k][-1], level)
            kept = slice(int(same), None)
            # the number that each of this level's cells gets among all parts' cells
            before = np.arange(len(parents)) + sizes[k] - int(same)
            levels[k].append(
                Level(
                    level.node,
                    parents[kept],
                    sides=None if level.sides is None else level.sides[kept],
                    winners=None if level.winners is None else level.winners[kept],
                )
            )
            if not len(levels[k][-1].parents):
                levels[k].pop()  # nothing is left of it; the row before stays the last one
            sizes[k] += len(parents) - int(same)
        kept = slice(int(same), None)
        if same:
            places[-1][-1, 1], values[-1][-1, 1] = walked.places[0, 1], walked.values[0, 1]
            tolerance[-1][-1, 1] = walked.tolerance[0, 1]
        if len(walked.places) > int(same):
            places.append(walked.places[kept].copy())
            values.append(walked.values[kept].copy())
            tolerance.append(walked.tolerance[kept].copy())
    return Walked(
        np.concatenate(places),
        np.concatenate(values),
        np.concatenate(tolerance),
        [_concatenated(parts) for parts in levels],
        sum(walked.by_rounding for _, walked in done),
    )


def _same(last: Level, first: Level) -> bool:
    """Whether the last cell of one part and the first of the next decide the same at a node."""
    a, b = (last.sides, first.sides) if last.sides is not None else (last.winners, first.winners)
    assert a is not None
    assert b is not None
    return bool((a[-1] == b[0]).all())


def _concatenated(parts: list[Level]) -> Level:
    sides = [p.sides for p in parts if p.sides is not None]
    winners = [p.winners for p in parts if p.winners is not None]
    return Level(
        parts[0].node,
        np.concatenate([p.parents for p in parts]),
        sides=np.concatenate(sides) if sides else None,
        winners=np.concatenate(winners) if winners else None,
    )
