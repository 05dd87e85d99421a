"""Gradients by symbols: no gradient on the box lies outside, exact ones included, and deep networks keep their signs."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from verifier.bounds.interval import interval_gradients, interval_values
from verifier.bounds.jacobian_symbols import gradient_symbols
from verifier.bounds.phases import phases
from verifier.bounds.relaxation import Slopes
from verifier.network.convolution import Conv
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network, NetworkBuilder
from verifier.network.operators import Dense, Reshape, Sum
from verifier.network.piecewise import relu


def deep(rng: np.random.Generator) -> Network:
    builder = NetworkBuilder((6,))
    for width in (6, *[8] * 7):
        builder.add(Dense(rng.normal(size=(8, width)) * 0.5, rng.normal(size=8) * 0.3))
        builder.add(relu())
    builder.add(Dense(rng.normal(size=(3, 8)), np.zeros(3)))
    return builder.build()


def residual(rng: np.random.Generator) -> Network:
    builder = NetworkBuilder((1, 4, 4))
    builder.add(Conv(rng.normal(size=(2, 1, 3, 3)) * 0.5, rng.normal(size=2), padding=(1, 1, 1, 1)))
    first = builder.add(relu())
    builder.add(Conv(rng.normal(size=(2, 2, 3, 3)) * 0.5, rng.normal(size=2), padding=(1, 1, 1, 1)))
    second = builder.add(relu())
    builder.add(Sum((1, -1)), first, second)
    builder.add(relu())
    builder.add(Reshape((32,)))
    builder.add(Dense(rng.normal(size=(3, 32)), np.zeros(3)))
    return builder.build()


def slopes_on(network: Network, low: np.ndarray, high: np.ndarray) -> dict[str, Slopes]:
    values = interval_values(network, low[None], high[None])
    found = phases(network, values)
    assert all(isinstance(s, Slopes) for s in found.values())
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("make", [deep, residual])
@pytest.mark.parametrize("width", [0.0, 1e-3, 0.05, 0.5])
def test_no_gradient_lies_outside(make: Callable[[np.random.Generator], Network], width: float) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        network = make(rng)
        low = rng.normal(size=network.input_size)
        high = low + width
        weights = np.concatenate([np.eye(3), [[1.0, -1.0, 0.5]]])
        found = gradient_symbols(network, weights, slopes_on(network, low, high))
        assert found is not None
        points = rng.uniform(low, high, size=(200, len(low)))
        for row, a, b in zip(weights, *found.ends(), strict=True):
            g = network.gradient(points, row).reshape(len(points), *a.shape)
            assert ((g >= a - 1e-12) & (g <= b + 1e-12)).all()
        exact = ExactNetwork(network)
        for row, a, b in zip(weights, *found.ends(), strict=True):
            at = [Fraction(v) for v in points[0].tolist()]
            for g, low_end, high_end in zip(exact.gradient(at, row), a.reshape(-1), b.reshape(-1), strict=True):
                assert Fraction(low_end) <= g <= Fraction(high_end)


def test_signs_survive_many_layers() -> None:
    better = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        network, low = deep(rng), rng.normal(size=6)
        known = slopes_on(network, low, low + 0.02)
        found = gradient_symbols(network, np.eye(3), known)
        assert found is not None
        loose = interval_gradients(network, np.eye(3), {k: _three(s) for k, s in known.items()})[network.input]
        if any((~s.fixed).any() for s in known.values()):
            better.append(float((found.ends()[1] - found.ends()[0]).sum() / (loose[1] - loose[0]).sum()))
    assert len(better) >= 2
    assert np.median(better) < 0.5


def _three(slopes: Slopes) -> Slopes:
    return Slopes(np.repeat(slopes.smallest, 3, axis=0), np.repeat(slopes.largest, 3, axis=0))


def test_too_many_symbols_are_left_to_others() -> None:
    rng = np.random.default_rng(0)
    network, low = deep(rng), rng.normal(size=6)
    known = slopes_on(network, low, low + 0.5)
    assert gradient_symbols(network, np.eye(3), known) is not None
    assert gradient_symbols(network, np.eye(3), known, most=10) is None
    assert gradient_symbols(network, np.eye(3), known, at_most=1) is None
