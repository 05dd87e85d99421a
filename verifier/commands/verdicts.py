"""Verdicts in words and as plain data, and the exit status that says them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from verifier.files import whole_file, write_text
from verifier.network.operators import Array
from verifier.verdict import Certainty, EngineAnswer, Status, Verdict, Witness

if TYPE_CHECKING:
    from verifier.commands.inputs import Reader

EXIT = {Status.HOLDS: 0, Status.VIOLATED: 1, Status.UNKNOWN: 3, Status.TIMEOUT: 4, Status.ERROR: 5}
"""Exit status by verdict; 2 is bad usage or input."""

OWN = ("native", "saliency", "maps")
"""This package's own engines."""
NEXT = {
    Status.UNKNOWN: "other engines side by side (--engine native,highs,z3), or a smaller set of inputs",
    Status.TIMEOUT: "a longer --timeout, more --threads, engines side by side (--engine native,highs), or a smaller set",
    Status.ERROR: "another engine (--engine), and --keep DIR to keep the query for a report",
}
"""What may help where nothing was decided."""

_CERTAINTY = {
    Certainty.EXACT: "proved in exact arithmetic",
    Certainty.RIGOROUS: "proved in floating point with all rounding errors bounded",
    Certainty.NUMERICAL: "proved by a solver with tolerances (about 1e-6)",
}


def next_steps(verdict: Verdict) -> str:
    """What may help where nothing was decided; "" where something was."""
    if verdict.status not in NEXT:
        return ""
    if "memory" in verdict.reason or "GiB" in verdict.reason:
        return "a larger --memory, or a smaller set of inputs"
    asked = {answer.engine for answer in verdict.answers} or set(filter(None, verdict.engine.split(", ")))
    foreign = asked and not asked & set(OWN)
    return ("this package's own engines (--engine auto), " if foreign else "") + NEXT[verdict.status]


# -- words -----------------------------------------------------------------------------------------------
def in_words(verdict: Verdict, question: str, reader: Reader | None = None) -> str:
    """A verdict for people; ``reader`` says how the data's units differ from the network's."""
    who = f"{verdict.engine} ({verdict.stage})" if verdict.engine else verdict.stage
    total = verdict.times.get("total", 0.0)
    lines = []
    match verdict.status:
        case Status.HOLDS:
            assert verdict.certainty is not None
            lines.append(f"HOLDS: {_CERTAINTY[verdict.certainty]}, by {who} in {total:.2f} s")
            if verdict.no_certificate:
                lines.append(f"  no certificate: {verdict.no_certificate}")
        case Status.VIOLATED:
            lines.append(f"VIOLATED: a counterexample was found by {who} in {total:.2f} s")
            assert verdict.witness is not None
            lines += _witness_lines(verdict.witness, reader)
        case _:
            lines.append(f"{verdict.status.name} after {total:.2f} s ({who}): {verdict.reason}")
    if verdict.progress:
        lines.append(f"  how far it came: {verdict.progress}")
    if steps := next_steps(verdict):
        lines.append(f"  to try next: {steps}")
    if question:
        lines.append(f"  property: {question}")
    if verdict.unconfirmed is not None:
        lines.append("  a proposed counterexample was kept, but it refutes nothing by itself:")
        lines += ["  " + line for line in _witness_lines(verdict.unconfirmed, reader)]
    if verdict.reproducer is not None:
        lines.append(f"  the query was kept in {verdict.reproducer}")
    if verdict.answers:
        lines.append(answers_table(verdict.answers))
    lines += [f"  note: {note}" for note in verdict.notes]
    stages = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in verdict.times.items() if name != "total")
    if stages:
        lines.append(f"  times: {stages}")
    return "\n".join(lines)


