"""Affine operators that follow each other, as one where nothing is rounded by that."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from verifier.network.convolution import Conv
from verifier.network.graph import Network, NetworkBuilder
from verifier.network.operators import Array, Dense, Operator, Reshape, Scale
from verifier.network.reduction import Reduced, Reduction, built


@dataclass(frozen=True)
class AbsorbShifts(Reduction):
    """A product and the constant that is added to it as one operator, and reshapes of reshapes; exact.

    Files spell biases so. Products of weights are left as they are: each would be rounded.
    """

    def accepts(self, network: Network) -> bool:
        return any(isinstance(n.operator, (Scale, Reshape)) for n in network.nodes)

    def apply(self, network: Network) -> Reduced:
        uses = Counter(name for node in network for name in node.inputs)
        uses[network.output] += 1
        steps: dict[str, tuple[Operator, tuple[str, ...]]] = {}
        for node in network.nodes[1:]:
            operator, inputs = node.operator, node.inputs
            if len(inputs) == 1 and inputs[0] in steps and uses[inputs[0]] == 1:
                first, sources = steps[inputs[0]]
                merged = _merged(first, operator) if len(sources) == 1 else None
                if merged is not None:
                    del steps[inputs[0]]
                    operator, inputs = merged, sources
            steps[node.name] = (operator, inputs)
        if len(steps) == len(network.nodes) - 1:
            return Reduced.unchanged(network)
        builder = NetworkBuilder(network.input_shape, input_name=network.input, source=network.source)
        for name, (operator, inputs) in steps.items():
            builder.add(operator, *inputs, name=name)
        return built(network, builder, network.output, True, {name: name for name in builder.names})


def _merged(first: Operator, second: Operator) -> Operator | None:
    """``second`` after ``first`` as one operator; None if that would round, or there is none."""
    if isinstance(first, Reshape) and isinstance(second, Reshape):
        return second
    if not isinstance(second, Scale):
        return None
    if isinstance(first, Scale) and (second.scale == 1).all() and (first.shift == 0).all():
        return replace(first, shift=second.shift)
    if isinstance(first, Dense | Conv) and (second.scale == 1).all() and (first.bias == 0).all():
        dense = isinstance(first, Dense)
        shift = (
            second.shift.reshape(-1, second.shift.shape[-1]).T if dense else second.shift.reshape(len(first.bias), -1)
        )
        if (shift == shift[:, :1]).all():
            return _with_bias(first, shift[:, 0].copy())
    return None


def _with_bias(operator: Dense | Conv, bias: Array) -> Operator:
    if isinstance(operator, Conv):
        return replace(operator, bias=bias)
    sparse = operator.sparse_weight
    return Dense(operator.weight if sparse is None else sparse, bias)  # type: ignore[arg-type]
