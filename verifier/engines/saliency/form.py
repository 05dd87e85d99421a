"""The ReLU form of a network: every affine part between ReLUs composed into matrices.

With the input as source -1 and the activations ``a_s`` of the ReLU layers as sources 0, 1, …

    z_r = Σ_s M[r, s] a_s + b_r        a_r = max(z_r, 0)        y = Σ_s M[out, s] a_s + b_out

and for ``o = c · y``, backwards, with ``h_r = ∂o/∂a_r`` and ``v_r = ∂o/∂z_r``,

    h_s = Σ_r M[r, s]ᵀ v_r + M[out, s]ᵀ c        v_r = D_r h_r        g = h_{-1}

where ``D_r`` is diagonal with the phases (0 or 1) of layer r. Residual connections, convolutions and
MaxPool need nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import scipy.sparse as sp

from verifier.encodings.network import adds_exactly
from verifier.errors import UnsupportedOperatorError
from verifier.limits import poll
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator, Array, Input
from verifier.network.piecewise import MaxPool, PiecewiseLinear

Matrix: TypeAlias = Any
INPUT = -1
"""The source index of the network's input."""

_DENSE_ABOVE = 0.25
"""Matrices with a larger share of non-zeros are kept dense."""


@dataclass(frozen=True, eq=False)
class Affine:
    """``Σ_s matrices[s] @ source_s + constant``.

    Attributes:
        matrices: ``{source: (size, source size)}``; sources that are absent have no influence.
        constant: ``(size,)``.
        roundings: number of roundings behind each coefficient (0: the coefficients are exact).
        absolute, weight: where coefficients are rounded: bounds on the sums of the absolute values of the terms that
            ``matrices`` and ``constant`` were added up from (these may have cancelled); else None.
    """

    matrices: dict[int, Matrix]
    constant: Array
    roundings: int = 0
    absolute: dict[int, Matrix] | None = None
    weight: Array | None = None

    @cached_property
    def sizes(self) -> dict[int, Matrix]:
        """`absolute`, or the absolute values of the matrices."""
        return {s: abs(m) for s, m in self.matrices.items()} if self.absolute is None else self.absolute

    @cached_property
    def constant_size(self) -> Array:
        """`weight`, or the absolute values of the constant."""
        return np.abs(self.constant) if self.weight is None else self.weight


@dataclass(frozen=True, eq=False)
class ReluForm:
    """A network as ReLU layers and composed affine maps.

    Attributes:
        layers: preactivation of each ReLU layer, in topological order.
        output: the network's output.
        input_size: number of inputs.
        nodes: for each layer, the name of the network's ReLU node that it is; "" if it is part of something else.
    """

    layers: tuple[Affine, ...]
    output: Affine
    input_size: int
    nodes: tuple[str, ...] = ()

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Neurons per layer."""
        return tuple(len(layer.constant) for layer in self.layers)

    @cached_property
    def users(self) -> dict[int, tuple[int, ...]]:
        """For each source, the layers that read it (the output not counted)."""
        return {
            s: tuple(r for r, layer in enumerate(self.layers) if s in layer.matrices)
            for s in range(INPUT, len(self.layers))
        }

    @property
    def exact(self) -> bool:
        """Whether every composed coefficient equals the real-number product of the weights."""
        return self.roundings == 0

    @cached_property
    def roundings(self) -> int:
        """Most roundings behind any composed coefficient."""
        return max(affine.roundings for affine in (*self.layers, self.output))

    def preactivations(self, x: Array) -> list[Array]:
        """Preactivations of every layer at a batch ``(batch, n)``: one ``(batch, size)`` per layer."""
        sources, found = {INPUT: x}, []
        for r, layer in enumerate(self.layers):
            z = layer.constant + sum((m @ sources[s].T).T for s, m in layer.matrices.items())
            sources[r] = np.maximum(z, 0)
            found.append(z)
        return found


_FORMS: WeakKeyDictionary[Network, ReluForm] = WeakKeyDictionary()


def relu_form(network: Network) -> ReluForm:
    """Compose a network's affine parts; once for all queries about a network.

    Raises:
        UnsupportedOperatorError: for an operator outside the piecewise-linear set.
    """
    form = _FORMS.get(network)
    if form is None:
        form = _FORMS[network] = _compose(network)
    return form


def _compose(network: Network) -> ReluForm:
    builder = _Builder(network.input_size)
    affine: dict[str, Affine] = {}
    for node in network.nodes:
        poll(f"while node {node.name!r} was composed into layers")
        operator = node.operator
        if isinstance(operator, Input):
            affine[node.name] = identity(INPUT, node.size)
        elif isinstance(operator, AffineOperator):
            affine[node.name] = _apply(node, operator, network, affine)
        elif isinstance(operator, PiecewiseLinear):
            affine[node.name] = builder.piecewise(operator, affine[node.inputs[0]])
            if operator.is_relu:
                builder.nodes[-1] = node.name
        elif isinstance(operator, MaxPool):
            windows = operator.windows(network[node.inputs[0]].shape)
            affine[node.name] = builder.maximum(windows, affine[node.inputs[0]])
        else:
            raise UnsupportedOperatorError(
                f"the saliency engine cannot take {type(operator).__name__}", place=f"node {node.name!r}"
            )
    return ReluForm(tuple(builder.layers), affine[network.output], network.input_size, tuple(builder.nodes))


def identity(source: int, size: int) -> Affine:
    """A source's own value."""
    return Affine({source: sp.csr_array(sp.eye_array(size))}, np.zeros(size))


