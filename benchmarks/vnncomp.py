"""Runs VNN-COMP categories and writes ``benchmarks/results/vnncomp.md``.

    python benchmarks/vnncomp.py                          all categories, hours; resumes where it was
    python benchmarks/vnncomp.py acasxu mnist_fc          these only
    python benchmarks/vnncomp.py --sample 3 --cap 20      a fixed sample of every category, minutes
    python benchmarks/vnncomp.py --report                 the report from what has been run

Every instance runs in its own process with its own time limit, as ``vnncomp_scripts/run_instance.sh`` does. The
journals are in ``out/vnncomp``: a run that was killed goes on, and nothing that has a result is run again.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import RESULTS, data_folder, machine, table

from verifier.commands.vnncomp import Live, choose
from verifier.errors import VerifierError
from verifier.listening import progress
from verifier.vnncomp.category import Category, Instance, read_category
from verifier.vnncomp.journal import Journal, Record
from verifier.vnncomp.runner import LocalExecutor, Settings, run_category
from verifier.vnncomp.summary import Summary, cactus, summarize, write_counterexamples, write_csv

BARS = {
    "acasxu": 186,
    "mnist_fc": 87,
    "rl_benchmarks": 296,
    "reach_prob_density": 36,
    "tllverifybench": 32,
    "collins_rul_cnn": 62,
    "oval21": 26,
    "cifar10_resnet2021": 59,
    "verivital2021": 60,
    "cifar_biasfield": 24,
    "sri_resnet_b": 39,
    "yolo": 21,
    "nn4sys": 32,
    "cgan": 10,
    "traffic_signs_recognition": 28,
}
"""The categories, and how many instances are to be solved."""
MOMENTS = (1, 2, 5, 10, 20, 50, 100, 300)
"""Seconds of the curve of solved over time."""


def main() -> int:
    """Run or report; 1 if any answer is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("categories", nargs="*", metavar="CATEGORY", help=f"of {', '.join(BARS)}")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, help="of one instance (cores / workers)")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--cap", type=float, help="no instance gets more seconds")
    parser.add_argument("--sample", type=int, help="only this many instances of each, evenly spread")
    parser.add_argument("--retry", action="store_true", help="run again what was not solved (after an improvement)")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results of these categories")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--out", type=Path, default=Path("out", "vnncomp"), help="folder of the journals")
    parser.add_argument("--remark", default="", help="a sentence for the report: what else the machine did, say")
    parser.add_argument("--md", type=Path, help="the report (default benchmarks/results/vnncomp.md)")
    args = parser.parse_args()
    unknown = set(args.categories) - set(BARS)
    if unknown:
        parser.error(f"no such category: {', '.join(sorted(unknown))}")

    threads = args.threads or max(1, (os.cpu_count() or 1) // args.workers)
    settings = Settings(engine=args.engine, threads=threads, cap=args.cap)
    folder = data_folder() / "vnncomp"
    try:
        if not args.report:
            for name in args.categories or BARS:
                run(read_category(folder / name), settings, args)
        collected = [found for name in BARS if (found := collect(read_category(folder / name), args.out / name))]
    except VerifierError as error:
        print(f"vnncomp: error: {error}", file=sys.stderr)
        return 2
    partial = args.sample is not None or args.cap is not None
    file = args.md or (args.out / "sample.md" if partial else RESULTS / "vnncomp.md")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(report(collected, args.remark))
    print(f"wrote {file}")
    wrong = [text for entry in collected for text in (*entry.summary.wrong, *entry.summary.invalid)]
    for text in wrong:
        print(f"!!! WRONG: {text}")
    return 1 if wrong else 0


def run(category: Category, settings: Settings, args: argparse.Namespace) -> None:
    """Run one category, or go on with it."""
    file = args.out / category.name / "journal.sqlite"
    if args.fresh:
        for suffix in ("", "-wal", "-shm"):
            file.with_name(file.name + suffix).unlink(missing_ok=True)
    instances = choose(category, None, args.sample)
    with Journal(file, category, vars(settings)) as journal:
        journal.worked_by(args.workers)
        if args.retry:
            journal.forget_unsolved()
        left = len(journal.open_instances(instances))
        print(f"== {category.name}: {left} of {len(instances)} instances to run", flush=True)
        executor = LocalExecutor(category, settings, args.workers)
        with progress(log=True) as listener:
            run_category(category, instances, journal, executor, Live(listener))


@dataclass(frozen=True)
class Collected:
    """A category's results, and how they came about."""

    summary: Summary
    records: dict[int, Record]
    settings: dict[str, Any]
    workers: list[int]

    @property
    def conditions(self) -> str:
        """Limits, threads and workers, in words."""
        cap, threads = self.settings.get("cap"), self.settings.get("threads")
        limit = "the category's limits" if cap is None else f"at most {cap:g} s an instance"
        workers = " and ".join(map(str, self.workers)) or "?"
        return f"{limit}, {threads} threads, {workers} workers, engine {self.settings.get('engine')}"


def collect(category: Category, out: Path) -> Collected | None:
    """The results of a category from its journal, with csv, counterexamples and plot written beside it."""
    file = out / "journal.sqlite"
    if not file.exists():
        return None
    with Journal(file, category) as journal:
        records, settings, workers = journal.records(), journal.settings, journal.workers
    write_csv(out / "results.csv", category, records)
    write_counterexamples(out / "counterexamples", category, records)
    cactus(out / "cactus.png", category, records)
    return Collected(summarize(category, records), records, settings, workers)


def report(collected: list[Collected], remark: str = "") -> str:
    """The whole report in Markdown."""
    rows = []
    for entry in collected:
        summary, c = entry.summary, entry.summary.counts
        name = summary.category.name
        best = max(summary.category.tools, key=lambda t: (t.wrong == 0, t.solved, -t.seconds))
        rows.append(
            [
                name,
                entry.conditions,
                f"{summary.finished} of {summary.total}",
                f"**{summary.solved}** ({c.get('unsat', 0)} / {c.get('sat', 0)})",
                len(summary.wrong) + len(summary.invalid),
                f"{c.get('timeout', 0)} / {c.get('unknown', 0)} / {c.get('error', 0)}",
                f"{summary.seconds:.0f}",
                f"{sum(r.seconds for r in entry.records.values()):.0f}",
                BARS[name],
                "yes" if summary.solved >= BARS[name] else "no" if summary.finished == summary.total else "open",
                f"{best.name}: {best.solved} in {best.seconds:.0f} s",
            ]
        )
    header = ["category", "conditions", "run", "solved (unsat / sat)", "wrong", "time-out / unknown / error"]
    header += ["seconds on solved", "seconds on all run", "to reach", "reached", "best published"]
    text = f"# VNN-COMP categories\n\n{machine()}. Seconds are wall-clock from process start to exit. Published tools "
    text += "ran on the competition's machines (GPUs, or 16 to 64 cores) with the categories' own limits.\n\n"
    text += f"{remark}\n\n" if remark else ""
    text += table(header, rows)
    text += "\nSolved within so many seconds:\n\n"
    text += table(["category", *map(str, MOMENTS)], [[c.summary.category.name, *solved_within(c)] for c in collected])
    for entry in collected:
        text += f"\n## {entry.summary.category.name}\n\n{entry.conditions}.\n\n"
        text += _details(entry.summary, entry.records)
    return text


def solved_within(entry: Collected) -> list[int]:
    """How many instances were solved within each of `MOMENTS`."""
    return [sum(r.solved and r.seconds <= moment for r in entry.records.values()) for moment in MOMENTS]


def _details(summary: Summary, records: dict[int, Record]) -> str:
    category = summary.category
    lines = []
    for title, entries in (
        ("WRONG", summary.wrong),
        ("Counterexamples that do not stand the check", summary.invalid),
        ("Decided without an agreed verdict", summary.new),
        ("Not decided, with an agreed verdict", summary.missed),
    ):
        if entries:
            lines += [f"{title} ({len(entries)}):", "", *(f"- {text}" for text in entries[:60]), ""]
            if len(entries) > 60:
                lines += [f"- … and {len(entries) - 60} more", ""]
    engines: dict[str, list[float]] = {}
    for record in records.values():
        if record.solved:
            engines.setdefault(f"{record.engine} ({record.stage})", []).append(record.seconds)
    rows = [
        [who, len(times), f"{sorted(times)[len(times) // 2]:.2f}", f"{max(times):.2f}", f"{sum(times):.0f}"]
        for who, times in sorted(engines.items(), key=lambda entry: -len(entry[1]))
    ]
    lines.append(table(["decided by", "instances", "median s", "longest s", "sum s"], rows))
    lines.append(_tools(category))
    if category.best:
        slower = _slower(category, records)
        lines.append(f"Slower than the best published time of the instance: {len(slower)} of {summary.solved} solved.")
        if slower:
            gaps = [
                [f"{i.onnx} {i.vnnlib}", f"{records[i.number].seconds:.2f}", f"{best:.2f}"] for i, best in slower[:20]
            ]
            lines += ["The furthest behind:", "", table(["instance", "seconds", "best published"], gaps)]
    return "\n".join(lines) + "\n"


def _tools(category: Category) -> str:
    """The published tools that solved most."""
    best = sorted(category.tools, key=lambda t: (-t.solved, t.seconds))[:5]
    rows = [[t.name, f"{t.solved} ({t.unsat} / {t.sat})", t.wrong, f"{t.seconds:.0f}"] for t in best]
    return table(["published tool", "solved (unsat / sat)", "wrong", "seconds on solved"], rows)


def _slower(category: Category, records: dict[int, Record]) -> list[tuple[Instance, float]]:
    """Instances solved in more time than the fastest published tool took, and its time; the furthest behind first."""
    found = []
    for instance in category.instances:
        record, best = records.get(instance.number), category.best.get((instance.onnx, instance.vnnlib))
        if record is not None and record.solved and best is not None and record.seconds > best:
            found.append((instance, best))
    return sorted(found, key=lambda entry: entry[1] - records[entry[0].number].seconds)


if __name__ == "__main__":
    sys.exit(main())
