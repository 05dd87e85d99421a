"""Activation patterns of cells, and the gradients that follow from them alone.

On a cell the network is affine, so its gradient follows from the pattern: nothing is evaluated at the cell, and a
cell of the size of rounding errors has as exact a gradient as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator, Array
from verifier.network.piecewise import MaxPool, PiecewiseLinear
from verifier.regions import kernels
from verifier.regions.cells import Index
from verifier.regions.plan import Level, plan

CHUNK = 1 << 23
"""Entries of the widest node that a batch of gradients may hold at once."""


@dataclass(frozen=True, eq=False)
class Patterns:
    """The activation patterns of all cells of a subdivision.

    Attributes:
        network: the network.
        levels: what each piecewise-linear node decides, in topological order.
        count: number of cells.
    """

    network: Network
    levels: Sequence[Level]
    count: int

    def rows(self, cells: Index) -> dict[str, Index]:
        """For every level, by its node's name, the row of `Level.sides` or `Level.winners` of each cell."""
        result: dict[str, Index] = {}
        for level in reversed(self.levels):
            result[level.node] = cells
            cells = level.parents[cells]
        return result

    def origin(self, cells: Index) -> Index:
        """The original cell (the line, in a batch of lines) that each cell is part of."""
        for level in reversed(self.levels):
            cells = level.parents[cells]
        return cells

    def pattern(self, cells: Index) -> dict[str, npt.NDArray[np.int16]]:
        """The piece that each neuron is on, for each piecewise-linear node by its name: ``(cells, *shape)``.

        Pieces are numbered as in `verifier.network.piecewise`; a neuron that is at its breakpoint all over the cell
        is on the piece left of it. MaxPool: position of the first maximum in its window. A ReLU that is computed
        together with the MaxPool behind it has no entry, and the MaxPool has -1 where nothing exceeds zero.
        """
        result = {}
        rows = self.rows(cells)
        for level in self.levels:
            node = self.network[level.node]
            piece = self._pieces(node, level, rows[level.node])
            result[level.node] = piece.reshape(len(cells), *node.shape)
        return result

    def gradient(self, output: int | Sequence[float] | Array, cells: Index) -> Array:
        """Gradient of an output combination with respect to the flattened input on each cell, ``(cells, n)``."""
        widest = max(n.size for n in self.network.nodes)
        step = max(1, CHUNK // widest)
        if len(cells) > step:
            return np.concatenate([self.gradient(output, cells[i : i + step]) for i in range(0, len(cells), step)])
        rows = self.rows(cells)
        weights = np.tile(self.network.output_weights(output), (len(cells), 1))
        gradients = {self.network.output: weights}
        levels = {level.node: level for level in self.levels}
        for node in reversed(self.network.nodes[1:]):
            if node.name in gradients:
                level = levels.get(node.name)
                self.backward(node, gradients, level, None if level is None else rows[node.name])
        zeros = np.zeros((len(cells), self.network.input_size))
        return gradients.get(self.network.input, zeros)

    def sum_gradients(self, seeds: Array, visit: Callable[[Node, Array, Index], None] | None = None) -> Array:
        """Sum over the cells of every original cell (line) of ``seed · Jacobian`` with respect to the input.

        No backward pass per cell is paid: before the weights of a layer are applied, the upstream gradients of all
        cells that share the pattern of the layers below are added up.

        Args:
            seeds: ``(cells, m)`` coefficients of the flattened outputs on each cell, such as its length.
            visit: is called for every node with ``(node, sums, first)``: the sums of gradients with respect to the
                node's value, one row for each group of cells on which all entries of that value whose gradient is
                not zero are affine, and the first cell of each group.

        Returns:
            ``(original cells, n)``.
        """
        gradients = {self.network.output: seeds}
        levels = {level.node: level for level in self.levels}
        first = np.arange(self.count)
        fused = plan(self.network).fused
        for node in reversed(self.network.nodes):
            if node.name not in gradients:
                continue
            if visit is not None and node.name not in fused:
                visit(node, gradients[node.name], first)
            if not node.inputs:
                break
            level = levels.get(node.name)
            self.backward(node, gradients, level, None)
            if visit is not None and node.inputs[0] in fused:
                # where this MaxPool's winner is known its ReLU is affine in what is passed on; on larger cells it is not
                visit(self.network[node.inputs[0]], gradients[node.inputs[0]], first)
            if level is not None:
                starts = np.flatnonzero(np.diff(level.parents, prepend=-1))
                first = first[starts]
                if len(starts) < len(level.parents):
                    gradients = {name: np.add.reduceat(g, starts, axis=0) for name, g in gradients.items()}
        zeros = np.zeros((len(first), self.network.input_size))
        return gradients.get(self.network.input, zeros)

    def backward(self, node: Node, gradients: dict[str, Array], level: Level | None, rows: Index | None) -> None:
        """Pull the gradient of a node's value back to its inputs; drops the node's and adds to the inputs'.

        Args:
            gradients: flattened gradients by node name, ``(cells, size)``.
            level: the node's level; None for affine nodes and a ReLU computed by the MaxPool behind it.
            rows: the level's row for each cell; None: all of them in order.
        """
        upstream = gradients.pop(node.name)
        if level is not None:
            rows = np.arange(len(upstream)) if rows is None else rows
            parts = [self._vjp(node, level, rows, upstream)]
        elif isinstance(node.operator, AffineOperator):
            parts = transposed(self.network, node, upstream)
        else:
            assert node.name in plan(self.network).fused
            parts = [upstream]
        for name, part in zip(node.inputs, parts):
            gradients[name] = gradients[name] + part if name in gradients else part

    def _pieces(self, node: Node, level: Level, rows: Index) -> npt.NDArray[np.int16]:
        if level.winners is not None:
            return level.winners[rows]
        assert level.sides is not None
        assert isinstance(node.operator, PiecewiseLinear)
        breaks = len(node.operator.breaks)
        sides = kernels.unpack(level.sides[rows], breaks * node.size)
        return sides.reshape(len(rows), breaks, -1).sum(axis=1, dtype=np.int16)

    def _vjp(self, node: Node, level: Level, rows: Index, upstream: Array) -> Array:
        pieces = self._pieces(node, level, rows)
        if isinstance(node.operator, PiecewiseLinear):
            if node.operator.is_relu:
                return upstream * pieces
            result: Array = upstream * np.asarray(node.operator.slopes)[pieces]
            return result
        assert isinstance(node.operator, MaxPool)
        source = self.network[node.inputs[0]]
        windows = node.operator.windows(source.shape)
        total = np.zeros((len(rows), source.size))
        units = np.arange(len(windows))
        for k in range(windows.shape[1]):
            chosen = pieces == k
            columns = units[windows[:, k] >= 0]
            part = np.where(chosen[:, columns], upstream[:, columns], 0.0)
            np.add.at(total.T, windows[columns, k], part.T)
        return total


def transposed(network: Network, node: Node, upstream: Array) -> list[Array]:
    """An affine node's gradients with respect to its inputs, flattened.

    Shapes: upstream ``(pieces, size)``.
    """
    assert isinstance(node.operator, AffineOperator)
    shapes = [network[i].shape for i in node.inputs]
    parts = node.operator.transpose(upstream.reshape(-1, *node.shape), *shapes)
    return [p.reshape(len(upstream), -1) for p in parts]
