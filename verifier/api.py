"""`verify`: from a query to a checked verdict, through search, bounds and engines."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from verifier import compiled
from verifier.arguments import checked
from verifier.engines import registry
from verifier.engines.base import Engine
from verifier.errors import EngineError, TimeLimitError
from verifier.events import Listener, ignore
from verifier.extras import lacking
from verifier.limits import MemoryBudget, deadline_in_force, in_force
from verifier.options import Options
from verifier.pipeline import PipelineSettings, Question, stages
from verifier.properties.query import Query
from verifier.threads import one_thread_each
from verifier.verdict import Status, Verdict


@checked
def verify(
    query: Query,
    engine: str = "auto",
    timeout: float | None = 60.0,
    *,
    options: Options | None = None,
    listener: Listener = ignore,
    **changes: Any,
) -> Verdict:
    """Decide a query: does the property hold, or is there a counterexample?

    The stages are a search for counterexamples, bounds, and one or several engines; the first that decides ends
    the chain. A counterexample counts only if the exact replay on the original network confirms it.

    Args:
        query: the question.
        engine: "auto", an engine's name, or several names separated by commas (a portfolio).
        timeout: wall-clock seconds for everything but the compilation of kernels on the first use after an
            installation; None for no limit.
        options: all options at once, in place of ``engine`` and ``timeout``.
        listener: receives typed events while it works.
        changes: further fields of `Options`, e.g. ``memory=4, prepass=False``.

    Raises:
        EngineError: before any work: an unknown engine, one that is not installed or cannot take the query.
        InputError: options out of range.

    Example:
        >>> import numpy as np, verifier
        >>> network = verifier.feedforward([[[1, -1], [-1, 1]], np.eye(2)], [np.zeros(2), np.zeros(2)])
        >>> verifier.verify(verifier.robustness(network, [0.9, 0.1], epsilon=0.1), timeout=20).status
        <Status.HOLDS: 'holds'>
        >>> verdict = verifier.verify(verifier.robustness(network, [0.6, 0.5], epsilon=0.1))
        >>> verdict.status, bool(verdict.witness.output[0] <= verdict.witness.output[1])
        (<Status.VIOLATED: 'violated'>, True)
    """
    options = (options or Options(engine=engine, timeout=timeout)).but(**changes)
    with one_thread_each():
        return _verdict(query, options, listener, PipelineSettings())


def _verdict(query: Query, options: Options, listener: Listener, settings: PipelineSettings) -> Verdict:
    engines, notes = _engines(query, options)
    asked = query.network if query.condition is None else query.condition.network
    compiling = _compile(query, options, engines, listener)
    with in_force(deadline_in_force().later(compiling)):
        question = Question(query, options, engines, listener, settings)  # its clock starts here
    for remark in (*asked.remarks, *notes):
        question.note(remark)
    try:
        with in_force(question.deadline, MemoryBudget.of(options.memory)):
            for stage in stages(query, options, engines, settings):
                verdict = stage.run(question)
                if verdict is not None:
                    return verdict
    except TimeLimitError as error:
        return question.answer(Status.TIMEOUT, stage=question.last, reason=error.problem)
    except ModuleNotFoundError as error:  # bounds of large networks use torch, which is an extra
        raise lacking(error.name) or error from None
    raise AssertionError("the last stage always decides")


def _engines(query: Query, options: Options) -> tuple[list[Engine], list[str]]:
    """The engines to ask, and why."""
    names = [name.strip() for name in options.engine.split(",") if name.strip()]
    if not names:
        raise EngineError("no engine is named", fix=f"engines: {', '.join(registry.names())}, auto")
    engines: list[Engine] = []
    notes: list[str] = []
    for name in dict.fromkeys(names):
        if name == "auto":
            choice = registry.choose(query, options)
            notes.append(choice.reason)
            engines.append(choice.engine)
        else:
            engines.append(registry.require(name, query))
    engines = list({engine.name: engine for engine in engines}.values())
    return engines, notes


def _compile(query: Query, options: Options, engines: Sequence[Engine], listener: Listener) -> float:
    """Compile what will be used, the first time after an installation; the seconds that it took."""
    began = time.monotonic()
    if options.prepass and query.network.is_piecewise_linear:
        compiled.ensure(compiled.LINES, listener)
    for engine in engines:
        for part in engine.kernels(query):
            compiled.ensure(part, listener)
    return time.monotonic() - began
