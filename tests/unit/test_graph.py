"""Networks: evaluation, gradients, preactivations, and exact arithmetic against float64."""

from __future__ import annotations

import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier.errors import InputError, NetworkError
from verifier.network.convolution import Conv
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network, NetworkBuilder, feedforward
from verifier.network.operators import Concat, Dense, Reshape, Scale, Select, Sum
from verifier.network.piecewise import MaxPool, PiecewiseOperator, absolute, clip, leaky_relu, relu
from verifier.network.rationals import Rationals, dyadic


def everything(seed: int) -> Network:
    """A small network with every operator in it."""
    rng = np.random.default_rng(seed)
    builder = NetworkBuilder((2, 6, 6))
    first = builder.add(Conv(rng.normal(size=(4, 2, 3, 3)), rng.normal(size=4), padding=(1, 1, 1, 1)), name="conv")
    active = builder.add(leaky_relu(0.125), first, name="leaky")
    pooled = builder.add(MaxPool((2, 2), (2, 2)), active, name="pool")
    scaled = builder.add(Scale(rng.normal(size=(4, 3, 3)), rng.normal(size=(4, 3, 3))), pooled, name="norm")
    clipped = builder.add(clip(-1.0, 1.0), scaled, name="clip")
    residual = builder.add(Sum((1, -1)), pooled, clipped, name="residual")
    both = builder.add(Concat(0), residual, pooled, name="both")
    picked = builder.add(Select(rng.permutation(72).reshape(72)[:20], fill=0.0), both, name="pick")
    flat = builder.add(Reshape((20,)), picked, name="flat")
    hidden = builder.add(Dense(rng.normal(size=(7, 20)), rng.normal(size=7)), flat, name="fc1")
    folded = builder.add(absolute(), hidden, name="abs")
    second = builder.add(Dense(rng.normal(size=(6, 7)), rng.normal(size=6)), folded, name="fc2")
    last = builder.add(relu(), second, name="relu")
    return builder.build(builder.add(Dense(rng.normal(size=(3, 6)), rng.normal(size=3)), last, name="out"))


def test_gradient_equals_finite_differences_at_every_node() -> None:
    network, rng = everything(0), np.random.default_rng(1)
    x, direction = rng.normal(size=(4, 72)), rng.normal(size=(4, 72))
    step = 1e-6
    numeric = (network.forward(x + step * direction) - network.forward(x - step * direction)) / (2 * step)
    for output in range(3):
        gradient = network.gradient(x, output).reshape(4, -1)
        assert np.allclose((gradient * direction).sum(axis=1), numeric[:, output], rtol=1e-4, atol=1e-6)
    inner = network.gradient(x, [1.0, 0.0, -2.0], wrt="fc2")
    weights = network["out"].operator.weight  # type: ignore[attr-defined]
    expected = (weights[0] - 2 * weights[2]) * (network.preactivations(x)["relu"] > 0)
    assert np.allclose(inner, expected, atol=1e-12)


def test_values_patterns_and_single_inputs() -> None:
    network = everything(2)
    x = np.random.default_rng(0).normal(size=(3, 2, 6, 6))
    values = network.values(x)
    assert set(values) == {n.name for n in network}
    assert np.array_equal(values["out"], network.forward(x))
    assert np.array_equal(network.forward(x[1].reshape(-1)), network.forward(x[1]))
    assert np.allclose(network.forward(x[1]), values["out"][1], atol=1e-12)
    assert network.pattern(x)["relu"].tolist() == (values["fc2"] > 0).astype(int).tolist()
    assert network.neurons == 4 * 36 + 4 * 9 + 4 * 9 + 7 + 6
    clone = pickle.loads(pickle.dumps(network))
    assert np.array_equal(clone.forward(x), network.forward(x))


@pytest.mark.parametrize("seed", range(5))
def test_exact_evaluation_agrees_with_float64(seed: int) -> None:
    network = everything(seed)
    x = np.random.default_rng(seed).normal(size=72)
    exact = ExactNetwork(network)
    values = exact.values(x)
    for name, value in network.values(x).items():
        assert np.allclose(values[name].floats(), value, rtol=1e-9, atol=1e-10), name
    gradient = np.array([float(f) for f in exact.gradient(x, 1)])
    assert np.allclose(gradient, network.gradient(x, 1).reshape(-1), rtol=1e-9, atol=1e-10)


