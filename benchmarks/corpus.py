"""Every engine on the whole corpus of tiny queries with exactly known verdicts: agree, unknown, wrong.

python benchmarks/corpus.py [ENGINE ...]        writes benchmarks/results/corpus.md
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "corpus"))

from common import RESULTS, machine, table
from corpus_cases import cases

from verifier.engines.base import Answer, Engine
from verifier.engines.process import solve_in_child
from verifier.engines.registry import ENGINES, get
from verifier.errors import EngineError
from verifier.falsify.replay import replay
from verifier.limits import Deadline
from verifier.options import Options

SECONDS = 10.0
"""Time limit per query."""

PROCESS = ("marabou",)
"""Engines that can crash or hang on a query and so get a process for each one here, as all foreign ones do in use."""


def run(engine: Engine) -> list[object]:
    """One row of the table: the engine's answers on all cases."""
    counts: Counter[str] = Counter()
    took = []
    for case in cases():
        if engine.rejects(case.query.network, case.query):
            counts["not taken"] += 1
            continue
        began = time.monotonic()
        options, deadline = Options(timeout=SECONDS), Deadline.after(SECONDS)
        if engine.name in PROCESS:
            result = solve_in_child(engine, case.query, options, deadline)
        else:
            result = engine.solve(case.query, options, deadline)
        took.append(time.monotonic() - began)
        answer = result.answer.value
        if result.answer is Answer.SAT and (result.x is None or not replay(case.query, result.x).exact):
            counts["wrong"] += 1
            print(f"{engine.name}: {case.name}: sat without a witness", flush=True)
        elif answer == case.verdict:
            counts[answer] += 1
        elif result.answer in (Answer.SAT, Answer.UNSAT):
            counts["wrong"] += 1
            print(f"{engine.name}: {case.name}: {answer}, truth {case.verdict}", flush=True)
        else:
            counts[answer] += 1
            print(f"{engine.name}: {case.name}: {answer} ({result.reason}), truth {case.verdict}", flush=True)
    took.sort()
    median = f"{took[len(took) // 2]:.3f}" if took else "–"
    worst = f"{took[-1]:.2f}" if took else "–"
    columns = ("unsat", "sat", "unknown", "timeout", "error", "not taken", "wrong")
    return [engine.name, *(counts[c] for c in columns), median, worst]


def main() -> None:
    """Run the engines that are named (all installed ones by default) and write the table."""
    names = sys.argv[1:] or list(ENGINES)
    rows = []
    for name in names:
        try:
            engine = get(name)
        except EngineError as error:
            print(f"{name}: {error}")
            continue
        if not engine.availability().installed:
            print(f"{name}: not installed ({engine.availability().detail})")
            continue
        rows.append(run(engine))
        print(rows[-1], flush=True)
    truth = Counter(c.verdict for c in cases())
    header = [
        "engine",
        "agree: unsat",
        "agree: sat",
        "unknown",
        "timeout",
        "error",
        "not taken",
        "wrong",
        "median s",
        "worst s",
    ]
    text = (
        "# The corpus: tiny queries with verdicts known by exact enumeration\n\n"
        f"{len(cases())} queries ({truth['unsat']} unsat, {truth['sat']} sat; up to 12 piecewise-linear neurons; "
        f"see tests/corpus/corpus_cases.py), {SECONDS:g} s each. Marabou runs in a child process per query, whose "
        "start is part of its time.\n\n"
        f"{machine()}\n\n" + table(header, rows)
    )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "corpus.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
