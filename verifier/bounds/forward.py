"""Forward linear bounds: each value between two affine functions of the input, for many boxes at once.

What CROWN finds by going back from every neuron is here carried along from the input (Weng et al., ICML 2018, Fast-Lin,
and Singh et al., POPL 2019, without back-substitution). Looser where terms cancel, but a pass costs as much as a few
evaluations for each input that varies: the choice where inputs are few and neurons many. The greatest of several
values is bounded pair by pair, ``max(a, b) = b + relu(a - b) <= (1 - s) b + s a + t`` with the chord's slope s in
[0, 1], which loses nothing of a and b.

**Rounding.** The functions that are returned hold in exact arithmetic for their float64 coefficients, on the whole
box. With γ as in `verifier.bounds.crown_rounding` and ``S_v >= |slopes| |x| + |constant|`` for both functions of v on the box,
the computed combination ``Σ c_w f_w + d`` differs from the exact one of the (float) f_w, at any x of the box, by less
than ``γ (Σ |c_w| S_w + |d|)``; so much is subtracted from (added to) the constant at every step.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from verifier.bounds.relaxation import LinearRelaxation, ProductRelaxation
from verifier.bounds.relaxations import elementwise, relaxation, relu_relaxation
from verifier.errors import InputError
from verifier.lazy import sp
from verifier.network.curved import Product
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator, Array, Dense, Reshape, Select
from verifier.network.piecewise import MaxPool
from verifier.rounding import LARGEST, TINY, UNIT_ROUNDOFF, gamma

SPARSE_BELOW = 0.2
"""Dense layers with a smaller share of non-zeros are applied sparsely."""


@dataclass(frozen=True, eq=False)
class SymbolicBounds:
    """Affine functions below and above each of N values on B boxes.

    Attributes:
        lower, upper: ``(N, B, k + 1)``: slopes by the k inputs that vary, and the constant. May be the same array.
        size: ``(N, B)``: at least ``|slopes| |x| + |constant|`` of both on the box.

    Source:
        symbolic linear bounds, Neurify: Wang et al., NeurIPS 2018.
    """

    lower: Array
    upper: Array
    size: Array

    @property
    def same(self) -> bool:
        """Whether the values are these functions."""
        return self.upper is self.lower

    def take(self, entries: npt.NDArray[np.int64]) -> SymbolicBounds:
        """Those of some entries."""
        lower = self.lower[entries]
        return SymbolicBounds(lower, lower if self.same else self.upper[entries], self.size[entries])


@dataclass(frozen=True, eq=False)
class Boxes:
    """``middle, radius, magnitude (B, k)`` of the inputs that vary (the radius rounded up)."""

    middle: Array
    radius: Array
    magnitude: Array

    def least(self, form: Array, slack: Array) -> Array:
        """The least values of functions ``(N, B, k + 1)`` on the boxes, ``(N, B)``.

        The slack must be γ times the functions' size; what is summed here is at most twice as large.
        """
        slopes = form[:, :, :-1]
        value = np.einsum("nbk,bk->nb", slopes, self.middle) - np.einsum("nbk,bk->nb", np.abs(slopes), self.radius)
        least: Array = value + form[:, :, -1] - 2 * slack
        return least

    def greatest(self, form: Array, slack: Array) -> Array:
        """The greatest values of functions; see `least`."""
        return -self.least(-form, slack)


class Forward:
    """Forward linear bounds of one network, over the inputs that vary.

    Args:
        network: any network of the framework's operators.
        free: the (flat) inputs that vary; the others have width zero in every box.

    Raises:
        InputError: the network's numbers are too large for bounds in float64.

    Source:
        Fast-Lin: Weng et al., ICML 2018; DeepPoly without back-substitution: Singh et al., POPL 2019. Maxima
        pair by pair are this module's own.
    """

    def __init__(self, network: Network, free: npt.NDArray[np.intp]) -> None:
        self.network, self.free = network, free
        self._operators: dict[str, AffineOperator] = {}
        self._absolute: dict[str, AffineOperator] = {}
        self._last_use = {name: k for k, node in enumerate(network.nodes) for name in node.inputs}
        self.gamma = gamma(2 * max(n.size for n in network.nodes) + 64)
        if self.gamma > 1e-6:
            raise InputError("the network is too large for the rounding analysis of float64")
        for node in network.nodes:
            if isinstance(node.operator, AffineOperator):
                operator = _sparse(node.operator)
                self._operators[node.name] = operator
                self._absolute[node.name] = operator.absolute()
        self.width = max(n.size for n in network.nodes)
        """Entries of the largest value."""

    def bounds(self, low: Array, high: Array) -> tuple[SymbolicBounds, Boxes]:
        """Forms of the output on boxes ``(B, n)``; infinite and NaN coefficients (overflow) are possible."""
        found, boxes = self.values(low, high, (self.network.output,))
        return found[self.network.output], boxes

    def values(self, low: Array, high: Array, names: Collection[str]) -> tuple[dict[str, SymbolicBounds], Boxes]:
        """Forms of the named nodes' values on boxes ``(B, n)``; as for `bounds`."""
        middle = low + (high - low) / 2
        radius = np.maximum(high - middle, middle - low) * (1 + 4 * UNIT_ROUNDOFF)
        magnitude = np.maximum(np.abs(low), np.abs(high))
        free = self.free
        boxes = Boxes(middle[:, free], radius[:, free], magnitude[:, free])
        start = np.zeros((self.network.input_size, len(low), len(free) + 1))
        start[:, :, -1] = low.T
        start[free, :, -1] = 0.0
        start[free, :, np.arange(len(free))] = 1.0
        found = {self.network.input: SymbolicBounds(start, start, magnitude.T.copy())}
        with np.errstate(over="ignore", invalid="ignore"):
            for k, node in enumerate(self.network.nodes[1:], start=1):
                found[node.name] = self._step(node, [found[i] for i in node.inputs], boxes)
                for name in set(node.inputs):
                    if self._last_use[name] == k and name not in names:
                        del found[name]
        return {name: found[name] for name in names}, boxes

    def ranges(self, symbolic: SymbolicBounds, boxes: Boxes) -> tuple[Array, Array]:
        """The least and greatest values of some symbolic bounds on their boxes, ``(B, N)`` each."""
        slack = self.gamma * symbolic.size
        return boxes.least(symbolic.lower, slack).T, boxes.greatest(symbolic.upper, slack).T

    def _step(self, node: Node, inputs: list[SymbolicBounds], boxes: Boxes) -> SymbolicBounds:
        operator = node.operator
        if isinstance(operator, AffineOperator):
            return self._affine(node, inputs, boxes)
        if isinstance(operator, MaxPool):
            return self._pool(operator.windows(self.network[node.inputs[0]].shape), inputs[0], boxes)
        if isinstance(operator, Product):
            return self._product(operator, node, inputs[0], boxes)
        relaxed, symbolic = elementwise(operator), inputs[0]
        slack = self.gamma * symbolic.size
        low = boxes.least(symbolic.lower, slack)
        high = boxes.greatest(symbolic.upper, slack)
        return self._through(relaxed.linear(operator, node.shape, low, high), symbolic, boxes)

    def _affine(self, node: Node, inputs: list[SymbolicBounds], boxes: Boxes) -> SymbolicBounds:
        operator = self._operators[node.name]
        if isinstance(operator, Reshape):
            return inputs[0]
        if isinstance(operator, Select) and not (operator.index < 0).any():
            return inputs[0].take(operator.index.reshape(-1))
        constant = operator.constant()
        flat = np.zeros(node.size) if constant is None else np.broadcast_to(constant, node.shape).reshape(-1)
        absolute = self._absolute[node.name]
        spread = self._apply(absolute, node, [f.size[:, :, None] for f in inputs])[:, :, 0]
        slack = self.gamma * (spread + np.abs(flat)[:, None]) + TINY
        # W = (|W| + W) / 2 - (|W| - W) / 2: the middle of the two functions goes through W, half the distance through
        # |W|; both are sums of as many terms as the layer has inputs, and at most S in size
        middle = self._apply(operator, node, [f.lower if f.same else (f.lower + f.upper) / 2 for f in inputs])
        middle[:, :, -1] += flat[:, None]
        if all(f.same for f in inputs):
            lower, upper = middle, middle.copy()
        else:
            apart = self._apply(absolute, node, [(f.upper - f.lower) / 2 for f in inputs])
            lower, upper = middle - apart, middle + apart
        lower[:, :, -1] -= slack
        upper[:, :, -1] += slack
        return _sized(lower, upper, boxes)

    def _apply(self, operator: AffineOperator, node: Node, inputs: list[Array]) -> Array:
        """The linear part of an operator on every function's coefficients, ``(N, B, c)`` each."""
        boxes, columns = inputs[0].shape[1:]
        if isinstance(operator, Dense) and len(node.shape) == 1:
            matrix = operator.weight if operator.sparse_weight is None else operator.sparse_weight
            result: Array = (matrix @ inputs[0].reshape(len(inputs[0]), -1)).reshape(-1, boxes, columns)
            return result
        batch = [
            np.moveaxis(x.reshape(len(x), -1), 0, 1).reshape(-1, *self.network[i].shape)
            for x, i in zip(inputs, node.inputs, strict=True)
        ]
        flat = operator.linear(*batch).reshape(boxes * columns, -1)
        return np.array(flat.T, order="C").reshape(-1, boxes, columns)  # a copy: the operator may return its input

    def _through(self, relaxations: LinearRelaxation, symbolic: SymbolicBounds, boxes: Boxes) -> SymbolicBounds:
        """The functions beyond an elementwise activation."""
        ends = []
        below = (relaxations.lower_slope, relaxations.lower_intercept, symbolic.lower, symbolic.upper)
        above = (relaxations.upper_slope, relaxations.upper_intercept, symbolic.upper, symbolic.lower)
        for sign, (slope, intercept, rising, falling) in ((-1.0, below), (1.0, above)):
            form = np.where((slope < 0)[:, :, None], falling, rising) if (slope < 0).any() else rising
            form = form * slope[:, :, None]
            shift = np.zeros_like(slope) if intercept is None else intercept
            rounded = ((slope != 0) & (slope != 1)) | (shift != 0)
            slack = self.gamma * (np.abs(slope) * symbolic.size + np.abs(shift)) + TINY
            form[:, :, -1] += shift + sign * np.where(rounded, slack, 0.0)
            ends.append(form)
        return _sized(ends[0], ends[1], boxes)

    def _product(self, operator: Product, node: Node, symbolic: SymbolicBounds, boxes: Boxes) -> SymbolicBounds:
        """The functions of a product: linear in both factors, up to an error."""
        low, high = self.ranges(symbolic, boxes)
        relaxed = relaxation(operator).linear(operator, self.network[node.inputs[0]].shape, low, high)
        assert isinstance(relaxed, ProductRelaxation)
        half = len(symbolic.size) // 2
        factors = [symbolic.take(np.arange(k * half, (k + 1) * half)) for k in (0, 1)]
        slopes = relaxed.x_slope.T, relaxed.y_slope.T
        shift, error = relaxed.intercept.T, relaxed.error.T
        size = np.abs(shift) + error
        for slope, factor in zip(slopes, factors, strict=True):
            size = size + np.abs(slope) * factor.size
        ends = []
        for sign in (-1.0, 1.0):
            form = np.zeros_like(factors[0].lower)
            for slope, factor in zip(slopes, factors, strict=True):
                rising, falling = (factor.upper, factor.lower) if sign > 0 else (factor.lower, factor.upper)
                form += np.where((slope < 0)[:, :, None], falling, rising) * slope[:, :, None]
            form[:, :, -1] += shift + sign * (error + self.gamma * size + TINY)
            ends.append(form)
        return _sized(ends[0], ends[1], boxes)

    def _pool(self, windows: npt.NDArray[np.int64], symbolic: SymbolicBounds, boxes: Boxes) -> SymbolicBounds:
        """The functions beyond a MaxPool: the greatest so far meets one entry of its window after the other."""
        first = np.take_along_axis(windows, np.argmax(windows >= 0, axis=1)[:, None], axis=1)
        players = np.where(windows < 0, first, windows)  # padding never wins
        greatest = symbolic.take(players[:, 0])
        for k in range(1, players.shape[1]):
            met = (players[:, :k] == players[:, k, None]).any(axis=1)
            greatest = self._greater(greatest, symbolic.take(players[:, k]), met, boxes)
        return greatest

    def _greater(
        self, a: SymbolicBounds, b: SymbolicBounds, met: npt.NDArray[np.bool_], boxes: Boxes
    ) -> SymbolicBounds:
        """The greater of two values; the first, where ``met`` says that the second is one of its parts."""
        slack = self.gamma * (a.size + b.size)
        low = boxes.least(a.lower - b.upper, slack)
        high = boxes.greatest(a.upper - b.lower, slack)
        low[met], high[met] = 0.0, 0.0
        relaxations = relu_relaxation(low, high)
        slope = relaxations.upper_slope[:, :, None]
        upper = slope * a.upper + (1 - slope) * b.upper
        extra = relaxations.upper_intercept + self.gamma * (a.size + b.size + relaxations.upper_intercept) + TINY
        upper[:, :, -1] += np.where(relaxations.unstable, extra, 0.0)
        return _sized(np.where(relaxations.lower_slope[:, :, None] > 0, a.lower, b.lower), upper, boxes)


def _sized(lower: Array, upper: Array, boxes: Boxes) -> SymbolicBounds:
    """The symbolic bounds with their sizes; InputError if they are too large for float64."""
    parts = [
        np.einsum("nbk,bk->nb", np.abs(f[:, :, :-1]), boxes.magnitude) + np.abs(f[:, :, -1]) for f in (lower, upper)
    ]
    size = np.maximum(*parts) * (1 + 1e-6)
    if not (size < LARGEST).all():  # NaN is not
        raise InputError("the network's numbers are too large for bounds in float64")
    return SymbolicBounds(lower, upper, size)


def _sparse(operator: AffineOperator) -> AffineOperator:
    """A Dense with few non-zeros in sparse form, anything else as it is."""
    if not isinstance(operator, Dense) or operator.sparse_weight is not None:
        return operator
    few = np.count_nonzero(operator.weight) < SPARSE_BELOW * operator.weight.size
    return Dense(sp.csr_array(operator.weight), operator.bias) if few else operator
