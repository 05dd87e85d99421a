"""Reductions of a network to an equal one that is easier to analyse; each carries its inverse.

All of them keep the input as it is, so a witness of the reduced network is a witness of the original one
(up to the rounding that is stated), and the replay always runs on the original.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np

from verifier.lazy import sp
from verifier.network.convolution import Conv
from verifier.network.graph import Network, NetworkBuilder, Node
from verifier.network.operators import Array, Dense, Operator, Reshape, Scale, Select, Shape, Sum
from verifier.network.piecewise import MaxPool, PiecewiseLinear, relu


@dataclass(frozen=True, eq=False)
class Reduced:
    """A network that computes the same function as another.

    Attributes:
        network: the reduced network.
        original: the network it stands for.
        exact: True if the two are equal as functions over the reals; False if weights were multiplied or
            added in float64, so that each new weight carries a relative rounding error of about
            ``k · 2^-53`` for sums of k products.
    """

    network: Network
    original: Network
    exact: bool

    def invert(self, x: Array) -> Array:
        """The original network's input for an input of the reduced one: the same."""
        return x


def simplify(network: Network) -> Reduced:
    """A network of affine operators and ReLUs only, with affine operators folded where it pays."""
    relus = activations_to_relu(maxpool_to_relu(network).network)
    folded = fold_affine(relus.network)
    return Reduced(folded.network, network, relus.exact and folded.exact)


# -- affine operators ------------------------------------------------------------------------------------
def absorb_shifts(network: Network) -> Network:
    """An equal network with every "multiply, then add a constant" as one operator, where nothing is rounded."""
    return _merge(network, exact_only=True)[0]


def fold_affine(network: Network) -> Reduced:
    """Consecutive affine operators become one where that does not make more weights.

    Normalisation goes into the Dense or Conv before or after it, Dense after Dense into one matrix (if it is
    not larger than the two), reshapes of reshapes into one. Products are float64: not exact in general.
    """
    reduced, exact = _merge(network, exact_only=False)
    return Reduced(reduced, network, exact)


def _merge(network: Network, *, exact_only: bool) -> tuple[Network, bool]:
    uses = Counter(name for node in network for name in node.inputs)
    uses[network.output] += 1
    steps: dict[str, tuple[Operator, tuple[str, ...]]] = {}
    renamed: dict[str, str] = {}
    exact, changed = True, False
    for node in network.nodes[1:]:
        inputs = tuple(renamed.get(i, i) for i in node.inputs)
        operator = node.operator
        if len(inputs) == 1 and inputs[0] in steps and uses[node.inputs[0]] == 1:
            first, sources = steps[inputs[0]]
            shape = network[sources[0]].shape if len(sources) == 1 else None
            merged = None if shape is None else _compose(first, operator, shape, node.shape)
            if merged is not None and (merged[1] or not exact_only):
                operator, exact_step = merged
                exact, changed = exact and exact_step, True
                del steps[inputs[0]]
                inputs = sources
        steps[node.name] = (operator, inputs)
    if not changed:
        return network, True
    builder = NetworkBuilder(network.input_shape, input_name=network.input, source=network.source)
    for name, (operator, inputs) in steps.items():
        builder.add(operator, *inputs, name=name)
    return builder.build(network.output), exact


