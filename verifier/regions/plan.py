"""What a walk through a network needs to know beforehand, and what it leaves behind: the plan and the levels."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from verifier.errors import UnsupportedOperatorError
from verifier.limits import NEVER, Deadline
from verifier.network.graph import Network, Node
from verifier.network.piecewise import MaxPool, PiecewiseLinear, PiecewiseOperator
from verifier.regions.cells import Bits, Index
from verifier.regions.rounding import Slack, slacks


@dataclass(frozen=True, eq=False)
class Level:
    """What one piecewise-linear node decides on every cell, right after the node has cut the cells.

    Attributes:
        node: the node's name.
        parents: ``(P',)`` the cell before the cut that each cell is part of; not decreasing.
        sides: elementwise nodes: ``(P', words)`` packed; bit ``k · n + j`` says that entry j is above break k.
        winners: MaxPool: ``(P', outputs)`` position of the maximum in its window; -1 for the zero of a fused ReLU.
    """

    node: str
    parents: Index
    sides: Bits | None = None
    winners: npt.NDArray[np.int16] | None = None


@dataclass(frozen=True, eq=False)
class Plan:
    """What the walk needs to know about a network, computed once.

    Attributes:
        slacks: each node's tolerance factors.
        last_use: for each node the index of the last node that reads it.
        fused: names of ReLU nodes that are computed by the MaxPool behind them.
    """

    slacks: dict[str, Slack]
    last_use: dict[str, int]
    fused: frozenset[str]


_plans: weakref.WeakKeyDictionary[Network, Plan] = weakref.WeakKeyDictionary()


def plan(network: Network, deadline: Deadline = NEVER) -> Plan:
    """The network's plan (kept as long as the network lives).

    Raises:
        UnsupportedOperatorError: an operator that cannot be restricted to a line or plane.
    """
    found = _plans.get(network)
    if found is None:
        for node in network.activations:
            if not isinstance(node.operator, (PiecewiseLinear, MaxPool)):
                raise UnsupportedOperatorError(
                    f"{type(node.operator).__name__} cannot be restricted to a line or plane",
                    place=f"node {node.name!r}",
                )
        last_use: dict[str, int] = {}
        readers: dict[str, list[Node]] = {n.name: [] for n in network.nodes}
        for k, node in enumerate(network.nodes):
            for name in node.inputs:
                last_use[name] = k
                readers[name].append(node)
        last_use[network.output] = len(network.nodes)
        fused = frozenset(
            n.name
            for n in network.activations
            if isinstance(n.operator, PiecewiseLinear)
            and n.operator.is_relu
            and n.name != network.output
            and len(readers[n.name]) == 1
            and isinstance(readers[n.name][0].operator, MaxPool)
        )
        found = _plans[network] = Plan(slacks(network, deadline), last_use, fused)
    return found


def is_piecewise(node: Node) -> bool:
    """Whether the node cuts cells."""
    return isinstance(node.operator, PiecewiseOperator)
