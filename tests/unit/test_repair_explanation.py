"""Repair of an explanation: bounds of a gradient are proved on the whole box, or the reason is said."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

import verifier
from verifier.errors import InputError, PropertyError
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network, feedforward
from verifier.network.operators import Array
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import GradientBox, Query
from verifier.properties.sets import Box
from verifier.repair import PropertyRepairStatus, gradient_bounds, repair_explanation
from verifier.verdict import Status, Verdict


def dense(seed: int, sizes: tuple[int, ...] = (3, 6, 6, 3)) -> Network:
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=(b, a)) for a, b in pairwise(sizes)]
    return feedforward(weights, [rng.normal(size=len(w)) * 0.3 for w in weights])


def decide(query: Query) -> Verdict:
    return verifier.verify(query, timeout=20.0)


def at_least(network: Network, output: int, entry: int, box: Box, least: float) -> Query:
    """The gradient of an output by an input is at least so much."""
    lower = np.full(network.input_size, -np.inf)
    lower[entry] = least
    bounds = GradientBox(output=np.eye(network.output_size)[output], lower=lower, upper=np.full(len(lower), np.inf))
    return gradient_bounds(network, box, bounds)


def unwilling(network: Network, box: Box) -> tuple[int, int, float]:
    """An output, an input whose influence changes its sign in the box, and its least value at samples."""
    points = box.lower + np.random.default_rng(0).random((500, box.size)) * (box.upper - box.lower)
    for output in range(network.output_size):
        g = network.gradient(points, output).reshape(len(points), -1)
        both = np.flatnonzero((g.min(axis=0) < -0.05) & (g.max(axis=0) > 0.05))
        if len(both):
            return output, int(both[0]), float(g[:, both[0]].min())
    raise AssertionError("no influence changes its sign")


@pytest.mark.parametrize("seed", range(4))
def test_a_gradient_is_halved_on_the_whole_box(seed: int) -> None:
    """Half of the last layer's row would do, so a change exists; few weights are changed."""
    network, box = dense(seed), Box(-np.ones(3), np.ones(3))
    output, entry, least = unwilling(network, box)
    query = at_least(network, output, entry, box, least / 2)
    assert decide(query).status is Status.VIOLATED
    result = repair_explanation(query, decide, timeout=60.0)
    assert result.status is PropertyRepairStatus.REPAIRED, result.reason
    assert result.verdict.status is Status.HOLDS
    assert 0 < len(result.changes) <= 6
    exact, row = ExactNetwork(result.network), [int(k == output) for k in range(3)]
    for x in np.random.default_rng(2).uniform(-1, 1, (200, 3)):
        assert exact.gradient([Fraction(v) for v in x.tolist()], row)[entry] >= Fraction(least / 2)


def test_an_influence_is_made_positive_and_classes_are_kept() -> None:
    network, box = dense(0), Box(-np.ones(3), np.ones(3))
    output, entry, _ = unwilling(network, box)
    keep = np.random.default_rng(1).uniform(-1, 1, (10, 3))
    labels = network.forward(keep).argmax(axis=1)
    result = repair_explanation(at_least(network, output, entry, box, 0.0), decide, keep=keep, timeout=60.0)
    assert result.status is PropertyRepairStatus.REPAIRED, result.reason
    y = result.network.forward(keep)
    assert (y[np.arange(10), labels] >= y.max(axis=1) - 1e-6).all()


def test_what_holds_is_left_alone() -> None:
    network, box = dense(0), Box(-np.ones(3), np.ones(3))
    bounds = GradientBox(output=np.eye(3)[0], lower=np.full(3, -1e3), upper=np.full(3, 1e3))
    result = repair_explanation(gradient_bounds(network, box, bounds), decide)
    assert result.status is PropertyRepairStatus.HOLDS
    assert result.network is network
    assert not result.changes


def test_what_no_last_layer_can_do_is_infeasible() -> None:
    """y = (relu(x), 0) + bias: no weight makes the slope at least 1 both where the ReLU is active and where it is not."""
    network = feedforward([np.ones((1, 1)), np.array([[0.5], [0.0]])], [np.zeros(1), np.zeros(2)])
    bounds = GradientBox(output=np.array([1.0, 0.0]), lower=np.ones(1), upper=np.array([np.inf]))
    result = repair_explanation(gradient_bounds(network, Box(-np.ones(1), np.ones(1)), bounds), decide)
    assert result.status is PropertyRepairStatus.INFEASIBLE
    assert "infeasible" in result.reason


def test_bad_questions_are_refused() -> None:
    network, box = dense(0), Box(-np.ones(3), np.ones(3))
    free: Array = np.full(3, np.inf)
    with pytest.raises(PropertyError, match="no entry of the gradient has a bound"):
        gradient_bounds(network, box, GradientBox(output=np.eye(3)[0], lower=-free, upper=free))
    plain = Query(network=network, box=box, disjuncts=(Conjunction(bound=np.zeros(1), y_rows=np.eye(3)[:1]),))
    with pytest.raises(PropertyError, match="no bound of the gradient"):
        repair_explanation(plain, decide)
    ends_in_relu = feedforward([np.eye(3), np.eye(3)], [np.zeros(3), np.zeros(3)])
    query = at_least(ends_in_relu, 0, 0, box, 0.0)
    with pytest.raises(InputError, match="margin"):
        repair_explanation(query, decide, margin=-1.0)
