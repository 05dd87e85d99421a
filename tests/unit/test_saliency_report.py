"""The saliency tables: the paper's figures cover its regions, and the committed report is what the journal gives."""

from __future__ import annotations

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import saliency  # noqa: E402
import saliency_common  # noqa: E402
import saliency_paper  # noqa: E402


def test_the_paper_has_ten_of_the_eleven_regions() -> None:
    named = {(name, epsilon) for (_, epsilon), name in saliency_paper.REGIONS.items()}
    assert len(named) == 10
    assert set(saliency_paper.TABLE_2) == set(saliency_paper.TABLE_3) == named
    assert {*saliency_paper.REGIONS, saliency_paper.LEFT_OUT} == set(saliency_common.REGIONS)
    assert len(saliency_common.REGIONS) == 11


def test_the_committed_report_is_the_journal_s() -> None:
    assert (BENCHMARKS / "results" / "saliency.md").read_text() == saliency.text(saliency_common.journal())


def test_ours_stand_beside_the_paper_s_table_2() -> None:
    text = saliency.text(saliency_common.journal())
    row = next(line for line in text.splitlines() if line.startswith("| 1/0.03 | x2 | 1m34s UNSAT |"))
    assert "(600)" in row.split("|")[4]  # Marabou's ten minutes
    assert row.split("|")[5].strip().startswith("UNSAT")
