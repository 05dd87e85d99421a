"""Operators that are curved: functions of one variable with a derivative, and the product of two tensors.

No engine that reasons in pieces can take them. What they are is in one table, `FUNCTIONS`: how each function is evaluated in
floats and enclosed in balls (python-flint's ``arb``), and where its graph turns from convex to concave, which is all
that relaxations need (`verifier.bounds.curved`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.errors import NetworkError
from verifier.network.activation import Activation
from verifier.network.operators import Array, Shape

Bools = npt.NDArray[np.bool_]
Bends = Callable[[Array], tuple[list[Array], Bools]]
"""From the lower ends of intervals: the points above them where the curvature changes its sign, increasing, and
whether the piece before the first of them is convex."""


@dataclass(frozen=True)
class Function:
    """A function of one variable.

    Attributes:
        value, slope: it and its derivative, on float64 arrays; their error is below 2^-45 of their size.
        ball: it on an ``arb``.
        bends: where its curvature changes its sign.
        domain: where it is defined and smooth, ends excluded; infinite ends for everywhere.
        pole: a point where it is not defined.
        period: it says nothing more of intervals longer than this.
    """

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    ball: Callable[[Any], Any]
    bends: Bends
    domain: tuple[float, float] = (-math.inf, math.inf)
    pole: float | None = None
    period: float = math.inf


def at_points(*points: float, convex_first: bool) -> Bends:
    """Bends at given points."""

    def bends(low: Array) -> tuple[list[Array], Bools]:
        return [np.full_like(low, p) for p in points], np.full(low.shape, convex_first)

    return bends


def _periodic(first: float) -> Bends:
    """Bends at ``first + k π``; concave between the first and the next."""

    def bends(low: Array) -> tuple[list[Array], Bools]:
        k = np.floor((low - first) / np.pi)
        return [first + (k + j) * np.pi for j in (1, 2, 3)], np.mod(k, 2) == 1

    return bends


def _sigmoid(z: Array) -> Array:
    return np.where(z >= 0, 1.0 / (1.0 + np.exp(-np.abs(z))), np.exp(-np.abs(z)) / (1.0 + np.exp(-np.abs(z))))


def _sigmoid_ball(z: Any) -> Any:
    return 1 / (1 + (-z).exp())


def _softplus(z: Array) -> Array:
    return np.maximum(z, 0.0) + np.log1p(np.exp(-np.abs(z)))


def _erf(z: Array) -> Array:
    from scipy.special import erf

    return np.asarray(erf(z))


def _normal(z: Array) -> Array:
    """The standard normal distribution function."""
    from scipy.special import erfc

    return np.asarray(0.5 * erfc(-z / math.sqrt(2.0)))


def _density(z: Array) -> Array:
    return np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)


def _normal_ball(z: Any) -> Any:
    from flint import arb

    return (-z / arb(2).sqrt()).erfc() / 2


def _power(n: float) -> Function:
    """z^n: for whole n > 0 everywhere, for other n where z > 0."""
    whole = n == int(n)

    def ball(z: Any) -> Any:
        from flint import arb

        return z ** int(n) if whole else z ** arb(n)

    def value(z: Array) -> Array:
        return z ** int(n) if whole and n > 0 else np.power(z, n)

    def slope(z: Array) -> Array:
        return n * (z ** int(n - 1) if whole and n > 0 else np.power(z, n - 1))

    if whole and n > 0:
        bends = at_points(convex_first=True) if n % 2 == 0 else at_points(0.0, convex_first=False)
        return Function(value, slope, ball, bends)
    bends = at_points(convex_first=n < 0 or n > 1)
    return Function(value, slope, ball, bends, domain=(0.0, math.inf))


def _reciprocal() -> Function:
    """1/z, on either side of 0."""

    def bends(low: Array) -> tuple[list[Array], Bools]:
        return [], low > 0

    return Function(lambda z: 1.0 / z, lambda z: -1.0 / (z * z), lambda z: 1 / z, bends, pole=0.0)


def _elu(alpha: float = 1.0, width: float = 1.0) -> Function:
    """z for z > 0, else ``alpha · (exp(z / width) - 1)``, for slopes ``alpha / width`` of at most 1 (Elu, Celu)."""
    assert 0 <= alpha <= width  # else it is not convex at 0

    def value(z: Array) -> Array:
        return np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0.0) / width))

    def slope(z: Array) -> Array:
        return np.where(z > 0, 1.0, alpha / width * np.exp(np.minimum(z, 0.0) / width))

    def ball(z: Any) -> Any:
        from flint import arb

        return (z + abs(z)) / 2 + arb(alpha) * ((z - abs(z)) / 2 / arb(width)).expm1()

    return Function(value, slope, ball, at_points(convex_first=True))


def _silu(beta: float = 1.0) -> Function:
    """``z · sigmoid(beta z)``."""
    turn = 2.3993572805154676 / abs(beta) if beta else math.inf  # where beta z tanh(beta z / 2) = 2

    def slope(z: Array) -> Array:
        s = _sigmoid(beta * z)
        return s + beta * z * s * (1.0 - s)

    def ball(z: Any) -> Any:
        from flint import arb

        return z * _sigmoid_ball(arb(beta) * z)

    bends = at_points(-turn, turn, convex_first=beta < 0)
    return Function(lambda z: z * _sigmoid(beta * z), slope, ball, bends)


def _gelu(beta: float | None = None) -> Function:
    """``z (1 + erf(beta z)) / 2``; beta is 1/√2 for GELU itself, and a float near it in models that spell it out."""
    scale = 1.0 if beta is None else beta * math.sqrt(2.0)  # z = w / scale: the value is that of GELU at w over scale

    def slope(z: Array) -> Array:
        w = scale * z
        return _normal(w) + w * _density(w)

    def ball(z: Any) -> Any:
        from flint import arb

        return z * (_normal_ball(z) if beta is None else (-z * arb(beta)).erfc() / 2)

    bends = at_points(-math.sqrt(2.0) / scale, math.sqrt(2.0) / scale, convex_first=False)
    return Function(lambda z: z * _normal(scale * z), slope, ball, bends)


def _gelu_tanh() -> Function:
    """``z · sigmoid(2 c (z + 0.044715 z³))`` with c = √(2/π): GELU's approximation by tanh."""
    c = 2.0 * math.sqrt(2.0 / math.pi)

    def inner(z: Array) -> Array:
        return c * (z + 0.044715 * z * z * z)

    def slope(z: Array) -> Array:
        s = _sigmoid(inner(z))
        return s + z * s * (1.0 - s) * c * (1.0 + 3 * 0.044715 * z * z)

    def ball(z: Any) -> Any:
        from flint import arb

        return z * _sigmoid_ball(2 * (2 / arb.pi()).sqrt() * (z + arb("0.044715") * z * z * z))

    turn = 1.4185040087908283  # where its second derivative vanishes
    bends = at_points(-turn, turn, convex_first=False)
    return Function(lambda z: z * _sigmoid(inner(z)), slope, ball, bends)


