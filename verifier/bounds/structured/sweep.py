"""Bounds of all neurons of a large network: intervals first, CROWN in windows where a neuron is undecided and matters."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np
import numpy.typing as npt
import torch

from verifier.bounds.interval import forward
from verifier.bounds.settings import SweepSettings
from verifier.bounds.structured.backward import Backward, Ends, backend_for
from verifier.bounds.structured.maps import Backend, check_arithmetic, exact_products, maps_of
from verifier.bounds.structured.windows import Window, windows_from
from verifier.errors import InputError
from verifier.limits import NEVER, Deadline, MemoryBudget
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator, Array
from verifier.network.piecewise import PiecewiseLinear
from verifier.properties.sets import Box

Tiles = list[tuple[tuple[slice, ...], Window | None]]
"""Parts of a node, as an index and as a window."""


class Sweep:
    """One sweep from the input to the output.

    Args:
        needed: ``(outputs,)`` which outputs matter.
        memory, deadline: kept between passes.
        settings: how neurons are taken together.

    Source:
        CROWN: Zhang et al., NeurIPS 2018, Theorem 3.2; windows of a convolution: Boopathy et al., AAAI 2019
        (CNN-Cert); their choice by counting products is this module's own.
    """

    def __init__(
        self,
        network: Network,
        box: Box,
        needed: npt.NDArray[np.bool_],
        *,
        backend: Backend | None = None,
        memory: MemoryBudget | None = None,
        deadline: Deadline = NEVER,
        threads: int = 1,
        settings: SweepSettings = SweepSettings(),
    ) -> None:
        self.settings = settings
        self.network, self.box, self.threads = network, box, threads
        self.backend = backend or backend_for(network, box)
        self.memory, self.deadline = memory or MemoryBudget.of(None), deadline
        self.values: dict[str, Ends] = {}
        self.passes = Backward(network, box, self.values, self.backend)
        self.exact = self.passes
        """Passes in float64, for neurons whose bounds in float32 lose much by rounding; and for rows."""
        if self.backend.dtype != torch.float64:
            self.exact = Backward(network, box, self.values, Backend(torch.float64, self.backend.device))
        self.matters = _cone(network, needed, self.backend)

    def run(self) -> dict[str, Ends]:
        """Bounds of every node's values, ``(*shape)`` float64.

        Raises:
            TimeLimitError, MemoryLimitError: with the node at which it stopped.
            InputError: if the network's numbers are too large for float64.
        """
        network, shape = self.network, self.network.input_shape
        self.values[network.input] = self.box.lower.reshape(shape), self.box.upper.reshape(shape)
        activated = {n.inputs[0] for n in network.activations}
        bent = {network.input: False}
        """Whether a node depends on a ReLU before it: where none does, intervals of one operator are exact."""
        with exact_products(self.threads), np.errstate(over="ignore", invalid="ignore"):
            check_arithmetic(self.backend)
            for node in network.nodes[1:]:
                self.deadline.check(f"while bounding node {node.name!r}")
                low, high = forward(node, [(e[0][None], e[1][None]) for e in (self.values[i] for i in node.inputs)])
                if not (np.isfinite(low).all() and np.isfinite(high).all()):
                    raise InputError("the network's numbers are too large for bounds in float64", place=node.name)
                self.values[node.name] = low[0].copy(), high[0].copy()
                bent[node.name] = isinstance(node.operator, PiecewiseLinear) or any(bent[i] for i in node.inputs)
                if node.name in activated and (bent[node.name] or network.input not in node.inputs):
                    self._tighten(node)
        return self.values

    def open(self, ends: Ends, name: str) -> npt.NDArray[np.bool_]:
        """Which neurons of a node may take both signs and matter."""
        return (ends[0] < 0) & (ends[1] > 0) & self.matters[name]

    def _tighten(self, node: Node) -> None:
        """Better bounds of the undecided neurons of a node, in place."""
        low, high = self.values[node.name]
        undecided = self.open((low, high), node.name)
        if not undecided.any():
            return
        kinds = [self.passes] if self.exact is self.passes else [self.passes, self.exact]
        rounds = [(passes, turn) for passes in kinds for turn in (True, False)]
        for tile, window in self._tiles(node, undecided):
            places = np.argwhere(undecided[tile])
            first = low[tile][tuple(places.T)] > -high[tile][tuple(places.T)]  # the end that is nearer to zero
            lost = 0.0
            for passes, turn in rounds:
                signs = np.where(first == turn, 1.0, -1.0)
                some = np.flatnonzero((low[tile] < 0)[tuple(places.T)] & (high[tile] > 0)[tuple(places.T)])
                width = (high[tile] - low[tile])[tuple(places[some].T)]
                if not len(some) or (passes is not self.passes and lost < self.settings.worth * width.mean()):
                    break
                found, slack = self._rows(passes, node, window, low[tile].shape, places[some], signs[some])
                lost = max(lost, slack)
                for sign, ends in ((1.0, low), (-1.0, high)):
                    which = signs[some] == sign
                    at = tuple(places[some][which].T)
                    better = (np.maximum if sign > 0 else np.minimum)(ends[tile][at], sign * found[which])
                    ends[tile][at] = better
        crossed = low > high  # by rounding only
        low[crossed], high[crossed] = high[crossed], low[crossed]
        for passes in (self.passes, self.exact):
            passes.refresh(node.name)

    def _rows(
        self,
        passes: Backward,
        node: Node,
        window: Window | None,
        shape: tuple[int, ...],
        places: npt.NDArray[np.intp],
        signs: Array,
    ) -> tuple[Array, float]:
        """Lower bounds of ``signs * z`` for some neurons of a part of a node, and what rounding cost them on average."""
        lower, lost = np.full(len(places), -np.inf), np.zeros(len(places))
        backend = passes.backend
        step = self._chunk(node, window)
        for k in range(0, len(places), step):
            self.deadline.check(f"while bounding node {node.name!r}")
            some = places[k : k + step]
            rows = torch.zeros((len(some), *shape), dtype=backend.dtype, device=backend.device)
            index = (np.arange(len(some)), *some.T)
            rows[index] = backend.tensor(signs[k : k + step])
            lower[k : k + step], lost[k : k + step] = passes.proved(node.name, rows, window)
        return lower, float(lost.mean())

    def _chunk(self, node: Node, window: Window | None) -> int:
        parts = windows_from(self.network, node.name, window)
        width = torch.finfo(self.backend.dtype).bits // 8
        largest = width * max(_size(self.network, name, part) for name, part in parts.items())
        self.memory.check(self.settings.alive * largest, f"bounds of node {node.name!r}")
        return max(1, min(int(self.settings.largest / largest), self.memory.rows(self.settings.alive * largest)))

    def _tiles(self, node: Node, undecided: npt.NDArray[np.bool_]) -> Tiles:
        """Parts of a node that hold its undecided neurons, so that passes over them cost least together."""
        if len(node.shape) != 3:
            return [((slice(None),) * len(node.shape), None)]
        _, height, width = node.shape
        best, choice = np.inf, self.settings.tiles[-1]
        for side in self.settings.tiles:
            if side < 1 << 30 and side >= max(height, width):
                continue
            side = min(side, max(height, width))
            y, x = min(height // 2, height - 1), min(width // 2, width - 1)
            window = Window(y // side * side, x // side * side, 0, 0)
            window = Window(window.top, window.left, min(window.top + side, height), min(window.left + side, width))
            parts = windows_from(self.network, node.name, window)
            row = sum(
                _size(self.network, name, part)
                * (self.passes.maps[name].terms(True) if name in self.passes.maps else 4)
                for name, part in parts.items()
            )
            tiles = undecided.any(0)
            pad = np.zeros((-(-height // side) * side, -(-width // side) * side), dtype=bool)
            pad[:height, :width] = tiles
            count = int(pad.reshape(len(pad) // side, side, -1, side).any((1, 3)).sum())
            cost = 2.0 * undecided.sum() * row + 2 * count * self.settings.call
            if cost < best:
                best, choice = cost, side
        side = choice
        found: Tiles = []
        for top, left in product(range(0, height, side), range(0, width, side)):
            window = Window(top, left, min(top + side, height), min(left + side, width))
            tile = (slice(None), slice(window.top, window.bottom), slice(window.left, window.right))
            if undecided[tile].any():
                found.append((tile, window))
        return found


def _size(network: Network, name: str, part: Window | None) -> int:
    shape = network[name].shape if part is None else part.shape(network[name].shape)
    return int(np.prod(shape))


def _cone(network: Network, needed: npt.NDArray[np.bool_], backend: Backend) -> Mapping[str, npt.NDArray[np.bool_]]:
    """Which entries of each node some needed output depends on."""
    maps = maps_of(network, backend)
    found = {n.name: np.zeros(n.shape, dtype=bool) for n in network.nodes}
    found[network.output] = needed.reshape(network.output_shape).copy()
    for node in reversed(network.nodes[1:]):
        mask = found[node.name]
        if isinstance(node.operator, AffineOperator):
            a = backend.tensor(mask.astype(np.float64))[None]
            parts = [p[0].cpu().numpy() > 0 for p in maps[node.name].adjoint(a, absolute=True)]
        else:
            parts = [mask]
        for source, part in zip(node.inputs, parts, strict=True):
            found[source] |= part
    return found
