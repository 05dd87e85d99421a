"""Questions at the edges of what numbers can say, thousands of them, against exact truth: wrong, undecided, time.

python benchmarks/edges.py [--cases 10000] [--kind NAME ...] [--first SEED]       writes benchmarks/results/edges.md

The cases are shared evenly among the kinds of ``edge_kinds/``. A wrong answer ends the run with exit code 1 and prints
what is needed to ask again.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from statistics import median

from common import RESULTS, machine, table
from edge_kinds.kind import Kind, Outcome, all_kinds


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


def main() -> None:
    """Run the kinds that the command line names, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="over all kinds together (10000)")
    parser.add_argument("--kind", action="append", help="only kinds whose name contains this")
    parser.add_argument("--first", type=int, default=0, help="the first seed (0)")
    args = parser.parse_args()
    kinds = [k for k in all_kinds() if args.kind is None or any(word in k.name for word in args.kind)]
    if not kinds:
        parser.error(f"no kind is named so; there are: {', '.join(k.name for k in all_kinds())}")
    each = -(-args.cases // len(kinds))
    rows = []
    for kind in kinds:
        rows += run(kind, range(args.first, args.first + each))
        print(table(["kind", "engine", "cases", "right", "wrong", "undecided", "median s", "worst s"], rows[-1:]))
    wrong = sum(int(str(row[4])) for row in rows)
    text = (
        f"# Edge cases against exact truth\n\nWritten by `benchmarks/edges.py --cases {args.cases}`; {machine()}.\n"
        f"{each} cases of each kind, {each * len(kinds)} in all; **{wrong} wrong answers**.\n\n"
        + table(["kind", "engine", "cases", "right", "wrong", "undecided", "median s", "worst s"], rows)
        + "\n"
        + "".join(f"- **{kind.name}**: {kind.what}\n" for kind in kinds)
    )
    if args.kind is None:
        (RESULTS / "edges.md").write_text(text, encoding="utf-8")
    print(text)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
