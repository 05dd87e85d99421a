"""Line and plane restrictions against truths in closed form, rational arithmetic and the network itself."""

from __future__ import annotations

import itertools
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier.errors import InputError
from verifier.network.convolution import Conv
from verifier.network.graph import Network, NetworkBuilder, feedforward
from verifier.network.operators import Concat, Dense, Reshape, Scale, Select, Sum
from verifier.network.piecewise import MaxPool, PiecewiseLinear, absolute, clip, leaky_relu, relu
from verifier.regions import line, lines, plane

SQUARE = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
ACTIVATIONS = [
    relu(),
    leaky_relu(0.1),
    clip(-0.3, 0.8),
    absolute(),
    PiecewiseLinear((-0.5, 0.0, 0.7), (0.2, 1.0, -0.5, 2.0), (-0.4, 0.0, 0.0, -1.75), (1.0, 1.0, 2.0)),
]


def mlp(sizes, rng, bias=0.1, activation=None):
    weights = [rng.normal(size=(o, i)) * np.sqrt(2 / i) for i, o in itertools.pairwise(sizes)]
    return feedforward(weights, [rng.normal(size=o) * bias for o in sizes[1:]], activation=activation)


def cnn(rng, size=6):
    """A network with every operator: Conv, fused and other MaxPool, residual Sum, Concat, Select, Scale, Dense."""

    def weights(*shape):
        return rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))

    b = NetworkBuilder((2, size, size))
    b.add(Scale(rng.uniform(0.5, 2, (2, size, size)), rng.normal(size=(2, size, size)) * 0.1))
    b.add(Conv(weights(4, 2, 3, 3), rng.normal(size=4) * 0.1, padding=(1, 1, 1, 1)))
    b.add(relu())
    pooled = b.add(MaxPool((2, 2), (2, 2)))
    b.add(Conv(weights(4, 2, 3, 3), rng.normal(size=4) * 0.1, padding=(1, 1, 1, 1), groups=2))
    bent = b.add(ACTIVATIONS[int(rng.integers(len(ACTIVATIONS)))])
    b.add(Sum((1, -1)), bent, pooled)
    half = b.add(clip(-0.3, 0.8))
    top = b.add(MaxPool((2, 2), (1, 1), padding=(0, 1, 1, 0)), half)
    joined = b.add(Concat(0), top, half)
    b.add(Select(rng.permutation(b.shape(joined)[0] * (size // 2) ** 2)[:20].astype(np.int64)), joined)
    b.add(Reshape((4, 5)))
    b.add(Reshape((20,)))
    b.add(Dense(weights(8, 20), rng.normal(size=8) * 0.1))
    b.add(absolute())
    b.add(Dense(weights(3, 8), rng.normal(size=3) * 0.1))
    return b.build()


def network_of(seed: int) -> Network:
    rng = np.random.default_rng(seed)
    if seed % 3 == 0:
        return cnn(rng)
    return mlp([4, 12, 10, 8, 3], rng, activation=ACTIVATIONS[seed % len(ACTIVATIONS)])


def pool(height, width, fused):
    b = NetworkBuilder((1, height, width))
    if fused:
        b.add(relu())
    b.add(MaxPool((height, width), (height, width)))
    return b.build()


# -- lines ---------------------------------------------------------------------------------------------------
@given(st.integers(0, 60))
def test_line_agrees_with_network_and_with_rational_arithmetic(seed):
    network, rng = network_of(seed), np.random.default_rng(seed)
    start, end = rng.uniform(-2, 2, (2, network.input_size))
    found, exact = line(network, start, end), line(network, start, end, exact=True)
    assert exact.exact_breakpoints is not None
    assert [float(t) for t in exact.exact_breakpoints] == exact.breakpoints.tolist()
    np.testing.assert_allclose(found.breakpoints, exact.breakpoints, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.values, exact.values, rtol=1e-9, atol=1e-11)
    assert (np.diff(found.breakpoints) > 0).all()
    assert found.breakpoints[0] == 0
    assert found.breakpoints[-1] == 1
    outputs = network.forward(found.points)
    np.testing.assert_allclose(found.values, outputs, rtol=1e-9, atol=1e-11)
    middle = network.forward(found.midpoints)
    np.testing.assert_allclose((found.values[1:] + found.values[:-1]) / 2, middle, rtol=1e-9, atol=1e-11)
    inside = np.flatnonzero(found.lengths > 1e-9)
    expected = network.gradient(found.midpoints[inside], 1).reshape(len(inside), -1)
    np.testing.assert_allclose(found.gradient(1, inside), expected, rtol=1e-9, atol=1e-11)
    assert all((found.pattern()[n] == exact.pattern()[n]).all() for n in found.pattern())


@given(st.integers(0, 40))
def test_every_breakpoint_is_needed(seed):
    network, rng = network_of(seed), np.random.default_rng(seed)
    found = line(network, *rng.uniform(-1, 1, (2, network.input_size)))
    pattern = found.pattern()
    for k in range(len(found) - 1):
        assert any((p[k] != p[k + 1]).any() for p in pattern.values())


@given(st.integers(0, 40))
def test_pattern_is_that_of_the_midpoint(seed):
    network, rng = network_of(seed), np.random.default_rng(seed)
    found = line(network, *rng.uniform(-1, 1, (2, network.input_size)))
    wide = np.flatnonzero(found.lengths > 1e-9)
    expected = network.pattern(found.midpoints[wide])
    pattern = found.pattern(wide)
    names = [name for name in pattern if isinstance(network[name].operator, PiecewiseLinear)]
    assert names
    assert len(wide)
    assert all((pattern[name] == expected[name]).all() for name in names)


def test_zero_bias_through_the_origin_has_two_pieces():
    rng = np.random.default_rng(0)
    network = mlp([5, 50, 50, 50, 50, 50, 50, 5], rng, bias=0.0)
    ends = rng.normal(size=(100, 5))
    found = lines(network, -ends, ends)
    assert found.pieces == 200
    np.testing.assert_allclose([r.breakpoints[1] for r in found], 0.5, atol=1e-14)
    off = lines(network, -ends * rng.uniform(0.1, 10, (100, 1)), ends)
    assert off.pieces == 200


def chains(seed):
    """Fully connected networks and lines of all kinds: generic, zero bias through the origin, along kinks."""
    rng = np.random.default_rng(seed)
    activation = [relu(), leaky_relu(0.1), absolute()][seed % 3]
    network = mlp([4, 17, 15, 9, 3], rng, bias=[0.1, 0.0][seed % 2], activation=activation)
    ends = rng.integers(-2, 3, (6, 4)).astype(float) if seed % 5 == 0 else rng.normal(size=(6, 4))
    starts = [-ends, rng.normal(size=(6, 4)), 0 * ends][seed % 3]
    return network, starts, ends


@given(st.integers(0, 120))
def test_the_compiled_walk_agrees_with_the_general_one(seed):
    network, starts, ends = chains(seed)
    fast = lines(network, starts, ends)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["verifier.regions.line"], "feed_forward", lambda network: None)
        slow = lines(network, starts, ends)
    np.testing.assert_array_equal(fast.offsets, slow.offsets)
    np.testing.assert_allclose(fast.breakpoints, slow.breakpoints, rtol=0, atol=1e-12)
    np.testing.assert_allclose(fast.values, slow.values, rtol=1e-9, atol=1e-12)
    for k in range(len(fast)):
        got, expected = fast[k].pattern(), slow[k].pattern()
        assert all((got[name] == expected[name]).all() for name in expected)
        np.testing.assert_allclose(fast[k].gradient(1), slow[k].gradient(1), atol=1e-12)
        wide = np.flatnonzero(fast[k].lengths > 1e-9)
        middle = network.gradient(fast[k].midpoints[wide], 1)
        np.testing.assert_allclose(fast[k].gradient(1, wide), middle, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("fused", [True, False])
def test_max_pool_windows_are_upper_envelopes(fused):
    network, rng = pool(2, 2, fused), np.random.default_rng(1)
    for _ in range(300):
        a, b = rng.normal(size=(2, 4))
        candidates = [(Fraction(p), Fraction(q) - Fraction(p)) for p, q in zip(a.tolist(), b.tolist())]
        candidates += [(Fraction(0), Fraction(0))] * fused
        truth = {Fraction(0), Fraction(1)}
        for i, (p, q) in enumerate(candidates):
            for r, s in candidates[:i]:
                t = -(p - r) / (q - s) if q != s else Fraction(-1)
                if 0 < t < 1 and p + q * t == max(c + d * t for c, d in candidates):
                    truth.add(t)
        expected = [float(t) for t in sorted(truth)]
        np.testing.assert_allclose(line(network, a, b).breakpoints, expected, atol=1e-13)


def test_max_pool_after_relu_example():
    found = line(pool(1, 2, fused=True), [1, -3], [-3, 1])
    np.testing.assert_allclose(found.breakpoints, [0, 0.25, 0.75, 1], atol=1e-15)
    np.testing.assert_array_equal(found.gradient(0), [[1, 0], [0, 0], [0, 1]])


def test_units_that_touch_or_stay_on_zero_make_no_breakpoint():
    # unit 0 is |x| - like and touches zero at t = 1/2; unit 1 is zero throughout; unit 2 crosses at 1/4
    weights = [np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])]
    inner = [np.array([[1.0, 1.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]]), np.ones((1, 3))]
    network = feedforward([*weights, *inner], [np.array([0, 0, 0, 0.5]), np.zeros(3), np.zeros(1)])
    found = line(network, [-1, -1], [1, 1])
    # breakpoints: the first layer's units at 1/2 (x0 = 0) and 1/4 (x1 = -1/2); the second layer's add none
    np.testing.assert_allclose(found.breakpoints, [0, 0.25, 0.5, 1], atol=1e-15)
    assert (found.pattern()["relu_1"][:, 2] == 0).all()
    np.testing.assert_array_equal(found.gradient(0)[:, 0], [-1, -1, 1])


def test_a_line_along_a_kink_is_one_piece():
    network = feedforward([np.array([[1.0, -1.0]]), np.ones((1, 1))], [np.zeros(1), np.zeros(1)])
    found = line(network, [0.1, 0.1], [0.7, 0.7])
    assert len(found) == 1
    np.testing.assert_array_equal(found.gradient(0), [[0, 0]])


def test_identical_ends_are_one_piece():
    network = mlp([4, 10, 10, 2], np.random.default_rng(3))
    x = np.array([0.1, -0.2, 0.3, 0.4])
    found = line(network, x, x)
    np.testing.assert_array_equal(found.breakpoints, [0, 1])
    np.testing.assert_allclose(found.values, np.tile(network(x), (2, 1)))
    np.testing.assert_allclose(found.gradient(0), network.gradient(x, 0)[None])


def test_crossings_nearer_than_rounding_are_one_breakpoint():
    # two units cross 1e-17 apart, which no float in [0, 1] near 1/2 can separate
    network = feedforward(
        [np.array([[1.0], [1.0]]), np.ones((1, 2))], [np.array([-0.5, -0.5 * (1 + 2**-53)]), np.zeros(1)]
    )
    assert len(line(network, [0.0], [1.0])) == 2
    exact = line(network, [0.0], [1.0], exact=True)
    assert len(exact) in (2, 3)
    # 1e-6 apart is far enough to be kept
    network = feedforward([np.ones((2, 1)), np.ones((1, 2))], [np.array([-0.5, -0.500001]), np.zeros(1)])
    assert len(line(network, [0.0], [1.0])) == 3


def test_very_long_and_very_short_lines():
    network, rng = mlp([4, 20, 20, 2], np.random.default_rng(5)), np.random.default_rng(6)
    x, d = rng.normal(size=(2, 4))
    for scale in (1e-12, 1e-6, 1.0, 1e6, 1e9):
        found = line(network, x - scale * d, x + scale * d)
        exact = line(network, x - scale * d, x + scale * d, exact=True)
        assert len(found) == len(exact)
        np.testing.assert_allclose(found.breakpoints, exact.breakpoints, atol=1e-9 if scale < 1e-9 else 1e-12)


def test_many_lines_equal_each_line_alone():
    network, rng = cnn(np.random.default_rng(7)), np.random.default_rng(8)
    starts, ends = rng.uniform(-1, 1, (2, 7, network.input_size))
    batch = lines(network, starts, ends)
    assert len(batch) == 7
    assert batch.pieces == sum(len(r) for r in batch)
    for k, found in enumerate(batch):
        alone = line(network, starts[k], ends[k])
        np.testing.assert_allclose(found.breakpoints, alone.breakpoints, atol=1e-13)
        np.testing.assert_allclose(found.gradient(2), alone.gradient(2), atol=1e-12)
    assert len(lines(network, starts[:0], ends[:0])) == 0
    assert [len(r) for r in lines(network, starts[0], ends)] == [len(line(network, starts[0], e)) for e in ends]


def test_values_between_breakpoints_and_of_layers():
    network, rng = mlp([4, 12, 12, 3], np.random.default_rng(9)), np.random.default_rng(10)
    found = line(network, *rng.normal(size=(2, 4)))
    t = rng.random(200)
    np.testing.assert_allclose(found.evaluate(t), network(found.at(t)), atol=1e-12)
    np.testing.assert_allclose(found.layer("relu_1"), network.values(found.points)["relu_1"])
    matrices, constants = found.affine()
    np.testing.assert_allclose(
        np.einsum("pmn,pn->pm", matrices, found.midpoints) + constants, network(found.midpoints), atol=1e-12
    )


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ([0.0] * 3, [0.0] * 4, "shape"),
        ([0.0] * 4, [np.nan] * 4, "NaN"),
        ([0.0] * 4, [np.inf] * 4, "infinity"),
        (np.zeros((2, 4)), np.zeros((2, 4)), "one start"),
    ],
)
def test_bad_lines(start, end, message):
    with pytest.raises(InputError, match=message):
        line(mlp([4, 3, 2], np.random.default_rng(0)), start, end)


