"""The way from a query to a verdict, with engines that are right, wrong, and broken."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

import verifier
from verifier.engines import registry
from verifier.engines.base import Availability
from verifier.errors import EngineError, InputError
from verifier.events import Event, Progress, StageStarted
from verifier.network.graph import NetworkBuilder, feedforward
from verifier.network.operators import Operator
from verifier.properties.query import Query
from verifier.verdict import Certainty, Status

ENGINES = Path(__file__).parents[1] / "engines"


def query(violated: bool) -> Query:
    """(relu(x₀) + relu(x₁), 1) around (1, 1): label 0 is lost where x₀ + x₁ <= 1."""
    network = feedforward([np.eye(2), [[1.0, 1.0], [0.0, 0.0]]], [np.zeros(2), [0.0, 1.0]])
    return verifier.robustness(network, np.ones(2), 0.75 if violated else 0.25, domain=None)


@pytest.fixture(autouse=True)
def engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The misbehaving engines under their own names, beside the real ones."""
    monkeypatch.syspath_prepend(str(ENGINES))
    import misbehaving

    kinds = [k for k in vars(misbehaving).values() if isinstance(k, type) and "name" in vars(k)]
    named = {k.name: f"misbehaving:{k.__name__}" for k in kinds}
    monkeypatch.setattr(registry, "ENGINES", {**registry.ENGINES, **named})


def ask(violated: bool, engine: str, **options: object) -> verifier.Verdict:
    return verifier.verify(query(violated), engine, 20, prepass=False, **options)


def test_proved_and_refuted() -> None:
    holds, violated = ask(False, "right"), ask(True, "right")
    assert holds.status is Status.HOLDS
    assert holds.certainty is Certainty.NUMERICAL
    assert violated.status is Status.VIOLATED
    assert violated.witness.exact
    assert query(True).holds(violated.witness.input[None])[0]
    assert violated.engine == "right"
    assert violated.stage == "solve"
    assert {"solve", "replay", "total"} <= set(violated.times)


def test_a_counterexample_that_the_replay_refuses_is_unknown() -> None:
    verdict = ask(True, "says-center")
    assert verdict.status is Status.UNKNOWN
    assert verdict.witness is None
    assert verdict.unconfirmed.input.tolist() == [1.0, 1.0]
    assert "replay" in verdict.reason


@pytest.mark.parametrize(
    ("engine", "status"),
    [
        ("says-unknown", Status.UNKNOWN),
        ("raises", Status.ERROR),
        ("aborts", Status.ERROR),
        ("segfaults", Status.ERROR),
        ("exits", Status.ERROR),
        ("says-true", Status.ERROR),
        ("says-nan", Status.ERROR),
        ("says-unsat-bare", Status.ERROR),
    ],
)
def test_failures_never_hold(engine: str, status: Status, tmp_path: Path) -> None:
    verdict = ask(False, engine, reproducers=tmp_path)
    assert verdict.status is status
    assert verdict.reason
    kept, _ = pickle.loads(verdict.reproducer.read_bytes())
    assert kept.box.lower.tolist() == query(False).box.lower.tolist()
    text = (verdict.reproducer.parent / "property.vnnlib").read_text()
    assert "X_1" in text
    assert "(assert" in (verdict.reproducer.parent / "query.smt2").read_text()
    assert verifier.load(verdict.reproducer.parent / "network.onnx").input_size == 2


def test_a_hanging_engine_is_a_timeout() -> None:
    verdict = verifier.verify(query(False), "hangs", 1.0, prepass=False)
    assert verdict.status is Status.TIMEOUT


def test_in_process_engines_fail_in_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    import misbehaving

    for name in ("Raises", "SaysTrue", "SaysUnsatBare", "Right"):
        monkeypatch.setattr(getattr(misbehaving, name), "isolated", False)
    for name in ("raises", "says-true", "says-unsat-bare"):
        assert ask(False, name).status is Status.ERROR
    assert ask(False, "right").status is Status.HOLDS


# -- portfolios ------------------------------------------------------------------------------------------
def test_the_first_decided_answer_wins_over_hanging_and_broken_engines() -> None:
    verdict = ask(True, "hangs,aborts,says-unknown,says-center,right")
    assert verdict.status is Status.VIOLATED
    assert verdict.engine == "right"
    assert verdict.times["total"] < 15


