"""Which entries of the input's gradient say most about it.

The gradient is a linear function of the few gradients that active units of the first layers pass back, so the bounds
of a similarity on as many independent entries nearly imply those on all others.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import qr

from verifier.encodings.model import Expressions, Indices, Model
from verifier.network.operators import Array

ROUNDS = 2
"""So often entries are chosen that together determine the gradient."""
TOLERANCE = 1e-6
"""Pivots below this share of the first count as zero."""


def independent_rows(matrix: Array, candidates: Indices) -> Indices:
    """Rows that are most independent of each other: the pivots of a QR factorisation, then those of what is left.

    Shapes: matrix ``(rows, columns)``; candidates ``(k,)``.

    Args:
        candidates: the rows to choose from.

    Source:
        QR with column pivoting: Businger, Golub, Numerische Mathematik 1965.
    """
    taken = [np.zeros(0, dtype=np.int64)]
    for _ in range(ROUNDS):
        if not len(candidates):
            break
        triangle, order = qr(matrix[candidates].T, mode="r", pivoting=True, check_finite=False)
        pivots = np.abs(np.diag(triangle))
        place = order[: np.count_nonzero(pivots > TOLERANCE * pivots[0])]
        taken.append(candidates[place])
        candidates = np.delete(candidates, place)
    return np.concatenate(taken)


def basis_of_rows(model: Model, gradient: Expressions, width: Array) -> Indices:
    """Entries that are most independent of each other, in units of their bounds.

    Args:
        gradient: the entries as expressions over the model's variables.
        width: ``(n,)``: upper minus lower bound that the query puts on each entry; infinite where it is free.

    Source:
        QR with column pivoting: Businger, Golub, Numerische Mathematik 1965.
    """
    matrix, reach = gradient.widened(model.size), model.upper - model.lower
    columns = np.flatnonzero(abs(matrix).sum(axis=0) * reach > 0)
    scale = reach[columns] / np.maximum(width, 1e-12)[:, None]
    scaled = matrix[:, columns].toarray() * scale
    return np.sort(independent_rows(scaled, np.flatnonzero(np.abs(scaled).sum(axis=1) > 1)))