# -- planes --------------------------------------------------------------------------------------------------
def check_plane(network, found, area):
    """The claims that every plane restriction must keep."""
    assert np.isfinite(found.vertices).all()
    assert np.isfinite(found.values).all()
    np.testing.assert_allclose(found.areas.sum(), area, rtol=1e-9)
    assert (found.areas > -1e-15 * area).all()
    x = found.embed(found.vertices)
    values = network.values(x)
    np.testing.assert_allclose(found.values, values[network.output].reshape(len(x), -1), rtol=1e-9, atol=1e-10)
    pattern = found.pattern()
    owner = np.repeat(np.arange(len(found)), np.diff(found.offsets))
    for name, piece in pattern.items():
        node = network[name]
        if not isinstance(node.operator, PiecewiseLinear):
            continue
        z = values[node.inputs[0]].reshape(len(x), -1)[found.indices]
        piece = piece.reshape(len(found), -1)[owner]
        low = np.array([-np.inf, *node.operator.breaks])[piece]
        high = np.array([*node.operator.breaks, np.inf])[piece]
        slack = 1e-9 * np.abs(z).max()
        assert (z >= low - slack).all()
        assert (z <= high + slack).all()
    thick = np.flatnonzero(found.areas > 1e-9 * area)
    middle = found.embed(found.centroids[thick])
    expected = network.gradient(middle, 0).reshape(len(thick), -1)
    np.testing.assert_allclose(found.gradient(0, thick), expected, rtol=1e-9, atol=1e-10)


