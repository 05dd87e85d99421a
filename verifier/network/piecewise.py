"""Piecewise-linear operators: elementwise functions of one variable, and MaxPool.

**Gradient convention** (PyTorch's): at a breakpoint an elementwise function has the slope recorded in
``at_breaks`` (ReLU'(0) = 0, hardtanh' = 0 at both ends, |x|' = 0 at 0); MaxPool passes the gradient to the
first maximum of its window. Analyses that prove "no such x" use the closed superset instead: at a
breakpoint either neighbouring piece.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from verifier.errors import NetworkError
from verifier.network.activation import Activation
from verifier.network.convolution import sliding_windows, window_output_size
from verifier.network.operators import Array, Shape
from verifier.network.rationals import Rationals


@dataclass(frozen=True, eq=False)
class PiecewiseOperator(Activation):
    """An activation that is affine on each of finitely many polyhedral pieces."""

    @abstractmethod
    def pattern(self, x: Array) -> npt.NDArray[np.int16]:
        """The index of the piece each output lies on, ``(batch, *output_shape)``."""

    @abstractmethod
    def on_piece(self, x: Array, pattern: npt.NDArray[np.int16]) -> Array:
        """The affine functions of the given pieces at ``x``, wherever ``x`` lies: ``(batch, *output_shape)``."""

    @abstractmethod
    def on_piece_vjp(self, grad: Array, pattern: npt.NDArray[np.int16], shape: Shape) -> Array:
        """The gradient of `on_piece` with respect to ``x``: ``(batch, *shape)``, ``shape`` being the input's."""


