"""The solver engines: status tables, known traps of the solvers, time limits, the published BanditNet."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from verifier.encodings.marabou import Equation, MarabouQuery, marabou_query
from verifier.encodings.model import Disjunction, Model
from verifier.engines.base import Answer, Engine
from verifier.engines.highs_engine import HighsEngine
from verifier.engines.marabou_engine import MarabouEngine
from verifier.engines.process import solve_in_child
from verifier.engines.smtlib_engine import Cvc5Engine, YicesEngine, parse
from verifier.engines.z3_engine import Z3Engine
from verifier.errors import EngineError
from verifier.falsify.replay import replay
from verifier.limits import Deadline
from verifier.network.graph import Network, NetworkBuilder, feedforward
from verifier.network.operators import Dense, Scale
from verifier.network.piecewise import relu
from verifier.options import Options
from verifier.properties.builders import robustness, saliency_robustness
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import Query
from verifier.properties.sets import Box
from verifier.verdict import Certainty

ENGINES: list[Engine] = [Z3Engine(), HighsEngine(), MarabouEngine(), Cvc5Engine(), YicesEngine()]
EXACT = {"z3", "cvc5", "yices"}
every_engine = pytest.mark.parametrize("engine", ENGINES, ids=[e.name for e in ENGINES])


@pytest.fixture(autouse=True)
def _installed(request: pytest.FixtureRequest) -> None:
    if "engine" in request.fixturenames:
        availability = request.getfixturevalue("engine").availability()
        if not availability.installed:
            pytest.skip(availability.detail)


def random_network(sizes: list[int], seed: int) -> Network:
    rng = np.random.default_rng(seed)
    pairs = list(itertools.pairwise(sizes))
    return feedforward(
        [rng.normal(size=(b, a)) / np.sqrt(a) for a, b in pairs], [rng.normal(size=b) * 0.3 for _, b in pairs]
    )


def ask(engine: Engine, query: Query, seconds: float = 30.0, **options: object) -> tuple[Answer, Certainty | None]:
    """The engine's answer; Marabou can crash or hang, so it gets a process of its own."""
    settings = Options(timeout=seconds, **options)  # type: ignore[arg-type]
    if engine.name == "marabou":
        result = solve_in_child(engine, query, settings, Deadline.after(seconds))
    else:
        result = engine.solve(query, settings, Deadline.after(seconds))
    if result.answer is Answer.SAT:
        assert result.x is not None
        assert replay(query, result.x).exact
    return result.answer, result.certainty


@every_engine
def test_an_unknown_status_raises(engine: Engine) -> None:
    with pytest.raises(EngineError, match="unknown status"):
        engine.answer("surely")  # type: ignore[attr-defined]


@every_engine
def test_no_status_but_unsat_means_unsat(engine: Engine) -> None:
    meanings = engine.STATUS_MAP  # type: ignore[attr-defined]
    assert [s for s, a in meanings.items() if a is Answer.UNSAT] in (["unsat"], ["kInfeasible"])


def test_every_status_of_highs_is_in_the_table() -> None:
    import highspy

    installed = {s for s in dir(highspy.HighsModelStatus) if s.startswith("k")}
    assert len(installed) > 10
    assert installed <= set(HighsEngine.STATUS_MAP), "a version may lack some"


@every_engine
def test_the_published_bandit_network(engine: Engine, shared_data: Path) -> None:
    """Le et al., ACML 2023, table 1, on the weights that the authors published."""
    import torch

    state = torch.load(shared_data / "bandit" / "BanditNet.pth", map_location="cpu", weights_only=True)
    weights = [v.numpy() for k, v in state.items() if "weight" in k]
    network = feedforward(weights, [v.numpy() for k, v in state.items() if "bias" in k])
    for delta, expected in (
        (0.5, Answer.UNSAT),
        (0.75, Answer.UNSAT),
        (1.0, Answer.UNSAT),
        (1.25, Answer.SAT),
        (1.5, Answer.SAT),
    ):
        query = saliency_robustness(network, [1, 1, 0, 1, 1], epsilon=1.0, delta=delta)
        answer, certainty = ask(engine, query)
        assert answer is expected
        if answer is Answer.UNSAT:
            assert certainty is (Certainty.EXACT if engine.name in EXACT else Certainty.NUMERICAL)


@every_engine
def test_a_time_limit_is_never_unsat(engine: Engine) -> None:
    """A query far too hard for the time given: three hidden layers of 60, large box."""
    query = saliency_robustness(random_network([20, 60, 60, 60, 3], 1), np.full(20, 0.5), epsilon=0.5, delta=0.3)
    answer, _ = ask(engine, query, seconds=1.0, bounds="interval")
    assert answer in (Answer.TIMEOUT, Answer.UNKNOWN, Answer.SAT)


@every_engine
def test_a_witness_only_on_the_boundary_is_not_lost(engine: Engine) -> None:
    """max(y) over the box is reached at one corner, exactly at the threshold."""
    network = feedforward([[[1.0, 0.5], [-0.25, 1.0]], [[1.0, 0.75]]], [[0.0, 0.25], [0.0]])
    best = float(network.forward([1.0, 1.0])[0])
    box = Box(np.zeros(2), np.ones(2))
    for threshold, expected in ((best, Answer.SAT), (best + 0.01, Answer.UNSAT)):
        query = Query(
            network=network, box=box, disjuncts=(Conjunction(y_rows=-np.ones((1, 1)), bound=np.array([-threshold])),)
        )
        assert ask(engine, query)[0] is expected


