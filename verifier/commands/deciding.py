"""A question of the command line, built and decided within ``--timeout``, which counts from the command's start."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from verifier.errors import TimeLimitError
from verifier.limits import Deadline, MemoryBudget, in_force
from verifier.options import Options
from verifier.properties.query import Query
from verifier.verdict import Status, Verdict


@contextmanager
def clock(args: argparse.Namespace) -> Iterator[None]:
    """The limits of `verifier.commands.arguments.add_solving_arguments`, for everything from the command's start on."""
    with in_force(Deadline(args.began + args.timeout), MemoryBudget.of(args.memory)):
        yield


def decide(args: argparse.Namespace, build: Callable[[], Query], options: Options) -> tuple[Verdict, str]:
    """The verdict on a question, and what was asked; a time-out as well where the time is over before it is built.

    Args:
        build: reads what the question is made of.
    """
    from verifier.api import verify
    from verifier.commands.console import progress_listener

    with clock(args):
        try:
            query = build()
        except TimeLimitError as error:
            times = {"total": time.monotonic() - args.began}
            return Verdict(status=Status.TIMEOUT, stage="reading", reason=error.problem, times=times), ""
        return verify(query, options=options, listener=progress_listener(args.quiet)), query.description