def _mish() -> Function:
    """``z · tanh(softplus(z))``."""

    def slope(z: Array) -> Array:
        t = np.tanh(_softplus(z))
        return t + z * (1.0 - t * t) * _sigmoid(z)

    def ball(z: Any) -> Any:
        return z * (1 + z.exp()).log().tanh()

    bends = at_points(-2.256376396360793, 1.4905711794854284, convex_first=False)
    return Function(lambda z: z * np.tanh(_softplus(z)), slope, ball, bends)


def _sine(shift: float) -> Function:
    """sin(z + shift) for the shifts 0 (sine) and π/2 (cosine)."""
    cosine = shift != 0
    return Function(
        np.cos if cosine else np.sin,
        (lambda z: -np.sin(z)) if cosine else np.cos,
        (lambda z: z.cos()) if cosine else (lambda z: z.sin()),
        _periodic(-shift),
        domain=(-1e6, 1e6),
        period=2 * math.pi,
    )


FUNCTIONS: dict[str, Callable[..., Function]] = {
    "Sigmoid": lambda: Function(
        _sigmoid, lambda z: _sigmoid(z) * _sigmoid(-z), _sigmoid_ball, at_points(0.0, convex_first=True)
    ),
    "Tanh": lambda: Function(
        np.tanh, lambda z: 4 * _sigmoid(2 * z) * _sigmoid(-2 * z), lambda z: z.tanh(), at_points(0.0, convex_first=True)
    ),
    "Exp": lambda: Function(np.exp, np.exp, lambda z: z.exp(), at_points(convex_first=True), (-math.inf, 300.0)),
    "Log": lambda: Function(
        np.log, lambda z: 1.0 / z, lambda z: z.log(), at_points(convex_first=False), domain=(0.0, math.inf)
    ),
    "Sqrt": lambda: Function(
        np.sqrt, lambda z: 0.5 / np.sqrt(z), lambda z: z.sqrt(), at_points(convex_first=False), (0.0, math.inf)
    ),
    "Reciprocal": _reciprocal,
    "Power": _power,
    "Softplus": lambda: Function(
        _softplus, _sigmoid, lambda z: (1 + z.exp()).log(), at_points(convex_first=True), (-math.inf, 1e6)
    ),
    "Silu": _silu,
    "Gelu": _gelu,
    "GeluTanh": _gelu_tanh,
    "Erf": lambda: Function(
        _erf,
        lambda z: 2 * math.sqrt(2) * _density(math.sqrt(2) * z),
        lambda z: z.erf(),
        at_points(0.0, convex_first=True),
    ),
    "Elu": _elu,
    "Mish": _mish,
    "Softsign": lambda: Function(
        lambda z: z / (1.0 + np.abs(z)),
        lambda z: 1.0 / (1.0 + np.abs(z)) ** 2,
        lambda z: z / (1 + abs(z)),
        at_points(0.0, convex_first=True),
    ),
    "Sin": lambda: _sine(0.0),
    "Cos": lambda: _sine(math.pi / 2),
    "Atan": lambda: Function(
        np.arctan, lambda z: 1.0 / (1.0 + z * z), lambda z: z.atan(), at_points(0.0, convex_first=True)
    ),
}
"""The functions by name, each from its parameters."""


