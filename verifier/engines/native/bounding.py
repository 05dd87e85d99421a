"""Bounds on the rows of a condition for batches of boxes: compiled for dense chains, general otherwise.

Both kinds have the same interface: ``bound(block, wanted) -> Found``. The preactivations
of all units are kept in one row per box; they are tightened in place and handed on to the box's children.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.bounds.crown import LARGEST, Crown
from verifier.engines.native.conditions import Conditions
from verifier.errors import InputError
from verifier.network.graph import Network, Node
from verifier.network.operators import Array, Dense, Reshape
from verifier.network.piecewise import PiecewiseLinear

Block = dict[str, Any]
"""Boxes with all that belongs to them, arrays with one row per box: ``low, high (B, n)``; ``pre_low, pre_high (B,
units)``; ``units, phases (B, H)``, ``space_count (B,)`` the ReLUs that were split on the way and their signs, and
``spaces (B, H, n + 1)`` the half-spaces that these leave; ``open (B, cases)``; ``bound (B,)``; ``parent (B,)``."""


@dataclass(frozen=True, eq=False)
class Found:
    """Bounds for B boxes and S rows.

    Attributes:
        lower, slopes: ``(B, S)``, ``(B, S, n)``: proved lower bounds and the linear functions that gave them.
        empty: ``(B,)``: no point is left in the box.
        unit: ``(B,)`` the best unit to split, -1 for none.
    """

    lower: Array
    slopes: Array
    empty: npt.NDArray[np.bool_]
    unit: npt.NDArray[np.int64]


def row_errors(crown: Crown, conditions: Conditions) -> Array:
    """Rounding slack of the rows of a condition, ``(S,)``, their combination with the last layer included.

    Raises:
        InputError: if the coefficients of the rows are so large that sums could overflow.
    """
    network = crown.network
    y, x = np.abs(conditions.y_rows), np.abs(conditions.x_rows)
    if not (
        y @ crown.reach[network.output] + x @ crown.reach[network.input] + np.abs(conditions.bound) < LARGEST
    ).all():
        raise InputError("the numbers of the condition are too large for bounds in float64")
    size = y @ crown.magnitudes[network.output] + x @ crown.magnitudes[network.input] + np.abs(conditions.bound)
    errors: Array = 2 * (y @ crown.errors[network.output]) + 4 * crown.gamma * size
    return errors


def dense_chain(network: Network) -> list[tuple[Node, bool]] | None:
    """The dense layers of a plain chain and whether a ReLU follows each; None if the network is not one.

    The last layer is followed by none; large sparse layers are left to the general kernel.
    """
    layers: list[tuple[Node, bool]] = []
    previous = network.input
    for node in network.nodes[1:]:
        operator = node.operator
        if node.inputs != (previous,):
            return None
        previous = node.name
        if isinstance(operator, Reshape):
            continue
        if isinstance(operator, Dense) and len(node.shape) == 1 and operator.sparse_weight is None:
            layers.append((node, False))
        elif isinstance(operator, PiecewiseLinear) and operator.is_relu and layers and not layers[-1][1]:
            layers[-1] = (layers[-1][0], True)
        else:
            return None
    if len(layers) < 2 or layers[-1][1] or not layers[0][1] or network.output != previous:
        return None
    return layers


class ChainBounds:
    """Dense chains, by `verifier.bounds.crown_dense`."""

    def __init__(self, crown: Crown, conditions: Conditions, layers: list[tuple[Node, bool]], threads: int) -> None:
        hidden, last = [node for node, _ in layers[:-1]], layers[-1][0].operator
        assert isinstance(last, Dense)
        operators = [node.operator for node in hidden]
        dense = [o for o in operators if isinstance(o, Dense)]
        sizes = np.array([0] + [node.size for node in hidden])
        self._threads = threads
        self._layers = (
            np.concatenate([o.weight.reshape(-1) for o in dense]),
            np.cumsum(np.array([0] + [o.weight.size for o in dense])),
            np.concatenate([o.bias for o in dense]),
            np.cumsum(sizes),
            np.array([relu for _, relu in layers[:-1]]),
            np.concatenate([crown.errors[node.name] for node in hidden]),
            np.concatenate([4 * crown.gamma * crown.sizes[node.name] for node in hidden]),
            row_errors(crown, conditions),
        )
        self._rows = (
            np.ascontiguousarray(conditions.y_rows @ last.weight),
            conditions.y_rows @ last.bias - conditions.bound,
            np.ascontiguousarray(conditions.x_rows),
        )
        ends = []
        for end, free in ((0, -np.inf), (1, np.inf)):
            known = [
                crown.root_bounds[n.name][end][0] if n.name in crown.root_bounds else np.full(n.size, free)
                for n in hidden
            ]
            ends.append(np.concatenate(known)[None])
        self.root: tuple[Array, Array] = (ends[0], ends[1])

    def bound(self, block: Block, wanted: npt.NDArray[np.bool_]) -> Found:
        """See the module; the boxes are shared among the threads."""
        from verifier.bounds.crown_dense import bound_boxes

        low, high = block["low"], block["high"]
        boxes, n = low.shape
        found = Found(
            np.full(wanted.shape, -np.inf),
            np.zeros((*wanted.shape, n)),
            np.zeros(boxes, dtype=bool),
            np.full(boxes, -1, dtype=np.int64),
        )

        def part(which: slice) -> None:
            bound_boxes(
                low[which],
                high[which],
                block["pre_low"][which],
                block["pre_high"][which],
                *self._rows,
                wanted[which],
                *self._layers,
                found.lower[which],
                found.slopes[which],
                found.empty[which],
                found.unit[which],
                block["units"][which],
                block["phases"][which],
                block["space_count"][which],
                block["spaces"][which],
            )

        if self._threads == 1 or boxes < 16:
            part(slice(0, boxes))
        else:
            step = max(8, -(-boxes // (4 * self._threads)))
            with ThreadPoolExecutor(self._threads) as pool:
                list(pool.map(part, [slice(k, k + step) for k in range(0, boxes, step)]))
        return found


class GraphBounds:
    """Any network, by `verifier.bounds.crown`; chooses no units."""

    def __init__(self, crown: Crown, conditions: Conditions) -> None:
        self._crown, self._conditions = crown, conditions
        self._names = crown.preactivations
        sizes = [crown.network[name].size for name in self._names]
        ends = np.cumsum([0, *sizes])
        self._parts = {name: slice(ends[k], ends[k + 1]) for k, name in enumerate(self._names)}
        known = [crown.root_bounds[name] for name in self._names]
        empty = np.zeros((1, 0))
        self.root = (np.hstack([k[0] for k in known] or [empty]), np.hstack([k[1] for k in known] or [empty]))
        self._errors = row_errors(crown, conditions)

    def bound(self, block: Block, wanted: npt.NDArray[np.bool_]) -> Found:
        """See the module."""
        low, high, pre_low, pre_high = (block[k] for k in ("low", "high", "pre_low", "pre_high"))
        boxes, n = low.shape
        conditions, crown = self._conditions, self._crown
        parents = {name: (pre_low[:, part], pre_high[:, part]) for name, part in self._parts.items()}
        relaxation = crown.relax(low, high, parents=parents)
        for name, part in self._parts.items():
            pre_low[:, part], pre_high[:, part] = relaxation.intervals[name]
        box_of, row_of = np.nonzero(wanted & ~relaxation.empty[:, None])
        lower, slopes = np.full(wanted.shape, -np.inf), np.zeros((*wanted.shape, n))
        if len(box_of):
            rows = crown.lower(
                crown.network.output,
                conditions.y_rows[row_of],
                box_of,
                relaxation.lines,
                low,
                high,
                multipliers={crown.network.input: conditions.x_rows[row_of]} if conditions.x_rows.any() else None,
            )
            lower[box_of, row_of] = rows.lower - conditions.bound[row_of] - self._errors[row_of]
            slopes[box_of, row_of] = rows.slopes
        unit = np.full(boxes, -1, dtype=np.int64)
        return Found(lower, slopes, relaxation.empty, unit)
