"""Several networks as one: side by side over shared inputs, and products of inputs and outputs as further outputs.

A question about two networks (are they equivalent? does an output grow with an input?) is one about a single network that
computes both, so that bounds see what the two have in common. Plain chains of dense layers become one chain of block
matrices, which the fastest kernels take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.errors import NetworkError
from verifier.lazy import sp
from verifier.network.curved import Product, Smooth
from verifier.network.graph import Network, NetworkBuilder, Node
from verifier.network.operators import Array, Concat, Dense, Operator, Reshape, Select
from verifier.network.piecewise import PiecewiseLinear, relu
from verifier.network.ports import Port, in_turn

Index = npt.NDArray[np.int64]
Monomial = tuple[int, ...]
"""A product: positions of its factors, not decreasing, among the inputs followed by the outputs."""


@dataclass(frozen=True, eq=False)
class Model:
    """A network that a joint one contains.

    Attributes:
        name: what it is called in the question.
        network: as it was read.
        places: ``(input_size,)``: which of the joint inputs are its own.
    """

    name: str
    network: Network
    places: Index


def side_by_side(models: Sequence[Model], size: int) -> Network:
    """The network with ``size`` inputs whose output is that of all models, one after the other.

    Its ports are the models' own, called ``name.tensor``.

    Raises:
        NetworkError: some inputs are integers and others are not, or a last Softmax was left out of a model.
    """
    for model in models:
        if model.network.tail is not None:
            raise NetworkError(
                f"the last {model.network.tail.kind} was left out, which does not do for a comparison with another network",
                place=model.network.source,
                fix="load it without ordered=True",
            )
    whole = {model.network.integer_inputs for model in models}
    if len(whole) > 1:
        raise NetworkError("one network takes integers and another does not", fix="give both inputs of one type")
    inputs, outputs, start = list[Port](), list[Port](), 0
    for model in models:
        inputs += [Port(f"{model.name}.{p.name}", p.shape, model.places[p.places]) for p in model.network.input_ports]
        outputs += [Port(f"{model.name}.{p.name}", p.shape, p.places + start) for p in model.network.output_ports]
        start += model.network.output_size
    layers = [_layers(model) for model in models]
    known = [chain for chain in layers if chain is not None]
    made = _blocks(known, size) if len(known) == len(models) else _beside(models, size)
    remarks = dict.fromkeys(f"{m.name}: {remark}" for m in models for remark in m.network.remarks)
    return replace(
        made,
        integer_inputs=whole == {True},
        domain=_domain(models, size),
        remarks=tuple(remarks),
        input_ports=tuple(inputs),
        output_ports=tuple(outputs),
        models=tuple((m.network, m.places) for m in models),
        source=", ".join(f"{m.name}={m.network.source}" for m in models),
    )


def _domain(models: Sequence[Model], size: int) -> tuple[Array, Array] | None:
    """The inputs that all models are meant for."""
    low, high = np.full(size, -np.inf), np.full(size, np.inf)
    for model in models:
        if model.network.domain is not None:
            np.maximum.at(low, model.places, model.network.domain[0])
            np.minimum.at(high, model.places, model.network.domain[1])
    return (low, high) if np.isfinite(low).any() or np.isfinite(high).any() else None


def _beside(models: Sequence[Model], size: int) -> Network:
    builder, ends = NetworkBuilder((size,), input_name="inputs"), []
    for model in models:
        network = model.network
        names = {network.input: "inputs"}
        if network.input_shape != (size,) or not np.array_equal(model.places, np.arange(size)):
            index = model.places.reshape(network.input_shape)
            names[network.input] = builder.add(Select(index), "inputs", name=f"{model.name}/{network.input}")
        for node in network.nodes[1:]:
            sources = [names[i] for i in node.inputs]
            names[node.name] = builder.add(node.operator, *sources, name=f"{model.name}/{node.name}")
        end = names[network.output]
        if len(network.output_shape) != 1:
            end = builder.add(Reshape((network.output_size,)), end, name=f"{model.name}/flat")
        ends.append(end)
    if len(ends) > 1:
        builder.add(Concat(0), *ends, name="outputs")
    return builder.build()


def _layers(model: Model) -> list[tuple[Array, Array]] | None:
    """Weights and biases of a chain ``Dense, ReLU, …, Dense``, the first over the joint inputs' places; else None."""
    layers: list[tuple[Array, Array]] = []
    previous, rectified = model.network.input, True
    for node in model.network.nodes[1:]:
        if node.inputs != (previous,):
            return None
        previous, operator = node.name, node.operator
        if isinstance(operator, Reshape):
            continue
        if isinstance(operator, Dense) and rectified and operator.sparse_weight is None and len(node.shape) == 1:
            layers.append((operator.weight, operator.bias))
            rectified = False
        elif isinstance(operator, PiecewiseLinear) and operator.is_relu and not rectified:
            rectified = True
        else:
            return None
    shared = len(set(model.places.tolist())) < len(model.places)  # two of its inputs are one: weights would be added
    if rectified or shared or previous != model.network.output:
        return None
    return _placed(layers, model)


