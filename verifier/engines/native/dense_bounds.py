"""Boxes of dense feed-forward networks, bounded by compiled CROWN, the first of them in numpy."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np

from verifier.bounds.crown import Crown
from verifier.engines.native.bounding import ActivationColumns, Block, BoxBounds, in_parts, row_errors
from verifier.engines.native.graph_bounds import GraphBounds
from verifier.engines.native.rows import (
    Certificates,
    Integers,
    Results,
    new_results,
    results_of,
)
from verifier.engines.native.settings import CutSettings
from verifier.network.graph import Network, Node
from verifier.network.operators import Array, Dense, Reshape
from verifier.network.piecewise import PiecewiseLinear
from verifier.properties.rows import Conditions


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
        cuts: what may be spent on a box.

    Source:
        CROWN: Zhang et al., NeurIPS 2018, Theorem 3.2; cutting planes: Kelley, 1960.
    """

    def __init__(
        self,
        crown: Crown,
        conditions: Conditions,
        layers: list[tuple[Node, bool]],
        threads: int,
        reserve: float = 1.0,
        cuts: CutSettings = CutSettings(),
    ) -> None:
        from verifier.bounds.crown_dense import FeedForward
        from verifier.engines.native.decide import DisjunctRows

        hidden, last = [node for node, _ in layers[:-1]], layers[-1][0].operator
        assert isinstance(last, Dense)
        operators, rounding = [node.operator for node in hidden], crown.rounding
        dense = [o for o in operators if isinstance(o, Dense)]
        sizes = np.array([0] + [node.size for node in hidden])
        self._threads, self._cuts = threads, cuts
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
        from verifier.engines.native.decide import Splits, examine_dense

        boxes = len(block["low"])
        results = new_results(*block["low"].shape)
        total, neurons = len(self._rows.disjunct_of), self.network.biases.size
        kept = Certificates.workspace_of(boxes if keep else 0, self._disjuncts, total, self._cuts.functions, neurons)

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
                self._cuts,
            )

        step = boxes if self._threads == 1 or boxes < 16 else max(8, -(-boxes // (4 * self._threads)))
        in_parts(part, boxes, step, self._threads)
        return results, kept


class StagedBounds:
    """Dense feed-forward networks, in numpy for the first boxes: many questions end before the compiled code would be loaded."""

    def __init__(
        self,
        crown: Crown,
        conditions: Conditions,
        layers: list[tuple[Node, bool]],
        threads: int,
        boxes: int,
        cuts: CutSettings = CutSettings(),
    ) -> None:
        self._bounds: BoxBounds = GraphBounds(crown, conditions, threads, cuts=cuts)
        self._compiled = partial(DenseBounds, crown, conditions, layers, threads, cuts=cuts)
        self._left = boxes
        self.root, self.relu_numbers, self.columns = self._bounds.root, self._bounds.relu_numbers, self._bounds.columns

    def examine(self, block: Block, free: Integers, widths: Array) -> Results:
        """See `BoxBounds`."""
        if isinstance(self._bounds, GraphBounds) and self._left <= 0:
            self._bounds = self._compiled()
        self._left -= len(block["low"])
        return self._bounds.examine(block, free, widths)
