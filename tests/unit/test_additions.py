"""An operator that nobody here has heard of: what its class and its relaxation say is enough for all that takes it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import pytest

import verifier
from verifier.bounds import bounds, gradient_bounds
from verifier.bounds.crown_slopes import NeuronBounder
from verifier.bounds.relaxation import Elementwise, Ends, LinearRelaxation, Mask, Slopes
from verifier.bounds.relaxations import TABLE
from verifier.bounds.restriction import restrict
from verifier.errors import NetworkError
from verifier.network.activation import Activation
from verifier.network.enclosure import EnclosedNetwork
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network, NetworkBuilder
from verifier.network.onnx_writer import to_onnx
from verifier.network.operators import AffineOperator, Array, Dense, Reshape, Shape
from verifier.network.piecewise import relu
from verifier.network.rationals import Rationals
from verifier.network.relu_form import relu_form
from verifier.properties.sets import Box
from verifier.rounding import OUTWARD
from verifier.verdict import Status


@dataclass(frozen=True, eq=False)
class Spread(AffineOperator):
    """A transposed convolution of sequences: ``y[c, s t + k] += w[i, c, k] x[i, t]``."""

    weight: Array
    bias: Array
    stride: int
    coefficients: ClassVar[str | None] = "weight"

    def output_shape(self, *shapes: Shape) -> Shape:
        return (self.weight.shape[1], (shapes[0][1] - 1) * self.stride + self.weight.shape[2])

    def _places(self, k: int, length: int) -> slice:
        return slice(k, k + (length - 1) * self.stride + 1, self.stride)

    def linear(self, *inputs: Array) -> Array:
        (x,) = inputs
        y = np.zeros((len(x), *self.output_shape(x.shape[1:])), dtype=np.result_type(x, self.weight))
        for k in range(self.weight.shape[2]):
            y[:, :, self._places(k, x.shape[2])] += np.matmul(self.weight[:, :, k].T, x)
        return y

    def transpose(self, grad: Array, *shapes: Shape) -> tuple[Array, ...]:
        parts = [
            np.matmul(self.weight[:, :, k], grad[:, :, self._places(k, shapes[0][1])])
            for k in range(self.weight.shape[2])
        ]
        return (np.sum(parts, axis=0),)

    def constant(self) -> Array | None:
        return np.asarray(self.bias[:, None])


def spreading(rng: np.random.Generator) -> Network:
    builder = NetworkBuilder((2, 3))
    builder.add(Spread(rng.normal(size=(2, 2, 3)), rng.normal(size=2), 2))
    builder.add(relu())
    builder.add(Spread(rng.normal(size=(2, 1, 2)), rng.normal(size=1), 1))
    builder.add(relu())
    builder.add(Reshape((8,)))
    return builder.build(builder.add(Dense(rng.normal(size=(3, 8)), rng.normal(size=3))))


def test_an_affine_operator_is_taken_by_its_three_methods() -> None:
    rng = np.random.default_rng(0)
    network, x = spreading(rng), rng.normal(size=6)
    box = Box(x - 0.2, x + 0.2)
    samples = box.sample(200, rng)
    values = network.values(samples)
    for method in ("interval", "crown"):
        found = bounds(network, box, method)  # type: ignore[arg-type]
        assert all(found[name].contains(value).all() for name, value in values.items())
    slopes = gradient_bounds(network, box, np.eye(3)[0])
    assert slopes[network.input].contains(network.gradient(samples, 0)).all()
    exact = ExactNetwork(network)
    np.testing.assert_allclose([float(v) for v in exact.output(x)], network.forward(x), rtol=1e-12)
    np.testing.assert_allclose([float(v) for v in exact.gradient(x, 0)], network.gradient(x, 0).reshape(-1), rtol=1e-12)
    z = relu_form(network).preactivations(x[None])
    np.testing.assert_allclose(
        z[0][0], network.values(x[None])[network.activations[0].inputs[0]].reshape(-1), rtol=1e-12
    )
    for fold_active in (False, True):
        assert restrict(network, box, NeuronBounder(1), fold_active=fold_active).output.constant.shape == (3,)
    np.testing.assert_allclose(
        verifier.load(to_onnx(network, "float64")).forward(samples), network.forward(samples), rtol=1e-12, atol=1e-12
    )
    assert len(verifier.line(network, x, x + 1).breakpoints) > 2
    assert (
        verifier.verify(verifier.robustness(network, x.reshape(2, 3), 1e-4, domain=None), timeout=60).status
        is Status.HOLDS
    )


@dataclass(frozen=True, eq=False)
class Floor(Activation):
    """The largest integer that is not above: it jumps without end."""

    elementwise: ClassVar[bool] = True

    @property
    def kind(self) -> str:
        return "step"

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def forward(self, *inputs: Array) -> Array:
        return np.asarray(np.floor(inputs[0]))

    def vjp(self, grad: Array, x: Array) -> Array:
        return grad

    def exact(self, x: Rationals, pattern: Any = None) -> Rationals:
        return Rationals(x.numerators // x.denominator, 1)


class FloorRelaxation(Elementwise[Floor]):
    """``z - 1 < floor(z) <= z``; constant where both ends have the same floor."""

    def range(self, operator: Floor, shape: Shape, low: Array, high: Array) -> Ends:
        return np.floor(low), np.floor(high)

    def derivatives(self, operator: Floor, shape: Shape, low: Array, high: Array) -> Slopes:
        raise NetworkError("Floor jumps")

    def linear(self, operator: Floor, shape: Shape, low: Array, high: Array) -> LinearRelaxation:
        unstable = self.undecided(operator, shape, low, high)
        slope = unstable.astype(np.float64)
        lower, upper = self.intercepts(operator, low, high, slope, slope)
        return LinearRelaxation(slope, lower, slope, upper, unstable)

    def intercepts(self, operator: Floor, low: Array, high: Array, below: Array, above: Array) -> Ends:
        size = OUTWARD * (1 + np.abs(low) + np.abs(high))
        least = np.minimum((1 - below) * low, (1 - below) * high) - 1 - size
        most = np.maximum((1 - above) * low, (1 - above) * high) + size
        return np.where(below == 0, np.floor(low), least), np.where(above == 0, np.floor(high), most)

    def undecided(self, operator: Floor, shape: Shape, low: Array, high: Array) -> Mask:
        return np.asarray(np.floor(low) != np.floor(high))

    def choices(self, operator: Floor, shape: Shape, low: Array, high: Array) -> Any:
        return (np.floor(low) != np.floor(high)).sum(axis=1)

    def limits(self, operator: Floor, magnitude: Array) -> tuple[float, Array]:
        return 1.0, np.asarray(3 * magnitude + 3)


def test_an_activation_is_taken_by_its_class_and_its_relaxation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLE, Floor, FloorRelaxation())
    rng = np.random.default_rng(0)
    builder = NetworkBuilder((3,))
    builder.add(Dense(rng.normal(size=(5, 3)), rng.normal(size=5)))
    builder.add(Floor())
    network = builder.build(builder.add(Dense(rng.normal(size=(2, 5)), np.zeros(2))))
    x = rng.normal(size=3)
    box = Box(x - 0.3, x + 0.3)
    values = network.values(box.sample(500, rng))
    for method in ("interval", "crown"):
        found = bounds(network, box, method)  # type: ignore[arg-type]
        assert all(found[name].contains(value).all() for name, value in values.items())
    exact = ExactNetwork(network)
    np.testing.assert_allclose([float(v) for v in exact.output(x)], network.forward(x), rtol=1e-12)
    low, high = EnclosedNetwork(network).output([Fraction(v) for v in x])
    assert low == high == exact.output(x)
    statuses = [
        verifier.verify(verifier.robustness(network, x, e, domain=None), timeout=60).status for e in (1e-3, 1.0)
    ]
    assert statuses == [Status.HOLDS, Status.VIOLATED]
    with pytest.raises(NetworkError, match="no exact derivative for Floor"):
        exact.gradient(x, 0)
    with pytest.raises(NetworkError, match="cannot be written"):
        to_onnx(network)
    with pytest.raises(verifier.EngineError, match="Floor"):
        verifier.verify(verifier.robustness(network, x, 0.1, domain=None), engine="saliency")