def test_a_disagreement_is_an_error_with_both_sides(tmp_path: Path) -> None:
    verdict = ask(True, "says-unsat,right", compare=True, reproducers=tmp_path)
    assert verdict.status is Status.ERROR
    assert "DISAGREE" in verdict.reason
    assert "says-unsat" in verdict.reason
    assert "right" in verdict.reason
    assert verdict.unconfirmed.exact
    assert verdict.reproducer.exists()


def test_a_proof_stands_beside_a_refused_counterexample() -> None:
    verdict = ask(False, "says-center,right", compare=True)
    assert verdict.status is Status.HOLDS
    assert any("did not confirm" in note for note in verdict.notes)


def test_compare_lets_all_finish() -> None:
    verdict = ask(False, "right,says-unsat,says-unknown", compare=True)
    assert verdict.status is Status.HOLDS
    assert {answer.engine for answer in verdict.answers} == {"right", "says-unsat", "says-unknown"}


def test_a_portfolio_of_failures_says_why() -> None:
    verdict = ask(False, "aborts,says-unknown")
    assert verdict.status is Status.ERROR
    assert "SIGABRT" in verdict.reason


# -- choice ----------------------------------------------------------------------------------------------
def test_unknown_and_missing_engines_are_errors_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    import misbehaving

    with pytest.raises(EngineError, match="no engine 'cplex'"):
        ask(True, "cplex")
    with pytest.raises(EngineError, match="no engine is named"):
        ask(True, " , ")
    with pytest.raises(InputError):
        verifier.verify(query(True), "right", -1)
    monkeypatch.setattr(misbehaving.Right, "availability", lambda self: Availability(False, "pip install right"))
    with pytest.raises(EngineError, match="pip install right"):
        ask(True, "right")


@pytest.mark.parametrize("name", list(registry.ENGINES))
def test_what_nobody_has_thought_of_is_refused(name: str) -> None:
    engine = registry.get(name)

    class Unheard(Query):
        @property
        def features(self) -> frozenset[str]:
            return super().features | {"products of outputs"}

    asked = query(True)
    unheard = Unheard(network=asked.network, box=asked.box, disjuncts=asked.disjuncts)
    assert "products of outputs" in engine.rejects(asked.network, unheard)

    class Sine(Operator):
        def output_shape(self, *shapes: tuple[int, ...]) -> tuple[int, ...]:
            return shapes[0]

        def forward(self, *inputs: np.ndarray) -> np.ndarray:
            return np.sin(inputs[0])

    builder = NetworkBuilder((1,))
    builder.add(Sine(), name="wave")
    assert "Sine (node 'wave')" in engine.rejects(builder.build())


def test_auto_follows_the_rules_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = (
        registry.Rule("says-true", "for gradients", gradient=True),
        registry.Rule("raises", "for a single input", max_inputs=1),
        registry.Rule("right", "for the rest"),
    )
    monkeypatch.setattr(registry, "RULES", rules)
    choice = registry.choose(query(True), verifier.Options())
    assert choice.engine.name == "right"
    assert "for the rest" in choice.reason
    monkeypatch.setattr(registry, "RULES", rules[:2])
    with pytest.raises(EngineError, match="no installed engine"):
        registry.choose(query(True), verifier.Options())


# -- the package -----------------------------------------------------------------------------------------
def test_events_come_in_order() -> None:
    seen: list[Event] = []
    verifier.verify(query(True), "right", 20, listener=seen.append)
    stages = [event.stage for event in seen if isinstance(event, StageStarted)]
    assert stages[0] == "search"
    assert all(event.seconds >= 0 for event in seen)


def test_public_names_exist() -> None:
    for name in verifier.__all__:
        assert getattr(verifier, name) is not None
    assert set(verifier.__all__) == set(verifier._WHERE)
    with pytest.raises(AttributeError):
        verifier.no_such_name


def test_importing_the_package_imports_nothing_heavy() -> None:
    import subprocess

    code = "import sys, verifier; print(sorted(set(sys.modules) & {'numpy', 'torch', 'onnx', 'scipy', 'z3'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_bounds_that_do_not_exist_are_refused() -> None:
    with pytest.raises(InputError, match="zonotope"):
        verifier.verify(query(True), "right", 20, bounds="zonotope")


def test_progress_is_told_while_a_child_works() -> None:
    seen: list[Event] = []
    verifier.verify(query(False), "hangs", 2.5, prepass=False, listener=seen.append)
    assert [event.done for event in seen if isinstance(event, Progress)][:2] == [1, 2]