@given(st.integers(0, 30))
def test_plane_agrees_with_network(seed):
    network, rng = network_of(seed), np.random.default_rng(seed)
    origin, u, v = rng.uniform(-0.5, 0.5, (3, network.input_size))
    found = plane(network, origin, u, v, SQUARE)
    check_plane(network, found, 4.0)


@given(st.integers(0, 30))
def test_plane_crosses_lines_where_lines_break(seed):
    """A line drawn in the plane breaks exactly where it passes from polygon to polygon."""
    network, rng = network_of(seed), np.random.default_rng(seed)
    origin, u, v = rng.uniform(-0.5, 0.5, (3, network.input_size))
    found = plane(network, origin, u, v, SQUARE)
    a, b = rng.uniform(-1, 1, (2, 2))
    cut = line(network, found.embed(a), found.embed(b))
    direction = b - a
    normal = np.array([-direction[1], direction[0]])
    side = (found.vertices - a) @ normal
    along = (found.vertices - a) @ direction / (direction @ direction)
    crossed = 0
    for c in range(len(found)):
        loop = found.indices[found.offsets[c] : found.offsets[c + 1]]
        s, t = side[loop], along[loop]
        if s.min() < -1e-9 and s.max() > 1e-9:
            ends = []
            for i in range(len(loop)):
                s0, s1, t0, t1 = s[i - 1], s[i], t[i - 1], t[i]
                if (s0 < 0) != (s1 < 0):
                    ends.append(t0 + (t1 - t0) * s0 / (s0 - s1))
            if min(max(ends), 1) - max(min(ends), 0) > 1e-9:
                crossed += 1
    assert crossed == (cut.lengths > 1e-9).sum()


