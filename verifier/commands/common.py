"""What the commands share: arguments for engines, inputs from files, progress on stderr, verdicts in words."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from verifier.errors import InputError
from verifier.events import Event, Listener, Note, Progress, StageStarted, ignore
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.options import BOUNDS, Options
from verifier.verdict import Certainty, Status, Verdict, Witness

EXIT = {Status.HOLDS: 0, Status.VIOLATED: 1, Status.UNKNOWN: 3, Status.TIMEOUT: 4, Status.ERROR: 5}
"""Exit status by verdict; 2 is bad usage or input."""


def positive(text: str) -> float:
    """An argparse type: a number above 0."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError("must be positive")
    return value


def add_solving_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of every command that asks engines."""
    group = parser.add_argument_group("solving")
    group.add_argument(
        "--engine",
        default="auto",
        metavar="NAME[,NAME…]",
        help="auto (default), an engine, or several: the first decided answer wins",
    )
    group.add_argument("--timeout", type=positive, default=60.0, metavar="S", help="wall-clock seconds (60)")
    group.add_argument("--memory", type=positive, metavar="GIB", help="memory limit of each solver process")
    cores = os.cpu_count() or 1
    group.add_argument("--threads", type=int, default=cores, metavar="N", help=f"threads of one engine ({cores})")
    group.add_argument("--seed", type=int, default=0, help="seed of everything random (0)")
    group.add_argument("--bounds", default="crown", choices=BOUNDS, help="bounds for the encodings (crown)")
    group.add_argument(
        "--propagate", action="store_true", help="saliency: give solvers the phases and bounds that propagation finds"
    )
    group.add_argument("--no-prepass", action="store_true", help="leave out the counterexample search")
    group.add_argument("--compare", action="store_true", help="let all engines finish and compare their answers")
    group.add_argument("--keep", type=Path, metavar="DIR", help="keep the query of a failed solver call here")
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="the verdict as JSON on standard output")
    output.add_argument("--witness", type=Path, metavar="FILE.npy", help="write the counterexample's input here")
    output.add_argument("--quiet", action="store_true", help="no progress on standard error")


def options_of(args: argparse.Namespace) -> Options:
    """The options that `add_solving_arguments` describe."""
    return Options(
        engine=args.engine,
        timeout=args.timeout,
        memory=args.memory,
        threads=args.threads,
        seed=args.seed,
        bounds=args.bounds,
        propagate=args.propagate,
        prepass=not args.no_prepass,
        compare=args.compare,
        reproducers=args.keep,
    )


def read_array(path: Path) -> Array:
    """A float64 array from a ``.npy`` file, or numbers in text separated by blanks, commas or lines.

    Raises:
        InputError: naming the file, if it is missing, no numbers, or not finite.
    """
    try:
        if path.suffix == ".npy":
            array = np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)
        else:
            array = np.array([float(word) for word in path.read_text().replace(",", " ").split()])
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", place=str(path)) from None
    except (ValueError, EOFError) as error:
        raise InputError(
            f"not an array of numbers: {error}", place=str(path), fix="expected .npy, or numbers in a text file"
        ) from None
    if not np.isfinite(array).all():
        raise InputError("contains NaN or infinity", place=str(path))
    return array


def read_inputs(path: Path, network: Network) -> Array:
    """One or more inputs of a network from a file that `read_array` reads, ``(count, n)``.

    Raises:
        InputError: naming the file, if its numbers are not whole inputs.
    """
    numbers = read_array(path)
    if not numbers.size or numbers.size % network.input_size:
        raise InputError(
            f"holds {numbers.size} numbers, but an input of the network has {network.input_size}", place=str(path)
        )
    return numbers.reshape(-1, network.input_size)


def read_input(path: Path, network: Network) -> Array:
    """A single input, ``(n,)``: see `read_inputs`."""
    inputs = read_inputs(path, network)
    if len(inputs) != 1:
        raise InputError(f"holds {len(inputs)} inputs, one is wanted", place=str(path))
    return inputs[0]


# -- progress --------------------------------------------------------------------------------------------
def progress_listener(args: argparse.Namespace) -> Listener:
    """A listener that shows the state of work on standard error: one changing line on a terminal."""
    if args.quiet:
        return ignore
    terminal = sys.stderr.isatty()
    began = last = time.monotonic()

    def listen(event: Event) -> None:
        nonlocal last
        now = time.monotonic()
        text = describe(event)
        if isinstance(event, Progress):
            if not terminal or now - last < 0.1:
                return
            last = now
            print(f"\r\033[K{now - began:7.1f} s  {text}", end="", file=sys.stderr, flush=True)
            return
        lead = "\r\033[K" if terminal else ""
        print(f"{lead}{now - began:7.1f} s  {text}", file=sys.stderr, flush=True)

    return listen


def describe(event: Event) -> str:
    """An event in words."""
    match event:
        case StageStarted(stage=stage, engine=engine):
            return f"{stage} {engine}".strip()
        case Progress(seconds=seconds, stage=stage, done=done, unit=unit, left=left, bound=bound):
            rest = "" if left is None else f", {left:,} left"
            if done and seconds > 1.0:
                rest += f", {done / seconds:,.0f} {unit}/s"
                rest += "" if left is None else f", about {seconds * left / done:,.0f} s to go"
            best = "" if bound is None else f", bound {bound:.6g}"
            return f"{stage}: {done:,} {unit}{rest}{best}"
        case Note(text=text):
            return text
    return type(event).__name__


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
        np.save(args.witness, verdict.witness.input)
    return EXIT[verdict.status]
