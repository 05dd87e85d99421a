"""Arrays with symbols: nothing of them lies outside their ends and norms, in exact arithmetic; and norms know what is shared."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from verifier.bounds.zonotope import Zonotope


def drawn(rng: np.random.Generator, symbols: int, outputs: int, size: int) -> Zonotope:
    scale = 10.0 ** rng.integers(-3, 4)
    terms = rng.normal(size=(1 + symbols, outputs, size)) * scale
    if rng.random() < 0.3:
        terms[1:, :, rng.integers(size)] = 0.0
    return Zonotope(terms, rng.random((outputs, size)) * scale * rng.choice([0.0, 0.1]))


def member(z: Zonotope, rng: np.random.Generator) -> list[list[Fraction]]:
    """A corner of the set, exactly: ``[output][entry]``."""
    signs = [1, *rng.choice([-1, 1], size=len(z.terms) - 1).tolist()]
    off = rng.choice([-1, 0, 1], size=z.error.shape)
    outputs, size = z.error.shape
    return [
        [
            sum((s * Fraction(float(t[o, i])) for s, t in zip(signs, z.terms, strict=True)), Fraction(0))
            + int(off[o, i]) * Fraction(float(z.error[o, i]))
            for i in range(size)
        ]
        for o in range(outputs)
    ]


@pytest.mark.parametrize("seed", range(40))
def test_norms_and_ends_hold_exactly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    z = drawn(rng, int(rng.integers(0, 7)), 2, int(rng.integers(1, 9)))
    low, high = z.ends()
    reach = z.reach()
    bounds = {order: z.norms(order) for order in (1, 2)}
    for _ in range(10):
        for o, values in enumerate(member(z, rng)):
            for i, v in enumerate(values):
                assert Fraction(float(low[o, i])) <= v <= Fraction(float(high[o, i]))
                assert abs(v) <= Fraction(float(reach[o, i]))
            size = sum(map(abs, values))
            assert Fraction(float(bounds[1][0][o])) <= size <= Fraction(float(bounds[1][1][o]))
            square = sum(v * v for v in values)
            assert Fraction(float(bounds[2][0][o])) ** 2 <= square <= Fraction(float(bounds[2][1][o])) ** 2


@pytest.mark.parametrize("seed", range(20))
def test_sums_and_products_enclose(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = drawn(rng, 3, 1, 4), drawn(rng, 2, 1, 4)
    for whole, shared in ((a.plus(b), True), (a.beside(b), False)):
        assert len(whole.terms) == (4 if shared else 6)
        low, high = whole.ends()
        for _ in range(10):
            signs = rng.choice([-1, 1], size=5)
            for i in range(4):
                v = Fraction(float(a.terms[0, 0, i])) + Fraction(float(b.terms[0, 0, i]))
                for k in range(3):
                    v += int(signs[k]) * Fraction(float(a.terms[1 + k, 0, i]))
                for k in range(2):
                    v += int(signs[k if shared else 3 + k]) * Fraction(float(b.terms[1 + k, 0, i]))
                assert Fraction(float(low[0, i])) <= v <= Fraction(float(high[0, i]))
    factor = np.sort(rng.normal(size=(2, 1, 4)), axis=0)
    low, high = a.times(*factor).ends()
    for _ in range(10):
        chosen = factor[rng.integers(2), 0]
        for i, v in enumerate(member(a, rng)[0]):
            assert Fraction(float(low[0, i])) <= v * Fraction(float(chosen[i])) <= Fraction(float(high[0, i]))


def test_norms_know_what_entries_share() -> None:
    """A hundred directions of a space of a thousand: entry by entry the norm would be several times as large."""
    rng = np.random.default_rng(0)
    terms = rng.normal(size=(101, 1, 1000))
    z = Zonotope(terms, np.zeros((1, 1000)))
    entries = float(np.linalg.norm(z.reach()))
    least, greatest = z.norms(2)
    signs = np.concatenate([np.ones((50, 1)), rng.choice([-1.0, 1.0], size=(50, 100))], axis=1)
    seen = np.linalg.norm(signs @ terms[:, 0], axis=1)
    assert greatest[0] < 0.4 * entries
    assert seen.max() <= greatest[0] < 3 * seen.max()
    near = Zonotope(np.concatenate([10 * terms[:1], terms[1:]]), np.zeros((1, 1000)))
    assert 0.5 * np.linalg.norm(10 * terms[0]) < near.norms(2)[0][0] <= np.linalg.norm(near.terms[0] + terms[1])
    assert least[0] >= 0
