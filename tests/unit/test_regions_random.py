"""Random graphs of all operators: restrictions against rational arithmetic, dense sampling and the network itself.

`network_of` draws a graph from a seed, with every operator that can be restricted, several layers deep, values in
different ranges, duplicated and dead units, and weights on a coarse grid (so that units meet their kinks together).
"""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.network.convolution import Conv
from verifier.network.graph import Network, NetworkBuilder
from verifier.network.operators import Concat, Dense, Reshape, Scale, Select, Sum
from verifier.network.piecewise import MaxPool, PiecewiseLinear, absolute, clip, leaky_relu, relu
from verifier.regions import line, lines, plane

SQUARE = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
STAIRS = PiecewiseLinear((-0.5, 0.0, 0.7), (0.2, 1.0, -0.5, 2.0), (-0.4, 0.0, 0.0, -1.75), (1.0, 1.0, 2.0))


class Drawer:
    """Draws a network, node by node."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.grid = seed % 4 == 0

    def weights(self, *shape: int) -> np.ndarray:
        w = self.rng.normal(size=shape) * np.sqrt(2 / max(1, np.prod(shape[1:])))
        if self.grid:
            w = np.round(2 * w) / 2
        if self.rng.random() < 0.2 and shape[0] > 1:
            w[self.rng.integers(shape[0])] = w[self.rng.integers(shape[0])]  # a duplicated unit
        if self.rng.random() < 0.1:
            w[self.rng.integers(shape[0])] = 0  # a dead unit
        return w

    def bias(self, n: int) -> np.ndarray:
        kind = self.rng.integers(3)
        b = np.zeros(n) if kind == 0 else self.rng.normal(size=n) * 0.3
        return np.round(2 * b) / 2 if self.grid else b

    def activation(self):
        pool = [relu(), relu(), relu(), leaky_relu(0.1), clip(-0.3, 0.8), clip(0, 1), absolute(), STAIRS]
        return pool[self.rng.integers(len(pool))]

    def network(self) -> Network:
        rng = self.rng
        if rng.random() < 0.4:
            b = NetworkBuilder((int(rng.integers(2, 5)),))
        else:
            b = NetworkBuilder((int(rng.integers(1, 3)), int(rng.integers(3, 6)), int(rng.integers(3, 6))))
        known = ["input"]
        for _ in range(int(rng.integers(3, 9))):
            known.append(self.step(b, known))
        size = int(np.prod(b.shape(known[-1])))
        if len(b.shape(known[-1])) != 1:
            b.add(Reshape((size,)))
        b.add(Dense(self.weights(3, size), self.bias(3)))
        if rng.random() < 0.2:
            b.add(self.activation())
        return b.build()

    def step(self, b: NetworkBuilder, known: list[str]) -> str:
        """Add one operator that fits the last node's shape."""
        rng, last = self.rng, known[-1]
        shape = b.shape(last)
        same = [name for name in known if b.shape(name) == shape and name != last]
        kind = rng.integers(10)
        if kind <= 2:
            return b.add(self.activation(), last)
        if kind == 4:
            return b.add(Scale(rng.uniform(-2, 2, shape), rng.normal(size=shape) * 0.2), last)
        if kind == 5 and same:
            other = same[rng.integers(len(same))]
            return b.add(Sum((1, int(rng.choice([-1, 1])))), last, other)
        if kind == 6 and same and np.prod(shape) < 60:
            other = same[rng.integers(len(same))]
            return b.add(Concat(0), last, other)
        if len(shape) == 1:
            if kind == 7:
                chosen = rng.integers(-1, shape[0], size=int(rng.integers(2, 10)))
                return b.add(Select(chosen.astype(np.int64)), last)
            n = int(rng.integers(3, 12))
            return b.add(Dense(self.weights(n, shape[0]), self.bias(n)), last)
        channels, height, width = shape
        if kind in (3, 7) and min(height, width) >= 2:
            stride = int(rng.integers(1, 3))
            padding = tuple(int(p) for p in rng.integers(0, 2, 4))
            below = b.add(relu(), last) if rng.random() < 0.5 else last
            return b.add(MaxPool((2, 2), (stride, stride), padding=padding), below)
        if kind == 8 and min(height, width) >= 2:  # average pooling, as the readers write it
            w = np.zeros((channels, 1, 2, 2)) + 0.25
            return b.add(Conv(w, np.zeros(channels), stride=(1, 1), groups=channels), last)
        out = int(rng.integers(1, 4))
        k = int(min(height, width, rng.integers(1, 4)))
        return b.add(Conv(self.weights(out, channels, k, k), self.bias(out), padding=(1, 0, 0, 1)), last)


def network_of(seed: int) -> Network:
    return Drawer(seed).network()


def segment(network: Network, rng: np.random.Generator, seed: int) -> np.ndarray:
    """Ends of a line: anywhere, on a grid (through kinks), or along an axis."""
    ends = rng.uniform(-2, 2, (2, network.input_size))
    if seed % 3 == 0:
        ends = np.round(ends)
    if seed % 7 == 0:
        ends[1] = ends[0]
        ends[1, rng.integers(network.input_size)] += 1
    return ends