def _tidy(matrix: Matrix) -> Matrix:
    """Dense or sparse, whichever suits the share of non-zeros."""
    if isinstance(matrix, np.ndarray):
        return matrix
    total = prod(matrix.shape)
    return np.asarray(matrix.todense()) if matrix.nnz > _DENSE_ABOVE * total else sp.csr_array(matrix)


def dense(matrix: Matrix) -> Array:
    """The matrix as a dense array."""
    return matrix if isinstance(matrix, np.ndarray) else np.asarray(matrix.todense())


def _selects(matrix: Matrix) -> bool:
    """Whether a matrix has at most one entry per row, ±1: composing with it rounds nothing."""
    if isinstance(matrix, np.ndarray):
        return False
    return bool((np.diff(matrix.indptr) <= 1).all() and (np.abs(matrix.data) == 1.0).all())


def _permutes(matrix: Matrix) -> bool:
    """Whether a matrix selects and takes no entry twice: products with it from the left round nothing either.

    Where an entry is repeated, its coefficients are added up.
    """
    return _selects(matrix) and bool((np.bincount(matrix.indices[matrix.data != 0], minlength=1) <= 1).all())


def combine(parts: list[tuple[Matrix, Affine]], constant: Array) -> Affine:
    """``Σ matrix @ affine + constant``."""
    total: dict[int, Matrix] = {}
    absolute: dict[int, Matrix] = {}
    roundings = 0
    weight = np.abs(constant)
    for matrix, inner in parts:
        inner_selects = not inner.constant.any() and all(_permutes(m) for m in inner.matrices.values())
        if not (_selects(matrix) or (inner_selects and len(inner.matrices) == 1)):
            roundings = max(roundings, matrix.shape[1] + 1)
        roundings += inner.roundings
        if inner.constant.any():
            shift = matrix @ inner.constant
            roundings += not adds_exactly(constant, shift)
            constant = constant + shift
        weight = weight + abs(matrix) @ inner.constant_size
        for s, m in inner.matrices.items():
            product, size = matrix @ m, abs(matrix) @ inner.sizes[s]
            if s in total:
                total[s], absolute[s] = total[s] + product, absolute[s] + size
                roundings += 1
            else:
                total[s], absolute[s] = product, size
    sizes = {s: _tidy(m) for s, m in absolute.items()} if roundings else None
    return Affine(
        {s: _tidy(m) for s, m in total.items()},
        np.asarray(constant, dtype=np.float64),
        roundings,
        sizes,
        weight if roundings else None,
    )


