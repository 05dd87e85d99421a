"""A network with weights of about 1, whose values are those of another times powers of two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from verifier.lazy import sp
from verifier.network.convolution import Conv
from verifier.network.graph import Network
from verifier.network.operators import AffineOperator, Array, Dense, Operator, Scale
from verifier.network.piecewise import MaxPool, PiecewiseLinear
from verifier.network.reduction import Reduced, Reduction

MODERATE = 12
"""Weights whose largest is between 2^-12 and 2^12 are left as they are."""


class InexactScaling(ArithmeticError):
    """A number leaves the range of float64, or values of different scales meet."""


@dataclass(frozen=True)
class BalanceWeights(Reduction):
    """``value' = 2^-k · value``, one k for each node: nothing is rounded, and linear regions stay what they are.

    The output's k is `Reduced.exponent`. A network that cannot be scaled exactly is left as it is.
    """

    def accepts(self, network: Network) -> bool:
        return any(_exponent(n.operator) for n in network.nodes)

    def apply(self, network: Network) -> Reduced:
        shifts = {network.input: 0}
        operators: dict[str, Operator] = {}
        try:
            for node in network.nodes[1:]:
                before = {shifts[name] for name in node.inputs}
                if len(before) > 1:
                    raise InexactScaling
                operators[node.name], shifts[node.name] = _scaled_operator(node.operator, before.pop())
        except InexactScaling:
            return Reduced.unchanged(network)
        nodes = tuple(replace(node, operator=operators.get(node.name, node.operator)) for node in network.nodes)
        same = replace(network, nodes=nodes, model_file="")
        return replace(Reduced.unchanged(same), original=network, exponent=shifts[network.output])


def _numbers(operator: Dense | Conv | Scale) -> Array:
    """The coefficients of the linear part; those of a sparse weight that are not zero."""
    if isinstance(operator, Dense) and operator.sparse_weight is not None:
        return np.asarray(operator.sparse_weight.data)
    return operator.scale if isinstance(operator, Scale) else operator.weight


def _exponent(operator: Operator) -> int:
    """That of an operator's largest coefficient, if it is to be scaled, else 0."""
    if not isinstance(operator, Dense | Conv | Scale):
        return 0
    size = int(np.frexp(np.abs(_numbers(operator)).max(initial=0.0))[1])
    return size if abs(size) > MODERATE else 0


def _scaled_operator(operator: Operator, shift: int) -> tuple[Operator, int]:
    """The operator on an input that is ``2^-shift`` times what it was, and the exponent of its output."""
    if isinstance(operator, Dense | Conv | Scale):
        after = shift + _exponent(operator)
        if not (shift or after):
            return operator, 0
        weight, constant = ("scale", "shift") if isinstance(operator, Scale) else ("weight", "bias")
        sparse = operator.sparse_weight if isinstance(operator, Dense) else None
        numbers: Any = scaled(_numbers(operator), shift - after)
        if sparse is not None:
            numbers = sp.csr_array((numbers, sparse.indices, sparse.indptr), shape=sparse.shape)
        changes: Mapping[str, Any] = {weight: numbers, constant: scaled(getattr(operator, constant), -after)}
        return replace(operator, **changes), after
    if shift and isinstance(operator, AffineOperator) and operator.constant() is not None:
        raise InexactScaling
    if shift and isinstance(operator, PiecewiseLinear) and not operator.is_relu:
        breaks, intercepts = (
            tuple(scaled(np.array(v), -shift).tolist()) for v in (operator.breaks, operator.intercepts)
        )
        return replace(operator, breaks=breaks, intercepts=intercepts), shift
    assert isinstance(operator, AffineOperator | PiecewiseLinear | MaxPool)
    return operator, shift


def scaled(values: Array | float, exponents: Any) -> Array:
    """``values · 2^exponents``.

    Shapes: values, exponents ``(…)``, shapes that numpy broadcasts.

    Raises:
        InexactScaling: if that rounds.
    """
    with np.errstate(over="ignore", under="ignore"):
        found = np.ldexp(values, exponents)
        if not (np.ldexp(found, -np.asarray(exponents)) == values).all():
            raise InexactScaling
    return np.asarray(found)
