"""Replay: a proposed witness is checked again on the original network, in exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from verifier.network.exact import ExactNetwork
from verifier.network.operators import Array
from verifier.properties.query import Query
from verifier.verdict import Witness


def replay(query: Query, x: Array, exact_network: ExactNetwork | None = None) -> Witness:
    """Check a point exactly: in the box, the gradient by the strict convention, the condition, no tolerance.

    Args:
        x: flattened input, float64; a point outside the box by rounding is first clipped into it.
        exact_network: the query's network in exact form, if it is at hand.

    Returns:
        a `Witness` whose ``exact`` says whether the point refutes the property.
    """
    point = query.box.clip(np.asarray(x, dtype=np.float64).reshape(-1))
    exact_network = exact_network or ExactNetwork(query.network)
    values = exact_network.values(point)
    y = values[query.network.output].fractions()
    g: list[Fraction] | None = None
    inside = True
    if query.gradient is not None:
        g = exact_network.gradient(point, query.gradient.output, values)
        ends = zip(g, query.gradient.lower.tolist(), query.gradient.upper.tolist(), strict=True)
        inside = all(
            (low == -np.inf or v >= Fraction(low)) and (high == np.inf or v <= Fraction(high)) for v, low, high in ends
        )
    xs = [Fraction(v) for v in point.tolist()]
    confirmed = (
        inside
        and (query.common is None or query.common.holds_exactly(xs, y, g))
        and any(case.holds_exactly(xs, y, g) for case in query.cases)
    )
    return Witness(
        input=point,
        output=np.array([float(v) for v in y]),
        gradient=None if g is None else np.array([float(v) for v in g]),
        exact=confirmed,
    )
