"""A query whose network has weights of about 1, exactly equal to one whose weights are huge or tiny.

A ReLU network that is scaled by a positive number layer by layer has the same linear regions; with powers of two
nothing is rounded. So ``value' = 2^-k · value`` with one k for each node, outputs and gradients are those of the query
times ``2^-k`` of the output node, and the query's rows, its gradient box and its condition on a map are scaled to match.
Inputs stay as they are: a witness of the one query is a witness of the other. Solvers with tolerances need it, which
weights of 1e8 or 1e-8 put out of reach.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from verifier.lazy import sp
from verifier.network.convolution import Conv
from verifier.network.graph import Network
from verifier.network.operators import AffineOperator, Array, Dense, Operator, Scale
from verifier.network.piecewise import MaxPool, PiecewiseLinear
from verifier.properties.conjunction import Conjunction
from verifier.properties.numbers import ExactRow
from verifier.properties.query import GradientBox, Query

MODERATE = 12
"""Weights whose largest is between 2^-12 and 2^12 are left as they are."""


class _Inexact(Exception):
    """A number leaves the range of float64."""


def balanced(query: Query) -> Query:
    """The same query with weights of about 1; the query itself where they are moderate, or cannot be scaled exactly."""
    try:
        network, shift = _balanced(query.network)
        if network is query.network:
            return query
        gradient, condition = query.gradient, query.condition
        if gradient is not None:
            lower, upper = (ends.scaled(-shift) for ends in gradient.ends)
            gradient = GradientBox.exactly(gradient.output, lower, upper)
        if condition is not None:
            own, again = _balanced(condition.network)
            if again != shift:
                return query
            reference, delta = condition.exact_reference.scaled(-shift), float(_scaled(condition.delta, -shift))
            condition = replace(condition, network=own, exact_reference=reference, delta=delta)
        return replace(
            query,
            network=network,
            disjuncts=tuple(_rows(disjunct, shift) for disjunct in query.disjuncts),
            clauses=tuple(tuple(_rows(disjunct, shift) for disjunct in clause) for clause in query.clauses),
            common=None if query.common is None else _rows(query.common, shift),
            gradient=gradient,
            condition=condition,
        )
    except _Inexact:
        return query


def _balanced(network: Network) -> tuple[Network, int]:
    """The network with scaled values, and the exponent of its output; itself where nothing is to be done."""
    shifts = {network.input: 0}
    operators: dict[str, Operator] = {}
    for node in network.nodes[1:]:
        before = {shifts[name] for name in node.inputs}
        if len(before) > 1:
            raise _Inexact
        (shift,) = before
        operators[node.name], shifts[node.name] = _operator(node.operator, shift)
    if not any(shifts.values()):
        return network, 0
    nodes = tuple(replace(node, operator=operators.get(node.name, node.operator)) for node in network.nodes)
    return replace(network, nodes=nodes, model_file=""), shifts[network.output]


def _operator(operator: Operator, shift: int) -> tuple[Operator, int]:
    """The operator on an input that is ``2^-shift`` times what it was, and the exponent of its output."""
    if isinstance(operator, Dense | Conv | Scale):
        weight, constant = ("scale", "shift") if isinstance(operator, Scale) else ("weight", "bias")
        sparse = operator.sparse_weight if isinstance(operator, Dense) else None
        held = getattr(operator, weight) if sparse is None else sparse.data
        size = int(np.frexp(np.abs(held).max(initial=0.0))[1])
        after = shift + (size if abs(size) > MODERATE else 0)
        if not (shift or after):
            return operator, 0
        scaled: Any = _scaled(held, shift - after)
        if sparse is not None:
            scaled = sp.csr_array((scaled, sparse.indices, sparse.indptr), shape=sparse.shape)
        changes: Mapping[str, Any] = {weight: scaled, constant: _scaled(getattr(operator, constant), -after)}
        return replace(operator, **changes), after
    if shift and isinstance(operator, AffineOperator) and operator.constant() is not None:
        raise _Inexact
    if shift and isinstance(operator, PiecewiseLinear) and not operator.is_relu:
        breaks, intercepts = (
            tuple(_scaled(np.array(v), -shift).tolist()) for v in (operator.breaks, operator.intercepts)
        )
        return replace(operator, breaks=breaks, intercepts=intercepts), shift
    assert isinstance(operator, AffineOperator | PiecewiseLinear | MaxPool)
    return operator, shift


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
        scaled = sp.csr_array((_scaled(rows.data, exponents), rows.indices, rows.indptr), shape=rows.shape)
        matrices[name] = scaled if sp.issparse(getattr(part, name)) else scaled.toarray()
    exact = {k: _row(row, shift, -int(sizes[k])) for k, row in part.exact.items()}
    return Conjunction(bound=_scaled(part.bound, -sizes), strict=part.strict, exact=exact, **matrices)


def _row(row: ExactRow, shift: int, own: int) -> ExactRow:
    factor = Fraction(2) ** shift
    y, g = ({k: a * factor for k, a in m.items()} for m in (row.y, row.g))
    return ExactRow(row.x, y, g, row.bound, row.inner).times(Fraction(2) ** own)


def _scaled(values: Array | float, exponents: Any) -> Array:
    """``values · 2^exponents``.

    Raises:
        _Inexact: if that rounds.
    """
    with np.errstate(over="ignore", under="ignore"):
        found = np.ldexp(values, exponents)
        if not (np.ldexp(found, -np.asarray(exponents)) == values).all():
            raise _Inexact
    return np.asarray(found)
