"""Rigorous enclosures of a network's values at one input: exact rationals up to the first curved operator, intervals after.

An interval's ends are integers over a common power of two, so affine operators are exact integer products of centres and
radii; after each node the ends are rounded outwards to `BITS` bits behind the point. Functions are enclosed by
python-flint's ``arb`` (Johansson, *Arb: efficient arbitrary-precision midpoint-radius interval arithmetic*, IEEE
Transactions on Computers 66, 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from verifier.errors import NetworkError
from verifier.limits import poll
from verifier.network.activation import Activation
from verifier.network.curved import Curved, Product, Smooth
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator, Array, Sum
from verifier.network.rationals import Number, Rationals

BITS = 160
"""Binary digits behind the point of an interval's ends."""

Interval = tuple[Rationals, Rationals]
"""Lower and upper ends, ``(1, *shape)`` each; the same object twice where the value is exact."""


class EnclosedNetwork:
    """A network's values in rigorous intervals.

    Source:
        ball arithmetic, Arb: Johansson, IEEE Transactions on Computers 2017.
    """

    def __init__(self, network: Network, exact: ExactNetwork | None = None) -> None:
        self.network = network
        self._exact = exact or ExactNetwork(network)
        self._absolute: dict[str, AffineOperator] = {}

    def output(self, x: Sequence[Number]) -> tuple[list[Fraction], list[Fraction]]:
        """Ends of intervals that hold the flattened output at an input.

        Raises:
            NetworkError: a function is not defined there.
        """
        point = Rationals.of(x)
        start = Rationals(point.numerators.reshape(1, *self.network.input_shape), point.denominator)
        values: dict[str, Interval] = {self.network.input: (start, start)}
        for node in self.network.nodes[1:]:
            poll(f"while node {node.name!r} was enclosed")
            values[node.name] = self._forward(node, [values[i] for i in node.inputs])
        low, high = values[self.network.output]
        return low.fractions(), high.fractions()

    def _forward(self, node: Node, inputs: list[Interval]) -> Interval:
        if isinstance(node.operator, Curved):
            return self._curved(node, inputs)
        if all(low is high for low, high in inputs):
            value = self._exact.forward(node, [low for low, _ in inputs])
            return value, value
        if isinstance(node.operator, AffineOperator):
            return _rounded(*self._affine(node, inputs))
        low, high = inputs[0]
        return self._by_corners(node, low, high)

    def _by_corners(self, node: Node, low: Rationals, high: Rationals) -> Interval:
        """Extreme at the ends of an interval, or at or beside a breakpoint in it."""
        assert isinstance(node.operator, Activation)
        ends = [self._exact.forward(node, [end]) for end in (low, high)]
        for b, values in node.operator.corners:
            inside = ~low.above(b).astype(bool) & (high.above(b).astype(bool) | high.equals(b))
            for corner in values:
                scaled = ends[0].numerators * corner.denominator
                there = np.where(inside, corner.numerator * ends[0].denominator, scaled)
                ends.append(Rationals(np.asarray(there, dtype=object), ends[0].denominator * corner.denominator))
        return _least(ends), _most(ends)

    def _affine(self, node: Node, inputs: list[Interval]) -> Interval:
        """Centre and radius, doubled, are taken through the operator and its absolute values."""
        doubled = [(_plus(low, high, 1), _plus(high, low, -1)) for low, high in inputs]
        centre = self._exact.affine(node, [Rationals(c.numerators, 2 * c.denominator) for c, _ in doubled])
        if node.name not in self._absolute:
            operator, _, _ = self._exact.integer_operator(node)
            self._absolute[node.name] = _absolute(operator)
        _, denominator, _ = self._exact.integer_operator(node)
        radii = [Rationals(r.numerators, 2 * r.denominator) for _, r in doubled]
        common = max(r.denominator for r in radii)
        scaled = [r.numerators * (common // r.denominator) for r in radii]
        spread = np.asarray(self._absolute[node.name].linear(*scaled), dtype=object)
        radius = Rationals(spread, common * denominator)
        return _plus(centre, radius, -1), _plus(centre, radius, 1)

    def _curved(self, node: Node, inputs: list[Interval]) -> Interval:
        operator = node.operator
        if isinstance(operator, Product):
            factors = [[Rationals(end.numerators[:, k], end.denominator) for end in inputs[0]] for k in (0, 1)]
            if inputs[0][0] is inputs[0][1]:
                value = _times(factors[0][0], factors[1][0])
                return value, value
            ends = [_times(a, b) for a in factors[0] for b in factors[1]]
            return _rounded(_least(ends), _most(ends))
        assert isinstance(operator, Smooth)
        whole = operator.label == "Power" and operator.parameters[0] in range(2, 9)
        if whole and inputs[0][0] is inputs[0][1]:
            value = inputs[0][0]
            for _ in range(int(operator.parameters[0]) - 1):
                value = _times(value, inputs[0][0])
            return value, value
        return _by_balls(operator, inputs[0], node.name)


def _by_balls(operator: Smooth, interval: Interval, name: str) -> Interval:
    from flint import arb, ctx, fmpq

    low, high = interval
    ends: tuple[list[int], list[int]] = ([], [])
    precision, ctx.prec = ctx.prec, 2 * BITS
    try:
        for a, b in zip(low.fractions(), high.fractions(), strict=True):
            z = arb(fmpq(a.numerator, a.denominator))
            if a != b:
                z = z.union(arb(fmpq(b.numerator, b.denominator)))
            ball = operator.function.ball(z)
            if not ball.is_finite():
                raise NetworkError(f"{operator.label} is not defined at {float(a):.6g}", place=f"node {name!r}")
            ends[0].append(_scaled(ball.lower(), up=False))
            ends[1].append(_scaled(ball.upper(), up=True))
    finally:
        ctx.prec = precision
    made = []
    for numbers in ends:
        array = np.empty(len(numbers), dtype=object)
        array[:] = numbers
        made.append(Rationals(array.reshape(low.numerators.shape), 1 << BITS))
    return made[0], made[1]


def _scaled(end: Any, *, up: bool) -> int:
    """An exact ``arb`` times 2^`BITS`, rounded."""
    mantissa, exponent = (int(v) for v in end.man_exp())
    shift = exponent + BITS
    if shift >= 0:
        return mantissa << shift
    return -((-mantissa) >> -shift) if up else mantissa >> -shift


def _rounded(low: Rationals, high: Rationals) -> Interval:
    """Outwards to `BITS` binary digits behind the point."""
    if low is high:
        return low, high
    down = (low.numerators << BITS) // low.denominator
    up = -((-high.numerators << BITS) // high.denominator)
    return Rationals(np.asarray(down, dtype=object), 1 << BITS), Rationals(np.asarray(up, dtype=object), 1 << BITS)


def _absolute(operator: AffineOperator) -> AffineOperator:
    """The operator with the absolute values of its integer coefficients."""
    if isinstance(operator, Sum):
        return Sum((1,) * len(operator.signs))
    field = "numerators" if hasattr(operator, "numerators") else operator.coefficients
    if field is None:
        return operator
    changes: dict[str, Any] = {field: np.abs(getattr(operator, field))}
    made: AffineOperator = replace(operator, **changes)
    if "_sparse" in operator.__dict__:
        made.__dict__["_sparse"] = None
    return made


def _plus(a: Rationals, b: Rationals, sign: int) -> Rationals:
    return a + Rationals(sign * b.numerators, b.denominator)


def _times(a: Rationals, b: Rationals) -> Rationals:
    return Rationals(np.asarray(a.numerators * b.numerators, dtype=object), a.denominator * b.denominator)


def _aligned(values: Sequence[Rationals]) -> tuple[list[Array], int]:
    common = int(np.lcm.reduce(np.array([v.denominator for v in values], dtype=object)))
    return [v.numerators * (common // v.denominator) for v in values], common


def _least(values: Sequence[Rationals]) -> Rationals:
    arrays, common = _aligned(values)
    return Rationals(np.asarray(np.minimum.reduce(arrays), dtype=object), common)


def _most(values: Sequence[Rationals]) -> Rationals:
    arrays, common = _aligned(values)
    return Rationals(np.asarray(np.maximum.reduce(arrays), dtype=object), common)
