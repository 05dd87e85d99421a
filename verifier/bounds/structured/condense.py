"""A large network of few inputs, written over its unstable ReLUs alone: one sweep forward through its own operators.

On a box of few inputs nine ReLUs in ten are stable. So each value is carried as an affine function

    value = c + Σ_j g_j s_j  ± e

of *symbols* s_j: the inputs that vary, and the outputs of the unstable ReLUs met so far. An affine operator maps c and
all g_j (a batch of images, through the convolution itself); a stable ReLU passes or drops them; an unstable one becomes
a symbol. What results is a `CondensedNetwork` whose blocks hold unstable ReLUs only, with dense matrices between any two of
them: CROWN, optimised slopes and ReLU splits on it cost what the unstable ReLUs cost, however large the network is, and
so do bounds on parts of the box.

**Rounding** (float64): e bounds how far the computed function is from the exact one, anywhere on the box. With
S = |c| + Σ_j |g_j| max|s_j|, an operator of k terms makes ``e' = |W| e + γ_{k+2} |W| S + γ_2 |b|``; at an unstable ReLU e
becomes part of its block's cost, and its symbol starts without one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from verifier.bounds.condensed import Block, Bounder, CondensedNetwork, Ends, Start
from verifier.bounds.condensed_values import Matrix
from verifier.bounds.structured.maps import Backend, Map, Tensor, check_arithmetic, exact_products, maps_of
from verifier.errors import InputError
from verifier.lazy import sp
from verifier.limits import NEVER, Deadline, MemoryBudget
from verifier.network.affine import Affine
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator, Array
from verifier.properties.sets import Box
from verifier.rounding import LARGEST, TINY, gamma

CHUNK = 1 << 21
"""Numbers of the larger side of a product that are made at once."""
ROWS = 1024
"""Neurons whose two bounds are looked for together."""
RESERVE = 1 + 1e-6
"""Covers terms of second order."""


@dataclass(eq=False)
class _Value:
    """A node's value as a function of the symbols.

    Attributes:
        terms: ``(1 + symbols at that time, *shape)``: c, and then g_j.
        error: ``(*shape)``: e.
    """

    terms: Tensor
    error: Tensor


class Condenser:
    """One sweep.

    Args:
        network: of affine operators and ReLUs.
        bounder: bounds ReLUs that intervals leave undecided.
        missed: by how much the values of some nodes may be off from those of the network that this one stands for.
        threads: that torch may use.

    Source:
        affine forms carried forward: Singh et al., NeurIPS 2018 (DeepZ); kept over unstable ReLUs, with
        two-sided bounds, is this package's own.
    """

    def __init__(
        self,
        network: Network,
        box: Box,
        bounder: Bounder,
        *,
        missed: Mapping[str, float] | None = None,
        memory: MemoryBudget | None = None,
        deadline: Deadline = NEVER,
        threads: int = 1,
    ) -> None:
        self.network, self.box, self.bounder, self.missed = network, box, bounder, missed or {}
        self.memory, self.deadline, self.threads = memory or MemoryBudget.of(None), deadline, threads
        self.backend = Backend()
        self.maps = maps_of(network, self.backend)
        self.condensed = CondensedNetwork.begun(box, sum(n.size for n in network.nodes))
        self.varying = np.flatnonzero(box.lower != box.upper)
        self._blocks = [0]
        """The block of each group of symbols, in order."""
        self._low = [box.lower[self.varying]]
        self._high = [box.upper[self.varying]]

    def run(self) -> CondensedNetwork:
        """The whole network, condensed.

        Raises:
            MemoryLimitError, TimeLimitError: with the number, or the node, at which it stopped.
            InputError: if the network's numbers are too large for float64.
        """
        with exact_products(self.threads):
            check_arithmetic(self.backend)
            return self._run()

    def _run(self) -> CondensedNetwork:
        network = self.network
        readers = Counter(i for n in network.nodes for i in set(n.inputs))
        readers[network.output] += 1
        values = {network.input: self._inputs()}
        for node in network.nodes[1:]:
            self.deadline.check(f"while condensing node {node.name!r}")
            inputs = [values[i] for i in node.inputs]
            if isinstance(node.operator, AffineOperator):
                held = sum(v.terms.nbytes for v in values.values())
                made = max(len(v.terms) for v in inputs) * node.size * 8
                self.memory.check(held + 2 * made, f"condensing node {node.name!r}")
                values[node.name] = self._affine(self.maps[node.name], inputs)
            else:
                values[node.name] = self._relu(node, inputs[0])
            values[node.name].error.add_(self.missed.get(node.name, 0.0))
            for name in set(node.inputs):
                readers[name] -= 1
                if not readers[name]:
                    del values[name]
        return self._finish(values[network.output])

    # -- nodes -------------------------------------------------------------------------------------------
    def _inputs(self) -> _Value:
        terms = np.zeros((1 + len(self.varying), self.box.size))
        terms[0] = np.where(self.box.lower == self.box.upper, self.box.lower, 0.0)
        terms[1 + np.arange(len(self.varying)), self.varying] = 1.0
        shape = self.network.input_shape
        tensor = self.backend.tensor(terms).reshape(-1, *shape)
        return _Value(tensor, torch.zeros(shape, dtype=self.backend.dtype))

    def _affine(self, linear: Map, inputs: list[_Value]) -> _Value:
        count = max(len(v.terms) for v in inputs)
        size = max(linear.node.size, *(int(np.prod(s)) for s in linear.shapes))
        step = max(1, CHUNK // size)
        terms = torch.zeros((count, *linear.node.shape), dtype=self.backend.dtype)
        for k in range(0, count, step):
            self.deadline.check(f"while condensing node {linear.node.name!r}")
            some = [_rows(v.terms, k, min(k + step, count)) for v in inputs]
            terms[k : k + step] = linear.forward(*some)
        sizes = [self._size(v.terms) for v in inputs]
        spread = linear.forward(*(torch.stack([v.error, s]) for v, s in zip(inputs, sizes, strict=True)), absolute=True)
        error = spread[0] + gamma(linear.terms(False) + 4) * spread[1]
        if linear.constant is not None:
            constant = self.backend.tensor(linear.constant).reshape(linear.node.shape)
            terms[0] += constant
            error += gamma(4) * (constant.abs() + terms[0].abs())
        return _Value(terms, error * RESERVE + TINY)

    def _size(self, terms: Tensor) -> Tensor:
        """S."""
        most = self.backend.tensor(np.concatenate([[1.0], *self._magnitudes()])[: len(terms)])
        total = torch.zeros(terms.shape[1:], dtype=terms.dtype)
        for k in range(0, len(terms), ROWS):
            total += torch.tensordot(most[k : k + ROWS], terms[k : k + ROWS].abs(), dims=1)
        return total * RESERVE

    def _relu(self, node: Node, value: _Value) -> _Value:
        terms, error = value.terms.reshape(len(value.terms), -1), value.error.reshape(-1).numpy()
        size = self._size(value.terms).reshape(-1).numpy()
        if not (size < LARGEST).all():
            raise InputError("the network's numbers are too large for bounds in float64")
        slack = error + 3 * gamma(2 * len(terms) + 64) * size + TINY
        low, high = self._interval(terms, slack)
        for k in range(0, len(open_ := np.flatnonzero((low < 0) & (high > 0))), ROWS):
            self.deadline.check(f"while bounding node {node.inputs[0]!r}")
            neurons = open_[k : k + ROWS]
            found, _ = self.bounder(self.condensed, self._start(terms, slack, neurons), None)
            low[neurons] = np.maximum(low[neurons], found[: len(neurons)])
            high[neurons] = np.minimum(high[neurons], -found[len(neurons) :])
        high = np.maximum(low, high)  # ends that cross by rounding prove nothing
        opened = np.flatnonzero((low < 0) & (high > 0))
        active = torch.as_tensor((low >= 0).astype(np.float64))
        self.condensed.fixed[node.name] = signs = np.where(low >= 0, 1, -1).astype(np.int8)
        signs[opened] = 0
        symbols = 1 + sum(map(len, self._low))  # more than in these terms, where other branches have made some since
        made = torch.zeros((symbols + len(opened), terms.shape[1]), dtype=terms.dtype)
        torch.mul(terms, active, out=made[: len(terms)])
        made[symbols + torch.arange(len(opened)), torch.as_tensor(opened)] = 1.0
        if len(opened):
            self._add(node.name, terms, slack, size, opened, low, high)
        return _Value(made.reshape(-1, *node.shape), value.error * active.reshape(node.shape))

    # -- the condensed network ----------------------------------------------------------------------------------------
    def _magnitudes(self) -> list[Array]:
        return [np.maximum(np.abs(a), np.abs(b)) for a, b in zip(self._low, self._high, strict=True)]

    def _interval(self, terms: Tensor, slack: Array) -> Ends:
        low, high = np.concatenate(self._low), np.concatenate(self._high)
        low, high = low[: len(terms) - 1], high[: len(terms) - 1]
        center = low + (high - low) / 2
        radius = np.maximum(high - center, center - low) * RESERVE
        middle = terms[0] + self.backend.tensor(center) @ terms[1:]
        apart = torch.zeros_like(middle)
        for k in range(1, len(terms), ROWS):
            apart += self.backend.tensor(radius[k - 1 : k - 1 + ROWS]) @ terms[k : k + ROWS].abs()
        ends = middle.numpy(), apart.numpy() * RESERVE + 2 * slack
        return ends[0] - ends[1], ends[0] + ends[1]

    def _parts(self, terms: Tensor, neurons: npt.NDArray[np.intp]) -> dict[int, Array]:
        """Coefficients of some entries by block, ``(live, neurons)``."""
        some = terms[:, torch.as_tensor(neurons)].numpy()
        parts, first = {}, 1
        for block, low in zip(self._blocks, self._low, strict=True):
            part = some[first : first + len(low)]
            first += len(low)
            if block == 0:
                whole = np.zeros((self.box.size, len(neurons)))
                whole[self.varying] = part
                part = whole
            if part.any():
                parts[block] = part
            if first >= len(some):
                break
        return parts

    def _start(self, terms: Tensor, slack: Array, neurons: npt.NDArray[np.intp]) -> Start:
        """Each neuron's preactivation, and then each negated."""
        both = {s: np.hstack([a, -a]) for s, a in self._parts(terms, neurons).items()}
        constant, cost = terms[0].numpy()[neurons], slack[neurons]
        return Start(both, np.concatenate([constant, -constant]), np.concatenate([cost, cost]))

    def _add(
        self, node: str, terms: Tensor, slack: Array, size: Array, opened: npt.NDArray[np.intp], low: Array, high: Array
    ) -> None:
        condensed, parts = self.condensed, self._parts(terms, opened)
        reach = 1.0 + size[opened]
        for s, part in parts.items():
            reach = reach + np.abs(part).T @ condensed.blocks[s].reach
        if not (reach < LARGEST).all():
            raise InputError("the network's numbers are too large for bounds in float64")
        edges = [(s, Matrix(np.ascontiguousarray(part.T))) for s, part in parts.items()]
        constant = terms[0].numpy()[opened].copy()
        block = Block(opened, low[opened], high[opened], np.zeros(0), slack[opened], reach, edges, constant, node=node)
        condensed.add_block(block, np.zeros(len(opened), dtype=np.int8))
        self._blocks.append(len(condensed.blocks) - 1)
        self._low.append(condensed.blocks[-1].low)
        self._high.append(condensed.blocks[-1].high)

    def _finish(self, value: _Value) -> CondensedNetwork:
        terms = value.terms.reshape(len(value.terms), -1)
        parts = self._parts(terms, np.arange(terms.shape[1]))
        rows = {s: sp.csr_array(part.T) for s, part in parts.items()}
        constant = terms[0].numpy().copy()
        # what the function is off by counts as rounding of its constant
        error = value.error.reshape(-1).numpy()
        self.condensed.output = Affine(rows, constant).off_by(error, self.condensed.gamma)
        return self.condensed


def _rows(terms: Tensor, first: int, last: int) -> Tensor:
    """Some rows; zeros where there are fewer."""
    some = terms[first:last]
    missing = last - first - len(some)
    return torch.cat([some, torch.zeros((missing, *terms.shape[1:]), dtype=terms.dtype)]) if missing else some
