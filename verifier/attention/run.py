"""One map's arguments, as its walks share them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from verifier.attention.answer import ASPECTS, Answer, AspectAnswer, candidates, failing, with_both
from verifier.attention.inconsistency import Inconsistency
from verifier.attention.region_map import RegionMap
from verifier.attention.replay import Replay
from verifier.attention.table import MIXED, NAMES, NEVER, ROBUST, SPECK, Aspect, Graded, Table, Totals
from verifier.attention.walk_settings import WalkSettings
from verifier.encodings.perturbations import Perturbed
from verifier.events import Listener, Progress
from verifier.properties.sets import Box

EXACT = 1000
"""Most regions of one map that are decided exactly."""
COVERED = 1e-6
"""How far the regions' volumes may be from that of Θ (linear programs leave out slivers below their tolerance)."""


@dataclass(frozen=True, eq=False)
class MapRun:
    """The arguments of one map, checked."""

    perturbed: Perturbed
    settings: Inconsistency
    delta: float
    label: int
    keep: int
    began: float
    timeout: float | None
    listener: Listener
    band: float = 0.0
    how: WalkSettings = field(default_factory=WalkSettings)
    regions_before: int = 0
    share_before: float = 0.0
    share: float = 1.0
    """Of Θ, if this run is one tile of a map; the two fields above say what was done before it."""
    exact_left: list[int] = field(default_factory=lambda: [EXACT])

    def after(self, totals: Totals, share: float) -> MapRun:
        """The same run for one tile, after some others."""
        return replace(self, regions_before=totals.regions, share_before=totals.covered, share=share)

    @cached_property
    def replay(self) -> Replay:
        """Exact evaluation for this image."""
        return Replay(self.perturbed, self.settings, self.label)

    def settled(self, found: Graded) -> Graded:
        """The same regions, those that hang on rounding looked at exactly; at most `EXACT` a map.

        Doubtful saliency maps are computed exactly at the region's center. Within rounding of delta, where the expected
        map stands still, the inconsistency is constant on the region, and its exact value decides. What cannot be
        decided stays `near`.
        """
        low, high, attention = found.low.copy(), found.high.copy(), found.attention.copy()
        close = 1e-7 * max(1.0, self.delta)
        big = found.volumes > SPECK
        unsure = found.doubtful & big
        for k in np.flatnonzero(unsure)[: self.exact_left[0]].tolist():
            self.exact_left[0] -= 1
            low[k], high[k] = self.replay.range_over(found.polygon(k))
            attention[k] = ROBUST if high[k] <= self.delta else (NEVER if low[k] > self.delta else MIXED)
            unsure[k] = False
        near = (np.abs(low - self.delta) < close) | (np.abs(high - self.delta) < close)
        for k in np.flatnonzero(near & (low == high) & big)[: self.exact_left[0]].tolist():
            self.exact_left[0] -= 1
            above = self.replay.exceeds(found.polygon(k).mean(axis=0), self.delta)
            if above is not None:
                attention[k], near[k] = (NEVER if above else ROBUST), False
        return replace(found, low=low, high=high, attention=attention, near=near | unsure)

    @property
    def late(self) -> bool:
        """Whether the time is up."""
        return self.timeout is not None and time.monotonic() - self.began > self.timeout

    def heard(self, regions: int, share: float) -> None:
        """Tell the listener how far the walk is; ``left`` extrapolates the number of regions from the share done."""
        regions, share = self.regions_before + regions, self.share_before + self.share * share
        left = int(regions * (1 / share - 1)) if share > 1e-3 else None
        self.listener(
            Progress(seconds=time.monotonic() - self.began, stage="map", done=regions, unit="regions", left=left)
        )

    def result(self, totals: Totals, method: str, reason: str, table: Table | None, **more: object) -> RegionMap:
        """The finished map."""
        return RegionMap(
            perturbed=self.perturbed,
            settings=self.settings,
            delta=self.delta,
            label=self.label,
            method=method,
            complete=not reason,
            reason=reason,
            summary=totals.summary(),
            table=table,
            answers=with_both({a: self.answer(a, totals, method, reason) for a in ASPECTS}),
            worst={q: np.array(vertices) for q, (_, vertices) in totals.worst.items()},
            seconds=time.monotonic() - self.began,
            **more,  # type: ignore[arg-type]
        )

    def answer(self, aspect: Aspect, totals: Totals, method: str, reason: str) -> AspectAnswer:
        """The paper's verdict for one aspect: NotRobust with an exact witness, Robust if nothing is left open."""
        names = NAMES[aspect]
        failed = totals.counts[names[1]] + totals.counts[names[2]]
        if failed:
            box = self.perturbed.box
            questions = ("label", "tied") if aspect == "label" else ("attention",)
            regions = [np.array(totals.worst[q][1]) for q in questions if q in totals.worst]
            points = [p for r in regions for p in candidates(r[:, : box.size], box.lower, box.upper)]
            theta = failing(self.replay, aspect, self.delta, points)
            if theta is not None:
                return AspectAnswer(answer=Answer.NOT_ROBUST, reason="fails at a parameter, exactly", theta=theta)
        if reason:
            late = self.late or reason.startswith("stopped after")
            return AspectAnswer(answer=Answer.TIMEOUT if late else Answer.UNDECIDED, reason=reason)
        close = totals.near if aspect == "attention" else totals.tied
        if failed or close:
            return AspectAnswer(answer=Answer.UNDECIDED, reason=f"{failed + close} regions hang on rounding")
        if abs(totals.covered - 1.0) > COVERED:
            return AspectAnswer(answer=Answer.UNDECIDED, reason=f"{totals.covered:.6%} of Θ were visited ({method})")
        return AspectAnswer(answer=Answer.ROBUST, reason="holds on every region, and the regions fill Θ")


def real_sides(box: Box, whole: Box, axis: int) -> list[float]:
    """Which sides of a tile (0: lower, 1: upper) along one axis lie on the border of Θ."""
    ends = ((0.0, box.lower[axis] == whole.lower[axis]), (1.0, box.upper[axis] == whole.upper[axis]))
    return [side for side, real in ends if real]
