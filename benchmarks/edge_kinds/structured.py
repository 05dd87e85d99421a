"""Structured networks (strided, grouped, dilated, padded, residual convolutions) at scales from 1e-30 to 1e30."""

from __future__ import annotations

import time
from collections.abc import Iterable
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from edge_kinds.kind import Kind, Outcome, Trial

from verifier.bab import Ending
from verifier.bounds.crown_slopes import NeuronBounder
from verifier.bounds.restriction import restrict
from verifier.bounds.structured.maps import Backend
from verifier.bounds.structured.rows import RowBounds
from verifier.bounds.structured.sweep import Sweep
from verifier.engines.native.subproblem_search import SubproblemSearch
from verifier.engines.native.window_split import WindowSplit
from verifier.errors import InputError
from verifier.events import ignore
from verifier.limits import NEVER, Deadline
from verifier.network.convolution import Conv
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network, NetworkBuilder
from verifier.network.operators import Concat, Dense, Reshape, Scale, Select, Sum
from verifier.network.piecewise import relu
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import Query
from verifier.properties.rows import Conditions
from verifier.properties.sets import Box
from verifier.rounding import float_above


def random_network(rng: np.random.Generator, scale: float = 1.0) -> Network:
    """A small convolutional network with one residual connection or concatenation, and sometimes a permutation."""
    groups = int(rng.integers(1, 3))
    channels = groups * int(rng.integers(1, 3))
    size = (int(rng.integers(3, 7)), int(rng.integers(3, 7)))
    builder = NetworkBuilder((channels, *size))

    def weights(*shape: int) -> npt.NDArray[np.float64]:
        return rng.normal(size=shape) * scale / np.sqrt(max(1, np.prod(shape[1:])))

    def conv(source: str, out: int, stride: int, side: int) -> str:
        inside, height, width = builder.shape(source)
        side = min(side, height, width)
        dilation = int(rng.integers(1, 3)) if 2 * (side - 1) < min(height, width) else 1
        padding = tuple(int(p) for p in rng.integers(0, 2, size=4))
        g = groups if inside % groups == 0 and out % groups == 0 else 1
        return builder.add(
            Conv(weights(out, inside // g, side, side), weights(out, 1)[:, 0], (stride, stride), padding,
                 (dilation, dilation), g),
            source,
        )  # fmt: skip

    first = builder.add(relu(), conv("input", 2 * groups, int(rng.integers(1, 3)), 3))
    if rng.random() < 0.3:
        shape = builder.shape(first)
        first = builder.add(Select(rng.permutation(int(np.prod(shape))).reshape(shape)), first)
    inside = builder.shape(first)
    same = builder.add(
        Conv(weights(inside[0], inside[0], 3, 3), weights(inside[0], 1)[:, 0], padding=(1, 1, 1, 1)), first
    )
    if rng.random() < 0.3:
        same = builder.add(Scale(weights(*inside), weights(*inside)), same)
    joined = builder.add(Sum((1, -1)) if rng.random() < 0.7 else Concat(0), same, first)
    last = builder.add(relu(), joined)
    if rng.random() < 0.5:
        last = builder.add(relu(), conv(last, 2, int(rng.integers(1, 3)), 2))
    flat = int(np.prod(builder.shape(last)))
    last = builder.add(Reshape((flat,)), last)
    if rng.random() < 0.5:
        last = builder.add(relu(), builder.add(Dense(weights(3, flat), weights(3, 1)[:, 0]), last))
        flat = 3
    return builder.build(builder.add(Dense(weights(2, flat), weights(2, 1)[:, 0]), last))


def touching(seed: int) -> Query:
    """A query that one known point meets by a hair: an output's exact value there, rounded up, is the bound."""
    rng = np.random.default_rng(seed)
    scale = float(10.0 ** rng.integers(-30, 31)) if rng.random() < 0.3 else float(10.0 ** rng.integers(-3, 4))
    network = random_network(rng, scale)
    center = rng.normal(size=network.input_size) * 10.0 ** rng.integers(-3, 4)
    radius = float(rng.choice([0.0, 1e-12, 1e-6, 1e-3, 1e-1])) * max(1e-3, float(np.abs(center).max()))
    width = np.where(rng.random(network.input_size) < rng.choice([0.1, 1.0]), radius, 0.0)
    box = Box(center - width, center + width)
    exact = ExactNetwork(network)
    points = np.where(rng.random((4, box.size)) < 0.5, box.lower, box.upper)
    row = np.where(rng.random(2) < 0.5, 1.0, -1.0)
    values = []
    for point in points:
        y = exact.values(point)[network.output].fractions()
        values.append(sum((Fraction(r) * v for r, v in zip(row, y, strict=True)), Fraction(0)))
    bound = float_above(min(values))
    return Query(network=network, box=box, disjuncts=(Conjunction(y_rows=row[None], bound=np.array([bound])),))


def cancelling(seed: int) -> Query:
    """Large numbers whose difference is the output, all ReLUs active; the bound is the exact least value, rounded up.

    Two large products of the input that differ little are subtracted: each is rounded, and the difference, which is what
    bounds are made from, keeps the errors of both and shows nothing of their size.
    """
    rng = np.random.default_rng(seed)
    n, scale = int(rng.integers(2, 6)), 2.0 ** int(rng.integers(4, 40))
    first, large, small = rng.normal(size=(n, n)), scale * rng.normal(size=(n, n)), rng.normal(size=(n, n))
    center, radius = rng.normal(size=n), float(rng.choice([0.0, 1e-12, 1e-6, 1e-2]))
    shift: npt.NDArray[np.float64] = 4 + np.abs(first) @ (np.abs(center) + radius)
    shifts = np.full(2 * n, 4 * n * np.abs(large).max() * shift.max())
    if rng.random() < 0.5:  # all numbers positive, and no constants
        first, large, small, center = np.abs(first), np.abs(large), np.abs(small), 1 + np.abs(center)
        shift, shifts = np.zeros(n), np.zeros(2 * n)
    pair = np.concatenate([large, large + small])
    box = Box(center - radius, center + radius)
    builder = NetworkBuilder((n,))
    builder.add(Dense(first, shift))
    builder.add(relu())
    if rng.random() < 0.5:
        builder.add(Reshape((n, 1, 1)))
        builder.add(Conv(pair.reshape(2 * n, n, 1, 1), shifts))
        builder.add(relu())
        builder.add(Reshape((2 * n,)))
    else:
        builder.add(Dense(pair, shifts))
        builder.add(relu())
    builder.add(Dense(np.concatenate([-np.eye(n), np.eye(n)], axis=1), np.zeros(n)))
    builder.add(Dense(rng.normal(size=(1, n)), np.zeros(1)))
    network = builder.build()
    exact = ExactNetwork(network)

    def value(x: npt.NDArray[np.float64]) -> Fraction:
        return exact.values(x)[network.output].fractions()[0]

    middle = value(center)
    low, high = box.lower, box.upper
    least = np.array(
        [low[k] if value(np.where(np.arange(n) == k, high, center)) > middle else high[k] for k in range(n)]
    )
    bound = float_above(value(least))
    return Query(network=network, box=box, disjuncts=(Conjunction(y_rows=np.ones((1, 1)), bound=np.array([bound])),))


def _trials(query: Query, detail: str, splits: bool) -> Iterable[Trial]:
    """What each kind of bounds makes of a query that one point meets by a hair."""
    conditions = Conditions.of(query)

    def windows(bits: int) -> bool:
        import torch

        backend = None if bits == 0 else Backend(torch.float32 if bits == 32 else torch.float64)
        sweep = Sweep(query.network, query.box, conditions.y_rows.any(0), backend=backend)
        sweep.run()
        rows = RowBounds(sweep, conditions.y_rows, conditions.x_rows, conditions.bound)
        if bool((rows.lower() > 0).any()) or bool((rows.optimised(3) > 0).any()):
            return True
        if bits or not splits:
            return False
        found = WindowSplit(rows).run({0: -np.inf}, 1e8, Deadline.after(0.1), ignore)
        return found.ending is Ending.PROVED

    def condensed() -> bool:
        condensed = restrict(query.network, query.box, NeuronBounder(1), fold_active=True)
        return not len(SubproblemSearch(query, conditions, condensed, NEVER).root([0], 3)[0])

    for name, proves in (
        ("windows", lambda: windows(0)),
        ("windows, float64", lambda: windows(64)),
        ("condensed", condensed),
    ):
        began = time.perf_counter()
        try:
            wrong = proves()
        except InputError as error:  # numbers beyond float64
            yield Trial(engine=name, outcome=Outcome.UNDECIDED, seconds=time.perf_counter() - began, detail=str(error))
            continue
        outcome = Outcome.WRONG if wrong else Outcome.RIGHT
        yield Trial(engine=name, outcome=outcome, seconds=time.perf_counter() - began, detail=detail)


def _touched(seed: int) -> Iterable[Trial]:
    return _trials(touching(seed), f"touching({seed})", splits=not seed % 4)  # splits take a tenth of a second


def _cancelled(seed: int) -> Iterable[Trial]:
    return _trials(cancelling(seed), f"cancelling({seed})", splits=False)


KINDS = [
    Kind(
        name="structured bounds touch",
        what="an output's exact value at a corner is the bound: no structured bound may be above it",
        run=_touched,
        cost=0.06,
    ),
    Kind(
        name="structured bounds of differences",
        what="a difference of large numbers has its exact least value as bound: no structured bound may be above it",
        run=_cancelled,
        cost=0.02,
    ),
]
