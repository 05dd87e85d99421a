"""Batches of boxes examined with linear bounds: what input splitting asks of them, and what they share.

`dense_bounds` has CROWN compiled for dense feed-forward networks, `graph_bounds` CROWN for all others, and forward bounds. All
have the same interface (`BoxBounds`): bound the boxes, refute disjuncts, cut the boxes in place and choose how to split them.
With CROWN the preactivations of all neurons are kept in one row per box; they are tightened in place and handed on to the
box's children.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from verifier.bounds.crown import Crown, Relaxation
from verifier.bounds.crown_backward import Rows
from verifier.bounds.relaxations import relaxation
from verifier.engines.native.rows import (
    Certificates,
    Integers,
    Results,
    examine_rows,
)
from verifier.errors import InputError
from verifier.limits import thread_pool
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.network.piecewise import PiecewiseLinear
from verifier.properties.rows import Conditions
from verifier.rounding import LARGEST, TINY

Block = dict[str, Any]
"""Boxes with all that belongs to them, arrays with one row per box: ``low, high (B, n)``; ``pre_low, pre_high (B,
neurons)``; ``neurons, phases (B, H)``, ``space_count (B,)`` the ReLUs that were split on the way and their signs, and
``spaces (B, H, n + 1)`` the half-spaces that these leave; ``open (B, disjuncts)``; and for a proof
``node (B,)``, the box's number, and ``region (B,)``, what is known of its parent."""


class BoxBounds(Protocol):
    """What `verifier.engines.native.input_split` asks of bounds.

    Attributes:
        root: the root's preactivation bounds.
        relu_numbers: of the neurons that it may choose, among all ReLUs of the network.
        columns: where the preactivations of each activation node are in ``pre_low`` and ``pre_high``; None if they
            are not kept.
    """

    root: tuple[Array, Array]
    relu_numbers: Integers
    columns: ActivationColumns | None

    def examine(self, block: Block, free: Integers, widths: Array) -> Results:
        """Bound, refute and cut the boxes of a block, and choose how to split what stays open.

        Shapes: free, widths ``(inputs that vary,)``.

        Args:
            block: changed in place: ``low``, ``high``, ``pre_low``, ``pre_high``, ``open``, ``spaces``.
            free: the inputs that vary.
            widths: their widths in the root box.
        """


class CertifiedBounds(BoxBounds, Protocol):
    """Bounds that also say why a disjunct is refuted."""

    def certified(self, block: Block, free: Integers, widths: Array) -> tuple[Results, Certificates]:
        """`examine`, and why disjuncts were refuted.

        Shapes: free, widths ``(inputs that vary,)``.
        """


class ActivationColumns:
    """Which columns of ``pre_low`` and ``pre_high`` belong to which activation node.

    Args:
        columns: by the name of the activation node.
    """

    def __init__(self, network: Network, columns: Mapping[str, slice]) -> None:
        self._columns = [(node, columns[node.name]) for node in network.activations]
        self._shapes = {node.name: network[node.inputs[0]].shape for node in network.activations}

    @property
    def relus(self) -> list[tuple[str, slice]]:
        """The ReLUs' nodes and their columns."""
        return [
            (n.name, part)
            for n, part in self._columns
            if isinstance(n.operator, PiecewiseLinear) and n.operator.is_relu
        ]

    def undecided(self, pre_low: Array, pre_high: Array) -> Integers:
        """How many phases of neurons are open on each box: breakpoints inside, or entries that can be a maximum, less one.

        Shapes: pre_low, pre_high ``(boxes, neurons)``.
        """
        total = np.zeros(len(pre_low), dtype=np.int64)
        for node, part in self._columns:
            shape = self._shapes[node.name]
            total += relaxation(node.operator).choices(node.operator, shape, pre_low[:, part], pre_high[:, part])
        return total


def row_errors(crown: Crown, conditions: Conditions) -> Array:
    """Rounding slack of the rows of a condition, ``(S,)``, their combination with the last layer included.

    The same convex combination of them is slack for a combination of up to some dozen rows.

    Raises:
        InputError: if the coefficients of the rows are so large that sums could overflow.

    Source:
        Higham, Accuracy and Stability of Numerical Algorithms, 2002, Section 3.1.
    """
    network, r = crown.network, crown.rounding
    y, x, shift = np.abs(conditions.y_rows), np.abs(conditions.x_rows), np.abs(conditions.bound)
    if not (y @ r.reach[network.output] + x @ r.reach[network.input] + shift < LARGEST).all():
        raise InputError("the numbers of the condition are too large for bounds in float64")
    size = y @ r.magnitudes[network.output] + x @ r.magnitudes[network.input] + shift
    errors: Array = 2 * (y @ r.errors[network.output]) + 4 * r.gamma * size + TINY
    return errors


def conclude(
    block: Block,
    slopes: Array,
    constants: Array,
    conditions: Conditions,
    network: Network,
    free: Integers,
    widths: Array,
    turns: int,
) -> Results:
    """What follows from functions below the rows, ``slopes (B, S, n)`` and ``constants (B, S)``."""
    disjunct_of = conditions.disjunct_of.astype(np.int64)
    results = examine_rows(
        block["low"], block["high"], block["open"], slopes, constants, disjunct_of, free, widths, turns
    )
    near = np.flatnonzero(block["open"].any(axis=1))
    if len(near):
        x = results.point[near]
        results.margin[near] = conditions.margins(x, network.forward(x).reshape(len(x), -1))
    return results


def in_parts(work: Callable[[slice], None], boxes: int, step: int, threads: int) -> None:
    """Work on parts of so many boxes, by several threads if there are several parts."""
    parts = [slice(k, k + step) for k in range(0, boxes, step)]
    if threads == 1 or len(parts) == 1:
        for part in parts:
            work(part)
        return
    with thread_pool(threads) as pool:
        list(pool.map(work, parts))


def rows_back(
    crown: Crown,
    conditions: Conditions,
    relaxed: Relaxation,
    ends: tuple[Array, Array],
    box_of: Integers,
    row_of: Integers,
    *,
    keep: bool = False,
    running: bool = False,
) -> Rows:
    """Conditions' rows, each on its own box, taken back to the input: see `Crown.lower`.

    Shapes: ends ``(B, n)`` of the boxes; box_of, row_of ``(P,)``.
    """
    return crown.lower(
        crown.network.output,
        conditions.y_rows[row_of],
        box_of,
        relaxed.relaxations,
        *ends,
        multipliers={crown.network.input: conditions.x_rows[row_of]} if conditions.x_rows.any() else None,
        keep=keep,
        running=running,
    )
