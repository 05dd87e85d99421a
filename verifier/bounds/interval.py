"""Interval arithmetic on a network's values and on its gradients, sound in the presence of rounding.

**Rounding.** A box of values is held as centre ``c`` and radius ``r`` when it goes through a sum of ``n``
products, ``y = W x + b``. In float64 with unit roundoff ``u = 2^-53``, in any order of summation and with or
without fused multiply-add, the computed centre differs from ``W c + b`` by at most
``γ(n+1) · (|W| |c| + |b|)``, ``γ(k) = k u / (1 - k u)`` (Higham, *Accuracy and Stability of Numerical
Algorithms*, 2nd ed., section 3.1); the computed ``|W| r`` is at least ``(1 - γ(n)) |W| r``. So, with
``g = 2 (n + 4) u >= γ(n + 3)`` (while ``n < 2^50``), the true values lie in ``c' ± ρ`` with
``ρ = (1 + 2 g) · (|W| (r + g |c|) + g |b|)``; the four spare neurons of ``g`` pay for the roundings of ``ρ`` itself
and of ``c' ± ρ``. Underflow: magnitudes that are not zero are raised to at least 1e-150 on both sides of the
product, so each term of ``ρ`` is at least 1e-300 wherever a product of the centre could underflow (by less
than 5e-324), and an exact zero stays an exact zero. Single operations (a product with a slope, a sum of two
gradients) are correctly rounded, so one step outwards to the neighbouring float is enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from weakref import WeakKeyDictionary

import numpy as np

from verifier.bounds.bound import Bound, NetworkBounds
from verifier.bounds.phases import Pair, Phases, phases
from verifier.bounds.relaxation import Slopes, Winners
from verifier.bounds.relaxations import relaxation
from verifier.errors import InputError, NetworkError
from verifier.limits import poll
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator, Array, Concat, Reshape, Select, Shape, Sum
from verifier.properties.sets import Box
from verifier.rounding import SPACING

FLOOR = 1e-150
"""Magnitudes that are not zero are raised to this, so that error terms do not underflow."""


# -- public ------------------------------------------------------------------------------------------------
def interval_bounds(
    network: Network, box: Box, *, known: NetworkBounds | None = None, method: str = "interval"
) -> NetworkBounds:
    """Interval bounds on every node's value over a box of inputs.

    Args:
        known: sound bounds on some nodes, intersected on the way (so that all later nodes profit).
        method: what the result is called.

    Raises:
        InputError: if the box does not fit the network's input.

    Source:
        interval bound propagation: Gowal et al., ICCV 2019; interval arithmetic: Moore, Interval Analysis,
        1966.
    """
    pairs = None if known is None else {name: (b.lower[None], b.upper[None]) for name, b in known.items()}
    values = interval_values(network, box.lower[None], box.upper[None], known=pairs)
    return NetworkBounds({name: Bound(low[0], high[0]) for name, (low, high) in values.items()}, method)


def interval_gradient_bounds(network: Network, output: int | Array, values: NetworkBounds) -> NetworkBounds:
    """Interval bounds on the gradient of an output with respect to every node's value.

    Shapes: output ``(outputs,)``, if it is no index.

    At a breakpoint that a preactivation can reach, both neighbouring slopes are admitted (the closed superset
    of the gradient convention).

    Args:
        output: index into the flattened output, or one coefficient per flattened output.
        values: bounds on every node's value that hold on the input set, from any method.

    Source:
        the same through the backward pass: ReluVal, Wang et al., USENIX Security 2018.
    """
    pairs = {name: (bound.lower[None], bound.upper[None]) for name, bound in values.items()}
    gradients = interval_gradients(network, network.output_weights(output)[None], phases(network, pairs))
    return NetworkBounds({name: Bound(low[0], high[0]) for name, (low, high) in gradients.items()}, "interval")


def interval_values(
    network: Network, lower: Array, upper: Array, *, known: Mapping[str, Pair] | None = None
) -> dict[str, Pair]:
    """Interval bounds on every node's value for a batch of boxes.

    Args:
        lower, upper: ``(batch, n)`` or ``(batch, *input_shape)``.
        known: sound bounds on some nodes, ``(batch, *shape)``, intersected on the way.

    Returns:
        ``{node name: (lower, upper)}``, each ``(batch, *shape)``.

    Raises:
        InputError: boxes that do not fit the network.

    Source:
        interval bound propagation: Gowal et al., ICCV 2019; interval arithmetic: Moore, Interval Analysis,
        1966.
    """
    if lower[0].size != network.input_size:
        raise InputError(f"a box of {lower[0].size} inputs does not fit a network with {network.input_size}")
    shape = (len(lower), *network.input_shape)
    computed: dict[str, Pair] = {network.input: (lower.reshape(shape), upper.reshape(shape))}
    for node in network.nodes[1:]:
        poll(f"while node {node.name!r} was bounded by intervals")
        found = forward(node, [computed[i] for i in node.inputs])
        if known is not None and node.name in known:
            low, high = np.maximum(found[0], known[node.name][0]), np.minimum(found[1], known[node.name][1])
            found = np.minimum(low, high), np.maximum(low, high)  # two sound bounds can cross by rounding only
        computed[node.name] = found
    return computed


def interval_gradients(network: Network, weights: Array, possible: Phases) -> dict[str, Pair]:
    """Interval bounds on every node's gradient for a batch of boxes.

    Args:
        weights: ``(batch, outputs)`` or ``(1, outputs)``: the coefficients of the output whose gradient it is.
        possible: the phases that are possible on each box (`verifier.bounds.phases`).

    Returns:
        ``{node name: (lower, upper)}``, each ``(batch, *shape)``.

    Source:
        ReluVal: Wang et al., USENIX Security 2018.
    """
    batch = batch_size(weights, possible)
    seed = np.broadcast_to(weights, (batch, network.output_size)).reshape(batch, *network.output_shape)
    gradients: dict[str, Pair] = {network.output: (seed, seed)}
    for node in reversed(network.nodes):
        poll(f"while the gradient of node {node.name!r} was bounded by intervals")
        if node.name not in gradients:
            zero = np.zeros((batch, *node.shape))
            gradients[node.name] = (zero, zero)
            continue
        shapes = [network[i].shape for i in node.inputs]
        parts = backward(node, gradients[node.name], shapes, possible.get(node.name))
        for name, part in zip(node.inputs, parts, strict=True):
            gradients[name] = add(gradients[name], part) if name in gradients else part
    return gradients


# -- one node ----------------------------------------------------------------------------------------------
def forward(node: Node, inputs: list[Pair]) -> Pair:
    """Bounds on a node's value from bounds on its inputs'.

    Args:
        inputs: ``(batch, *shape)`` lower and upper ends, one pair for each input of the node.

    Source:
        Moore, Interval Analysis, 1966; outwards by the error analysis in the module.
    """
    operator = node.operator
    if isinstance(operator, (Concat, Reshape, Select)):
        low = operator.forward(*(p[0] for p in inputs))
        return low, operator.forward(*(p[1] for p in inputs))
    if isinstance(operator, AffineOperator):
        centres, radii = zip(*(_centre(*p) for p in inputs), strict=True)
        slack, size = rounding(operator, False, [c.shape[1:] for c in centres]), magnitude(operator)
        spread = size.linear(*(_raised(r, c, slack) for r, c in zip(radii, centres, strict=True)))
        constant = operator.constant()
        if constant is not None:
            spread = spread + slack * np.abs(constant)
        return _ends(operator.forward(*centres), spread, slack)
    low, high = inputs[0]
    flat = (end.reshape(len(low), -1) for end in (low, high))
    lower, upper = relaxation(operator).range(operator, low.shape[1:], *flat)
    return lower.reshape(-1, *node.shape), upper.reshape(-1, *node.shape)


def backward(node: Node, grad: Pair, shapes: list[Shape], phase: Slopes | Winners | None) -> list[Pair]:
    """Bounds on what a node passes back to each input, from bounds on the gradient of its own value.

    Args:
        shapes: of the inputs.
        phase: for an activation, what is possible there.

    Raises:
        NetworkError: an operator whose gradient has no bounds.
    """
    operator = node.operator
    if not node.inputs:
        return []
    if isinstance(operator, Sum):
        return [grad if sign > 0 else (-grad[1], -grad[0]) for sign in operator.signs]
    if isinstance(operator, (Concat, Reshape)):
        lows, highs = (operator.transpose(end, *shapes) for end in grad)
        return list(zip(lows, highs, strict=True))
    if isinstance(operator, AffineOperator):
        centre, radius = _centre(*grad)
        slack = rounding(operator, True, shapes)
        centres = operator.transpose(centre, *shapes)
        spreads = magnitude(operator).transpose(_raised(radius, centre, slack), *shapes)
        return [_ends(c, s, slack) for c, s in zip(centres, spreads, strict=True)]
    if isinstance(phase, Winners):
        return [_routed(phase, grad, shapes[0])]
    if isinstance(phase, Slopes):
        return [multiply(grad, (phase.smallest, phase.largest))]
    raise NetworkError(f"no gradient bounds for {type(operator).__name__}", place=node.name)


def batch_size(weights: Array, possible: Phases) -> int:
    """The number of boxes that output weights and phases speak of.

    Shapes: weights ``(boxes or 1, outputs)``.
    """
    sizes = [len(p.smallest if isinstance(p, Slopes) else p.possible) for p in possible.values()]
    return max(len(weights), *sizes) if sizes else len(weights)


# -- arithmetic --------------------------------------------------------------------------------------------
def add(a: Pair, b: Pair) -> Pair:
    """The sum of two intervals, outwards by one float where it is rounded."""
    exact_low, exact_high = (a[0] == 0) | (b[0] == 0), (a[1] == 0) | (b[1] == 0)
    low, high = a[0] + b[0], a[1] + b[1]
    return (
        np.where(exact_low, low, np.nextafter(low, -np.inf)),
        np.where(exact_high, high, np.nextafter(high, np.inf)),
    )


def multiply(a: Pair, b: Pair) -> Pair:
    """The product of two intervals, outwards by one float where it is rounded.

    Source:
        Moore, Interval Analysis, 1966.
    """
    lows, highs = [], []
    for x in a:
        for y in b:
            product = x * y
            exact = (x == 0) | (np.abs(x) == 1) | (y == 0) | (np.abs(y) == 1)
            lows.append(np.where(exact, product, np.nextafter(product, -np.inf)))
            highs.append(np.where(exact, product, np.nextafter(product, np.inf)))
    return np.minimum.reduce(lows), np.maximum.reduce(highs)


def magnitude(operator: AffineOperator) -> AffineOperator:
    """The operator with the absolute values of its coefficients (those not zero at least `FLOOR`); cached."""
    if operator not in _magnitudes:
        _magnitudes[operator] = operator.absolute(FLOOR)
    return _magnitudes[operator]


_magnitudes: WeakKeyDictionary[AffineOperator, AffineOperator] = WeakKeyDictionary()


def rounding(operator: AffineOperator, transposed: bool, shapes: Sequence[Shape]) -> float:
    """The ``g`` of the module's error analysis."""
    return (operator.terms(transposed, *shapes) + 4) * SPACING


