"""The exact range of the inconsistency over one region of a map."""

from __future__ import annotations

import numpy as np

from verifier.attention.problem import problem
from verifier.attention.region_map import RegionMap
from verifier.network.operators import Array
from verifier.regions.traversal_lp import LPExplorer, convex_minimum


def minimum(region_map: RegionMap, region: int) -> tuple[Array, float]:
    """The least inconsistency over a region, and where it is taken.

    On a region the saliency map is constant and the expected map affine, so that the inconsistency is convex
    (a sum of norms): its maximum is at a vertex, its minimum is found by cutting planes, to 1e-9 relative.
    """
    table = region_map.table
    assert table is not None
    prepared = problem(region_map.perturbed, region_map.settings, region_map.label)
    explorer = LPExplorer(prepared.tnet, prepared.expected, region_map.delta, region_map.label)
    center = table.centers[region]
    if prepared.idle:
        center = np.append(center, 0.5)
    point = (center - prepared.box.lower) / prepared.box.width
    rows, bound = explorer.half_spaces(point)
    _, value, where = convex_minimum(explorer.value, rows, bound, point)
    return (prepared.box.lower + where * prepared.box.width)[: table.centers.shape[1]], value
