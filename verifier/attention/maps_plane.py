"""Maps of one and two parameters, region by region, walked geometrically."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from verifier.attention.problem import Problem, problem
from verifier.attention.raster import Raster
from verifier.attention.region_map import RegionMap
from verifier.attention.run import MapRun, real_sides
from verifier.attention.slabs import Keys, PlaneRegions
from verifier.attention.table import Graded, Table, Totals
from verifier.attention.traversal.walk import RegionChunk, joined
from verifier.network.operators import Array
from verifier.properties.sets import Box


def plane_map(run: MapRun) -> RegionMap:
    """The exhaustive map of one or two parameters."""
    prepared = problem(run.perturbed, run.settings, run.label)
    regions = PlaneRegions(run, prepared)
    whole = run.perturbed.box
    totals, chunks, reason = Totals(run.delta), [], ""
    raster = None
    for chunk in regions:
        chunk = settled(run, prepared, chunk, totals)
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
        plane_table(prepared, chunks, regions, whole) if raster is None else None,
        raster=raster.shares() if raster is not None and not prepared.idle else None,
        statistics={"neurons": run.perturbed.network.neurons, "aliases": regions.aliases},
    )


def settled(run: MapRun, prepared: Problem, chunk: RegionChunk, totals: Totals) -> RegionChunk:
    """Count a chunk; the same chunk with what is within rounding of delta decided exactly."""

    def polygon(k: int) -> Array:
        vertices = chunk.vertices[chunk.offsets[k] : chunk.offsets[k + 1]]
        corners: Array = prepared.box.lower + vertices * prepared.box.width
        return corners[:, :1] if prepared.idle else corners

    found = run.settled(
        Graded(
            volumes=chunk.areas,
            low=chunk.low,
            high=chunk.high,
            attention=chunk.attention,
            label=chunk.label,
            label_volumes=chunk.label_area,
            tied=chunk.tied,
            near=np.zeros(len(chunk), dtype=bool),
            doubtful=chunk.doubtful.astype(bool),
            polygon=polygon,
        )
    )
    totals.add(found)
    return replace(chunk, low=found.low, high=found.high, attention=found.attention)


def plane_table(prepared: Problem, chunks: list[RegionChunk], regions: PlaneRegions, whole: Box) -> Table:
    """The regions of a walk as a table in the parameters' own units; an idle second parameter is dropped.

    Args:
        regions: the walk that handed the chunks out.
        whole: Θ, of which ``prepared.box`` may be a tile.
    """
    c = joined(chunks)
    d = len(prepared.tnet.width) if not prepared.idle else 1
    lower, width = prepared.box.lower, prepared.box.width
    owner = np.repeat(np.arange(len(c)), np.diff(c.offsets))
    vertices = lower + c.vertices * width
    first = c.offsets[:-1]
    centers = np.add.reduceat(vertices, first, axis=0) / np.diff(c.offsets)[:, None]
    distance = np.linalg.norm(vertices[:, :d], axis=1)
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
        edges=_pairs(c.keys, [(c.keys[owner], regions.resolved(c.keys, c.neighbours)), *regions.pairs]),
        touches_border=touches,
        farthest=farthest,
        vertices=vertices,
        offsets=offsets,
        keys=c.keys,
    )


def _pairs(keys: Keys, sides: list[tuple[Keys, Keys]]) -> npt.NDArray[np.int64]:
    """Pairs of neighbouring regions, each once (smaller index first).

    Args:
        keys: ``(P,)`` of the regions.
        sides: keys of regions, and of what may be a region across an edge of theirs.
    """
    order = np.argsort(keys)

    def index(of: Keys) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        place = order[np.minimum(np.searchsorted(keys[order], of), len(keys) - 1)]
        return place, (keys[place] == of) & (of != 0)

    (here, ours), (there, real) = (index(np.concatenate(side)) for side in zip(*sides, strict=True))
    found = ours & real & (here != there)
    pairs = np.sort(np.stack([here[found], there[found]], axis=1), axis=1)
    return np.asarray(np.unique(pairs, axis=0))
