"""Corner cases in which a proof could go wrong: rounding under cancellation, overflow, kinks at points, no ReLUs."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from verifier import verify
from verifier.bounds.crown import Crown
from verifier.bounds.crown_slopes import NeuronBounder, initial_weights, prove
from verifier.bounds.restriction import restrict
from verifier.engines.base import Answer, Engine
from verifier.engines.native import NativeEngine
from verifier.engines.native import engine as engine_module
from verifier.engines.native.combine import put, workspace_of
from verifier.engines.native.settings import ExactSettings, NativeSettings
from verifier.engines.saliency.engine import SaliencyEngine, SaliencySettings
from verifier.engines.z3_engine import Z3Engine
from verifier.errors import InputError
from verifier.falsify.attack import Margins
from verifier.limits import Deadline
from verifier.network.convolution import Conv
from verifier.network.graph import Network, NetworkBuilder, feedforward
from verifier.network.operators import Dense, Operator, Reshape, Scale, Sum
from verifier.network.piecewise import MaxPool, clip, leaky_relu, relu
from verifier.options import Options
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import GradientBox, Query
from verifier.properties.sets import Box
from verifier.rounding import gamma
from verifier.verdict import Certainty, Status

TREE = SaliencySettings(exact=ExactSettings.never())
"""The tree alone, without the exact search beside it that would answer for tiny networks."""


def feed_forward(shape: tuple[int, ...], *operators: Operator) -> Network:
    builder = NetworkBuilder(shape)
    for operator in operators:
        builder.add(operator)
    return builder.build()


def dense(weight: list[list[float]], bias: list[float]) -> Dense:
    return Dense(np.array(weight, dtype=np.float64), np.array(bias, dtype=np.float64))


def row(y: list[float], bound: float, *, strict: bool = False) -> Conjunction:
    return Conjunction(y_rows=np.array([y]), bound=np.array([bound]), strict=np.array([strict]))


def solve(engine: Engine, query: Query) -> Answer:
    return engine.solve(query, Options(), Deadline.after(5)).answer


def test_interval_bounds_hold_where_large_terms_cancel() -> None:
    rng = np.random.default_rng(0)
    for trial in range(60):
        point = rng.random(4)
        weight = rng.normal(size=(3, 4)) * 10.0 ** rng.integers(0, 12)
        bias = rng.normal(size=3) * 1e-9 - weight @ point
        network = feed_forward((4,), Dense(weight, bias), relu(), Dense(rng.normal(size=(2, 3)), np.zeros(2)))
        radius = 1e-14 * (trial % 2)
        kernel = Crown(network, Box(point - radius, point + radius))
        low, high = kernel.relax(point[None], point[None]).intervals[network.nodes[1].name]
        for k in range(3):
            terms = zip(weight[k].tolist(), point.tolist(), strict=True)
            exact = sum((Fraction(a) * Fraction(x) for a, x in terms), Fraction(float(bias[k])))
            assert Fraction(float(low[0, k])) <= exact <= Fraction(float(high[0, k]))


@pytest.mark.parametrize("low_dimension", [0, 16], ids=["relu-splitting", "input-splitting"])
@pytest.mark.parametrize("size", [1e160, 1e308])
def test_overflow_proves_nothing(size: float, low_dimension: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # without lucky guesses: the proof alone must not refute a query that has witnesses
    monkeypatch.setattr(engine_module, "first_confirmed", lambda *_: None)
    network = feed_forward(
        (1,),
        dense([[size], [1.0]], [0.0, 0.0]),
        relu(),
        dense([[size, 1.0], [1.0, -1.0]], [0.0, 0.0]),
        relu(),
        dense([[0.0, 1.0], [1.0, -1.0]], [0.0, 0.0]),
    )
    query = Query(network=network, box=Box(np.zeros(1), np.full(1, 1e-300)), disjuncts=(row([-1.0, 0.0], 0.0),))
    with pytest.raises(InputError, match="too large"), np.errstate(all="ignore"):
        solve(NativeEngine(NativeSettings(exact=ExactSettings.never(), low_dimension=low_dimension)), query)


def test_verify_survives_bounds_that_overflow() -> None:
    network = feed_forward(
        (1,), dense([[1e200], [1.0]], [0.0, 0.0]), relu(), dense([[1e200, 1.0], [1.0, 1.0]], [0.0, 0.0])
    )
    query = Query(network=network, box=Box(-np.ones(1), np.ones(1)), disjuncts=(row([1.0, 0.0], -1.0),))
    with np.errstate(all="ignore"):
        assert verify(query, timeout=5).status is not Status.VIOLATED


@pytest.mark.parametrize("activation", [relu(), leaky_relu(0.5)], ids=["relu", "leaky"])
@pytest.mark.parametrize("strict", [False, True], ids=["closed", "strict"])
def test_a_point_box_is_decided_exactly(activation: Operator, strict: bool) -> None:
    network = feed_forward((1,), dense([[1.0]], [0.0]), activation, dense([[1.0], [-1.0]], [0.0, 0.0]))
    query = Query(
        network=network, box=Box(np.full(1, 0.5), np.full(1, 0.5)), disjuncts=(row([1.0, 0.0], 0.5, strict=strict),)
    )
    assert solve(NativeEngine(NativeSettings(exact=ExactSettings.never())), query) is (
        Answer.UNSAT if strict else Answer.SAT
    )


@pytest.mark.parametrize(
    ("gradient", "answer"), [([1.0, 0.0], Answer.SAT), ([0.0, 1.0], Answer.UNSAT)], ids=["first", "second"]
)
def test_ties_of_a_pool_at_a_point_keep_the_gradient_of_the_first(gradient: list[float], answer: Answer) -> None:
    network = feed_forward((1, 1, 2), MaxPool((1, 2), (1, 1)), Reshape((1,)), dense([[1.0], [0.0]], [0.0, 0.0]))
    assert solve(SaliencyEngine(TREE), at_zero(network, gradient)) is answer


@pytest.mark.parametrize(
    ("gradient", "answer"), [([0.0, 0.0], Answer.SAT), ([1.0, 1.0], Answer.UNSAT)], ids=["flat", "steep"]
)
def test_the_upper_kink_of_clip_at_a_point_is_flat(gradient: list[float], answer: Answer) -> None:
    network = feed_forward(
        (2,),
        dense([[1.0, 0.0], [0.0, 1.0]], [0.75, 0.75]),
        clip(0.125, 0.75),
        dense([[1.0, 1.0], [0.0, 0.0]], [0.0, 0.0]),
    )
    assert solve(SaliencyEngine(TREE), at_zero(network, gradient)) is answer


def at_zero(network: Network, gradient: list[float]) -> Query:
    wanted = GradientBox(output=np.array([1.0, 0.0]), lower=np.array(gradient), upper=np.array(gradient))
    anything = Conjunction(bound=np.zeros(0))
    return Query(network=network, box=Box(np.zeros(2), np.zeros(2)), disjuncts=(anything,), gradient=wanted)


@pytest.mark.parametrize("activation", [relu(), leaky_relu(0.5)], ids=["relu", "leaky"])
@pytest.mark.parametrize("outside", [True, False], ids=["outside", "at the edge"])
def test_cases_whose_inputs_are_outside_of_the_box(activation: Operator, outside: bool) -> None:
    network = feed_forward((1,), dense([[1.0], [2.0]], [0.0, 0.0]), activation, dense([[1.0, 1.0]], [0.0]))
    bound = -1.0 if outside else 0.0
    disjunct = Conjunction(y_rows=np.zeros((1, 1)), x_rows=np.ones((1, 1)), bound=np.array([bound]))
    query = Query(network=network, box=Box(np.zeros(1), np.ones(1)), disjuncts=(disjunct, disjunct))
    assert solve(NativeEngine(NativeSettings(exact=ExactSettings.never())), query) is (
        Answer.UNSAT if outside else Answer.SAT
    )


def test_linear_networks_with_several_cases() -> None:
    network = feed_forward((2,), dense([[1.0, 1.0], [1.0, -1.0]], [0.0, 0.0]))
    disjuncts = (row([1.0, 0.0], 0.0, strict=True), row([0.0, 1.0], -1.0, strict=True))
    gradient = GradientBox(output=np.array([1.0, 0.0]), lower=np.ones(2), upper=np.ones(2))
    query = Query(network=network, box=Box(np.zeros(2), np.ones(2)), disjuncts=disjuncts, gradient=gradient)
    assert solve(SaliencyEngine(TREE), query) is Answer.UNSAT


def test_networks_without_relus_are_left_open_by_relu_splitting() -> None:
    network = feed_forward((1,), dense([[1.0]], [0.0]), leaky_relu(0.5), dense([[1.0], [-1.0]], [0.0, 0.0]))
    query = Query(
        network=network, box=Box(np.zeros(1), np.full(1, 0.5)), disjuncts=(row([1.0, 0.0], 0.0, strict=True),)
    )
    assert solve(NativeEngine(NativeSettings(exact=ExactSettings.never(), low_dimension=0)), query) is Answer.UNKNOWN


def test_a_pool_that_passes_nothing_on() -> None:
    kernel = Conv(np.ones((1, 1, 1, 1)), np.zeros(1))
    network = feed_forward(
        (1, 1, 2), kernel, MaxPool((1, 2), (1, 1)), Reshape((1,)), dense([[-1.0], [-2.0]], [0.0, 0.0])
    )
    query = Query(network=network, box=Box(np.zeros(2), np.ones(2)), disjuncts=(row([1.0, 0.0], -1.5),))
    assert solve(NativeEngine(NativeSettings(exact=ExactSettings.never())), query) is Answer.UNSAT


def test_the_search_moves_by_numbers_only() -> None:
    network = feed_forward(
        (1,), dense([[1e200], [1.0]], [0.0, 0.0]), relu(), dense([[1e200, 1.0], [1.0, 1.0]], [0.0, 0.0])
    )
    free = GradientBox(output=np.array([1.0, 0.0]), lower=np.full(1, -np.inf), upper=np.full(1, np.inf))
    on_gradient = Conjunction(g_rows=np.ones((1, 1)), bound=np.zeros(1))
    both = Conjunction(g_rows=np.ones((1, 1)), y_rows=np.array([[0.0, 1.0]]), bound=np.zeros(1))
    for disjunct in (on_gradient, both, row([1.0, 0.0], 0.0)):
        query = Query(network=network, box=Box(-np.ones(1), np.ones(1)), disjuncts=(disjunct,), gradient=free)
        with np.errstate(all="ignore"):
            _, slope = Margins.of(query).ascent(np.array([[0.5], [1.0]]), np.zeros(2, dtype=np.intp), 0.5)
        assert np.isfinite(slope).all()


LOST = 0.9 * 2.0**-53
"""Vanishes when it is added to 1."""


def test_rounding_of_layers_without_relus_between_them_is_kept_through_other_operators() -> None:
    """Two values that differ by many small terms, all of which are lost when the two layers are multiplied."""
    terms = 2000
    spread = np.zeros((terms + 1, 2))
    spread[0, 0], spread[1:, 0] = 1.0, LOST
    gather = np.zeros((2, terms + 1))
    gather[0], gather[1, 0] = 1.0, 1.0
    layers = Dense(spread, np.zeros(terms + 1)), Dense(gather, np.zeros(2))
    for operators in ((leaky_relu(0.9),), (Reshape((2, 1, 1)), MaxPool((1, 1), (1, 1)), Reshape((2,)))):
        network = feed_forward((2,), *layers, *operators, dense([[1.0, -1.0]], [0.0]))
        condensed = restrict(network, Box(np.array([-1.0, 0.0]), np.array([-0.5, 1.0])), NeuronBounder())
        start = condensed.rows(np.ones((1, 1)), np.zeros((1, 2)), np.zeros(1))
        lower = prove(condensed, start, initial_weights(condensed, 1), np.zeros((condensed.neurons, 1), dtype=np.int8))
        assert lower[0] <= -0.9 * terms * LOST  # at (-1, 0), but for a share of it that the other slope takes


def test_rounding_of_a_sum_over_several_paths_is_covered() -> None:
    """What comes back on one path is added, term by term, to what came on another, and is lost."""
    terms = 40_000
    builder = NetworkBuilder((2,))
    first = np.zeros((12, 2))
    first[:2, 0], first[2:, 1] = 1.0, 1.0
    hidden = builder.add(relu(), builder.add(Dense(first, np.zeros(12))))
    wide = np.zeros((terms, 12))
    wide[:, 0] = LOST / 4
    small = builder.add(relu(), builder.add(Dense(wide, np.zeros(terms)), hidden))
    total = builder.add(relu(), builder.add(Dense(np.ones((1, terms)), np.zeros(1)), small))
    direct = builder.add(dense([[-1.0, 1.0] + [0.0] * 10], [0.0]), hidden)
    network = builder.build(builder.add(Sum((1, -1)), direct, total))
    condensed = restrict(network, Box(np.full(2, 0.5), np.ones(2)), NeuronBounder())
    start = condensed.rows(np.ones((1, 1)), np.zeros((1, 2)), np.zeros(1))
    lower = prove(condensed, start, initial_weights(condensed, 1), np.zeros((condensed.neurons, 1), dtype=np.int8))
    assert lower[0] <= -terms * LOST / 4


def test_the_rounding_analysis_counts_every_relu_of_a_tournament() -> None:
    network = feed_forward((1, 12, 12), MaxPool((6, 6), (1, 1)), Reshape((49,)), Dense(np.ones((1, 49)), np.zeros(1)))
    condensed = restrict(network, Box(np.zeros(144), np.ones(144)), NeuronBounder())
    assert condensed.neurons == 35 * 49
    assert condensed.gamma >= gamma(2 * condensed.neurons)


def test_linear_functions_of_many_inputs_are_rounded_downwards() -> None:
    inputs = 2_000_000
    f = workspace_of(1, 1, 1)
    free = np.zeros(1, dtype=np.int64)
    put(f, 0, np.full(inputs, -LOST), -1.0, np.ones(inputs), np.zeros(inputs), free)
    assert Fraction(float(f.values[0])) <= -1 - inputs * Fraction(LOST)


def test_boxes_near_the_end_of_float64_prove_nothing() -> None:
    network = feed_forward((1,), dense([[1e-300]], [0.0]), relu(), dense([[1.0]], [0.0]))
    with pytest.raises(InputError, match="too large"):
        restrict(network, Box(np.array([-1e308]), np.array([1e308])), NeuronBounder())


def test_bounds_that_decide_are_not_called_exact() -> None:
    pytest.importorskip("z3")
    network = feedforward([np.ones((1, 1)), np.array([[1.0], [0.0]])], [np.zeros(1), np.array([3.0, 0.0])])
    far = Query(network=network, box=Box(np.zeros(1), np.ones(1)), disjuncts=(row([1.0, 0.0], -100.0),))
    result = Z3Engine().solve(far, Options(), Deadline.after(10))
    assert result.answer is Answer.UNSAT
    near = Query(network=network, box=Box(np.zeros(1), np.ones(1)), disjuncts=(row([1.0, -1.0], 2.9),))
    assert Z3Engine().solve(near, Options(), Deadline.after(10)).certainty is Certainty.EXACT
    never = GradientBox(output=np.array([1.0, 0.0]), lower=np.full(1, 9.0), upper=np.full(1, 9.0))
    anything = Conjunction(bound=np.zeros(0))
    decided = Query(network=network, box=Box(np.zeros(1), np.ones(1)), disjuncts=(anything,), gradient=never)
    result = Z3Engine().solve(decided, Options(), Deadline.after(10))
    assert result.answer is Answer.UNSAT
    assert result.statistics["decided by"] == "bounds"
    assert result.certainty is Certainty.RIGOROUS


def test_layers_that_cancel_to_nothing_prove_nothing_by_themselves() -> None:
    builder = NetworkBuilder((1,))
    for shift in (1e17, 1.0, -1e17):
        builder.add(Scale(np.ones(1), np.full(1, shift)))
    builder.add(relu())
    builder.add(Dense(np.array([[1.0], [0.0]]), np.array([0.0, 1.2])))
    network = builder.build()
    anything = Conjunction(bound=np.zeros(0))
    never = GradientBox(output=np.array([1.0, 0.0]), lower=np.full(1, 9.0), upper=np.full(1, 9.0))
    query = Query(network=network, box=Box(np.zeros(1), np.ones(1)), disjuncts=(anything,), gradient=never)
    result = SaliencyEngine().solve(query, Options(), Deadline.after(20))
    assert result.answer is Answer.UNSAT
    assert result.certainty in (Certainty.EXACT, Certainty.RIGOROUS)  # Z3 has said it, not the composed coefficients
    alone = SaliencyEngine(SaliencySettings(exact=ExactSettings.never(), exact_up_to=0))
    result = alone.solve(query, Options(), Deadline.after(20))
    assert result.answer is Answer.UNKNOWN
    assert "cancel" in result.reason
