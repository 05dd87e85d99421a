"""Every engine of the registry on the corpus: it agrees with the enumeration, or says UNKNOWN."""

from __future__ import annotations

import pytest
from corpus_cases import Case, cases, line
from corpus_oracle import verdicts

from verifier.engines.base import Answer, Engine
from verifier.engines.process import solve_in_child
from verifier.engines.registry import ENGINES, get
from verifier.falsify.replay import replay
from verifier.limits import Deadline
from verifier.options import Options

SHARE = {"highs": 3, "marabou": 15, "z3": 6, "cvc5": 10, "yices": 4}
"""Of so many cases one is run here (all of them in ``benchmarks/corpus.py``); others: one of four."""

GROUPS = 4


def _engine(name: str) -> Engine:
    engine = get(name)
    availability = engine.availability()
    if not availability.installed:
        pytest.skip(f"engine {name}: {availability.detail}")
    return engine


def ask(engine: Engine, case: Case, *, propagate: bool = False) -> tuple[str, str]:
    """The engine's answer to a case, with its reason; Marabou can crash or hang, so it gets a process."""
    deadline, options = Deadline.after(10.0), Options(timeout=10.0, propagate=propagate)
    if engine.name == "marabou":
        result = solve_in_child(engine, case.query, options, deadline)
    else:
        result = engine.solve(case.query, options, deadline)
    if result.answer is Answer.SAT:
        assert result.x is not None
        assert replay(case.query, result.x).exact, f"{engine.name} proposes a point that is no witness of {case.name}"
    return result.answer.value, result.reason


@pytest.mark.parametrize("group", range(GROUPS))
@pytest.mark.parametrize("name", list(ENGINES))
def test_engine_agrees_with_the_enumeration(name: str, group: int) -> None:
    engine = _engine(name)
    decided, asked, wrong = 0, 0, []
    for case in cases()[group :: GROUPS * SHARE.get(name, 4)]:
        if engine.rejects(case.query.network, case.query):
            continue
        answer, reason = ask(engine, case)
        asked += 1
        decided += answer == case.verdict
        if answer not in (case.verdict, "unknown", "timeout"):
            wrong.append(f"{case.name}: {answer} ({reason}), truth {case.verdict}")
    assert not wrong
    if asked:
        assert decided >= 0.7 * asked, f"{name} decided only {decided} of {asked}"


@pytest.mark.parametrize(("name", "step"), [("highs", 3), ("yices", 5), ("z3", 12), ("marabou", 60)])
def test_no_witness_is_lost_by_propagated_phases(name: str, step: int) -> None:
    engine = _engine(name)
    saliency = [case for case in cases() if case.kind == "saliency"]
    wrong, decided = [], 0
    for case in saliency[::step]:
        answer, reason = ask(engine, case, propagate=True)
        decided += answer == case.verdict
        if answer not in (case.verdict, "unknown", "timeout"):
            wrong.append(f"{case.name}: {answer} ({reason}), truth {case.verdict}")
    assert not wrong
    assert decided >= 0.7 * len(saliency[::step])


@pytest.mark.parametrize("index", [3, 4, 12, 27, 59, 77, 112, 137, 186, 227, 256, 300, 341, 385, 420, 467])
def test_stored_verdicts_are_those_of_the_enumeration(index: int) -> None:
    case = cases()[index]
    assert (case.verdict, case.closed_verdict) == verdicts(case.query)


def test_a_line_says_all_of_its_case() -> None:
    """Writing what was read gives the same line, so nothing of a query is lost in the file."""
    for case in cases():
        assert line(case.name, case.query, (case.verdict, case.closed_verdict)) == case.line, case.name


def test_no_sampled_point_contradicts_a_stored_verdict() -> None:
    """Independent of any solver: where a sampled point is a witness by exact replay, the verdict is "sat"."""
    import numpy as np

    rng, found = np.random.default_rng(0), 0
    for case in cases()[::3]:
        query = case.query
        points = np.concatenate(
            [query.box.sample(50, rng), query.box.lower[None], query.box.upper[None], query.start[None]]
        )
        for x in points[query.holds(points)][:1]:
            if replay(query, x).exact:
                found += 1
                assert case.verdict == "sat", case.name
    assert found > 50


def test_the_corpus_is_what_it_claims_to_be() -> None:
    everything = cases()
    assert len(everything) >= 480
    assert len({c.name for c in everything}) == len({c.line.partition(",")[2] for c in everything}) == len(everything)
    assert all(c.query.network.neurons <= 12 for c in everything)
    verdicts = [c.verdict for c in everything]
    assert min(verdicts.count("sat"), verdicts.count("unsat")) > 150
    assert any(c.verdict != c.closed_verdict for c in everything)
    assert sum(bool((c.query.box.width < 1e-5).any()) for c in everything) > 30
    on_kink = 0
    for case in everything:
        query = case.query
        for z in query.network.preactivations(query.start).values():
            on_kink += bool((z == 0).any())
    assert on_kink > 100
