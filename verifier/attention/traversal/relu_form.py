"""ReLU normal form: a network as layers of ReLUs with sparse affine maps between them.

`relu_form` first writes every piecewise-linear operator with ReLUs (`verifier.network.relu_reductions`), then multiplies out the affine operators between them, so that what is left
is, for each layer i,

    z_i = bias_i + Σ_{j < i} A_ij h_j,        h_i = relu(z_i)  (or z_i for a linear layer),

with layer 0 the input. Traversals of linear regions work on this form: they change a few neurons at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from verifier.errors import UnsupportedOperatorError
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator, Array
from verifier.network.piecewise import PiecewiseLinear
from verifier.network.reduction import reduce
from verifier.network.relu_reductions import TO_RELUS


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of the normal form.

    Attributes:
        name: of the network's node that it comes from.
        is_relu: ReLU neurons; False for the input, the outputs and other linear layers.
        bias: ``(size,)``.
        blocks: ``{source layer: matrix (size, source size)}``.
    """

    name: str
    is_relu: bool
    bias: Array
    blocks: dict[int, sp.csr_array]

    @property
    def size(self) -> int:
        """Number of neurons."""
        return len(self.bias)


@dataclass(frozen=True, eq=False)
class ReluForm:
    """A network in ReLU normal form.

    Attributes:
        layers: in topological order; layer 0 is the input, the last the outputs.
        linear: layer index of every node that was asked to be kept as a linear layer, by name.
    """

    layers: tuple[Layer, ...]
    linear: dict[str, int]

    def forward(self, x: Array) -> list[Array]:
        """z of every layer at a batch ``(batch, inputs)``: each ``(batch, size)``."""
        z: list[Array] = [np.asarray(x, dtype=np.float64)]
        h = [z[0]]
        for layer in self.layers[1:]:
            total = np.broadcast_to(layer.bias, (len(x), layer.size)).copy()
            for source, matrix in layer.blocks.items():
                total += (matrix @ h[source].T).T
            z.append(total)
            h.append(np.maximum(total, 0.0) if layer.is_relu else total)
        return z


@dataclass(frozen=True, eq=False)
class _Affine:
    """A node's value as an affine function of the layers."""

    bias: Array
    blocks: dict[int, sp.csr_array]

    def mapped(self, matrix: sp.csr_array) -> _Affine:
        return _Affine(matrix @ self.bias, {k: sp.csr_array(matrix @ m) for k, m in self.blocks.items()})

    def plus(self, other: _Affine, sign: float = 1.0) -> _Affine:
        blocks = dict(self.blocks)
        for k, m in other.blocks.items():
            blocks[k] = sp.csr_array(blocks[k] + sign * m) if k in blocks else sp.csr_array(sign * m)
        return _Affine(self.bias + sign * other.bias, blocks)


def relu_form(network: Network, keep: Sequence[str] = ()) -> ReluForm:
    """The network in ReLU normal form.

    Args:
        keep: names of nodes that get a linear layer of their own (the pixels, say).

    Raises:
        UnsupportedOperatorError: an operator that is neither affine, elementwise piecewise linear nor MaxPool.
    """
    network = reduce(network, TO_RELUS).network
    layers = [Layer(network.input, False, np.zeros(network.input_size), {})]
    linear: dict[str, int] = {}
    value: dict[str, _Affine] = {network.input: _unit(0, network.input_size)}

    def new_layer(name: str, is_relu: bool, z: _Affine) -> _Affine:
        blocks = {k: m for k, m in z.blocks.items() if m.nnz}
        for m in blocks.values():
            m.eliminate_zeros()
        layers.append(Layer(name, is_relu, z.bias, blocks))
        return _unit(len(layers) - 1, len(z.bias))

    for node in network.nodes[1:]:
        inputs = [value[name] for name in node.inputs]
        value[node.name] = _apply(network, node, inputs, new_layer)
        if node.name in keep:
            value[node.name] = new_layer(node.name, False, value[node.name])
            linear[node.name] = len(layers) - 1
    if network.output not in linear:
        new_layer(network.output, False, value[network.output])
        linear[network.output] = len(layers) - 1
    return ReluForm(tuple(layers), linear)


def _unit(layer: int, size: int) -> _Affine:
    return _Affine(np.zeros(size), {layer: sp.csr_array(sp.eye_array(size))})


def _apply(network: Network, node: Node, inputs: list[_Affine], new_layer) -> _Affine:  # type: ignore[no-untyped-def]
    operator = node.operator
    if isinstance(operator, AffineOperator):
        matrices = operator.matrices(*(network[name].shape for name in node.inputs))
        total = inputs[0].mapped(matrices[0])
        for part, matrix in zip(inputs[1:], matrices[1:], strict=True):
            total = total.plus(part.mapped(matrix))
        constant = operator.constant()
        if constant is None:
            return total
        flat = np.broadcast_to(np.asarray(constant, dtype=np.float64), node.shape).reshape(-1)
        return _Affine(total.bias + flat, total.blocks)
    (z,) = inputs
    if isinstance(operator, PiecewiseLinear) and operator.is_relu:
        return new_layer(node.name, True, z)  # type: ignore[no-any-return]
    raise UnsupportedOperatorError(
        f"{type(operator).__name__} is not piecewise linear",
        place=f"{network.source}: node {node.name!r}",
        fix="affine operators, elementwise piecewise-linear functions and MaxPool can be traversed",
    )
