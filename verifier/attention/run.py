"""One map's arguments, as its walks share them."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from verifier.attention.inconsistency import Inconsistency
from verifier.attention.region_map import RegionMap
from verifier.attention.table import Table, Totals
from verifier.encodings.perturbations import Perturbed
from verifier.events import Listener, Progress
from verifier.properties.sets import Box


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
    regions_before: int = 0
    share_before: float = 0.0
    share: float = 1.0
    """Of Θ, if this run is one tile of a map; the two fields above say what was done before it."""

    def after(self, totals: Totals, share: float) -> MapRun:
        """The same run for one tile, after some others."""
        return replace(self, regions_before=totals.regions, share_before=totals.covered, share=share)

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
            seconds=time.monotonic() - self.began,
            **more,  # type: ignore[arg-type]
        )


def real_sides(box: Box, whole: Box, axis: int) -> list[float]:
    """Which sides of a tile (0: lower, 1: upper) along one axis lie on the border of Θ."""
    ends = ((0.0, box.lower[axis] == whole.lower[axis]), (1.0, box.upper[axis] == whole.upper[axis]))
    return [side for side, real in ends if real]
