"""Tiles of large networks: bounds by the network over the ReLUs that are unstable on a tile.

Few parameters vary, so that on a tile most of a large network's ReLUs are known; what is left is a small network in the
parameters and the unstable ReLUs (`verifier.bounds.restriction`), on which backward bounds cost next to nothing. Its outputs
bound the label, and what it knows of the ReLUs says which gradients are possible.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

import numpy as np

from verifier.bounds.condensed import CondensedNetwork, Signs
from verifier.bounds.crown_slopes import NeuronBounder, initial_weights, prove
from verifier.bounds.relaxation import Slopes
from verifier.bounds.restriction import restrict
from verifier.errors import InputError, MemoryLimitError
from verifier.limits import Deadline
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.network.piecewise import PiecewiseLinear
from verifier.properties.sets import Box


def available() -> bool:
    """Whether large networks can be condensed: that takes torch."""
    return find_spec("torch") is not None


def condensed_on(network: Network, low: Array, high: Array, deadline: Deadline) -> CondensedNetwork | None:
    """The network on one tile ``(d,)``; None where its numbers, or the memory it takes, are too large.

    Raises:
        TimeLimitError: the time is up.
    """
    until = np.inf if deadline.at is None else deadline.at
    try:
        return restrict(network, Box(low, high), NeuronBounder(until=until), fold_active=True, deadline=deadline)
    except (InputError, MemoryLimitError):
        return None


def output_bounds(condensed: CondensedNetwork, outputs: int, dimension: int) -> tuple[Array, Array]:
    """Bounds on every output, ``(1, outputs)`` each, their rounding included."""
    both = np.vstack([np.eye(outputs), -np.eye(outputs)])
    rows = condensed.rows(both, np.zeros((2 * outputs, dimension)), np.zeros(2 * outputs))
    phases = np.repeat(condensed.phases[:, None], 2 * outputs, axis=1)
    found = prove(condensed, rows, initial_weights(condensed, 2 * outputs), phases)
    return found[None, :outputs], -found[None, outputs:]


def known_signs(condensed: CondensedNetwork) -> Mapping[str, Signs]:
    """By ReLU node what is known of its neurons: 1 where z > 0 on the tile, -1 where z <= 0, 0 where neither is."""
    return condensed.signs(condensed.phases)[1]


def slopes_of(network: Network, signs: Mapping[str, Signs], prefix: str) -> dict[str, Slopes] | None:
    """The possible slopes of a network's activations on a tile, a batch of one; None unless all are ReLUs that are known.

    Shapes: signs ``(size,)`` each.

    Args:
        signs: as of `known_signs`, for a network in which this one's nodes have names of their own with a prefix.
    """
    found = {}
    for node in network.activations:
        known = signs.get(prefix + node.name)
        if not (isinstance(node.operator, PiecewiseLinear) and node.operator.is_relu) or known is None:
            return None
        shaped = known.reshape(1, *node.shape)
        found[node.name] = Slopes((shaped > 0).astype(np.float64), (shaped >= 0).astype(np.float64))
    return found
