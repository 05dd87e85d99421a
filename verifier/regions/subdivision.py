"""The walk through a network that cuts cells into the network's linear regions, layer by layer.

An affine node maps the values at the vertices; a piecewise-linear node first cuts the cells where it has a kink,
so that it is affine on every cell, and is then applied at the vertices. ReLU followed by MaxPool is one node (a
maximum over the window and zero): a ReLU that does not win its window makes no cell (ExactLine, Appendix G). Any
elementwise piecewise-linear function is cut at its own breakpoints (Appendix H).

What every node decides on every cell, its `Level`, is kept packed: it is the cell's activation pattern.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt

from verifier.events import Listener, Progress, ignore
from verifier.limits import NEVER, Deadline, MemoryBudget
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator, Array
from verifier.network.piecewise import MaxPool, PiecewiseLinear
from verifier.network.work import multiplications
from verifier.regions import kernels, pool_kernels
from verifier.regions.cells import Cells, Cut, Index, Segments, Settle, Settled
from verifier.regions.look import Doubts, ExactLook
from verifier.regions.plan import Level, is_piecewise, plan
from verifier.regions.rounding import Slack, input_scale, output_scale

ENTRIES = 1 << 21
"""Entries of a node's value that are computed at once: more would not stay in the cache."""
PRODUCT = 1 << 31
"""Multiplications between two looks at the clock: some tenths of a second."""


class Carrier:
    """Values carried at the vertices of cells while the cells are cut.

    Attributes:
        cells: the cells.
        deadline, memory: what cutting may use.
        levels: what each piecewise-linear node passed so far decides.
        look: settles what floats cannot tell; None: the floats decide.
        values: by name, ``(V, n)`` values at the vertices, affine on every cell.
        scales: by name, ``(V,)`` their tolerance scales.
    """

    def __init__(
        self,
        cells: Cells,
        deadline: Deadline = NEVER,
        memory: MemoryBudget | None = None,
        look: ExactLook | None = None,
    ) -> None:
        self.cells, self.deadline, self.look = cells, deadline, look
        self.memory = MemoryBudget.of(None) if memory is None else memory
        self.levels: list[Level] = []
        self.values: dict[str, Array] = {}
        self.scales: dict[str, Array] = {}

    def cut(
        self,
        functions: Array,
        scale: Array,
        slack: Slack,
        spared: str | None = None,
        settle: Settle | None = None,
    ) -> Cut:
        """Cut the cells and extend what is known at the vertices, except the node that the caller extends."""
        row = self._row(4 * functions.shape[1])
        self._check(row)
        cut = self.cells.cut(functions, scale, slack, self.memory.rows(row), settle)
        self._check(row)
        self._extend(cut, spared)
        return cut

    def _extend(self, cut: Cut, spared: str | None = None) -> None:
        """Extend all values to the vertices that a cut has made, and all tolerance scales."""
        if not len(cut.start):
            return
        extended: dict[int, Array] = {}
        for name, rows in self.values.items():
            if name != spared:
                if id(rows) not in extended:
                    extended[id(rows)] = cut.extend(rows)
                self.values[name] = extended[id(rows)]
        for name, scale in self.scales.items():
            self.scales[name] = cut.extend_scale(scale)

    def _row(self, numbers: int) -> int:
        """Bytes at each vertex while so many numbers are added to what is carried, which is copied as it grows."""
        held = {id(rows): rows.shape[1] for rows in self.values.values()}
        return 8 * (numbers + 2 * sum(held.values()))

    def _check(self, row: int) -> None:
        """Stop if the time is over, or if rows of so many bytes at all vertices do not fit."""
        self.deadline.check(self._so_far())
        self.memory.check(self.cells.vertices * row, self._so_far())

    def _so_far(self) -> str:
        return f"at {self.cells.vertices:,} vertices"

    def _settle(
        self, source: str, which: Index, functions: Index, cells: Index, ahead: Index, behind: Index, shift: Array
    ) -> Settled:
        """See `ExactLook.settle`."""
        assert self.look is not None
        assert isinstance(self.cells, Segments)
        places = self.cells.place[self.cells.ends[which]]
        doubts = Doubts(which, functions, cells, ahead, behind, shift, places)
        return self.look.settle(self.levels, source, doubts)

    def _settle_pool(
        self,
        source: str,
        windows: Index,
        k: int,
        here: npt.NDArray[np.bool_],
        origin: Index,
        winners: npt.NDArray[np.int16],
        which: Index,
        functions: Index,
    ) -> Settled:
        """Settle by how much the k-th entries of the windows that have one exceed the winners so far."""
        units = np.flatnonzero(here)[functions]
        winner = winners[which, units]
        behind = np.where(winner < 0, -1, windows[units, winner])
        return self._settle(source, which, functions, origin[which], windows[units, k], behind, np.zeros(len(which)))

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
        inside, pair = windows >= 0, pairs_slack(slack, windows)
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
            settle = (
                None if self.look is None else partial(self._settle_pool, source, windows, k, here, origin, winners)
            )
            cut = self.cut(ahead, self.scales[source], Slack(pair.weight[here], pair.offset[here]), settle=settle)
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


def pairs_slack(slack: Slack, windows: Index) -> Slack:
    """Tolerance factors of differences of two entries of each window."""
    inside = windows >= 0
    weight = 2 * np.where(inside, slack.weight[windows], 0.0).max(axis=1)
    return Slack(weight, 2 * np.where(inside, slack.offset[windows], 0.0).max(axis=1))


