"""A question of the command line, built and decided within ``--timeout``, which counts from the command's start."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from verifier.commands.result import Result, for_the_record
from verifier.commands.verdicts import EXIT, as_record, in_words, write_witness
from verifier.errors import TimeLimitError
from verifier.files import write_text
from verifier.limits import Deadline, MemoryBudget, in_force
from verifier.options import Options
from verifier.properties.query import Query
from verifier.verdict import Status, Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from verifier.commands.inputs import Reader


@contextmanager
def clock(args: argparse.Namespace, compiling: float = 0.0) -> Iterator[None]:
    """The limits of `verifier.commands.arguments.add_solving_arguments`, for everything from the command's start on.

    Args:
        compiling: seconds since then in which kernels were compiled, once after an installation; they do not count.
    """
    with in_force(Deadline(args.began + compiling + args.timeout), MemoryBudget.of(args.memory)):
        yield


def decide(args: argparse.Namespace, build: Callable[[], Query], options: Options) -> tuple[Verdict, Query | None]:
    """The verdict on a question, and the question; a time-out as well where the time is over before it is built.

    Args:
        build: reads what the question is made of.
    """
    from verifier.api import verify

    with clock(args):
        try:
            query = build()
        except TimeLimitError as error:
            times = {"total": time.monotonic() - args.began}
            return Verdict(status=Status.TIMEOUT, stage="reading", reason=error.problem, times=times), None
        return verify(query, options=options, listener=args.listener), query


def result_of(
    verdict: Verdict,
    query: Query | None,
    args: argparse.Namespace,
    *,
    reader: Reader | None = None,
    files: dict[Path, str] | None = None,
    options: dict[str, Any] | None = None,
    comparison: Any = None,
) -> Result:
    """What a command that asks one question hands back; writes the files that are wanted.

    Args:
        reader: that read the inputs; says how the data's units differ from the network's.
        files: further files that the question is made of.
        options: that the question is made of.
        comparison: a figure for the page, in place of the counterexample alone.
    """
    files = {**({} if reader is None else reader.files), **(files or {})}
    if args.witness is not None and verdict.witness is not None:
        write_witness(args.witness, verdict.witness, reader)
    if args.report is not None and query is not None:
        from verifier.report.verdict import verdict_page

        units = None if reader is None or reader.normalisation.is_identity else reader.normalisation
        record = for_the_record(args, files)
        write_text(args.report, verdict_page(verdict, query, record=record, comparison=comparison, units=units))
    description = "" if query is None else query.description
    return Result(
        text=in_words(verdict, description, reader),
        found=as_record(verdict, reader),
        status=EXIT[verdict.status],
        verdict=verdict.status.value,
        network=None if query is None else query.network,
        question=description or "(not read within the time limit)",
        files=files,
        options=options or {},
        times=verdict.times,
    )
