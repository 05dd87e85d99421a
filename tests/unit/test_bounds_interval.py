"""Interval bounds on values and gradients: sampled points and exact arithmetic never leave them."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier.bounds import bounds, gradient_bounds
from verifier.bounds.interval import interval_gradients, interval_values
from verifier.bounds.phases import phases
from verifier.errors import InputError
from verifier.network.convolution import Conv
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network, NetworkBuilder, feedforward
from verifier.network.operators import Concat, Dense, Reshape, Scale, Select, Sum
from verifier.network.piecewise import MaxPool, absolute, clip, leaky_relu, relu
from verifier.properties.sets import Box


def dense(rng: np.random.Generator) -> Network:
    sizes = (4, 6, 5, 3)
    pairs = list(pairwise(sizes))
    return feedforward([rng.normal(size=(b, a)) for a, b in pairs], [rng.normal(size=b) for _, b in pairs])


def residual(rng: np.random.Generator) -> Network:
    b = NetworkBuilder((4,))
    first = b.add(Dense(rng.normal(size=(4, 4)), rng.normal(size=4)))
    a = b.add(leaky_relu(0.1), first)
    c = b.add(clip(-1.0, 0.7), b.add(Dense(rng.normal(size=(4, 4)), rng.normal(size=4)), a))
    d = b.add(Sum((1, -1)), a, c)
    e = b.add(Concat(0), d, b.add(absolute(), d))
    b.add(Select(np.array([3, 1, -1, 1, 7, 0]), fill=0.3), e)
    b.add(relu(), b.add(Scale(rng.normal(size=6), rng.normal(size=6))))
    b.add(Dense(rng.normal(size=(3, 6)), rng.normal(size=3)))
    return b.build()


def convolutional(rng: np.random.Generator) -> Network:
    b = NetworkBuilder((2, 5, 5))
    b.add(Conv(rng.normal(size=(4, 1, 3, 3)), rng.normal(size=4), padding=(1, 1, 1, 1), groups=2))
    skip = b.add(Scale(rng.normal(size=(4, 5, 5)), rng.normal(size=(4, 5, 5))))
    b.add(relu())
    b.add(Conv(rng.normal(size=(4, 4, 3, 3)), rng.normal(size=4), padding=(1, 1, 1, 1)))
    b.add(Sum((1, 1)), b._last, skip)
    b.add(MaxPool((3, 3), (2, 2), (0, 0, 1, 1)))
    b.add(relu())
    b.add(Reshape((16,)))
    b.add(Dense(rng.normal(size=(3, 16)), rng.normal(size=3)))
    return b.build()


NETWORKS = [dense, residual, convolutional]


@pytest.mark.parametrize("make", NETWORKS)
@given(seed=st.integers(0, 10**6), epsilon=st.sampled_from([0.0, 1e-9, 0.01, 0.3, 2.0]))
def test_sampled_values_and_gradients_stay_inside(make, seed, epsilon):
    rng = np.random.default_rng(seed)
    network = make(rng)
    box = Box.around(rng.random(network.input_size), epsilon, domain=None)
    x = box.sample(40, rng)
    x[0], x[1], x[2] = box.lower, box.upper, box.center
    weights = rng.normal(size=network.output_size)
    values, gradients = bounds(network, box, "interval"), gradient_bounds(network, box, weights, method="interval")
    for name, sampled in network.values(x).items():
        assert values[name].contains(sampled, 1e-11 * (1 + np.abs(sampled).max())).all(), name
    for name, sampled in network.gradients(x, weights).items():
        assert gradients[name].contains(sampled, 1e-11 * (1 + np.abs(sampled).max())).all(), name
    if epsilon == 0.0:
        assert max(values[n.name].width.max() for n in network) < 1e-10


@pytest.mark.parametrize("make", NETWORKS)
def test_exact_values_at_a_point_lie_inside_without_tolerance(make):
    rng = np.random.default_rng(7)
    for _ in range(5):
        network = make(rng)
        x = rng.normal(size=network.input_size)
        box = Box(x, x)
        values, gradients = bounds(network, box, "interval"), gradient_bounds(network, box, 1, method="interval")
        exact = ExactNetwork(network)
        for name, value in exact.values(x).items():
            lower, upper = values[name].lower.reshape(-1), values[name].upper.reshape(-1)
            for low, v, high in zip(lower, value.fractions(), upper, strict=True):
                assert Fraction(low) <= v <= Fraction(high), name
        bound = gradients[network.input]
        for low, g, high in zip(bound.lower.reshape(-1), exact.gradient(x, 1), bound.upper.reshape(-1), strict=True):
            assert Fraction(low) <= g <= Fraction(high)


def test_underflow_and_cancellation_are_covered_exactly():
    weight = np.array([[1e-200, -1e-200, 1e300], [1e16, 1.0, -1e16]])
    network = feedforward([weight], [np.array([5e-324, 0.0])])
    x = np.array([3e-130, 1e-200, 1e-320])
    box = Box(x, x)
    exact = ExactNetwork(network).output(x)
    bound = bounds(network, box, "interval")[network.output]
    for low, v, high in zip(bound.lower, exact, bound.upper, strict=True):
        assert Fraction(low) <= v <= Fraction(high)


def test_kinks_on_the_box_admit_both_slopes_and_dead_units_have_exact_zeros():
    network = feedforward([np.eye(3), np.ones((1, 3))], [np.array([0.0, -5.0, 5.0]), np.zeros(1)])
    gradient = gradient_bounds(network, Box(np.full(3, -1.0), np.zeros(3)), 0, method="interval")[network.input]
    np.testing.assert_allclose(gradient.lower, [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(gradient.upper, [1, 0, 1], atol=1e-12)
    assert gradient.lower[1] == gradient.upper[1] == 0.0


@pytest.mark.parametrize("make", NETWORKS)
def test_a_batch_of_boxes_gives_what_single_boxes_give(make):
    rng = np.random.default_rng(3)
    network = make(rng)
    boxes = [Box.around(rng.random(network.input_size), e, domain=None) for e in (0.01, 0.1, 0.5)]
    values = interval_values(network, np.stack([b.lower for b in boxes]), np.stack([b.upper for b in boxes]))
    gradients = interval_gradients(network, network.output_weights(0)[None], phases(network, values))
    for k, box in enumerate(boxes):
        one, grad = bounds(network, box, "interval"), gradient_bounds(network, box, 0, method="interval")
        for name in one:
            np.testing.assert_allclose(values[name][0][k], one[name].lower, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(gradients[name][1][k], grad[name].upper, rtol=1e-9, atol=1e-9)


def test_wrong_arguments_are_refused():
    network = dense(np.random.default_rng(0))
    with pytest.raises(InputError, match="does not fit"):
        bounds(network, Box(np.zeros(2), np.ones(2)))
    with pytest.raises(InputError, match="unknown bounding method"):
        bounds(network, Box(np.zeros(4), np.ones(4)), "magic")  # type: ignore[arg-type]
