"""The native engine against exhaustive facts: its bounds contain samples, its answers agree with the truth."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import linprog

from verifier.bounds.crown import crown_bounds
from verifier.engines.base import Answer
from verifier.engines.native import NativeEngine
from verifier.engines.native.settings import ExactSettings, NativeSettings, ReluSettings
from verifier.falsify.replay import replay
from verifier.limits import Deadline
from verifier.network.convolution import Conv
from verifier.network.graph import Network, NetworkBuilder, feedforward
from verifier.network.operators import Dense, Reshape, Select, Sum
from verifier.network.piecewise import MaxPool, absolute, clip, leaky_relu, relu
from verifier.options import Options
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import Query
from verifier.properties.sets import Box


def dense(rng: np.random.Generator, sizes: tuple[int, ...], activation=None) -> Network:
    weights = [rng.normal(size=(b, a)) * 1.5 / np.sqrt(a) for a, b in itertools.pairwise(sizes)]
    return feedforward(weights, [0.3 * rng.normal(size=len(w)) for w in weights], activation=activation)


def convolutional(rng: np.random.Generator) -> Network:
    builder = NetworkBuilder((2, 6, 6))
    first = builder.add(Conv(rng.normal(size=(3, 2, 3, 3)) / 4, rng.normal(size=3), padding=(1, 1, 1, 1)))
    hidden = builder.add(relu(), first)
    second = builder.add(Conv(rng.normal(size=(3, 3, 3, 3)) / 5, rng.normal(size=3), padding=(1, 1, 1, 1)), hidden)
    builder.add(relu(), builder.add(Sum((1, -1)), second, hidden))
    builder.add(MaxPool((2, 2), (2, 2)))
    builder.add(Reshape((27,)))
    builder.add(Select(np.arange(27)[::-1].copy()))
    return builder.build(builder.add(Dense(rng.normal(size=(3, 27)), rng.normal(size=3))))


@pytest.mark.parametrize("activation", [None, leaky_relu(0.1), clip(-0.5, 0.5), absolute(), clip(0, 6)])
def test_bounds_contain_all_samples(activation) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        network = dense(rng, (4, 12, 12, 3), activation)
        box = Box.around(rng.random(4), 0.2, None)
        bounds = crown_bounds(network, box)
        for name, value in network.values(box.sample(300, rng)).items():
            assert bounds[name].contains(value).all()


def test_bounds_of_a_residual_convolutional_network() -> None:
    rng = np.random.default_rng(1)
    network = convolutional(rng)
    box = Box.around(rng.random(72), 0.05)
    bounds = crown_bounds(network, box)
    for name, value in network.values(box.sample(300, rng)).items():
        assert bounds[name].contains(value).all()


def test_a_point_box_is_bounded_to_rounding() -> None:
    rng = np.random.default_rng(2)
    network = dense(rng, (4, 12, 12, 3))
    x = rng.random(4)
    bound = crown_bounds(network, Box(x, x))[network.output]
    assert bound.contains(network.forward(x[None])).all()
    assert bound.width.max() < 1e-9


def least_over_regions(network: Network, box: Box, disjunct: Conjunction) -> float:
    """The least t with a point where all rows are <= bound + t, over all linear regions, by LP (2 layers)."""
    w1, b1 = network.nodes[1].operator.weight, network.nodes[1].operator.bias
    w2, b2 = network.nodes[3].operator.weight, network.nodes[3].operator.bias
    n, best = box.size, np.inf
    rows = np.asarray(disjunct.y_rows)
    for pattern in itertools.product((0.0, 1.0), repeat=len(b1)):
        d = np.array(pattern)
        sign = 1 - 2 * d
        matrix, shift = w2 @ (d[:, None] * w1), w2 @ (d * b1) + b2
        a = np.vstack([np.c_[sign[:, None] * w1, np.zeros(len(b1))], np.c_[rows @ matrix, -np.ones(len(rows))]])
        b = np.concatenate([-sign * b1, disjunct.bound - rows @ shift])
        cost = np.r_[np.zeros(n), 1.0]
        ends = [*zip(box.lower, box.upper, strict=True), (None, None)]
        found = linprog(cost, A_ub=a, b_ub=b, bounds=ends)
        if found.status == 0:
            best = min(best, found.fun)
    return best


@pytest.mark.parametrize(
    "settings",
    [
        NativeSettings(exact=ExactSettings.never(), low_dimension=0),
        NativeSettings(exact=ExactSettings.never(), low_dimension=0, relu=ReluSettings.impatient()),
        NativeSettings(exact=ExactSettings.never(), low_dimension=12),
    ],
    ids=["relu-splitting", "parts", "input-splitting"],
)
def test_answers_agree_with_all_linear_regions(settings: NativeSettings) -> None:
    rng = np.random.default_rng(4)
    seen = set()
    for trial in range(12):
        network = dense(rng, (3, 6, 2))
        box = Box.around(rng.random(3), 0.8, None)
        rows = rng.normal(size=(1 if settings.low_dimension == 0 else 2, 2))
        disjunct = Conjunction(y_rows=rows, bound=np.zeros(len(rows)))
        margin = least_over_regions(network, box, disjunct)
        shift = 0.02 if trial % 2 else -0.02  # just feasible, or just not
        disjunct = Conjunction(y_rows=rows, bound=np.full(len(rows), margin + shift))
        query = Query(network=network, box=box, disjuncts=(disjunct,))
        result = NativeEngine(settings).solve(query, Options(), Deadline.after(20))
        if result.answer is Answer.SAT:
            assert result.x is not None
            assert replay(query, result.x).exact
        truth = Answer.SAT if shift > 0 else Answer.UNSAT
        assert result.answer in (truth, Answer.UNKNOWN, Answer.TIMEOUT)
        seen.add(result.answer)
    assert {Answer.SAT, Answer.UNSAT} <= seen


def test_a_deadline_that_has_passed_proves_nothing() -> None:
    rng = np.random.default_rng(5)
    network = dense(rng, (3, 20, 20, 2))
    query = Query(
        network=network,
        box=Box.around(rng.random(3), 2.0, None),
        disjuncts=(Conjunction(y_rows=np.array([[1.0, 0.0]]), bound=np.array([-1e3])),),
    )
    result = NativeEngine(NativeSettings(exact=ExactSettings.never())).solve(query, Options(), Deadline.after(1e-9))
    assert result.answer is Answer.TIMEOUT


@pytest.mark.parametrize("network", ["condensed", "split on ReLUs"])
def test_a_value_that_one_point_has_is_not_ruled_out_by_neurons_that_are_active(network: str) -> None:
    """relu(x) + relu(y + 5) = 5.3 is met at (0.3, 0), within rounding; the second ReLU is active on the whole box."""
    weights = [np.eye(2), np.ones((1, 2))]
    part = Conjunction(y_rows=np.array([[1.0], [-1.0]]), bound=np.array([5.3, -5.3]))
    query = Query(
        network=feedforward(weights, [np.array([0.0, 5.0]), np.zeros(1)]),
        box=Box(-np.ones(2), np.ones(2)),
        disjuncts=(part,),
    )
    few = {"condensed_from": 0} if network == "condensed" else {"low_dimension": 0}
    engine = NativeEngine(NativeSettings(exact=ExactSettings.never(), **few))
    result = engine.solve(query, Options(prepass=False), Deadline.after(60))
    assert result.answer is Answer.SAT
    assert replay(query, result.x).exact


def test_neurons_of_parallel_branches_are_not_confused() -> None:
    """relu(x) - relu(y) reaches 0.9 at (1, 0); as one neuron the two would cancel."""
    builder = NetworkBuilder((2,))
    one, two = (builder.add(relu(), builder.add(Dense(row[None], np.zeros(1)), "input")) for row in np.eye(2))
    network = builder.build(builder.add(Sum((1, -1)), one, two))
    part = Conjunction(y_rows=np.array([[-1.0]]), bound=np.array([-0.9]))
    query = Query(network=network, box=Box(-np.ones(2), np.ones(2)), disjuncts=(part,))
    engine = NativeEngine(NativeSettings(condensed_from=0, exact=ExactSettings.never()))
    assert engine.solve(query, Options(prepass=False), Deadline.after(60)).answer is Answer.SAT