class Curved(Activation):
    """An activation that is not piecewise linear."""


@dataclass(frozen=True)
class Smooth(Curved):
    """A function of `FUNCTIONS`, entry by entry.

    Attributes:
        label: its name in the table.
        parameters: what the table's entry is called with.
    """

    label: str
    parameters: tuple[float, ...] = ()

    @property
    def kind(self) -> str:
        return "smooth"

    @property
    def function(self) -> Function:
        """The function."""
        return _function(self.label, self.parameters)

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def forward(self, *inputs: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(self.function.value(inputs[0]))

    def vjp(self, grad: Array, x: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(grad * np.nan_to_num(self.function.slope(x)))


@lru_cache(maxsize=256)
def _function(label: str, parameters: tuple[float, ...]) -> Function:
    return FUNCTIONS[label](*parameters)


@dataclass(frozen=True)
class Product(Curved):
    """The product of the two halves of a tensor ``(2, ...)``, entry by entry."""

    label: str = "Product"

    @property
    def kind(self) -> str:
        return "product"

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        if not shape or shape[0] != 2:
            raise NetworkError(f"a product of two halves cannot take an input of shape {shape}")
        return shape[1:]

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return np.asarray(x[:, 0] * x[:, 1])

    def vjp(self, grad: Array, x: Array) -> Array:
        return np.stack([grad * x[:, 1], grad * x[:, 0]], axis=1)
