"""Frozen networks: an activation channel that decides the linear region, a value channel that can be patched.

The activation channel is the original network and never changes. The value channel computes with patched
affine operators, but every ReLU (or other piecewise-linear neuron) takes the piece that the *activation*
channel is on. So a patch leaves every linear region exactly where it was, and the output at a point is an
affine function of the patched weights of any one layer (Sotoudeh & Thakur, *Correcting Deep Neural Networks
with Small, Generalizing Patches*, 2019: "Frozen Networks"; later called decoupled networks).

A frozen network with a patch before its last activation is in general not continuous, and so not an
ordinary piecewise-linear network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from verifier.errors import InputError, NetworkError
from verifier.network.convolution import Conv
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator, Array, Dense
from verifier.network.piecewise import PiecewiseLinear, PiecewiseOperator

CHUNK = 8192
"""Points that are evaluated at once; bounds the memory."""

Pattern = Mapping[str, npt.NDArray[np.int16]]
"""For each piecewise-linear node the piece of each neuron, ``(batch, *shape)``."""


@dataclass(frozen=True, eq=False)
class FrozenNetwork:
    """A network with a value channel of its own.

    Attributes:
        network: the activation channel: the original network.
        patches: the value channel's operator for each patched layer, by node name; the layers that are not
            named have the original's.

    Raises:
        InputError: a patch of a layer that has no weights, or of another shape.

    Source:
        Sotoudeh, Thakur, Patching, 2019, Section 4.
    """

    network: Network
    patches: Mapping[str, AffineOperator] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, operator in self.patches.items():
            original = self.network[name].operator
            if type(operator) is not type(original):
                raise InputError(f"the patch of layer {name!r} is a {type(operator).__name__}, not what it patches")
            for part in parameter_names(original):
                if getattr(operator, part).shape != getattr(original, part).shape:
                    raise InputError(f"the patch of layer {name!r} has a {part} of another shape")
        object.__setattr__(self, "patches", MappingProxyType(dict(self.patches)))

    def __reduce__(self) -> tuple[object, ...]:
        return FrozenNetwork, (self.network, dict(self.patches))

    def operator(self, node: Node) -> AffineOperator | PiecewiseOperator:
        """The operator that the value channel uses at a node."""
        found = self.patches.get(node.name, node.operator)
        assert isinstance(found, (AffineOperator, PiecewiseOperator))
        return found

    # -- evaluation --------------------------------------------------------------------------------------
    def pattern(self, x: npt.ArrayLike) -> dict[str, npt.NDArray[np.int16]]:
        """The activation channel's pattern at each point of a batch."""
        return self.network.pattern(x)

    def values(self, x: npt.ArrayLike, pattern: Pattern | None = None) -> dict[str, Array]:
        """The value channel at every node, ``(batch, *shape)``.

        Args:
            x: one input or a batch.
            pattern: the pattern to use instead of the activation channel's own at ``x``; on the border of a
                region this says which region is meant. One row for each point, or one row for all.
        """
        batch, _ = self.network.batch(x)
        pattern = pattern if pattern is not None else self.pattern(batch)
        values: dict[str, Array] = {self.network.input: batch}
        for node in self.network.nodes[1:]:
            operator, inputs = self.operator(node), [values[i] for i in node.inputs]
            if isinstance(operator, PiecewiseOperator):
                pieces = np.broadcast_to(pattern[node.name], (len(batch), *node.shape))
                values[node.name] = operator.on_piece(inputs[0], pieces)
            else:
                values[node.name] = operator.forward(*inputs)
        return values

    def forward(self, x: npt.ArrayLike, pattern: Pattern | None = None) -> Array:
        """The frozen network's output: ``(batch, *output_shape)``, or ``output_shape`` for a single input."""
        _, single = self.network.batch(x)
        y = self.values(x, pattern)[self.network.output]
        return y[0] if single else y

    __call__ = forward

    def difference(self, x: npt.ArrayLike, values: Mapping[str, Array] | None = None) -> Array:
        """Output minus the original network's, ``(batch, *output_shape)``, by carrying differences alone (Appendix C).

        Only what lies behind a patch is computed, and of a patched layer only its changed weights: for few changes this
        costs a small part of a second evaluation.

        Args:
            x: one input or a batch.
            values: the original network's value of every node at ``x``, if they are at hand.
        """
        batch, single = self.network.batch(x)
        known = self.network.values(batch) if values is None else values
        moved: dict[str, Array] = {}
        for node in self.network.nodes[1:]:
            patch = self.patches.get(node.name)
            if patch is None and not any(i in moved for i in node.inputs):
                continue
            given = [moved.get(i) for i in node.inputs]
            if isinstance(node.operator, PiecewiseOperator):
                (d,) = given
                assert d is not None
                moved[node.name] = _moved_on_piece(node.operator, d, node.operator.pattern(known[node.inputs[0]]))
                continue
            operator = node.operator if patch is None else patch
            assert isinstance(operator, AffineOperator)
            result = np.zeros((len(batch), *node.shape))
            if any(d is not None for d in given):
                shapes = [(len(batch), *self.network[i].shape) for i in node.inputs]
                parts = [np.zeros(s) if d is None else d for d, s in zip(given, shapes, strict=True)]
                result = result + _linear_of_few(operator, parts)
            if patch is not None:
                result = result + _changed_part(node.operator, patch, known[node.inputs[0]])
            moved[node.name] = result
        output = moved.get(self.network.output, np.zeros((len(batch), *self.network.output_shape)))
        return output[0] if single else output

    def gradients(self, pattern: Pattern, seeds: Array, stop: str | None = None) -> dict[str, Array]:
        """Gradient of ``seeds · y`` with respect to every node's value in the value channel, on given regions.

        Args:
            pattern: one row per seed.
            seeds: ``(batch, output_size)`` output coefficients.
            stop: only nodes from this one on are computed (a layer's name); None: all.

        Returns:
            ``{node name: (batch, *shape)}`` for the nodes that reach the output.
        """
        nodes = self.network.nodes
        first = 0 if stop is None else next(k for k, n in enumerate(nodes) if n.name == stop)
        gradients: dict[str, Array] = {self.network.output: seeds.reshape(len(seeds), *self.network.output_shape)}
        for k in range(len(nodes) - 1, max(first, 0), -1):
            node = nodes[k]
            if node.name not in gradients:
                continue
            upstream, operator = gradients[node.name], self.operator(node)
            shapes = [self.network[i].shape for i in node.inputs]
            if isinstance(operator, PiecewiseOperator):
                pieces = np.broadcast_to(pattern[node.name], (len(seeds), *node.shape))
                parts: tuple[Array, ...] = (operator.on_piece_vjp(upstream, pieces, shapes[0]),)
            else:
                parts = operator.transpose(upstream, *shapes)
            for name, part in zip(node.inputs, parts, strict=True):
                gradients[name] = gradients[name] + part if name in gradients else part
        return gradients

    def gradient(self, x: npt.ArrayLike, output: int | Array) -> Array:
        """Gradient of an output combination with respect to the input, on the region of each point."""
        batch, single = self.network.batch(x)
        seeds = np.broadcast_to(self.network.output_weights(output), (len(batch), self.network.output_size))
        g = self.gradients(self.pattern(batch), seeds)[self.network.input]
        return g[0] if single else g

    # -- change ------------------------------------------------------------------------------------------
    def patched(self, layer: str, change: Array) -> FrozenNetwork:
        """This network with ``change`` added to a layer's parameters (see `parameters` for their order)."""
        node = self.network[layer]
        operator = self.operator(node)
        names = parameter_names(operator)
        sizes = [getattr(operator, n).size for n in names]
        if change.shape != (sum(sizes),):
            raise InputError(f"{change.size} changes for the {sum(sizes)} parameters of layer {layer!r}")
        parts = np.split(change, np.cumsum(sizes)[:-1])
        updated = {
            n: getattr(operator, n) + part.reshape(getattr(operator, n).shape)
            for n, part in zip(names, parts, strict=True)
        }
        assert isinstance(operator, AffineOperator)
        changed = replace(operator, **updated)  # type: ignore[arg-type]
        return FrozenNetwork(self.network, {**self.patches, layer: changed})

    def fold(self) -> Network:
        """The same function as an ordinary network, where the patch permits it.

        That is when no piecewise-linear neuron comes after a patched layer: the regions do not depend on it.

        Raises:
            NetworkError: naming the neuron that follows a patched layer.
        """
        after = set(self.patches)
        for node in self.network.nodes:
            reached = [i for i in node.inputs if i in after]
            if reached and isinstance(node.operator, PiecewiseOperator):
                raise NetworkError(
                    f"a patch reaches the {type(node.operator).__name__} node {node.name!r}",
                    place=self.network.source,
                    fix="export the frozen network as ONNX instead, or patch only the last layer",
                )
            if reached:
                after.add(node.name)
        return self.value_network

    @property
    def value_network(self) -> Network:
        """The value channel's operators as a network; the frozen network itself only on given patterns (or `fold`)."""
        nodes = tuple(
            replace(n, operator=self.patches[n.name]) if n.name in self.patches else n for n in self.network.nodes
        )
        return Network(nodes, self.network.output, self.network.source)


