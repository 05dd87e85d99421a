"""The table of relaxations: every entry holds exactly, for every activation that a network can have."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from verifier.bounds.crown_dense import _line
from verifier.bounds.relaxation import Elementwise, LinearRelaxation, PoolRelaxation, Slopes, Winners
from verifier.bounds.relaxations import TABLE, elementwise, relaxation
from verifier.errors import UnsupportedOperatorError
from verifier.network import piecewise
from verifier.network.activation import Activation
from verifier.network.operators import Scale
from verifier.network.piecewise import MaxPool, PiecewiseLinear, PiecewiseOperator, absolute, clip, leaky_relu, relu
from verifier.rounding import TINY

APART = PiecewiseLinear((1.0, 3.0), (1.0, 0.0, -2.0), (0.0, 1.0 + 5e-10, 7.0 + 2e-10), (0.0, 0.0))
"""Pieces that miss each other by rounding, as in files whose numbers were rounded."""
KINDS = {
    "relu": relu(),
    "leaky": leaky_relu(0.1),
    "steep": leaky_relu(-3.7),
    "abs": absolute(),
    "clip": clip(-0.3, 1.1),
    "general": PiecewiseLinear((-1.0, 1.0), (-1.0, 0.5, 2.0), (-1.5, 0.0, -1.5), (-1.0, 0.5)),
    "apart": APART,
}


def value(operator: PiecewiseLinear, z: Fraction) -> Fraction:
    """The exact value: at a breakpoint that of the piece on its left."""
    k = sum(Fraction(b) < z for b in operator.breaks)
    return Fraction(operator.slopes[k]) * z + Fraction(operator.intercepts[k])


def intervals(rng: np.random.Generator, operator: PiecewiseLinear, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Wide, narrow and degenerate intervals, many with an end on a breakpoint or next to one."""
    ends = rng.normal(size=(count, 2)) * 10.0 ** rng.integers(-12, 4, size=(count, 1))
    special = list(operator.breaks) + [np.nextafter(b, s) for b in operator.breaks for s in (-np.inf, np.inf)]
    which = rng.random((count, 2)) < 0.4
    ends = np.where(which, rng.choice(special, size=(count, 2)), ends)
    return ends.min(axis=1), ends.max(axis=1)


def points(operator: PiecewiseLinear, low: float, high: float) -> list[Fraction]:
    """Points of an interval in which an elementwise function is extreme, and some between."""
    ends = Fraction(low), Fraction(high)
    found = [*ends, (2 * ends[0] + ends[1]) / 3]
    for b in map(Fraction, operator.breaks):
        found += [b, b - Fraction(1, 10**40), b + Fraction(1, 10**40)]
    return [z for z in found if ends[0] <= z <= ends[1]]


@pytest.mark.parametrize("name", KINDS)
def test_elementwise_relaxations_hold_exactly(name):
    operator, rng = KINDS[name], np.random.default_rng(len(name))
    low, high = intervals(rng, operator)
    entry = elementwise(operator)
    flat = low[:, None], high[:, None]
    found, ends = entry.linear(operator, (1,), *flat), entry.range(operator, (1,), *flat)
    slopes = entry.derivatives(operator, (1,), *flat)
    assert isinstance(slopes, Slopes)
    below, above = rng.normal(size=flat[0].shape), rng.normal(size=flat[0].shape)
    given = entry.intercepts(operator, *flat, below, above)
    limit, most = entry.limits(operator, np.maximum(np.abs(low), np.abs(high)))
    zeros = np.zeros_like(flat[0])
    intercept = zeros if found.lower_intercept is None else found.lower_intercept
    for k in range(len(low)):
        lines = [
            (found.lower_slope, intercept, found.upper_slope, found.upper_intercept),
            (below, given[0], above, given[1]),
            (zeros, ends[0], zeros, ends[1]),
        ]
        for z in points(operator, low[k], high[k]):
            y = value(operator, z)
            for a, b, c, d in lines:
                assert Fraction(float(a[k, 0])) * z + Fraction(float(b[k, 0])) <= y
                assert Fraction(float(c[k, 0])) * z + Fraction(float(d[k, 0])) >= y
            assert abs(y) <= Fraction(limit) * max(abs(Fraction(low[k])), abs(Fraction(high[k]))) + Fraction(most[k])
        for b, at, left, right in zip(
            operator.breaks, operator.at_breaks, operator.slopes, operator.slopes[1:], strict=False
        ):
            if low[k] <= b <= high[k]:
                assert slopes.smallest[k, 0] <= min(at, left, right)
                assert slopes.largest[k, 0] >= max(at, left, right)
        assert (np.abs([found.lower_slope[k, 0], found.upper_slope[k, 0]]) <= limit).all()
        assert (np.abs([intercept[k, 0], found.upper_intercept[k, 0]]) <= most[k] * (1 + 1e-6) + TINY).all()
        stable = not any(low[k] < b < high[k] for b in operator.breaks)
        assert found.unstable[k, 0] == (not stable)
        assert entry.undecided(operator, (1,), *flat)[k, 0] == (not stable)


