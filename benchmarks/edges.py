"""Questions at the edges of what numbers can say, thousands of them, against exact truth: wrong, undecided, time.

python benchmarks/edges.py [--cases 10000] [--kind NAME ...] [--first SEED] [--workers N]       writes benchmarks/results/edges.md

The cases are shared evenly among the kinds of ``edge_kinds/``. A wrong answer ends the run with exit code 1 and prints
what is needed to ask again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from statistics import median

from common import RESULTS, machine, table
from edge_kinds.kind import Kind, Outcome, all_kinds

from verifier.files import write_text

HEADER = ["kind", "engine", "cases", "right", "wrong", "undecided", "median s", "worst s"]


def run(kind: Kind, seeds: range) -> list[list[object]]:
    """The rows of one kind: for each engine how often it was right, wrong and undecided, and its times."""
    counts: dict[str, Counter[Outcome]] = defaultdict(Counter)
    times: dict[str, list[float]] = defaultdict(list)
    for seed in seeds:
        for trial in kind.run(seed):
            counts[trial.engine][trial.outcome] += 1
            times[trial.engine].append(trial.seconds)
            if trial.outcome is not Outcome.RIGHT:
                print(f"{kind.name}, seed {seed}, {trial.engine}: {trial.outcome.value}: {trial.detail}", flush=True)
    rows = []
    for engine, found in counts.items():
        took = times[engine]
        rows.append(
            [kind.name, engine, sum(found.values()), found[Outcome.RIGHT], found[Outcome.WRONG],
             found[Outcome.UNDECIDED], f"{median(took):.3f}", f"{max(took):.2f}"]
        )  # fmt: skip
    return rows


def run_named(name: str, first: int, each: int) -> list[list[object]]:
    """`run` for a kind by its name, in a process of its own."""
    return run(next(kind for kind in all_kinds() if kind.name == name), range(first, first + each))


def report(kinds: list[Kind], rows: list[list[object]], each: int, command: str) -> str:
    """The table, of the kinds that are done."""
    done = {str(row[0]) for row in rows}
    wrong = sum(int(str(row[4])) for row in rows)
    rest = [kind.name for kind in kinds if kind.name not in done]
    return (
        f"# Edge cases against exact truth\n\nWritten by `{command}`; {machine()}.\n"
        f"{each} cases of each kind, {each * len(done)} in all; **{wrong} wrong answers**.\n"
        + (f"Not done: {', '.join(rest)}.\n" if rest else "")
        + "\n"
        + table(HEADER, sorted(rows, key=lambda row: [kind.name for kind in kinds].index(str(row[0]))))
        + "\n"
        + "".join(f"- **{kind.name}**: {kind.what}\n" for kind in kinds if kind.name in done)
    )


def main() -> None:
    """Run the kinds that the command line names, and write the table after each of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="over all kinds together (10000)")
    parser.add_argument("--kind", action="append", help="only kinds whose name contains this")
    parser.add_argument("--first", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--workers", type=int, default=1, help="kinds that run side by side (1)")
    args = parser.parse_args()
    kinds = [k for k in all_kinds() if args.kind is None or any(word in k.name for word in args.kind)]
    if not kinds:
        parser.error(f"no kind is named so; there are: {', '.join(k.name for k in all_kinds())}")
    each = -(-args.cases // len(kinds))
    rows: list[list[object]] = []
    with ProcessPoolExecutor(args.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        tasks = [pool.submit(run_named, kind.name, args.first, each) for kind in kinds]
        for task in as_completed(tasks):
            rows += task.result()
            text = report(kinds, rows, each, f"benchmarks/edges.py --cases {args.cases}")
            if args.kind is None:
                write_text(RESULTS / "edges.md", text)
    print(text)
    sys.exit(1 if any(int(str(row[4])) for row in rows) else 0)


if __name__ == "__main__":
    main()
