"""Edge kinds must notice what they guard: with the allowance for rounding taken out of a backend, they report wrong answers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from edge_kinds import paths, structured
from edge_kinds.kind import Outcome

from verifier.bab import LeafAnswer, Verdict
from verifier.bounds.structured import backward, condense
from verifier.engines.native.subproblem_search import SubproblemSearch


@pytest.mark.parametrize(("module", "engine"), [(condense, "condensed"), (backward, "windows")])
def test_bounds_without_their_slack_are_caught(module: object, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (kind,) = (k for k in structured.KINDS if "differences" in k.name)
    monkeypatch.setattr(module, "gamma", lambda *_: 0.0)
    trials = [trial for seed in range(40) for trial in kind.run(seed) if trial.engine == engine]
    assert any(trial.outcome is Outcome.WRONG for trial in trials)


def test_a_leaf_that_is_called_refuted_without_being_so_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    (kind,) = (k for k in paths.KINDS if "native" in k.name)
    chosen = {name: how for name, how in paths.NATIVE.items() if name.startswith("condensed")}
    monkeypatch.setattr(paths, "NATIVE", chosen)
    monkeypatch.setattr(SubproblemSearch, "_exactly", lambda *_: LeafAnswer(Verdict.REFUTED))
    trials = [trial for seed in range(8) for trial in kind.run(seed)]
    assert any(trial.outcome is Outcome.WRONG for trial in trials)
