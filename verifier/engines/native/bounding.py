"""Batches of boxes examined with linear bounds: CROWN, compiled for dense feed-forward networks, general otherwise; or forward bounds.

All kinds have the same interface (`BoxBounds`): bound the boxes, refute disjuncts, cut the boxes in place and choose how
to split them. With CROWN the preactivations of all neurons are kept in one row per box; they are tightened in place and
handed on to the box's children.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from verifier.bounds.crown import Crown
from verifier.bounds.forward import Forward
from verifier.bounds.relaxations import relaxation
from verifier.engines.native.rows import (
    Certificates,
    Integers,
    Results,
    examine_rows,
    new_results,
    results_of,
)
from verifier.errors import InputError
from verifier.limits import thread_pool
from verifier.network.graph import Network, Node
from verifier.network.operators import Array, Dense, Reshape
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

        Args:
            block: changed in place: ``low``, ``high``, ``pre_low``, ``pre_high``, ``open``, ``spaces``.
            free: the inputs that vary.
            widths: their widths in the root box.
        """


class CertifiedBounds(BoxBounds, Protocol):
    """Bounds that also say why a disjunct is refuted."""

    def certified(self, block: Block, free: Integers, widths: Array) -> tuple[Results, Certificates]:
        """`examine`, and why disjuncts were refuted."""


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
        """How many phases of neurons are open on each box: breakpoints inside, or entries that can be a maximum, less one."""
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
    """
    network, r = crown.network, crown.rounding
    y, x, shift = np.abs(conditions.y_rows), np.abs(conditions.x_rows), np.abs(conditions.bound)
    if not (y @ r.reach[network.output] + x @ r.reach[network.input] + shift < LARGEST).all():
        raise InputError("the numbers of the condition are too large for bounds in float64")
    size = y @ r.magnitudes[network.output] + x @ r.magnitudes[network.input] + shift
    errors: Array = 2 * (y @ r.errors[network.output]) + 4 * r.gamma * size + TINY
    return errors


def dense_layers(network: Network) -> list[tuple[Node, bool]] | None:
    """The dense layers of a feed-forward network and whether a ReLU follows each; None if the network is not one.

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


