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


def telling_entries(model: Model, gradient: Expressions, width: Array) -> Indices:
    """Entries that are most independent of each other: the pivots of QR factorisations, in units of their bounds.

    Args:
        gradient: the entries as expressions over the model's variables.
        width: ``(n,)``: upper minus lower bound that the query puts on each entry; infinite where it is free.
    """
    reach = model.upper - model.lower
    columns = np.flatnonzero(abs(gradient.widened(model.size)).sum(axis=0) * reach > 0)
    scale = reach[columns] / np.maximum(width, 1e-12)[:, None]
    scaled = gradient.widened(model.size)[:, columns].toarray() * scale
    rest = np.flatnonzero(np.abs(scaled).sum(axis=1) > 1)
    taken = [np.zeros(0, dtype=np.int64)]
    for _ in range(ROUNDS):
        if not len(rest):
            break
        triangle, order = qr(scaled[rest].T, mode="r", pivoting=True, check_finite=False)
        pivots = np.abs(np.diag(triangle))
        place = order[: np.count_nonzero(pivots > TOLERANCE * pivots[0])]
        taken.append(rest[place])
        rest = np.delete(rest, place)
    return np.sort(np.concatenate(taken))
