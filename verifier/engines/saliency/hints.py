"""What propagation knows about every witness of a query, for other engines.

Forward bounds and gradient inversion together fix phases that bounds over the box alone cannot fix. What is returned
here holds at every *witness* of the query (not at every point of its box), which is all that an encoding needs: it
loses no witness, and what it proposes is replayed anyway.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import qr

from verifier.bounds import gradient_bounds
from verifier.bounds.bound import Bound, NetworkBounds
from verifier.encodings.model import Indices
from verifier.encodings.network import UNKNOWN
from verifier.engines.saliency.form import INPUT, dense
from verifier.engines.saliency.maps import check_map
from verifier.engines.saliency.problem import Infeasible, Phases, Problem, State
from verifier.engines.saliency.propagation import propagate
from verifier.network.operators import Array
from verifier.properties.query import Query

ROUNDS = 2
"""So often entries of the gradient are chosen that together determine it."""
TOLERANCE = 1e-6
"""Pivots below this share of the first count as zero."""


@dataclass(frozen=True, eq=False)
class Part:
    """One of the questions that a query falls into, with what is known about its witnesses.

    Attributes:
        query: the query with one of its cases.
        values, gradients: bounds on every node's value and on the gradient with respect to it.
        known: phases, see `verifier.encodings.network.encode_forward`.
        gradient: the bounds on the input's gradient, those that the query asks for included.
        entries: the entries of the input's gradient on which the query's bounds say most; the bounds on the others
            follow nearly. All entries if the query speaks of the gradient in other ways too.
    """

    query: Query
    values: NetworkBounds
    gradients: NetworkBounds
    known: dict[str, Indices]
    gradient: Bound
    entries: Indices


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
    known_values, gradients, known = dict(values), {}, {}
    layers = [(r, name, *network[name].inputs) for r, name in enumerate(form.nodes) if name]
    for r, name, source in layers:
        low, high = state.z_lower[r], state.z_upper[r]
        _tighten(known_values, source, low, high)
        _tighten(known_values, name, np.maximum(low, 0), np.maximum(high, 0))
        known[name] = _phase_indices(state.phase[r])
    tightened = NetworkBounds(known_values, values.method)
    gradients = dict(gradient_bounds(network, query.box, query.gradient.output, tightened))
    readers = Counter(name for node in network.nodes for name in node.inputs)
    for r, name, source in layers:
        _tighten(gradients, name, state.h_lower[r], state.h_upper[r])
        if readers[source] == 1:
            _tighten(gradients, source, state.v_lower[r], state.v_upper[r])
    _tighten(gradients, network.input, state.g_lower, state.g_upper)
    lower, upper = (end.reshape(-1) for end in (gradients[network.input].lower, gradients[network.input].upper))
    asked = Bound(lower, upper).intersect(Bound(query.gradient.lower, query.gradient.upper))
    boxed = query.condition is None or query.condition.is_box
    few = boxed and all(conjunction.g_rows is None for conjunction in query.parts)
    entries = _telling_entries(problem, state) if few else np.arange(query.box.size)
    return Part(part, tightened, NetworkBounds(gradients, "propagation"), known, asked, entries)


def _telling_entries(problem: Problem, state: State) -> Indices:
    """Entries of the gradient that are most independent of each other as functions of what is passed back to the input.

    The pivots of a QR factorisation with rows in units of the entries' radii, as often as `ROUNDS`.
    """
    gradient, form = problem.query.gradient, problem.form
    assert gradient is not None
    columns = []
    for r in form.users[INPUT]:
        free = np.flatnonzero(state.v_upper[r] > state.v_lower[r])
        width = (state.v_upper[r] - state.v_lower[r])[free]
        columns.append(dense(form.layers[r].matrices[INPUT][free]).T * width)
    radius = np.maximum(gradient.upper - gradient.lower, 1e-12)
    scaled = np.concatenate([np.zeros((form.input_size, 0)), *columns], axis=1) / radius[:, None]
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


def _phase_indices(phase: Phases) -> Indices:
    """Phases as indices of a ReLU's phases."""
    return np.where(phase == 0, UNKNOWN, (phase > 0).astype(np.int64))


def _tighten(known: dict[str, Bound], name: str, lower: Array, upper: Array) -> None:
    old = known[name]
    shape = old.lower.shape
    if np.isfinite(lower).all() and np.isfinite(upper).all():
        known[name] = old.intersect(Bound(lower.reshape(shape), np.maximum(lower, upper).reshape(shape)))
