"""CROWN and α-CROWN bounds on values, and CROWN bounds on gradients, computed by auto_LiRPA.

A second, independent implementation beside the kernels of this package (Xu et al., *Automatic Perturbation Analysis
for Scalable Certified Robustness and Beyond*, NeurIPS 2020; *Fast and Complete*, ICLR 2021). Its arithmetic has
no proved bound on rounding errors: every result is widened by `SLACK`, relative to the magnitudes involved,
and intersected with interval arithmetic.

The gradient is bounded on an explicit backward graph (auto_LiRPA 0.3 has no Jacobian operator) with one
operator of our own, the gate: ``y = s · g`` with a slope s between given ends, bounded by chords.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verifier.bounds.bound import Bound, NetworkBounds
from verifier.bounds.interval import interval_bounds, interval_gradient_bounds
from verifier.bounds.lirpa_compat import load
from verifier.bounds.phases import Slopes, Winners, phases
from verifier.errors import EngineError, UnsupportedOperatorError
from verifier.network.graph import Network, Node
from verifier.network.operators import (
    AffineOperator,
    Array,
    Concat,
    Conv,
    Dense,
    Reshape,
    Scale,
    Sum,
)
from verifier.network.piecewise import MaxPool, PiecewiseLinear, PiecewiseOperator
from verifier.properties.sets import Box

SLACK = 1e-11
"""Relative widening of auto_LiRPA's results, per magnitude of the interval bound."""

MATRIX_LIMIT = 1 << 25
"""Entries of a matrix that an operator without a torch counterpart may become."""

OPTIONS: dict[str, Any] = {
    "conv_mode": "matrix",  # 'patches' raises IndexError in get_sparse_C on graphs that are not convolutional
    "sparse_features_alpha": False,  # True crashes when more than 90 % of the neurons are unstable
    "sparse_intermediate_bounds": False,
    "sparse_conv_intermediate_bounds": False,
    "verbosity": 0,
}


def lirpa_bounds(
    network: Network,
    box: Box,
    method: str = "crown",
    *,
    known: NetworkBounds | None = None,
    iterations: int = 20,
    chunk: int = 512,
) -> NetworkBounds:
    """Bounds on every node's value from auto_LiRPA, intersected with interval bounds.

    Bounded one by one, each from the bounds of those before: what goes into an activation, sums and the output.
    The other nodes follow from these without loss.

    Args:
        method: "crown" or "alpha-crown".
        known: sound bounds to start from, intersected with.
        iterations: steps of the slopes' optimisation, for "alpha-crown".
        chunk: how many entries of a node are bounded at once (limits the memory of convolutional networks).

    Raises:
        EngineError: if auto_LiRPA is not installed or fails.
        UnsupportedOperatorError: for an operator that would need too large a matrix.
    """
    start = interval_bounds(network, box) if known is None else known
    found: dict[str, Bound] = {}
    wrapped = _Wrapped(_Values(network), box.lower, box.upper, network.input_shape, chunk, iterations)
    wanted = {network.output, *(n.inputs[0] for n in network.activations)}
    bent: set[str] = set()
    for index, node in enumerate(network.nodes[1:]):
        optimizable = any(i in bent for i in node.inputs)  # else there are no slopes to optimise, and it fails
        if optimizable or isinstance(node.operator, PiecewiseOperator):
            bent.add(node.name)
        if node.name in wanted or len(node.inputs) > 1:
            lower, upper = wrapped.bounds(index, method if optimizable else "crown")
            found[node.name] = _combine(start[node.name], lower, upper)
            wrapped.keep(index, found[node.name])
    bounds = NetworkBounds(found, f"lirpa {method}")
    result = interval_bounds(network, box, known=bounds, method=bounds.method)
    return result if known is None else known.intersect(result)


def lirpa_gradient_bounds(
    network: Network, output: int | Array, values: NetworkBounds, *, chunk: int = 512
) -> NetworkBounds:
    """CROWN bounds on the gradient of an output with respect to every node, intersected with interval bounds.

    Args:
        output: index into the flattened output, or one coefficient per flattened output.
        values: bounds on every node's value that hold on the input set, from any method.
    """
    weights = network.output_weights(output)
    found = dict(interval_gradient_bounds(network, weights, values))
    module = _Gradients(network, values)
    if module.order:
        wrapped = _Wrapped(module, weights, weights, network.output_shape, chunk, 0)
        for index, name in enumerate(module.order):
            lower, upper = wrapped.bounds(index, "crown")
            found[name] = _combine(found[name], lower, upper)
            wrapped.keep(index, found[name])
    return NetworkBounds(found, "lirpa crown")


def _combine(interval: Bound, lower: Array, upper: Array) -> Bound:
    slack = SLACK * (1 + np.maximum(np.abs(interval.lower), np.abs(interval.upper)))
    shape = interval.lower.shape
    return interval.intersect(Bound(lower.reshape(shape) - slack, upper.reshape(shape) + slack))


