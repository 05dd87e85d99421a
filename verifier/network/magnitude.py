"""How large the values of a network can become: a quick and crude bound."""

from __future__ import annotations

import numpy as np

from verifier.network.graph import Network
from verifier.network.operators import AffineOperator, Array
from verifier.network.piecewise import MaxPool, PiecewiseLinear

RESERVE = 1 + 1e-6
"""Each step is raised by this factor: far more than the rounding errors of sums of non-negative terms."""


def largest_values(network: Network, inputs: Array) -> Array:
    """Upper bounds of the absolute values of all outputs, ``(m,)``; infinite where they overflow.

    Args:
        inputs: ``(n,)`` the largest absolute value of every input.

    Source:
        interval bound propagation: Gowal et al., ICCV 2019, of absolute values.
    """
    values = {network.input: np.asarray(inputs, dtype=np.float64).reshape(1, *network.input_shape)}
    with np.errstate(over="ignore", invalid="ignore"):
        for node in network.nodes[1:]:
            operator, found = node.operator, [values[name] for name in node.inputs]
            if isinstance(operator, AffineOperator):
                shapes, constant = [network[name].shape for name in node.inputs], operator.constant()
                flat = sum(abs(m) @ v.reshape(-1) for m, v in zip(operator.matrices(*shapes), found, strict=True))
                value = np.asarray(flat).reshape(1, *node.shape)
                if constant is not None:
                    value = value + np.abs(constant)
            elif isinstance(operator, MaxPool):
                value = operator.forward(found[0])
            else:
                assert isinstance(operator, PiecewiseLinear)
                value = np.abs(operator.slopes).max() * found[0] + np.abs(operator.intercepts).max(initial=0.0)
            values[node.name] = np.asarray(value * RESERVE + np.finfo(np.float64).tiny)
    result = values[network.output].reshape(-1)
    return np.where(np.isnan(result), np.inf, result)
