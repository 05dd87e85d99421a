"""Bounds alone: what they refute has no solution, and what is plainly impossible they refute."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from verifier.bounds.decide import refuted_by_bounds, refuted_on_subproblems
from verifier.network.graph import feedforward
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import GradientBox, Query
from verifier.properties.sets import Box


@given(st.integers(0, 2**32 - 1))
def test_what_bounds_refute_has_no_sampled_solution(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = feedforward([rng.normal(size=(6, 3)), rng.normal(size=(2, 6))], [rng.normal(size=6), rng.normal(size=2)])
    lower = rng.normal(size=3)
    box = Box(lower, lower + rng.random(3) * rng.choice([0.01, 0.3, 2.0]))
    center = network.gradient(box.center, 0).reshape(-1)
    gradient = GradientBox(output=np.array([1.0, 0.0]), lower=center - 0.3, upper=center + rng.choice([0.0, 3.0]))

    def part() -> Conjunction:
        return Conjunction(
            x_rows=rng.normal(size=(2, 3)),
            y_rows=rng.normal(size=(2, 2)),
            g_rows=rng.normal(size=(2, 3)) * rng.integers(0, 2),
            bound=rng.normal(size=2),
        )

    query = Query(network=network, box=box, disjuncts=(part(), part()), common=part(), gradient=gradient)
    at_once, on_subproblems = refuted_by_bounds(query, "crown"), refuted_on_subproblems(query, "crown", boxes=12)
    assert at_once is None or on_subproblems == at_once
    if on_subproblems is not None:
        assert not query.holds(box.sample(500, rng)).any()


def test_halves_refute_what_the_whole_box_does_not() -> None:
    # relu(x) - relu(x) is 0, which the triangle of a ReLU shows only on either side of its kink
    network = feedforward([[[1.0], [1.0]], [[1.0, -1.0]]], [np.zeros(2), [0.0]])

    def query(bound: float) -> Query:
        disjunct = Conjunction(y_rows=np.array([[1.0]]), bound=np.array([bound]))
        return Query(network=network, box=Box(-np.ones(1), np.ones(1)), disjuncts=(disjunct,))

    assert refuted_by_bounds(query(-0.3)) is None
    assert refuted_on_subproblems(query(-0.3), boxes=2) is None
    assert refuted_on_subproblems(query(-0.3), boxes=3) is not None
    assert refuted_on_subproblems(query(0.0), boxes=50) is None


def test_plainly_impossible_rows_are_refuted() -> None:
    network = feedforward([np.eye(2), [[1.0, 1.0]]], [np.zeros(2), [0.0]])
    box = Box(np.zeros(2), np.ones(2))

    def query(bound: float, **fields: object) -> Query:
        disjunct = Conjunction(y_rows=np.array([[-1.0]]), bound=np.array([-bound]))
        return Query(network=network, box=box, disjuncts=(disjunct,), **fields)  # type: ignore[arg-type]

    assert refuted_by_bounds(query(2.1), "interval") is not None
    assert refuted_by_bounds(query(2.0), "interval") is None
    far = GradientBox(output=np.ones(1), lower=np.full(2, 1.5), upper=np.full(2, 2.0))
    assert refuted_by_bounds(query(0.5, gradient=far), "interval") is not None
    near = GradientBox(output=np.ones(1), lower=np.full(2, 0.5), upper=np.full(2, 2.0))
    assert refuted_by_bounds(query(0.5, gradient=near), "interval") is None