def test_exact_evaluation_on_a_given_pattern() -> None:
    network = everything(3)
    x = np.random.default_rng(3).normal(size=(2, 72))
    exact, pattern = ExactNetwork(network), network.pattern(x)
    own, given = exact.values(x), exact.values(x, pattern)
    assert all(own[n].fractions() == given[n].fractions() for n in own)
    swapped = {name: p[::-1] for name, p in pattern.items()}
    values = {network.input: network.batch(x)[0]}
    for node in network.nodes[1:]:
        inputs = [values[i] for i in node.inputs]
        if isinstance(node.operator, PiecewiseOperator):
            values[node.name] = node.operator.on_piece(inputs[0], swapped[node.name])
        else:
            values[node.name] = node.operator.forward(*inputs)
    assert np.allclose(exact.values(x, swapped)["out"].floats(), values["out"], rtol=1e-9)
    assert "fc2" not in exact.values(x, stop="fc1")


def test_exact_evaluation_is_exact_where_float64_is_not() -> None:
    # 0.1 + 0.2 - 0.3 is not zero for the floats 0.1, 0.2, 0.3: the exact sum of these three binary numbers.
    network = feedforward([[[1.0, 1.0, -1.0]], [[1.0]]], [[0.0], [0.0]])
    x = [0.1, 0.2, 0.3]
    expected = Fraction(0.1) + Fraction(0.2) - Fraction(0.3)
    assert ExactNetwork(network).output(x) == [max(expected, Fraction(0))]
    thirds = [Fraction(1, 3), Fraction(1, 3), Fraction(2, 3)]
    assert ExactNetwork(network).output(thirds) == [0]
    assert ExactNetwork(network).gradient(thirds, 0) == [0, 0, 0]


@pytest.mark.parametrize("x", [[0.0, 0.0, 0.0], [0.0, 0.1, 0.0], [0.3, 0.0, -0.2]])
def test_exact_evaluation_leaves_out_zeros_alone(x: list[float]) -> None:
    weights = [np.array([[0.1, 0.7, 0.0], [0.3, -0.1, 0.2]]), np.array([[0.9, -0.7], [1.3, 0.4]])]
    biases = [np.array([0.1, -1.0]), np.array([0.2, 0.3])]
    point = [Fraction(v) for v in x]
    hidden = [
        max(_exactly(row, point) + Fraction(b), Fraction(0)) for row, b in zip(weights[0], biases[0], strict=True)
    ]
    expected = [_exactly(row, hidden) + Fraction(b) for row, b in zip(weights[1], biases[1], strict=True)]
    exact = ExactNetwork(feedforward(weights, biases))
    assert exact.output(x) == expected
    seen = [Fraction(v) if h > 0 else Fraction(0) for v, h in zip(weights[1][1].tolist(), hidden, strict=True)]
    assert exact.gradient(x, 1) == [_exactly(column, seen) for column in weights[0].T]


def _exactly(row: np.ndarray, values: list[Fraction]) -> Fraction:
    return sum((Fraction(w) * v for w, v in zip(row.tolist(), values, strict=True)), Fraction(0))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=6))
def test_dyadic_keeps_every_float(values: list[float]) -> None:
    assert dyadic(np.array(values)).fractions() == [Fraction(v) for v in values]
    assert Rationals.of([Fraction(v) / 3 for v in values]).fractions() == [Fraction(v) / 3 for v in values]


def test_errors_name_the_place() -> None:
    builder = NetworkBuilder((4,), source="net.onnx")
    with pytest.raises(NetworkError, match=r"net\.onnx: node 'fc': a dense layer with weight \(2, 3\)"):
        builder.add(Dense(np.zeros((2, 3)), np.zeros(2)), name="fc")
    with pytest.raises(NetworkError, match="node 'fc': weight contains NaN"):
        builder.add(Dense(np.full((2, 4), np.nan), np.zeros(2)), name="fc")
    network = feedforward([np.ones((2, 3))], [np.zeros(2)])
    with pytest.raises(InputError, match=r"shape \(4,\) does not fit"):
        network.forward(np.zeros(4))
    with pytest.raises(InputError, match="NaN"):
        network.forward(np.array([0.0, np.nan, 1.0]))
    with pytest.raises(InputError, match="output 2 does not exist"):
        network.gradient(np.zeros(3), 2)
    with pytest.raises(InputError, match="there is no node 'x'"):
        network.gradient(np.zeros(3), 1, wrt="x")
