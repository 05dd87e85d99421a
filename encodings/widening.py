"""By how much rows are widened for solvers with tolerances."""

from __future__ import annotations

import numpy as np

from verifier.network.operators import Array


def slack(relax: float, reach: Array) -> Array:
    """By how much a row is widened whose left side can move by ``reach`` over the variables' bounds.

    Shapes: reach ``(rows,)``.

    ``relax`` in absolute terms, less where the row moves by less than 0.1.
    """
    return relax * np.minimum(1.0, 10.0 * reach)
