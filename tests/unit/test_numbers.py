"""A query keeps the numbers that it was given: decimals, sums and maps that are no float64 numbers, and the verdicts."""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

import verifier
from verifier import Certainty, Network, Query, Status
from verifier.engines import registry
from verifier.engines.base import Answer
from verifier.engines.maps.engine import MapsEngine
from verifier.limits import Deadline
from verifier.network.graph import NetworkBuilder, feedforward
from verifier.network.magnitude import largest_values
from verifier.network.operators import Dense, Sum
from verifier.network.piecewise import relu
from verifier.options import Options
from verifier.properties import vnnlib1
from verifier.properties.conjunction import Conjunction, enclosed
from verifier.properties.named_maps import named_map
from verifier.properties.numbers import ExactRow, Numbers
from verifier.properties.sets import Box

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=64)
EXACT = ("z3", "cvc5", "yices")


def able(query: Query, names: tuple[str, ...]) -> list[str]:
    """Those of the engines that are installed and take the query."""
    engines = [(name, registry.get(name)) for name in names]
    return [n for n, e in engines if e.availability().installed and not e.rejects(query.network, query)]


def answer(query: Query, name: str, seconds: float = 10.0) -> Status:
    """What an engine says, in this process; VIOLATED only with a point that the replay confirms."""
    if name == "auto":
        return verifier.verify(query, timeout=seconds).status
    result = registry.get(name).solve(query, Options(engine=name), Deadline.after(seconds))
    if result.answer is Answer.SAT:
        assert result.x is not None
        return Status.VIOLATED if verifier.replay(query, result.x).exact else Status.UNKNOWN
    return Status.HOLDS if result.answer is Answer.UNSAT else Status.UNKNOWN


# -- the numbers themselves ------------------------------------------------------------------------------
@given(FINITE, FINITE)
def test_a_sum_is_held_exactly(a: float, b: float) -> None:
    held, exact = Numbers.sum(np.array([a]), b), Fraction(a) + Fraction(b)
    assert held[0] == exact
    low, high = float(held.below[0]), float(held.above[0])
    assert low == -np.inf or Fraction(low) <= exact
    assert high == np.inf or Fraction(high) >= exact
    assert high == low or math.nextafter(low, math.inf) == high
    negative = -held
    assert negative[0] == -exact
    assert negative.below[0] == -high


NUMBER = st.one_of(
    st.fractions(min_value=-3, max_value=3), st.decimals(-3, 3, allow_nan=False, places=20), FINITE.map(Fraction)
)


@given(st.lists(st.tuples(NUMBER, NUMBER), min_size=1, max_size=5))
def test_the_smaller_and_the_larger_are_exact(pairs: list[tuple[Decimal | Fraction, Decimal | Fraction]]) -> None:
    a, b = Numbers.given_as([p for p, _ in pairs]), Numbers.given_as([q for _, q in pairs])
    assert a.less(b).tolist() == [Fraction(p) < Fraction(q) for p, q in pairs]
    assert a.at_most(b).fractions() == [min(Fraction(p), Fraction(q)) for p, q in pairs]
    assert a.at_least(b).fractions() == [max(Fraction(p), Fraction(q)) for p, q in pairs]


@given(st.lists(st.decimals(-100, 100, allow_nan=False, places=6), min_size=1, max_size=4), NUMBER)
def test_decimal_coefficients_become_float64_numbers(decimals: list[Decimal], bound: Decimal | Fraction) -> None:
    row = ExactRow({}, {k: Fraction(d) for k, d in enumerate(decimals) if d}, {}, Fraction(bound))
    found = row.floats()
    assert all(Fraction(float(a)) == a for a in found.y.values())
    factors = {found.y[k] / a for k, a in row.y.items()}
    assert len(factors) <= 1
    assert all(f > 0 and found.bound == f * row.bound for f in factors)