def test_zero_bias_plane_through_the_origin_is_sectors():
    rng = np.random.default_rng(0)
    network = mlp([5, 50, 50, 50, 50, 50, 50, 5], rng, bias=0.0)
    u, v = rng.normal(size=(2, 5))
    found = plane(network, np.zeros(5), u, v, SQUARE)
    corner = np.flatnonzero(np.abs(found.vertices).max(axis=1) < 1e-12)
    assert len(corner) == 1
    # every polygon has the origin as a corner: a sector
    assert (np.add.reduceat(found.indices == corner[0], found.offsets[:-1]) == 1).all()
    # as many sectors as a walk around the square finds pieces
    around = lines(network, found.embed(SQUARE), found.embed(np.roll(SQUARE, -1, axis=0)))
    merged = {
        tuple(np.concatenate([p.reshape(-1) for p in one]).tolist())
        for one in zip(*around[0].patterns.pattern(np.arange(around.pieces)).values())
    }
    assert len(found) == len(merged) == 602
    np.testing.assert_allclose(found.areas.sum(), 4, rtol=1e-9)


def test_duplicated_neurons_change_nothing():
    rng = np.random.default_rng(2)
    sizes = [5, 20, 20, 20, 5]
    weights = [rng.normal(size=(o, i)) * np.sqrt(2 / i) for i, o in itertools.pairwise(sizes)]
    biases = [rng.normal(size=o) * 0.1 for o in sizes[1:]]
    once = feedforward(weights, biases)
    doubled_weights = [weights[0].repeat(3, 0)]
    doubled_weights += [w.repeat(3, 0).repeat(3, 1) / 3 for w in weights[1:-1]]
    doubled_weights += [weights[-1].repeat(3, 1) / 3]
    doubled = feedforward(doubled_weights, [*(b.repeat(3) for b in biases[:-1]), biases[-1]])
    basis = np.eye(5)
    a, b = (plane(n, np.zeros(5), basis[0], basis[1], SQUARE) for n in (once, doubled))
    assert len(a) == len(b) > 100
    starts, ends = rng.uniform(-1, 1, (2, 50, 5))
    assert lines(once, starts, ends).pieces == lines(doubled, starts, ends).pieces


