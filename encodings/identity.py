"""Euler's identity as a redundant row: it ties the forward pass to the backward pass.

A network is affine on each linear region, so with g the gradient of ``o = c · y`` with respect to the input x, and g_n
with respect to the value of an affine node n with constant b_n,

    c · y = g · x + Σ_n g_n · b_n

(neurons without intercept assumed). Around a point x0, ``g · x = g · x0 + m · (x - x0) + (g - m) · (x - x0)``, and with m
the middle of the gradient's bounds the last product is at most radius times reach. The row follows from the encoding,
but not from its linear relaxation.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy.sparse as sp

from verifier.bounds.bound import Bound
from verifier.encodings.model import Expressions, Indices
from verifier.encodings.network import ForwardPass
from verifier.network.operators import AffineOperator, Array
from verifier.network.piecewise import MaxPool, PiecewiseLinear
from verifier.rounding import UNIT_ROUNDOFF

ROUNDING = 4 * UNIT_ROUNDOFF
"""The row's ends move outwards by this share of the sum of its terms' magnitudes, once for each term: four roundings."""


def add_identity(
    forward: ForwardPass,
    backward: Mapping[str, Expressions],
    output: Array,
    y: Indices,
    gradient: Bound,
    relax: float = 0.0,
) -> None:
    """Add the row to the model; nothing where a neuron has an intercept.

    Args:
        backward: the gradient with respect to every node, see `encodings.gradient`.
        output: ``(m,)`` coefficients c.
        y: variables of the output.
        gradient: bounds on g at every solution that counts.
        relax: the row is widened by this much, for solvers with tolerances.

    Source:
        Euler's identity for positively homogeneous functions, with the biases as further inputs; as a row it
        is this package's own.
    """
    network, model, x = forward.network, forward.model, forward.x
    for node in network.activations:
        operator = node.operator
        if isinstance(operator, PiecewiseLinear) and any(operator.intercepts):
            return
        assert isinstance(operator, PiecewiseLinear | MaxPool)
    lower, upper = model.lower, model.upper
    x0, reach = (lower[x] + upper[x]) / 2, (upper[x] - lower[x]) / 2
    middle, radius = ((gradient.lower + gradient.upper) / 2).reshape(-1), (gradient.width / 2).reshape(-1)
    free = float(radius @ reach)
    if not np.isfinite(free):
        return
    g = backward[network.input]
    matrix = g.widened(model.size)
    row = -(x0 @ matrix)
    np.add.at(row, y, output)
    np.add.at(row, x, -middle)
    constant = float(x0 @ g.constant) - float(middle @ x0)
    size = float((np.abs(middle) + radius) @ (np.abs(x0) + reach) + np.abs(x0) @ np.abs(g.constant))
    terms = abs(matrix).T @ np.abs(x0)  # their sum may have cancelled in the row
    for node in network.nodes:
        constants = node.operator.constant() if isinstance(node.operator, AffineOperator) else None
        if constants is None:
            continue
        bias = np.broadcast_to(constants, node.shape).astype(np.float64).reshape(-1)
        own = backward[node.name]
        matrix = own.widened(model.size)
        row -= bias @ matrix
        constant += float(bias @ own.constant)
        size += float(np.abs(bias) @ np.abs(own.constant))
        terms += abs(matrix).T @ np.abs(bias)
    size += float((np.abs(row) + terms) @ np.maximum(np.abs(lower), np.abs(upper)))
    count = model.size + sum(node.size for node in network.nodes) + 8
    slack = free + ROUNDING * count * (size + free) + relax
    model.add_rows(sp.csr_array(row[None]), np.array([constant - slack]), np.array([constant + slack]))