def _centre(lower: Array, upper: Array) -> Pair:
    """A centre, and a radius that reaches both ends."""
    centre = lower + (upper - lower) / 2
    radius = np.maximum(upper - centre, centre - lower)
    return centre, np.where(radius > 0, np.nextafter(radius, np.inf), 0.0)


def _raised(radius: Array, centre: Array, slack: float) -> Array:
    """``r + g |c|``, at least `FLOOR` where it is not an exact zero."""
    total = radius + slack * np.abs(centre)
    return np.where((radius > 0) | (centre != 0), np.maximum(total, FLOOR), 0.0)


def _ends(centre: Array, spread: Array, slack: float) -> Pair:
    spread = spread * (1 + 2 * slack)
    return centre - spread, centre + spread


def _routed(phase: Winners, grad: Pair, shape: Shape) -> Pair:
    """The gradient of a pooling operator's input: each window passes its gradient to one possible winner."""
    batch, size = len(grad[0]), prod(shape)
    sure = phase.fixed[..., None]
    low, high = (end.reshape(batch, -1, 1) for end in grad)
    part_low = np.where(phase.possible, np.where(sure, low, np.minimum(low, 0.0)), 0.0)
    part_high = np.where(phase.possible, np.where(sure, high, np.maximum(high, 0.0)), 0.0)
    rows = np.broadcast_to(np.arange(batch)[:, None, None], part_low.shape)
    columns = np.broadcast_to(np.maximum(phase.windows, 0), part_low.shape)
    totals = []
    for part in (part_low, part_high, np.maximum(np.abs(part_low), np.abs(part_high))):
        total = np.zeros((batch, size))
        np.add.at(total, (rows, columns), part)
        totals.append(total.reshape(batch, *shape))
    slack = (phase.overlaps + 4) * SPACING * totals[2] if phase.overlaps > 1 else 0.0
    return totals[0] - slack, totals[1] + slack