def test_coefficients_that_are_no_float64_numbers_are_enclosed() -> None:
    third, tiny = Fraction(1, 3), Fraction(1, 10**400)
    row = ExactRow({0: third}, {0: Fraction(10) ** 20 + third, 1: tiny}, {}, Fraction(1))
    part = enclosed([row], [False], (1, 2), lambda letter: np.full(2, 1000.0))
    assert part.exact_row(0).y[1] == tiny
    rng = np.random.default_rng(0)
    for x, y, z in rng.uniform(-1000, 1000, size=(200, 3)).tolist():
        total = third * Fraction(x) + row.y[0] * Fraction(y) + tiny * Fraction(z)
        floats = Fraction(float(part.x_rows[0, 0])) * Fraction(x) + Fraction(float(part.y_rows[0, 0])) * Fraction(y)
        # the exact row moved to this point is met, so the float64 one is
        assert floats - total <= Fraction(float(part.bound[0])) - row.bound


def test_largest_values_bound_all_outputs() -> None:
    rng = np.random.default_rng(3)
    builder = NetworkBuilder((3,))
    a = builder.add(Dense(rng.normal(size=(4, 3)), rng.normal(size=4)), "input")
    b = builder.add(Dense(rng.normal(size=(4, 3)), rng.normal(size=4)), "input")
    network = builder.build(builder.add(Sum((1, -1)), builder.add(relu(), a), b))
    most = largest_values(network, np.full(3, 2.0))
    values = np.abs(network.forward(rng.uniform(-2, 2, size=(1000, 3))))
    assert (values <= most).all()
    assert (most < 100 * values.max(axis=0)).all()


@pytest.mark.parametrize("kind", [np.array, sp.csr_array])
def test_rows_of_tiny_coefficients_are_raised(kind: Callable[[np.ndarray], Any]) -> None:
    rng = np.random.default_rng(4)
    sizes = np.array([1.0, 1e-308, 1e-312, 5e-324, 1e-310, 1e-310])[:, None]
    y = np.maximum(rng.random(size=(6, 2)), 0.5) * sizes
    y[3] = [5e-324, 0.0]
    bound = np.array([1.0, 1e-309, 0.0, 1e-300, 1e20, -1e20])
    part = Conjunction(y_rows=kind(y), bound=bound)
    held = np.asarray(part.y_rows.todense()) if sp.issparse(part.y_rows) else part.y_rows
    assert (np.abs(held[:4]).max(axis=1) >= 0.25).all()
    assert not held[4].any()
    for k in range(6):
        row, own = part.exact_row(k), [Fraction(v) for v in y[k].tolist()]
        factor = row.y[0] / own[0]
        assert factor > 0
        assert row.bound == factor * Fraction(float(bound[k]))
        assert row.y.get(1, 0) == factor * own[1]


def test_a_row_beyond_float64_says_nothing() -> None:
    part = enclosed([ExactRow({}, {0: Fraction(1, 3)}, {}, Fraction(10) ** 400)], [False], (1, 1), lambda _: np.ones(1))
    assert part.y_rows is None
    assert part.bound.tolist() == [0.0]
    assert part.holds_exactly([Fraction(0)], [Fraction(1)], None)


@given(st.floats(-10, 10), st.floats(0, 10), st.floats(-30, 30))
def test_a_ball_is_exact(center: float, epsilon: float, x: float) -> None:
    box = Box.around(np.array([center]), epsilon, None)
    inside = abs(Fraction(x) - Fraction(center)) <= Fraction(epsilon)
    assert bool(box.contains(np.array([x]))) == inside
    (point,) = box.point(np.array([x]))
    assert abs(point - Fraction(center)) <= Fraction(epsilon)
    assert Fraction(float(box.lower[0])) <= point <= Fraction(float(box.upper[0]))


def test_an_exact_box_survives_pickling() -> None:
    box = Box.around(np.array([0.1, 0.5]), 0.2, (0.0, 0.6))
    again = pickle.loads(pickle.dumps(box))
    assert [ends.fractions() for ends in again.ends] == [ends.fractions() for ends in box.ends]
    assert again.ends[1][1] == Fraction(0.6)


# -- decimals of files -----------------------------------------------------------------------------------
def identity() -> Network:
    """y = relu(x)."""
    return feedforward([np.eye(1), np.eye(1)], [np.zeros(1), np.zeros(1)])


def about(text: str, network: Network | None = None) -> Query:
    """A property of y = relu(x)."""
    return vnnlib1.parse(f"(declare-const X_0 Real)(declare-const Y_0 Real){text}", network or identity())


AT_1000 = "(assert (<= X_0 1000))(assert (>= X_0 1000))"


