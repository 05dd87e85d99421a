"""Thresholds: proved below, refuted above, and the witness is just there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import verifier
from verifier.bracket import Bracket
from verifier.errors import InputError
from verifier.saliency import largest_delta, largest_epsilon
from verifier.verdict import Status


@pytest.fixture(scope="module")
def network() -> verifier.Network:
    rng = np.random.default_rng(2)
    weights = [rng.normal(size=(6, 2)), rng.normal(size=(5, 6)), rng.normal(size=(2, 5))]
    return verifier.feedforward(weights, [rng.normal(size=len(w)) * 0.3 for w in weights])


def test_largest_delta_is_between_a_proof_and_a_witness(network: verifier.Network) -> None:
    x = np.array([0.2, -0.1])
    found = largest_delta(network, x, 1.0, domain=None, tolerance=0.05, timeout=90)
    assert found.witness is not None
    assert not found.undecided
    assert 0 <= found.lower <= found.upper
    query = verifier.saliency_robustness(network, x, epsilon=1.0, delta=found.upper, domain=None)
    assert verifier.replay(query, found.witness.input).exact
    if found.lower > 0:
        below = verifier.saliency_robustness(network, x, epsilon=1.0, delta=found.lower, domain=None)
        assert verifier.verify(below, engine="z3", timeout=120).status is Status.HOLDS


def test_largest_epsilon_is_between_a_proof_and_a_witness(network: verifier.Network) -> None:
    x = np.array([0.2, -0.1])
    found = largest_epsilon(network, x, 10.0, domain=None, most=3.0, tolerance=0.05, timeout=90)
    assert found.witness is not None
    assert not found.undecided
    assert 0 <= found.lower <= found.upper <= found.lower + 0.05


def test_a_wrong_tolerance_is_an_error(network: verifier.Network) -> None:
    with pytest.raises(InputError, match="positive"):
        largest_delta(network, np.zeros(2), 0.1, domain=None, tolerance=0.0)


def test_the_picture_is_drawn(network: verifier.Network, tmp_path: Path) -> None:
    from verifier.files import write_figure
    from verifier.properties.builders import condition_at
    from verifier.report.saliency import witness_figure

    path = tmp_path / "map.png"
    write_figure(path, witness_figure(condition_at(network, np.zeros(2)), np.zeros(2), np.ones(2)))
    assert path.stat().st_size > 1000


@pytest.mark.parametrize("similarity", ["linf", "l1", "l2"])
def test_the_threshold_is_the_exact_distance_of_the_witness(network: verifier.Network, similarity: str) -> None:
    x = np.array([0.2, -0.1])
    found = largest_delta(network, x, 1.0, domain=None, similarity=similarity, tolerance=0.05, timeout=60)
    assert found.witness is not None
    assert found.upper > 0
    point = found.witness.point

    def confirmed(delta: float) -> bool:
        query = verifier.saliency_robustness(network, x, epsilon=1.0, delta=delta, domain=None, similarity=similarity)
        return verifier.replay(query, point).exact

    assert confirmed(found.upper)
    assert not confirmed(float(np.nextafter(found.upper, 0)))


def test_a_constant_gradient_is_refuted_at_zero() -> None:
    weights = [np.array([[0.1], [0.2]]), np.array([[0.3, 0.3], [0.0, 0.0]])]
    network = verifier.feedforward(weights, [np.zeros(2), np.array([0.0, 0.045])])
    found = largest_delta(network, np.array([0.6]), 0.3, timeout=30)
    assert found.upper == 0.0
    assert found.witness is not None


def test_a_bracket_closes_in_on_a_threshold_and_asks_nothing_twice() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        threshold, most = rng.uniform(0.0, 2.0), 1.5
        bracket, asked = Bracket(rng.uniform(0.01, 1.0), most), list[float]()
        while bracket.width > 1e-6:
            asked.append(bracket.value)
            assert bracket.lower < bracket.value <= min(most, bracket.ceiling)
            if bracket.value < threshold:
                bracket.proved()
            elif rng.random() < 0.2:
                bracket.open()
            else:
                bracket.refuted(threshold)
        assert bracket.lower <= min(threshold, most) <= min(bracket.ceiling, most) + 1e-6
        assert bracket.upper == np.inf or bracket.upper == threshold
        assert len(set(asked)) == len(asked) < 60


def test_thresholds_of_a_network_with_its_own_normalisation() -> None:
    """Radii are in the data's units: of (x₀, x₁) given as (x - mean) / std the label goes where x₀ meets x₁."""
    network = verifier.feedforward([np.eye(2)], [np.zeros(2)])
    how = {"mean": 0.5, "std": [0.25]}
    found = largest_epsilon(network, [0.9, 0.6], 1.0, **how)
    assert found.lower <= 0.15 <= found.upper
    assert found.upper - found.lower < 2e-3
    assert found.witness is not None
    inside = verifier.largest_delta(network, [0.9, 0.6], "14/100", **how)
    assert inside.lower == np.inf
    outside = verifier.largest_delta(network, [0.9, 0.6], "16/100", **how)
    assert outside.upper == 0.0  # the gradient is the same everywhere
    assert outside.witness is not None
