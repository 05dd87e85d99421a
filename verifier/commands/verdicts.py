"""Verdicts in words and as JSON, and the exit status that says them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from verifier.files import whole_file
from verifier.network.operators import Array
from verifier.verdict import Certainty, Status, Verdict, Witness

EXIT = {Status.HOLDS: 0, Status.VIOLATED: 1, Status.UNKNOWN: 3, Status.TIMEOUT: 4, Status.ERROR: 5}
"""Exit status by verdict; 2 is bad usage or input."""

NEXT = {
    Status.UNKNOWN: "other engines side by side (--engine native,highs,z3), or a smaller set of inputs",
    Status.TIMEOUT: "a longer --timeout, more --threads, engines side by side (--engine native,highs), or a smaller set",
    Status.ERROR: "another engine (--engine), and --keep DIR to keep the query for a report",
}
"""What may help where nothing was decided."""


# -- verdicts --------------------------------------------------------------------------------------------
_CERTAINTY = {
    Certainty.EXACT: "proved in exact arithmetic",
    Certainty.RIGOROUS: "proved in floating point with all rounding errors bounded",
    Certainty.NUMERICAL: "proved by a solver with tolerances (about 1e-6)",
}


def in_words(verdict: Verdict, question: str) -> str:
    """A verdict for people."""
    who = f"{verdict.engine} ({verdict.stage})" if verdict.engine else verdict.stage
    total = verdict.times.get("total", 0.0)
    lines = []
    match verdict.status:
        case Status.HOLDS:
            assert verdict.certainty is not None
            lines.append(f"HOLDS: {_CERTAINTY[verdict.certainty]}, by {who} in {total:.2f} s")
        case Status.VIOLATED:
            lines.append(f"VIOLATED: a counterexample was found by {who} in {total:.2f} s")
            assert verdict.witness is not None
            lines += _witness_lines(verdict.witness)
        case Status.UNKNOWN:
            lines.append(f"UNKNOWN after {total:.2f} s ({who}): {verdict.reason}")
        case Status.TIMEOUT:
            lines.append(f"TIMEOUT after {total:.2f} s ({who}): {verdict.reason}")
        case Status.ERROR:
            lines.append(f"ERROR after {total:.2f} s ({who}): {verdict.reason}")
    if verdict.status in NEXT:
        lines.append(f"  to try next: {NEXT[verdict.status]}")
    if question:
        lines.append(f"  property: {question}")
    if verdict.unconfirmed is not None:
        lines.append("  a proposed counterexample was kept, but it refutes nothing by itself:")
        lines += ["  " + line for line in _witness_lines(verdict.unconfirmed)]
    if verdict.reproducer is not None:
        lines.append(f"  the query was kept in {verdict.reproducer}")
    lines += [f"  note: {note}" for note in verdict.notes]
    stages = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in verdict.times.items() if name != "total")
    if stages:
        lines.append(f"  times: {stages}")
    return "\n".join(lines)


def _witness_lines(witness: Witness) -> list[str]:
    checks = ["in exact rational arithmetic" if witness.exact else "NOT confirmed in exact rational arithmetic"]
    if witness.onnxruntime is not None:
        checks.append("in onnxruntime" if witness.onnxruntime else "NOT in onnxruntime")
    lines = [f"  input:  {_numbers(witness.input)}", f"  output: {_numbers(witness.output)}"]
    if len(witness.output) > 1:
        first, second = np.argsort(-witness.output, kind="stable")[:2].tolist()
        lead = witness.output[first] - witness.output[second]
        tie = f"outputs {first} and {second}, equal" if lead == 0 else ""
        lines.append(f"  largest: {tie or f'output {first}, by {lead:.6g} over output {second}'}")
    if witness.gradient is not None and witness.map is None:
        lines.append(f"  gradient: {_numbers(witness.gradient)}")
    if witness.map is not None:
        lines.append(f"  map:    {_numbers(witness.map)}")
    lines.append(f"  replayed on the original network: {', '.join(checks)}")
    return lines + [f"  remark: {remark}" for remark in witness.remarks]


def _numbers(values: Array, most: int = 12) -> str:
    shown = " ".join(f"{v:.9g}" for v in values[:most])
    return shown if len(values) <= most else f"{shown} … ({len(values)} numbers; --witness writes all)"


def as_json(verdict: Verdict, question: str) -> str:
    """A verdict as one JSON object."""
    record: dict[str, Any] = {
        "status": verdict.status.value,
        "property": question,
        "stage": verdict.stage,
        "engine": verdict.engine,
        "certainty": verdict.certainty.value if verdict.certainty else None,
        "reason": verdict.reason,
        "times": dict(verdict.times),
        "bounds": verdict.bounds,
        "witness": _witness_json(verdict.witness),
        "unconfirmed": _witness_json(verdict.unconfirmed),
        "reproducer": str(verdict.reproducer) if verdict.reproducer else None,
        "notes": list(verdict.notes),
    }
    return json.dumps(record, indent=2)


def _witness_json(witness: Witness | None) -> dict[str, Any] | None:
    if witness is None:
        return None
    arrays = {
        name: None if value is None else np.asarray(value).reshape(-1).tolist()
        for name, value in (
            ("input", witness.input),
            ("output", witness.output),
            ("gradient", witness.gradient),
            ("map", witness.map),
            ("runtime_output", witness.runtime_output),
        )
    }
    return {
        **arrays,
        "exact": witness.exact,
        "onnxruntime": witness.onnxruntime,
        "remarks": list(witness.remarks),
    }


def report(verdict: Verdict, args: argparse.Namespace, question: str = "") -> int:
    """Print a verdict as the arguments want it, write the witness file, and return the exit status."""
    print(as_json(verdict, question) if args.json else in_words(verdict, question), flush=True)
    if args.witness is not None and verdict.witness is not None:
        write_witness(args.witness, verdict.witness.input)
    return EXIT[verdict.status]


def write_witness(path: Path, x: Array) -> None:
    """Write a counterexample's input as ``.npy``.

    Raises:
        OutputError: the file cannot be written.
    """
    with whole_file(path) as stream:
        np.save(stream, x)