def _placed(layers: list[tuple[Array, Array]], model: Model) -> list[tuple[Array, Array]]:
    weight, bias = layers[0]
    spread = np.zeros((len(weight), int(model.places.max(initial=-1)) + 1))
    spread[:, model.places] = weight
    return [(spread, bias), *layers[1:]]


def _blocks(chains: Sequence[list[tuple[Array, Array]]], size: int) -> Network:
    """One chain of block matrices; a ReLU of a ReLU is the same, so that shorter chains are made longer."""
    depth = max(map(len, chains))
    long = []
    for chain in chains:
        width = chain[-1][0].shape[1]
        idle = [(np.eye(width), np.zeros(width))] * (depth - len(chain))
        long.append([*chain[:-1], *idle, chain[-1]])
    builder = NetworkBuilder((size,), input_name="inputs")
    for k in range(depth):
        parts = [chain[k] for chain in long]
        if k == 0:
            weight = np.concatenate([np.pad(w, ((0, 0), (0, size - w.shape[1]))) for w, _ in parts])
        else:
            weight = sp.block_diag([w for w, _ in parts]).toarray()
        builder.add(Dense(weight, np.concatenate([b for _, b in parts])), name=f"layer {k + 1}")
        if k < depth - 1:
            builder.add(relu(), name=f"relu {k + 1}")
    return builder.build()


# -- products --------------------------------------------------------------------------------------------
def with_products(network: Network, products: Sequence[Monomial]) -> Network:
    """The network with further outputs: products of its inputs and outputs.

    Args:
        products: each of at least two factors: positions among the inputs, followed by the outputs.
    """
    if not products:
        return network
    builder = _Products(network)
    made = builder.add_all(products)
    return replace(
        made,
        source=network.source,
        integer_inputs=network.integer_inputs,
        domain=network.domain,
        remarks=network.remarks,
        input_ports=network.input_ports,
        output_ports=(*network.output_ports, *_tail_ports(network, len(products))),
        models=network.models or ((network, np.arange(network.input_size)),),
        products=tuple(products),
    )


def _tail_ports(network: Network, count: int) -> tuple[Port, ...]:
    (port,) = in_turn([("products", (count,))])
    return (Port("products", port.shape, port.places + network.output_size),)