@pytest.mark.parametrize(
    ("text", "violated"),
    [
        (AT_1000 + "(assert (<= (* 0.1 Y_0) 100))", True),
        (AT_1000 + "(assert (< (* 0.3 Y_0) 300))", False),
        ("(assert (<= X_0 0.1))(assert (>= X_0 0))(assert (> Y_0 0.1))", False),
        ("(assert (<= X_0 0.1))(assert (>= X_0 0.1))(assert (>= Y_0 0.1))", True),
        ("(assert (<= X_0 0.1))(assert (>= X_0 0.1))(assert (> Y_0 0.1))", False),
        ("(assert (<= X_0 0.3))(assert (>= X_0 0.1))(assert (>= (+ Y_0 X_0) 0.6))", True),
        ("(assert (<= X_0 0.3))(assert (>= X_0 0.1))(assert (>= (+ Y_0 X_0) 0.60000000000000000001))", False),
        ("(assert (>= X_0 0))(assert (or (<= X_0 0.1) (<= X_0 0.2)))(assert (> Y_0 0.2))", False),
    ],
)
def test_decimals_mean_what_they_say(text: str, violated: bool) -> None:
    query = about(text)
    opposite = Status.HOLDS if violated else Status.VIOLATED
    for name in able(query, (*EXACT, "native", "saliency", "highs", "auto")[:6]):
        status = answer(query, name, 3)
        assert status is not opposite, name
        assert status.decided or name not in (*EXACT, "saliency"), name


def test_an_input_fixed_at_a_decimal_has_an_exact_witness() -> None:
    verdict = verifier.verify(about("(assert (= X_0 0.1))(assert (<= Y_0 0.1))(assert (>= Y_0 0.1))"), engine="z3")
    assert verdict.status is Status.VIOLATED
    assert verdict.witness is not None
    assert verdict.witness.exact_input == (Fraction(1, 10),)


def test_writing_keeps_the_numbers() -> None:
    text = (
        "(assert (>= X_0 0.1))(assert (<= (* 3 X_0) 1))"
        "(assert (or (and (<= (* 0.3 Y_0) 0.7) (<= X_0 0.2)) (> (+ (* 0.1 X_0) Y_0) 1e-30)))"
    )
    query = about(text)
    again = vnnlib1.parse(vnnlib1.write(query), identity())
    assert [ends.fractions() for ends in again.box.ends] == [ends.fractions() for ends in query.box.ends]
    for one, two in zip(query.disjuncts, again.disjuncts, strict=True):
        for k in range(len(one)):
            a, b = one.exact_row(k), two.exact_row(k)
            factor = next(iter((b.x or b.y).values())) / next(iter((a.x or a.y).values()))
            assert factor > 0
            assert a.times(factor) == b or (a.times(factor).x, a.times(factor).y, a.times(factor).bound) == (
                b.x,
                b.y,
                b.bound,
            )


# -- saliency --------------------------------------------------------------------------------------------
def constant_gradient() -> Network:
    """On x > 0 the gradient is constant, and the label changes at 0.5."""
    weights = [np.array([[0.1], [0.2]]), np.array([[0.3, 0.3], [0.0, 0.0]])]
    return feedforward(weights, [np.zeros(2), np.array([0.0, 0.045])])


@pytest.mark.parametrize("name", ["gradient", "absolute", "smooth", "gradient-input", "integrated", "integrated-exact"])
@pytest.mark.parametrize("similarity", ["linf", "l1", "l2", "top-k"])
def test_an_input_is_similar_to_itself(name: str, similarity: str) -> None:
    rng = np.random.default_rng(7)
    for _ in range(5):
        sizes = (3, 4, 3, 2)
        weights = [rng.normal(size=(b, a)) for a, b in itertools.pairwise(sizes)]
        network = feedforward(weights, [rng.normal(size=len(w)) for w in weights])
        x = rng.normal(size=3)
        query = verifier.saliency_robustness(
            network, x, epsilon=0.5, delta=0.0, domain=None, map=named_map(name, 3, steps=3, samples=3), similarity=similarity,
            top_k=1 if similarity == "top-k" else 0,
        )  # fmt: skip
        assert query.condition is not None or query.gradient is not None
        if query.condition is not None:
            assert query.condition.admits(query.condition.exact_map([Fraction(v) for v in x.tolist()]))
            assert query.condition.margin(x[None])[0] >= 0
        if query.gradient is not None:
            assert query.gradient.contains(query.network.gradient(x, query.gradient.output).reshape(1, -1))[0]


