"""Attention maps: every region of the perturbation parameters, and whether label and attention hold there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from verifier.attention.inconsistency import Inconsistency
from verifier.attention.problem import Problem, problem
from verifier.attention.region_map import MIXED, NAMES, Aspect, RegionMap, Summary, Table
from verifier.encodings.perturbations import Perturbation, Perturbed, perturbed
from verifier.errors import InputError
from verifier.events import Listener, Progress, ignore
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.properties.sets import Box

if TYPE_CHECKING:
    from verifier.regions.traversal import RegionChunk


def attention_map(
    network: Network,
    image: npt.ArrayLike,
    perturbations: Sequence[Perturbation],
    delta: float = 3.0,
    *,
    settings: Inconsistency | None = None,
    label: int | None = None,
    clip: bool = True,
    method: str = "exhaustive",
    aspect: Aspect = "attention",
    keep: int = 3_000_000,
    stream: str | Path | None = None,
    timeout: float | None = None,
    listener: Listener = ignore,
) -> RegionMap:
    """Map every linear region of the perturbation parameters (Munakata et al., NFM 2023).

    Args:
        network: any network of the framework; MaxPool and other piecewise-linear operators are rewritten with
            ReLUs, so that a region may come in several pieces.
        image: ``(channels, H, W)`` or ``(H, W)``, in [0, 1].
        perturbations: one per parameter; one and two parameters are walked geometrically, more by linear
            programs.
        delta: the largest inconsistency that still counts as the same attention, >= 0.
        settings: filter, norm and classes of the inconsistency; the paper's (identity, L2, all) by default.
        label: the label that should hold; the network's own at the image by default.
        clip: clip pixels to [0, 1].
        method: "exhaustive", or "gbs": only what is needed to find the boundary around θ = 0.
        aspect: whose boundary "gbs" follows: "attention" or "label".
        keep: most regions in memory at a time. An exhaustive map with more keeps totals and a picture only
            (two parameters), unless ``stream`` is given. About 0.5 kB a region.
        stream: a folder. Θ is mapped in tiles of at most ``keep`` regions, and each finished tile is written
            there (`RegionMap.tiles`). Called again with the same arguments, finished tiles are not mapped again.
        timeout: seconds after which the walk stops; the map then says what it covers.
        listener: hears `Progress` with the share of Θ done (in 1/1000).

    Raises:
        InputError: what is wrong with image, perturbations or arguments.
    """
    settings = settings or Inconsistency()
    if not np.isfinite(delta) or delta < 0:
        raise InputError(f"delta must be a finite number >= 0, got {delta}")
    if method not in ("exhaustive", "gbs"):
        raise InputError(f"unknown method {method!r}", fix="'exhaustive' or 'gbs'")
    if aspect not in NAMES:
        raise InputError(f"unknown aspect {aspect!r}", fix="'attention' or 'label'")
    if keep < 1:
        raise InputError(f"keep must be at least 1, got {keep}")
    if stream is not None and method != "exhaustive":
        raise InputError("only exhaustive maps can be streamed", fix="leave out stream=, or method='gbs'")
    layer = perturbed(network, image, perturbations, clip=clip)
    if label is None:
        label = int(np.argmax(network.forward(layer.image.reshape(1, -1))[0]))
    if not 0 <= label < network.output_size:
        raise InputError(f"label {label} does not exist", fix=f"labels are 0 to {network.output_size - 1}")
    began = time.monotonic()
    run = MapRun(layer, settings, float(delta), label, keep, began, timeout, listener)
    if method == "gbs":
        from verifier.attention.boundary import boundary_map

        return boundary_map(run, aspect)
    if stream is not None:
        from verifier.attention.tiles import tiled_map

        return tiled_map(run, Path(stream))
    if layer.dimension > 2:
        from verifier.attention.maps_lp import lp_map

        return lp_map(run)
    return _plane_map(run)


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


@dataclass
class Totals:
    """Running totals over regions; volumes are shares of Θ."""

    delta: float
    regions: int = 0
    volumes: dict[str, float] = field(default_factory=lambda: {n: 0.0 for names in NAMES.values() for n in names})
    counts: dict[str, int] = field(default_factory=lambda: {n: 0 for names in NAMES.values() for n in names})
    label_share: float = 0.0
    covered: float = 0.0
    smallest: float = np.inf
    largest: float = 0.0
    near: int = 0

    def add(
        self, volumes: Array, low: Array, high: Array, attention: Array, label: Array, label_volumes: Array
    ) -> None:
        """Count some more regions."""
        self.regions += len(volumes)
        self.covered += float(volumes.sum())
        self.label_share += float(label_volumes.sum())
        for kind, names in ((label, NAMES["label"]), (attention, NAMES["attention"])):
            shares = np.bincount(kind, volumes, minlength=MIXED + 1)
            counts = np.bincount(kind, minlength=MIXED + 1)
            for k, name in enumerate(names):
                self.volumes[name] += float(shares[k])
                self.counts[name] += int(counts[k])
        self.smallest = min(self.smallest, float(low.min(initial=np.inf)))
        self.largest = max(self.largest, float(high.max(initial=0.0)))
        close = 1e-7 * max(1.0, self.delta)
        self.near += int(((np.abs(low - self.delta) < close) | (np.abs(high - self.delta) < close)).sum())

    def scaled(self, share: float) -> Totals:
        """The same, where what was walked is this share of Θ."""
        return replace(
            self,
            volumes={k: v * share for k, v in self.volumes.items()},
            counts=dict(self.counts),
            label_share=self.label_share * share,
            covered=self.covered * share,
        )

    def join(self, other: Totals) -> None:
        """Add another part of Θ."""
        self.regions += other.regions
        self.covered += other.covered
        self.label_share += other.label_share
        self.near += other.near
        for name in self.volumes:
            self.volumes[name] += other.volumes[name]
            self.counts[name] += other.counts[name]
        self.smallest, self.largest = min(self.smallest, other.smallest), max(self.largest, other.largest)

    def summary(self) -> Summary:
        """The totals, frozen."""
        return Summary(
            regions=self.regions,
            volumes=dict(self.volumes),
            counts=dict(self.counts),
            label_share=self.label_share,
            covered=self.covered,
            smallest=self.smallest,
            largest=self.largest,
            near_delta=self.near,
        )


def _plane_map(run: MapRun) -> RegionMap:
    """The exhaustive map of one or two parameters."""
    from verifier.attention.raster import Raster
    from verifier.regions.traversal import Regions

    prepared = problem(run.perturbed, run.settings, run.label)
    regions = Regions(prepared.tnet, prepared.expected, run.delta, run.label, prepared.origin, prepared.into)
    whole = run.perturbed.box
    totals, chunks, reason = Totals(run.delta), [], ""
    raster = None
    for chunk in regions:
        totals.add(chunk.areas, chunk.low, chunk.high, chunk.attention, chunk.label, chunk.label_area)
        chunks.append(chunk)
        if totals.regions > run.keep:
            raster = raster or Raster(prepared.box)
            for c in chunks:
                vertices = prepared.box.lower + c.vertices * prepared.box.width
                raster.paint(vertices, c.offsets, c.areas, c.attention, c.label_area)
            chunks.clear()
        run.heard(totals.regions, totals.covered)
        if run.late:
            reason = f"stopped after {run.timeout:g} s"
            break
    if not reason and abs(totals.covered - 1.0) > 1e-9:
        reason = f"the regions found cover {totals.covered:.12g} of Θ"
    return run.result(
        totals,
        "exhaustive",
        reason,
        plane_table(prepared, chunks, regions.aliases, whole) if raster is None else None,
        raster=raster.shares() if raster is not None and not prepared.idle else None,
        statistics={"neurons": run.perturbed.network.neurons, "aliases": len(regions.aliases)},
    )


def plane_table(prepared: Problem, chunks: list[RegionChunk], aliases: dict[int, int], whole: Box) -> Table:
    """The regions of a walk as a table in the parameters' own units; an idle second parameter is dropped.

    Args:
        whole: Θ, of which ``prepared.box`` may be a tile.
    """
    from verifier.regions.traversal import joined

    c = joined(chunks)
    d = len(prepared.tnet.width) if not prepared.idle else 1
    lower, width = prepared.box.lower, prepared.box.width
    owner = np.repeat(np.arange(len(c)), np.diff(c.offsets))
    vertices = lower + c.vertices * width
    first = c.offsets[:-1]
    centers = np.add.reduceat(vertices, first, axis=0) / np.diff(c.offsets)[:, None]
    distance = np.linalg.norm(vertices[:, :d] / whole.width, axis=1)
    order = np.lexsort((-distance, owner))
    farthest = vertices[order[first]][:, :d]
    following = np.arange(1, len(c.vertices) + 1)
    following[c.offsets[1:] - 1] = first
    on_border = np.zeros(len(c.vertices), dtype=bool)
    for axis in range(d):
        for side in real_sides(prepared.box, whole, axis):
            on_border |= (c.vertices[:, axis] == side) & (c.vertices[following, axis] == side)
    touches = np.zeros(len(c), dtype=bool)
    touches[owner[on_border]] = True
    scale = float(np.prod(width[:d]))
    offsets: npt.NDArray[np.int64] = c.offsets
    if prepared.idle:
        low, high = np.minimum.reduceat(vertices[:, 0], first), np.maximum.reduceat(vertices[:, 0], first)
        vertices, offsets = np.stack([low, high], axis=1).reshape(-1, 1), 2 * np.arange(len(c) + 1)
    return Table(
        volumes=c.areas * scale,
        centers=centers[:, :d],
        low=c.low,
        high=c.high,
        attention=c.attention,
        label=c.label,
        label_volumes=c.label_area * scale,
        winner=c.winner,
        edges=_pairs(c.keys, owner, c.neighbours, aliases),
        touches_border=touches,
        farthest=farthest,
        vertices=vertices,
        offsets=offsets,
        keys=c.keys,
    )


def real_sides(box: Box, whole: Box, axis: int) -> list[float]:
    """Which sides of a tile (0: lower, 1: upper) along one axis lie on the border of Θ."""
    ends = ((0.0, box.lower[axis] == whole.lower[axis]), (1.0, box.upper[axis] == whole.upper[axis]))
    return [side for side, real in ends if real]


def _pairs(
    keys: npt.NDArray[np.uint64],
    owner: npt.NDArray[np.int64],
    neighbours: npt.NDArray[np.uint64],
    aliases: dict[int, int],
) -> npt.NDArray[np.int64]:
    """Pairs of neighbouring regions, each once (smaller index first)."""
    real = neighbours.copy()
    if aliases:
        names = np.array(list(aliases), dtype=np.uint64)
        values = np.array(list(aliases.values()), dtype=np.uint64)
        order = np.argsort(names)
        names, values = names[order], values[order]
        place = np.minimum(np.searchsorted(names, real), len(names) - 1)
        known = np.isin(real, keys)
        real = np.where(~known & (names[place] == real), values[place], real)
    order = np.argsort(keys)
    place = np.minimum(np.searchsorted(keys[order], real), len(keys) - 1)
    other = order[place]
    found = (keys[other] == real) & (real != 0)
    pairs = np.sort(np.stack([owner[found], other[found]], axis=1), axis=1)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    return np.asarray(np.unique(pairs, axis=0))
