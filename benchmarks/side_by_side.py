"""Two checkouts of this program beside each other: the same questions, verdicts, subproblems and CPU times.

    git worktree add ../before REVISION; make -C ../before env
    OMP_NUM_THREADS=1 python benchmarks/side_by_side.py --before ../before [SET ...]

Each checkout answers in a process of its own (its own environment, one thread, compiled code read in before the first
question), question by question in turns, so that what else the machine does meets both alike. Writes every answer to results/side_by_side_journal.jsonl as it comes (a run
that was cut off goes on where it was) and the table to results/side_by_side.md.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
Task = list[Any]
"""A kind of question, and what tells it from others of its kind."""
VNNCOMP = {
    "acasxu": (1, 60),
    "rl_benchmarks": (1, 60),
    "tllverifybench": (1, 60),
    "reach_prob_density": (1, 60),
    "collins_rul_cnn": (1, 60),
    "mnist_fc": (1, 30),
    "oval21": (10, 60),
}
"""Category: every how many instances, seconds at most."""
COUNTS = ("boxes", "nodes", "regions", "linear programs")
"""An engine's statistics that count its work, the first that it has is compared."""


# -- one checkout's side ---------------------------------------------------------------------------------------------
def worker(checkout: Path) -> None:
    """Answer the tasks that come in as lines of JSON."""
    sys.path[0] = str(checkout / "benchmarks")
    sys.path.append(str(checkout / "tests" / "corpus"))
    answers, sys.stdout = sys.stdout, sys.stderr
    from verifier.compiled import SAMPLES

    for sample in SAMPLES.values():  # what reading in compiled code costs is measured elsewhere (`startup.py`)
        sample()
    for text in sys.stdin:
        kind, *what = json.loads(text)
        try:
            record = ASK[kind](*what)
        except Exception as error:  # a side that cannot answer says so; the other one is not stopped by it
            record = {"verdict": f"{type(error).__name__}: {error}", "cpu": 0.0}
        print(json.dumps(record), file=answers, flush=True)


def _deadline(seconds: float) -> Any:
    try:
        from verifier.limits import Deadline
    except ImportError:  # its place before
        from verifier.engines.base import Deadline  # type: ignore[attr-defined, no-redef]
    return Deadline.after(seconds)


def _solve(engine: Any, query: Any, seconds: float) -> dict[str, Any]:
    from verifier.options import Options

    began = time.process_time()
    result = engine.solve(query, Options(prepass=False), _deadline(seconds))
    cpu = time.process_time() - began
    counts = {key: value for key, value in result.statistics.items() if key in COUNTS}
    return {"verdict": result.answer.value, "counts": counts, "cpu": cpu}


def _vnncomp(category: str, row: int, seconds: float) -> dict[str, Any]:
    from common import data_folder  # type: ignore[import-not-found, unused-ignore]

    import verifier
    from verifier.engines.registry import get

    folder = data_folder() / "vnncomp" / category
    with open(folder / "instances.csv") as file:
        model, text, _ = list(csv.reader(file))[row][:3]
    paths = [folder / name if (folder / name).exists() else folder / f"{name}.gz" for name in (model, text)]
    network = verifier.load(paths[0])
    return _solve(get("native"), verifier.read_vnnlib(paths[1], network), seconds)


def _saliency(name: str, image: int, epsilon: str, delta: float, seconds: float) -> dict[str, Any]:
    from common import data_folder  # type: ignore[import-not-found, unused-ignore]
    from saliency_common import region_query  # type: ignore[import-not-found, unused-ignore]

    import verifier
    from verifier.engines.registry import get

    network = verifier.load(data_folder() / "vnncomp" / "mnist_fc" / "onnx" / f"mnist-net_{name}.onnx.gz")
    return _solve(get("saliency"), region_query(network, image, epsilon, delta), seconds)


def _corpus(engine: str, index: int) -> dict[str, Any]:
    import corpus_cases  # type: ignore[import-not-found, unused-ignore]

    from verifier.engines.registry import get

    query = corpus_cases.cases()[index].query
    asked = get(engine)
    if asked.rejects(query.network, query):
        return {"verdict": "not taken", "counts": {}, "cpu": 0.0}
    return _solve(asked, query, 10.0)


def _regions(kind: str, sizes: list[int], length: float, times: int) -> dict[str, Any]:
    import numpy as np

    from verifier.network.graph import feedforward
    from verifier.regions import line, plane

    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(b, a)) * np.sqrt(2 / a) for a, b in pairwise(sizes)]
    network = feedforward(weights, [rng.normal(size=b) * 0.1 for b in sizes[1:]])
    ends = rng.normal(size=(3, sizes[0])) * length
    best, pieces = float("inf"), 0
    for _ in range(times):
        began = time.process_time()
        if kind == "line":
            pieces = len(line(network, ends[0], ends[1]).breakpoints) - 1
        else:
            square = np.array([ends[0], ends[1], ends[1] + ends[2] - ends[0], ends[2]])
            pieces = len(plane(network, square).polygons)
        best = min(best, time.process_time() - began)
    return {"verdict": "done", "counts": {"regions": pieces}, "cpu": best}


ASK = {"vnncomp": _vnncomp, "saliency": _saliency, "corpus": _corpus, "regions": _regions}


