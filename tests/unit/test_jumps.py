"""Networks with jumps and curved operators from file to verdict."""

from __future__ import annotations

import sys
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import verifier
from verifier.bounds.step_relaxations import StepRelaxation
from verifier.errors import EngineError, UnsupportedOperatorError
from verifier.falsify import jumps
from verifier.falsify.falsifier import Falsifier
from verifier.falsify.jumps import in_box
from verifier.falsify.replay import replay
from verifier.falsify.search import FalsifierSettings
from verifier.limits import Deadline
from verifier.network.curved import Smooth
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network, NetworkBuilder
from verifier.network.operators import Dense
from verifier.network.piecewise import relu
from verifier.network.steps import Jumping, rounding, sign
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import Query
from verifier.properties.sets import Box
from verifier.verdict import Status

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from onnx_graphs import GRAPHS, Builder, Graph


def binarised(inputs: int, hidden: int, seed: int = 0) -> Network:
    """Signs of ±1 sums, twice, as quantised networks have them."""
    rng = np.random.default_rng(seed)
    builder = NetworkBuilder((inputs,))
    for m, n in ((hidden, inputs), (hidden, hidden)):
        builder.add(Dense(rng.choice([-1.0, 1.0], (m, n)), np.zeros(m)))
        builder.add(sign())
    builder.add(Dense(rng.choice([-1.0, 1.0], (3, hidden)), np.zeros(3)))
    return builder.build()


def at_least(network: Network, low: list[float], high: list[float], bound: float) -> Query:
    """Is there an input in the box with ``y_0 >= bound``?"""
    row = np.eye(1, network.output_size)
    return Query(
        network=network,
        box=Box(np.array(low), np.array(high)),
        disjuncts=(Conjunction(y_rows=-row, bound=np.array([-bound])),),
    )


def test_values_at_jumps_are_exact() -> None:
    operator = Jumping((0.0, 0.5), (0.0, 1.0, 0.0), (-1.0, 0.0, 1.0), (7.0, -7.0))
    builder = NetworkBuilder((1,))
    builder.add(Dense(np.array([[3.0]]), np.array([-1.0])))
    builder.add(operator)
    exact = ExactNetwork(builder.build())
    points = {Fraction(1, 3): 7, Fraction(1, 2): -7, Fraction(2, 5): Fraction(1, 5), Fraction(0): -1, Fraction(1): 1}
    for x, y in points.items():
        assert exact.output([x]) == [y]
    assert operator.forward(np.array([[0.0, 0.5, 0.25, -1.0, 1.0]])).tolist() == [[7.0, -7.0, 0.25, -1.0, 1.0]]


def test_what_holds_only_at_a_jump_is_replayed_there() -> None:
    builder = NetworkBuilder((1,))
    builder.add(Dense(np.array([[1.0]]), np.zeros(1)))
    builder.add(Jumping((0.0,), (0.0, 0.0), (-1.0, -2.0), (5.0,)))
    query = at_least(builder.build(), [-1.0], [1.0], 5.0)
    assert replay(query, np.array([0.0])).exact
    assert not replay(query, np.array([5e-324])).exact
    assert verifier.verify(query, timeout=20).status is Status.VIOLATED
    assert verifier.verify(at_least(query.network, [-1.0], [1.0], 5.5), timeout=20).status is Status.HOLDS


def test_the_greatest_value_of_a_small_binarised_network() -> None:
    network = binarised(2, 4)
    corners = np.array(list(product(np.linspace(-1, 1, 41), repeat=2)))
    most = float(network.forward(corners)[:, 0].max())
    assert verifier.verify(at_least(network, [-1, -1], [1, 1], most), timeout=30).status is Status.VIOLATED
    assert verifier.verify(at_least(network, [-1, -1], [1, 1], 4.5), timeout=30).status is Status.HOLDS


def test_the_search_climbs_where_gradients_are_zero() -> None:
    """Random points do not reach the value that is asked for."""
    network = binarised(60, 40)
    rng = np.random.default_rng(1)
    usual = network.forward(rng.uniform(-1, 1, (20000, 60)))[:, 0]
    query = at_least(network, [-1.0] * 60, [1.0] * 60, float(usual.max()) + 4.0)
    x = Falsifier(FalsifierSettings(most=20.0)).run(query, Deadline.after(200.0))
    assert x is not None
    assert replay(query, x).exact


@pytest.mark.parametrize("name", ["curved: silu spelled out", "curved: attention", "curved: share", "jumps: choice"])
def test_bounds_of_outputs_are_decided(name: str) -> None:
    network = verifier.load(GRAPHS[name].model(18, "float64"))
    rng = np.random.default_rng(0)
    centre = rng.normal(size=network.input_size)
    low, high = centre.copy(), centre.copy()
    low[:2], high[:2] = centre[:2] - 0.2, centre[:2] + 0.2
    sampled = network.forward(rng.uniform(low, high, (2000, network.input_size))).reshape(2000, -1)[:, 0]
    most, width = float(sampled.max()), float(np.ptp(sampled)) + 1e-3
    above = verifier.verify(at_least(network, low.tolist(), high.tolist(), most + width), timeout=30)
    below = verifier.verify(at_least(network, low.tolist(), high.tolist(), most - 0.2 * width), timeout=30)
    assert (above.status, below.status) == (Status.HOLDS, Status.VIOLATED)


