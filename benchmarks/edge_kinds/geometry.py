"""Lines, planes and conductance at their edges: along kinks, weights like 0.1, ties, coinciding breakpoints, huge inputs.

The truth is a walk of its own in fractions: on every piece each value is an affine form of the input.
"""

from __future__ import annotations

import time
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
from edge_kinds.kind import Kind, Outcome, Trial

from verifier.attribution import IntegratedGradients
from verifier.errors import MemoryLimitError
from verifier.network.graph import Network, NetworkBuilder
from verifier.network.operators import Dense, Reshape
from verifier.network.piecewise import MaxPool, leaky_relu, relu
from verifier.regions import LineRestriction, PlaneRestriction, line, plane, plane_tiles

Form = tuple[Fraction, ...]
"""A constant, then one coefficient for each input."""
SQUARE = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
TIGHT = 1500 / 2**30
"""GiB in which some of these lines have to be walked in parts."""


@dataclass(frozen=True)
class Layer:
    """One layer: affine (weight, bias), then elementwise (slope below zero) or pairs whose maximum is taken, or nothing."""

    weight: np.ndarray
    bias: np.ndarray
    slope: float | None = None
    pool: bool = False


def network_of(layers: Sequence[Layer]) -> Network:
    """The layers as a network."""
    builder = NetworkBuilder((layers[0].weight.shape[1],))
    for layer in layers:
        builder.add(Dense(layer.weight, layer.bias))
        count = len(layer.bias)
        if layer.pool:
            builder.add(Reshape((1, 1, count)))
        if layer.slope is not None:
            builder.add(relu() if layer.slope == 0 else leaky_relu(layer.slope))
        if layer.pool:
            builder.add(MaxPool((1, 2), (1, 2)))
            builder.add(Reshape((count // 2,)))
    return builder.build()


def _apply(layer: Layer, forms: Sequence[Form]) -> list[Form]:
    """The affine part."""
    result = []
    for row, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True):
        weights = [Fraction(w) for w in row]
        total = [sum((w * f[k] for w, f in zip(weights, forms)), Fraction(0)) for k in range(len(forms[0]))]
        total[0] += Fraction(b)
        result.append(tuple(total))
    return result


def _scaled(form: Form, factor: Fraction) -> Form:
    return tuple(factor * x for x in form)


class Segment:
    """The forms of the last layer on each piece of a segment, by cutting layer after layer."""

    def __init__(self, layers: Sequence[Layer], start: np.ndarray, end: np.ndarray) -> None:
        self.start = [Fraction(x) for x in start.tolist()]
        self.step = [Fraction(y) - x for x, y in zip(self.start, end.tolist(), strict=True)]
        n = len(start)
        inputs = [tuple(Fraction(int(i == k + 1)) for i in range(n + 1)) for k in range(n)]
        pieces: list[tuple[Fraction, Fraction, list[Form]]] = [(Fraction(0), Fraction(1), inputs)]
        for layer in layers:
            pieces = [part for piece in pieces for part in self._through(layer, *piece)]
        self.pieces = pieces
        self.breaks = [p[0] for p in pieces] + [Fraction(1)]

    def at(self, form: Form, t: Fraction) -> Fraction:
        """A form's value at t."""
        return form[0] + sum(
            (c * (a + t * d) for c, a, d in zip(form[1:], self.start, self.step, strict=True)), Fraction(0)
        )

    def root(self, form: Form, low: Fraction, high: Fraction) -> Fraction | None:
        """Where a form changes its sign strictly inside a piece."""
        a, b = self.at(form, low), self.at(form, high)
        return low + (high - low) * a / (a - b) if a * b < 0 else None

    def _through(
        self, layer: Layer, low: Fraction, high: Fraction, forms: list[Form]
    ) -> Iterator[tuple[Fraction, Fraction, list[Form]]]:
        z = _apply(layer, forms)
        fused = layer.slope == 0 and layer.pool
        if layer.slope is not None and not fused:
            cuts = {t for f in z if (t := self.root(f, low, high)) is not None}
        else:
            cuts = set()
        for a, b in pairwise(sorted({low, high, *cuts})):
            here = z
            if layer.slope is not None and not fused:
                slope = Fraction(layer.slope)
                here = [f if self.at(f, (a + b) / 2) > 0 else _scaled(f, slope) for f in z]
            if layer.pool:
                yield from self._pooled(fused, a, b, here)
            else:
                yield a, b, here

    def _pooled(
        self, fused: bool, low: Fraction, high: Fraction, z: list[Form]
    ) -> Iterator[tuple[Fraction, Fraction, list[Form]]]:
        nothing = (Fraction(0),) * len(z[0])
        windows = [[nothing] * fused + list(pair) for pair in zip(z[::2], z[1::2], strict=True)]
        places = {low, high}
        for window in windows:
            for i, f in enumerate(window):
                for g in window[:i]:
                    t = self.root(tuple(x - y for x, y in zip(f, g, strict=True)), low, high)
                    if t is not None:
                        places.add(t)
        pieces: list[tuple[Fraction, Fraction, list[Form], list[int]]] = []
        for a, b in pairwise(sorted(places)):
            middle = (a + b) / 2
            winners = [max(range(len(w)), key=lambda k, w=w: (self.at(w[k], middle), -k)) for w in windows]
            if pieces and pieces[-1][3] == winners:
                pieces[-1] = (pieces[-1][0], b, pieces[-1][2], winners)
            else:
                pieces.append((a, b, [w[k] for w, k in zip(windows, winners, strict=True)], winners))
        yield from (p[:3] for p in pieces)

    def bands(self) -> tuple[list[Fraction], list[int]]:
        """Exact boundaries and labels of the classes (ties: the smaller)."""
        boundaries, labels = [Fraction(0)], []
        for low, high, forms in self.pieces:
            places = {low, high}
            for i, f in enumerate(forms):
                for g in forms[:i]:
                    t = self.root(tuple(x - y for x, y in zip(f, g, strict=True)), low, high)
                    if t is not None:
                        places.add(t)
            for a, b in pairwise(sorted(places)):
                values = [self.at(f, (a + b) / 2) for f in forms]
                label = values.index(max(values))
                if not labels or labels[-1] != label:
                    if labels:
                        boundaries.append(a)
                    labels.append(label)
        return [*boundaries, Fraction(1)], labels


def draw(rng: np.random.Generator, inputs: int) -> list[Layer]:
    """Small layers: weights in tenths, on a coarse grid, or anywhere; duplicated neurons, dead ones, zero biases."""
    kind = rng.integers(3)

    def numbers(*shape: int) -> np.ndarray:
        if kind == 0:
            return rng.integers(-5, 6, shape) / 10
        return rng.integers(-2, 3, shape).astype(float) if kind == 1 else rng.normal(size=shape)

    layers, width = [], inputs
    for _ in range(int(rng.integers(1, 4))):
        size = 2 * int(rng.integers(1, 4))
        weight = numbers(size, width)
        if rng.random() < 0.3:
            weight[0] = -weight[-1] if rng.random() < 0.5 else weight[-1]
        if rng.random() < 0.1:
            weight[0] = 0
        bias = numbers(size) if rng.random() < 0.6 else np.zeros(size)
        slope = [0.0, 0.0, 0.1, None][rng.integers(4)]
        pool = bool(rng.random() < 0.3) or slope is None
        layers.append(Layer(weight, bias, slope, pool))
        width = size // 2 if pool else size
    layers.append(Layer(numbers(3, width), numbers(3) if rng.random() < 0.5 else np.zeros(3)))
    return layers


def ends_of(rng: np.random.Generator, layers: Sequence[Layer]) -> tuple[np.ndarray, np.ndarray]:
    """A segment: anywhere, in tenths, through the origin, or along a neuron's kink as well as floats can."""
    n = layers[0].weight.shape[1]
    start, end = rng.uniform(-1, 1, (2, n))
    kind = rng.integers(4)
    if kind == 1:
        start, end = np.round(10 * start) / 10, np.round(10 * end) / 10
    elif kind == 2:
        start = -end
    elif kind == 3:
        w, b = layers[0].weight[0], layers[0].bias[0]
        k = int(np.argmax(np.abs(w)))
        if w[k] != 0:
            for x in (start, end):
                x[k] = 0
                x[k] = -(w @ x + b) / w[k]
    return start, end


def scaled(rng: np.random.Generator, layers: list[Layer], ends: tuple[np.ndarray, np.ndarray]) -> list[Layer]:
    """Everything times a power of two, now and then: the ends in place, the biases in the layers returned."""
    if rng.random() < 0.7:
        return layers
    factor = 2.0 ** int(rng.choice([-700, -40, 40, 700]))
    for x in ends:
        x *= factor
    return [Layer(a.weight, a.bias * factor, a.slope, a.pool) for a in layers]


def _close(a: float, b: float, size: float) -> bool:
    return abs(a - b) <= 1e-9 * size


def _line_fault(found: LineRestriction, truth: Segment) -> str:
    """What is wrong with a line in floats; empty if nothing is."""
    breaks = [float(t) for t in truth.breaks]
    size = float(np.abs(found.values).max() + np.abs(found.start).max() + np.abs(found.end).max())
    for t in found.breakpoints.tolist():
        if min(abs(t - s) for s in breaks) > 1e-9:
            return f"a breakpoint at {t} that is none"
    for s in breaks:
        if np.abs(found.breakpoints - s).min() > 1e-9:
            return f"no breakpoint at {s}"
    for low, high, forms in truth.pieces:
        if high - low < Fraction(1, 10**8):
            continue
        t = float((low + high) / 2)
        for k, form in enumerate(forms):
            if not _close(float(found.evaluate(t)[k]), float(truth.at(form, (low + high) / 2)), size):
                return f"output {k} at {t}"
            piece = bisect(found.breakpoints.tolist(), t) - 1
            gradient = found.gradient(k, [piece])[0]
            exact = np.array([float(x) for x in form[1:]])
            if np.abs(gradient - exact).max() > 1e-9 * (1 + np.abs(exact).max()):
                return f"gradient of output {k} at {t}: {gradient} instead of {exact}"
    return ""


def _trial(engine: str, began: float, fault: str) -> Trial:
    outcome = Outcome.WRONG if fault else Outcome.RIGHT
    return Trial(engine=engine, outcome=outcome, seconds=time.perf_counter() - began, detail=fault)


def float_lines(seed: int) -> Iterator[Trial]:
    """Lines in floats, by both walks."""
    rng = np.random.default_rng(seed)
    layers = draw(rng, int(rng.integers(1, 4)))
    ends = ends_of(rng, layers)
    layers = scaled(rng, layers, ends)
    network, truth = network_of(layers), Segment(layers, *ends)
    began = time.perf_counter()
    found = line(network, *ends)
    yield _trial("line", began, _line_fault(found, truth))
    began = time.perf_counter()
    try:
        found = line(network, *ends, memory=TIGHT, threads=int(rng.integers(1, 4)))
    except MemoryLimitError:  # it is so little that some do not fit
        return
    yield _trial("line in parts", began, _line_fault(found, truth))


def exact_lines(seed: int) -> Iterator[Trial]:
    """Lines in rational arithmetic, with their classes."""
    rng = np.random.default_rng(seed)
    layers = draw(rng, int(rng.integers(1, 4)))
    ends = ends_of(rng, layers)
    network, truth = network_of(layers), Segment(layers, *ends)
    began = time.perf_counter()
    found = line(network, *ends, exact=True)
    bands = found.classes()
    boundaries, labels = truth.bands()
    fault = ""
    if list(found.exact_breakpoints or ()) != truth.breaks:
        fault = f"breakpoints {found.exact_breakpoints} instead of {truth.breaks}"
    elif list(bands.exact_boundaries or ()) != boundaries or bands.labels.tolist() != labels:
        fault = f"classes {bands.labels} at {bands.exact_boundaries} instead of {labels} at {boundaries}"
    elif not np.isfinite(found.evaluate([0.0, 0.3, 1.0])).all():
        fault = "NaN"
    yield _trial("exact line", began, fault)


def conductances(seed: int) -> Iterator[Trial]:
    """The conductance of every layer sums to the change of the output."""
    rng = np.random.default_rng(seed)
    layers = draw(rng, int(rng.integers(1, 4)))
    start, end = ends_of(rng, layers)
    network, truth = network_of(layers), Segment(layers, start, end)
    began, fault = time.perf_counter(), ""
    change = float(truth.at(truth.pieces[-1][2][1], Fraction(1)) - truth.at(truth.pieces[0][2][1], Fraction(0)))
    gradients = IntegratedGradients(network)
    for node in network.nodes:
        found = gradients.conductance(node.name, end, start, 1)
        if not _close(float(found.sum()), change, 1 + float(np.abs(found).sum())):
            fault = f"{node.name}: {found.sum()} instead of {change}"
    yield _trial("conductance", began, fault)


def planes(seed: int) -> Iterator[Trial]:
    """Planes: the polygons cover the square, none is its own neighbour, and their gradients are right inside them."""
    rng = np.random.default_rng(seed)
    layers = draw(rng, 2)
    if rng.random() < 0.5:  # many kinks through few points, but for rounding
        weight = rng.normal(size=(8, 2))
        centre = rng.uniform(-1, 1, (2, 2))[rng.integers(0, 2, 8)]
        bias = -np.einsum("ij,ij->i", weight, centre) * (1 + rng.integers(-40, 41, 8) * 2.0**-52)
        layers[0] = Layer(weight, bias, [0.0, None][rng.integers(2)], True)
        layers[1] = Layer(rng.normal(size=(len(layers[1].bias), 4)), layers[1].bias, layers[1].slope, layers[1].pool)
    network = network_of(layers)
    began = time.perf_counter()
    found = plane(network, [0.0, 0.0], [1.0, 0.0], [0.0, 1.0], SQUARE)
    fault = ""
    if not np.isclose(found.areas.sum(), 4, rtol=1e-9) or (found.areas < -1e-14).any():
        fault = f"areas sum to {found.areas.sum()}"
    if (np.diff(found.offsets) < 3).any() or (found.neighbours[:, 0] == found.neighbours[:, 1]).any():
        fault = "a polygon that is none"
    for x in rng.uniform(-1, 1, (4, 2)):
        inside = [c for c, p in enumerate(found.polygons) if _depth(p, x) > 1e-7]
        near = Segment(layers, x - 1e-9, x + 1e-9)
        if len(near.pieces) > 1 or not inside:
            continue
        exact = np.array([float(g) for g in near.pieces[0][2][0][1:]])
        gradient = found.gradient(0, inside)[0]
        if len(inside) > 1 or np.abs(gradient - exact).max() > 1e-9 * (1 + np.abs(exact).max()):
            fault = f"at {x}: gradient {gradient} instead of {exact}"
    yield _trial("plane", began, fault)
    if seed % 4 == 0:
        yield from _tiles(network, found)


def _tiles(network: Network, whole: PlaneRestriction) -> Iterator[Trial]:
    """The plane in tiles, with half the memory that it takes: areas add up, and values are the whole plane's."""
    began, fault, area = time.perf_counter(), "", 0.0
    try:
        for _, tile in plane_tiles(network, [0.0, 0.0], [1.0, 0.0], [0.0, 1.0], SQUARE, memory=3 * TIGHT):
            area += float(tile.areas.sum())
            middles = np.array([p.mean(axis=0) for p in tile.polygons])
            size = 1 + np.abs(whole.values).max()
            at_middles = network.forward(middles)
            means = [tile.values[i].mean(axis=0) for i in np.split(tile.indices, tile.offsets[1:-1])]
            if np.abs(at_middles - np.array(means)).max() > 1e-9 * size:
                fault = "values in a tile"
    except MemoryLimitError:
        return
    if not np.isclose(area, 4, rtol=1e-9):
        fault = f"areas sum to {area}"
    yield _trial("plane in tiles", began, fault)


def _depth(polygon: np.ndarray, x: np.ndarray) -> float:
    edge, ahead = np.roll(polygon, -1, axis=0) - polygon, x - polygon
    length = np.maximum(np.linalg.norm(edge, axis=1), 1e-300)
    return float(((edge[:, 0] * ahead[:, 1] - edge[:, 1] * ahead[:, 0]) / length).min())


KINDS = [
    Kind(
        name="lines along kinks",
        what="breakpoints, outputs and gradients of lines in floats, many of them along kinks or 2^±700 in size; truth: "
        "the same segment cut in fractions",
        run=float_lines,
    ),
    Kind(
        name="exact lines",
        what="breakpoints and class boundaries as rationals, compared one by one with a walk in fractions",
        run=exact_lines,
    ),
    Kind(
        name="conductance",
        what="the conductances of every layer sum to the output's change, which is known as a fraction",
        run=conductances,
    ),
    Kind(
        name="planes",
        what="polygons with kinks that meet in points: area, neighbours, and gradients at random points in fractions",
        run=planes,
    ),
]
