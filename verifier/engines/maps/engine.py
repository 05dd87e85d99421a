"""The engine: boxes are bounded, cut, tried and split until none is left or a witness is confirmed."""

from __future__ import annotations

import time
from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from verifier.engines.base import Answer, Availability, Capabilities, Engine, EngineResult
from verifier.engines.maps.enclosure import Enclosures
from verifier.errors import InputError
from verifier.events import Listener, Progress, ignore
from verifier.limits import Deadline
from verifier.network.operators import Array
from verifier.options import Options
from verifier.properties.maps import NAMES
from verifier.properties.query import Query
from verifier.properties.similarity import NAMES as SIMILARITIES
from verifier.rounding import SPACING
from verifier.search.replay import first_confirmed
from verifier.verdict import Certainty

CELLS = 1 << 14
"""Boxes times neurons (times segments, for path maps) bounded at once."""
FEW_OPEN = 12
"""With at most this many open ReLUs a box is split on the one that moves the map most."""
NARROW = 1e-10
"""Boxes that are narrower than this share of the root in every input are not split again."""
STUCK = 200
"""So many boxes too narrow to be split end the search."""


class MapsEngine(Engine):
    """Branch and bound over boxes of the input, for conditions on any saliency map; its proofs cover rounding.

    Boxes are closed where the label cannot change (CROWN) or no map is similar (CROWN on the Jacobian), and cut to
    where map and input agree. Made for few inputs, and the only engine for the integral of a path.
    """

    name: ClassVar[str] = "maps"
    capabilities: ClassVar[Capabilities] = Capabilities(
        gradient=True, maps=frozenset(NAMES), similarities=frozenset(SIMILARITIES)
    )
    isolated: ClassVar[bool] = False

    def availability(self) -> Availability:
        return Availability(True, "built in")

    def rejects(self, network: object, query: Query | None = None) -> str:
        if query is not None and query.condition is None:
            return "queries without a condition on a saliency map"
        return super().rejects(network, query)  # type: ignore[arg-type]

    def solve(self, query: Query, options: Options, deadline: Deadline, listener: Listener = ignore) -> EngineResult:
        witness = first_confirmed(query, query.box.clip(np.stack([query.start, query.box.center])))
        if witness is not None:
            return EngineResult(answer=Answer.SAT, x=witness)
        try:
            search = Search(query)
        except InputError as error:  # numbers too large for bounds
            return EngineResult(answer=Answer.UNKNOWN, reason=str(error))
        return search.run(deadline, listener)


Node: TypeAlias = tuple[Array, Array, npt.NDArray[np.int8], float]
"""A box's lower and upper ends, the phases assumed on it, and its share of the work."""


class Search:
    """One search, depth first."""

    def __init__(self, query: Query) -> None:
        assert query.condition is not None
        self.query, self.condition = query, query.condition
        self.enclosures = Enclosures(query)
        self.batch = max(4, CELLS // max(1, query.network.neurons))
        self.width = np.where(query.box.width > 0, query.box.width, 1.0)
        no_phase = np.zeros(self.enclosures.units, dtype=np.int8)
        self.stack: list[Node] = [(query.box.lower, query.box.upper, no_phase, 1.0)]
        self.boxes = self.by_label = self.by_map = self.stuck = 0

    def run(self, deadline: Deadline, listener: Listener) -> EngineResult:
        """Until no box is left, a witness is found, or the deadline passes."""
        begin = last = time.monotonic()
        while self.stack:
            if deadline.passed:
                done = 1 - sum(node[-1] for node in self.stack)
                reason = f"{len(self.stack)} boxes left after {self.boxes}; {done:.1%} done"
                return self._result(Answer.TIMEOUT, reason=reason)
            if self.stuck > STUCK:
                break
            taken = [self.stack.pop() for _ in range(min(self.batch, len(self.stack)))]
            witness = self._step(*(np.array(part) for part in zip(*taken, strict=True)))
            if witness is not None:
                return self._result(Answer.SAT, x=witness)
            if time.monotonic() - last > 0.5:
                last = time.monotonic()
                progress = Progress(
                    seconds=last - begin, stage="solve", done=self.boxes, unit="boxes", left=len(self.stack)
                )
                listener(progress)
        if self.stuck:
            return self._result(Answer.UNKNOWN, reason=f"{self.stuck} boxes too small to be split stay undecided")
        return self._result(Answer.UNSAT, certainty=Certainty.RIGOROUS)

    def _result(self, answer: Answer, **details: object) -> EngineResult:
        figures = {"boxes": self.boxes, "closed by outputs": self.by_label, "closed by the map": self.by_map}
        return EngineResult(answer=answer, statistics=figures, **details)  # type: ignore[arg-type]

    def _step(self, low: Array, high: Array, phase: npt.NDArray[np.int8], share: Array) -> Array | None:
        """Close or split a batch of boxes; a witness, if one is seen."""
        self.boxes += len(low)
        found = self.enclosures.of(low, high, phase)
        g = found.g_lower, found.g_upper
        cut_low, cut_high = self.condition.contract(low, high, *g)
        crossed = (cut_low > cut_high).any(axis=1)
        closed = found.open & (self.condition.excludes(low, high, *g) | self._misses_box(*g) | crossed)
        self.by_label += int((~found.open).sum())
        self.by_map += int(closed.sum())
        keep = np.flatnonzero(found.open & ~closed)
        if not len(keep):
            return None
        low, high = cut_low[keep], cut_high[keep]
        points = np.concatenate([low + (high - low) / 2, np.clip(found.corners[keep], low, high)])
        witness = first_confirmed(self.query, points)
        if witness is not None:
            return witness
        self._split(low, high, phase[keep], share[keep], found.influence[keep], found.units[keep])
        return None

    def _misses_box(self, g_lower: Array, g_upper: Array) -> Array:
        """Whether the gradient misses the query's gradient box."""
        gradient = self.query.gradient
        if gradient is None:
            return np.zeros(len(g_lower), dtype=bool)
        return np.asarray(((g_lower > gradient.upper) | (g_upper < gradient.lower)).any(axis=1))

    def _split(
        self, low: Array, high: Array, phase: npt.NDArray[np.int8], share: Array, influence: Array, units: Array
    ) -> None:
        """Two children per box, on the stack: the phases of a ReLU where few are open, else halves of the box.

        The phases of a ReLU on whose kink the map jumps must be told apart: bounds on both at once allow every
        map in between, on boxes of any size.
        """
        width = high - low
        splittable = (width > NARROW * self.width) & (width > 8 * SPACING * np.maximum(np.abs(low), np.abs(high)))
        # a little of the width itself, so that no input is forgotten
        score = np.where(splittable, width / self.width * (influence + 1e-3), 0.0)
        axis, unit = score.argmax(axis=1), units.argmax(axis=1) if self.enclosures.units else None
        open_units = (units > 0).sum(axis=1)
        for k in range(len(low)):
            half, i = float(share[k]) / 2, int(axis[k])
            if unit is not None and 0 < open_units[k] <= FEW_OPEN:
                for sign in (1, -1):
                    child = phase[k].copy()
                    child[unit[k]] = sign
                    self.stack.append((low[k], high[k], child, half))
            elif score[k, i] > 0:
                middle = low[k, i] + width[k, i] / 2
                left, right = high[k].copy(), low[k].copy()
                left[i] = right[i] = middle
                self.stack += [(low[k], left, phase[k], half), (right, high[k], phase[k], half)]
            else:
                self.stuck += 1
