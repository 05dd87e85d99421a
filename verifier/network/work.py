"""How much work a node is."""

from __future__ import annotations

from math import prod

from verifier.network.convolution import Conv
from verifier.network.graph import Node
from verifier.network.operators import Dense


def multiplications(node: Node) -> int:
    """How many multiplications a node's value takes."""
    match node.operator:
        case Dense():
            return prod(node.operator.weight_shape) * (node.size // max(1, node.shape[-1]))
        case Conv():
            return int(prod(node.operator.weight.shape[1:])) * node.size
    return node.size
