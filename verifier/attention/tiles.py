"""Maps of any size: Θ in tiles, one after the other, each tile's regions in a file of its own.

A tile that turns out to hold more regions than may be kept in memory is given up and split; how finely, the
share of it that was covered by then says. The folder's journal has one line per finished or split tile, written
after the tile's file, so that an interrupted run loses the tile at work and nothing else, and goes on from there
when it is called again with the same arguments.

A region that a cut between tiles goes through is in both tiles, with the same key; `TileStore.joined` puts such
pieces together. Cuts keep off round numbers, where perturbations bend and regions would end at the cut itself.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from verifier.attention.maps_lp import cell_table, lp_walk
from verifier.attention.maps_plane import plane_table, settled
from verifier.attention.opening import Openers
from verifier.attention.problem import Problem, problem
from verifier.attention.question import question_of
from verifier.attention.raster import Raster
from verifier.attention.region_map import RegionMap
from verifier.attention.run import MapRun
from verifier.attention.slabs import PlaneRegions
from verifier.attention.table import Table, Totals
from verifier.attention.tile_store import Cell, TileStore
from verifier.properties.sets import Box

OFF = 0.0437
"""Cuts are moved by this share of a tile's width."""

SMALLEST = 1e-7
"""A tile with less than this share of Θ is not split: where more regions meet in a point than may be kept, every
tile around the point has them all."""
ALL = 1 << 40


def tiled_map(run: MapRun, folder: Path) -> RegionMap:
    """The exhaustive map in tiles, its regions in a folder."""
    store = TileStore(folder, question_of(run.perturbed, run.settings, run.delta, run.label, keep=run.keep))
    totals, reason = Totals(run.delta), ""
    raster = Raster(run.perturbed.box) if run.perturbed.dimension == 2 else None
    todo: list[Cell] = [((0.0, 1.0),) * run.perturbed.dimension]
    while todo:
        cell = todo.pop()
        record = store.records.get(cell)
        if record is None:
            record = _tile(run, store, cell, totals)
        if record is None:
            reason = f"stopped after {run.timeout:g} s; {len(store)} finished tiles are in {folder}"
            break
        if "split" in record:
            todo += reversed(parts(cell, record["split"]))
            continue
        totals.join(Totals(**record["totals"]))
        reason = reason or record["reason"]
        if raster is not None:
            with np.load(folder / record["file"]) as data:
                raster.paint(
                    data["vertices"], data["offsets"], data["volumes"], data["attention"], data["label_volumes"]
                )
    return run.result(
        totals,
        "exhaustive",
        reason,
        None,
        tiles=store,
        raster=None if raster is None else raster.shares(),
        statistics={"tiles": len(store)},
    )


def _tile(run: MapRun, store: TileStore, cell: Cell, before: Totals) -> dict[str, Any] | None:
    """Walk one tile; its journal record, None if the time is up."""
    whole = run.perturbed.box
    ends = np.array(cell)
    box = Box(whole.lower + ends[:, 0] * whole.width, whole.lower + ends[:, 1] * whole.width)
    share = float(np.prod(ends[:, 1] - ends[:, 0]))
    prepared = problem(run.perturbed, run.settings, run.label, box=box)
    part = Totals(run.delta)
    run = run.after(before, share)
    if share < SMALLEST:
        run = replace(run, keep=ALL)
    walk = _cells if run.perturbed.dimension > 2 else _polygons
    table, tolerance = walk(run, prepared, part)
    if part.regions > run.keep:
        axes = min(run.perturbed.dimension, 2)
        fine = math.ceil((2.0 * part.regions / (run.keep * max(part.covered, 1e-6))) ** (1 / axes))
        return store.split(cell, min(max(fine, 2), 32))
    if table is None:
        return None
    hole = not abs(part.covered - 1.0) <= tolerance
    reason = f"the regions found cover {part.covered:.12g} of the tile {cell}" if hole else ""
    return store.write(cell, table, part.scaled(share), reason)


def _polygons(run: MapRun, prepared: Problem, part: Totals) -> tuple[Table | None, float]:
    """The regions of a tile of one or two parameters (None: too many, or the time is up); tolerance of their area."""
    regions = PlaneRegions(run, prepared, most=run.keep + 1)
    chunks = []
    for found in regions:
        chunks.append(settled(run, prepared, found, part))
        run.heard(part.regions, part.covered)
        if run.late or part.regions > run.keep:
            return None, 0.0
    return plane_table(prepared, chunks, regions, run.perturbed.box), 1e-9


def _cells(run: MapRun, prepared: Problem, part: Totals) -> tuple[Table | None, float]:
    """The same for more parameters."""
    with Openers(run, prepared) as opens:
        walk = lp_walk(opens, part)
    if walk.reason:
        return None, 0.0
    return cell_table(prepared, walk.cells, walk.aliases, run.perturbed.box), 1e-6


def parts(cell: Cell, count: int) -> list[Cell]:
    """A tile in ``count`` × ``count`` parts along its first two parameters (``count`` along the only one)."""
    ranges = []
    for low, high in cell[:2]:
        inner = [low + (high - low) * (k + OFF) / count for k in range(1, count)]
        ranges.append(list(itertools.pairwise([low, *inner, high])))
    return [(*pick, *cell[2:]) for pick in itertools.product(*ranges)]
