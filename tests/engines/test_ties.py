"""Ties, and tiny margins on tiny networks: decided exactly, and not split for ever."""

from __future__ import annotations

import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from verifier import saliency_robustness, verify
from verifier.engines.base import Answer, EngineResult
from verifier.engines.exact_regions import RegionSearch
from verifier.engines.native import NativeEngine
from verifier.engines.native.settings import ExactSettings, NativeSettings
from verifier.engines.saliency import SaliencyEngine
from verifier.limits import Deadline
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network, NetworkBuilder, feedforward
from verifier.network.operators import Dense, Reshape, Sum
from verifier.network.piecewise import MaxPool, relu
from verifier.options import Options
from verifier.properties import vnnlib1, vnnlib2
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import Query
from verifier.properties.sets import Box
from verifier.verdict import Certainty, Status

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from edge_kinds import ties
from edge_kinds.kind import Outcome

Layer = tuple[list[list[float]], list[float]]
BOX = "(assert (>= X_0 -1)) (assert (<= X_0 1)) (assert (>= X_1 -1)) (assert (<= X_1 1))"


def network(*layers: Layer) -> Network:
    builder = NetworkBuilder((len(layers[0][0][0]),))
    for k, (weight, bias) in enumerate(layers):
        builder.add(Dense(np.array(weight, dtype=float), np.array(bias, dtype=float)))
        if k < len(layers) - 1:
            builder.add(relu())
    return builder.build()


