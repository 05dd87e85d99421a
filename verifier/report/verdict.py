"""The page of one question: what was asked, the answer, the counterexample, how certain it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from verifier.report import html
from verifier.report.html import Section
from verifier.report.witness import witness_plot

if TYPE_CHECKING:
    from verifier.properties.normalisation import Normalisation
    from verifier.properties.query import Query
    from verifier.verdict import Verdict, Witness

SAID = {
    "holds": ("yes", "Yes: proved for every input"),
    "violated": ("no", "No: there is a counterexample"),
    "unknown": ("open", "Not decided"),
    "timeout": ("open", "Not decided in the time given"),
    "error": ("open", "An error: nothing is decided"),
}
CERTAIN = {
    "exact": "The proof is in exact rational arithmetic: no rounding enters it.",
    "rigorous": "The proof is in floating point with a proved bound on every rounding error.",
    "numerical": "The proof is by a solver with tolerances (about 1e-6): it is as good as that solver's numbers.",
}


def verdict_page(
    verdict: Verdict,
    query: Query,
    *,
    record: list[tuple[str, object]],
    comparison: Any = None,
    units: Normalisation | None = None,
) -> str:
    """The page.

    Args:
        record: what was asked, with digests, for those who file it.
        comparison: a figure of input and counterexample side by side, in place of the counterexample alone.
        units: the network's own normalisation, where the data's units are others: pictures are in the data's.
    """
    kind, words = SAID[verdict.status.value]
    card = html.answer(
        "Does the property hold?", kind, words, html.paragraph(verdict.reason, small=True) if verdict.reason else ""
    )
    parts = [Section("What was asked", html.paragraph(_asked(query)))]
    witness = verdict.witness
    if witness is not None:
        rows = [("largest", witness.lead)] if len(witness.output) > 1 else []
        rows += [("remark", remark) for remark in witness.remarks]
        rows += [] if units is None else [("pictures", "in the data's units, before the network's normalisation")]
        figure = _compared(witness, query, units) if comparison is None else comparison
        shown = html.picture(figure, "the counterexample, and what the network says of it") + html.facts(rows)
        parts.append(Section("The counterexample", shown))
    if verdict.progress:
        parts.append(Section("How far it came", html.paragraph(verdict.progress)))
    if verdict.answers:
        answers = [
            (a.engine, a.answer, f"{a.seconds:.2f}", a.certainty.value if a.certainty else a.reason)
            for a in verdict.answers
        ]
        parts.append(
            Section(
                "What each engine said",
                html.table(("engine", "answer", "seconds", "how certain, or why not"), answers, numbers=(2,)),
            )
        )
    parts.append(Section("How certain this is", html.paragraph(_certain(verdict))))
    rows = [("answer", verdict.status.name), ("by", f"{verdict.engine} ({verdict.stage})")]
    rows += [(f"seconds, {name}", f"{seconds:.2f}") for name, seconds in verdict.times.items()]
    rows += [("note", note) for note in verdict.notes]
    parts.append(Section("For the record", html.facts([*rows, *record])))
    return html.page(
        "A question about a network", query.description or "A property of a network.", parts, head=html.cards([card])
    )


def _compared(witness: Witness, query: Query, units: Normalisation | None) -> Any:
    """The counterexample beside the input that was asked about, if there is one."""
    if units is None:
        return witness_plot(witness, query.anchor)
    given = None if query.anchor is None else units.invert(query.anchor)
    return witness_plot(witness, given, units.invert(witness.input))


def _asked(query: Query) -> str:
    return (
        f"Of {query.network.source or 'the network'}, for all of the infinitely many inputs of a set in which "
        f"{query.box.varying} of {query.box.size} numbers vary: {query.description or 'the property that was given'}."
    )


def _certain(verdict: Verdict) -> str:
    if verdict.certainty is not None:
        return CERTAIN[verdict.certainty.value]
    if verdict.witness is not None:
        runtime = {True: " onnxruntime agrees.", False: " onnxruntime, which rounds, does not agree.", None: ""}
        return (
            "The counterexample was evaluated on the original network in exact rational arithmetic and meets the condition "
            f"without any tolerance.{runtime[verdict.witness.onnxruntime]}"
        )
    return "Nothing is claimed: neither that the property holds nor that it does not."
