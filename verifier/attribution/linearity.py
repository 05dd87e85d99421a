"""How linear a network is along lines: ExactLine (NeurIPS 2019), Section 5.

The linear explanation of adversarial examples supposes few linear pieces, and a gradient that hardly changes, on the
way from an input to its adversarial neighbour. Both can be measured exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from verifier.network.operators import Array
from verifier.regions.line import LineRestriction


def density(restriction: LineRestriction) -> float:
    """Linear pieces per unit of Euclidean length of the line; infinite for a line of length 0."""
    length = float(np.linalg.norm(restriction.end - restriction.start))
    return len(restriction) / length if length else float("inf")


def gradient_deviation(restriction: LineRestriction, output: int | Sequence[float] | Array) -> float:
    """Mean over the line of ``‖∇(t) - ∇(0)‖₁ / ‖∇(t)‖₁``: how far the gradient moves from that at the start.

    The published experiment averages the relative change of single entries, with 1e-12 in the denominator; the
    ratio of norms used here does not hang on entries that happen to vanish.
    """
    g = restriction.gradient(output)
    change = np.abs(g - g[0]).sum(axis=1)
    size = np.abs(g).sum(axis=1)
    ratio = np.divide(change, size, out=np.where(change > 0, np.inf, 0.0), where=size > 0)
    return float(np.average(ratio, weights=restriction.lengths))