def test_equal_maps_at_delta_zero() -> None:
    query = verifier.saliency_robustness(constant_gradient(), np.array([0.6]), epsilon=0.3, delta=0.0)
    for name in able(query, (*EXACT, "saliency", "highs")):
        assert answer(query, name) is Status.VIOLATED, name
    assert verifier.verify(query, timeout=10).status is Status.VIOLATED
    tie = verifier.saliency_robustness(constant_gradient(), np.array([0.6]), epsilon=0.0, delta=0.0)
    assert verifier.verify(tie, engine="z3").status is Status.HOLDS


def test_delta_beside_a_distance() -> None:
    # the gradient is 0.1 on x < 1 and 0.1 + 0.2 beyond: the distance is the float64 number 0.2 exactly, and
    # 0.1 + 0.2 is no float64 number
    network = feedforward(
        [np.ones((2, 1)), np.array([[0.0, 0.0], [0.1, 0.2]])], [np.array([0.0, -1.0]), np.array([0.05, 0])]
    )
    distance = 0.2
    for delta, violated in ((distance, True), (float(np.nextafter(distance, 0)), False)):
        query = verifier.saliency_robustness(network, np.array([2.0]), epsilon=1.5, delta=delta, label=1, domain=None)
        for name in able(query, (*EXACT, "saliency", "highs")):
            assert answer(query, name) is (Status.VIOLATED if violated else Status.HOLDS), (name, delta)


def test_an_input_just_outside_its_domain_is_moved_into_it() -> None:
    network = constant_gradient()
    query = verifier.robustness(network, np.array([1 + 7e-10]), 0.1)
    assert query.box.upper.tolist() == [1.0]
    assert query.anchor is not None
    assert query.anchor.tolist() == [1.0]
    assert "entry 0 of the input was 7e-10 outside the domain" in query.description
    with pytest.raises(verifier.VerifierError, match="outside the domain"):
        verifier.robustness(network, np.array([1.001]), 0.1)


def test_the_rim_of_the_ball() -> None:
    # x̂ + ε = 0.1 + 0.2 lies between two float64 numbers: one of them is inside, the other is not
    above = 0.1 + 0.2
    below = float(np.nextafter(above, 0))
    assert Fraction(below) < Fraction(0.1) + Fraction(0.2) < Fraction(above)
    for limit, violated in ((above, False), (below, True)):
        network = feedforward(
            [np.ones((1, 1)), np.array([[0.0], [1.0]])], [np.array([-limit]), np.array([1e-300, 0.0])]
        )
        query = verifier.robustness(network, np.array([0.1]), 0.2, label=0, domain=None)
        for name in able(query, (*EXACT, "native", "saliency")):
            assert answer(query, name, 3) is (Status.VIOLATED if violated else Status.HOLDS), (name, limit)


def test_exact_is_said_of_exact_numbers() -> None:
    query = about("(assert (<= X_0 0.1))(assert (>= X_0 0))(assert (> Y_0 0.1))")
    verdict = verifier.verify(query, engine="z3", prepass=False)
    assert verdict.certainty is Certainty.EXACT


@pytest.mark.parametrize(("step", "violated"), [(0.0, True), (-1.0, False)])
def test_the_maps_engine_settles_ties(step: float, violated: bool) -> None:
    """|g| is 0.1 at x̂ and 0.1 + 0.2 where the label is another: just below δ = 0.2 boxes alone stay open for ever."""
    network = feedforward(
        [np.array([[1.0], [1.0]]), np.array([[0.0, 0.0], [-0.1, -0.2]])], [np.array([0.0, -1.0]), np.array([0.0, 0.45])]
    )
    distance = Fraction(0.2)
    delta = float(distance) if not step else float(np.nextafter(0.2, 0))
    query = verifier.saliency_robustness(
        network, np.array([0.5]), epsilon=3.0, delta=delta, label=1, domain=None, map="absolute"
    )
    assert query.condition is not None
    result = MapsEngine().solve(query, Options(), Deadline.after(20))
    assert result.answer is (Answer.SAT if violated else Answer.UNSAT)
