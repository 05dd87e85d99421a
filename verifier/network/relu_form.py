"""The ReLU form of a network: every affine part between ReLUs composed into matrices.

With the input as source -1 and the activations ``a_s`` of the ReLU layers as sources 0, 1, …

    z_r = Σ_s M[r, s] a_s + b_r        a_r = max(z_r, 0)        y = Σ_s M[out, s] a_s + b_out

and for ``o = c · y``, backwards, with ``h_r = ∂o/∂a_r`` and ``v_r = ∂o/∂z_r``,

    h_s = Σ_r M[r, s]ᵀ v_r + M[out, s]ᵀ c        v_r = D_r h_r        g = h_{-1}

where ``D_r`` is diagonal with the phases (0 or 1) of layer r. Other activations are written with ReLUs first
(`verifier.network.relu_reductions`), which keeps values and gradients; residual connections and convolutions need nothing
more. The form is the same on every box: `verifier.bounds.restriction` has the network on one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np

from verifier.errors import UnsupportedOperatorError
from verifier.limits import poll
from verifier.network.affine import Affine, applied
from verifier.network.graph import Network
from verifier.network.operators import AffineOperator, Array
from verifier.network.piecewise import PiecewiseLinear
from verifier.network.reduction import reduce
from verifier.network.relu_reductions import TO_RELUS, gaps
from verifier.rounding import UNIT_ROUNDOFF

INPUT = -1
"""The source index of the network's input."""


@dataclass(frozen=True, eq=False)
class ReluForm:
    """A network as ReLU layers and composed affine maps.

    Attributes:
        layers: preactivation of each layer, in topological order.
        output: the network's output.
        input_size: number of inputs.
        nodes: for each layer, the name of the network's ReLU node that it is; "" if it is part of something else.
        linear: layers without ReLUs, by the name of the node whose value they are.
    """

    layers: tuple[Affine, ...]
    output: Affine
    input_size: int
    nodes: tuple[str, ...] = ()
    linear: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Neurons per layer."""
        return tuple(len(layer) for layer in self.layers)

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
        linear = set(self.linear.values())
        for r, layer in enumerate(self.layers):
            z = layer.constant + sum((m @ sources[s].T).T for s, m in layer.matrices.items())
            sources[r] = z if r in linear else np.maximum(z, 0)
            found.append(z)
        return found


_forms: WeakKeyDictionary[Network, ReluForm] = WeakKeyDictionary()


def relu_form(network: Network) -> ReluForm:
    """Compose a network's affine parts; once for all questions about a network.

    Raises:
        UnsupportedOperatorError: for an activation that ReLUs cannot express.
    """
    form = _forms.get(network)
    if form is None:
        form = _forms[network] = composed(network)
    return form


def composed(network: Network, keep: Collection[str] = ()) -> ReluForm:
    """The form, with linear layers of their own for some nodes (the pixels of an image that is computed, say).

    Raises:
        UnsupportedOperatorError: as `relu_form`.
    """
    reduced = reduce(network, TO_RELUS)
    own = {n.name for n in network.activations if isinstance(n.operator, PiecewiseLinear) and n.operator.is_relu}
    missed = gaps(reduced)
    layers: list[Affine] = []
    nodes: list[str] = []
    linear: dict[str, int] = {}
    values = {network.input: Affine.of_source(INPUT, network.input_size)}

    def layer(z: Affine, name: str) -> Affine:
        layers.append(z.tidy())
        nodes.append(name)
        return Affine.of_source(len(layers) - 1, len(z))

    for node in reduced.network.nodes[1:]:
        poll(f"while node {node.name!r} was composed into layers")
        inputs = [values[name] for name in node.inputs]
        if isinstance(node.operator, AffineOperator):
            value = applied(reduced.network, node, inputs)
        elif isinstance(node.operator, PiecewiseLinear):
            value = layer(inputs[0], node.name if node.name in own else "")
        else:
            raise UnsupportedOperatorError(
                f"{type(node.operator).__name__} cannot be written with ReLUs",
                place=f"{network.source}: node {node.name!r}",
                fix="affine operators, elementwise piecewise-linear functions and MaxPool can",
            )
        if node.name in missed:
            value = value.off_by(missed[node.name], UNIT_ROUNDOFF)
        if node.name in keep:
            value = layer(value, "")
            linear[node.name] = len(layers) - 1
        values[node.name] = value
    return ReluForm(tuple(layers), values[reduced.network.output].tidy(), network.input_size, tuple(nodes), linear)
