"""One instance: ``python -m verifier.vnncomp.run_instance v1 CATEGORY ONNX VNNLIB OUT TIMEOUT``.

What ``vnncomp_scripts/run_instance.sh`` runs, and what the runner of whole categories runs. The answer is in the
file OUT; the exit status is 0 also for "unknown", "timeout" and "error". Start-up counts: imports are late.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

MARGIN = 0.5
"""Seconds of the time limit that are kept for the end: writing the answer, leaving the process."""
DIE_WITH_PARENT = "VERIFIER_DIE_WITH_PARENT"
"""Environment variable by which the runner asks that this process does not outlive it."""


def main(arguments: list[str] | None = None) -> int:
    """Run one instance; always 0, unless the command line itself is wrong (2)."""
    args = _parser().parse_args(arguments)
    from verifier.threads import VARIABLES

    os.environ.update(VARIABLES)  # before any of these libraries is loaded
    if os.environ.get(DIE_WITH_PARENT):
        from verifier.engines.child import die_with_parent

        die_with_parent()
    from verifier.files import write_text
    from verifier.vnncomp.answer import write_answer

    # what stands if this process is killed at the time limit
    write_answer(args.out, "timeout")
    deadline = time.monotonic() - process_age() + args.timeout
    answering = _leave_at(deadline - MARGIN / 5)
    details: dict[str, Any] = {"engine": "", "stage": "", "reason": ""}
    try:
        result, counterexample = decide(args, deadline - MARGIN, details)
    except MemoryError:
        result, counterexample = "error", ""
        details["reason"] = "out of memory"
    except Exception as error:
        result, counterexample = "error", ""
        details["reason"] = f"{type(error).__name__}: {error}"
        traceback.print_exc()
    with answering:
        write_answer(args.out, result, counterexample)
        if args.details is not None:
            write_text(args.details, json.dumps(details))
    print(f"{result} {details['reason']}".strip(), flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="run_instance", description="Run one VNN-COMP instance.")
    parser.add_argument("version", choices=["v1"])
    parser.add_argument("category")
    parser.add_argument("onnx")
    parser.add_argument("vnnlib", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("timeout", type=float)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--memory", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--details", type=Path, help="write engine, stage and reason to this JSON file")
    return parser


def decide(args: argparse.Namespace, deadline: float, details: dict[str, Any]) -> tuple[str, str]:
    """The result and the counterexample's text; fills in the details."""
    import verifier
    from verifier.properties.vnnlib import read_text, version
    from verifier.verdict import Status
    from verifier.vnncomp.answer import counterexample_1, counterexample_2
    from verifier.vnncomp.category import read_question, resolve

    query = read_question(args.onnx, args.vnnlib)
    network = query.network
    left = deadline - time.monotonic()
    if left <= 0:
        details["reason"] = "the time was over when the files were read"
        return "timeout", ""
    options = verifier.Options(
        engine=args.engine, timeout=left, threads=args.threads, memory=args.memory, seed=args.seed
    )
    verdict = verifier.verify(query, options=options)
    details.update(
        engine=verdict.engine,
        stage=verdict.stage,
        reason=verdict.reason,
        certainty=verdict.certainty.value if verdict.certainty else None,
        times=dict(verdict.times),
        notes=list(verdict.notes),
    )
    if verdict.status is Status.VIOLATED:
        witness = verdict.witness
        assert witness is not None
        details["remarks"] = list(witness.remarks)
        if not witness.onnxruntime or witness.runtime_output is None:
            details["reason"] = "a counterexample in exact arithmetic, but none found that onnxruntime confirms"
            details["exact"] = witness.input.tolist()
            return "unknown", ""
        text = read_text(resolve(args.vnnlib))
        outputs = witness.runtime_output if network.tail is None else network.tail.values(witness.runtime_output)
        if version(text) == 1:
            return "sat", counterexample_1(witness.input, outputs[: network.output_size - len(network.products)])
        from verifier.properties.vnnlib2 import variables

        return "sat", counterexample_2(witness.input, outputs, variables(text, network))
    words = {Status.HOLDS: "unsat", Status.UNKNOWN: "unknown", Status.TIMEOUT: "timeout", Status.ERROR: "error"}
    return words[verdict.status], ""


def process_age() -> float:
    """Seconds since this process was started: the interpreter's own start-up counts as run time."""
    try:
        started = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        return max(0.0, uptime - started / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return 0.0


def _leave_at(moment: float) -> threading.Lock:
    """A watchdog for engines that overlook their deadline: the file says "timeout" by then.

    It leaves with all that was started: orphans would go on, and nobody could find them.

    Returns:
        the lock under which the answer is written: never after the watchdog has begun.
    """
    answering = threading.Lock()

    def watch() -> None:
        time.sleep(max(0.0, moment - time.monotonic()))
        answering.acquire()
        processes = sys.modules.get("verifier.engines.process")  # without it nothing was started
        for child in () if processes is None else processes.descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    return answering


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # skips the interpreter's clean-up, which takes time once torch or a solver was loaded
    os._exit(status)
