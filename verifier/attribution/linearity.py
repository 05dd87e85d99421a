"""How linear a network is along lines: ExactLine (NeurIPS 2019), Section 5.

The linear explanation of adversarial examples supposes few linear pieces, and a gradient that hardly changes, on the
way from an input to its adversarial neighbour. Both can be measured exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from verifier.errors import InputError
from verifier.network.operators import Array
from verifier.regions.line import LineRestriction


def density(restriction: LineRestriction) -> float:
    """Breakpoints, the two ends included, per unit of Euclidean length of the line; infinite for length 0.

    The paper's text counts the pieces, one less; its published figures (Table 4) are met to the last digit by counting
    the ends P_1, ..., P_n of Definition 1, which its Figure 4 draws as tick marks.
    """
    length = float(np.linalg.norm(restriction.end - restriction.start))
    return len(restriction.breakpoints) / length if length else float("inf")


def gradient_deviation(
    restriction: LineRestriction, output: int | Sequence[float] | Array, *, rule: str = "entries"
) -> float:
    """How far the gradient moves from that at the line's start, relative to itself, as a mean over the line.

    Args:
        output: index of an output, or one coefficient for each.
        rule: "entries": the mean over the input's entries of ``|∇(t) - ∇(0)| / |∇(t)|``, as in the paper's experiment
            (1e-12 is added to the denominator); "norms": ``‖∇(t) - ∇(0)‖₁ / ‖∇(t)‖₁``, which does not hang on entries
            that happen to vanish.

    Raises:
        InputError: there is no such rule.
    """
    g = restriction.gradient(output)
    change, size = np.abs(g - g[0]), np.abs(g)
    if rule == "entries":
        ratio = (change / np.abs(g + 1e-12)).mean(axis=1)
    elif rule == "norms":
        total, whole = change.sum(axis=1), size.sum(axis=1)
        ratio = np.divide(total, whole, out=np.where(total > 0, np.inf, 0.0), where=whole > 0)
    else:
        raise InputError(f"unknown rule {rule!r}", fix='"entries" or "norms"')
    return float(np.average(ratio, weights=restriction.lengths))
