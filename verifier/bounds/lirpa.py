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
from torch import Tensor, nn

from verifier.bounds.bound import Bound, NetworkBounds
from verifier.bounds.interval import interval_bounds, interval_gradient_bounds
from verifier.bounds.lirpa_compat import load
from verifier.bounds.lirpa_modules import Gradients, Values
from verifier.errors import EngineError, TimeLimitError
from verifier.limits import poll
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.network.piecewise import PiecewiseOperator
from verifier.options import BOUND_STEPS
from verifier.properties.sets import Box

SLACK = 1e-11
"""Relative widening of auto_LiRPA's results, per magnitude of the interval bound."""

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
    steps: int = BOUND_STEPS,
    chunk: int = 512,
) -> NetworkBounds:
    """Bounds on every node's value from auto_LiRPA, intersected with interval bounds.

    Bounded one by one, each from the bounds of those before: what goes into an activation, sums and the output.
    The other nodes follow from these without loss.

    Args:
        method: "crown" or "alpha-crown".
        known: sound bounds to start from, intersected with.
        steps: of the slopes' optimisation, for "alpha-crown".
        chunk: how many entries of a node are bounded at once (limits the memory of convolutional networks).

    Raises:
        EngineError: if auto_LiRPA is not installed or fails.
        UnsupportedOperatorError: for an operator that would need too large a matrix.

    Source:
        auto_LiRPA: Xu et al., NeurIPS 2020; α-CROWN: Xu et al., ICLR 2021.
    """
    start = interval_bounds(network, box) if known is None else known
    found: dict[str, Bound] = {}
    wrapped = _Wrapped(Values(network), box.lower, box.upper, network.input_shape, chunk, steps)
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

    Shapes: output ``(outputs,)``, if it is no index.

    Args:
        output: index into the flattened output, or one coefficient per flattened output.
        values: bounds on every node's value that hold on the input set, from any method.

    Raises:
        EngineError: auto_LiRPA is not installed, or fails.

    Source:
        auto_LiRPA: Xu et al., NeurIPS 2020; on gradients: Shi et al., NeurIPS 2022.
    """
    weights = network.output_weights(output)
    found = dict(interval_gradient_bounds(network, weights, values))
    module = Gradients(network, values)
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
        self, module: nn.Module, lower: Array, upper: Array, shape: tuple[int, ...], chunk: int, steps: int
    ) -> None:
        package = load()
        low, high = (torch.tensor(end.reshape(1, *shape)) for end in (lower, upper))
        options = {**OPTIONS, "crown_batch_size": chunk, "optimize_bound_args": {"iteration": steps}}
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
        inner = self.module.compute_bounds

        def polled(*args: Any, **kwargs: Any) -> Any:  # the optimisation calls it again for every step
            poll("while auto_LiRPA computed bounds")
            return inner(*args, **kwargs)

        self.module.compute_bounds = polled
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
                except TimeLimitError:
                    raise
                except Exception as error:
                    raise EngineError(f"auto_LiRPA failed on node {name!r}: {error!r}") from error
            lowers.append(lower.detach().numpy().reshape(-1))
            uppers.append(upper.detach().numpy().reshape(-1))
        return np.concatenate(lowers), np.concatenate(uppers)


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
