"""Networks with MaxPool, leaky and plain ReLUs through every path of every engine, on boxes of one varying input.

On such a box the network is a walk along a segment, whose pieces `geometry.Segment` finds in fractions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction as F

import numpy as np
from edge_kinds.geometry import Layer, Segment, draw, network_of
from edge_kinds.kind import Kind, Trial
from edge_kinds.paths import ASKED, NATIVE, SOLVERS, judged

from verifier.engines import registry
from verifier.engines.native import NativeEngine
from verifier.network.operators import Array
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import Query
from verifier.properties.sets import Box
from verifier.rounding import float_above, float_below

EACH = 3
"""Paths of the native engine that are tried on each case, in turn; and one solver."""


def outputs(layers: Sequence[Layer], x: Sequence[F]) -> list[F]:
    """The outputs at a point."""
    values = list(x)
    for layer in layers:
        values = [
            sum((F(w) * v for w, v in zip(row, values, strict=True)), F(b))
            for row, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
        ]
        if layer.slope is not None:
            values = [v if v > 0 else F(layer.slope) * v for v in values]
        if layer.pool:
            values = [max(pair) for pair in zip(values[::2], values[1::2], strict=True)]
    return values


def _case(seed: int) -> tuple[list[Layer], Query, bool]:
    """A question whose bound lies beside the least value on the segment, and whether that is below it."""
    rng = np.random.default_rng(seed)
    layers = draw(rng, int(rng.integers(1, 4)))
    n = layers[0].weight.shape[1]
    low = np.round(rng.normal(size=n), 1) if rng.random() < 0.5 else rng.normal(size=n)
    high = low.copy()
    high[rng.integers(n)] += float(rng.choice([0.1, 1.0, 4.0]))
    truth = Segment(layers, low, high)
    row = rng.normal(size=len(truth.pieces[0][2]))
    weights = [F(v) for v in row.tolist()]
    values = [
        sum((w * truth.at(f, t) for w, f in zip(weights, forms, strict=True)), F(0))
        for a, b, forms in truth.pieces
        for t in (a, b)
    ]
    least, most = min(values), max(values)
    gap = float(most - least) * float(rng.choice([1e-6, 1e-3, 0.03, 0.3]))
    choice = rng.random()
    bound = float_above(least) if choice < 0.1 else float_below(least) + (gap if choice < 0.5 else -gap)
    asked = Conjunction(y_rows=row[None], bound=np.array([bound]))
    return layers, Query(network=network_of(layers), box=Box(low, high), disjuncts=(asked,)), least <= F(bound)


def _trials(seed: int) -> Iterator[Trial]:
    layers, query, truth = _case(seed)
    weights, bound = query.disjuncts[0].y_rows, F(float(query.disjuncts[0].bound[0]))

    def is_witness(x: Sequence[F]) -> bool:
        ends: list[Array] = [query.box.lower, query.box.upper]
        inside = all(F(float(a)) <= v <= F(float(b)) for a, v, b in zip(ends[0], x, ends[1], strict=True))
        value = sum((F(float(w)) * y for w, y in zip(weights[0], outputs(layers, x), strict=True)), F(0))
        return inside and value <= bound

    names = list(NATIVE)
    for k in range(EACH):
        name = names[(seed * EACH + k) % len(names)]
        settings, options = NATIVE[name]
        yield judged(name, NativeEngine(settings), query, options, truth, is_witness, f"seed {seed}")
    able = [name for name in SOLVERS if registry.get(name).availability().installed]
    name = able[seed % len(able)]
    options = replace(ASKED, bounds=("interval", "crown")[seed // 4 % 2])
    yield judged(name, registry.get(name), query, options, truth, is_witness, f"{options.bounds}, seed {seed}")


KINDS = [
    Kind(
        name="every path, any activation",
        what="MaxPool, leaky and plain ReLUs on a segment, through every path of the native engine and the solvers; bounds "
        "lie beside the least value, known from the segment's pieces in fractions",
        run=_trials,
        cost=0.1,
    ),
]
