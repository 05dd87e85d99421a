"""Conditions on saliency maps that are more than a gradient box: where they close a subproblem of the search.

The search itself works with the query's gradient box, which contains the gradient of every witness.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from verifier.encodings.query import Pattern
from verifier.encodings.region import Region
from verifier.engines.exact_regions import RegionSearch
from verifier.engines.saliency.problem import Infeasible, Problem, State
from verifier.limits import Deadline
from verifier.network.piecewise import MaxPool
from verifier.properties.numbers import Numbers, Point
from verifier.properties.query import Query
from verifier.properties.sets import Box


def check_map(problem: Problem, state: State) -> None:
    """Whether a propagated state still allows a similar map.

    Raises:
        Infeasible: if it does not.
    """
    query = problem.query
    if query.condition is None or query.gradient is None:
        return
    lower, upper = np.maximum(state.g_lower, query.gradient.lower), np.minimum(state.g_upper, query.gradient.upper)
    if (lower > upper).any() or query.condition.excludes(query.box.lower, query.box.upper, lower, upper):
        raise Infeasible


def settle_leaf(problem: Problem, state: State, deadline: Deadline) -> tuple[Point | None, bool]:
    """Decide exactly a state in which all phases are known: rounding, or a map that depends on the input, left it open.

    Returns:
        a witness, or None; and whether it was proved that there is none.
    """
    if state.unknown or not all(problem.form.nodes):
        return None, False
    condition = problem.query.condition
    if condition is not None and condition.map.baseline is not None:
        return _settle_map(problem, state, deadline)
    signs = dict(zip(problem.form.nodes, state.phase, strict=True))
    search = RegionSearch(problem.query, assumed=signs, closed=True, disjuncts=state.disjuncts)
    work = problem.settings.leaf.exact_work
    if search.maps_cost > work:
        return None, False
    search.run(work, deadline)
    return search.witness, search.finished and search.witness is None and not search.unsettled


def _settle_map(problem: Problem, state: State, deadline: Deadline) -> tuple[Point | None, bool]:
    """The same for a map that depends on the input beyond the gradient.

    There the gradient is a constant vector, so a map ``(x - baseline) ⊙ gradient`` near its reference is a box of
    inputs, and what is left is one linear region of the query on that box.
    """
    query, condition = problem.query, problem.query.condition
    assert condition is not None
    pattern: Pattern = {
        name: (phase > 0).astype(np.int64) for name, phase in zip(problem.form.nodes, state.phase, strict=True)
    }
    for node in query.network.activations:
        if node.name not in pattern:  # windows of one entry, which are no neurons of the form
            assert isinstance(node.operator, MaxPool)
            windows = node.operator.windows(query.network[node.inputs[0]].shape)
            pattern[node.name] = (windows >= 0).argmax(axis=1)
    region = Region(query, pattern)
    assert region.gradient is not None
    g = np.array([float(v) for v in region.gradient])
    around = np.nextafter(g, -np.inf), np.nextafter(g, np.inf)
    low, high = condition.contract(query.box.lower, query.box.upper, *around)
    if (low > high).any():
        return None, True
    if condition.excludes(low, high, *around):
        return None, True
    lower, upper = query.box.ends
    cut = Box.exactly(lower.at_least(Numbers.of(low)), upper.at_most(Numbers.of(high)))
    smaller: Query = replace(query, box=cut)
    found = Region(smaller, pattern, region.exact).solve(deadline.left)
    return found.point, found.empty