def _witness_lines(witness: Witness, reader: Reader | None) -> list[str]:
    checks = ["in exact rational arithmetic" if witness.exact else "NOT confirmed in exact rational arithmetic"]
    if witness.onnxruntime is not None:
        checks.append("in onnxruntime" if witness.onnxruntime else "NOT in onnxruntime")
    lines = [f"  input:  {_numbers(witness.input)}"]
    if (data := in_data(witness, reader)) is not None:
        lines.append(f"  data:   {_numbers(data)} (before --mean and --std)")
    lines.append(f"  output: {_numbers(witness.output)}")
    if len(witness.output) > 1:
        lines.append(f"  largest: {witness.lead}")
    if witness.gradient is not None and witness.map is None:
        lines.append(f"  gradient: {_numbers(witness.gradient)}")
    if witness.map is not None:
        lines.append(f"  map:    {_numbers(witness.map)}")
    lines.append(f"  replayed on the original network: {', '.join(checks)}")
    return lines + [f"  remark: {remark}" for remark in witness.remarks]


def _numbers(values: Array, most: int = 12) -> str:
    shown = " ".join(f"{v:.9g}" for v in values[:most])
    return shown if len(values) <= most else f"{shown} … ({len(values)} numbers; --witness writes all)"


def answers_table(answers: Sequence[EngineAnswer]) -> str:
    """The engines' answers, one a line, in columns."""
    from verifier.report.tables import text_table

    rows = [
        (a.engine, a.answer, f"{a.seconds:.2f}", a.certainty.value if a.certainty else " ".join(a.reason.split()))
        for a in answers
    ]
    return text_table(("engine", "answer", "seconds", "how certain, or why not"), rows, numbers=(2,), indent=2)


# -- plain data ------------------------------------------------------------------------------------------
def as_record(verdict: Verdict, reader: Reader | None = None) -> dict[str, Any]:
    """A verdict as plain data: ``#/$defs/decision`` of the published schema."""
    return {
        "stage": verdict.stage,
        "engine": verdict.engine,
        "certainty": verdict.certainty.value if verdict.certainty else None,
        "reason": verdict.reason,
        "bounds": verdict.bounds,
        "progress": verdict.progress,
        "witness": witness_record(verdict.witness, reader),
        "unconfirmed": witness_record(verdict.unconfirmed, reader),
        "answers": [
            {
                "engine": a.engine,
                "answer": a.answer,
                "seconds": a.seconds,
                "certainty": a.certainty.value if a.certainty else None,
                "reason": a.reason,
            }
            for a in verdict.answers
        ],
        "certificate": None if verdict.proof is None else dict(verdict.proof.header),
        "no_certificate": verdict.no_certificate,
        "reproducer": str(verdict.reproducer) if verdict.reproducer else None,
        "notes": list(verdict.notes),
        "next": next_steps(verdict),
    }


def witness_record(witness: Witness | None, reader: Reader | None = None) -> dict[str, Any] | None:
    """A witness as plain data: ``#/$defs/witness`` of the published schema."""
    if witness is None:
        return None
    return {
        "input": witness.input,
        "shape": list(witness.shape) or None,
        "data": in_data(witness, reader),
        "output": witness.output,
        "gradient": witness.gradient,
        "map": witness.map,
        "largest": witness.lead if len(witness.output) > 1 else "",
        "exact": witness.exact,
        "onnxruntime": witness.onnxruntime,
        "runtime_output": None if witness.runtime_output is None else np.asarray(witness.runtime_output).reshape(-1),
        "remarks": list(witness.remarks),
    }


def in_data(witness: Witness, reader: Reader | None) -> Array | None:
    """The input in the data's units, where these differ from the network's."""
    if reader is None or reader.normalisation.is_identity:
        return None
    return reader.normalisation.invert(witness.input)


# -- files ------------------------------------------------------------------------------------------------
def write_witness(path: Path, witness: Witness, reader: Reader | None = None) -> None:
    """Write a counterexample.

    A ``.npy`` holds the input in its shape and in the data's units, so that it can be read again with the same options; a
    ``.txt`` holds input and output as the network takes and gives them, in the competition's format (VNN-LIB 1.0).

    Raises:
        OutputError: the file cannot be written.
    """
    if path.suffix.lower() == ".txt":
        from verifier.vnncomp.answer import counterexample_1

        write_text(path, counterexample_1(witness.input, witness.output))
        return
    data = in_data(witness, reader)
    with whole_file(path) as stream:
        np.save(stream, witness.shaped if data is None else data.reshape(witness.shape))
