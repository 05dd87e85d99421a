"""`verify`: from a query to a checked verdict, through search, bounds and engines."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from verifier import compiled
from verifier.engines import registry
from verifier.engines.base import Answer, Engine
from verifier.engines.disjunctions import GROUP
from verifier.engines.portfolio import Outcome, contradiction, solve_by
from verifier.errors import EngineError, InputError, OutputError
from verifier.events import Listener, Note, StageStarted, ignore
from verifier.limits import Deadline
from verifier.options import Options
from verifier.properties.numbers import Point
from verifier.properties.query import Query
from verifier.threads import one_thread_each
from verifier.verdict import Certainty, Status, Verdict, Witness

MOST_REPLAY = 10.0
"""Seconds at most in which the replay looks for a point near a witness that onnxruntime confirms too."""
LEAST_REPLAY = 0.3
"""Seconds of that even where the time is over."""
SHORT_SEARCH, LONG_SEARCH = 0.3, 6.0
"""Seconds of the counterexample search before bounds and before engines."""
FIRST_LOOK = 0.15
"""Seconds of the only search before engines that search themselves."""
FEW_INPUTS, FEW_NEURONS = 16, 1000
"""With at most so many inputs that vary and neurons, bounds on a few parts of the box are tried first."""


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
    """
    if options is None:
        options = Options(engine=engine, timeout=timeout, **changes)
    elif changes:
        options = replace(options, **changes)
    with one_thread_each():
        return _Run(query, options, listener).verdict()


