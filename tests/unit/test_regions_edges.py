"""Lines, planes and conductance where rounding decides: each case was wrong once."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier.attribution import IntegratedGradients
from verifier.errors import InputError, TimeLimitError
from verifier.network.convolution import Conv
from verifier.network.graph import NetworkBuilder, feedforward
from verifier.network.operators import Dense, Reshape
from verifier.network.piecewise import MaxPool, relu
from verifier.regions import line, lines, long_lines, look, plane
from verifier.regions.settings import LineSettings

SQUARE = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
TENTHS = feedforward([np.array([[0.1, 0.2, -0.3]]), np.ones((1, 1))], [np.zeros(1), np.zeros(1)])
"""Its preactivation on x (1, 1, 1) is 2^-55 x, which floats cannot tell from zero."""


def test_exact_classes_where_two_classes_tie_to_the_end():
    network = feedforward([np.array([[-3.0], [-2.0], [2.0], [2.0]])], [np.array([3.0, 0.0, -1.0, -1.0])])
    for exact in (False, True):
        bands = line(network, [0.0], [1.0], exact=exact).classes()
        np.testing.assert_allclose(bands.boundaries, [0, 0.8, 1], atol=1e-12)
        assert bands.labels.tolist() == [0, 2]
    assert bands.exact_boundaries == (0, Fraction(4, 5), 1)
    assert line(network, [0.0], [1.0], exact=True).classes(best="min").labels.tolist() == [2, 1]


def test_values_where_exact_breakpoints_coincide_as_floats():
    network = feedforward([np.array([[10.0]]), np.ones((1, 1))], [np.array([-1.0]), np.zeros(1)])
    found = line(network, [0.0], [0.1], exact=True)
    assert found.breakpoints.tolist() == [0, 1, 1]
    np.testing.assert_allclose(found.evaluate([0.0, 0.5, 1.0])[:, 0], [0, 0, 0], atol=1e-15)


def test_conductance_of_a_relu_that_feeds_a_max_pool():
    builder = NetworkBuilder((1, 1, 2))
    neurons = builder.add(relu())
    builder.add(MaxPool((1, 2), (1, 2)))
    conductance = IntegratedGradients(builder.build()).conductance(neurons, [1, -1], [-1, -1], 0)
    assert conductance.reshape(-1).tolist() == [1, 0]


def pools(seed: int):
    """Convolutions and pools in all orders, each layer of which separates the input from the output."""
    rng = np.random.default_rng(seed)
    builder = NetworkBuilder((1, 8, 8))
    for channels in (1, 2):
        if seed % 2:
            builder.add(MaxPool((2, 2), (1, 1)))
        weight = rng.normal(size=(2, channels, 2, 2))
        builder.add(Conv(np.round(weight) if seed % 3 == 0 else weight, rng.normal(size=2) * (seed % 2)))
        builder.add(relu())
        builder.add(MaxPool((2, 2), (1, 1), padding=(0, 0, seed % 2, 0)))
    size = int(np.prod(builder.shape(builder._last)))
    builder.add(Reshape((size,)))
    builder.add(Dense(rng.normal(size=(3, size)), rng.normal(size=3)))
    return builder.build(), rng


@pytest.mark.parametrize("seed", range(12))  # twice each of the six kinds of network that `pools` makes
def test_conductance_of_every_layer_is_complete(seed):
    network, rng = pools(seed)
    start, end = rng.normal(size=(2, network.input_size))
    gradients, change = IntegratedGradients(network), float((network(end) - network(start))[1])
    for node in network.nodes:
        total = gradients.conductance(node.name, end, start, 1).sum()
        np.testing.assert_allclose(total, change, rtol=1e-9, atol=1e-9, err_msg=node.name)


def test_lines_along_a_kink_are_decided_exactly():
    for start, breaks, active in (([0.5] * 3, [0, 1], [True]), ([-1.0] * 3, [0, 0.5, 1], [False, True])):
        for exact in (False, True):
            found = line(TENTHS, start, [1.0] * 3, exact=exact)
            assert found.breakpoints.tolist() == breaks
            assert found.gradient(0).tolist() == [[0.1, 0.2, -0.3] if a else [0, 0, 0] for a in active]
            assert found.by_rounding == 0
    many = lines(TENTHS, [[0.5] * 3, [0.3, 0.0, 0.1], [0.5] * 3], [[1.0] * 3, [1.0, 0.2, 0.3], [0.5, 0.5, 0.6]])
    assert [len(one) for one in many] == [1, 1, 1]


def test_max_pool_along_a_tie_is_decided_exactly():
    builder = NetworkBuilder((3,))
    builder.add(Dense(np.array([[0.1, 0.2, 0.0], [0.0, 0.0, 0.3]]), np.zeros(2)))
    builder.add(Reshape((1, 1, 2)))
    builder.add(MaxPool((1, 2), (1, 2)))
    found = line(builder.build(), [-1.0] * 3, [1.0] * 3)
    assert found.breakpoints.tolist() == [0, 0.5, 1]
    np.testing.assert_array_equal(found.gradient(0), [[0, 0, 0.3], [0.1, 0.2, 0]])


def test_what_exact_looks_cost_is_bounded_and_what_they_leave_is_counted():
    found = line(TENTHS, [0.5] * 3, [1.0] * 3, settings=LineSettings(exact_work=4))
    assert found.by_rounding == 1
    assert found.gradient(0).tolist() == [[0, 0, 0]]
    with pytest.raises(TimeLimitError):
        line(TENTHS, [0.5] * 3, [1.0] * 3, deadline=0.0)


def test_dead_neurons_take_no_exact_look(monkeypatch):
    monkeypatch.setattr(look.ExactLook, "_look", lambda *_: pytest.fail("an exact look"))
    weights = [np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, -1.0]]), np.array([[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]])]
    network = feedforward([*weights, np.ones((1, 2))], [np.zeros(3), np.zeros(2), np.zeros(1)])
    assert len(line(network, [1.0, 1.0], [2.0, 1.0])) == 1


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e150, 1e200, 1e300, 1e308])
@pytest.mark.parametrize("exact", [False, True])
def test_breakpoints_at_all_scales(scale, exact):
    network = feedforward([np.ones((1, 1)), np.ones((1, 1))], [np.zeros(1), np.zeros(1)])
    found = line(network, [-scale], [scale], exact=exact)
    assert found.breakpoints.tolist() == [0, 0.5, 1]
    assert found.values.tolist() == [[0], [0], [scale]]
    builder = NetworkBuilder((1,))
    builder.add(relu())
    np.testing.assert_array_equal(line(builder.build(), [-scale], [3 * min(scale, 1e307)]).values[0], [0])


def test_values_that_overflow_are_refused():
    network = feedforward([np.full((1, 1), 10.0), np.ones((1, 1))], [np.zeros(1), np.zeros(1)])
    with pytest.raises(InputError, match="overflow"), np.errstate(over="ignore", invalid="ignore"):
        line(network, [1.0], [1e308])


@pytest.mark.parametrize("seed", range(4))
def test_lines_walked_by_threads_are_the_same_lines(seed):
    rng = np.random.default_rng(seed)
    dense = feedforward([rng.normal(size=s) for s in ((9, 3), (8, 9), (2, 8))], [rng.normal(size=k) for k in (9, 8, 2)])
    for network in (pools(seed)[0], dense):
        starts, ends = rng.normal(size=(2, 7, network.input_size))
        alone = lines(network, starts, ends)
        for found in (lines(network, starts, ends, threads=2), lines(network, starts, ends, threads=3)):
            assert_same_lines(found, alone)
        assert_same_lines([line(network, starts[0], ends[0], threads=3)], [alone[0]])
    with pytest.raises(InputError, match="threads"):
        line(dense, starts[0], ends[0], threads=0)


def assert_same_lines(found, expected):
    """The same pieces, up to rounding errors in the places."""
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.breakpoints, other.breakpoints, rtol=0, atol=1e-12)
        np.testing.assert_allclose(one.values, other.values, rtol=1e-9, atol=1e-12)
        assert all((one.pattern()[name] == p).all() for name, p in other.pattern().items())
        np.testing.assert_allclose(one.gradient(1), other.gradient(1), atol=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_lines_walked_in_parts_are_the_same_lines(seed):
    network, rng = pools(seed)
    starts, ends = rng.normal(size=(2, 3, network.input_size))
    whole = lines(network, starts, ends)
    parts = []

    def walk(*arguments):
        parts.append(arguments[3])
        return long_lines_walk(*arguments)

    long_lines_walk = long_lines._walk
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_lines, "_walk", walk)
        found = lines(network, starts, ends, memory=1e-3 if seed % 2 else 5e-5)
    assert len(parts) > 6
    np.testing.assert_array_equal(found.offsets, whole.offsets)
    assert_same_lines(found, whole)
    seeds = rng.normal(size=(found.pieces, 3))
    np.testing.assert_allclose(found.patterns.sum_gradients(seeds), whole.patterns.sum_gradients(seeds), atol=1e-9)


# -- planes --------------------------------------------------------------------------------------------------
def images(seed: int):
    """Four corners of a parallelogram of 784 pixels, each rounded to float32."""
    rng = np.random.default_rng(seed)
    a, u, v = rng.random((3, 784))
    return np.array([a, a + u, a + u + v, a + v], dtype=np.float32)


@given(st.integers(0, 20))
def test_corners_of_float32_images(seed):
    rng = np.random.default_rng(seed)
    network = feedforward([rng.normal(size=(5, 784)), np.ones((1, 5))], [rng.normal(size=5), np.zeros(1)])
    corners = images(seed)
    found = plane(network, corners)
    assert np.abs(found.embed(found.vertices)[:4] - corners).max() < 1e-6
    assert len(plane(network, corners[[0, 0, 1, 1, 2, 3, 0]])) == len(found)  # repeated corners
    bent = corners.astype(np.float64)
    bent[2, 0] += 1e-6
    with pytest.raises(InputError, match="one plane"):
        plane(network, bent)
    with pytest.raises(InputError, match="at least 3 different"):
        plane(network, corners[[0, 0, 1, 0]])


def slivers(seed: int):
    """A pool over functions that are zero at three points of the plane, but for a few roundings."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(2, 5, 2).tolist()
    weight = rng.normal(size=(height * width, 2))
    centre = rng.uniform(-1, 1, (3, 2))[rng.integers(0, 3, height * width)]
    shift = 1 + rng.integers(-40, 41, height * width) * 2.0**-52
    builder = NetworkBuilder((2,))
    builder.add(Dense(weight, -np.einsum("ij,ij->i", weight, centre) * shift))
    builder.add(Reshape((1, height, width)))
    if seed % 3:
        builder.add(relu())
    builder.add(MaxPool((2, 2), (1, 1)))
    return builder.build()


@pytest.mark.parametrize("seed", [220, 328, 485, 824, 888, *range(40)])
def test_slivers_are_no_polygons(seed):
    """220 to 824 had a piece of two vertices that was its own neighbour; 888 wrote beyond its arrays."""
    network = slivers(seed)
    found = plane(network, [0, 0], [1, 0], [0, 1], SQUARE)
    assert (np.diff(found.offsets) > 2).all()
    assert (found.neighbours[:, 0] < found.neighbours[:, 1]).all()
    np.testing.assert_allclose(found.areas.sum(), 4, rtol=1e-9)
    np.testing.assert_allclose(found.classes().areas.sum(), 4, rtol=1e-9)
    thick = np.flatnonzero(found.areas > 1e-9)
    middle = found.embed(found.centroids[thick])
    expected = network.gradient(middle, 0).reshape(len(thick), -1)
    np.testing.assert_allclose(found.gradient(0, thick), expected, atol=1e-9)