@dataclass(frozen=True, eq=False)
class PiecewiseLinear(PiecewiseOperator):
    """An elementwise continuous piecewise-linear function.

    On piece k (between ``breaks[k-1]`` and ``breaks[k]``) the function is ``slopes[k] * z + intercepts[k]``.

    Attributes:
        breaks: increasing, ``k`` of them.
        slopes, intercepts: ``k + 1`` each.
        at_breaks: the slope that the gradient convention gives at each breakpoint.
        label: the operator's name in its source ("Relu", "LeakyRelu", "Clip", "Abs").
    """

    breaks: tuple[float, ...]
    slopes: tuple[float, ...]
    intercepts: tuple[float, ...]
    at_breaks: tuple[float, ...]
    label: str = "PiecewiseLinear"
    elementwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        k = len(self.breaks)
        if k < 1 or len(self.slopes) != k + 1 or len(self.intercepts) != k + 1 or len(self.at_breaks) != k:
            raise NetworkError(f"{self.label}: k breaks need k + 1 slopes and intercepts and k slopes at breaks")
        if any(a >= b for a, b in zip(self.breaks, self.breaks[1:], strict=False)):
            raise NetworkError(f"{self.label}: breakpoints must increase, got {self.breaks}")
        for b, i in zip(self.breaks, range(k), strict=True):
            left = self.slopes[i] * b + self.intercepts[i]
            right = self.slopes[i + 1] * b + self.intercepts[i + 1]
            if not np.isclose(left, right, rtol=1e-9, atol=1e-12):
                raise NetworkError(f"{self.label}: not continuous at {b}: {left} on the left, {right} on the right")

    @property
    def kind(self) -> str:
        return "relu" if self.is_relu else "piecewise-linear"

    @property
    def is_relu(self) -> bool:
        """Whether this is exactly max(z, 0)."""
        return self.breaks == (0.0,) and self.slopes == (0.0, 1.0) and self.intercepts == (0.0, 0.0)

    @cached_property
    def gaps(self) -> tuple[Fraction, ...]:
        """How far the pieces are apart at each breakpoint, exactly: not zero where their numbers were rounded."""
        pieces = [(Fraction(s), Fraction(t)) for s, t in zip(self.slopes, self.intercepts, strict=True)]
        return tuple(
            abs(a * Fraction(b) + c - (d * Fraction(b) + e))
            for b, ((a, c), (d, e)) in zip(self.breaks, pairwise(pieces), strict=True)
        )

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def forward(self, *inputs: Array) -> Array:
        (z,) = inputs
        if self.is_relu:
            return np.maximum(z, 0)
        piece = self.pattern(z)
        result: Array = np.asarray(self.slopes)[piece] * z + np.asarray(self.intercepts)[piece]
        return result

    def pattern(self, x: Array) -> npt.NDArray[np.int16]:
        """Index of the piece; at a breakpoint the piece on its left.

        Shapes: x ``(batch, *shape)``; so is the result.
        """
        return np.searchsorted(np.asarray(self.breaks), x, side="left").astype(np.int16)

    def on_piece(self, x: Array, pattern: npt.NDArray[np.int16]) -> Array:
        if self.is_relu:
            return np.where(pattern, x, 0)
        result: Array = np.asarray(self.slopes)[pattern] * x + np.asarray(self.intercepts)[pattern]
        return result

    def on_piece_vjp(self, grad: Array, pattern: npt.NDArray[np.int16], shape: Shape) -> Array:
        return np.where(pattern, grad, 0) if self.is_relu else grad * np.asarray(self.slopes)[pattern]

    def slope(self, x: Array) -> Array:
        """The derivative at ``x`` by the gradient convention.

        Shapes: x ``(batch, *shape)``; so is the result.
        """
        if self.is_relu:
            return (x > 0).astype(np.float64)
        result: Array = np.asarray(self.slopes)[self.pattern(x)]
        for b, slope in zip(self.breaks, self.at_breaks, strict=True):
            result = np.where(x == b, slope, result)
        return result

    def vjp(self, grad: Array, x: Array) -> Array:
        return np.where(x > 0, grad, 0.0) if self.is_relu else grad * self.slope(x)

    def exact(self, x: Rationals, pattern: npt.NDArray[np.int16] | None = None) -> Rationals:
        if self.is_relu and pattern is None:
            return Rationals(np.maximum(x.numerators, 0), x.denominator)
        pieces = sum(x.above(b) for b in self.breaks) if pattern is None else pattern
        slopes, intercepts = Rationals.of(self.slopes), Rationals.of(self.intercepts)
        linear = Rationals(slopes.numerators[pieces] * x.numerators, slopes.denominator * x.denominator)
        return (linear + Rationals(intercepts.numerators[pieces], intercepts.denominator)).reduced()

    def exact_vjp(self, grad: Rationals, x: Rationals) -> Rationals:
        slopes = Rationals.of((*self.slopes, *self.at_breaks))
        chosen = slopes.numerators[sum(x.above(b) for b in self.breaks)]
        for k, b in enumerate(self.breaks):
            chosen = np.where(x.equals(b), slopes.numerators[len(self.slopes) + k], chosen)
        return Rationals(grad.numerators * chosen, grad.denominator * slopes.denominator)

    @cached_property
    def corners(self) -> tuple[tuple[Fraction, tuple[Fraction, ...]], ...]:
        if self.is_relu:
            return ()
        pieces = [(Fraction(s), Fraction(t)) for s, t in zip(self.slopes, self.intercepts, strict=True)]
        sides = zip(map(Fraction, self.breaks), pairwise(pieces), strict=True)
        return tuple((b, tuple(s * b + t for s, t in two)) for b, two in sides)


def relu() -> PiecewiseLinear:
    """max(z, 0)."""
    return PiecewiseLinear((0.0,), (0.0, 1.0), (0.0, 0.0), (0.0,), "Relu")


def leaky_relu(slope: float) -> PiecewiseLinear:
    """z for z > 0, else slope · z."""
    return PiecewiseLinear((0.0,), (slope, 1.0), (0.0, 0.0), (slope,), "LeakyRelu")


