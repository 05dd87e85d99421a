"""What an attention map is made of, and what can be read off it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from verifier.attention.inconsistency import Inconsistency
from verifier.attention.table import ROBUST, Aspect, Summary, Table
from verifier.attention.tile_store import TileStore
from verifier.encodings.perturbations import Perturbed
from verifier.errors import InputError
from verifier.network.operators import Array


@dataclass(frozen=True, eq=False, kw_only=True)
class RegionMap:
    """Where in Θ the label holds and the saliency map moves as expected.

    Attributes:
        perturbed: network, image and perturbations.
        settings: how inconsistency is measured.
        delta: what inconsistency is still consistent.
        label: the label that should hold.
        method: "exhaustive" or "gbs" (boundary only).
        complete: whether the walk ended by itself (for "exhaustive": every region was visited).
        reason: why not, if not.
        summary: totals.
        table: the regions; None if there were more than could be kept (`attention_map`'s ``keep``).
        origin: index of the region at θ = 0 in the table.
        raster: ``(n, n, 2)`` for maps of two parameters without a table: share of each pixel that is AR and CR
            (NaN: not visited).
        tiles: the regions on disk, for maps with ``stream``; regions that cross a cut between tiles are counted
            once per tile in the summary.
        boundary: for "gbs", by aspect: the opened regions of the robust part around θ = 0, and those on its
            outermost boundary, as masks over the table.
        seconds: wall-clock time.
        statistics: figures worth showing.
    """

    perturbed: Perturbed
    settings: Inconsistency
    delta: float
    label: int
    method: str
    complete: bool
    reason: str
    summary: Summary
    table: Table | None
    origin: int = 0
    raster: Array | None = None
    tiles: TileStore | None = None
    boundary: Mapping[str, tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]] = field(default_factory=dict)
    seconds: float = 0.0
    statistics: Mapping[str, float] = field(default_factory=dict)

    @property
    def robust(self) -> Mapping[str, bool | None]:
        """The paper's verdicts: whether *all* of Θ is CR, and AR; None if the map is not complete."""
        s = self.summary
        found = {"label": s.counts["MR"] + s.counts["CB"], "attention": s.counts["IR"] + s.counts["AB"]}
        whole = self.complete and self.method == "exhaustive"
        return {k: False if n else (True if whole else None) for k, n in found.items()}

    def _kept(self) -> Table:
        if self.table is None:
            fix = "raise keep=, or give a folder with stream=" if self.tiles is None else "see RegionMap.joined"
            raise InputError("the map does not hold its regions in memory", fix=fix)
        return self.table

    def joined(self) -> RegionMap:
        """A map with `tiles` as one with a table, read from disk: regions whole again, without polygons.

        It answers `component`, `outermost`, `enclaves` and `farthest`; about 150 bytes a region.
        """
        if self.tiles is None:
            return self
        table = self.tiles.joined()
        box = self.perturbed.box
        share = (np.clip(0.0, box.lower, box.upper) - box.lower) / box.width
        return replace(self, table=table, tiles=None, origin=self.tiles.region_at(share, table))

    def component(self, aspect: Aspect) -> npt.NDArray[np.bool_]:
        """The regions that hold everywhere and are connected, through such regions, to the one at θ = 0."""
        t = self._kept()
        if self.method == "gbs":
            return self._followed(aspect)[0]
        good = getattr(t, aspect) == ROBUST
        return self._reached(good, self.origin)

    def outermost(self, aspect: Aspect) -> npt.NDArray[np.bool_]:
        """The outermost boundary of the origin's component (Definition 3).

        The regions that do not hold everywhere, share a face with the origin's component, and are connected,
        through regions that do not hold everywhere, to the border of Θ. What is left out surrounds nothing but
        enclaves: islands inside the component. If no such boundary exists, the component reaches the border
        of Θ all around.
        """
        t = self._kept()
        if self.method == "gbs":
            return self._followed(aspect)[1]
        inside = self.component(aspect)
        beside = np.zeros(len(t), dtype=bool)
        for a, b in (t.edges.T, t.edges.T[::-1]):
            beside[b[inside[a]]] = True
        bad = getattr(t, aspect) != ROBUST
        parts = self._components(bad)
        open_parts = np.unique(parts[bad & t.touches_border])
        return np.asarray(beside & bad & np.isin(parts, open_parts))

    def _followed(self, aspect: Aspect) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        if aspect not in self.boundary:
            raise InputError(f"this map followed the boundary of {', '.join(self.boundary)} only")
        return self.boundary[aspect]

    def enclaves(self, aspect: Aspect) -> int:
        """How many islands of regions that do not hold everywhere lie inside the origin's component."""
        t = self._kept()
        inside = self.component(aspect)
        beside = np.zeros(len(t), dtype=bool)
        for a, b in (t.edges.T, t.edges.T[::-1]):
            beside[b[inside[a]]] = True
        bad = getattr(t, aspect) != ROBUST
        parts = self._components(bad)
        return len(np.setdiff1d(parts[bad & beside], parts[bad & t.touches_border]))

    def farthest(self, aspect: Aspect) -> tuple[Array, float] | None:
        """The parameters, connected to θ = 0 through regions that hold everywhere, that are farthest from it.

        Returns:
            the point ``(d,)`` and its distance, in widths of Θ; None if not even the region at θ = 0 holds.
        """
        t = self._kept()
        inside = np.flatnonzero(self.component(aspect))
        if not len(inside):
            return None
        width = self.perturbed.box.width
        distance = np.linalg.norm(t.farthest[inside] / width, axis=1)
        best = int(np.argmax(distance))
        return t.farthest[inside[best]], float(distance[best])

    def minimum(self, region: int) -> tuple[Array, float]:
        """The exact minimum of the inconsistency over a region, and where it is taken."""
        from verifier.attention.extrema import minimum

        return minimum(self.perturbed, self.settings, self.label, self._kept().centers[region])

    @cached_property
    def _graph(self) -> sp.csr_array:
        t = self._kept()
        a, b = t.edges.T if len(t.edges) else (np.zeros(0, dtype=np.int64),) * 2
        return sp.csr_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(len(t), len(t)))

    def _components(self, among: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Component number of every region in the subgraph of the chosen ones; -1 for the others."""
        pick = np.flatnonzero(among)
        numbers = np.full(len(among), -1, dtype=np.int64)
        if len(pick):
            _, found = connected_components(self._graph[pick][:, pick], directed=False)
            numbers[pick] = found
        return numbers

    def _reached(self, among: npt.NDArray[np.bool_], start: int) -> npt.NDArray[np.bool_]:
        if not among[start]:
            return np.zeros(len(among), dtype=bool)
        numbers = self._components(among)
        return np.asarray(numbers == numbers[start])
