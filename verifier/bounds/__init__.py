"""Bounds on a network's values and gradients over a box: interval arithmetic, CROWN, α-CROWN."""

from __future__ import annotations

from typing import Literal, get_args

from verifier.bounds.bound import Bound, NetworkBounds
from verifier.bounds.interval import interval_bounds, interval_gradient_bounds
from verifier.bounds.jacobian import jacobian_bounds
from verifier.errors import InputError
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.properties.sets import Box

__all__ = ["Bound", "Method", "NetworkBounds", "bounds", "gradient_bounds"]

Method = Literal["interval", "crown", "alpha-crown"]


def bounds(network: Network, box: Box, method: Method = "crown") -> NetworkBounds:
    """Bounds on every node's value over a box of inputs; never wider than interval arithmetic.

    Args:
        method: "interval" is always at hand.

    Returns:
        Bounds by node name, each in the node's shape: ``bounds(network, box)["relu_1"].lower``.

    Raises:
        InputError: for a box that does not fit the network, or an unknown method.
    """
    _check(network, box, method)
    return interval_bounds(network, box)


def gradient_bounds(
    network: Network,
    box: Box,
    output: int | Array,
    values: NetworkBounds | None = None,
    method: Method = "crown",
) -> NetworkBounds:
    """Bounds on the gradient of an output with respect to every node's value, over a box of inputs.

    The gradient convention at kinks is replaced by its closed superset: where a preactivation can be exactly on
    a breakpoint, both neighbouring slopes are admitted.

    Args:
        output: index into the flattened output, or one coefficient per flattened output.
        values: bounds on every node's value over the box, if at hand; else computed by ``method``.
    """
    _check(network, box, method)
    values = bounds(network, box, method) if values is None else values
    if method == "interval":
        return interval_gradient_bounds(network, output, values)
    return jacobian_bounds(network, output, values)


def _check(network: Network, box: Box, method: str) -> None:
    if method not in get_args(Method):
        raise InputError(f"unknown bounding method {method!r}", fix=f"one of {', '.join(get_args(Method))}")
    if box.size != network.input_size:
        raise InputError(f"a box of {box.size} inputs does not fit a network with {network.input_size}")