def test_neighbours_share_an_edge_and_differ_in_pattern():
    network, rng = mlp([3, 10, 10, 2], np.random.default_rng(4)), np.random.default_rng(5)
    found = plane(network, *rng.normal(size=(3, 3)), SQUARE)
    pairs = found.neighbours
    assert (pairs[:, 0] < pairs[:, 1]).all()
    # Euler's formula for a connected mesh: V - E + F = 1
    assert len(found.vertices) - (len(pairs) + len(found.boundary)) + len(found) == 1
    pattern = np.concatenate([p.reshape(len(found), -1) for p in found.pattern().values()], axis=1)
    assert (pattern[pairs[:, 0]] != pattern[pairs[:, 1]]).any(axis=1).all()
    lengths = np.linalg.norm(np.diff(found.vertices[found.boundary], axis=1), axis=2)
    np.testing.assert_allclose(lengths.sum(), 8)


@given(st.integers(0, 12))
def test_plane_with_max_pool_has_no_needless_polygon(seed):
    network, rng = cnn(np.random.default_rng(seed)), np.random.default_rng(seed)
    found = plane(network, *rng.uniform(-0.5, 0.5, (3, network.input_size)), SQUARE * 0.5)
    pairs = found.neighbours
    assert len(found.vertices) - (len(pairs) + len(found.boundary)) + len(found) == 1
    pattern = np.concatenate([p.reshape(len(found), -1) for p in found.pattern().values()], axis=1)
    assert (pattern[pairs[:, 0]] != pattern[pairs[:, 1]]).any(axis=1).all()


