"""The search for a counterexample: parts that take turns until one finds a point that the exact replay confirms.

The parts that every query gets are in `verifier.falsify.parts` (samples, gradient attacks, linear programs, exact lines).
Engines that know more hand in parts of their own: `verifier.falsify.climb` while boxes are split, and
`verifier.engines.saliency.attack` for conditions on a map.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from verifier.events import Listener, Progress, ignore
from verifier.falsify.jumps import ClimbJumps
from verifier.falsify.parts import Attacks, Lines, Polish, Samples
from verifier.falsify.search import FalsifierSettings, Part, Search
from verifier.limits import Deadline
from verifier.network.operators import Array
from verifier.properties.query import Query

Parts = Callable[[], Sequence[Part]]


def usual_parts() -> Sequence[Part]:
    """What every query gets; later parts start from the best points of earlier ones."""
    return ClimbJumps(), Samples(), Attacks(), Polish(), Lines()


@dataclass(frozen=True)
class Falsifier:
    """Looks for points that refute a property.

    Attributes:
        settings: how long and how hard.
        parts: makes the parts of a search, in their order.

    Source:
        its parts name theirs: FGSM, PGD, diversified starts, exact lines.
    """

    settings: FalsifierSettings = FalsifierSettings()
    parts: Parts = usual_parts

    def run(self, query: Query, deadline: Deadline, *, seed: int = 0, listener: Listener = ignore) -> Array | None:
        """A point ``(n,)`` that refutes the property, confirmed by the exact replay; None if none was found in time.

        Args:
            deadline: of the whole question; the search takes a share of it (see `FalsifierSettings`).
            seed: of everything random.
            listener: hears of progress.
        """
        left, s = deadline.left, self.settings
        limit = Deadline.after(min(s.most, s.share * left) if np.isfinite(left) else s.most)
        search = self.begin(query, limit, seed=seed)
        while search.turn < s.rounds and not search.over:
            found = search.step()
            if found is not None:
                return found
            if not query.box.width.any():
                return None
            seconds = time.monotonic() - search.began
            listener(Progress(seconds=seconds, stage="search", done=search.points, unit="points"))
        return None

    def begin(self, query: Query, deadline: Deadline, *, seed: int = 0) -> Search:
        """A search that its caller takes on, step by step, between other work."""
        return Search(query, deadline, seed, self.settings, self.parts())
