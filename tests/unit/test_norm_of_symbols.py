"""The bound of a norm over symbols, against all their signs."""

from itertools import product

import numpy as np
import pytest

from verifier.bounds.norm_of_symbols import norm_of_symbols


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("seed", range(40))
def test_no_signs_come_above_the_bound(seed: int, norm: str) -> None:
    rng = np.random.default_rng(seed)
    p, n = int(rng.integers(0, 8)), int(rng.integers(1, 12))
    terms = rng.normal(size=(1 + p, n)) * 10.0 ** rng.integers(-3, 3)
    terms[0] *= rng.choice([0.0, 1.0, 5.0])
    error = 0.1 * rng.random(n)
    signs = np.array(list(product([-1.0, 1.0], repeat=p))).reshape(2**p, p)
    centers = terms[0] + signs @ terms[1:]
    kind = 1 if norm == "l1" else 2
    largest = np.linalg.norm(np.abs(centers) + error, ord=kind, axis=1)
    found = norm_of_symbols(terms, error, norm)
    assert found.above >= largest.max()
    apart = np.linalg.norm(np.abs(terms).sum(axis=0), ord=kind) + np.linalg.norm(error, ord=kind)
    assert found.above <= apart * (1 + 1e-9)


def test_many_symbols_are_not_added_up() -> None:
    """Orthogonal symbols: √(1 + p) is exact for the L2 norm, 1 + p is what their sizes add up to."""
    found = norm_of_symbols(np.eye(65), np.zeros(65), "l2")
    assert np.sqrt(65) <= found.above <= np.sqrt(65) * 1.0001
    wide = np.random.default_rng(0).normal(size=(41, 400))
    assert norm_of_symbols(wide, np.zeros(400), "l1").above < np.abs(wide).sum() / 3


def test_numbers_that_are_none_prove_nothing() -> None:
    assert norm_of_symbols(np.array([[1.0], [np.inf]]), np.zeros(1), "l1").above == np.inf
