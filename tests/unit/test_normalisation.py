"""Radii in the data's units: the box that the network is asked about is exactly the one that is meant."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import verifier
from verifier.properties.normalisation import Normalisation


def network() -> verifier.Network:
    return verifier.feedforward([np.eye(3), [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]], [np.zeros(3), [0.0, 1.0]])


def test_the_box_is_that_of_the_data_exactly() -> None:
    x, mean, std = [0.5, 0.999, 0.0], [0.1], [0.3]
    query = verifier.robustness(network(), x, "2/255", mean=mean, std=std)
    low, high = (end.fractions() for end in query.box.ends)
    radius, m, s = Fraction(2, 255), Fraction(0.1), Fraction(0.3)
    for k, value in enumerate(map(Fraction, x)):
        assert low[k] == (max(value - radius, Fraction(0)) - m) / s
        assert high[k] == (min(value + radius, Fraction(1)) - m) / s
    assert "within L∞ distance 2/255" in query.description


def test_a_normalised_question_has_the_answer_of_the_network_with_its_normalisation_built_in() -> None:
    rng = np.random.default_rng(0)
    mean, std = np.array([0.25, 0.5, 0.125]), np.array([0.5, 0.25, 2.0])  # powers of two: nothing is rounded
    weights = rng.integers(-3, 4, size=(4, 3)).astype(float)
    last = rng.integers(-3, 4, size=(2, 4)).astype(float)
    plain = verifier.feedforward([weights, last], [np.zeros(4), np.zeros(2)])
    built_in = verifier.feedforward([weights / std, last], [-weights @ (mean / std), np.zeros(2)])
    seen = set()
    for _ in range(12):
        x, epsilon = rng.uniform(size=3).round(2), float(rng.choice([0.02, 0.3]))
        asked = verifier.verify(verifier.robustness(plain, x, epsilon, mean=mean, std=std))
        truth = verifier.verify(verifier.robustness(built_in, x, epsilon))
        assert asked.status is truth.status
        seen.add(asked.status.name)
        if asked.witness is not None:
            data = Normalisation(mean, std).invert(asked.witness.input)
            assert (np.abs(data - x) <= epsilon + 1e-12).all()
    assert seen == {"HOLDS", "VIOLATED"}


def test_saliency_takes_it_too() -> None:
    query = verifier.saliency_robustness(network(), [0.5, 0.5, 0.5], epsilon="1/10", delta=0.5, mean=[0.5], std=[0.5])
    assert query.box.ends[1].fractions() == [(Fraction(1, 2) + Fraction(1, 10) - Fraction(1, 2)) * 2] * 3
    assert verifier.verify(query).status is verifier.Status.HOLDS  # label 1, as the sum is at most 0.6


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("2 numbers as mean", {"mean": [0.1, 0.2]}),
        ("std not 0", {"std": [0.0]}),
        ("finite", {"mean": [np.nan]}),
        ("is no radius", {"epsilon": "two"}),
        ("at least 0", {"epsilon": "-1/2"}),
        ("outside the domain", {"domain": (0.6, 1.0), "std": [2.0]}),
    ],
)
def test_what_makes_no_sense_is_refused(words: str, arguments: dict[str, object]) -> None:
    given = {"epsilon": 0.1, **arguments}
    with pytest.raises(verifier.VerifierError, match=words):
        verifier.robustness(network(), [0.5, 0.5, 0.5], **given)  # type: ignore[arg-type]
