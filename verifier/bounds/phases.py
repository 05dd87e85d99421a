"""Phases: which slopes, and which winners of a window, bounds on the preactivations leave possible.

The gradient of an output is a product of fixed matrices and of phases; bounds on it, branching over it and its
encodings all start from the phases that are still possible.
"""

from __future__ import annotations

from collections.abc import Mapping

from verifier.bounds.relaxation import Slopes, Winners
from verifier.bounds.relaxations import relaxation
from verifier.network.graph import Network
from verifier.network.operators import Array

Pair = tuple[Array, Array]
"""Lower and upper ends, each ``(batch, *shape)``."""
Phases = Mapping[str, Slopes | Winners]
"""By the name of the activation's node."""


def phases(network: Network, values: Mapping[str, Pair]) -> dict[str, Slopes | Winners]:
    """The phases that bounds on the preactivations leave possible, as a closed superset.

    Where a preactivation can be exactly on a breakpoint, both neighbouring slopes count as possible; entries
    of a window that tie count as possible winners. To fix a phase (branching), replace its entry.

    Args:
        values: bounds on every node that goes into an activation, ``(batch, *shape)`` each.

    Source:
        the Clarke subdifferential's vertices (Clarke, 1983): what a gradient may be at a kink.
    """
    result: dict[str, Slopes | Winners] = {}
    for node in network.activations:
        low, high = values[node.inputs[0]]
        batch, shape = len(low), low.shape[1:]
        flat = (end.reshape(batch, -1) for end in (low, high))
        found = relaxation(node.operator).derivatives(node.operator, shape, *flat)
        if isinstance(found, Slopes):
            found = Slopes(found.smallest.reshape(batch, *shape), found.largest.reshape(batch, *shape))
        result[node.name] = found
    return result