def _compose(first: Operator, second: Operator, source: Shape, target: Shape) -> tuple[Operator, bool] | None:
    """``second`` after ``first`` as one operator, and whether that is exact; None if there is none or it costs."""
    if isinstance(first, Reshape) and isinstance(second, Reshape):
        return second, True
    if isinstance(second, Scale) and isinstance(first, (Dense, Conv)):
        return _scale_after(first, second)
    if isinstance(first, Scale) and isinstance(second, Scale):
        exact = bool((second.scale == 1).all() and (first.shift == 0).all())
        return Scale(second.scale * first.scale, second.scale * first.shift + second.shift), exact
    if isinstance(first, Scale) and isinstance(second, Dense) and len(source) == 1:
        weight = _weight(second)
        return Dense(_columns_scaled(weight, first.scale), second.bias + weight @ first.shift), False
    if isinstance(first, Scale) and isinstance(second, Conv):
        scale = first.scale.reshape(first.scale.shape[0], -1)
        padded = any(second.padding) and (first.shift != 0).any()
        shift = first.shift.reshape(first.shift.shape[0], -1)
        if second.groups == 1 and not padded and (scale == scale[:, :1]).all() and (shift == shift[:, :1]).all():
            bias = second.bias + np.einsum("oihw,i->o", second.weight, shift[:, 0])
            changed = Conv(
                second.weight * scale[:, 0][:, None, None], bias, second.stride, second.padding, second.dilation
            )
            return changed, False
    if isinstance(first, Dense) and isinstance(second, Dense):
        (middle, inputs), (outputs, _) = first.weight_shape, second.weight_shape
        sparse = first.sparse_weight is not None or second.sparse_weight is not None
        if not sparse and outputs * inputs <= middle * (inputs + outputs):
            return Dense(second.weight @ first.weight, second.weight @ first.bias + second.bias), False
    return None


def _scale_after(first: Dense | Conv, second: Scale) -> tuple[Operator, bool] | None:
    dense = isinstance(first, Dense)
    flat = [a.reshape(-1, a.shape[-1]).T if dense else a.reshape(a.shape[0], -1) for a in (second.scale, second.shift)]
    if any((a != a[:, :1]).any() for a in flat):
        return None
    scale, shift = flat[0][:, 0], flat[1][:, 0]
    plain = bool((scale == 1).all())
    exact = plain and bool((first.bias == 0).all())
    bias = shift if exact else scale * first.bias + shift
    if isinstance(first, Dense):
        weight = _weight(first)
        return Dense(weight if plain else _rows_scaled(weight, scale), bias), exact
    weight = first.weight if plain else first.weight * scale[:, None, None, None]
    return Conv(weight, bias, first.stride, first.padding, first.dilation, first.groups), exact


def _weight(dense: Dense) -> Array:
    """The weight in the form in which it is held."""
    held = dense.__dict__.get("weight")
    return dense.sparse_weight if held is None else held  # type: ignore[return-value]


def _rows_scaled(weight: Array, scale: Array) -> Array:
    return sp.diags_array(scale) @ weight if sp.issparse(weight) else weight * scale[:, None]


def _columns_scaled(weight: Array, scale: Array) -> Array:
    return weight @ sp.diags_array(scale) if sp.issparse(weight) else weight * scale


# -- piecewise-linear operators --------------------------------------------------------------------------
Rewriter = Callable[[NetworkBuilder, Node, str], "str | None"]


def _rewrite(network: Network, rewriter: Rewriter) -> Network:
    """The network with each node for which ``rewriter`` adds others (and returns the last one's name) replaced."""
    builder = NetworkBuilder(network.input_shape, input_name=network.input, source=network.source)
    names = {network.input: network.input}
    for node in network.nodes[1:]:
        inputs = [names[i] for i in node.inputs]
        made = rewriter(builder, node, inputs[0])
        names[node.name] = made if made is not None else builder.add(node.operator, *inputs, name=node.name)
    return builder.build(names[network.output])


def maxpool_to_relu(network: Network) -> Reduced:
    """Every MaxPool as a knockout of ``max(a, b) = a + relu(b - a)``; exact over the reals.

    A window of k entries takes ``k - 1`` ReLUs. At a tie the gradient goes to the first maximum, as in
    `MaxPool`.
    """
    return Reduced(_rewrite(network, _knockout), network, True)


