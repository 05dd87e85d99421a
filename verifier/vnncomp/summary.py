"""Reports of a category's run: competition csv, counterexample files, summary, cactus plot."""

from __future__ import annotations

import csv
import gzip
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verifier.files import make_folder, write_bytes, write_figure, write_text
from verifier.report.tables import text_table
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
        rows = [
            (tool.name, tool.solved, tool.unsat, tool.sat, f"{tool.seconds:.1f}", tool.wrong or "")
            for tool in sorted(solving, key=lambda t: (-t.solved, t.seconds))
        ]
        head = ("tool", "solved", "unsat", "sat", "seconds", "wrong")
        lines.append(text_table(head, rows, numbers=range(1, 6), indent=4))
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
    """Write `cactus_figure`."""
    write_figure(file, cactus_figure(category, records), dpi=120)


LEAST = 0.01
"""Seconds: where the logarithmic axis begins."""


def cactus_figure(category: Category, records: Mapping[int, Record]) -> Any:
    """Cumulative time over instances solved, fastest first; published tools as their end points.

    Curves are steps that begin at zero instances and end at the last one solved: a step is as high as the time that so many
    instances take. Wrong answers and invalid counterexamples are not counted as solved. The per-instance times at hand of
    published tools are the best of all of them: "best published".
    """
    from verifier.report.style import INK, colour_of, figure_of, plain_axes

    figure = figure_of(8, 5)
    axes = figure.add_subplot()
    by_number = {instance.number: instance for instance in category.instances}
    ours = sorted(r.seconds for number, r in records.items() if _is_right(category, by_number[number], r))
    _steps(axes, ours, label=f"pwl-verifier, this machine: {len(ours)}", color=INK, linewidth=2)
    if category.best:
        best = sorted(category.best.values())
        _steps(
            axes, best, label=f"best published of each instance: {len(best)}", color=INK, linewidth=1, linestyle="--"
        )
    tools = [tool for tool in category.tools if tool.solved]
    for k, tool in enumerate(sorted(tools, key=lambda t: (-t.solved, t.seconds))[:10]):
        axes.plot(
            [tool.solved], [max(tool.seconds, LEAST)], "o", markersize=6, color=colour_of(k), markeredgecolor=INK,
            markeredgewidth=0.5, label=f"{tool.name} (total): {tool.solved}", clip_on=False,
        )  # fmt: skip
    axes.axvline(len(category.instances), color=INK, linewidth=0.8, linestyle=":")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_yscale("log")
    axes.set_ylim(bottom=LEAST)
    axes.set_xlim(0, len(category.instances) * 1.02)
    axes.set_xlabel(f"instances solved, of {len(category.instances)}", color=INK)
    axes.set_ylabel("seconds, cumulated", color=INK)
    axes.set_title(category.name, loc="left", color=INK, fontsize=11)
    plain_axes(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _is_right(category: Category, instance: Instance, record: Record) -> bool:
    """Whether a result counts as solved."""
    if not record.solved or record.witness.startswith("INVALID"):
        return False
    expected = category.expected(instance)
    return expected not in ("sat", "unsat") or record.result == expected


def _steps(axes: Any, times: list[float], **style: Any) -> None:
    """A curve of cumulated times; one instance is a line from 0 to 1."""
    if times:
        heights = [max(total, LEAST) for total in _cumulated(times)]
        axes.step([0, *range(1, len(times) + 1)], [heights[0], *heights], where="pre", **style)


def _cumulated(times: list[float]) -> list[float]:
    total, result = 0.0, []
    for seconds in times:
        total += seconds
        result.append(total)
    return result
