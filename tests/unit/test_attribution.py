"""Integrated gradients, conductance and linearity against their definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from verifier.attribution import METHODS, IntegratedGradients, density, gradient_deviation, quadrature
from verifier.errors import InputError
from verifier.network.convolution import Conv
from verifier.network.graph import NetworkBuilder, feedforward
from verifier.network.operators import Dense, Reshape, Sum
from verifier.network.piecewise import MaxPool, leaky_relu, relu
from verifier.regions import line


def mlp(sizes, seed=0):
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=(o, i)) * np.sqrt(2 / i) for i, o in itertools.pairwise(sizes)]
    return feedforward(weights, [rng.normal(size=o) * 0.1 for o in sizes[1:]])


def cnn(seed=0):
    rng = np.random.default_rng(seed)

    def weights(*shape):
        return rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))

    b = NetworkBuilder((1, 6, 6))
    b.add(Conv(weights(3, 1, 3, 3), rng.normal(size=3) * 0.1, padding=(1, 1, 1, 1)))
    b.add(relu())
    pooled = b.add(MaxPool((2, 2), (2, 2)))
    b.add(Conv(weights(3, 3, 3, 3), rng.normal(size=3) * 0.1, padding=(1, 1, 1, 1)))
    bent = b.add(leaky_relu(0.2))
    b.add(Sum((1, 1)), bent, pooled)
    b.add(Reshape((27,)))
    b.add(Dense(weights(10, 27), np.zeros(10)))
    b.add(relu())
    b.add(Dense(weights(4, 10), np.zeros(4)))
    return b.build()


@pytest.mark.parametrize("network", [mlp([6, 30, 30, 30, 4]), cnn()], ids=["dense", "convolutional"])
def test_exact_attribution_is_the_sum_over_pieces_and_complete(network):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(5, *network.input_shape))
    base = rng.normal(size=(5, *network.input_shape))
    targets = [0, 1, 2, 3, 0]
    got, delta = IntegratedGradients(network).attribute(x, base, targets, return_convergence_delta=True)
    assert got.shape == x.shape
    for k in range(5):
        r = line(network, base[k], x[k])
        expected = (r.gradient(targets[k]) * r.lengths[:, None]).sum(axis=0) * (r.end - r.start)
        np.testing.assert_allclose(got[k].reshape(-1), expected, rtol=1e-10, atol=1e-12)
    change = network(x) - network(base)
    assert (np.abs(delta) <= 1e-9 * np.abs(change[np.arange(5), targets]) + 1e-12).all()


@pytest.mark.parametrize("pieces", [1000, 4096, 4097])
def test_complete_at_any_number_of_pieces(pieces):
    """A staircase of ReLUs with exactly so many pieces: nothing is dropped at the ends of batches."""
    rng = np.random.default_rng(pieces)
    kinks = np.linspace(0, 1, pieces + 1)[1:-1]
    weights = [np.ones((pieces - 1, 1)), rng.normal(size=(1, pieces - 1))]
    network = feedforward(weights, [-kinks, np.zeros(1)])
    assert len(line(network, [0.0], [1.0])) == pieces
    attribution = IntegratedGradients(network).attribute([1.0], [0.0])
    np.testing.assert_allclose(attribution.sum(), (network([1.0]) - network([0.0])).sum(), rtol=1e-9)


@pytest.mark.parametrize("method", METHODS[1:])
def test_sampled_rules_are_what_sampling_gives(method):
    network, rng = mlp([5, 20, 20, 3]), np.random.default_rng(2)
    x, base = rng.normal(size=(2, 5))
    got = IntegratedGradients(network).attribute(x, base, 1, method=method, n_steps=17)
    t, w = quadrature(method, 17)
    np.testing.assert_allclose(w.sum(), 1)
    expected = (w[:, None] * network.gradient(base + t[:, None] * (x - base), 1)).sum(axis=0) * (x - base)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def test_errors_fall_and_samples_for_keeps_its_word():
    network, rng = mlp([5, 20, 20, 3]), np.random.default_rng(3)
    x, base = rng.normal(size=(2, 5))
    ig = IntegratedGradients(network)
    assert ig.error(x, base, 1, method="midpoint", n_steps=10_000)[0] < 1e-3
    (count,) = ig.samples_for(0.05, x, base, 1, method="left")
    assert ig.error(x, base, 1, method="left", n_steps=int(count))[0] <= 0.05
    assert count > 1
    assert ig.error(x, base, 1, method="left", n_steps=int(count) - 1)[0] > 0.05
    assert ig.samples_for(1e-9, x, base, 1, method="left", limit=50)[0] == 51


@pytest.mark.parametrize("network", [mlp([6, 30, 30, 30, 4]), cnn()], ids=["dense", "convolutional"])
def test_conductance_is_complete_in_every_layer_that_separates_input_from_output(network):
    rng = np.random.default_rng(4)
    x, base = rng.normal(size=(2, network.input_size))
    ig = IntegratedGradients(network)
    change = float((network(x) - network(base)).reshape(-1)[2])
    through = [network.input, network.output, network.nodes[1].name, network.nodes[-2].name]
    for name in through:
        conductance = ig.conductance(name, x, base, 2)
        assert conductance.shape == (1, *network[name].shape)
        np.testing.assert_allclose(conductance.sum(), change, rtol=1e-9)
    attribution = ig.attribute(x, base, 2)
    np.testing.assert_allclose(ig.conductance(network.input, x, base, 2).reshape(-1), attribution, atol=1e-12)
    # by sampling
    t = (np.arange(20_000) + 0.5) / 20_000
    points = base + t[:, None] * (x - base)
    name = network.activations[-1].name
    size = network[name].size
    y = network.values(base + np.linspace(0, 1, 20_001)[:, None] * (x - base), [name])[name].reshape(-1, size)
    sampled = (network.gradient(points, 2, wrt=name).reshape(-1, size) * np.diff(y, axis=0)).sum(axis=0)
    np.testing.assert_allclose(ig.conductance(name, x, base, 2).reshape(-1), sampled, atol=1e-3)


def test_linearity():
    network, rng = mlp([5, 20, 20, 3]), np.random.default_rng(5)
    a, b = rng.normal(size=(2, 5))
    r = line(network, a, b)
    np.testing.assert_allclose(density(r), (len(r) + 1) / np.linalg.norm(b - a))
    g = r.gradient(0)
    ratio = (np.abs(g - g[0]) / np.abs(g)).mean(axis=1)
    np.testing.assert_allclose(gradient_deviation(r, 0), (ratio * r.lengths).sum())
    ratio = np.abs(g - g[0]).sum(axis=1) / np.abs(g).sum(axis=1)
    np.testing.assert_allclose(gradient_deviation(r, 0, rule="norms"), (ratio * r.lengths).sum())
    assert gradient_deviation(line(network, a, a), 0) == 0
    with pytest.raises(InputError, match="rule"):
        gradient_deviation(r, 0, rule="none")


def test_the_loan_network_of_the_paper():
    """ExactLine, Equations 1 and 2 and Figure 1: ages 20 to 30, incomes 30 to 50."""
    builder = NetworkBuilder((2,))
    builder.add(Dense(np.array([[-1.7, 1.0], [2.0, -1.3]]), np.array([3.0, 3.0])))
    builder.add(relu())
    for exact in (False, True):
        found = line(builder.build(), [20, 30], [30, 50], exact=exact)
        np.testing.assert_allclose(found.points, [[20, 30], [70 / 3, 110 / 3], [80 / 3, 130 / 3], [30, 50]], rtol=1e-12)
        matrices, constants = found.affine()
        first, second = [-1.7, 1], [2, -1.3]
        np.testing.assert_allclose(matrices, [[[0, 0], second], [first, second], [first, [0, 0]]], atol=1e-12)
        np.testing.assert_allclose(constants, [[0, 3], [3, 3], [3, 0]], atol=1e-9)


def test_adapted_rules_lie_dense_where_the_gradient_changes():
    # the gradient jumps at t = 0.8 to 0.9 only
    weights = np.ones((40, 1))
    network = feedforward([weights, np.where(np.arange(40) % 2, -1.0, 1.2)[None]], [-np.linspace(0.8, 0.9, 40), [0.0]])
    gradients = IntegratedGradients(network)
    t, w = gradients.adapted([[1.0]])(20)
    assert len(t) == len(w) == 20
    np.testing.assert_allclose(w.sum(), 1)
    assert ((t > 0.78) & (t < 0.92)).mean() > 0.5
    (exact,) = gradients.attribute([[1.0]])
    (sampled,) = gradients.attribute([[1.0]], method=(t, w))
    (plain,) = gradients.attribute([[1.0]], method="midpoint", n_steps=20)
    assert abs(sampled - exact).max() < 0.3 * abs(plain - exact).max()
    assert gradients.error([[1.0]], method=(t, w)) < gradients.error([[1.0]], method="midpoint", n_steps=20)


def test_bad_arguments():
    ig = IntegratedGradients(mlp([5, 4, 3]))
    with pytest.raises(InputError, match="target"):
        ig.attribute(np.zeros(5))
    with pytest.raises(InputError, match="no output"):
        ig.attribute(np.zeros(5), target=3)
    with pytest.raises(InputError, match="unknown method"):
        ig.attribute(np.ones(5), target=0, method="simpson")
    with pytest.raises(InputError, match="baselines"):
        ig.attribute(np.ones((4, 5)), np.ones((3, 5)), target=0)
