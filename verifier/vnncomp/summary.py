"""Reports of a category's run: competition csv, counterexample files, summary, cactus plot."""

from __future__ import annotations

import csv
import gzip
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from verifier.files import make_folder, write_bytes, write_figure, write_text
from verifier.vnncomp.category import Category, Instance
from verifier.vnncomp.journal import Record

SOLVED, PENALTY = 10, -150


@dataclass(frozen=True)
class Summary:
    """What a run of a category came to.

    Attributes:
        counts: by result word.
        seconds: total time on solved instances.
        wrong: instances answered against the agreed verdict, with both, in words.
        invalid: sat answers whose counterexample does not stand the check.
        new: instances decided that have no agreed verdict.
        missed: instances with an agreed verdict that were not decided.
        total: instances of the category, and how many of them have a result.
    """

    category: Category
    counts: Mapping[str, int]
    seconds: float
    wrong: tuple[str, ...]
    invalid: tuple[str, ...]
    new: tuple[str, ...]
    missed: tuple[str, ...]
    finished: int
    total: int

    @property
    def solved(self) -> int:
        """Instances answered sat or unsat and not wrongly."""
        return self.counts.get("sat", 0) + self.counts.get("unsat", 0) - len(self.wrong) - len(self.invalid)

    @property
    def score(self) -> int:
        """The competition's score: +10 for a right answer, −150 for a wrong one or an invalid counterexample."""
        return SOLVED * self.solved + PENALTY * (len(self.wrong) + len(self.invalid))

    @property
    def is_clean(self) -> bool:
        """Whether no answer is wrong and no counterexample invalid."""
        return not self.wrong and not self.invalid


def summarize(category: Category, records: Mapping[int, Record], instances: list[Instance] | None = None) -> Summary:
    """Compare the results with the agreed verdicts."""
    wrong, invalid, new, missed = [], [], [], []
    chosen = list(category.instances) if instances is None else instances
    finished = [i for i in chosen if i.number in records]
    for instance in finished:
        record, expected = records[instance.number], category.expected(instance)
        name = f"{instance.onnx} {instance.vnnlib}"
        if record.solved and expected in ("sat", "unsat") and record.result != expected:
            wrong.append(f"{name}: answered {record.result}, agreed is {expected} (by {record.engine})")
        elif record.result == "sat" and record.witness.startswith("INVALID"):
            invalid.append(f"{name}: {record.witness}")
        elif record.solved and expected == "unknown" and category.truth:
            new.append(f"{name}: {record.result}")
        elif not record.solved and expected != "unknown":
            missed.append(f"{name}: {record.result} where {expected} is agreed; {record.reason}".rstrip("; "))
    picked = [records[i.number] for i in finished]
    return Summary(
        category=category,
        counts=Counter(r.result for r in picked),
        seconds=sum(r.seconds for r in picked if r.solved),
        wrong=tuple(wrong),
        invalid=tuple(invalid),
        new=tuple(new),
        missed=tuple(missed),
        finished=len(finished),
        total=len(chosen),
    )


def in_words(summary: Summary) -> str:
    """The summary for people, beside the published tools."""
    c = summary.counts
    lines = [f"!!! WRONG: {text}" for text in summary.wrong]
    lines += [f"!!! INVALID COUNTEREXAMPLE: {text}" for text in summary.invalid]
    lines.append(
        f"{summary.category.name}: {summary.solved} of {summary.total} solved "
        f"({c.get('unsat', 0)} unsat, {c.get('sat', 0)} sat) in {summary.seconds:.1f} s; "
        f"{c.get('timeout', 0)} time-outs, {c.get('unknown', 0)} unknown, {c.get('error', 0)} errors; "
        f"{len(summary.wrong)} wrong, {len(summary.invalid)} invalid counterexamples; score {summary.score}"
    )
    if summary.finished < summary.total:
        lines.append(f"  {summary.total - summary.finished} instances have not been run")
    if summary.new:
        lines.append(f"  decided without an agreed verdict: {len(summary.new)}")
        lines += [f"    {text}" for text in summary.new]
    if summary.category.tools:
        lines.append("  published (all instances, on the competition's machines, start-up included):")
        solving = [tool for tool in summary.category.tools if tool.solved]
        for tool in sorted(solving, key=lambda t: (-t.solved, t.seconds)):
            wrong = f", {tool.wrong} WRONG" if tool.wrong else ""
            lines.append(
                f"    {tool.name:28} {tool.solved:4} solved ({tool.unsat} unsat, {tool.sat} sat)"
                f" {tool.seconds:8.1f} s{wrong}"
            )
    return "\n".join(lines)


def write_csv(file: Path, category: Category, records: Mapping[int, Record]) -> None:
    """Results in the competition's format: category, onnx, vnnlib, prepare time, result, run time."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    for instance in category.instances:
        record = records.get(instance.number)
        if record is not None:
            writer.writerow(
                [category.name, instance.onnx, instance.vnnlib, "0.0", record.result, f"{record.seconds:.3f}"]
            )
    write_text(file, stream.getvalue())


def write_counterexamples(folder: Path, category: Category, records: Mapping[int, Record]) -> int:
    """One gzipped file for each sat instance, named as the competition's scoring expects; how many.

    Returns:
        the number of files ``NET_PROPERTY.counterexample.gz``, which hold the assignment alone.
    """
    count = 0
    for instance in category.instances:
        record = records.get(instance.number)
        if record is not None and record.result == "sat":
            make_folder(folder)
            net, prop = (Path(name.removesuffix(".gz")).stem for name in (instance.onnx, instance.vnnlib))
            packed = gzip.compress(record.counterexample.encode(), mtime=0)
            write_bytes(folder / f"{net}_{prop}.counterexample.gz", packed)
            count += 1
    return count


def cactus(file: Path, category: Category, records: Mapping[int, Record]) -> None:
    """Cumulative time over instances solved, fastest first; published tools as their end points.

    The per-instance times at hand of published tools are the best of all of them: "best published".
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    ours = sorted(r.seconds for r in records.values() if r.solved)
    axes.plot(range(1, len(ours) + 1), _cumulated(ours), label="pwl-verifier (this machine)", linewidth=2)
    if category.best:
        best = sorted(category.best.values())
        axes.plot(range(1, len(best) + 1), _cumulated(best), "k--", linewidth=1, label="best published per instance")
    for tool in sorted(category.tools, key=lambda t: (-t.solved, t.seconds))[:10]:
        axes.plot([tool.solved], [tool.seconds], "o", markersize=5, label=f"{tool.name} (total)")
    axes.set(xlabel="instances solved", ylabel="seconds, cumulated", yscale="log", title=category.name)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small")
    write_figure(file, figure, dpi=120)


def _cumulated(times: list[float]) -> list[float]:
    total, result = 0.0, []
    for seconds in times:
        total += seconds
        result.append(total)
    return result
