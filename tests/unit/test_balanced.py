"""Queries about networks of huge and tiny weights are scaled by powers of two, and stay the same query."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

import verifier
from verifier import Query, Status
from verifier.falsify.replay import replay
from verifier.network.graph import feedforward
from verifier.network.piecewise import PiecewiseLinear
from verifier.properties.balanced import balanced
from verifier.properties.builders import condition_at
from verifier.properties.conjunction import Conjunction
from verifier.properties.named_maps import named_map
from verifier.properties.sets import Box

CLIP = PiecewiseLinear((0.0, 6.0), (0.0, 1.0, 0.0), (0.0, 0.0, 6.0), (0.0, 0.0), "Clip")


def unbalanced(rng: np.random.Generator, activation: PiecewiseLinear | None = None) -> verifier.Network:
    """A network whose layers have weights of quite different sizes."""
    sizes = (3, 4, 3, 2)
    scales = 10.0 ** rng.choice([-8, 0, 8], size=3)
    weights = [rng.normal(size=(b, a)) * s for (a, b), s in zip(itertools.pairwise(sizes), scales, strict=True)]
    return feedforward(weights, [rng.normal(size=len(w)) for w in weights], activation=activation)


@pytest.mark.parametrize("name", ["gradient", "absolute", "smooth", "gradient-input", "integrated", "integrated-exact"])
@pytest.mark.parametrize("similarity", ["linf", "l1", "l2", "top-k"])
def test_the_scaled_query_is_the_same(name: str, similarity: str) -> None:
    rng = np.random.default_rng(1)
    decided = 0
    for _ in range(4):
        network, x = unbalanced(rng), rng.normal(size=3)
        other = 1 - int(np.argmax(network.forward(x)))
        chosen, k = named_map(name, 3, steps=2, samples=2), int(similarity == "top-k")
        reference = condition_at(network, x, 0.0, other, map=chosen, similarity=similarity, top_k=k).reference
        query = verifier.saliency_robustness(
            network, x, epsilon=1.0, delta=0.7 * float(np.abs(reference).max()), label=other, domain=None, map=chosen,
            similarity=similarity, top_k=k,
        )  # fmt: skip
        again = balanced(query)
        largest = [float(np.abs(n.operator.weight).max()) for n in again.network.nodes if hasattr(n.operator, "weight")]
        assert all(2.0**-13 < v < 2.0**13 for v in largest)
        for point in [x, *query.box.sample(6, rng)]:
            one, two = replay(query, point), replay(again, point)
            assert one.exact == two.exact
            decided += one.exact
    assert decided


def test_rows_and_other_activations() -> None:
    rng = np.random.default_rng(2)
    met = set()
    for _ in range(20):
        network = unbalanced(rng, CLIP)
        y = network.forward(rng.normal(size=(50, 3))).reshape(50, -1)
        row = rng.normal(size=(2, 2)) * 10.0 ** rng.choice([-9, 0, 9], size=(2, 1))
        bound = np.median(y @ row.T, axis=0)
        disjunct = Conjunction(y_rows=row, x_rows=rng.normal(size=(2, 3)) * np.abs(bound).max(), bound=bound)
        loose = Conjunction(y_rows=row, bound=bound + np.abs(bound))
        query = Query(
            network=network, box=Box(-np.ones(3), np.ones(3)), disjuncts=(loose,), clauses=((disjunct, disjunct),)
        )
        again = balanced(query)
        for point in query.box.sample(20, rng):
            one, two = replay(query, point), replay(again, point)
            assert one.exact == two.exact
            met.add(one.exact)
    assert met == {True, False}


def test_moderate_networks_stay_as_they_are() -> None:
    rng = np.random.default_rng(3)
    network = feedforward([rng.normal(size=(4, 3)), rng.normal(size=(2, 4))], [np.zeros(4), np.zeros(2)])
    query = verifier.robustness(network, rng.random(3), 0.1)
    assert balanced(query) is query
    # 5e-324 · 2^-27 is no float64 number: such a query is left alone
    tiny = feedforward([1e8 * np.eye(1), np.eye(1)], [np.array([5e-324]), np.zeros(1)])
    disjunct = Conjunction(y_rows=-np.ones((1, 1)), bound=np.array([-1.0]))
    query = Query(network=tiny, box=Box(np.zeros(1), np.ones(1)), disjuncts=(disjunct,))
    assert balanced(query) is query
    assert balanced(replace(query, network=feedforward([np.eye(1)], [np.zeros(1)]))).network.nodes


@pytest.mark.parametrize("engine", ["highs", "marabou", "saliency"])
@pytest.mark.parametrize("scale", [1e8, 1e-8])
def test_engines_take_weights_of_any_size(engine: str, scale: float) -> None:
    rng = np.random.default_rng(4)
    weights = [rng.normal(size=(b, a)) * scale for a, b in itertools.pairwise((3, 4, 3, 2))]
    network = feedforward(weights, [rng.normal(size=len(w)) * scale ** (k + 1) for k, w in enumerate(weights)])
    x = rng.normal(size=3)
    query = verifier.saliency_robustness(network, x, epsilon=0.01, delta=0.0, domain=None)
    verdict = verifier.verify(query, engine=engine, timeout=20, prepass=False)
    truth = verifier.verify(query, engine="z3", timeout=20, prepass=False)
    assert truth.status.decided
    assert verdict.status in (truth.status, Status.UNKNOWN)
    assert engine == "marabou" or verdict.status is truth.status
