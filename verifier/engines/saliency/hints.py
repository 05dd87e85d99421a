"""What propagation knows about every witness of a query, for other engines.

Forward bounds and gradient inversion together fix phases that bounds over the box alone cannot fix. The
bounds returned here hold at every *witness* of the query (not at every point of its box), which is all
that an encoding needs: it loses no witness, and what it proposes is replayed anyway.
"""

from __future__ import annotations

import numpy as np

from verifier.bounds.bound import Bound, NetworkBounds
from verifier.engines.saliency.maps import check_map
from verifier.engines.saliency.problem import Infeasible, Problem, State
from verifier.engines.saliency.propagation import propagate
from verifier.network.operators import Array
from verifier.properties.query import Query


def witness_bounds(query: Query, values: NetworkBounds) -> NetworkBounds | None:
    """Bounds on node values, tightened for the query's witnesses.

    Args:
        values: rigorous bounds over the box, by node name.

    Returns:
        the tightened bounds; unchanged where rounding in composed coefficients would make them unproved; None
        where propagation proves that there is no witness at all.
    """
    problem = Problem.of(query)
    if not problem.form.exact:
        return values
    state = State.root(problem)
    try:
        propagate(problem, state)
        check_map(problem, state)
    except Infeasible:
        return None
    known = dict(values)
    for r, name in enumerate(problem.form.nodes):
        if not name:
            continue
        (source,) = query.network[name].inputs
        shape = query.network[name].shape
        low, high = state.z_lower[r], state.z_upper[r]
        _tighten(known, source, low.reshape(shape), high.reshape(shape))
        _tighten(known, name, np.maximum(low, 0).reshape(shape), np.maximum(high, 0).reshape(shape))
    return NetworkBounds(known, values.method)


def _tighten(known: dict[str, Bound], name: str, lower: Array, upper: Array) -> None:
    if name in known and np.isfinite(lower).all() and np.isfinite(upper).all():
        known[name] = known[name].intersect(Bound(lower, np.maximum(lower, upper)))
