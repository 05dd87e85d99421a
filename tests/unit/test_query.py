"""Queries, their builders, verdicts and the exact replay."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from verifier.errors import PropertyError
from verifier.falsify.replay import replay
from verifier.network.graph import Network, feedforward
from verifier.properties.builders import robustness, saliency_robustness
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import Query
from verifier.properties.sets import Box
from verifier.verdict import Certainty, Status, Verdict, Witness


def step(threshold: float = 0.5) -> Network:
    """Two outputs over one input: label 0 below the threshold, label 1 above."""
    return feedforward([[[1.0]], [[0.0], [1.0]]], [[0.0], [threshold, 0.0]])


def test_robustness_finds_the_threshold_exactly() -> None:
    query = robustness(step(), [0.25], 0.25)
    assert query.description == "label 0 within L∞ distance 0.25, inputs in [0, 1]"
    x = np.array([[0.25], [0.4999], [0.5]])
    assert query.holds(x).tolist() == [False, False, True]
    assert np.allclose(query.margins(x), [-0.25, -0.0001, 0.0])
    assert replay(query, x[2]).confirmed
    assert not replay(query, np.nextafter(x[2], 0)).confirmed
    assert robustness(step(), [0.2], 0.3, domain=(0, 0.45)).box.upper[0] == 0.45


def test_saliency_map_confines_the_witness() -> None:
    # |x - 0.5| as two ReLUs: the gradient of output 1 is -1 left of 0.5 and +1 right of it.
    network = feedforward([[[1.0], [-1.0]], [[0.0, 0.0], [1.0, 1.0]]], [[-0.5, 0.5], [0.25, 0.0]])
    query = saliency_robustness(network, [0.1], epsilon=0.9, delta=0.5)
    x = np.array([[0.1], [0.3], [0.7], [0.9]])
    assert query.holds(x).tolist() == [False, True, False, False]
    wide = saliency_robustness(network, [0.1], epsilon=0.9, delta=2.0)
    assert wide.holds(x).tolist() == [False, True, True, False]
    # at the kink itself PyTorch's convention gives gradient 0
    assert replay(wide, np.array([0.5])).gradient is not None
    assert replay(wide, np.array([0.5])).gradient.tolist() == [0.0]  # type: ignore[union-attr]
    assert replay(saliency_robustness(network, [0.1], epsilon=0.9, delta=0.999), np.array([0.5])).confirmed is False


def test_rows_over_inputs_strictness_and_sparse_rows() -> None:
    network = step()
    below = Conjunction(x_rows=sp.csr_array([[1.0]]), bound=[0.5], strict=[True])
    query = Query(network=network, box=Box([0.0], [1.0]), disjuncts=(below,))
    x = np.array([[0.4], [0.5]])
    assert query.holds(x).tolist() == [True, False]
    assert replay(query, x[0]).confirmed
    assert not replay(query, x[1]).confirmed
    assert len(query.split()) == 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda n: robustness(n, [0.5], -0.1), "epsilon must be"),
        (lambda n: robustness(n, [0.5], float("nan")), "epsilon must be"),
        (lambda n: robustness(n, [0.5, 0.5], 0.1), "2 entries for a network with 1"),
        (lambda n: robustness(n, [np.nan], 0.1), "NaN"),
        (lambda n: robustness(n, [1.5], 0.1), "outside the domain"),
        (lambda n: robustness(n, [0.5], 0.1, label=2), "label 2 does not exist"),
        (lambda n: saliency_robustness(n, [0.5], epsilon=0.1, delta=-1e-3), "delta must be"),
        (lambda n: Query(network=n, box=Box([0, 0], [1, 1]), disjuncts=(Conjunction(bound=[]),)), "2 inputs and"),
        (lambda n: Query(network=n, box=Box([0], [1]), disjuncts=()), "at least one disjunct"),
        (lambda n: Query(network=n, box=Box([0], [1]), disjuncts=(Conjunction(y_rows=[[1.0]], bound=[0]),)), "y_rows"),
        (lambda n: Box([1.0], [0.0]), "the box is empty: input 0"),
        (lambda n: Box([-np.inf], [0.0]), "not bounded"),
        (lambda n: Conjunction(y_rows=[[np.nan]], bound=[0]), "NaN"),
    ],
)
def test_bad_properties_are_named(build: object, message: str) -> None:
    with pytest.raises(PropertyError, match=message):
        build(step())  # type: ignore[operator]


def test_verdicts_cannot_be_taken_for_a_bool_nor_be_inconsistent() -> None:
    witness = Witness(input=np.zeros(1), output=np.zeros(1), exact=True)
    verdict = Verdict(status=Status.VIOLATED, witness=witness)
    with pytest.raises(TypeError, match="not a bool"):
        bool(verdict)
    with pytest.raises(TypeError, match="not a bool"):
        bool(verdict.status)
    with pytest.raises(ValueError, match="confirmed"):
        Verdict(status=Status.VIOLATED, witness=Witness(input=np.zeros(1), output=np.zeros(1)))
    with pytest.raises(ValueError, match="how certain"):
        Verdict(status=Status.HOLDS)
    with pytest.raises(ValueError, match="must say why"):
        Verdict(status=Status.TIMEOUT)
    with pytest.raises(ValueError, match="no witness"):
        Verdict(status=Status.HOLDS, certainty=Certainty.EXACT, witness=witness)
