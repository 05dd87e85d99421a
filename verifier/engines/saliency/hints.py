"""What propagation knows about every witness of a query, for other engines.

Forward bounds and gradient inversion together fix phases that bounds over the box alone cannot fix. What is returned
here holds at every *witness* of the query (not at every point of its box), which is all that an encoding needs: it
loses no witness, and what it proposes is replayed anyway.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from verifier.bounds import gradient_bounds
from verifier.bounds.bound import Bound, NetworkBounds
from verifier.encodings.model import Indices
from verifier.encodings.network import UNKNOWN
from verifier.engines.encoded import Part, asked_gradient
from verifier.engines.saliency.maps import check_map
from verifier.engines.saliency.problem import Infeasible, Phases, Problem, State
from verifier.engines.saliency.propagation import propagate
from verifier.network.operators import Array
from verifier.properties.query import Query


def witness_parts(query: Query, values: NetworkBounds) -> list[Part] | None:
    """The cases of a query that propagation leaves, each with its bounds; none: there is no witness at all.

    Args:
        values: bounds over the box, by node name.

    Returns:
        None where rounding in composed coefficients would make what propagation finds unproved.
    """
    problem = Problem.of(query)
    if not problem.form.exact:
        return None
    root = State.root(problem)
    if not _propagated(problem, root, 0):
        return []
    if len(query.cases) == 1:
        return [_part(problem, root, values)]
    parts = []
    for case in root.cases:
        state = root.copy()
        state.cases = (case,)
        # the case's rows tighten the last layer, and what follows from that
        if _propagated(problem, state, max(len(state.phase) - 1, 0)):
            parts.append(_part(problem, state, values))
    return parts


def _propagated(problem: Problem, state: State, start: int) -> bool:
    """Tighten a state; False if that refutes it."""
    try:
        propagate(problem, state, start=start)
        check_map(problem, state)
    except Infeasible:
        return False
    return True


def _part(problem: Problem, state: State, values: NetworkBounds) -> Part:
    """What a state says of the network's nodes."""
    query, form = problem.query, problem.form
    assert query.gradient is not None
    network = query.network
    part = replace(query, cases=tuple(query.cases[case] for case in state.cases))
    known_values: dict[str, Bound] = dict(values)
    known: dict[str, Indices] = {}
    layers = [(r, name, network[name].inputs[0]) for r, name in enumerate(form.nodes) if name]
    for r, name, source in layers:
        low, high = state.z_lower[r], state.z_upper[r]
        _tighten(known_values, source, low, high)
        _tighten(known_values, name, np.maximum(low, 0), np.maximum(high, 0))
        known[name] = _phase_indices(state.phase[r])
    tightened = NetworkBounds(known_values, values.method)
    gradients: dict[str, Bound] = dict(gradient_bounds(network, query.box, query.gradient.output, tightened))
    readers = Counter(name for node in network.nodes for name in node.inputs)
    for r, name, source in layers:
        _tighten(gradients, name, state.h_lower[r], state.h_upper[r])
        if readers[source] == 1:
            _tighten(gradients, source, state.v_lower[r], state.v_upper[r])
    _tighten(gradients, network.input, state.g_lower, state.g_upper)
    asked = asked_gradient(query.gradient, gradients[network.input])
    return Part(part, tightened, NetworkBounds(gradients, "propagation"), asked, known)


def _phase_indices(phase: Phases) -> Indices:
    """Phases as indices of a ReLU's phases."""
    return np.where(phase == 0, UNKNOWN, (phase > 0).astype(np.int64))


def _tighten(known: dict[str, Bound], name: str, lower: Array, upper: Array) -> None:
    old = known[name]
    shape = old.lower.shape
    if np.isfinite(lower).all() and np.isfinite(upper).all():
        known[name] = old.intersect(Bound(lower.reshape(shape), np.maximum(lower, upper).reshape(shape)))
