"""Lines through fully connected networks: the whole walk in one compiled call (`verifier.regions.feed_forward_kernels`).

It answers what the general walk (`verifier.regions.subdivision`) answers, by the same rules, for the networks on
which most lines are drawn: affine layers with ReLU, LeakyReLU or absolute value between them.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, overload

import numpy as np

from verifier.limits import thread_pool
from verifier.network.graph import Network
from verifier.network.operators import Array, Dense, Reshape, Scale
from verifier.network.piecewise import PiecewiseLinear
from verifier.regions import feed_forward_crossings, feed_forward_kernels
from verifier.regions.cells import Index
from verifier.regions.plan import Level
from verifier.regions.rounding import MARGIN, Slack, row_norms
from verifier.rounding import UNIT_ROUNDOFF

KEPT = 1 << 22
"""Working memory is kept between calls up to three arrays of so many entries (100 MB)."""


@dataclass(frozen=True, eq=False)
class FeedForward:
    """A fully connected network in flat arrays.

    Attributes:
        first_weight: ``(inputs, n)`` transposed weight of the first layer; first_bias ``(n,)``.
        sizes: ``(layers,)`` number of values of each affine layer.
        weights, biases: of all layers but the first, weights transposed, flat.
        slack_weight, slack_offset: tolerance factors of all hidden layers, flat.
        means: ``(layers - 1, 2)`` their root mean squares.
        slopes: ``(layers - 1, 2)`` slopes below and above zero.
        nodes: names of the piecewise-linear nodes.
        spare: working memory kept for the next call (fresh pages cost more than the arithmetic on them).
        output: tolerance factors of the output, root mean squares replaced by the largest.

    Source:
        Sotoudeh, Thakur, ExactLine, NeurIPS 2019, Theorems 1 to 3.
    """

    first_weight: Array
    first_bias: Array
    sizes: Index
    weights: Array
    biases: Array
    slack_weight: Array
    slack_offset: Array
    means: Array
    slopes: Array
    nodes: tuple[str, ...]
    output: tuple[float, float]
    spare: list[tuple[Array, Array, Array]] = field(default_factory=list)

    @property
    def work(self) -> float:
        """Multiplications for one line that every neuron cuts."""
        pieces = np.cumsum(self.sizes[:-1]) + 2
        return float((pieces * self.sizes[:-1] * self.sizes[1:]).sum())

    def trace(self, starts: Array, ends: Array, threads: int = 1) -> Trace | None:
        """The breakpoints of the lines from starts to ends ``(lines, n)``; None if a line runs along a breakpoint."""
        if min(threads, len(starts)) < 2:
            return self._trace(starts, ends)
        with thread_pool(threads) as pool:
            parts = [np.array_split(x, min(threads, len(x))) for x in (starts, ends)]
            found = [trace for trace in pool.map(self._trace, *parts) if trace is not None]
        return Trace.joined(found) if len(found) == len(parts[0]) else None

    def _trace(self, starts: Array, ends: Array) -> Trace | None:
        count, n = starts.shape
        inputs = np.empty((count, 2, n))
        inputs[:, 0], inputs[:, 1] = starts, ends
        inputs = inputs.reshape(2 * count, n)  # type: ignore[assignment]
        largest = np.maximum(inputs.max(axis=1), -inputs.min(axis=1))
        unit = MARGIN * UNIT_ROUNDOFF
        reach = row_norms(unit * inputs) + unit * largest
        firsts = inputs @ self.first_weight
        firsts += self.first_bias
        try:
            memory = self.spare.pop()
        except IndexError:
            memory = self._memory()
        *found, doubtful, values, hidden, product = feed_forward_kernels.trace(
            firsts,
            reach,
            self.sizes,
            self.weights,
            self.biases,
            self.slack_weight,
            self.slack_offset,
            self.means,
            self.slopes,
            unit,
            *memory,
        )
        if len(values) <= KEPT:
            self.spare.append((values, hidden, product))
        return None if doubtful else Trace(*found)

    def _memory(self) -> tuple[Array, Array, Array]:
        size = 256 * int(self.sizes.max())
        return np.empty(size), np.empty(size), np.empty(size)


class Trace(NamedTuple):
    """What `feed_forward_kernels.trace` found: see there."""

    t: Array
    values: Array
    scale: Array
    point: Index
    offsets: Index
    born: Index
    starts: Index
    neurons: Index
    initial: Array
    extras: Index

    @staticmethod
    def joined(parts: Sequence[Trace]) -> Trace:
        """The traces of some lines and of those after them, as one."""
        ends = np.cumsum([[len(p.t), len(p.born), len(p.neurons)] for p in parts], axis=0)
        firsts = np.vstack([[0, 0, 0], ends[:-1]]).tolist()
        points, offsets, starts, extras = [], [parts[0].offsets[:1]], [parts[0].starts[:1]], []
        for part, (row, point, event) in zip(parts, firsts, strict=True):
            points.append(part.point + point)
            offsets.append(part.offsets[1:] + row)
            starts.append(part.starts[1:] + event)
            extras.append(part.extras + np.array([0, point, 0]))
        fields = {name: np.concatenate([getattr(p, name) for p in parts]) for name in Trace._fields}
        joined = {"point": points, "offsets": offsets, "starts": starts, "extras": extras}
        return Trace(**{**fields, **{name: np.concatenate(arrays) for name, arrays in joined.items()}})


class FeedForwardLevels(Sequence[Level]):
    """The levels of a trace, computed when they are first asked for."""

    def __init__(self, feed_forward: FeedForward, trace: Trace) -> None:
        self._feed_forward, self._trace = feed_forward, trace
        self._levels: list[Level] | None = None

    def _all(self) -> list[Level]:
        if self._levels is None:
            first, levels = 0, []
            trace = self._trace
            for k, name in enumerate(self._feed_forward.nodes):
                size = int(self._feed_forward.sizes[k])
                parents, sides = feed_forward_crossings.level_of(
                    k + 1, first, size, trace.point, trace.offsets, *trace[5:8], trace.initial, trace.extras
                )
                levels.append(Level(name, parents, sides=sides))
                first += size
            self._levels = levels
        return self._levels

    def __len__(self) -> int:
        return len(self._feed_forward.nodes)

    @overload
    def __getitem__(self, index: int) -> Level: ...
    @overload
    def __getitem__(self, index: slice) -> list[Level]: ...
    def __getitem__(self, index: int | slice) -> Level | list[Level]:
        return self._all()[index]

    def __iter__(self) -> Iterator[Level]:
        return iter(self._all())


_known: weakref.WeakKeyDictionary[Network, FeedForward | None] = weakref.WeakKeyDictionary()


def feed_forward(network: Network) -> FeedForward | None:
    """The network as layers, or None if it is not one (kept as long as the network lives)."""
    if network not in _known:
        _known[network] = _feed_forward(network)
    return _known[network]


def _feed_forward(network: Network) -> FeedForward | None:
    layers: list[tuple[Array, Array]] = []
    pending: tuple[Array, Array] | None = None
    activations: list[PiecewiseLinear] = []
    names: list[str] = []
    previous = network.input
    size = network.input_size
    scale, shift = np.ones(size), np.zeros(size)
    for node in network.nodes[1:]:
        if node.inputs != (previous,):
            return None
        previous = node.name
        operator = node.operator
        if isinstance(operator, Reshape):
            continue
        if isinstance(operator, Scale):
            factor, more = operator.scale.reshape(-1), operator.shift.reshape(-1)
            if pending is None:
                scale, shift = scale * factor, shift * factor + more
            else:
                pending = (pending[0] * factor[:, None], pending[1] * factor + more)
        elif isinstance(operator, Dense) and len(node.shape) == 1 and operator.sparse_weight is None:
            if pending is not None:
                return None
            pending = (operator.weight * scale, operator.bias + operator.weight @ shift)
        elif isinstance(operator, PiecewiseLinear) and operator.breaks == (0.0,) and not any(operator.intercepts):
            if pending is None:
                return None
            layers.append(pending)
            activations.append(operator)
            names.append(node.name)
            pending, scale, shift = None, np.ones(node.size), np.zeros(node.size)
        else:
            return None
    if pending is None or not activations or previous != network.output:
        return None
    layers.append(pending)
    slacks = [Slack(row_norms(w), MARGIN * UNIT_ROUNDOFF * np.abs(b)) for w, b in layers]
    slopes = np.array([k.slopes for k in activations])
    steep = np.abs(slopes).max(axis=1)
    return FeedForward(
        np.ascontiguousarray(layers[0][0].T),
        layers[0][1],
        np.array([len(b) for _, b in layers]),
        np.concatenate([np.ascontiguousarray(w.T).reshape(-1) for w, _ in layers[1:]]),
        np.concatenate([b for _, b in layers[1:]]),
        np.concatenate([s.weight for s in slacks[:-1]]),
        np.concatenate([s.offset for s in slacks[:-1]]),
        np.array([s.mean for s in slacks[:-1]]) * steep[:, None],
        slopes,
        tuple(names),
        (float(slacks[-1].weight.max()), float(slacks[-1].offset.max())),
    )
