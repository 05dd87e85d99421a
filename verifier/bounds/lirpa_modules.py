"""A network, and the backward graph of its gradient, as torch modules whose every operator auto_LiRPA can bound."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verifier.bounds.bound import NetworkBounds
from verifier.bounds.phases import phases
from verifier.bounds.relaxation import Slopes, Winners
from verifier.errors import UnsupportedOperatorError
from verifier.network.convolution import Conv
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator, Array, Concat, Dense, Reshape, Scale, Sum
from verifier.network.piecewise import MaxPool, PiecewiseLinear

MATRIX_LIMIT = 1 << 25
"""Entries of a matrix that an operator without a torch counterpart may become."""


class Values(nn.Module):
    """The network in torch, float64; its output is all nodes' values, flattened and concatenated."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        for node in network.nodes[1:]:
            shapes = [network[i].shape for i in node.inputs]
            for key, array in _constants(node, shapes).items():
                self.register_parameter(_key(network, node, key), _parameter(array))

    def forward(self, x: Tensor) -> Tensor:
        values = {self.network.input: x}
        for node in self.network.nodes[1:]:
            values[node.name] = self._apply_node(node, [values[i] for i in node.inputs])
        return torch.cat([values[n.name].reshape(-1, n.size) for n in self.network.nodes[1:]], dim=1)

    def _apply_node(self, node: Node, inputs: list[Tensor]) -> Tensor:
        operator, x = node.operator, inputs[0]

        def constant(key: str) -> Tensor:
            return getattr(self, _key(self.network, node, key))  # type: ignore[no-any-return]

        if isinstance(operator, Dense) and x.dim() == 2:
            return F.linear(x, constant("weight"), constant("bias"))
        if isinstance(operator, Conv) and _is_symmetric(operator):
            kernel, bias, padding = constant("weight"), constant("bias"), operator.padding[:2]
            return F.conv2d(x, kernel, bias, operator.stride, padding, operator.dilation, operator.groups)
        if isinstance(operator, Scale):
            return x * constant("scale") + constant("shift")
        if isinstance(operator, Sum):
            total = x if operator.signs[0] > 0 else x * constant("minus")
            for sign, other in zip(operator.signs[1:], inputs[1:], strict=True):
                total = total + other if sign > 0 else total - other
            return total
        if isinstance(operator, Concat):
            return torch.cat(inputs, dim=operator.axis + 1)
        if isinstance(operator, Reshape):
            return x.reshape(-1, *operator.shape)
        if isinstance(operator, AffineOperator):
            flat = F.linear(x.reshape(-1, self.network[node.inputs[0]].size), constant("matrix"), constant("constant"))
            return flat.reshape(-1, *node.shape)
        if isinstance(operator, MaxPool):
            if _is_plain(operator):
                return F.max_pool2d(x, operator.kernel, operator.stride)
            flat, k = x.reshape(-1, self.network[node.inputs[0]].size), operator.kernel[0] * operator.kernel[1]
            largest = F.linear(flat, constant("window_0"))
            for j in range(1, k):
                largest = largest + F.relu(F.linear(flat, constant(f"window_{j}")) - largest)
            return largest.reshape(-1, *node.shape)
        assert isinstance(operator, PiecewiseLinear)
        if operator.is_relu:
            return F.relu(x)
        total = x * constant("slope") + constant("offset")
        for k in range(len(operator.breaks)):
            total = total + F.relu(x + constant(f"shift_{k}")) * constant(f"bend_{k}")
        return total


class Gradients(nn.Module):
    """The backward graph as a network from the output's coefficients; all nodes' gradients concatenated."""

    def __init__(self, network: Network, values: NetworkBounds) -> None:
        super().__init__()
        self.network = network
        pairs = {name: (bound.lower[None], bound.upper[None]) for name, bound in values.items()}
        self.possible = phases(network, pairs)
        reached = {network.output}
        for node in reversed(network.nodes):
            if node.name in reached:
                reached.update(node.inputs)
        self.nodes = [n for n in reversed(network.nodes) if n.name in reached]
        self.order = [n.name for n in self.nodes if n.name != network.output]
        for node in self.nodes:
            for key, array in self._phase_tensors(node).items():
                self.register_parameter(_key(network, node, key), _parameter(array))

    def _phase_tensors(self, node: Node) -> dict[str, Array]:
        phase = self.possible.get(node.name)
        if isinstance(phase, Slopes):
            return {"low": phase.smallest.reshape(1, -1), "high": phase.largest.reshape(1, -1)}
        if isinstance(phase, Winners):
            outputs, k = phase.windows.shape
            _check_size(node, self.network[node.inputs[0]].size * outputs * k)
            gather = np.repeat(np.eye(outputs), k, axis=0)
            scatter = np.zeros((self.network[node.inputs[0]].size, outputs * k))
            used = np.flatnonzero(phase.windows.reshape(-1) >= 0)
            scatter[phase.windows.reshape(-1)[used], used] = 1.0
            possible = phase.possible.reshape(1, -1).astype(np.float64)
            sure = np.repeat(phase.fixed, k, axis=1) * possible
            return {"low": sure, "high": possible, "gather": gather, "scatter": scatter}
        if isinstance(node.operator, AffineOperator):
            shapes = [self.network[i].shape for i in node.inputs]
            return {f"matrix_{j}": m.T for j, m in enumerate(_matrices(node, shapes))}
        return {}

    def forward(self, seed: Tensor) -> Tensor:
        gradients = {self.network.output: seed.reshape(-1, self.network.output_size)}
        for node in self.nodes:
            g = gradients[node.name]
            for j, name in enumerate(node.inputs):
                part = self._pass_back(node, g, j)
                gradients[name] = gradients[name] + part if name in gradients else part
        return torch.cat([gradients[name].reshape(-1, self.network[name].size) for name in self.order], dim=1)

    def _pass_back(self, node: Node, g: Tensor, j: int) -> Tensor:
        def constant(key: str) -> Tensor:
            return getattr(self, _key(self.network, node, key))  # type: ignore[no-any-return]

        phase = self.possible.get(node.name)
        if isinstance(phase, Slopes):
            return _gated(g, constant("low"), constant("high"))
        if isinstance(phase, Winners):
            spread = F.linear(g, constant("gather"))
            return F.linear(_gated(spread, constant("low"), constant("high")), constant("scatter"))
        return F.linear(g, constant(f"matrix_{j}"))


