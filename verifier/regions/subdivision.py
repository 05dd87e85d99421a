"""The walk through a network that cuts cells into the network's linear regions, layer by layer.

An affine node maps the values at the vertices; a piecewise-linear node first cuts the cells where it has a kink,
so that it is affine on every cell, and is then applied at the vertices. ReLU followed by MaxPool is one node (a
maximum over the window and zero): a ReLU that does not win its window makes no cell (ExactLine, Appendix G). Any
elementwise piecewise-linear function is cut at its own breakpoints (Appendix H).

What every node decides on every cell, its `Level`, is kept packed: it is the cell's activation pattern.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from verifier.errors import UnsupportedOperatorError
from verifier.events import Listener, Progress, ignore
from verifier.network.graph import Network, Node
from verifier.network.operators import Array, Dense
from verifier.network.piecewise import MaxPool, PiecewiseLinear, PiecewiseOperator
from verifier.regions import kernels
from verifier.regions.budget import UNLIMITED, Budget
from verifier.regions.cells import Bits, Cells, Cut, Index
from verifier.regions.rounding import Slack, input_scale, output_scale, slacks

CHUNK = 1 << 18
"""Entries that a convolution's windows may take at once."""
PRODUCT = 1 << 28
"""Multiplications of a dense layer between two looks at the clock, if there is a deadline."""


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


def plan(network: Network, budget: Budget = UNLIMITED) -> Plan:
    """The network's plan (kept as long as the network lives)."""
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
        found = _plans[network] = Plan(slacks(network, budget), last_use, fused)
    return found


class Carrier:
    """Values carried at the vertices of cells while the cells are cut.

    Attributes:
        cells: the cells.
        budget: what cutting may use.
        values: by name, ``(V, n)`` values at the vertices, affine on every cell.
        scales: by name, ``(V,)`` their tolerance scales.
    """

    def __init__(self, cells: Cells, budget: Budget = UNLIMITED) -> None:
        self.cells, self.budget = cells, budget
        self.values: dict[str, Array] = {}
        self.scales: dict[str, Array] = {}

    def cut(self, functions: Array, scale: Array, slack: Slack, spared: str | None = None) -> Cut:
        """Cut the cells and extend what is known at the vertices, except the node that the caller extends."""
        row = self._row(4 * functions.shape[1])
        most = self.budget.rows(row)
        self.budget.take(self.cells.vertices, row, self._so_far())
        cut = self.cells.cut(functions, scale, slack, most)
        self.budget.take(self.cells.vertices, row, self._so_far())
        if len(cut.start):
            extended: dict[int, Array] = {}
            for name in self.values:
                if name != spared:
                    rows = self.values[name]
                    if id(rows) not in extended:
                        extended[id(rows)] = cut.extend(rows)
                    self.values[name] = extended[id(rows)]
                self.scales[name] = cut.extend_scale(self.scales[name])
        return cut

    def _row(self, numbers: int) -> int:
        """Bytes at each vertex while so many numbers are added to what is carried, which is copied as it grows."""
        held = {id(rows): rows.shape[1] for rows in self.values.values()}
        return 8 * (numbers + 2 * sum(held.values()))

    def _so_far(self) -> str:
        return f"at {self.cells.vertices:,} vertices"

    def maximum(
        self, source: str, slack: Slack, windows: Index, zero: bool
    ) -> tuple[Array, Index, npt.NDArray[np.int16]]:
        """Cut the cells into those on which one entry of each window is the (first) maximum.

        The maximum is built entry by entry; cells that differ only in entries that lose later are united again.

        Args:
            source: the name of the values that are compared.
            slack: their tolerance factors.
            windows: ``(outputs, size)`` indices into its value; -1 where there is no entry.
            zero: whether the constant zero takes part, as position -1, and wins ties.

        Returns:
            the maxima at the vertices, the cell that each cell was part of before, and the winners.
        """
        inside = windows >= 0
        weight = 2 * np.where(inside, slack.weight[windows], 0.0).max(axis=1)
        pair = Slack(weight, 2 * np.where(inside, slack.offset[windows], 0.0).max(axis=1))
        origin = np.arange(self.cells.count)
        key = f"\0maximum of {source}"
        first = np.zeros(len(windows), np.int64) if zero else np.argmax(inside, axis=1)
        entry = np.take_along_axis(windows, first[:, None], axis=1)[:, 0]
        best = self.values[source][:, entry] if not zero else np.zeros((self.cells.vertices, len(windows)))
        winners = np.tile(np.where(zero, -1, first).astype(np.int16), (self.cells.count, 1))
        self.values[key], self.scales[key] = best, self.scales[source]
        for k in range(windows.shape[1]):
            here = inside[:, k] & (zero | (k > first))
            if not here.any():
                continue
            best = self.values[key]
            ahead = self.values[source][:, windows[here, k]] - best[:, here]
            cut = self.cut(ahead, self.scales[source], Slack(pair.weight[here], pair.offset[here]))
            best = self.values[key] if len(cut.start) else best.copy()
            best[:, here] += np.maximum(cut.values, 0.0)
            self.values[key] = best
            origin, winners = origin[cut.parents], winners[cut.parents]
            winners[:, here] = np.where(kernels.unpack(cut.sides, int(here.sum())), np.int16(k), winners[:, here])
        origin, winners = self._unite(origin, winners)
        del self.scales[key]
        return self.values.pop(key), origin, winners

    def _unite(self, origin: Index, winners: npt.NDArray[np.int16]) -> tuple[Index, npt.NDArray[np.int16]]:
        if not (origin[1:] == origin[:-1]).any():
            return origin, winners
        order = self.cells.group(origin, winners)
        if order is not None:
            origin, winners = origin[order], winners[order]
        changed = (np.diff(origin) != 0) | (np.diff(winners, axis=0) != 0).any(axis=1)
        groups = np.concatenate([[0], np.cumsum(changed)])
        if groups[-1] + 1 == len(groups):
            return origin, winners
        first = self.cells.merge(groups)
        kept = self.cells.compact()
        self.values = {name: rows[kept] for name, rows in self.values.items()}
        self.scales = {name: scale[kept] for name, scale in self.scales.items()}
        return origin[first], winners[first]