def check_line(seed: int) -> None:
    network, rng = network_of(seed), np.random.default_rng(seed)
    start, end = segment(network, rng, seed)
    found = line(network, start, end)
    size = 1 + np.abs(found.values).max()
    assert found.breakpoints[0] == 0
    assert found.breakpoints[-1] == 1
    assert (np.diff(found.breakpoints) > 0).all()
    # values: at breakpoints, and everywhere between
    t = np.sort(rng.random(400))
    np.testing.assert_allclose(found.evaluate(t), network.forward(found.at(t)), rtol=0, atol=1e-10 * size)
    np.testing.assert_allclose(found.values, network.forward(found.points), rtol=0, atol=1e-10 * size)
    # rational arithmetic: the same breakpoints, but for those that no float separates
    exact = line(network, start, end, exact=True)
    distance = np.abs(exact.breakpoints[:, None] - found.breakpoints)
    assert distance.min(axis=0).max() < 1e-10, "a breakpoint that is none"
    assert distance.min(axis=1).max() < 1e-10, "a breakpoint overlooked"
    clear = np.diff(exact.breakpoints) > 1e-9
    assert len(found) >= clear.sum()
    # patterns and gradients of all pieces that are wide enough to be told apart
    wide = np.flatnonzero(found.lengths > 1e-9)
    middle = np.searchsorted(exact.breakpoints, found.middles[wide], side="right") - 1
    ours, theirs = found.pattern(wide), exact.pattern(middle)
    for name in ours:
        assert (ours[name] == theirs[name]).all(), name
    np.testing.assert_allclose(found.gradient(1, wide), exact.gradient(1, middle), rtol=1e-12, atol=1e-12)
    delta = found.values[wide + 1] - found.values[wide]
    slope = found.gradient(1, wide) @ (end - start) * found.lengths[wide]
    np.testing.assert_allclose(delta[:, 1], slope, rtol=0, atol=1e-10 * size)
    # classes
    bands = found.classes()
    y = network.forward(found.at(t))
    top = np.sort(y, axis=1)
    assert (bands.at(t) == y.argmax(axis=1))[top[:, -1] - top[:, -2] > 1e-9 * size].all()
    # the batch of three lines holds the same line
    batch = lines(network, np.stack([end, start, start]), np.stack([start, end, (start + end) / 2]))
    np.testing.assert_allclose(batch[1].breakpoints, found.breakpoints, rtol=0, atol=1e-10)


def check_plane(seed: int) -> None:
    network, rng = network_of(seed), np.random.default_rng(seed)
    frame = rng.uniform(-1, 1, (3, network.input_size))
    if seed % 3 == 0:
        frame = np.round(2 * frame) / 2
        frame[1, 0], frame[2, 0], frame[2, 1] = 1, 0, 1
        frame[1, 1] = 0
    found = plane(network, *frame, SQUARE)
    size = 1 + np.abs(found.values).max()
    assert np.isfinite(found.vertices).all()
    np.testing.assert_allclose(found.areas.sum(), 4, rtol=1e-9)
    assert (found.areas > -1e-14).all()
    np.testing.assert_allclose(found.values, network.forward(found.embed(found.vertices)), rtol=0, atol=1e-9 * size)
    assert len(found.vertices) - (len(found.neighbours) + len(found.boundary)) + len(found) == 1  # Euler
    # at random points of the square, the polygon that holds the point has the network's affine map
    points = rng.uniform(-1, 1, (60, 2))
    owner = np.full(60, -1)
    for c, polygon in enumerate(found.polygons):
        edge = np.roll(polygon, -1, axis=0) - polygon
        ahead = points[:, None] - polygon
        inside = (edge[:, 0] * ahead[..., 1] - edge[:, 1] * ahead[..., 0] > 1e-9).all(axis=1)
        assert (owner[inside] == -1).all(), "polygons overlap"
        owner[inside] = c
    held = np.flatnonzero(owner >= 0)
    assert len(held) > 40
    x = found.embed(points[held])
    matrices, constants = found.affine(owner[held])
    y = np.einsum("pmn,pn->pm", matrices, x) + constants
    np.testing.assert_allclose(y, network.forward(x), rtol=0, atol=1e-9 * size)
    classes = found.classes()
    np.testing.assert_allclose(classes.areas.sum(), 4, rtol=1e-9)
    # every line through the plane breaks only at polygon borders: its pattern is constant inside a polygon
    a, b = rng.uniform(-1, 1, (2, 2))
    cut = line(network, found.embed(a), found.embed(b))
    at = a + cut.breakpoints[1:-1, None] * (b - a)
    for polygon in found.polygons:
        edge = np.roll(polygon, -1, axis=0) - polygon
        length = np.linalg.norm(edge, axis=1)
        ahead = at[:, None] - polygon
        depth = ((edge[:, 0] * ahead[..., 1] - edge[:, 1] * ahead[..., 0]) / length).min(axis=1)
        assert (depth < 1e-8).all(), "a breakpoint inside a polygon"


@settings(max_examples=60)
@given(st.integers(0, 10**6))
def test_lines_of_random_graphs(seed):
    check_line(seed)


@settings(max_examples=60)
@given(st.integers(0, 10**6))
def test_planes_of_random_graphs(seed):
    check_plane(seed)