def test_everything_else_refuses_by_name() -> None:
    network = binarised(2, 3)
    query = at_least(network, [0, 0], [1, 1], 1.0)
    with pytest.raises(EngineError, match="'z3' cannot take this query: Sign"):
        verifier.verify(query, engine="z3")
    verdict = verifier.verify(at_least(network, [0, 0], [1, 1], 4.5), proof=True, timeout=20)
    assert (verdict.status, verdict.proof) == (Status.HOLDS, None)
    with pytest.raises(UnsupportedOperatorError):
        verifier.line(network, [0, 0], [1, 1])


def test_inspect_says_all_that_an_engine_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx

    from verifier.cli import main

    def write(b: Builder) -> str:
        z = b.op("Tanh", b.op("Sign", b.op("MatMul", b.x(1, 3), b.numbers(3, 2))))
        return str(b.op("Mul", z, b.op("ReduceMax", z, axes=[1])))

    onnx.save_model(Graph(write).model(13), tmp_path / "net.onnx")
    assert main(["inspect", str(tmp_path / "net.onnx")]) == 0
    (line,) = [text for text in capsys.readouterr().out.splitlines() if text.strip().startswith("z3")]
    assert all(word in line for word in ("Sign (node", "Tanh (node", "Product (node"))


def test_a_function_that_may_leave_its_domain_is_unknown() -> None:
    builder = NetworkBuilder((1,))  # 1 / (relu(x) - relu(x) + 1/2), of which intervals know too little
    builder.add(Dense(np.ones((2, 1)), np.zeros(2)))
    builder.add(relu())
    builder.add(Dense(np.array([[1.0, -1.0]]), np.array([0.5])))
    builder.add(Smooth("Reciprocal"))
    verdict = verifier.verify(at_least(builder.build(), [-1.0], [1.0], 3.0), timeout=5)
    assert verdict.status is Status.UNKNOWN
    assert "argument of Reciprocal may be 0" in verdict.reason
    pole = NetworkBuilder((1,))
    pole.add(Smooth("Reciprocal"))
    assert not replay(at_least(pole.build(), [-1.0], [1.0], 3.0), np.array([0.0])).exact


def test_jumps_that_no_point_of_the_box_reaches_have_no_slope() -> None:
    builder = NetworkBuilder((2,))
    builder.add(Dense(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0.0, 5.0])))
    builder.add(sign())
    builder.add(Dense(np.ones((1, 2)), np.zeros(1)))
    query = at_least(builder.build(), [-1.0, -1.0], [1.0, 1.0], 2.0)
    x = np.array([[0.5, 0.5], [-0.5, 0.25]])
    assert query.network.gradient(x, 0).all()
    assert (in_box(query).network.gradient(x, 0) != 0).tolist() == [[True, False]] * 2
    assert (in_box(query).network.forward(x) == query.network.forward(x)).all()


def test_in_small_boxes_the_search_climbs_higher_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(seed: int) -> float:
        network = binarised(200, 100, seed)
        centre = np.random.default_rng(seed).normal(size=200)
        query = at_least(network, (centre - 0.02).tolist(), (centre + 0.02).tolist(), 1000.0)
        batches = jumps.climbs(query, 4, np.random.default_rng(0))
        return max(float(margin.max()) for _, (_, margin) in zip(range(120), batches, strict=False))

    higher = [reached(seed) for seed in range(4)]
    monkeypatch.setattr(jumps, "in_box", lambda query: query)
    assert sum(higher) > sum(reached(seed) for seed in range(4)) + 10


def test_a_staircase_lies_between_its_lines_within_one_step() -> None:
    operator, rng = rounding(2.0**-5, -100, 155), np.random.default_rng(0)
    assert [operator.forward(np.array(v)).item() for v in (1 / 64, 3 / 64, -1 / 64, 9.0, -9.0)] == [0, 2, 0, 155, -100]
    low = np.round(rng.uniform(-4, 6, (1, 400)) * 64) / 64
    high = low + np.concatenate([np.zeros(100), 10.0 ** rng.uniform(-3, 1, 300)])
    lines = StepRelaxation().linear(operator, (400,), low, high)
    least, most = StepRelaxation().range(operator, (400,), low, high)
    for share in np.linspace(0, 1, 101):
        x = np.clip(low + share * (high - low), low, high)
        x = np.where(rng.random(x.shape) < 0.5, x, np.clip(np.round(x * 64) / 64, low, high))  # at jumps, too
        y = operator.forward(x)
        assert (lines.lower_slope * x + lines.lower_intercept <= y).all()
        assert (y <= lines.upper_slope * x + lines.upper_intercept).all()
        assert ((least <= y) & (y <= most)).all()
    middle = (low + high) / 2
    gap = (lines.upper_slope - lines.lower_slope) * middle + lines.upper_intercept - lines.lower_intercept
    assert (gap[(low > -3) & (high < 4.5)] < 1 + 1e-9).all()  # the height of one step
    assert (least == most)[low == high].all()


@pytest.mark.parametrize("share", [0.9, 1.1])
def test_a_quantised_network_is_decided(share: float) -> None:
    rng = np.random.default_rng(0)
    builder = NetworkBuilder((2,))
    builder.add(Dense(rng.normal(size=(4, 2)), rng.normal(size=4)))
    builder.add(rounding(0.25, -8, 7))
    builder.add(Dense(rng.normal(size=(1, 4)), np.zeros(1)))
    network, box = builder.build(), Box(np.zeros(2), np.ones(2))
    most = float(network.forward(box.sample(4000, rng)).max())
    row = Conjunction(y_rows=np.array([[-1.0]]), bound=np.array([-share * most]))
    verdict = verifier.verify(Query(network=network, box=box, disjuncts=(row,)), timeout=60)
    assert verdict.status is (Status.VIOLATED if share < 1 else Status.HOLDS)