class Subdivision(Carrier):
    """Cells on their way through a network.

    Attributes:
        network: the network.
        done: number of nodes that have been passed.
        levels: one for each piecewise-linear node passed.
    """

    def __init__(self, network: Network, cells: Cells, inputs: Array, budget: Budget = UNLIMITED) -> None:
        super().__init__(cells, budget)
        self.network = network
        self.plan = plan(network, budget)
        self.levels: list[Level] = []
        x = np.ascontiguousarray(inputs, dtype=np.float64).reshape(len(inputs), -1)
        self.values[network.input], self.scales[network.input] = x, input_scale(x)
        self.done = 1

    def _so_far(self) -> str:
        return f"at node {self.network.nodes[self.done].name!r}, {super()._so_far()}"

    @property
    def output(self) -> Array:
        """The network's flattened output at the vertices, ``(V, m)``, once all nodes are passed."""
        return self.values[self.network.output]

    @property
    def tolerance(self) -> Array:
        """How large a difference of outputs must be at each vertex to exceed rounding errors, ``(V,)``."""
        slack = self.plan.slacks[self.network.output]
        result: Array = 2 * (slack.weight.max() * self.scales[self.network.output] + slack.offset.max())
        return result

    def run(self) -> Iterator[Node]:
        """Pass the nodes that are left, one at a time; yields each node when it is passed."""
        while self.done < len(self.network.nodes):
            node = self.network.nodes[self.done]
            self._pass(node)
            self.done += 1
            for name in list(self.values):
                if self.plan.last_use.get(name, -1) < self.done:
                    del self.values[name], self.scales[name]
            yield node

    def finish(self, listener: Listener = ignore, stage: str = "", unit: str = "") -> Subdivision:
        """Pass all nodes that are left, telling the listener how many cells there are after each layer.

        ``left`` counts the piecewise-linear layers still to come.
        """
        began = time.monotonic()
        left = sum(is_piecewise(n) for n in self.network.nodes[self.done :])
        for node in self.run():
            if is_piecewise(node):
                left -= 1
                seconds = time.monotonic() - began
                listener(Progress(seconds=seconds, stage=stage, done=self.cells.count, unit=unit, left=left))
        return self

    # -- one node ----------------------------------------------------------------------------------------
    def _pass(self, node: Node) -> None:
        if node.name in self.plan.fused:
            (source,) = node.inputs
            self.values[node.name], self.scales[node.name] = self.values[source], self.scales[source]
        elif isinstance(node.operator, PiecewiseLinear):
            self._elementwise(node, node.operator)
        elif isinstance(node.operator, MaxPool):
            self._pool(node, node.operator)
        else:
            inputs = [self.values[i] for i in node.inputs]
            self.budget.take(self.cells.vertices, self._row(2 * node.size), self._so_far())
            self.values[node.name] = forward(self.network, node, inputs, self.budget)
            self.scales[node.name] = output_scale(
                node, inputs, [self.scales[i] for i in node.inputs], [self.plan.slacks[i] for i in node.inputs]
            )

    def _elementwise(self, node: Node, operator: PiecewiseLinear) -> None:
        (source,) = node.inputs
        z, slack, breaks = self.values[source], self.plan.slacks[source], np.asarray(operator.breaks)
        shifted = z if operator.breaks == (0.0,) else (z[:, None, :] - breaks[:, None]).reshape(len(z), -1)
        slack = Slack(np.tile(slack.weight, len(breaks)), np.tile(slack.offset, len(breaks)))
        cut = self.cut(shifted, self.scales[source], slack, spared=source)
        z = cut.values[:, : z.shape[1]]
        if operator.breaks != (0.0,):
            z = z + breaks[0]
        self.values[source] = np.ascontiguousarray(z)
        self.values[node.name] = operator.forward(self.values[source])
        self.scales[node.name] = self.scales[source]
        self.levels.append(Level(node.name, cut.parents, sides=cut.sides))

    def _pool(self, node: Node, operator: MaxPool) -> None:
        (source,) = node.inputs
        windows = operator.windows(self.network[source].shape)
        best, parents, winners = self.maximum(source, self.plan.slacks[source], windows, zero=source in self.plan.fused)
        self.values[node.name], self.scales[node.name] = best, self.scales[source]
        self.levels.append(Level(node.name, parents, winners=winners))