class _Products:
    """Adds the powers of single factors first, then products of different ones, each from a shorter one."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.builder = NetworkBuilder(network.input_shape, input_name=network.input)
        for node in network.nodes[1:]:
            self.builder.add(node.operator, *node.inputs, name=node.name)
        self.names: dict[str, None] = {}
        self.outputs = self._add(Reshape((network.output_size,)), network.output)
        inputs = self._add(Reshape((network.input_size,)), network.input)
        self.base = self._add(Concat(0), inputs, self.outputs)
        self.where: dict[Monomial, tuple[str, int]] = {
            (k,): (self.base, k) for k in range(network.input_size + network.output_size)
        }

    def _add(self, operator: Operator, *inputs: str) -> str:
        name = f"products/{len(self.names)}"
        self.names[name] = None
        return self.builder.add(operator, *inputs, name=name)

    def add_all(self, products: Sequence[Monomial]) -> Network:
        wanted = sorted({part for p in products for part in _steps(p)}, key=lambda p: (len(p), p))
        for degree in sorted({len(p) for p in wanted}):
            some = [p for p in wanted if len(p) == degree]
            powers = [p for p in some if len(set(p)) == 1]
            others = [p for p in some if len(set(p)) > 1]
            if powers:
                source = self._picked([(p[0],) for p in powers])
                self._remember(powers, self._add(Smooth("Power", (float(degree),)), source))
            if others:
                factors = [_parts(p)[side] for side in (0, 1) for p in others]
                halves = self._add(Reshape((2, len(others))), self._picked(factors))
                self._remember(others, self._add(Product(), halves))
        last = self._add(Concat(0), self.outputs, self._picked(list(products)))
        return self.builder.build(last)

    def _remember(self, made: Sequence[Monomial], name: str) -> None:
        self.where.update({p: (name, k) for k, p in enumerate(made)})

    def _picked(self, monomials: Sequence[Monomial]) -> str:
        """A node with these values."""
        sources = list(dict.fromkeys(self.where[p][0] for p in monomials))
        starts, start = {}, 0
        for name in sources:
            starts[name], start = start, start + self.builder.shape(name)[0]
        joined = sources[0] if len(sources) == 1 else self._add(Concat(0), *sources)
        index = np.array([starts[self.where[p][0]] + self.where[p][1] for p in monomials], dtype=np.int64)
        return self._add(Select(index), joined)


def _parts(product: Monomial) -> tuple[Monomial, Monomial]:
    """Two factors of a product of different variables: all powers of its last variable, and the rest."""
    last = tuple(k for k in product if k == product[-1])
    return product[: len(product) - len(last)], last


def _steps(product: Monomial) -> list[Monomial]:
    """The products that have to be made on the way, itself included."""
    if len(product) == 1:
        return []
    if len(set(product)) == 1:
        return [product]
    return [product, *(step for part in _parts(product) for step in _steps(part))]


# -- comparisons of files --------------------------------------------------------------------------------
def same_structure(first: Network, second: Network) -> str:
    """How the structure of two networks differs (kinds of operators, shapes, connections); "" if it does not."""
    if len(first.nodes) != len(second.nodes):
        return f"{len(first.nodes)} and {len(second.nodes)} operators"
    numbers = [{node.name: k for k, node in enumerate(n.nodes)} for n in (first, second)]
    for a, b in zip(first.nodes, second.nodes, strict=True):
        if type(a.operator) is not type(b.operator) or a.shape != b.shape:
            return f"{_shown(a)} and {_shown(b)}"
        if [numbers[0][i] for i in a.inputs] != [numbers[1][i] for i in b.inputs]:
            return f"{a.name} and {b.name} are connected otherwise"
    return ""


def same_function(first: Network, second: Network) -> bool:
    """Whether two networks are the same operators with the same numbers."""
    if same_structure(first, second):
        return False
    return all(_equal(vars(a.operator), vars(b.operator)) for a, b in zip(first.nodes, second.nodes, strict=True))


def _equal(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    def same(a: Any, b: Any) -> bool:
        if sp.issparse(a) or sp.issparse(b):
            a, b = (v.toarray() if sp.issparse(v) else v for v in (a, b))
        return bool(np.array_equal(a, b)) if isinstance(a, np.ndarray) else a == b

    names = [n for n in first if not n.startswith("_")]
    return names == [n for n in second if not n.startswith("_")] and all(same(first[n], second[n]) for n in names)


def _shown(node: Node) -> str:
    return f"{node.name} ({type(node.operator).__name__}, {'×'.join(map(str, node.shape))})"