class Subdivision(Carrier):
    """Cells on their way through a network.

    Attributes:
        network: the network.
        done: number of nodes that have been passed.

    Source:
        Sotoudeh, Thakur, ExactLine, NeurIPS 2019, Theorems 1 to 3; planes, SyReNN: Sotoudeh, Thakur, TACAS
        2021.
    """

    def __init__(
        self,
        network: Network,
        cells: Cells,
        inputs: Array,
        deadline: Deadline = NEVER,
        memory: MemoryBudget | None = None,
        look: ExactLook | None = None,
    ) -> None:
        super().__init__(cells, deadline, memory, look)
        self.network = network
        self.plan = plan(network, deadline)
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
            for name in list(self.scales):
                if self.plan.last_use.get(name, -1) < self.done:
                    self.values.pop(name, None)
                    del self.scales[name]
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
            self._check(self._row(2 * node.size))
            self.values[node.name] = forward(self.network, node, inputs, self.deadline)
            self.scales[node.name] = output_scale(
                node, inputs, [self.scales[i] for i in node.inputs], [self.plan.slacks[i] for i in node.inputs]
            )

    def _elementwise(self, node: Node, operator: PiecewiseLinear) -> None:
        (source,) = node.inputs
        z, slack, breaks = self.values[source], self.plan.slacks[source], np.asarray(operator.breaks)
        shifted = z if operator.breaks == (0.0,) else (z[:, None, :] - breaks[:, None]).reshape(len(z), -1)
        slack = Slack(np.tile(slack.weight, len(breaks)), np.tile(slack.offset, len(breaks)))

        def settle(which: Index, functions: Index) -> Settled:
            entries, behind = functions % z.shape[1], np.full(len(which), -1)
            return self._settle(source, which, functions, which, entries, behind, breaks[functions // z.shape[1]])

        cut = self.cut(shifted, self.scales[source], slack, spared=source, settle=None if self.look is None else settle)
        z = cut.values[:, : z.shape[1]]
        if operator.breaks != (0.0,):
            z = z + breaks[0]
        self.values[source] = np.ascontiguousarray(z)
        self.values[node.name] = self._applied(operator, source)
        self.scales[node.name] = self.scales[source]
        self.levels.append(Level(node.name, cut.parents, sides=cut.sides))

    def _applied(self, operator: PiecewiseLinear, source: str) -> Array:
        """The operator's values; a ReLU's in the place of its argument's, where nobody reads those any more."""
        z = self.values[source]
        alone = sum(rows is z for rows in self.values.values()) == 1
        if operator.is_relu and alone and source != self.network.input and self.plan.last_use[source] <= self.done:
            return np.maximum(z, 0, out=self.values.pop(source))
        return operator.forward(z)

    def _pool(self, node: Node, operator: MaxPool) -> None:
        (source,) = node.inputs
        windows, zero = operator.windows(self.network[source].shape), source in self.plan.fused
        slack = self.plan.slacks[source]
        found = self._cut_pools(source, slack, windows, zero) if isinstance(self.cells, Segments) else None
        if found is None:
            found = self.maximum(source, slack, windows, zero)
        best, parents, winners = found
        self.values[node.name], self.scales[node.name] = best, self.scales[source]
        self.levels.append(Level(node.name, parents, winners=winners))

    def _cut_pools(
        self, source: str, slack: Slack, windows: Index, zero: bool
    ) -> tuple[Array, Index, npt.NDArray[np.int16]] | None:
        """Like `maximum` for segments, in one go; None if entries are equal along a segment but for rounding errors."""
        cells, values, scale = self.cells, self.values[source], self.scales[source]
        assert isinstance(cells, Segments)
        pair = pairs_slack(slack, windows)
        self._check(self._row(3 * len(windows)))
        best = np.empty((len(values), len(windows)))
        winner, near = np.empty(best.shape, np.int16), np.empty(best.shape, np.bool_)
        pool_kernels.vertex_maxima(values, windows, zero, pair.weight, pair.offset, scale, best, winner, near)
        doubtful, ends, parents, winners, start, end, alpha, place, best = pool_kernels.cut_pools(
            cells.ends, cells.place, values, windows, zero, pair.weight, pair.offset, scale, best, winner, near
        )
        if doubtful:
            return None
        cells.ends, cells.place = ends, place
        for name in list(self.values):
            if self.plan.last_use[name] <= self.done:  # read by this node for the last time
                del self.values[name]
        self._extend(Cut(parents, np.empty((0, 0), np.uint64), start, end, alpha, best))
        return best, parents, winners


def forward(network: Network, node: Node, inputs: list[Array], deadline: Deadline = NEVER) -> Array:
    """An affine node at many points: flattened values in and out, in chunks of bounded memory and time.

    Shapes: inputs ``(points, size)`` each.
    """
    operator, count = node.operator, len(inputs[0])
    assert isinstance(operator, AffineOperator)
    shapes = [network[i].shape for i in node.inputs]
    step = max(1, min(PRODUCT // multiplications(node), ENTRIES // max(1, node.size)))
    result = np.empty((count, *node.shape))
    for i in range(0, count, step):
        deadline.check(f"at node {node.name!r}")
        parts = [x[i : i + step] for x in inputs]
        operator.write(result[i : i + step], *(x.reshape(len(x), *s) for x, s in zip(parts, shapes, strict=True)))
    return result.reshape(count, -1)
