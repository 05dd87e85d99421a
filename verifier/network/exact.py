"""Exact evaluation of a network and its gradient in rational arithmetic.

A float64 weight is the rational ``m · 2^e``. Values are kept as Python integers over one common
denominator per node, so that affine layers are integer matrix products and no fraction is ever reduced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import lcm, prod

import numpy as np
import numpy.typing as npt

from verifier.errors import InputError, NetworkError
from verifier.lazy import sp
from verifier.limits import poll
from verifier.network.activation import Activation
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator, Array, Dense, Shape
from verifier.network.piecewise import MaxPool, PiecewiseLinear
from verifier.network.rationals import Number, Rationals, dyadic
from verifier.network.work import multiplications


@dataclass(frozen=True, eq=False)
class _SparseIntegers(AffineOperator):
    """A large, nearly empty `Dense` weight with integer entries ``numerators`` at the places of ``places``."""

    places: sp.coo_array
    numerators: Array

    def output_shape(self, *shapes: Shape) -> Shape:
        return (*shapes[0][:-1], self.places.shape[0])

    def linear(self, *inputs: Array) -> Array:
        rows, columns = self.places.coords
        return self._collect(inputs[0], columns, rows, self.places.shape[0])

    def transpose(self, grad: Array, *shapes: Shape) -> tuple[Array, ...]:
        rows, columns = self.places.coords
        return (self._collect(grad, rows, columns, self.places.shape[1]),)

    def _collect(self, x: Array, source: Array, target: Array, size: int) -> Array:
        total = np.full((*x.shape[:-1], size), 0, dtype=object)
        np.add.at(total, (..., target), x[..., source] * self.numerators)  # type: ignore[arg-type]
        return total


class _DenseIntegers(Dense):
    """A `Dense` with integer weights: products with zeros, of which pixels and ReLUs have many, are left out."""

    def linear(self, *inputs: Array) -> Array:
        (x,) = inputs
        used = x.reshape(-1, x.shape[-1]).astype(bool).any(axis=0)
        return np.asarray(x[..., used] @ self.weight.T[used])

    def transpose(self, grad: Array, *shapes: Shape) -> tuple[Array, ...]:
        used = grad.reshape(-1, grad.shape[-1]).astype(bool).any(axis=0)
        return (np.asarray(grad[..., used] @ self.weight[used]),)


AT_ONCE = 1 << 21
"""Products of integers between two looks at the clock: some tenths of a second."""


class ExactNetwork:
    """A network whose weights are held as exact rationals, for repeated exact evaluation.

    Raises:
        InputError: an input of another size, or not finite.
        NetworkError: an operator without rational values.

    Source:
        evaluation over one denominator (fraction-free, as Bareiss, 1968).
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self._operators: dict[str, tuple[AffineOperator, int, Rationals | None]] = {}

    def values(
        self,
        x: Sequence[Number] | Array | Rationals,
        pattern: Mapping[str, npt.NDArray[np.int16]] | None = None,
        stop: str | None = None,
        known: Mapping[str, Rationals] | None = None,
    ) -> dict[str, Rationals]:
        """Exact value of every node, arrays ``(batch, *shape)``.

        Args:
            x: one input of ``input_size`` numbers (a batch of one), or a batch of them.
            pattern: the piece of each neuron to use, wherever the values lie: ``{node name: (1 or batch, *shape)}``;
                None, or a node that is not named: the piece that the value is on.
            stop: the last node to compute; None: all.
            known: values that were computed before, at the same inputs and with the same pieces; not computed again.
        """
        point = x if isinstance(x, Rationals) else Rationals.of(x)
        if point.numerators.size == 0 or point.numerators.size % self.network.input_size:
            raise InputError(f"{point.numerators.size} numbers for an input of {self.network.input_size}")
        batch = point.numerators.reshape(-1, *self.network.input_shape)
        computed = {self.network.input: Rationals(batch, point.denominator), **(known or {})}
        for node in self.network.nodes[1:]:
            if stop is not None and stop in computed:
                break
            poll(f"while node {node.name!r} was evaluated exactly")
            if node.name in computed:
                continue
            pieces = None if pattern is None else pattern.get(node.name)
            computed[node.name] = self.forward(node, [computed[i] for i in node.inputs], pieces)
        return computed

    def output(self, x: Sequence[Number] | Array) -> list[Fraction]:
        """Exact flattened output at one input.

        Shapes: x ``(n,)``; the result ``(outputs,)``.
        """
        return self.values(x)[self.network.output].fractions()

    def gradient(
        self,
        x: Sequence[Number] | Array,
        output: int | Sequence[float] | Array,
        values: dict[str, Rationals] | None = None,
        at: str | None = None,
    ) -> list[Fraction]:
        """Exact gradient of an output combination with respect to a node's value, by the gradient convention.

        Shapes: x ``(n,)``; output ``(outputs,)``, if it is no index.

        Args:
            values: what `values(x)` returned, if it is at hand.
            at: the node; the input by default.
        """
        known = values if values is not None else self.values(x)

        def back(node: Node, upstream: Rationals) -> Rationals:
            assert isinstance(node.operator, Activation)
            try:
                return node.operator.exact_vjp(upstream, known[node.inputs[0]])
            except NetworkError as error:
                raise NetworkError(error.problem, place=f"node {node.name!r}") from None

        return self._backward(output, back, at).fractions()

    def gradient_of_pattern(
        self, pattern: Mapping[str, npt.NDArray[np.int64]], output: int | Sequence[float] | Array
    ) -> list[Fraction]:
        """`gradient_at` the input, in row-major order.

        Shapes: pattern ``(size,)`` each; output ``(outputs,)``, if it is no index.
        """
        return self.gradient_at(self.network.input, pattern, output).fractions()

    def gradient_at(
        self,
        name: str,
        pattern: Mapping[str, npt.NDArray[np.int64]] | Mapping[str, npt.NDArray[np.int16]],
        output: int | Sequence[float] | Array,
    ) -> Rationals:
        """Exact gradient of an output combination on the linear region of an activation pattern, ``(1, *shape)``.

        Args:
            name: the node with respect to whose value it is taken.
            pattern: per activation node one integer per flattened neuron: its piece, or ``pieces + k`` for the
                slope at breakpoint k; for MaxPool the winner's position in the window.
        """

        def back(node: Node, upstream: Rationals) -> Rationals:
            shape = self.network[node.inputs[0]].shape
            chosen = np.asarray(pattern[node.name]).reshape(-1)
            if isinstance(node.operator, MaxPool):
                winners = node.operator.windows(shape)[np.arange(len(chosen)), chosen]
                total = np.zeros(prod(shape), dtype=object)
                np.add.at(total, winners, upstream.numerators.reshape(-1))
                return Rationals(total.reshape(1, *shape), upstream.denominator)
            assert isinstance(node.operator, PiecewiseLinear)
            slopes = Rationals.of((*node.operator.slopes, *node.operator.at_breaks))
            slope = slopes.numerators[chosen].reshape(1, *shape)
            return Rationals(upstream.numerators * slope, upstream.denominator * slopes.denominator)

        return self._backward(output, back, name)

    def _backward(
        self,
        output: int | Sequence[float] | Array,
        back: Callable[[Node, Rationals], Rationals],
        at: str | None = None,
    ) -> Rationals:
        """The gradient at a node (the input); ``back`` takes a gradient through an activation node."""
        network = self.network
        at = network.input if at is None else at
        seed = dyadic(network.output_weights(output))
        gradients = {n.name: Rationals(np.zeros((1, *n.shape), dtype=object), 1) for n in network.nodes}
        gradients[network.output] = Rationals(seed.numerators.reshape(1, *network.output_shape), seed.denominator)
        for node in reversed(network.nodes[1:]):
            poll(f"while node {node.name!r} was differentiated exactly")
            if node.name == at:
                break
            upstream = gradients[node.name]
            if isinstance(node.operator, AffineOperator):
                operator, denominator, _ = self.integer_operator(node)
                shapes = [network[i].shape for i in node.inputs]
                found = operator.transpose(upstream.numerators, *shapes)
                parts = [Rationals(part, upstream.denominator * denominator) for part in found]
            else:
                parts = [back(node, upstream)]
            for name, part in zip(node.inputs, parts, strict=True):
                gradients[name] = (gradients[name] + part).reduced()
        return gradients[at]

    def affine(self, node: Node, inputs: list[Rationals], *, maps: bool = False) -> Rationals:
        """An affine node's value for a batch of its inputs' values.

        Args:
            maps: whether the batch is an affine map: the coefficients of n variables, then the constants;
                the operator's own constant then belongs to the last entry only.
        """
        operator, denominator, constant = self.integer_operator(node)
        common = lcm(*(r.denominator for r in inputs))
        scaled = [r.numerators * (common // r.denominator) for r in inputs]
        count = len(scaled[0])
        step = max(1, AT_ONCE // max(1, multiplications(node)))
        if count <= step or any(len(x) != count for x in scaled):
            numerators = operator.linear(*scaled)
        else:
            numerators = np.empty((count, *node.shape), dtype=object)
            for k in range(0, count, step):
                poll(f"while node {node.name!r} was evaluated exactly")
                numerators[k : k + step] = operator.linear(*(x[k : k + step] for x in scaled))
        result = Rationals(np.asarray(numerators, dtype=object), common * denominator)
        if constant is not None:
            spread = np.zeros(result.numerators.shape, dtype=object)
            spread[-1 if maps else slice(None)] = np.broadcast_to(constant.numerators, node.shape)
            result = result + Rationals(spread, constant.denominator)
        return result.reduced()

    def integer_operator(self, node: Node) -> tuple[AffineOperator, int, Rationals | None]:
        """An affine node's linear part with integer coefficients, their denominator, and the exact constant."""
        if node.name not in self._operators:
            operator = node.operator
            assert isinstance(operator, AffineOperator)
            constant = operator.constant()
            exact_constant = None if constant is None else dyadic(np.asarray(constant, dtype=np.float64))
            denominator = 1
            field = operator.coefficients
            if field is not None:
                sparse = operator.sparse_weight if isinstance(operator, Dense) else None
                held = getattr(operator, field) if sparse is None else sparse.data
                weights = dyadic(np.asarray(held, dtype=np.float64))
                denominator = weights.denominator
                if sparse is not None:
                    operator = _SparseIntegers(sparse.tocoo(), weights.numerators)
                elif isinstance(operator, Dense):
                    operator = _DenseIntegers(weights.numerators, operator.bias)
                else:
                    changes: dict[str, Array] = {field: weights.numerators}
                    operator = replace(operator, **changes)  # type: ignore[arg-type]
            self._operators[node.name] = (operator, denominator, exact_constant)
        return self._operators[node.name]

    def forward(self, node: Node, inputs: list[Rationals], pattern: npt.NDArray[np.int16] | None = None) -> Rationals:
        """A node's value from its inputs' values, on its own pieces or on given ones.

        Shapes: pattern ``(1 or batch, *shape)``.
        """
        if isinstance(node.operator, AffineOperator):
            return self.affine(node, inputs)
        (x,) = inputs
        assert isinstance(node.operator, Activation)
        if pattern is not None:
            pattern = np.broadcast_to(pattern, (len(x.numerators), *node.shape))
        try:
            return node.operator.exact(x, pattern)
        except NetworkError as error:
            raise NetworkError(error.problem, place=f"node {node.name!r}") from None