class _Gate(torch.autograd.Function):
    """``s · g`` with ``low <= s <= high``: a node of its own in the traced graph."""

    @staticmethod
    def symbolic(graph: Any, g: Any, low: Any, high: Any) -> Any:
        """Its name in the graph that auto_LiRPA reads."""
        return graph.op("verifier::Gate", g, low, high).setType(g.type())

    @staticmethod
    def forward(ctx: Any, g: Tensor, low: Tensor, high: Tensor) -> Tensor:  # type: ignore[override]
        """One of the possible values (auto_LiRPA needs some forward value)."""
        return g * high


def _gated(g: Tensor, low: Tensor, high: Tensor) -> Tensor:
    result: Tensor = _Gate.apply(g, low, high)  # type: ignore[no-untyped-call]
    return result


def _constants(node: Node, shapes: list[tuple[int, ...]]) -> dict[str, Array]:
    """The tensors that a node's value needs in torch, by a key."""
    operator = node.operator
    plain = isinstance(operator, Dense) and len(shapes[0]) == 1
    if isinstance(operator, (Dense, Conv)) and (plain or _is_symmetric(operator)):
        return {"weight": operator.weight, "bias": operator.bias}
    if isinstance(operator, Scale):
        return {"scale": operator.scale, "shift": operator.shift}
    if isinstance(operator, Sum):
        return {"minus": np.full(node.shape, -1.0)} if operator.signs[0] < 0 else {}
    if isinstance(operator, (Concat, Reshape)):
        return {}
    if isinstance(operator, AffineOperator):
        (matrix,) = _matrices(node, shapes)
        constant = operator.constant()
        spread = np.zeros(node.shape) if constant is None else np.broadcast_to(constant, node.shape)
        return {"matrix": matrix, "constant": spread.reshape(-1)}
    if isinstance(operator, MaxPool):
        return {} if _is_plain(operator) else _window_matrices(operator, shapes[0], node)
    if isinstance(operator, PiecewiseLinear) and not operator.is_relu:
        one = np.ones(node.shape)
        result = {"slope": operator.slopes[0] * one, "offset": operator.intercepts[0] * one}
        for k, b in enumerate(operator.breaks):
            result[f"shift_{k}"] = -b * one
            result[f"bend_{k}"] = (operator.slopes[k + 1] - operator.slopes[k]) * one
        return result
    return {}


def _is_symmetric(operator: Dense | Conv) -> bool:
    """Whether it is a convolution padded alike on both sides (auto_LiRPA 0.3 has no other, and no working Pad)."""
    return isinstance(operator, Conv) and operator.padding[:2] == operator.padding[2:]


def _is_plain(operator: MaxPool) -> bool:
    """Whether auto_LiRPA's own MaxPool can take it."""
    return operator.kernel == operator.stride and not any(operator.padding) and operator.dilation == (1, 1)


def _window_matrices(operator: MaxPool, shape: tuple[int, ...], node: Node) -> dict[str, Array]:
    """One selection matrix for each position in the window (a padded position repeats one that is inside)."""
    windows = operator.windows(shape)
    inside = np.take_along_axis(windows, np.argmax(windows >= 0, axis=1)[:, None], axis=1)
    filled = np.where(windows < 0, inside, windows)
    size = int(np.prod(shape))
    _check_size(node, len(filled) * size * filled.shape[1])
    return {f"window_{j}": np.eye(size)[filled[:, j]] for j in range(filled.shape[1])}


def _matrices(node: Node, shapes: list[tuple[int, ...]]) -> list[Array]:
    assert isinstance(node.operator, AffineOperator)
    for shape in shapes:
        _check_size(node, node.size * int(np.prod(shape)))
    return [m.toarray() for m in node.operator.matrices(*shapes)]


def _check_size(node: Node, entries: int) -> None:
    if entries > MATRIX_LIMIT:
        raise UnsupportedOperatorError(
            f"{type(node.operator).__name__} would become a matrix of {entries} entries for auto_LiRPA",
            place=f"node {node.name!r}",
            fix="use the default backend",
        )


def _parameter(array: Array) -> nn.Parameter:
    """A constant: as a parameter, because auto_LiRPA takes its data type from the first parameter it finds."""
    return nn.Parameter(torch.tensor(array, dtype=torch.float64), requires_grad=False)


def _key(network: Network, node: Node, key: str) -> str:
    """The name of a parameter (torch allows no dots in it)."""
    return f"n{network.nodes.index(node)}_{key}"