def forward(network: Network, node: Node, inputs: list[Array], budget: Budget = UNLIMITED) -> Array:
    """An affine node at many points: flattened values in and out, in chunks of bounded memory."""
    count = len(inputs[0])
    shapes = [network[i].shape for i in node.inputs]
    step = max(count, 1)
    if len(node.shape) == 3:
        window = int(np.prod(getattr(node.operator, "weight", np.ones(1)).shape[1:]))
        step = max(1, CHUNK // max(1, node.size // node.shape[0] * window))
    elif budget.deadline is not None and isinstance(node.operator, Dense):
        step = max(1, PRODUCT // math.prod(node.operator.weight_shape))
    if count <= step:
        value = node.operator.forward(*(x.reshape(count, *s) for x, s in zip(inputs, shapes)))
        return np.ascontiguousarray(value).reshape(count, -1)
    result = np.empty((count, node.size))
    for i in range(0, count, step):
        budget.take(0, 0, f"at node {node.name!r}")
        parts = [x[i : i + step] for x in inputs]
        value = node.operator.forward(*(x.reshape(len(x), *s) for x, s in zip(parts, shapes)))
        result[i : i + step] = value.reshape(len(parts[0]), -1)
    return result


def is_piecewise(node: Node) -> bool:
    """Whether the node cuts cells."""
    return isinstance(node.operator, PiecewiseOperator)
