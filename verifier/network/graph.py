"""The network: a directed acyclic graph of operators with one input and one output, float64 throughout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import numpy as np
import numpy.typing as npt

from verifier.arguments import checked
from verifier.errors import InputError, NetworkError, UnsupportedOperatorError
from verifier.network.activation import Activation
from verifier.network.curved import Curved
from verifier.network.operators import AffineOperator, Array, Input, Operator, Shape
from verifier.network.piecewise import PiecewiseLinear, PiecewiseOperator
from verifier.network.ports import Port, in_turn, packed
from verifier.network.tails import Tail
from verifier.shown import Shown


@dataclass(frozen=True, eq=False)
class Node:
    """One operator in its place in a graph.

    Attributes:
        name: unique in the network (the name of the ONNX node's output or the torch module's path).
        operator: what is computed.
        inputs: names of the nodes it is computed from.
        shape: of its value, without the batch.
    """

    name: str
    operator: Operator
    inputs: tuple[str, ...]
    shape: Shape

    @property
    def size(self) -> int:
        """Number of entries of the value."""
        return prod(self.shape)


@dataclass(frozen=True, eq=False, repr=False)
class Network(Shown):
    """A piecewise-linear network as a DAG of operators.

    Attributes:
        nodes: in topological order; the first is the input.
        output: name of the output node.
        source: where it was read from, for messages ("" if built in Python).
        model_file: the ONNX file that this network equals, for replays in onnxruntime; "" if there is none.
        integer_inputs: whether inputs are integers (the model's input has an integer type). The network is a function
            of real inputs all the same; what holds for them holds for integers, and only an integer refutes.
        domain: ``(lower, upper)``, each ``(input_size,)``: the inputs that the network is meant for, where its file
            says so; None if it does not.
        tail: an increasing function at the end that was left out, for questions about the order of outputs.
        remarks: what a user must know of how the network was read; verdicts repeat them.
        input_ports, output_ports: the named tensors that the flat input and output consist of, one each as a rule.
        models: the networks that this one was made of (`verifier.network.joint`), each with the places of its inputs
            among these; the outputs are theirs, followed by ``products``: for each, positions among inputs and outputs.

    Raises:
        NetworkError: shapes that do not fit, names used twice, more than one output.
    """

    nodes: tuple[Node, ...]
    output: str
    source: str = ""
    model_file: str = ""
    integer_inputs: bool = False
    domain: tuple[Array, Array] | None = None
    tail: Tail | None = None
    remarks: tuple[str, ...] = ()
    input_ports: tuple[Port, ...] = ()
    output_ports: tuple[Port, ...] = ()
    models: tuple[tuple[Network, npt.NDArray[np.int64]], ...] = ()
    products: tuple[tuple[int, ...], ...] = ()
    _index: Mapping[str, int] = field(init=False, repr=False)

    _drawn_by = "verifier.report.network:network_plot"

    def _facts(self) -> tuple[str, dict[str, str]]:
        sizes = " → ".join("×".join(map(str, shape)) for shape in (self.input_shape, self.output_shape))
        facts = {"shape": sizes, "nodes": f"{len(self.nodes)}", "neurons": f"{self.neurons:,}"}
        return f"Network {self.source or 'built in Python'}", facts

    def __post_init__(self) -> None:
        index: dict[str, int] = {}
        for k, node in enumerate(self.nodes):
            if node.name in index:
                raise NetworkError(f"two nodes are named {node.name!r}", place=self.source)
            for name in node.inputs:
                if name not in index:
                    raise NetworkError(f"node {node.name!r} uses {name!r} before it is computed", place=self.source)
            index[node.name] = k
        if not self.nodes or not isinstance(self.nodes[0].operator, Input):
            raise NetworkError("the first node must be the input", place=self.source)
        if sum(isinstance(n.operator, Input) for n in self.nodes) != 1:
            raise NetworkError("a network has exactly one input", place=self.source)
        if self.output not in index:
            raise NetworkError(f"there is no output node {self.output!r}", place=self.source)
        object.__setattr__(self, "_index", index)
        if not self.input_ports:
            object.__setattr__(self, "input_ports", in_turn([(self.input, self.input_shape)]))
        if not self.output_ports:
            object.__setattr__(self, "output_ports", in_turn([(self.output, self.output_shape)]))

    # -- structure ---------------------------------------------------------------------------------------
    def __getitem__(self, name: str) -> Node:
        try:
            return self.nodes[self._index[name]]
        except KeyError:
            raise InputError(
                f"there is no node {name!r}", place=self.source, fix=f"nodes: {', '.join(self._index)}"
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    @property
    def input(self) -> str:
        """Name of the input node."""
        return self.nodes[0].name

    @property
    def input_shape(self) -> Shape:
        """Shape of one input, without the batch."""
        return self.nodes[0].shape

    @property
    def output_shape(self) -> Shape:
        """Shape of one output, without the batch."""
        return self[self.output].shape

    @property
    def input_size(self) -> int:
        """Number of entries of one input."""
        return prod(self.input_shape)

    @property
    def output_size(self) -> int:
        """Number of entries of one output."""
        return prod(self.output_shape)

    @cached_property
    def activations(self) -> tuple[Node, ...]:
        """The nodes whose operator is not affine, in topological order."""
        return tuple(n for n in self.nodes if isinstance(n.operator, Activation))

    @property
    def neurons(self) -> int:
        """Number of outputs of activations (ReLU, MaxPool and the like)."""
        return sum(n.size for n in self.activations)

    @cached_property
    def is_relu_only(self) -> bool:
        """Whether every activation is a ReLU."""
        return all(isinstance(n.operator, PiecewiseLinear) and n.operator.is_relu for n in self.activations)

    @cached_property
    def is_piecewise_linear(self) -> bool:
        """Whether every activation is affine on pieces that meet: no curved function, no product, no jump."""
        return all(isinstance(n.operator, PiecewiseOperator) for n in self.activations)

    @cached_property
    def is_curved(self) -> bool:
        """Whether a value may be irrational: replays then use enclosures (`verifier.network.enclosure`)."""
        return any(isinstance(n.operator, Curved) for n in self.nodes)

    # -- evaluation --------------------------------------------------------------------------------------
    def batch(self, x: npt.ArrayLike | Mapping[str, npt.ArrayLike]) -> tuple[Array, bool]:
        """``x`` as a float64 batch ``(batch, *input_shape)``, and whether it was a single input.

        Accepts ``input_shape``, ``(batch, *input_shape)``, ``(input_size,)`` and ``(batch, input_size)``; and the
        tensors of one input by their names (`input_ports`).

        Raises:
            InputError: for any other shape, and for NaN.
        """
        if isinstance(x, Mapping):
            x = self.pack(x)
        array = np.asarray(x, dtype=np.float64)
        if np.isnan(array).any():
            raise InputError("the input contains NaN", place=self.source)
        shape = self.input_shape
        if array.shape == shape or array.shape == (self.input_size,):
            return array.reshape(1, *shape), True
        if array.shape[1:] == shape or array.shape[1:] == (self.input_size,):
            return array.reshape(-1, *shape), False
        raise InputError(
            f"an input of shape {array.shape} does not fit the network",
            place=self.source,
            fix=f"expected {shape}, ({self.input_size},), or a batch of these",
        )

    def pack(self, tensors: Mapping[str, npt.ArrayLike]) -> Array:
        """The flat input ``(input_size,)`` with these tensors, by the names of `input_ports`.

        Raises:
            InputError: a name that is missing or unknown, or a size that does not fit.
        """
        return packed(self.input_ports, tensors, self.input_size, self.source)

    def values(
        self, x: npt.ArrayLike | Mapping[str, npt.ArrayLike], names: Iterable[str] | None = None
    ) -> dict[str, Array]:
        """The values of the named nodes (all, if None), each ``(batch, *shape)``; a single input is a batch of one."""
        wanted = None if names is None else set(names)
        if wanted is not None:
            for name in wanted:
                self[name]
        batch, _ = self.batch(x)
        computed: dict[str, Array] = {self.input: batch}
        for node in self.nodes[1:]:
            computed[node.name] = node.operator.forward(*(computed[i] for i in node.inputs))
        return computed if wanted is None else {n: computed[n] for n in computed if n in wanted}

    def forward(self, x: npt.ArrayLike | Mapping[str, npt.ArrayLike]) -> Array:
        """The network's output: ``(batch, *output_shape)``, or ``output_shape`` for a single input."""
        batch, single = self.batch(x)
        last_use: dict[str, int] = {}
        for k, node in enumerate(self.nodes):
            for name in node.inputs:
                last_use[name] = k
        computed: dict[str, Array] = {self.input: batch}
        for k, node in enumerate(self.nodes[1:], start=1):
            computed[node.name] = node.operator.forward(*(computed[i] for i in node.inputs))
            for name in set(node.inputs):
                if last_use[name] == k and name != self.output:
                    del computed[name]
        y = computed[self.output]
        return y[0] if single else y

    __call__ = forward

    def preactivations(self, x: npt.ArrayLike) -> dict[str, Array]:
        """For each activation, by its name: the values that go into it, ``(batch, *shape)``."""
        values = self.values(x)
        return {n.name: values[n.inputs[0]] for n in self.activations}

    def pattern(self, x: npt.ArrayLike) -> dict[str, npt.NDArray[np.int16]]:
        """The activation pattern: for each piecewise-linear node the piece each neuron is on, ``(batch, *shape)``."""
        values = self.values(x)
        return {n.name: _piecewise(n).pattern(values[n.inputs[0]]) for n in self.activations}

    def gradient(self, x: npt.ArrayLike, output: int | Sequence[float] | Array, wrt: str | None = None) -> Array:
        """Gradient of an output, or a linear combination of outputs, with respect to a node's value.

        At kinks the gradient convention of `verifier.network.piecewise` (PyTorch's) applies.

        Args:
            x: one input or a batch.
            output: index into the flattened output, or one coefficient per flattened output.
            wrt: a node's name; the input by default.

        Returns:
            ``(batch, *shape of wrt)``, or the shape of ``wrt`` for a single input.
        """
        _, single = self.batch(x)
        gradients = self.gradients(x, output)
        target = self.input if wrt is None else self[wrt].name
        g = gradients[target]
        return g[0] if single else g

    def gradients(self, x: npt.ArrayLike, output: int | Sequence[float] | Array) -> dict[str, Array]:
        """Like `gradient`, for every node at once: ``{name: (batch, *shape)}``."""
        values = self.values(x)
        count = len(values[self.input])
        return self.backward(values, np.broadcast_to(self.output_weights(output), (count, self.output_size)))

    def backward(self, values: Mapping[str, Array], seed: Array) -> dict[str, Array]:
        """Gradients with a combination of outputs of its own for each input of a batch.

        Args:
            values: what `values` returned for the batch.
            seed: ``(batch, m)`` coefficients of the flattened outputs.

        Returns:
            ``{name: (batch, *shape)}`` for every node.
        """
        count = len(seed)
        gradients: dict[str, Array] = {self.output: np.array(seed).reshape(count, *self.output_shape)}
        for node in reversed(self.nodes[1:]):
            upstream = gradients.get(node.name)
            if upstream is None:
                continue
            if isinstance(node.operator, AffineOperator):
                shapes = [self[i].shape for i in node.inputs]
                parts = node.operator.transpose(upstream, *shapes)
            else:
                assert isinstance(node.operator, Activation)
                parts = (node.operator.vjp(upstream, values[node.inputs[0]]),)
            for name, part in zip(node.inputs, parts, strict=True):
                gradients[name] = gradients[name] + part if name in gradients else part
        for node in self.nodes:
            if node.name not in gradients:
                gradients[node.name] = np.zeros((count, *node.shape))
        return gradients

    def output_weights(self, output: int | Sequence[float] | Array) -> Array:
        """One coefficient per flattened output: a unit vector for an index, else the checked coefficients.

        Raises:
            InputError: an output that does not exist, or another number of coefficients.
        """
        if isinstance(output, (int, np.integer)):
            if not 0 <= output < self.output_size:
                raise InputError(f"output {output} does not exist", fix=f"outputs are 0 to {self.output_size - 1}")
            weights = np.zeros(self.output_size)
            weights[output] = 1.0
            return weights
        weights = np.asarray(output, dtype=np.float64).reshape(-1)
        if weights.shape != (self.output_size,):
            raise InputError(f"{weights.size} output coefficients for {self.output_size} outputs")
        return weights


def _piecewise(node: Node) -> PiecewiseOperator:
    if not isinstance(node.operator, PiecewiseOperator):
        raise UnsupportedOperatorError(f"{type(node.operator).__name__} has no pieces", place=f"node {node.name!r}")
    return node.operator


class NetworkBuilder:
    """Builds a `Network` node by node, computing and checking the shapes.

    Example:
        >>> from verifier.network.operators import Dense
        >>> from verifier.network.piecewise import relu
        >>> builder = NetworkBuilder((2,))
        >>> hidden = builder.add(Dense(np.array([[1.0, -1.0]]), np.zeros(1)))
        >>> active = builder.add(relu(), hidden)
        >>> builder.build(active)
        <Network built in Python, shape 2 → 1, nodes 3, neurons 1>
    """

    def __init__(self, input_shape: Shape, *, input_name: str = "input", source: str = "") -> None:
        self.source = source
        self._nodes = {input_name: Node(input_name, Input(tuple(input_shape)), (), tuple(input_shape))}
        self._last = input_name

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the nodes added so far."""
        return tuple(self._nodes)

    def shape(self, name: str) -> Shape:
        """Shape of a node added before."""
        return self._nodes[name].shape

    def node(self, name: str) -> Node:
        """A node added before."""
        return self._nodes[name]

    def add(self, operator: Operator, *inputs: str, name: str | None = None) -> str:
        """Append an operator (on the last node added, if no inputs are named) and return the node's name.

        Raises:
            NetworkError: naming the node, if the shapes do not fit or a weight is NaN or infinite.
        """
        inputs = inputs or (self._last,)
        if name is None:
            stem = getattr(operator, "label", type(operator).__name__).lower()
            name = next(n for n in (f"{stem}_{k}" for k in range(1, len(self._nodes) + 1)) if n not in self._nodes)
        place = f"{self.source}: node {name!r}" if self.source else f"node {name!r}"
        for field_name, value in vars(operator).items():
            if isinstance(value, np.ndarray) and value.dtype.kind == "f" and not np.isfinite(value).all():
                raise NetworkError(f"{field_name} contains NaN or infinity", place=place)
        try:
            shape = operator.output_shape(*(self._nodes[i].shape for i in inputs))
        except NetworkError as error:
            raise NetworkError(error.problem, place=place, fix=error.fix) from None
        self._nodes[name] = Node(name, operator, tuple(inputs), shape)
        self._last = name
        return name

    def build(self, output: str | None = None) -> Network:
        """The network with this output (the last node added, by default); nodes it does not need are left out."""
        output = output or self._last
        needed, stack = set(), [output]
        while stack:
            name = stack.pop()
            if name not in needed:
                needed.add(name)
                stack.extend(self._nodes[name].inputs)
        needed.add(next(iter(self._nodes)))
        return Network(tuple(n for n in self._nodes.values() if n.name in needed), output, self.source)


@checked
def feedforward(
    weights: Sequence[npt.ArrayLike],
    biases: Sequence[npt.ArrayLike],
    *,
    activation: PiecewiseOperator | None = None,
    source: str = "",
) -> Network:
    """A fully connected network with one activation (ReLU by default) between its layers.

    Args:
        weights: one ``(outputs, inputs)`` matrix per layer.
        biases: one ``(outputs,)`` vector per layer.
        activation: after every layer but the last; a ReLU by default (`verifier.network.piecewise` has others).
        source: what messages call the network.

    Raises:
        NetworkError: shapes that do not fit each other, NaN or infinity.

    Example:
        >>> import numpy as np, verifier
        >>> network = verifier.feedforward([[[1, -1], [-1, 1]], np.eye(2)], [np.zeros(2), np.zeros(2)])
        >>> network([0.9, 0.1])
        array([0.8, 0. ])
    """
    from verifier.network.operators import Dense
    from verifier.network.piecewise import relu

    layers = [[np.asarray(a, dtype=np.float64) for a in layer] for layer in zip(weights, biases, strict=True)]
    if not layers or any(w.ndim != 2 or b.shape != w.shape[:1] for w, b in layers):
        shown = ", ".join(f"{w.shape} with {b.shape}" for w, b in layers) or "none"
        raise NetworkError("layers are matrices (outputs, inputs) with biases (outputs,)", fix=f"these are: {shown}")
    builder = NetworkBuilder((layers[0][0].shape[1],), source=source)
    for k, (w, b) in enumerate(layers):
        builder.add(Dense(w, b))
        if k < len(layers) - 1:
            builder.add(activation or relu())
    return builder.build()
