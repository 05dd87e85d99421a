"""What propagation knows about every witness of a query, for other engines.

Forward bounds and gradient inversion together fix phases that bounds over the box alone cannot fix. The
bounds returned here hold at every *witness* of the query (not at every point of its box), which is all
that an encoding needs: it loses no witness, and what it proposes is replayed anyway.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from verifier.bounds.bound import Bound
from verifier.engines.saliency.problem import Infeasible, Problem, State
from verifier.engines.saliency.propagation import propagate
from verifier.properties.query import Query


def witness_bounds(
    query: Query, values: Mapping[str, Bound], gradients: Mapping[str, Bound] | None
) -> tuple[dict[str, Bound], dict[str, Bound] | None] | None:
    """Bounds on node values and gradients, tightened for the query's witnesses.

    Args:
        values, gradients: bounds over the box, by node name; gradients None for a query without a gradient.

    Returns:
        the tightened bounds; None if propagation proved (with rounding errors accounted for) that the query
        has no witness. That proof is rigorous only where the composed coefficients are exact, so it is left
        out (bounds returned unchanged) elsewhere.
    """
    problem = Problem.of(query)
    new_values = dict(values)
    new_gradients = None if gradients is None else dict(gradients)
    if not problem.form.exact:
        return new_values, new_gradients
    state = State.root(problem)
    try:
        propagate(problem, state)
    except Infeasible:
        return None
    for r, name in enumerate(problem.form.nodes):
        if not name:
            continue
        (source,) = query.network[name].inputs
        shape = query.network[name].shape
        low, high = state.z_lower[r], state.z_upper[r]
        _tighten(new_values, source, low.reshape(shape), high.reshape(shape))
        _tighten(new_values, name, np.maximum(low, 0).reshape(shape), np.maximum(high, 0).reshape(shape))
    return new_values, new_gradients


def _tighten(known: dict[str, Bound], name: str, lower: np.ndarray, upper: np.ndarray) -> None:
    if name in known:
        known[name] = known[name].intersect(Bound(lower, np.maximum(lower, upper)))
