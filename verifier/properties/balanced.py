"""A query whose network has weights of about 1, exactly equal to one whose weights are huge or tiny.

A ReLU network that is scaled by a positive number layer by layer has the same linear regions; with powers of two
nothing is rounded. So ``value' = 2^-k · value`` with one k for each node, outputs and gradients are those of the query
times ``2^-k`` of the output node, and the query's rows, its gradient box and its condition on a map are scaled to match.
Inputs stay as they are: a witness of the one query is a witness of the other. Solvers with tolerances need it, which
weights of 1e8 or 1e-8 put out of reach.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from verifier.lazy import sp
from verifier.network.balance import MODERATE, BalanceWeights, InexactScaling, scaled
from verifier.network.reduction import reduce
from verifier.properties.conjunction import Conjunction
from verifier.properties.numbers import ExactRow
from verifier.properties.query import GradientBox, Query

BALANCED = (BalanceWeights(),)


def balanced(query: Query) -> Query:
    """The same query with weights of about 1; the query itself where they are moderate, or cannot be scaled exactly.

    Source:
        positive homogeneity of ReLU, by powers of two: Neyshabur, Salakhutdinov, Srebro, NeurIPS 2015.
    """
    try:
        reduced = reduce(query.network, BALANCED)
        if reduced.network is query.network:
            return query
        shift = reduced.exponent
        gradient, condition = query.gradient, query.condition
        if gradient is not None:
            lower, upper = (ends.scaled(-shift) for ends in gradient.ends)
            gradient = GradientBox.exactly(gradient.output, lower, upper)
        if condition is not None:
            own = reduce(condition.network, BALANCED)
            if own.exponent != shift:
                return query
            reference, delta = condition.exact_reference.scaled(-shift), float(scaled(condition.delta, -shift))
            condition = replace(condition, network=own.network, exact_reference=reference, delta=delta)
        return replace(
            query,
            network=reduced.network,
            disjuncts=tuple(_rows(disjunct, shift) for disjunct in query.disjuncts),
            clauses=tuple(tuple(_rows(disjunct, shift) for disjunct in clause) for clause in query.clauses),
            common=None if query.common is None else _rows(query.common, shift),
            gradient=gradient,
            condition=condition,
        )
    except InexactScaling:
        return query


def _rows(part: Conjunction, shift: int) -> Conjunction:
    """Rows over outputs and gradients that are ``2^-shift`` times what they were."""
    sizes = np.zeros(len(part), dtype=np.int64)
    matrices: dict[str, Any] = {}
    for name, exponent in (("x_rows", 0), ("y_rows", shift), ("g_rows", shift)):
        rows = getattr(part, name)
        if rows is not None:
            matrices[name] = sp.csr_array(rows)
            largest = abs(matrices[name]).max(axis=1).toarray().reshape(-1)
            sizes = np.maximum(sizes, np.where(largest > 0, np.frexp(largest)[1] + exponent, -(10**6)))
    sizes = np.where(np.abs(sizes) > MODERATE, sizes, 0)
    for name, rows in matrices.items():
        exponents = (0 if name == "x_rows" else shift) - np.repeat(sizes, np.diff(rows.indptr))
        moved = sp.csr_array((scaled(rows.data, exponents), rows.indices, rows.indptr), shape=rows.shape)
        matrices[name] = moved if sp.issparse(getattr(part, name)) else moved.toarray()
    exact = {k: _row(row, shift, -int(sizes[k])) for k, row in part.exact.items()}
    return Conjunction(bound=scaled(part.bound, -sizes), strict=part.strict, exact=exact, **matrices)


def _row(row: ExactRow, shift: int, own: int) -> ExactRow:
    factor = Fraction(2) ** shift
    y, g = ({k: a * factor for k, a in m.items()} for m in (row.y, row.g))
    return ExactRow(row.x, y, g, row.bound, row.inner).times(Fraction(2) ** own)
