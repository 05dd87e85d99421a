"""Several disjunctions side by side, very long ones, and conditions that nothing can meet."""

from __future__ import annotations

import resource
import time

import numpy as np
import pytest

from verifier import Status, verify
from verifier.engines import disjunctions
from verifier.engines.base import Answer
from verifier.engines.native import NativeEngine
from verifier.engines.native.settings import ExactSettings, NativeSettings
from verifier.limits import Deadline
from verifier.network.graph import Network, feedforward
from verifier.options import Options
from verifier.properties import vnnlib1
from verifier.properties.query import Query
from verifier.verdict import Certainty

DECLARED = "".join(f"(declare-const {v} Real)" for v in ("X_0", "X_1", "Y_0", "Y_1"))
BOX = "(assert (>= X_0 -1)) (assert (<= X_0 1)) (assert (>= X_1 -1)) (assert (<= X_1 1))"


def network(hidden: int = 6, seed: int = 0) -> Network:
    rng = np.random.default_rng(seed)
    return feedforward([rng.normal(size=(hidden, 2)), rng.normal(size=(2, hidden))], [np.zeros(hidden), np.zeros(2)])


def query(net: Network, condition: str, box: str = BOX) -> Query:
    return vnnlib1.parse(DECLARED + box + condition, net)


def twelve(apart: float) -> str:
    """Twelve asserts that y0 is high or low, over outputs in turn: 4,096 disjuncts if multiplied out."""
    return "".join(f"(assert (or (>= Y_{k % 2} {apart + k / 8}) (<= Y_{k % 2} {-apart - k / 8})))" for k in range(12))


def test_disjunctions_are_not_multiplied_out() -> None:
    asked = query(network(), twelve(1.0))
    assert len(asked.disjuncts) * np.prod([len(clause) for clause in asked.clauses]) >= 64
    assert len(asked.disjuncts) <= 64
    assert len(asked.parts) < 100
    verdict = verify(query(network(), twelve(9.0)), timeout=20, proof=True)
    assert verdict.status is Status.HOLDS
    assert verdict.proof is None
    assert "disjunctions side by side" in verdict.no_certificate


@pytest.mark.parametrize("hidden", [6, 60])
@pytest.mark.parametrize(("apart", "status"), [(9.0, Status.HOLDS), (0.01, None)])
def test_clauses_are_branched_on(apart: float, status: Status | None, hidden: int) -> None:
    """Half of the clauses speak of y0 and half of y1; the answer is that for the strictest of each."""
    net = network(hidden)
    strictest = "".join(
        f"(assert (or (>= Y_{k} {apart + (10 + k) / 8}) (<= Y_{k} {-apart - (10 + k) / 8})))" for k in (0, 1)
    )
    expected = verify(query(net, strictest), timeout=20).status
    assert expected.decided
    assert status in (None, expected)
    asked = query(net, twelve(apart))
    began = time.process_time()
    found = verify(asked, timeout=20)
    assert found.status is expected
    assert time.process_time() - began < 20
    result = disjunctions.solve(
        NativeEngine(NativeSettings(exact=ExactSettings.never())), asked, Options(), Deadline.after(20)
    )
    assert result.answer is (Answer.UNSAT if expected is Status.HOLDS else Answer.SAT)


def test_a_point_that_breaks_a_clause_is_no_witness() -> None:
    asked = query(network(), twelve(0.01))
    assert asked.clauses
    at_zero = np.zeros((1, 2))  # where both outputs are zero
    assert not asked.holds(at_zero)[0]
    assert asked.margins(at_zero)[0] < 0
    assert not asked.met_exactly([0, 0], [0, 0], None)  # type: ignore[list-item]


def test_written_and_read_again_they_are_the_same() -> None:
    asked = query(network(), twelve(0.5))
    again = vnnlib1.parse(vnnlib1.write(asked), network())
    points = np.random.default_rng(1).uniform(-1, 1, size=(200, 2))
    np.testing.assert_array_equal(asked.margins(points) >= 0, again.margins(points) >= 0)


def test_thousands_of_cases_take_little_memory_and_end_in_time() -> None:
    """They are given to engines in groups: all at once they would need a matrix of disjuncts times disjuncts."""
    parts = " ".join(f"(and (>= Y_0 {0.5 + k * 1e-3:.4f}) (<= Y_1 -{100 + k}))" for k in range(4000))
    asked = query(network(60), f"(assert (or {parts}))")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    verdict = verify(asked, timeout=2)
    assert verdict.status in (Status.HOLDS, Status.TIMEOUT)
    assert time.monotonic() - began < 2 + 5  # a second in an idle process; the tests' machine is shared
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


@pytest.mark.parametrize(
    ("box", "condition", "why"),
    [
        (BOX, "(assert (< Y_0 Y_0))", "0 < 0 is false"),
        (BOX, "(assert (or (< Y_0 Y_0) (<= 1 0)))", "in every disjunct"),
        ("(assert (>= X_0 1)) (assert (<= X_0 0.5))", "(assert (>= Y_0 0))", "X_0 would be at least 1 and at most 0.5"),
        ("(assert (>= X_0 1)) (assert (<= X_0 0.5))", "(assert (or (>= Y_0 0) (<= Y_0 0)))", "X_0"),
        (BOX, "(assert (or (>= X_0 2) (<= X_0 -2)))", "in every disjunct"),
        (BOX, "(assert (or (>= X_0 0.5) (<= X_0 -0.5))) (assert (or (<= X_0 -0.9) (>= X_0 3)))"
              "(assert (or (>= X_0 -0.1) (>= X_1 2)))", "in every disjunct"),
    ],
)  # fmt: skip
def test_what_nothing_can_meet_holds_with_a_note(box: str, condition: str, why: str) -> None:
    asked = query(network(), condition, box)
    assert why in asked.vacuous
    for engine in ("auto", "native"):
        verdict = verify(asked, engine=engine)
        assert verdict.status is Status.HOLDS
        assert verdict.certainty is Certainty.EXACT
        assert any(why in note for note in verdict.notes)
    assert NativeEngine().solve(asked, Options(), Deadline.after(5)).answer is Answer.UNSAT