def clip(low: float, high: float) -> PiecewiseLinear:
    """min(max(z, low), high); either end may be infinite, not both.

    Raises:
        NetworkError: ends that are not in order, or both infinite.
    """
    if not low < high or (np.isinf(low) and np.isinf(high)):
        raise NetworkError(f"Clip needs low < high with at least one of them finite, got [{low}, {high}]")
    if np.isinf(high):
        return PiecewiseLinear((low,), (0.0, 1.0), (low, 0.0), (0.0,), "Clip")
    if np.isinf(low):
        return PiecewiseLinear((high,), (1.0, 0.0), (0.0, high), (0.0,), "Clip")
    return PiecewiseLinear((low, high), (0.0, 1.0, 0.0), (low, 0.0, high), (0.0, 0.0), "Clip")


def absolute() -> PiecewiseLinear:
    """|z|."""
    return PiecewiseLinear((0.0,), (-1.0, 1.0), (0.0, 0.0), (0.0,), "Abs")


@dataclass(frozen=True, eq=False)
class MaxPool(PiecewiseOperator):
    """Two-dimensional max pooling over ``(channels, H, W)``.

    Attributes:
        kernel, stride, dilation: per axis (H, W).
        padding: (top, left, bottom, right); padding never wins (its value is minus infinity).
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        if len(shape) != 3:
            raise NetworkError(f"MaxPool cannot take an input of shape {shape}")
        size = window_output_size((shape[1], shape[2]), self.kernel, self.stride, self.padding, self.dilation)
        return (shape[0], *size)

    def windows(self, shape: Shape) -> npt.NDArray[np.int64]:
        """Flat input indices of every window, ``(outputs, kernel size)``; -1 where the window is in the padding."""
        index = np.arange(prod(shape), dtype=np.int64).reshape(1, *shape)
        found = sliding_windows(index, self.kernel, self.stride, self.padding, self.dilation, -1)[0]
        return np.array(found.reshape(prod(found.shape[:3]), -1), order="C")

    def forward(self, *inputs: Array) -> Array:
        values = self._columns(inputs[0])
        return values.max(axis=-1).reshape(len(inputs[0]), *self.output_shape(inputs[0].shape[1:]))

    def _columns(self, x: Array) -> Array:
        """The entries of every window, ``(batch, outputs, kernel size)``; padding is below all of them."""
        windows = self.windows(x.shape[1:])
        values = x.reshape(len(x), -1)[:, windows]
        if (windows < 0).any():
            lowest = values.min() - 1 if values.size else 0
            values = np.where(windows < 0, lowest, values)
        return values

    def pattern(self, x: Array) -> npt.NDArray[np.int16]:
        """Position in the window of the (first) maximum."""
        winner = np.argmax(self._columns(x), axis=-1)
        return winner.astype(np.int16).reshape(len(x), *self.output_shape(x.shape[1:]))

    def on_piece(self, x: Array, pattern: npt.NDArray[np.int16]) -> Array:
        winners = self._winners(pattern, x.shape[1:])
        return np.take_along_axis(x.reshape(len(x), -1), winners, axis=1).reshape(pattern.shape)

    def on_piece_vjp(self, grad: Array, pattern: npt.NDArray[np.int16], shape: Shape) -> Array:
        winners = self._winners(pattern, shape)
        total = np.zeros((len(grad), prod(shape)), dtype=grad.dtype)
        np.add.at(total, (np.arange(len(grad))[:, None], winners), grad.reshape(len(grad), -1))
        return total.reshape(len(grad), *shape)

    def _winners(self, pattern: npt.NDArray[np.int16], shape: Shape) -> npt.NDArray[np.int64]:
        """Flat input index that each output takes, ``(batch, outputs)``."""
        windows = self.windows(shape)
        return windows[np.arange(len(windows)), pattern.reshape(len(pattern), -1)]

    def vjp(self, grad: Array, x: Array) -> Array:
        return self.on_piece_vjp(grad, self.pattern(x), x.shape[1:])

    def exact(self, x: Rationals, pattern: npt.NDArray[np.int16] | None = None) -> Rationals:
        chosen = self.forward(x.numerators) if pattern is None else self.on_piece(x.numerators, pattern)
        return Rationals(chosen, x.denominator)

    def exact_vjp(self, grad: Rationals, x: Rationals) -> Rationals:
        return Rationals(self.vjp(grad.numerators, x.numerators), grad.denominator)