# -- both sides --------------------------------------------------------------------------------------------------------
def tasks(name: str) -> Iterator[Task]:
    """All questions of a set."""
    from common import data_folder

    if name in VNNCOMP:
        every, seconds = VNNCOMP[name]
        with open(data_folder() / "vnncomp" / name / "instances.csv") as file:
            count = len(list(csv.reader(file)))
        yield from (["vnncomp", name, row, seconds] for row in range(0, count, every))
    elif name == "table2":
        from saliency_common import REGIONS

        for image, epsilon in REGIONS:
            yield from (["saliency", "256x2", image, epsilon, delta, 120] for delta in (1e-4, 1e-3))
    elif name == "corpus":
        for engine in ("native", "saliency", "maps"):
            yield from (["corpus", engine, index] for index in range(480))
    elif name == "regions":
        yield from (["regions", "line", sizes, 3.0, 9] for sizes in ([784, 256, 256, 10], [784, 1024, 1024, 1024, 10]))
        yield ["regions", "line", [784, *[200] * 9, 10], 3.0, 9]
        yield from (["regions", "plane", sizes, 1.0, 3] for sizes in ([5, 50, 50, 50, 5], [64, 128, 128, 10]))
    else:
        sys.exit(f"no set called {name!r}: take {', '.join(SETS)}")


SETS = ("corpus", *VNNCOMP, "table2", "regions")


class Side:
    """One checkout's process."""

    def __init__(self, checkout: Path) -> None:
        python = checkout / ".venv" / "bin" / "python"
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        path = f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        self.process = subprocess.Popen(
            [python, HERE, "--worker", checkout],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **threads, "PATH": path},
        )

    def ask(self, task: Task) -> dict[str, Any]:
        """The answer to a task."""
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps(task), file=self.process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


def summary(records: list[dict[str, Any]]) -> list[list[object]]:
    """A row for every set."""
    by_set: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        by_set[record["set"]].append(record)
    rows: list[list[object]] = []
    for name, mine in by_set.items():
        pairs = [(r["before"], r["after"]) for r in mine]
        other = sum(a["verdict"] != b["verdict"] for a, b in pairs)
        opposite = sum({a["verdict"], b["verdict"]} == {"sat", "unsat"} for a, b in pairs)
        decided = [sum(p[side]["verdict"] in ("sat", "unsat", "done") for p in pairs) for side in (0, 1)]
        both = [(a, b) for a, b in pairs if a["verdict"] == b["verdict"] and a["verdict"] in ("sat", "unsat", "done")]
        counted = [(_count(a), _count(b)) for a, b in both]
        same = sum(a == b for a, b in counted)
        before, after = (sum(p[side]["cpu"] for p in both) for side in (0, 1))
        rows.append(
            [name, len(mine), *decided, other, opposite, f"{same} of {len(both)}"]
            + [sum(c[side] or 0 for c in counted) for side in (0, 1)]
            + [f"{before:.1f}", f"{after:.1f}", f"{after / before:.2f}" if before else "–"]
        )
    return rows


def _count(answer: dict[str, Any]) -> int | None:
    return next((answer["counts"][key] for key in COUNTS if key in answer.get("counts", {})), None)


def main() -> None:
    """Ask all that is not in the journal yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", default=SETS, help=", ".join(SETS))
    parser.add_argument("--before", type=Path, help="the other checkout, with its environment in .venv")
    parser.add_argument("--report", action="store_true", help="only write the table again")
    args = parser.parse_args()
    from common import RESULTS, machine, table

    journal = RESULTS / "side_by_side_journal.jsonl"
    records = [json.loads(row) for row in journal.read_text().splitlines()] if journal.exists() else []
    if not args.report:
        if args.before is None:
            parser.error("--before CHECKOUT is needed")
        done = {json.dumps(record["task"]) for record in records}
        sides = [Side(folder.resolve()) for folder in (args.before, HERE.parents[1])]
        with open(journal, "a") as file, contextlib.suppress(KeyboardInterrupt):
            for name in args.sets:
                for turn, task in enumerate(tasks(name)):
                    if json.dumps(task) in done:
                        continue
                    order = (0, 1) if turn % 2 == 0 else (1, 0)
                    answers = {("before", "after")[side]: sides[side].ask(task) for side in order}
                    records.append({"set": name, "task": task, **answers})
                    print(json.dumps(records[-1]), file=file, flush=True)
                    print(
                        name, *task[1:], *(f"{k} {a['verdict']} {a['cpu']:.2f}" for k, a in answers.items()), flush=True
                    )
    header = ("set", "questions", "decided before", "now", "other verdict", "opposite", "same count of subproblems")
    header += ("subproblems before", "now", "CPU s before", "now", "ratio")
    (RESULTS / "side_by_side.md").write_text(
        "# Before and after, side by side\n\n"
        f"By `benchmarks/side_by_side.py`; {machine()}. Engines alone (native, saliency; maps on the corpus), one thread, "
        "compiled code read in before. "
        "Subproblems and CPU times are those of questions that both decide. Each checkout asks the corpus in its own numbers "
        "(before they were stored they hung on the processor), so two different answers may both be right.\n\n"
        + table(header, summary(records))
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(Path(sys.argv[2]))
    else:
        main()