class _Wrapped:
    """A module whose output is the concatenation of many nodes, as a BoundedModule over a box of inputs."""

    def __init__(
        self, module: nn.Module, lower: Array, upper: Array, shape: tuple[int, ...], chunk: int, iterations: int
    ) -> None:
        package = load()
        low, high = (torch.tensor(end.reshape(1, *shape)) for end in (lower, upper))
        options = {**OPTIONS, "crown_batch_size": chunk, "optimize_bound_args": {"iteration": iterations}}
        self.chunk = chunk
        with _quiet():
            try:
                self.module = package.BoundedModule(
                    module.eval(), low, bound_opts=options, device="cpu", custom_ops={"verifier::Gate": _gate()}
                )
                perturbation = package.PerturbationLpNorm(norm=np.inf, x_L=low, x_U=high)
                self.input = (package.BoundedTensor((low + high) / 2, perturbation),)
                self.module(*self.input)
            except Exception as error:
                raise EngineError(f"auto_LiRPA cannot represent the network: {error!r}") from error
        self.parts = self.module[self.module.final_name].inputs
        self.known: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(self, index: int, bound: Bound) -> None:
        """Later bounds start from this bound on a part, in the node's own shape."""
        node = self.parts[index].inputs[0]
        ends = (torch.tensor(end).reshape(node.output_shape) for end in (bound.lower, bound.upper))
        self.known[node.name] = (next(ends), next(ends))

    def bounds(self, index: int, method: str) -> tuple[Array, Array]:
        """Bounds on one part of the concatenation, flat."""
        name = self.parts[index].name
        size = int(self.module[name].output_shape[1])
        lowers, uppers = [], []
        for start in range(0, size, self.chunk):
            count = min(self.chunk, size - start)
            rows = torch.zeros(1, count, size, dtype=torch.float64)
            rows[0, torch.arange(count), start + torch.arange(count)] = 1.0
            with _quiet():
                try:
                    lower, upper = self.module.compute_bounds(
                        x=self.input,
                        C=rows,
                        method=method,
                        final_node_name=name,
                        intermediate_layer_bounds=dict(self.known),
                    )[:2]
                except Exception as error:
                    raise EngineError(f"auto_LiRPA failed on node {name!r}: {error!r}") from error
            lowers.append(lower.detach().numpy().reshape(-1))
            uppers.append(upper.detach().numpy().reshape(-1))
        return np.concatenate(lowers), np.concatenate(uppers)


class _Values(nn.Module):
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
        if isinstance(operator, Conv):
            top, left, bottom, right = operator.padding
            if (top, left) != (bottom, right):
                x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
            return F.conv2d(
                x, constant("weight"), constant("bias"), operator.stride, (top, left), operator.dilation, operator.groups
            )
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


class _Gradients(nn.Module):
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


@cache
def _gate() -> type:
    """The gate's relaxation, as auto_LiRPA's class of operators wants it."""
    load()
    from auto_LiRPA.bound_ops import Bound as BoundOperator

    class BoundGate(BoundOperator):  # type: ignore[misc]
        def __init__(self, attr: Any, inputs: Any, output_index: Any, options: Any) -> None:
            super().__init__(attr, inputs, output_index, options)
            self.requires_input_bounds = [0]

        def forward(self, g: Tensor, low: Tensor, high: Tensor) -> Tensor:
            return g * high

        def interval_propagate(self, *v: Any) -> Any:
            g, low, high = v[0], v[1][0], v[2][0]
            products = torch.stack([e * s for e in (g[0], g[1]) for s in (low, high)])
            return products.min(dim=0).values, products.max(dim=0).values

        def bound_backward(self, last_lA: Any, last_uA: Any, g: Any, low: Any, high: Any, **_: Any) -> Any:
            s1, s2, lower, upper = low.value, high.value, g.lower, g.upper
            width = torch.where(upper > lower, upper - lower, 1.0)
            p = torch.where(lower >= 0, 1.0, torch.where(upper <= 0, 0.0, upper / width))
            r = torch.where((lower < 0) & (upper > 0), -lower * p, 0.0)
            rising, falling = s1 * p + s2 * (1 - p), s2 * p + s1 * (1 - p)

            def side(last: Any, below: bool) -> tuple[Any, Any]:
                if last is None:
                    return None, 0
                positive, negative = last.clamp(min=0), last.clamp(max=0)
                first, second = (rising, falling) if below else (falling, rising)
                bias = ((positive - negative) * ((s2 - s1) * r)).sum(dim=-1)
                return positive * first + negative * second, -bias if below else bias

            (lower_rows, lower_bias), (upper_rows, upper_bias) = side(last_lA, True), side(last_uA, False)
            none = (None, None)
            return [(lower_rows, upper_rows), none, none], lower_bias, upper_bias

    return BoundGate


def _constants(node: Node, shapes: list[tuple[int, ...]]) -> dict[str, Array]:
    """The tensors that a node's value needs in torch, by a key."""
    operator = node.operator
    if isinstance(operator, (Dense, Conv)) and (isinstance(operator, Conv) or len(shapes[0]) == 1):
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


@contextmanager
def _quiet() -> Iterator[None]:
    """For calls into auto_LiRPA: float64 where it leaves the type to torch, and no warnings about its old ways."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        torch.set_default_dtype(before)
