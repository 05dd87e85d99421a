"""The ReLU form as traversals of linear regions read it: the input and the outputs are layers, and all matrices are sparse.

    z_i = bias_i + Σ_{j < i} A_ij h_j,        h_i = relu(z_i)  (or z_i for a linear layer),

with layer 0 the input. Traversals change a few neurons at a time.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from verifier.network.affine import Affine
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.network.relu_form import INPUT, composed


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer.

    Attributes:
        name: of the network's node that it is; "" for steps of an activation that is no ReLU.
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
class LayeredForm:
    """A network in this form.

    Attributes:
        layers: in topological order; layer 0 is the input, the last the outputs.
        linear: layer index of every node that was asked to be kept as a linear layer, by name.
    """

    layers: tuple[Layer, ...]
    linear: dict[str, int]


def layered_form(network: Network, keep: Collection[str] = ()) -> LayeredForm:
    """The network in this form.

    Args:
        keep: names of nodes that get a linear layer of their own (the pixels, say).

    Raises:
        UnsupportedOperatorError: an operator that is neither affine, elementwise piecewise linear nor MaxPool.
    """
    form = composed(network, keep)
    linear = {name: r - INPUT for name, r in form.linear.items()}
    names = list(form.nodes)
    for name, r in form.linear.items():
        names[r] = name
    layers = [Layer(network.input, False, np.zeros(network.input_size), {})]
    layers += [_layer(name, name not in linear, z) for name, z in zip(names, form.layers, strict=True)]
    if network.output not in linear:
        layers.append(_layer(network.output, False, form.output))
        linear[network.output] = len(layers) - 1
    return LayeredForm(tuple(layers), linear)


def _layer(name: str, is_relu: bool, z: Affine) -> Layer:
    blocks = {
        s - INPUT: sp.csr_array(m, copy=True) for s, m in z.matrices.items()
    }  # a network's weights may be among them
    for block in blocks.values():
        block.eliminate_zeros()
    return Layer(name, is_relu, z.constant, {s: block for s, block in blocks.items() if block.nnz})