class _Run:
    """One question on its way through the stages."""

    def __init__(self, query: Query, options: Options, listener: Listener) -> None:
        self.query, self.options, self.listener = query, options, listener
        self.began = time.monotonic()
        self.deadline = Deadline.after(options.timeout)
        self.times: dict[str, float] = {}
        self.notes: list[str] = []
        self._exact: Any = None

    def verdict(self) -> Verdict:
        asked = self.query.network if self.query.condition is None else self.query.condition.network
        for remark in asked.remarks:
            self._note(remark)
        engines = self._engines()
        if self.query.vacuous:
            self._note(f"no input meets the condition, whatever the network computes: {self.query.vacuous}")
            return self._answer(Status.HOLDS, stage="bounds", engine="the condition itself", certainty=Certainty.EXACT)
        self._compile(engines)
        neurons = self.query.network.neurons
        # longer for larger networks, whose proofs take longer too
        searching = all(engine.searches(self.query) for engine in engines)
        most = min(FIRST_LOOK, 0.02 + neurons / 8000) if searching else min(SHORT_SEARCH, 0.05 + neurons / 1000)
        found = self._search(most, self.options.seed)
        if found is None:
            found = self._bounds(engines)
        if found is None and not searching:
            found = self._search(min(LONG_SEARCH, 0.7 + neurons / 50), self.options.seed + 1)
        return self._solve(engines) if found is None else found

    # -- helpers -----------------------------------------------------------------------------------------
    @contextmanager
    def _stage(self, name: str, engine: str = "") -> Iterator[None]:
        start = time.monotonic()
        self.listener(StageStarted(seconds=start - self.began, stage=name, engine=engine))
        try:
            yield
        finally:
            self.times[name] = self.times.get(name, 0.0) + time.monotonic() - start

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self.listener(Note(seconds=time.monotonic() - self.began, text=text))

    def _replay(self, x: Point) -> Witness:
        from verifier.network.exact import ExactNetwork
        from verifier.search.replay import confirm

        with self._stage("replay"):
            self._exact = self._exact or ExactNetwork(self.query.network)
            seconds = min(MOST_REPLAY, max(LEAST_REPLAY, self.deadline.left / 2))
            return confirm(self.query, x, self._exact, seconds=seconds)

    def _answer(self, status: Status, **fields: Any) -> Verdict:
        times = {**self.times, "total": time.monotonic() - self.began}
        return Verdict(status=status, times=times, notes=tuple(self.notes), **fields)

    # -- stages ------------------------------------------------------------------------------------------
    def _engines(self) -> list[Engine]:
        names = [name.strip() for name in self.options.engine.split(",") if name.strip()]
        if not names:
            raise EngineError("no engine is named", fix=f"engines: {', '.join(registry.names())}, auto")
        if self.options.proof:
            if self.query.gradient is not None or self.query.condition is not None:
                raise InputError("there are no proofs of conditions on the gradient", fix="leave the proof out")
            if names not in (["auto"], ["native"]):
                raise InputError("proofs are kept by the native engine only", fix="engine 'auto' or 'native'")
            if self.query.clauses:
                raise InputError(
                    f"there are no proofs of conditions with {1 + len(self.query.clauses)} disjunctions side by side",
                    fix="multiply them out in the property file, or leave the proof out",
                )
        engines: list[Engine] = []
        for name in dict.fromkeys(names):
            if name == "auto":
                choice = registry.choose(self.query, self.options)
                self._note(choice.reason)
                engines.append(choice.engine)
            else:
                engines.append(registry.require(name, self.query))
        return list({engine.name: engine for engine in engines}.values())

    def _compile(self, engines: Sequence[Engine]) -> None:
        """Compile what will be used, the first time after an installation; the clock starts after it."""
        if self.options.prepass:
            compiled.ensure(compiled.LINES, self.listener)
        if any(engine.name == "native" for engine in engines):
            compiled.ensure(compiled.NATIVE, self.listener)
        if any(engine.name == "saliency" for engine in engines):
            from verifier.engines.saliency.engine import SMALL

            if self.query.network.neurons > SMALL:
                compiled.ensure(compiled.SALIENCY, self.listener)
        self.began = time.monotonic()
        self.deadline = Deadline.after(self.options.timeout)

    def _search(self, most: float, seed: int) -> Verdict | None:
        """A look for counterexamples, for at most so many seconds."""
        if not self.options.prepass or self.deadline.passed:
            return None
        from verifier.search.prepass import find_witness

        with self._stage("search"):
            try:
                some = replace(self.query, cases=self.query.cases[:GROUP])
                x = find_witness(some, self.deadline, seed, self.listener, most)
            except MemoryError:
                self._note("the counterexample search ran out of memory and was left out")
                return None
        if x is None:
            return None
        witness = self._replay(x)
        if witness.confirmed:
            return self._answer(Status.VIOLATED, witness=witness, stage="search", engine="search")
        self._note("the search proposed a counterexample that the exact replay did not confirm")
        return None

    def _bounds(self, engines: Sequence[Engine]) -> Verdict | None:
        """Bounds alone, where the choice of engine is left to us: a named engine is asked for its own word.

        Engines of our own, which run in this process, begin with bounds themselves; where a dozen boxes take less
        time than loading their compiled code, that is done here all the same (the native engine loads it late).
        """
        if self.options.engine != "auto" or self.deadline.passed:
            return None
        small = (
            not engines[0].searches(self.query)
            and self.query.network.neurons <= FEW_NEURONS
            and self.query.box.varying <= FEW_INPUTS
        )
        if not (small or engines[0].isolated):
            return None
        from verifier.bounds.decide import refuted_by_bounds, refuted_in_parts

        certifier = None
        with self._stage("bounds"):
            try:
                if self.options.proof and small:
                    from verifier.engines.native.certify import BoxCertifier

                    certifier = BoxCertifier(self.query)
                    refutation = refuted_in_parts(self.query, self.options.bounds, certifier=certifier)
                else:
                    refuted = refuted_in_parts if small else refuted_by_bounds
                    refutation = refuted(self.query, self.options.bounds)
            except InputError as error:  # overflow, say: other methods may still decide the query
                self._note(f"no bounds: {error}")
                return None
        if refutation is None:
            return None
        return self._answer(
            Status.HOLDS,
            stage="bounds",
            engine=refutation.method,
            bounds=refutation.method,
            certainty=refutation.certainty,
            proof=None if certifier is None else certifier.builder.proof(self.query, "boxes halved"),
        )

    def _solve(self, engines: Sequence[Engine]) -> Verdict:
        names = ", ".join(engine.name for engine in engines)
        if self.deadline.passed:
            return self._answer(Status.TIMEOUT, stage="search", reason="the time was over before an engine was asked")
        replayed = self.times.get("replay", 0.0)
        with self._stage("solve", names):
            outcomes = solve_by(engines, self.query, self.options, self.deadline, self._replay, self.listener)
        self.times["solve"] -= self.times.get("replay", 0.0) - replayed
        return self._conclude(outcomes)

    def _conclude(self, outcomes: Sequence[Outcome]) -> Verdict:
        if len(outcomes) > 1:
            for outcome in outcomes:
                self._note(str(outcome))
        clash = contradiction(outcomes)
        if clash:
            self._note(clash)
            witness = next(o.witness for o in outcomes if o.refutes)
            return self._answer(
                Status.ERROR,
                stage="solve",
                engine=", ".join(o.engine for o in outcomes if o.decided),
                reason=clash,
                unconfirmed=witness,
                reproducer=self._keep("disagreement", clash),
            )
        for outcome in outcomes:
            result = outcome.result
            common: dict[str, Any] = {"stage": "solve", "engine": outcome.engine, "bounds": self.options.bounds}
            if outcome.refutes:
                return self._answer(Status.VIOLATED, witness=outcome.witness, **common)
            if outcome.proves:
                unsure = [o for o in outcomes if o.witness is not None]
                if unsure:
                    self._note(f"{unsure[0].engine} proposed a counterexample that the exact replay did not confirm")
                if "decided by" in result.statistics:
                    self._note(f"{outcome.engine} was not asked: {result.statistics['decided by']} decided")
                return self._answer(Status.HOLDS, certainty=result.certainty, proof=result.proof, **common)
        return self._undecided(outcomes)

    def _undecided(self, outcomes: Sequence[Outcome]) -> Verdict:
        for outcome in outcomes:
            if outcome.witness is not None:
                return self._failure(
                    Status.UNKNOWN,
                    outcome,
                    "the engine proposed a counterexample that the exact replay does not confirm",
                )
        for answer, status in (
            (Answer.ERROR, Status.ERROR),
            (Answer.UNKNOWN, Status.UNKNOWN),
            (Answer.TIMEOUT, Status.TIMEOUT),
        ):
            for outcome in outcomes:
                if outcome.result.answer is answer:
                    return self._failure(status, outcome, outcome.result.reason or f"{answer.value}, no reason given")
        return self._answer(Status.ERROR, stage="solve", reason="no engine gave an answer")

    def _failure(self, status: Status, outcome: Outcome, reason: str) -> Verdict:
        return self._answer(
            status,
            stage="solve",
            engine=outcome.engine,
            reason=reason,
            bounds=self.options.bounds,
            unconfirmed=outcome.witness,
            reproducer=self._keep(outcome.engine, reason),
        )

    def _keep(self, engine: str, reason: str) -> Path | None:
        folder = self.options.reproducers
        if folder is None:
            return None
        from verifier.engines.reproducer import save

        try:
            return save(Path(folder), engine, self.query, self.options, reason)
        except OutputError as error:
            self._note(f"no reproducer was kept: {error}")
            return None