class DenseBounds:
    """Dense feed-forward networks, compiled: `verifier.engines.native.decide.examine_dense`.

    Args:
        reserve: so many times the slack for rounding is kept free.
    """

    def __init__(
        self,
        crown: Crown,
        conditions: Conditions,
        layers: list[tuple[Node, bool]],
        threads: int,
        reserve: float = 1.0,
    ) -> None:
        from verifier.bounds.crown_dense import FeedForward
        from verifier.engines.native.decide import DisjunctRows

        hidden, last = [node for node, _ in layers[:-1]], layers[-1][0].operator
        assert isinstance(last, Dense)
        operators, rounding = [node.operator for node in hidden], crown.rounding
        dense = [o for o in operators if isinstance(o, Dense)]
        sizes = np.array([0] + [node.size for node in hidden])
        self._threads = threads
        self.network = FeedForward(
            flat=np.concatenate([o.weight.reshape(-1) for o in dense]),
            offsets=np.cumsum(np.array([0] + [o.weight.size for o in dense])),
            biases=np.concatenate([o.bias for o in dense]),
            starts=np.cumsum(sizes),
            is_relu=np.array([relu for _, relu in layers[:-1]]),
            errors=np.concatenate([rounding.errors[node.name] for node in hidden]),
            interval_errors=np.concatenate([4 * rounding.gamma * rounding.sizes[node.name] for node in hidden]),
        )
        self._rows = DisjunctRows(
            outputs=np.ascontiguousarray(conditions.y_rows @ last.weight),
            constants=conditions.y_rows @ last.bias - conditions.bound,
            x_rows=np.ascontiguousarray(conditions.x_rows),
            errors=reserve * row_errors(crown, conditions),
            disjunct_of=conditions.disjunct_of.astype(np.int64),
        )
        self._disjuncts = conditions.disjuncts
        ends = []
        for end, free in ((0, -np.inf), (1, np.inf)):
            known = [
                crown.root_bounds[n.name][end][0] if n.name in crown.root_bounds else np.full(n.size, free)
                for n in hidden
            ]
            ends.append(np.concatenate(known)[None])
        self.root: tuple[Array, Array] = (ends[0], ends[1])
        ends_of = [slice(int(a), int(b)) for a, b in pairwise(np.cumsum(sizes))]
        of_relus = [part for part, (_, relu) in zip(ends_of, layers[:-1], strict=True) if relu]
        names = [node.name for node in crown.network.activations]
        self.columns: ActivationColumns | None = ActivationColumns(
            crown.network, dict(zip(names, of_relus, strict=True))
        )
        on_relus = np.concatenate([np.full(n.size, relu) for n, relu in layers[:-1]])
        self.relu_numbers: Integers = np.cumsum(on_relus) - 1

    def examine(self, block: Block, free: Integers, widths: Array) -> Results:
        """See `BoxBounds`; the boxes are shared among the threads."""
        return self._examine(block, free, widths, False)[0]

    def certified(self, block: Block, free: Integers, widths: Array) -> tuple[Results, Certificates]:
        """See `CertifiedBounds`."""
        return self._examine(block, free, widths, True)

    def _examine(self, block: Block, free: Integers, widths: Array, keep: bool) -> tuple[Results, Certificates]:
        from verifier.engines.native.decide import ROUNDS, Splits, examine_dense

        boxes = len(block["low"])
        results = new_results(*block["low"].shape)
        total, neurons = len(self._rows.disjunct_of), self.network.biases.size
        kept = Certificates.workspace_of(boxes if keep else 0, self._disjuncts, total, ROUNDS, neurons)

        def part(which: slice) -> None:
            some = {name: value[which] for name, value in block.items()}
            examine_dense(
                some["low"],
                some["high"],
                some["pre_low"],
                some["pre_high"],
                some["open"],
                Splits(some["units"], some["phases"], some["space_count"], some["spaces"]),
                self.network,
                self._rows,
                free,
                widths,
                results_of(results, which),
                type(kept)(*(column[which] for column in kept)),
            )

        step = boxes if self._threads == 1 or boxes < 16 else max(8, -(-boxes // (4 * self._threads)))
        _in_parts(part, boxes, step, self._threads)
        return results, kept


class GraphBounds:
    """Any network, by `verifier.bounds.crown`; chooses no neurons.

    Args:
        reserve: so many times the slack for rounding is kept free.
    """

    def __init__(self, crown: Crown, conditions: Conditions, threads: int, reserve: float = 1.0) -> None:
        self._crown, self._conditions, self._threads = crown, conditions, threads
        self._names = crown.preactivations
        sizes = [crown.network[name].size for name in self._names]
        ends = np.cumsum([0, *sizes])
        self._parts = {name: slice(int(ends[k]), int(ends[k + 1])) for k, name in enumerate(self._names)}
        self.columns: ActivationColumns | None = ActivationColumns(
            crown.network, {node.name: self._parts[node.inputs[0]] for node in crown.network.activations}
        )
        known = [crown.root_bounds[name] for name in self._names]
        empty = np.zeros((1, 0))
        self.root = (np.hstack([k[0] for k in known] or [empty]), np.hstack([k[1] for k in known] or [empty]))
        self.relu_numbers: Integers = np.zeros(0, dtype=np.int64)
        self._errors = reserve * row_errors(crown, conditions)

    def examine(self, block: Block, free: Integers, widths: Array) -> Results:
        """See `BoxBounds`; the boxes are shared among the threads."""
        slopes, constants = self._all_rows(block)
        return _conclude(block, slopes, constants, self._conditions, self._crown.network, free, widths)

    def certified(self, block: Block, free: Integers, widths: Array) -> tuple[Results, Certificates]:
        """See `CertifiedBounds`: each disjunct by one of its rows, with default slopes."""
        conditions, before = self._conditions, block["open"].copy()
        slopes, constants = self._all_rows(block)
        kept = Certificates.workspace_of(len(before), conditions.disjuncts, len(conditions), 0, 0)
        kept.empty[:] = before.any(axis=1) & ~block["open"].any(axis=1)
        low, high, refuted = block["low"].copy(), block["high"].copy(), np.zeros_like(before)
        least = constants + (np.maximum(slopes, 0) * low[:, None] + np.minimum(slopes, 0) * high[:, None]).sum(axis=2)
        least -= 1e-12 * (np.abs(slopes) * np.maximum(np.abs(low), np.abs(high))[:, None]).sum(axis=2)
        for disjunct in range(conditions.disjuncts):
            members = conditions.members(disjunct)
            best = least[:, members].argmax(axis=1)
            refuted[:, disjunct] = before[:, disjunct] & (least[np.arange(len(least)), members[best]] > 0)
            kept.weights[np.flatnonzero(refuted[:, disjunct]), disjunct, best[refuted[:, disjunct]]] = 1.0
        found = _conclude(block, slopes, constants, conditions, self._crown.network, free, widths)
        lost = before & ~refuted & ~kept.empty[:, None] & ~block["open"]  # cut off, without a row that says so
        block["open"] |= lost
        undone = np.flatnonzero(lost.any(axis=1))
        block["low"][undone], block["high"][undone] = low[undone], high[undone]
        found.axis[undone] = ((high - low)[undone][:, free] / widths).argmax(axis=1)
        found.bound[undone] = np.minimum(found.bound[undone], 0.0)
        return found, kept

    def _all_rows(self, block: Block) -> tuple[Array, Array]:
        """`_rows` of all boxes, which are shared among the threads."""
        boxes, conditions = len(block["low"]), self._conditions
        slopes, constants = np.zeros((boxes, *conditions.x_rows.shape)), np.full((boxes, len(conditions)), -np.inf)

        def part(which: slice) -> None:
            some = {name: value[which] for name, value in block.items()}
            self._rows(some, slopes[which], constants[which])

        step = boxes if self._threads == 1 or boxes < 16 else -(-boxes // self._threads)
        _in_parts(part, boxes, step, self._threads)
        return slopes, constants

    def _rows(self, block: Block, slopes: Array, constants: Array) -> None:
        """Functions below the rows of the open disjuncts, written to ``slopes (B, S, n)`` and ``constants (B, S)``."""
        low, high, pre_low, pre_high = (block[k] for k in ("low", "high", "pre_low", "pre_high"))
        conditions, crown = self._conditions, self._crown
        parents = {name: (pre_low[:, part], pre_high[:, part]) for name, part in self._parts.items()}
        relaxation = crown.relax(low, high, parents=parents)
        for name, part in self._parts.items():
            pre_low[:, part], pre_high[:, part] = relaxation.intervals[name]
        block["open"][relaxation.empty] = False
        box_of, row_of = np.nonzero(block["open"][:, conditions.disjunct_of])
        if not len(box_of):
            return
        rows = crown.lower(
            crown.network.output,
            conditions.y_rows[row_of],
            box_of,
            relaxation.relaxations,
            low,
            high,
            multipliers={crown.network.input: conditions.x_rows[row_of]} if conditions.x_rows.any() else None,
        )
        slopes[box_of, row_of] = rows.slopes
        # these errors are more than twice what the rows' bounds had subtracted
        constants[box_of, row_of] = rows.constants - conditions.bound[row_of] - 2 * self._errors[row_of]


class StagedBounds:
    """Dense feed-forward networks, in numpy for the first boxes: many questions end before the compiled code would be loaded."""

    def __init__(
        self, crown: Crown, conditions: Conditions, layers: list[tuple[Node, bool]], threads: int, boxes: int
    ) -> None:
        self._bounds: BoxBounds = GraphBounds(crown, conditions, threads)
        self._compiled = partial(DenseBounds, crown, conditions, layers, threads)
        self._left = boxes
        self.root, self.relu_numbers, self.columns = self._bounds.root, self._bounds.relu_numbers, self._bounds.columns

    def examine(self, block: Block, free: Integers, widths: Array) -> Results:
        """See `BoxBounds`."""
        if isinstance(self._bounds, GraphBounds) and self._left <= 0:
            self._bounds = self._compiled()
        self._left -= len(block["low"])
        return self._bounds.examine(block, free, widths)


class ForwardBounds:
    """Networks with very many neurons and few inputs, by `verifier.bounds.forward`; chooses no neurons."""

    CHUNK = 1 << 20
    """Coefficients of the largest layer that are held at once."""

    def __init__(self, network: Network, conditions: Conditions, free: Integers, threads: int) -> None:
        self._forward, self._conditions, self._threads = Forward(network, free), conditions, threads
        self.root = (np.zeros((1, 0)), np.zeros((1, 0)))
        self.relu_numbers: Integers = np.zeros(0, dtype=np.int64)
        self.columns: ActivationColumns | None = None

    def examine(self, block: Block, free: Integers, widths: Array) -> Results:
        """See `BoxBounds`; the boxes are shared among the threads."""
        low, high = block["low"], block["high"]
        boxes, rows = len(low), len(self._conditions)
        slopes, constants = np.zeros((boxes, *self._conditions.x_rows.shape)), np.zeros((boxes, rows))

        def part(which: slice) -> None:
            slopes[which], constants[which] = self._rows(low[which], high[which])

        step = max(1, self.CHUNK // (self._forward.width * (len(free) + 1)))
        _in_parts(part, boxes, step, self._threads)
        network = self._forward.network
        return _conclude(block, slopes, constants, self._conditions, network, free, widths)

    def _rows(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Functions below the rows of the condition: ``(B, S, n)``, ``(B, S)``."""
        conditions, forward = self._conditions, self._forward
        symbolic, _ = forward.bounds(low, high)
        y, x = conditions.y_rows, conditions.x_rows
        middle, apart = (symbolic.lower + symbolic.upper) / 2, (symbolic.upper - symbolic.lower) / 2
        found = np.einsum("sm,mbk->bsk", y, middle) - np.einsum("sm,mbk->bsk", np.abs(y), apart)
        slopes = np.tile(x, (len(low), 1, 1))
        slopes[:, :, forward.free] += found[:, :, :-1]
        most = np.maximum(np.abs(low), np.abs(high)) @ np.abs(x).T + symbolic.size.T @ np.abs(y).T
        slack = 2 * forward.gamma * (most + np.abs(conditions.bound)) + TINY
        return slopes, found[:, :, -1] - conditions.bound - slack


def _conclude(
    block: Block,
    slopes: Array,
    constants: Array,
    conditions: Conditions,
    network: Network,
    free: Integers,
    widths: Array,
) -> Results:
    """What follows from functions below the rows, ``slopes (B, S, n)`` and ``constants (B, S)``."""
    disjunct_of = conditions.disjunct_of.astype(np.int64)
    results = examine_rows(block["low"], block["high"], block["open"], slopes, constants, disjunct_of, free, widths)
    near = np.flatnonzero(block["open"].any(axis=1))
    if len(near):
        x = results.point[near]
        results.margin[near] = conditions.margins(x, network.forward(x).reshape(len(x), -1))
    return results


def _in_parts(work: Callable[[slice], None], boxes: int, step: int, threads: int) -> None:
    """Work on parts of so many boxes, by several threads if there are several parts."""
    parts = [slice(k, k + step) for k in range(0, boxes, step)]
    if threads == 1 or len(parts) == 1:
        for part in parts:
            work(part)
        return
    with thread_pool(threads) as pool:
        list(pool.map(work, parts))
