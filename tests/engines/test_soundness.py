"""Corner cases in which a proof could go wrong: rounding under cancellation, overflow, kinks at points, no ReLUs."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from verifier import verify
from verifier.bounds.crown import Crown
from verifier.engines.base import Answer, Deadline, Engine
from verifier.engines.native import NativeEngine
from verifier.engines.native import engine as engine_module
from verifier.engines.saliency.engine import SaliencyEngine
from verifier.errors import InputError
from verifier.network.graph import Network, NetworkBuilder
from verifier.network.operators import Conv, Dense, Operator, Reshape
from verifier.network.piecewise import MaxPool, clip, leaky_relu, relu
from verifier.options import Options
from verifier.properties.query import Conjunction, GradientBox, Query
from verifier.properties.sets import Box
from verifier.search.attack import Margins
from verifier.verdict import Status


def chain(shape: tuple[int, ...], *operators: Operator) -> Network:
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
        network = chain((4,), Dense(weight, bias), relu(), Dense(rng.normal(size=(2, 3)), np.zeros(2)))
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
    monkeypatch.setattr(engine_module, "LOW_DIMENSION", low_dimension)
    # without lucky guesses: the proof alone must not refute a query that has witnesses
    monkeypatch.setattr(engine_module, "first_confirmed", lambda *_: None)
    network = chain(
        (1,),
        dense([[size], [1.0]], [0.0, 0.0]),
        relu(),
        dense([[size, 1.0], [1.0, -1.0]], [0.0, 0.0]),
        relu(),
        dense([[0.0, 1.0], [1.0, -1.0]], [0.0, 0.0]),
    )
    query = Query(network=network, box=Box(np.zeros(1), np.full(1, 1e-300)), cases=(row([-1.0, 0.0], 0.0),))
    with pytest.raises(InputError, match="too large"), np.errstate(all="ignore"):
        solve(NativeEngine(), query)


def test_verify_survives_bounds_that_overflow() -> None:
    network = chain((1,), dense([[1e200], [1.0]], [0.0, 0.0]), relu(), dense([[1e200, 1.0], [1.0, 1.0]], [0.0, 0.0]))
    query = Query(network=network, box=Box(-np.ones(1), np.ones(1)), cases=(row([1.0, 0.0], -1.0),))
    with np.errstate(all="ignore"):
        assert verify(query, timeout=5).status is not Status.VIOLATED


@pytest.mark.parametrize("activation", [relu(), leaky_relu(0.5)], ids=["relu", "leaky"])
@pytest.mark.parametrize("strict", [False, True], ids=["closed", "strict"])
def test_a_point_box_is_decided_exactly(activation: Operator, strict: bool) -> None:
    network = chain((1,), dense([[1.0]], [0.0]), activation, dense([[1.0], [-1.0]], [0.0, 0.0]))
    query = Query(
        network=network, box=Box(np.full(1, 0.5), np.full(1, 0.5)), cases=(row([1.0, 0.0], 0.5, strict=strict),)
    )
    assert solve(NativeEngine(), query) is (Answer.UNSAT if strict else Answer.SAT)


@pytest.mark.parametrize(
    ("gradient", "answer"), [([1.0, 0.0], Answer.SAT), ([0.0, 1.0], Answer.UNSAT)], ids=["first", "second"]
)
def test_ties_of_a_pool_at_a_point_keep_the_gradient_of_the_first(gradient: list[float], answer: Answer) -> None:
    network = chain((1, 1, 2), MaxPool((1, 2), (1, 1)), Reshape((1,)), dense([[1.0], [0.0]], [0.0, 0.0]))
    assert solve(SaliencyEngine(), at_zero(network, gradient)) is answer


@pytest.mark.parametrize(
    ("gradient", "answer"), [([0.0, 0.0], Answer.SAT), ([1.0, 1.0], Answer.UNSAT)], ids=["flat", "steep"]
)
def test_the_upper_kink_of_clip_at_a_point_is_flat(gradient: list[float], answer: Answer) -> None:
    network = chain(
        (2,),
        dense([[1.0, 0.0], [0.0, 1.0]], [0.75, 0.75]),
        clip(0.125, 0.75),
        dense([[1.0, 1.0], [0.0, 0.0]], [0.0, 0.0]),
    )
    assert solve(SaliencyEngine(), at_zero(network, gradient)) is answer


def at_zero(network: Network, gradient: list[float]) -> Query:
    wanted = GradientBox(output=np.array([1.0, 0.0]), lower=np.array(gradient), upper=np.array(gradient))
    anything = Conjunction(bound=np.zeros(0))
    return Query(network=network, box=Box(np.zeros(2), np.zeros(2)), cases=(anything,), gradient=wanted)


def test_linear_networks_with_several_cases() -> None:
    network = chain((2,), dense([[1.0, 1.0], [1.0, -1.0]], [0.0, 0.0]))
    cases = (row([1.0, 0.0], 0.0, strict=True), row([0.0, 1.0], -1.0, strict=True))
    gradient = GradientBox(output=np.array([1.0, 0.0]), lower=np.ones(2), upper=np.ones(2))
    query = Query(network=network, box=Box(np.zeros(2), np.ones(2)), cases=cases, gradient=gradient)
    assert solve(SaliencyEngine(), query) is Answer.UNSAT


def test_networks_without_relus_are_left_open_by_relu_splitting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "LOW_DIMENSION", 0)
    network = chain((1,), dense([[1.0]], [0.0]), leaky_relu(0.5), dense([[1.0], [-1.0]], [0.0, 0.0]))
    query = Query(network=network, box=Box(np.zeros(1), np.full(1, 0.5)), cases=(row([1.0, 0.0], 0.0, strict=True),))
    assert solve(NativeEngine(), query) is Answer.UNKNOWN


def test_a_pool_that_passes_nothing_on() -> None:
    kernel = Conv(np.ones((1, 1, 1, 1)), np.zeros(1))
    network = chain((1, 1, 2), kernel, MaxPool((1, 2), (1, 1)), Reshape((1,)), dense([[-1.0], [-2.0]], [0.0, 0.0]))
    query = Query(network=network, box=Box(np.zeros(2), np.ones(2)), cases=(row([1.0, 0.0], -1.5),))
    assert solve(NativeEngine(), query) is Answer.UNSAT


def test_the_search_moves_by_numbers_only() -> None:
    network = chain((1,), dense([[1e200], [1.0]], [0.0, 0.0]), relu(), dense([[1e200, 1.0], [1.0, 1.0]], [0.0, 0.0]))
    free = GradientBox(output=np.array([1.0, 0.0]), lower=np.full(1, -np.inf), upper=np.full(1, np.inf))
    on_gradient = Conjunction(g_rows=np.ones((1, 1)), bound=np.zeros(1))
    both = Conjunction(g_rows=np.ones((1, 1)), y_rows=np.array([[0.0, 1.0]]), bound=np.zeros(1))
    for case in (on_gradient, both, row([1.0, 0.0], 0.0)):
        query = Query(network=network, box=Box(-np.ones(1), np.ones(1)), cases=(case,), gradient=free)
        with np.errstate(all="ignore"):
            _, slope = Margins.of(query).ascent(np.array([[0.5], [1.0]]), np.zeros(2, dtype=np.intp), 0.5)
        assert np.isfinite(slope).all()