def _knockout(builder: NetworkBuilder, node: Node, source: str) -> str | None:
    if not isinstance(node.operator, MaxPool):
        return None
    windows = node.operator.windows(builder.shape(source))
    # padding never wins: it is replaced by the window's first entry inside the image
    first = np.take_along_axis(windows, np.argmax(windows >= 0, axis=1)[:, None], axis=1)
    players = np.where(windows < 0, first, windows)
    current, round_number = source, 0
    while players.shape[1] > 1:
        count, size = players.shape
        half, name = (size + 1) // 2, f"{node.name}/round{round_number}"
        left = builder.add(Select(players[:, ::2]), current, name=f"{name}/left")
        # an entry without a partner meets itself
        partner = np.minimum(2 * np.arange(half) + 1, size - 1)
        right = builder.add(Select(players[:, partner]), current, name=f"{name}/right")
        difference = builder.add(Sum((1, -1)), right, left, name=f"{name}/difference")
        excess = builder.add(relu(), difference, name=f"{name}/excess")
        current = builder.add(Sum((1, 1)), left, excess, name=f"{name}/winner")
        players = np.arange(count * half, dtype=np.int64).reshape(count, half)
        round_number += 1
    if round_number == 0:
        return builder.add(Select(players.reshape(node.shape)), source, name=node.name)
    return builder.add(Reshape(node.shape), current, name=node.name)


def activations_to_relu(network: Network) -> Reduced:
    """Every elementwise function by ReLUs: LeakyReLU by one, Clip by one per finite end, |z| by two.

    Exact over the reals, up to the rounding of ``1 - slope`` and of ``high - low``. The gradient at the kinks is
    that of the convention; a general function (none of these) has there the slope of the piece on its left.
    """
    exact = True
    for node in network.activations:
        operator = node.operator
        if isinstance(operator, PiecewiseLinear) and not operator.is_relu and operator.label != "Abs":
            slopes, breaks = operator.slopes, operator.breaks
            jumps = all(_exact_difference(b, a) for a, b in pairwise(slopes))
            exact &= jumps and all(_exact_difference(b, a) for a, b in pairwise(breaks))
    return Reduced(_rewrite(network, _as_relus), network, exact)


def _exact_difference(a: float, b: float) -> bool:
    return Fraction(a) - Fraction(b) == Fraction(a - b)


def _as_relus(builder: NetworkBuilder, node: Node, source: str) -> str | None:
    operator = node.operator
    if not isinstance(operator, PiecewiseLinear) or operator.is_relu:
        return None

    def scaled(name: str, scale: float, shift: float, of: str) -> str:
        if scale == 1 and shift == 0:
            return of
        part = Scale(np.full(node.shape, scale), np.full(node.shape, shift))
        return builder.add(part, of, name=f"{node.name}/{name}")

    def rectified(name: str, of: str) -> str:
        return builder.add(relu(), of, name=f"{node.name}/{name}")

    if operator.label == "Abs":
        # two ReLUs, not 2 relu(z) - z: so the gradient at 0 is 0, as the convention has it
        negative = rectified("negative", scaled("turned", -1.0, 0.0, source))
        return builder.add(Sum((1, 1)), rectified("positive", source), negative, name=node.name)
    if operator.slopes == (0.0, 1.0, 0.0) and operator.label == "Clip":
        # high - relu(high - low - relu(z - low)): its gradient is 0 at both ends
        low, high = operator.breaks
        above = rectified("above", scaled("from low", 1.0, -low, source))
        below = rectified("below", scaled("to high", -1.0, high - low, above))
        return scaled("clipped", -1.0, high, below)
    if operator.slopes == (1.0, 0.0):
        high = operator.breaks[0]
        below = rectified("below", scaled("to high", -1.0, high, source))
        return scaled("clipped", -1.0, high, below)
    parts, start = [], operator.intercepts[0]
    if operator.slopes[0] != 0:
        parts.append(scaled("line", operator.slopes[0], start, source))
        start = 0.0
    for k, b in enumerate(operator.breaks):
        jump = operator.slopes[k + 1] - operator.slopes[k]
        hinge = rectified(f"hinge{k}", scaled(f"from{k}", 1.0, -b, source))
        parts.append(scaled(f"jump{k}", jump, start, hinge))
        start = 0.0
    return parts[0] if len(parts) == 1 else builder.add(Sum((1,) * len(parts)), *parts, name=node.name)