def test_pieces_that_do_not_meet_are_enclosed_on_both_sides():
    """Right of 1 the value is 1 + 5e-10, at 1 it is 1: lines through one of the two miss the other."""
    low, high = np.array([[0.0]]), np.array([[2.0]])
    found = elementwise(APART).linear(APART, (1,), low, high)
    z = Fraction(1) + Fraction(1, 10**30)
    assert Fraction(float(found.upper_slope[0, 0])) * z + Fraction(float(found.upper_intercept[0, 0])) >= value(
        APART, z
    )


@pytest.mark.parametrize("seed", range(6))
def test_pool_relaxations_hold(seed):
    rng = np.random.default_rng(seed)
    pool = MaxPool((2, 2), (1, 2), padding=(1, 0, 0, 1))
    shape = (2, 3, 4)
    size = int(np.prod(shape))
    ends = np.sort(rng.integers(-3, 4, size=(2, 5, size)).astype(float), axis=0)
    entry = relaxation(pool)
    found, winners = entry.linear(pool, shape, *ends), entry.derivatives(pool, shape, *ends)
    low, high = entry.range(pool, shape, *ends)
    assert isinstance(found, PoolRelaxation)
    assert isinstance(winners, Winners)
    assert (entry.choices(pool, shape, *ends) == winners.possible.sum(axis=(1, 2)) - low.shape[1]).all()
    decided_by = ~entry.undecided(pool, shape, *ends)
    for _ in range(40):
        x = rng.uniform(*ends)
        x = np.where(rng.random(x.shape) < 0.5, np.where(rng.random(x.shape) < 0.5, ends[0], ends[1]), x)
        y = pool.forward(x.reshape(5, *shape)).reshape(5, -1)
        picked = np.take_along_axis(x, found.chosen, axis=1)
        assert (picked <= y).all()
        assert (np.where(found.decided, picked, found.upper) >= y).all()
        assert ((low <= y) & (y <= high)).all()
        pattern = pool.pattern(x.reshape(5, *shape)).reshape(5, -1)
        assert np.take_along_axis(winners.possible, pattern[..., None].astype(np.intp), axis=2).all()
    windows = pool.windows(shape)
    for box, output in zip(*np.nonzero(found.unstable), strict=True):
        assert not decided_by[box, windows[output][windows[output] >= 0]].any()


def test_every_activation_of_the_package_has_an_entry():
    kinds = {v for v in vars(piecewise).values() if isinstance(v, type) and issubclass(v, PiecewiseOperator)}
    assert kinds - {PiecewiseOperator} <= set(TABLE)
    assert all(issubclass(kind, Activation) for kind in TABLE)
    with pytest.raises(UnsupportedOperatorError, match="Scale"):
        relaxation(Scale(np.ones(1), np.zeros(1)))
    with pytest.raises(UnsupportedOperatorError, match="MaxPool"):
        elementwise(MaxPool((2, 2), (2, 2)))
    assert isinstance(relaxation(relu()), Elementwise)


def test_compiled_kernels_use_the_lines_of_the_table():
    """The kernel of dense networks has the rule for ReLU once more, for one number: the same bits."""
    rng = np.random.default_rng(3)
    low, high = intervals(rng, relu(), 300)
    found = elementwise(relu()).linear(relu(), (1,), low[:, None], high[:, None])
    assert isinstance(found, LinearRelaxation)
    for k in range(len(low)):
        expected = (found.lower_slope[k, 0], found.upper_slope[k, 0], found.upper_intercept[k, 0])
        assert _line(low[k], high[k]) == expected