def test_plane_given_by_corners_in_the_input_space():
    network, rng = mlp([5, 12, 12, 2], np.random.default_rng(6)), np.random.default_rng(7)
    origin, u, v = rng.normal(size=(3, 5))
    corners = origin + SQUARE[:, :1] * u + SQUARE[:, 1:] * v
    by_corners, by_frame = plane(network, corners), plane(network, origin, u, v, SQUARE)
    assert len(by_corners) == len(by_frame)
    assert len(plane(network, origin, u, v, SQUARE[::-1])) == len(by_frame)
    assert len(plane(network, origin, u, v)) == len(by_frame)


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ([[0, 0], [1, 0]], "at least 3"),
        ([[0, 0], [1, 0], [2, 0]], "no area"),
        ([[0, 0], [1, 0], [0, np.nan]], "NaN"),
        ([[0, 0], [2, 0], [1, 0.5], [2, 2], [0, 2]], "not convex"),
        ([[0, 0], [1, 1], [1, 0], [0, 1]], "not convex"),
        ([[1, 0], [-0.8, 0.6], [0.3, -1], [0.3, 1], [-0.8, -0.6]], "not convex"),
        ([0, 1, 2], "array"),
    ],
)
def test_bad_polygons(polygon, message):
    network = mlp([2, 3, 2], np.random.default_rng(0))
    with pytest.raises(InputError, match=message):
        plane(network, [0, 0], [1, 0], [0, 1], polygon)


def test_bad_planes():
    network = mlp([3, 3, 2], np.random.default_rng(0))
    with pytest.raises(InputError, match="u has shape"):
        plane(network, [0, 0, 0], [1, 0], [0, 1, 0])
    with pytest.raises(InputError, match="one plane"):
        plane(network, [[0, 0, 0], [1, 0, 0], [1, 1, 0.5], [0, 1, 0]])
    with pytest.raises(InputError, match="no area"):
        plane(network, [[0, 0, 0], [1, 0, 0], [2, 0, 0]])
    with pytest.raises(InputError, match="parallel"):
        plane(network, [0, 0, 0], [1, 0, 0], [2, 0, 0])


# -- classes -------------------------------------------------------------------------------------------------
@given(st.integers(0, 30))
def test_class_bands_and_maps(seed):
    network, rng = network_of(seed), np.random.default_rng(seed)
    found = line(network, *rng.uniform(-2, 2, (2, network.input_size)))
    bands = found.classes()
    np.testing.assert_allclose(bands.lengths.sum(), 1, rtol=1e-12)
    assert (np.diff(bands.labels) != 0).all()
    t = np.sort(rng.random(300))
    y = network(found.at(t)).reshape(300, -1)
    top = np.sort(y, axis=1)
    clear = top[:, -1] - top[:, -2] > 1e-9
    assert (bands.at(t) == y.argmax(axis=1))[clear].all()
    edges = np.sort(network(found.at(bands.boundaries[1:-1])), axis=1) if len(bands.labels) > 1 else np.zeros((1, 2))
    np.testing.assert_allclose(edges[:, -1], edges[:, -2], atol=1e-9)

    region = plane(network, *rng.uniform(-0.7, 0.7, (3, network.input_size)), SQUARE)
    for best in ("max", "min"):
        classes = region.classes(best=best)
        np.testing.assert_allclose(classes.areas.sum(), 4, rtol=1e-9)
        middle = np.array([p.mean(axis=0) for p in classes.polygons])
        y = network(region.embed(middle)) * (1 if best == "max" else -1)
        top = np.sort(y, axis=1)
        clear = top[:, -1] - top[:, -2] > 1e-9
        assert (classes.labels == y.argmax(axis=1))[clear].all()
        ends = classes.boundaries.reshape(-1, 2)
        if len(ends):
            top = np.sort(network(region.embed(ends)) * (1 if best == "max" else -1), axis=1)
            np.testing.assert_allclose(top[:, -1], top[:, -2], atol=1e-9)


def test_ties_go_to_the_smaller_class():
    network = feedforward([np.array([[1.0], [1.0], [0.0]])], [np.zeros(3)])
    bands = line(network, [-1.0], [1.0]).classes()
    np.testing.assert_allclose(bands.boundaries, [0, 0.5, 1])
    assert bands.labels.tolist() == [2, 0]
