"""The exact range of the inconsistency over one region of a map."""

from __future__ import annotations

import numpy as np

from verifier.attention.inconsistency import Inconsistency
from verifier.attention.problem import problem
from verifier.attention.traversal.programs import LPExplorer, convex_minimum
from verifier.encodings.perturbations import Perturbed
from verifier.network.operators import Array


def minimum(perturbed: Perturbed, settings: Inconsistency, label: int, inside: Array) -> tuple[Array, float]:
    """The least inconsistency over a region, and where it is taken.

    On a region the saliency map is constant and the expected map affine, so that the inconsistency is convex
    (a sum of norms): its maximum is at a vertex, its minimum is found by cutting planes, to 1e-9 relative.

    Args:
        inside: ``(d,)`` a point inside the region, in the parameters' own units.
    """
    prepared = problem(perturbed, settings, label)
    explorer = LPExplorer(prepared.tnet, prepared.expected, 0.0, label)
    center = np.append(inside, 0.5) if prepared.idle else inside
    point = (center - prepared.box.lower) / prepared.box.width
    rows, bound = explorer.half_spaces(point)
    _, value, where = convex_minimum(explorer.value, rows, bound, point)
    return (prepared.box.lower + where * prepared.box.width)[: len(inside)], value
