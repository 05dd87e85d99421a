"""Phases: which slopes, and which winners of a window, bounds on the preactivations leave possible.

The gradient of an output is a product of fixed matrices and of phases; bounds on it, branching over it and its
encodings all start from the phases that are still possible.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.network.piecewise import MaxPool, PiecewiseLinear

Pair = tuple[Array, Array]
"""Lower and upper ends, each ``(batch, *shape)``."""


@dataclass(frozen=True, eq=False)
class Slopes:
    """The slopes an elementwise operator can have: any in ``[smallest, largest]``, unit by unit.

    Attributes:
        smallest, largest: ``(batch, *shape)``.
    """

    smallest: Array
    largest: Array

    @property
    def fixed(self) -> npt.NDArray[np.bool_]:
        """Units with one slope left, ``(batch, *shape)``."""
        return np.asarray(self.smallest == self.largest)


@dataclass(frozen=True, eq=False)
class Winners:
    """The entries of each pooling window that can be its maximum.

    Attributes:
        windows: flat input indices ``(outputs, k)``; -1 in the padding.
        possible: ``(batch, outputs, k)``; at least one per window.
    """

    windows: npt.NDArray[np.int64]
    possible: npt.NDArray[np.bool_]

    @property
    def fixed(self) -> npt.NDArray[np.bool_]:
        """Windows with one possible winner, ``(batch, outputs)``."""
        return np.asarray(self.possible.sum(axis=-1) == 1)

    @property
    def overlaps(self) -> int:
        """The largest number of windows that share an entry."""
        return int(np.bincount(self.windows[self.windows >= 0]).max(initial=1))


Phases = Mapping[str, Slopes | Winners]
"""By the name of the piecewise-linear node."""


def phases(network: Network, values: Mapping[str, Pair]) -> dict[str, Slopes | Winners]:
    """The phases that bounds on the preactivations leave possible, as a closed superset.

    Where a preactivation can be exactly on a breakpoint, both neighbouring slopes count as possible; entries
    of a window that tie count as possible winners. To fix a phase (branching), replace its entry.

    Args:
        values: bounds on every node that goes into a piecewise-linear operator, ``(batch, *shape)`` each.
    """
    result: dict[str, Slopes | Winners] = {}
    for node in network.activations:
        lower, upper = values[node.inputs[0]]
        if isinstance(node.operator, MaxPool):
            result[node.name] = winners(node.operator, lower, upper)
        elif isinstance(node.operator, PiecewiseLinear):
            result[node.name] = slopes(node.operator, lower, upper)
    return result


def slopes(operator: PiecewiseLinear, lower: Array, upper: Array) -> Slopes:
    """Smallest and largest slope of the pieces that ``[lower, upper]`` touches, breakpoints included."""
    smallest, largest = np.full(lower.shape, np.inf), np.full(lower.shape, -np.inf)
    ends = (-np.inf, *operator.breaks, np.inf)
    pieces = [(slope, ends[k], ends[k + 1]) for k, slope in enumerate(operator.slopes)]
    pieces += [(slope, b, b) for slope, b in zip(operator.at_breaks, operator.breaks, strict=True)]
    for slope, left, right in pieces:
        touched = (lower <= right) & (upper >= left)
        np.minimum(smallest, slope, out=smallest, where=touched)
        np.maximum(largest, slope, out=largest, where=touched)
    return Slopes(smallest, largest)


def winners(operator: MaxPool, lower: Array, upper: Array) -> Winners:
    """Which entries of each window can be its maximum, ties included.

    Args:
        lower, upper: bounds on the operator's input, ``(batch, channels, H, W)``.
    """
    windows = operator.windows(lower.shape[1:])
    outside = windows < 0
    low = np.where(outside, -np.inf, lower.reshape(len(lower), -1)[:, windows])
    high = np.where(outside, -np.inf, upper.reshape(len(upper), -1)[:, windows])
    return Winners(windows, (high >= low.max(axis=-1, keepdims=True)) & ~outside)