def identity(extra: int = 0, far: float = 0.0) -> Network:
    """y0 = relu(x0) - relu(-x0) = x0, of 3 ReLUs and ``extra`` ones that change nothing and whose kinks are ``far``."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(extra, 2)).round(3)
    weight = [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], *directions.tolist()]
    return network((weight, [0.0] * 3 + [far] * extra), ([[1.0, -1.0, 0.0] + [0.0] * extra], [0.0]))


def query(net: Network, condition: str) -> Query:
    names = "(declare-const X_0 Real) (declare-const X_1 Real) (declare-const Y_0 Real)"
    return vnnlib1.parse(f"{names} {BOX} {condition}", net)


TIES = {
    "the greatest value": ("(assert (> Y_0 1))", Status.HOLDS),
    "the greatest value, closed": ("(assert (>= Y_0 1))", Status.VIOLATED),
    "an output and its input": ("(assert (> Y_0 X_0))", Status.HOLDS),
    "an output that differs from its input": ("(assert (or (< Y_0 X_0) (> Y_0 X_0)))", Status.HOLDS),
    "an input below its own end": ("(assert (< X_0 1)) (assert (>= Y_0 1))", Status.HOLDS),
    "an input at its end": ("(assert (<= X_0 1)) (assert (>= Y_0 1))", Status.VIOLATED),
    "a float below the greatest value": ("(assert (> Y_0 0.9999999999999999))", Status.VIOLATED),
}


@pytest.mark.parametrize("engine", ["auto", "native"])
@pytest.mark.parametrize("extra", [0, 60], ids=["tiny", "more-neurons"])
@pytest.mark.parametrize("name", TIES)
def test_a_tie_is_decided(name: str, extra: int, engine: str) -> None:
    condition, status = TIES[name]
    verdict = verify(query(identity(extra, far=9.0), condition), engine=engine, timeout=10)
    assert verdict.status is status, verdict.reason


@pytest.mark.parametrize("extra", [0, 320], ids=["tiny", "more-neurons-than-solvers-take"])
@pytest.mark.parametrize("name", TIES)
def test_the_saliency_engine_settles_leaves_exactly(name: str, extra: int) -> None:
    condition, status = TIES[name]
    result = SaliencyEngine().solve(query(identity(extra, far=9.0), condition), Options(), Deadline.after(10))
    assert result.answer is (Answer.UNSAT if status is Status.HOLDS else Answer.SAT), result.reason


@pytest.mark.parametrize("seed", [58, 99, 117])
def test_identities_that_the_tree_alone_splits_for_ever(seed: int) -> None:
    trials = {trial.engine: trial for trial in ties.identity(seed)}
    assert trials["saliency"].outcome is Outcome.RIGHT
    assert trials["saliency"].seconds < 4


def test_a_program_that_presolve_calls_infeasible() -> None:
    """HiGHS 1.x refutes this one in presolve at a tolerance of 1e-9, and finds its solution without."""
    trials = {trial.engine: trial for trial in ties.saliency(19)}
    assert trials["highs"].outcome is Outcome.RIGHT


def test_not_equal_of_version_2_is_decided() -> None:
    text = """(vnnlib-version <2.0>) (declare-network N (declare-input X float64 [1,2]) (declare-output Y float64 [1,1]))
    (assert (and (>= X[0,0] -1.0) (<= X[0,0] 1.0) (>= X[0,1] -1.0) (<= X[0,1] 1.0))) (assert (!= Y[0,0] X[0,0]))"""
    asked = vnnlib2.parse(text, identity())
    assert verify(asked, timeout=10).status is Status.HOLDS


def native(asked: Query) -> EngineResult:
    return NativeEngine().solve(asked, Options(), Deadline.after(10))


@pytest.mark.parametrize("shape", ["dense chain", "residual", "pooled"])
def test_a_tie_in_a_larger_network_of_any_kind(shape: str) -> None:
    """Few ReLUs are undecided at the tie, and the rest of the network must not keep its boxes from being settled."""
    builder = NetworkBuilder((2,))
    rng = np.random.default_rng(1)
    weight = np.vstack([[[1.0, 0.0], [-1.0, 0.0]], rng.normal(size=(46, 2)).round(2)])
    bias = np.concatenate([[0.0, 0.0], np.full(46, 1.0)])
    name = builder.add(relu(), builder.add(Dense(weight, bias), "input"))
    ends = np.zeros((1, 48))
    ends[0, :2] = 1.0, -1.0
    if shape == "residual":
        right = builder.add(Dense(ends, np.zeros(1)), name)
        again = builder.add(Dense(np.array([[0.5, 0.0]]), np.zeros(1)), "input")
        builder.add(Sum((1, 1)), right, again)
        asked = "(assert (> Y_0 1.5))"
    elif shape == "pooled":
        pairs = np.zeros((2, 48))
        pairs[0, 0], pairs[1, 1] = 1.0, 1.0  # the greater of relu(x0) and relu(-x0)
        cells = builder.add(Reshape((1, 1, 2)), builder.add(Dense(pairs, np.zeros(2)), name))
        pooled = builder.add(MaxPool(kernel=(1, 2), stride=(1, 2)), cells)
        builder.add(Reshape((1,)), pooled)
        asked = "(assert (> Y_0 1))"
    else:
        builder.add(Dense(ends, np.zeros(1)), name)
        asked = "(assert (> Y_0 X_0))"
    result = native(query(builder.build(), asked))
    assert result.answer is Answer.UNSAT, result.reason


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("far", [9.0, 1000.0], ids=["a few ReLUs open", "one linear region"])
def test_a_tie_among_many_inputs(far: float, strict: bool) -> None:
    """20 inputs vary and 60 neurons: ReLU splitting, whose regions linear programming leaves open by rounding alone."""
    rng = np.random.default_rng(3)
    first = np.zeros((60, 20))
    first[:4, :4] = np.array([[1, 1, 0, 0], [-1, -1, 0, 0], [0, 0, 1, 3], [0, 0, -1, -3]])
    first[4:] = rng.integers(-2, 3, size=(56, 20))
    bias = np.full(60, 100.0)
    bias[:4] = 0.125 if far < 100 else far
    last = np.zeros((1, 60))
    last[0, :4] = 1.0, -1.0, 1.0, -1.0
    builder = NetworkBuilder((20,))
    for k, operator in enumerate((Dense(first, bias), relu(), Dense(last, np.zeros(1)))):
        builder.add(operator, name=f"n{k}")
    net = builder.build()
    best = max(Fraction(v) for v in ExactNetwork(net).output(np.ones(20)))  # it grows with the first four inputs alone
    rows = Conjunction(y_rows=np.array([[-1.0]]), bound=np.array([-float(best)]), strict=np.array([strict]))
    assert Fraction(float(best)) == best
    asked = Query(network=net, box=Box(-np.ones(20), np.ones(20)), disjuncts=(rows,))
    result = NativeEngine(NativeSettings(exact=ExactSettings.never())).solve(
        asked, Options(prepass=False), Deadline.after(20)
    )
    assert result.answer is (Answer.UNSAT if strict else Answer.SAT), result.reason


def test_a_margin_of_a_256th_on_six_pieces() -> None:
    """Bounds say nothing here until boxes are tiny: six functions whose maximum is flat nearly everywhere."""
    rng = np.random.default_rng(2)
    first = np.array([[np.cos(t), np.sin(t)] for t in np.linspace(0, 5, 6)]).round(2)
    layers = ((first.tolist(), [0.0] * 6), ((rng.integers(-2, 3, size=(1, 6)) / 2.0).tolist(), [0.0]))
    net = network(*layers)
    found = RegionSearch(query(net, "(assert (>= Y_0 100))"))
    assert found.run()
    corners = np.array([[a, b] for a in np.linspace(-1, 1, 401) for b in np.linspace(-1, 1, 401)])
    best = float(net.forward(corners).max())
    verdict = verify(query(net, f"(assert (>= Y_0 {best + 1 / 64:.6f}))"), timeout=10)
    assert verdict.status is Status.HOLDS
    assert verdict.certainty is Certainty.EXACT
    assert verify(query(net, f"(assert (>= Y_0 {best - 1 / 256:.6f}))"), timeout=10).status is Status.VIOLATED


def test_a_solution_that_is_no_float_is_found() -> None:
    net = network(([[3.0], [-3.0]], [-1.0, 1.0]), ([[-1.0, -1.0]], [0.0]))  # -|3x - 1|, which is 0 at 1/3 only
    asked = Query(
        network=net,
        box=Box(np.zeros(1), np.ones(1)),
        disjuncts=(Conjunction(y_rows=np.array([[-1.0]]), bound=np.zeros(1)),),
    )
    verdict = verify(asked, timeout=10)
    assert verdict.status is Status.VIOLATED
    assert verdict.witness is not None
    assert verdict.witness.exact_input == (Fraction(1, 3),)


def test_a_search_goes_on_where_its_budget_ended() -> None:
    asked = query(identity(), "(assert (> Y_0 X_0))")
    whole, parts = RegionSearch(asked), RegionSearch(asked)
    assert whole.run()
    turns = 0
    while not parts.run(1):
        turns += 1
    assert turns > 1
    assert (parts.regions, parts.witness, parts.unsettled) == (whole.regions, None, "")


def test_a_tie_is_a_change_of_label_and_the_paper_s_strict_equation_14_can_be_asked() -> None:
    """y = (x, 0) on [0, 1] (Le et al., ACML 2023): the maps are all the same, and only x = 0 has a tie."""
    network = feedforward([[[1.0]], [[1.0], [0.0]]], [[1.0], [-1.0, 0.0]])
    query = saliency_robustness(network, [1.0], epsilon=1.0, delta=0.0)
    verdict = verify(query, timeout=30)
    assert verdict.status is Status.VIOLATED
    assert verdict.witness is not None
    assert verdict.witness.input.tolist() == [0.0]
    (disjunct,) = query.disjuncts
    strict = replace(query, disjuncts=(replace(disjunct, strict=np.ones(1, dtype=bool)),))
    assert verify(strict, timeout=30).status is Status.HOLDS