@every_engine
def test_strict_rows_are_strict(engine: Engine) -> None:
    """x < 1 with x >= 1 has no solution, though it has one when closed."""
    network = feedforward([[[1.0]], [[1.0]]], [[0.0], [0.0]])
    row = Conjunction(y_rows=np.array([[1.0], [-1.0]]), bound=np.array([1.0, -1.0]), strict=np.array([True, False]))
    query = Query(network=network, box=Box(np.zeros(1), np.full(1, 2.0)), disjuncts=(row,))
    answer, _ = ask(engine, query)
    assert answer in ((Answer.UNSAT,) if engine.name in EXACT else (Answer.UNSAT, Answer.UNKNOWN))


@pytest.mark.parametrize("engine", [MarabouEngine(), HighsEngine()], ids=["marabou", "highs"])
def test_narrow_boxes_are_not_taken_for_points(engine: Engine) -> None:
    """Half-width 4e-6 with a change of label inside: Marabou alone answers unsat, taking inputs for constants."""
    for seed in range(4):
        network = random_network([5, 6, 6, 2], seed)
        x = np.full(5, 0.5)
        difference = np.array([1.0, -1.0])
        lead = float(difference @ network.forward(x))
        reach = 4e-6 * float(np.abs(network.gradient(x, difference)).sum())
        shift = np.array([reach / 2 - lead, 0.0])
        last = network.nodes[-1].operator
        weights = [n.operator.weight for n in network.nodes if hasattr(n.operator, "weight")]
        biases = [n.operator.bias for n in network.nodes if hasattr(n.operator, "bias")]
        biases[-1] = last.bias + shift  # type: ignore[attr-defined]
        network = feedforward(weights, biases)
        query = saliency_robustness(network, x, epsilon=4e-6, delta=1e-9, label=0)
        assert ask(engine, query)[0] is Answer.SAT
        far = feedforward(weights, [*biases[:-1], biases[-1] + np.array([reach, 0.0])])
        assert ask(engine, robustness(far, x, 4e-6, label=0))[0] is Answer.UNSAT


@pytest.mark.parametrize("engine", [MarabouEngine(), HighsEngine()], ids=["marabou", "highs"])
def test_boxes_below_all_tolerances_are_left_to_exact_engines(engine: Engine) -> None:
    query = robustness(random_network([2, 3, 2], 0), [0.5, 0.5], 1e-14)
    assert ask(engine, query)[0] is Answer.UNKNOWN


# -- what Marabou is never given ----------------------------------------------------------------------------------
def malformed() -> list[tuple[str, MarabouQuery]]:
    zero, one = [0.0, 0.0], [1.0, 1.0]
    nan = float("nan")
    return [
        ("bounds", MarabouQuery(zero, [1.0, float("inf")], [], [], [])),
        ("crossed", MarabouQuery([0.0, 2.0], one, [], [], [])),
        ("NaN", MarabouQuery(zero, one, [Equation("=", (0,), (nan,), 0.0)], [], [])),
        ("NaN", MarabouQuery(zero, one, [Equation("<=", (0,), (1.0,), nan)], [], [])),
        ("names variable", MarabouQuery(zero, one, [Equation("=", (2,), (1.0,), 0.0)], [], [])),
        ("without variables", MarabouQuery(zero, one, [Equation("=", (), (), 0.0)], [], [])),
        ("relu", MarabouQuery(zero, one, [], [(1, 1)], [])),
        ("relu", MarabouQuery(zero, one, [], [(0, 5)], [])),
        ("disjunction", MarabouQuery(zero, one, [], [], [[]])),
        ("disjunction", MarabouQuery(zero, one, [], [], [[[]]])),
    ]


@pytest.mark.parametrize(("problem", "query"), malformed())
def test_malformed_marabou_queries_are_refused(problem: str, query: MarabouQuery) -> None:
    with pytest.raises(EngineError, match=problem):
        query.check()


def test_an_unbounded_variable_is_an_error_of_the_engine() -> None:
    model = Model()
    model.add_variables(np.array([-np.inf]), np.array([0.0]))
    with pytest.raises(EngineError, match="bounds on every variable"):
        marabou_query(model).check()


def test_a_disjunction_without_a_possible_case_is_a_contradiction_not_a_call() -> None:
    from verifier.encodings.model import Atom

    model = Model()
    v = int(model.add_variables(np.ones(1), np.ones(1))[0])
    model.disjunctions.append(Disjunction([[Atom((v,), (1.0,), 2.0, 3.0)], [Atom((v,), (1.0,), 4.0, 5.0)]], "choices"))
    assert "no disjunct of choices" in marabou_query(model).contradiction


def test_answers_of_yices_are_read_exactly() -> None:
    from fractions import Fraction

    from verifier.engines.smtlib_engine import _value

    pairs = parse("((v0 (/ 1 3)) (v1 (- (/ 22 7))) (v2 0.5) (v3 (- 4)))")
    assert [_value(p[1]) for p in pairs] == [Fraction(1, 3), Fraction(-22, 7), Fraction(1, 2), Fraction(-4)]


def test_an_exact_proof_adds_constants_exactly() -> None:
    # y₁ = x + 1, which float64 takes for x: y₁ > 1.5 = y₀ where x > 0.5
    builder = NetworkBuilder((1,))
    for shift in (1e17, 1.0, -1e17):
        builder.add(Scale(np.ones(1), np.full(1, shift)))
    builder.add(relu())
    builder.add(Dense(np.array([[0.0], [1.0]]), np.array([1.5, 0.0])))
    query = robustness(builder.build(), [0.1], 0.9, label=0)
    result = Z3Engine().solve(query, Options(), Deadline.after(20))
    assert result.answer is Answer.SAT
    assert result.x is not None
    assert replay(query, result.x).exact
