"""The page of a category's run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from verifier.report import html
from verifier.report.html import Section
from verifier.vnncomp.category import Instance
from verifier.vnncomp.journal import Record
from verifier.vnncomp.summary import Summary, cactus_figure


def category_page(summary: Summary, records: Mapping[int, Record], instances: list[Instance]) -> str:
    """The page: how many were solved, beside published tools, and every instance."""
    c = summary.counts
    solved = "no" if not summary.is_clean else "yes" if summary.solved == summary.total else "open"
    head = html.cards([html.answer("Solved", solved, f"{summary.solved} of {summary.total}",
                                   html.paragraph(_counts(summary), small=True)),
                       html.answer("Wrong answers", "yes" if summary.is_clean else "no",
                                   str(len(summary.wrong) + len(summary.invalid)), _faults(summary))])  # fmt: skip
    tools = [
        (f"pwl-verifier ({summary.finished} instances, this machine)", summary.solved, c.get("unsat", 0), c.get("sat", 0),
         f"{summary.seconds:.1f}", len(summary.wrong) + len(summary.invalid))
    ]  # fmt: skip
    solving = [tool for tool in summary.category.tools if tool.solved]
    tools += [
        (tool.name, tool.solved, tool.unsat, tool.sat, f"{tool.seconds:.1f}", tool.wrong)
        for tool in sorted(solving, key=lambda t: (-t.solved, t.seconds))
    ]
    rows = []
    for instance in instances:
        record = records.get(instance.number)
        if record is not None:
            rows.append((Path(instance.onnx).name, Path(instance.vnnlib).name, record.result,
                         summary.category.expected(instance), f"{record.seconds:.2f}", record.engine))  # fmt: skip
    caption = (
        "Instances solved over cumulated seconds, the fastest first; the dotted line is the number of instances. Published "
        "tools ran on the competition's machines: their times are no race."
    )
    curve = html.picture(cactus_figure(summary.category, records), "instances solved over cumulated seconds", caption)
    parts = [
        Section("How many in how much time", curve),
        Section(
            "Beside published tools",
            html.table(("tool", "solved", "unsat", "sat", "seconds", "wrong"), tools, numbers=range(1, 6)),
        ),
        Section(
            "Open", html.bullets(summary.missed) if summary.missed else html.paragraph("Nothing that others solved.")
        ),
        Section(
            "All instances",
            html.table(("network", "property", "result", "agreed", "seconds", "by"), rows, numbers=(4,)),
        ),
    ]
    lead = f"Category {summary.category.name} of VNN-COMP: each instance asks whether a property of a network has a counterexample."
    return html.page(f"VNN-COMP: {summary.category.name}", lead, parts, head=head)


def _counts(summary: Summary) -> str:
    c = summary.counts
    return (
        f"{c.get('unsat', 0)} unsat, {c.get('sat', 0)} sat; {c.get('timeout', 0)} time-outs, {c.get('unknown', 0)} unknown, "
        f"{c.get('error', 0)} errors; score {summary.score}"
    )


def _faults(summary: Summary) -> str:
    faults = [*summary.wrong, *summary.invalid]
    return html.bullets(faults) if faults else html.paragraph("None, and no invalid counterexample.", small=True)
