"""Some random cases of every edge kind against exact truth; ``--edge-cases`` sets how many (nightly: thousands)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from edge_kinds.kind import Kind, Outcome, all_kinds

MOST, SECONDS = 200, 8.0
"""Cases of a kind, and CPU seconds that a kind may take, if `--edge-cases` does not say how many."""


@pytest.mark.parametrize("kind", all_kinds(), ids=lambda kind: kind.name)
def test_no_wrong_answer(kind: Kind, request: pytest.FixtureRequest) -> None:
    cases = request.config.getoption("--edge-cases") or min(MOST, round(SECONDS / kind.cost))
    trials = [(seed, trial) for seed in range(cases) for trial in kind.run(seed)]
    assert len(trials) >= cases, "a case was put to nobody"
    wrong = [f"seed {s}, {t.engine}: {t.detail}" for s, t in trials if t.outcome is Outcome.WRONG]
    assert not wrong
    assert any(t.outcome is Outcome.RIGHT for _, t in trials)
