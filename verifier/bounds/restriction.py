"""A network restricted to a box: the one door to `CondensedNetwork`, whatever the operators are.

A witness of what comes out is one of the network as it is, for the inputs stay what they are; what is found about a neuron
goes back through `Block.node` and `Block.neurons`, its ReLU node and its place there, and `CondensedNetwork.signs` says what is
known of all neurons of the network's own ReLUs. For proofs the network is written with ReLUs first (`TO_HINGES`).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from verifier.bounds.condensed import Block, Bounder, CondensedNetwork
from verifier.bounds.condensed_values import Matrix
from verifier.errors import InputError
from verifier.limits import NEVER, Deadline, MemoryBudget, poll
from verifier.network.affine import Affine, applied
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator
from verifier.network.piecewise import MaxPool, PiecewiseLinear
from verifier.network.reduction import reduce
from verifier.network.relu_reductions import TO_HINGES, FunctionsAsRelus, gaps
from verifier.properties.sets import Box
from verifier.rounding import LARGEST


def restrict(
    network: Network,
    box: Box,
    bounder: Bounder,
    *,
    fold_active: bool = False,
    memory: MemoryBudget | None = None,
    deadline: Deadline = NEVER,
    threads: int = 1,
) -> CondensedNetwork:
    """The network over the neurons that are unstable on a box.

    Args:
        bounder: bounds the neurons that intervals leave undecided.
        fold_active: fold active neurons into the matrices too, which become dense: for large networks of which few inputs
            vary. Else they stay as neurons that pass their value, and matrices stay as sparse as the operators are.
        memory, threads: of folding active neurons; its products are those of the operators themselves.

    Raises:
        InputError: if the network's numbers are too large for float64.
        MemoryLimitError, TimeLimitError: with the number, or the node, at which it stopped.
    """
    if not fold_active:
        return _Composer(network, box, bounder, deadline).run()
    from verifier.bounds.structured.condense import Condenser

    reduced = reduce(network, TO_HINGES)
    return Condenser(
        reduced.network, box, bounder, missed=gaps(reduced), memory=memory, deadline=deadline, threads=threads
    ).run()


class _Composer:
    """Composes the affine operators between ReLUs as sparse matrices."""

    def __init__(self, network: Network, box: Box, bounder: Bounder, deadline: Deadline) -> None:
        reduced = reduce(network, (FunctionsAsRelus(gradients=False),))
        self.network, self.missed, self.bounder, self.deadline = reduced.network, gaps(reduced), bounder, deadline
        self.condensed = CondensedNetwork.begun(box, sum(_terms(self.network, n) for n in self.network.nodes))

    def run(self) -> CondensedNetwork:
        """The whole network."""
        network = self.network
        values = {network.input: Affine.of_source(0, network.input_size)}
        readers = {node.name: sum(node.name in n.inputs for n in network.nodes) for node in network.nodes}
        # ReLUs that only a MaxPool reads; they come after it, for there they are fewer
        late = {n.name for n in network.activations if readers[n.name] == 1 and _is_relu(n)} - {network.output}
        late &= {n.inputs[0] for n in network.nodes if isinstance(n.operator, MaxPool)}
        for node in network.nodes[1:]:
            poll(f"while node {node.name!r} was written over its unstable ReLUs")
            self.deadline.check(f"while node {node.name!r} was written over its unstable ReLUs")
            inputs = [values[i] for i in node.inputs]
            values[node.name] = inputs[0] if node.name in late else self._value(node, inputs, late)
            for i in set(node.inputs):
                readers[i] -= 1
                if not readers[i]:
                    del values[i]
        self.condensed.output = values[network.output]
        return self.condensed

    def _value(self, node: Node, inputs: list[Affine], late: set[str]) -> Affine:
        if isinstance(node.operator, MaxPool):
            positive = node.inputs[0] in late
            winners = self._tournament(
                inputs[0], node.operator.windows(self.network[node.inputs[0]].shape), positive=positive
            )
            return self._relu(winners, "") if positive else winners
        value = (
            applied(self.network, node, inputs)
            if isinstance(node.operator, AffineOperator)
            else self._relu(inputs[0], node.name)
        )
        return value.off_by(self.missed[node.name], self.condensed.gamma) if node.name in self.missed else value

    def _tournament(self, entries: Affine, windows: npt.NDArray[np.int64], *, positive: bool) -> Affine:
        """The maxima over windows of entries; with ``positive`` they count only where they are above zero."""
        low, high = self.condensed.interval(entries)
        lows = np.where(windows >= 0, low[windows], -np.inf)
        highs = np.where(windows >= 0, high[windows], -np.inf)
        possible = (highs >= lows.max(axis=1, keepdims=True)) & (windows >= 0)
        if positive:  # one entry of each window stays, whatever it is
            possible &= (highs > 0) | (np.arange(windows.shape[1]) == highs.argmax(axis=1)[:, None])
        players = [w[p] for w, p in zip(windows, possible, strict=True)]
        pool = entries.take(np.concatenate(players))
        ends = np.cumsum([0] + [len(p) for p in players])
        groups = [list(range(a, b)) for a, b in pairwise(ends)]
        while any(len(g) > 1 for g in groups):
            pairs = [(g[k], g[k + 1]) for g in groups for k in range(0, len(g) - 1, 2)]
            left, right = np.array(pairs).T
            second = pool.take(right)
            winners = second.plus(self._relu(pool.take(left).plus(second, -1), ""))
            alone = np.array([g[-1] for g in groups if len(g) % 2], dtype=np.intp)
            rest = pool.take(alone)
            count, regrouped, single = 0, [], len(pairs)
            for g in groups:
                new = list(range(count, count + len(g) // 2))
                count += len(new)
                if len(g) % 2:
                    new.append(single)
                    single += 1
                regrouped.append(new)
            pool, groups = winners.stacked(rest), regrouped
        return pool.take(np.array([g[0] for g in groups]))

    def _relu(self, value: Affine, node: str) -> Affine:
        """Adds a block, the ReLUs of a node ("" for others); its outputs."""
        condensed = self.condensed
        number = len(condensed.blocks)
        low, high = condensed.interval(value)
        cost = condensed.cost(value)
        reach = value.constant_size + 1.0
        for s, m in value.sizes.items():
            reach = reach + m @ condensed.blocks[s].reach
        if not (reach < LARGEST).all():
            raise InputError("the network's numbers are too large for bounds in float64")
        if set(value.matrices) != {0}:
            neurons = np.flatnonzero((low < 0) & (high > 0))
            if len(neurons):
                found, _ = self.bounder(condensed, condensed.neuron_rows(value.take(neurons)), None)
                low, high = low.copy(), high.copy()
                low[neurons] = np.maximum(low[neurons], found[: len(neurons)])
                high[neurons] = np.minimum(high[neurons], -found[len(neurons) :])
        high = np.maximum(low, high)  # ends that cross by rounding prove nothing
        opened = np.flatnonzero((low < 0) & (high > 0))
        live = np.concatenate([opened, np.flatnonzero(low >= 0)])
        edges = [(s, Matrix(m[live])) for s, m in value.matrices.items() if m.nnz]
        bounds, constant = (low[live], high[live], np.zeros(0)), value.constant[live]
        block = Block(live, *bounds, cost[live], reach[live], edges, constant, node=node)
        if node:
            condensed.fixed[node] = signs = np.full(len(low), -1, dtype=np.int8)
            signs[live] = 0
        condensed.add_block(block, np.zeros(len(opened), dtype=np.int8))
        return Affine.placed(number, live, len(low))


def _is_relu(node: Node) -> bool:
    return isinstance(node.operator, PiecewiseLinear) and node.operator.is_relu


def _terms(network: Network, node: Node) -> int:
    """Values of a node, or the ReLUs that make them, if there are more of these."""
    operator = node.operator
    return int(operator.windows(network[node.inputs[0]].shape).size) if isinstance(operator, MaxPool) else node.size
