"""Lines through large networks in bounded memory: what does not fit is walked in parts, and the parts are joined.

A group of segments whose walk raises `MemoryLimitError` is halved: into fewer segments, and a single one in t. Where a
segment was halved the network does not bend, so the two pieces beside that place are one and are united again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from verifier.errors import MemoryLimitError
from verifier.events import Event, Listener, Progress
from verifier.limits import Deadline, MemoryBudget
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

    def halves(self) -> tuple[_Part, _Part]:
        count = len(self.lines)
        if count > 1:
            return (
                _Part(self.lines[: count // 2], self.places[: count // 2]),
                _Part(self.lines[count // 2 :], self.places[count // 2 :]),
            )
        low, high = self.places[0].tolist()
        middle = (low + high) / 2
        return _Part(self.lines, np.array([[low, middle]])), _Part(self.lines, np.array([[middle, high]]))


def walk_lines(
    network: Network,
    starts: Array,
    ends: Array,
    deadline: Deadline,
    memory: MemoryBudget,
    listener: Listener,
    settings: LineSettings,
) -> Walked:
    """Walk lines from starts to ends ``(lines, n)`` through a network.

    Args:
        listener: is told after each layer of each part how many pieces there are, those of earlier parts included.

    Raises:
        TimeLimitError: the deadline passes.
        MemoryLimitError: even a very short segment does not fit.

    Source:
        Sotoudeh, Thakur, ExactLine, NeurIPS 2019, Theorems 1 to 3; in parts: this module's own.
    """
    count = len(starts)
    waiting = [_Part(np.arange(count), np.tile([0.0, 1.0], (count, 1)))]
    done: list[tuple[_Part, Walked]] = []
    while waiting:
        part = waiting.pop()
        earlier = sum(len(walked.places) for _, walked in done)

        def tell(event: Event, earlier: int = earlier) -> None:
            listener(replace(event, done=event.done + earlier) if isinstance(event, Progress) else event)

        try:
            done.append((part, _walk(network, starts, ends, part, deadline, memory, tell, settings)))
        except MemoryLimitError:
            if len(part.lines) == 1 and float(np.ptp(part.places)) < settings.shortest:
                raise
            waiting += reversed(part.halves())
    return done[0][1] if len(done) == 1 else _joined(done)


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