def _moved_on_piece(operator: PiecewiseOperator, difference: Array, pieces: npt.NDArray[np.int16]) -> Array:
    """By how much a difference of its input moves an operator's value on the given pieces."""
    if isinstance(operator, PiecewiseLinear):
        return np.asarray(operator.slopes)[pieces] * difference
    return operator.on_piece(difference, pieces)


def _linear_of_few(operator: AffineOperator, differences: list[Array]) -> Array:
    """The linear part of an operator; of a Dense weight only the columns of inputs that differ anywhere."""
    if isinstance(operator, Dense) and differences[0].ndim == 2:
        columns = np.flatnonzero(differences[0].any(axis=0))
        return np.asarray(differences[0][:, columns] @ operator.weight[:, columns].T)
    return operator.linear(*differences)


def _changed_part(original: object, patch: AffineOperator, x: Array) -> Array:
    """What the changed parameters of a layer add at the original's input; of a Dense weight only its changed rows."""
    assert isinstance(original, (Dense, Conv))
    assert isinstance(patch, (Dense, Conv))
    weight, bias = patch.weight - original.weight, patch.bias - original.bias
    if isinstance(patch, Dense) and x.ndim == 2:
        rows, columns = np.flatnonzero(weight.any(axis=1)), np.flatnonzero(weight.any(axis=0))
        result = np.zeros((len(x), len(bias))) + bias
        result[:, rows] += x[:, columns] @ weight[np.ix_(rows, columns)].T
        return result
    return replace(patch, weight=weight, bias=bias).forward(x)


def parameter_names(operator: object) -> tuple[str, ...]:
    """Names of the arrays of an operator that can be repaired: weight and bias of Dense and Conv."""
    return ("weight", "bias") if isinstance(operator, (Dense, Conv)) else ()


def repairable_layers(network: Network) -> tuple[str, ...]:
    """Names of the layers that can be repaired (Dense and Conv), in topological order."""
    return tuple(n.name for n in network.nodes if parameter_names(n.operator))


def parameters(operator: AffineOperator | PiecewiseOperator) -> Array:
    """All parameters of a layer in one vector: the weight in row-major order, then the bias."""
    return np.concatenate([getattr(operator, n).reshape(-1) for n in parameter_names(operator)])


def parameter_label(operator: AffineOperator | PiecewiseOperator, index: int) -> str:
    """A parameter's name for people: "weight[3, 17]" or "bias[2]".

    Raises:
        InputError: no such parameter.
    """
    for name in parameter_names(operator):
        array = getattr(operator, name)
        if index < array.size:
            return f"{name}[{', '.join(str(int(i)) for i in np.unravel_index(index, array.shape))}]"
        index -= array.size
    raise InputError("no such parameter")
