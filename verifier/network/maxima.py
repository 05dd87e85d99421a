"""Maxima and minima that a network spells out in ReLUs, read back.

``min(a, b)`` is often written ``(a + b) / 2 - |a - b| / 2`` with four ReLUs (two-level lattice networks: Ferlez and
Shoukry, HSCC 2020). Bounds that relax each ReLU by itself lose what cancels between them, and they lose it again at
every level. Here ``relu(-z) = relu(z) - z`` turns opposite ReLUs into one; where then each entry of the next layer is
``l(p) + γ relu(z(p))`` with one ReLU at most, it is the greater of the affine functions ``l`` and ``l + γ z`` if
γ > 0, else the lesser.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from verifier.lazy import sp
from verifier.network.graph import Network, NetworkBuilder, Node
from verifier.network.operators import Array, Dense, Reshape, Scale
from verifier.network.piecewise import MaxPool, PiecewiseLinear
from verifier.network.reduction import Reduced, Reduction, built, reduce

MOST_TERMS = 8
"""ReLUs that an entry may be made of on average; layers with more are not looked at."""
GRAIN, LARGEST, MOST_IN_A_ROW = 2.0**8, 2.0**10, 1 << 15
"""Numbers taken: multiples of 1 / GRAIN up to LARGEST, so that nothing below is rounded: sums of products of two of
them are multiples of 1 / GRAIN² and, with at most MOST_IN_A_ROW terms, below 2^37."""


@dataclass(frozen=True, eq=False)
class _Maxima:
    """Entries ``sign * max(first, second)``, where ``rows @ p + shifts`` are the firsts and seconds in turn."""

    rows: sp.csr_array
    shifts: Array
    signs: Array


@dataclass(frozen=True)
class RecogniseMaxima(Reduction):
    """``Dense, ReLU, Dense`` replaced by a MaxPool over pairs where the three are maxima or minima.

    Exact: blocks whose numbers might be rounded are left as they are. At a tie the gradient may be another one.

    Source:
        ``max(a, b)`` by ReLUs: Arora et al., ICLR 2018, read backwards; lattice networks: tllverify, Ferlez
        et al., 2022.
    """

    def accepts(self, network: Network) -> bool:
        uses = _uses(network)
        return any(_block(network, node, uses) is not None for node in network.nodes[1:])

    def apply(self, network: Network) -> Reduced:
        uses = _uses(network)
        found: dict[str, _Maxima] = {}
        inner: set[str] = set()
        for node in network.nodes[1:]:
            block = _block(network, node, uses)
            if block is not None and block[0].name not in found:  # else that one's output is the maxima's of another
                maxima = _maxima(_sparse(block[0]), _dense(block[0]).bias, _sparse(node), _dense(node).bias)
                if maxima is not None:
                    found[node.name] = maxima
                    inner.update(n.name for n in block)
        if not found:
            return Reduced.unchanged(network)
        builder = NetworkBuilder(network.input_shape, input_name=network.input, source=network.source)
        origin = {network.input: network.input}
        for node in network.nodes[1:]:
            if node.name in found:
                first = network[network[node.inputs[0]].inputs[0]]
                _add(builder, found[node.name], first.inputs[0], node.name)
            elif node.name not in inner:
                builder.add(node.operator, *node.inputs, name=node.name)
            origin |= {name: node.name for name in builder.names if name not in origin}
        return built(network, builder, network.output, True, origin)


def with_maxima(network: Network) -> Network | None:
    """The network with its maxima and minima read back (`RecogniseMaxima`); None if none is found."""
    found = reduce(network, (RecogniseMaxima(),)).network
    return None if found is network else found


def _uses(network: Network) -> Counter[str]:
    """How many readers each node has; the caller counts for the output."""
    uses = Counter(name for node in network for name in node.inputs)
    uses[network.output] += 1
    return uses


def _dense(node: Node) -> Dense:
    assert isinstance(node.operator, Dense)
    return node.operator


def _sparse(node: Node) -> sp.csr_array:
    matrix: sp.csr_array = sp.csr_array(_dense(node).matrices(node.shape)[0])
    matrix.eliminate_zeros()
    matrix.sort_indices()
    return matrix


def _block(network: Network, node: Node, uses: Counter[str]) -> tuple[Node, Node] | None:
    """The Dense and the ReLU before a Dense, if all are flat, nobody else reads them, and there is little in them."""
    if not isinstance(node.operator, Dense) or len(node.shape) != 1:
        return None
    rectifier = network[node.inputs[0]]
    if not isinstance(rectifier.operator, PiecewiseLinear) or not rectifier.operator.is_relu:
        return None
    first = network[rectifier.inputs[0]]
    if not isinstance(first.operator, Dense) or len(first.shape) != 1:
        return None
    if uses[rectifier.name] > 1 or uses[first.name] > 1:
        return None
    weight = node.operator.sparse_weight
    terms = np.count_nonzero(node.operator.weight) if weight is None else weight.nnz
    return (first, rectifier) if terms <= MOST_TERMS * node.size else None


def _maxima(before: sp.csr_array, bias: Array, after: sp.csr_array, last_bias: Array) -> _Maxima | None:
    """The block ``after @ relu(before @ p + bias) + last_bias`` as maxima; None if it is none."""
    numbers = np.concatenate([before.data, after.data, bias, last_bias])
    if not ((numbers * GRAIN == np.rint(numbers * GRAIN)) & (np.abs(numbers) <= LARGEST)).all():
        return None
    if np.diff(after.indptr).max(initial=0) > MOST_IN_A_ROW:
        return None
    # ReLUs of the same z or -z share a group, whose z has a positive first number
    groups: dict[tuple[bytes, bytes, float], int] = {}
    group_of, signs = np.full(len(bias), -1), np.zeros(len(bias))
    representative: list[int] = []
    for neuron in range(len(bias)):
        part = slice(before.indptr[neuron], before.indptr[neuron + 1])
        columns, data = before.indices[part], before.data[part]
        leading = data[0] if len(data) else bias[neuron]
        if leading == 0:
            continue  # relu(0)
        sign = 1.0 if leading > 0 else -1.0
        key = (columns.tobytes(), (sign * data).tobytes(), float(sign * bias[neuron]))
        if key not in groups:
            groups[key] = len(representative)
            representative.append(neuron)
        group_of[neuron], signs[neuron] = groups[key], sign
    neurons = np.flatnonzero(group_of >= 0)
    member = sp.csr_array((np.ones(len(neurons)), (neurons, group_of[neurons])), shape=(len(bias), len(groups)))
    lead = signs[representative]
    z_rows, z_shifts = sp.csr_array(before[representative] * lead[:, None]), bias[representative] * lead
    # α relu(z) + β relu(-z) = (α + β) relu(z) - β z
    weights = sp.csr_array(after @ member)
    weights.eliminate_zeros()
    if (np.diff(weights.indptr) > 1).any():
        return None
    opposite = sp.csr_array((after * (signs < 0)[None, :]) @ member)
    lines = -(opposite @ z_rows)
    shifts = last_bias - opposite @ z_shifts
    rest, rest_shifts = lines + weights @ z_rows, shifts + weights @ z_shifts
    signs = np.where(np.asarray(weights.sum(axis=1)).reshape(-1) < 0, -1.0, 1.0)
    both = sp.csr_array(sp.vstack([lines * signs[:, None], rest * signs[:, None]]))
    order = np.arange(2 * len(last_bias)).reshape(2, -1).T.reshape(-1)
    both = sp.csr_array(both[order])
    both.eliminate_zeros()
    return _Maxima(both, np.column_stack([shifts * signs, rest_shifts * signs]).reshape(-1), signs)


def _add(builder: NetworkBuilder, maxima: _Maxima, source: str, name: str) -> None:
    count = len(maxima.signs)
    negative = (maxima.signs < 0).any()
    both = builder.add(Dense(maxima.rows, maxima.shifts), source, name=f"{name}/both")
    pairs = builder.add(Reshape((1, count, 2)), both, name=f"{name}/pairs")
    greatest = builder.add(MaxPool((1, 2), (1, 2)), pairs, name=f"{name}/greatest")
    flat = builder.add(Reshape((count,)), greatest, name=f"{name}/flat" if negative else name)
    if negative:
        builder.add(Scale(maxima.signs, np.zeros(count)), flat, name=name)