def _apply(node: Node, operator: AffineOperator, network: Network, affine: dict[str, Affine]) -> Affine:
    shapes = [network[name].shape for name in node.inputs]
    constant = operator.constant()
    flat = np.zeros(node.size)
    if constant is not None:
        flat = np.array(np.broadcast_to(constant, node.shape), dtype=np.float64).reshape(-1)
    matrices = [_tidy(m) for m in operator.matrices(*shapes)]
    return combine([(m, affine[name]) for m, name in zip(matrices, node.inputs, strict=True)], flat)


class _Builder:
    """Collects ReLU layers."""

    def __init__(self, input_size: int) -> None:
        self.layers: list[Affine] = []
        self.nodes: list[str] = []
        self.input_size = input_size

    def relu(self, preactivation: Affine) -> Affine:
        """Append a layer and return its activation."""
        self.layers.append(preactivation)
        self.nodes.append("")
        return identity(len(self.layers) - 1, len(preactivation.constant))

    def piecewise(self, operator: PiecewiseLinear, z: Affine) -> Affine:
        """Any elementwise function as ``base · z + Σ (change of slope) · relu(z - break)``.

        Where the gradient convention's slope at the break is neither neighbour's (|z| at 0), the breakpoint is
        written with two ReLUs that open to both sides, so that the closed superset contains it.
        """
        size = len(z.constant)
        eye = sp.csr_array(sp.eye_array(size))
        if operator.is_relu:
            return self.relu(z)
        slopes, breaks = operator.slopes, operator.breaks
        breakpoints = list(zip(breaks, operator.at_breaks, slopes, slopes[1:], strict=False))
        odd = [k for k, (_, at, left, right) in enumerate(breakpoints) if at not in (left, right)]
        if odd and len(breakpoints) > 1:
            raise UnsupportedOperatorError(
                f"{operator.label}: several breaks with a slope of their own at a break are not supported"
            )
        base = breakpoints[0][1] if odd else slopes[0]
        parts: list[tuple[Matrix, Affine]] = []
        if base != 0:
            parts.append((sp.csr_array(base * eye), z))
        for b, at, left, right in breakpoints:
            after = right - (at if odd else left)
            parts.append((sp.csr_array(after * eye), self.relu(combine([(eye, z)], np.full(size, -b)))))
            if odd:
                flipped = combine([(sp.csr_array(-eye), z)], np.full(size, b))
                parts.append((sp.csr_array((at - left) * eye), self.relu(flipped)))
        first = breaks[0]
        value = slopes[0] * first + operator.intercepts[0]
        return combine(parts, np.full(size, value - base * first))

    def maximum(self, windows: Array, z: Affine) -> Affine:
        """Maximum over index sets by a knockout: max(a, b) = b + relu(a - b), layer by layer."""
        size = len(z.constant)
        rows = [row[row >= 0] for row in windows]
        current = z
        while max(len(row) for row in rows) > 1:
            firsts, seconds, singles, following, place = [], [], [], [], 0
            for row in rows:
                pairs = len(row) // 2
                firsts += list(row[: 2 * pairs : 2])
                seconds += list(row[1 : 2 * pairs : 2])
                singles += list(row[2 * pairs :])
                following.append((pairs, len(row) - 2 * pairs))
            chosen = np.array(seconds + singles)
            width = len(chosen)
            difference = _selection(firsts, size, 1.0) - _selection(seconds, size, 1.0)
            opened = self.relu(combine([(sp.csr_array(difference), current)], np.zeros(len(firsts))))
            spread = sp.csr_array(sp.eye_array(width, len(firsts)))
            keep = _selection(list(chosen), size, 1.0)
            current = combine([(keep, current), (spread, opened)], np.zeros(width))
            place, single, rows = 0, len(firsts), []
            for pairs, left in following:
                rows.append(np.array([*range(place, place + pairs), *range(single, single + left)]))
                place, single = place + pairs, single + left
            size = width
        return combine([(_selection([row[0] for row in rows], size, 1.0), current)], np.zeros(len(rows)))


def _selection(index: list[int], size: int, value: float) -> sp.csr_array:
    triple = (np.full(len(index), value), (np.arange(len(index)), np.array(index, dtype=np.int64)))
    return sp.csr_array(sp.coo_array(triple, shape=(len(index), size)))
