"""What an attention map is made of, and what can be read off it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from verifier.attention.answer import AspectAnswer
from verifier.attention.inconsistency import Inconsistency
from verifier.attention.table import MIXED, ROBUST, SAME, Aspect, Summary, Table
from verifier.attention.tile_store import TileStore
from verifier.encodings.perturbations import Perturbed
from verifier.errors import InputError
from verifier.network.operators import Array
from verifier.shown import Shown


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class RegionMap(Shown):
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
        boundary: for "gbs", by aspect: the opened regions of the robust part around θ = 0, and those just outside
            it (`outside`), as masks over the table.
        answers: the paper's verdict for "label", "attention" and "both" (its CR, AR and CRAR): Robust, NotRobust (with a parameter that was
            replayed exactly), Timeout or Undecided.
        worst: vertices of a region to look at first: "attention" that with the largest inconsistency, "label" that
            where the label fails on the largest volume.
        seconds: wall-clock time.
        statistics: figures worth showing.

    Source:
        Munakata et al., NFM 2023, Definitions 1 to 3, Algorithms 1 and 2.
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
    answers: Mapping[Aspect, AspectAnswer]
    worst: Mapping[str, Array]
    origin: int = 0
    raster: Array | None = None
    tiles: TileStore | None = None
    boundary: Mapping[str, tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]] = field(default_factory=dict)
    seconds: float = 0.0
    statistics: Mapping[str, float] = field(default_factory=dict)

    _drawn_by = "verifier.report.attention:map_figure"

    def _facts(self) -> tuple[str, dict[str, str]]:
        facts: dict[str, str] = {aspect: found.answer.value for aspect, found in self.answers.items()}
        parameters = ", ".join(f"{p.label} in [{p.low:g}, {p.high:g}]" for p in self.perturbed.perturbations)
        regions = f"{self.summary.regions:,} regions" + ("" if self.complete else ", incomplete")
        return f"RegionMap of {parameters}: {regions}", facts

    def _kept(self) -> Table:
        if self.table is None:
            fix = "raise keep=, or give a folder with stream=" if self.tiles is None else "see RegionMap.joined"
            raise InputError("the map does not hold its regions in memory", fix=fix)
        return self.table

    def joined(self) -> RegionMap:
        """A map with `tiles` as one with a table, read from disk: regions whole again, without polygons.

        It answers `component`, `outermost`, `enclaves` and `farthest`; about 150 bytes a region.
        """
        if self.tiles is None or self.table is not None:
            return self
        table = self.tiles.joined()
        box = self.perturbed.box
        share = (np.clip(0.0, box.lower, box.upper) - box.lower) / box.width
        return replace(self, table=table, origin=self.tiles.region_at(share, table))

    def component(self, aspect: Aspect) -> npt.NDArray[np.bool_]:
        """The regions that hold everywhere and are connected, through such regions, to the one at θ = 0."""
        t = self._kept()
        if self.method == "gbs":
            return self._followed(aspect)[0]
        good = t.kinds(aspect) == ROBUST
        return self._reached(good, self.origin)

    def outside(self, aspect: Aspect) -> npt.NDArray[np.bool_]:
        """The regions just outside the origin's component, on its outer side.

        They do not hold everywhere, share a face with the component, and are connected, through regions outside the
        component that share a face or a vertex, to the border of Θ. What is left out surrounds enclaves: islands
        inside the component. If there are none, the component reaches the border of Θ all around.
        """
        if self.method == "gbs":
            return self._followed(aspect)[1]
        inside = self.component(aspect)
        parts, outer = self._outside(inside)
        return np.asarray(self._beside(inside) & ~inside & np.isin(parts, outer))

    def outermost(self, aspect: Aspect) -> npt.NDArray[np.bool_]:
        """The outermost boundary of the origin's component (Definition 3): the regions of `outside` on the boundary.

        On the boundary is a region that holds in a part. Where the inconsistency jumps across a face, from a region
        where it is within delta all over to one where it is nowhere, the boundary is that face and no region: these
        faces belong to the regions of `outside` that are not here.
        """
        return np.asarray(self.outside(aspect) & (self._kept().kinds(aspect) == MIXED))

    def _followed(self, aspect: Aspect) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        if aspect not in self.boundary:
            raise InputError(f"this map followed the boundary of {', '.join(self.boundary)} only")
        return self.boundary[aspect]

    def enclaves(self, aspect: Aspect) -> int:
        """How many islands lie inside the origin's component: parts of Θ outside it that it surrounds."""
        inside = self.component(aspect)
        parts, outer = self._outside(inside)
        return len(np.setdiff1d(parts[self._beside(inside) & ~inside], outer))

    def _beside(self, inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """The regions that share a face with one of some regions."""
        t = self._kept()
        beside = np.zeros(len(t), dtype=bool)
        for a, b in (t.edges.T, t.edges.T[::-1]):
            beside[b[inside[a]]] = True
        return beside

    def _outside(self, inside: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The parts of what is outside some regions (-1: inside), and which of them reach the border of Θ.

        What a path through faces cannot leave is closed by vertices as well as by faces: parts that meet in a vertex,
        and parts that meet the border in one, are connected.
        """
        t = self._kept()
        parts = self._components(~inside)
        outer = np.unique(parts[~inside & t.touches_border])
        closed = ~inside & ~np.isin(parts, outer)
        if not closed.any() or self.perturbed.dimension == 1:
            return parts, outer
        vertices, owner = self._vertices(~inside)
        unit = (vertices - self.perturbed.box.lower) / self.perturbed.box.width
        on_border = ((unit < SAME) | (unit > 1 - SAME)).any(axis=1)
        links = [np.stack([parts[owner[on_border]], np.full(int(on_border.sum()), -1)], axis=1)]
        near = cKDTree(unit[closed[owner]]).query_ball_tree(cKDTree(unit), SAME)
        here = np.repeat(parts[owner[closed[owner]]], [len(n) for n in near])
        there = parts[owner[np.array([k for n in near for k in n], dtype=np.int64)]]
        links.append(np.stack([here, there], axis=1))
        links.append(np.stack([outer, np.full(len(outer), -1)], axis=1))
        pairs = np.concatenate(links) + 1  # 0: the border
        count = int(parts.max()) + 2
        graph = sp.csr_array((np.ones(len(pairs), dtype=np.int8), pairs.T), shape=(count, count))
        _, joint = connected_components(graph, directed=False)
        merged = np.where(inside, -1, joint[parts + 1])
        return np.asarray(merged), np.array([joint[0]])

    def _vertices(self, among: npt.NDArray[np.bool_]) -> tuple[Array, npt.NDArray[np.int64]]:
        """The vertices of some regions, and whose each is; of a joined map from its tiles."""
        t = self._kept()
        if t.vertices is not None and t.offsets is not None:
            owner = np.repeat(np.arange(len(t)), np.diff(t.offsets))
            return t.vertices[among[owner]], owner[among[owner]]
        assert self.tiles is not None
        assert t.keys is not None
        found, owners = [], []
        for tile in self.tiles.tables():
            assert tile.vertices is not None
            assert tile.offsets is not None
            assert tile.keys is not None
            number = np.searchsorted(t.keys, tile.keys)
            owner = np.repeat(number, np.diff(tile.offsets))
            found.append(tile.vertices[among[owner]])
            owners.append(owner[among[owner]])
        return np.concatenate(found), np.concatenate(owners)

    def farthest(self, aspect: Aspect) -> tuple[Array, float] | None:
        """The parameters, connected to θ = 0 through regions that hold everywhere, that are farthest from it.

        Returns:
            the point ``(d,)`` and its distance ‖θ‖₂ (Definition 3); None if not even the region at θ = 0 holds.
        """
        t = self._kept()
        inside = np.flatnonzero(self.component(aspect))
        if not len(inside):
            return None
        distance = np.linalg.norm(t.farthest[inside], axis=1)
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
