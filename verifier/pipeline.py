"""A query's way to its verdict, as data: the stages that it goes through, each with the question and what is known so far.

`stages` makes the list; the first stage that decides ends it. No stage turns a failure or a limit into HOLDS, and every
counterexample, whoever proposes it, goes through `Question.confirm`: the exact replay on the original network.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from verifier.engines.base import Answer, Engine
from verifier.engines.portfolio import Outcome, contradiction, solve_by
from verifier.errors import InputError, OutputError
from verifier.events import Event, Listener, Note, Progress, StageStarted
from verifier.limits import NEVER, Deadline, in_force
from verifier.listening import describe
from verifier.options import Options
from verifier.properties.numbers import Point
from verifier.properties.query import Query
from verifier.verdict import Certainty, EngineAnswer, Status, Verdict, Witness

if TYPE_CHECKING:
    from verifier.proofs.tree import ProofTree


@dataclass(frozen=True, kw_only=True)
class PipelineSettings:
    """How long the stages before the engines take.

    Attributes:
        short_search, long_search: seconds of the counterexample search before bounds and before engines, at most.
        first_look: seconds of the only search before engines that search themselves.
        searched_disjuncts: that the search for counterexamples is about, at most.
        few_inputs, few_neurons: with at most so many inputs that vary and neurons, bounds on a few parts of the box are
            tried first.
        most_replay: seconds at most in which the replay looks for a point near a witness that onnxruntime confirms too.
        late_replay: seconds after the deadline in which a point that was found before it may still be replayed exactly.
    """

    short_search: float = 0.3
    long_search: float = 6.0
    first_look: float = 0.15
    searched_disjuncts: int = 512
    few_inputs: int = 16
    few_neurons: int = 1000
    most_replay: float = 10.0
    late_replay: float = 0.6


class Question:
    """One query on its way: options, limits, and what stages noted.

    Attributes:
        engines: those that will be asked.
        times: seconds by stage.
        notes: remarks for the verdict.
        answers: of several engines.
        figures: of engines, in words, for a verdict that decides nothing.
        last: the stage that began last.
    """

    def __init__(
        self, query: Query, options: Options, engines: Sequence[Engine], listener: Listener, settings: PipelineSettings
    ) -> None:
        self.query, self.options, self.engines = query, options, tuple(engines)
        self._told, self._progress = listener, dict[str, Progress]()
        self.began = time.monotonic()
        self.deadline = Deadline.after(options.timeout)
        self.times: dict[str, float] = {}
        self.notes: list[str] = []
        self.answers: tuple[EngineAnswer, ...] = ()
        self.figures: tuple[str, ...] = ()
        self.last = ""
        self._settings = settings
        self._exact: Any = None

    def listener(self, event: Event) -> None:
        """Tell an event, and remember how far each stage has come; that time passes is no progress."""
        if isinstance(event, Progress) and event.unit != "seconds":
            self._progress[event.stage] = event
        self._told(event)

    @contextmanager
    def stage(self, name: str, engine: str = "") -> Iterator[None]:
        """Tell that a stage has begun, and count its time."""
        start, self.last = time.monotonic(), name
        self.listener(StageStarted(seconds=start - self.began, stage=name, engine=engine))
        try:
            yield
        finally:
            self.times[name] = self.times.get(name, 0.0) + time.monotonic() - start

    def note(self, text: str) -> None:
        """A remark for the listener and the verdict."""
        self.notes.append(text)
        self.listener(Note(seconds=time.monotonic() - self.began, text=text))

    def confirm(self, x: Point) -> Witness:
        """The exact replay of a proposed counterexample on the original network."""
        from verifier.falsify.replay import confirm
        from verifier.network.exact import ExactNetwork

        late = NEVER if self.deadline.at is None else Deadline(self.deadline.at + self._settings.late_replay)
        with self.stage("replay"), in_force(late):
            self._exact = self._exact or ExactNetwork(self.query.network)
            seconds = min(self._settings.most_replay, self.deadline.left / 2)
            return confirm(self.query, x, self._exact, seconds=seconds)

    def answer(self, status: Status, **fields: Any) -> Verdict:
        """A verdict with the times and notes so far."""
        times = {**self.times, "total": time.monotonic() - self.began}
        if not status.decided:
            fields["progress"] = "; ".join([*map(describe, self._progress.values()), *self.figures])
        return Verdict(status=status, times=times, notes=tuple(self.notes), answers=self.answers, **fields)

    def holds(self, prover: Engine | None, tree: ProofTree | None, **fields: Any) -> Verdict:
        """HOLDS, with its certificate if one was asked for.

        Args:
            prover: the engine that proved it, if it was one.
            tree: what it wrote down for a certificate.
        """
        target = self.options.proof
        if target is False:
            return self.answer(Status.HOLDS, **fields)
        from verifier.engines.certificate import certificate

        with self.stage("proof"):
            proof, why = certificate(self.query, tree, prover, self.options, self.deadline)
            if proof is not None and target is not True:
                proof.save(target)
        return self.answer(Status.HOLDS, proof=proof, no_certificate=why, **fields)

    def keep(self, engine: str, reason: str) -> Path | None:
        """The file with the query of a failed solver call, if such files are to be kept."""
        folder = self.options.reproducers
        if folder is None:
            return None
        from verifier.engines.reproducer import save

        try:
            return save(Path(folder), engine, self.query, self.options, reason)
        except OutputError as error:
            self.note(f"no reproducer was kept: {error}")
            return None


class Stage(Protocol):
    """One step; None where it does not decide."""

    def run(self, question: Question) -> Verdict | None:
        """Try to decide the question."""


@dataclass(frozen=True)
class LookAtTheCondition:
    """A condition that nothing can meet needs no look at the network."""

    def run(self, question: Question) -> Verdict | None:
        """See `Stage.run`."""
        why = question.query.vacuous
        if not why:
            return None
        question.note(f"no input meets the condition, whatever the network computes: {why}")
        return question.holds(None, None, stage="bounds", engine="the condition itself", certainty=Certainty.EXACT)


@dataclass(frozen=True)
class Falsify:
    """A look for counterexamples.

    Attributes:
        seconds: at most.
        disjuncts: of the query that it is about, at most.
        turn: which look this is; another one takes other random numbers.
    """

    seconds: float
    disjuncts: int
    turn: int = 0

    def run(self, question: Question) -> Verdict | None:
        """See `Stage.run`."""
        if not question.options.prepass or question.deadline.passed:
            return None
        from verifier.falsify.falsifier import Falsifier
        from verifier.falsify.search import FalsifierSettings

        falsifier, seed = Falsifier(FalsifierSettings(most=self.seconds)), question.options.seed + self.turn
        some = replace(question.query, disjuncts=question.query.disjuncts[: self.disjuncts])
        with question.stage("search"):
            try:
                x = falsifier.run(some, question.deadline, seed=seed, listener=question.listener)
            except MemoryError:
                question.note("the counterexample search ran out of memory and was left out")
                return None
        if x is None:
            return None
        witness = question.confirm(x)
        if witness.confirmed:
            return question.answer(Status.VIOLATED, witness=witness, stage="search", engine="search")
        question.note("the search proposed a counterexample that the exact replay did not confirm")
        return None


@dataclass(frozen=True)
class RefuteByBounds:
    """Bounds alone: on the whole box, or ``on_subproblems`` on a dozen.

    Engines of our own begin with bounds themselves; where a dozen boxes take less time than loading their compiled code,
    that is done here all the same.
    """

    on_subproblems: bool

    def run(self, question: Question) -> Verdict | None:
        """See `Stage.run`."""
        if question.deadline.passed:
            return None
        from verifier.bounds.decide import refuted_by_bounds, refuted_on_subproblems

        query, method = question.query, question.options.bounds
        steps = question.options.bound_steps
        with question.stage("bounds"):
            try:
                refutation = (refuted_on_subproblems if self.on_subproblems else refuted_by_bounds)(
                    query, method, steps=steps
                )
            except InputError as error:  # overflow, say: other methods may still decide the query
                question.note(f"no bounds: {error}")
                return None
        if refutation is None:
            return None
        return question.holds(
            None,
            None,
            stage="bounds",
            engine=refutation.method,
            bounds=refutation.method,
            certainty=refutation.certainty,
        )


def _figures(outcome: Outcome) -> str:
    """What an engine says of its work, in words."""
    figures = [
        f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}"
        for name, value in outcome.result.statistics.items()
    ]
    return f"{outcome.engine}: {', '.join([f'{outcome.seconds:.1f} s', *figures])}"


@dataclass(frozen=True)
class AskEngines:
    """The engines, side by side if there are several; always decides, if only that nobody knows."""

    def run(self, question: Question) -> Verdict:
        """See `Stage.run`."""
        if question.deadline.passed:
            reason = "the time was over before an engine was asked"
            return question.answer(Status.TIMEOUT, stage="search", reason=reason)
        replayed = question.times.get("replay", 0.0)
        names = ", ".join(engine.name for engine in question.engines)
        with question.stage("solve", names):
            outcomes = solve_by(
                question.engines,
                question.query,
                question.options,
                question.deadline,
                question.confirm,
                question.listener,
            )
        question.times["solve"] -= question.times.get("replay", 0.0) - replayed
        if len(outcomes) > 1:
            question.answers = tuple(outcome.answer for outcome in outcomes)
        clash = contradiction(outcomes)
        if clash:
            return self._clash(question, outcomes, clash)
        decided = self._decided(question, outcomes)
        question.figures = tuple(map(_figures, outcomes))
        return self._undecided(question, outcomes) if decided is None else decided

    @staticmethod
    def _clash(question: Question, outcomes: Sequence[Outcome], clash: str) -> Verdict:
        question.note(clash)
        return question.answer(
            Status.ERROR,
            stage="solve",
            engine=", ".join(o.engine for o in outcomes if o.decided),
            reason=clash,
            unconfirmed=next(o.witness for o in outcomes if o.refutes),
            reproducer=question.keep("disagreement", clash),
        )

    @staticmethod
    def _decided(question: Question, outcomes: Sequence[Outcome]) -> Verdict | None:
        # of several proofs the strongest counts
        order = list(Certainty)
        for outcome in sorted(outcomes, key=lambda o: order.index(o.result.certainty) if o.result.certainty else 0):
            result = outcome.result
            common: dict[str, Any] = {"stage": "solve", "engine": outcome.engine, "bounds": question.options.bounds}
            if outcome.refutes:
                return question.answer(Status.VIOLATED, witness=outcome.witness, **common)
            if outcome.proves:
                unsure = [o for o in outcomes if o.witness is not None]
                if unsure:
                    question.note(f"{unsure[0].engine} proposed a counterexample that the exact replay did not confirm")
                if "decided by" in result.statistics:
                    question.note(f"{outcome.engine} was not asked: {result.statistics['decided by']} decided")
                engine = next(e for e in question.engines if e.name == outcome.engine)
                return question.holds(engine, result.proof, certainty=result.certainty, **common)
        return None

    def _undecided(self, question: Question, outcomes: Sequence[Outcome]) -> Verdict:
        for outcome in outcomes:
            if outcome.witness is not None:
                reason = "the engine proposed a counterexample that the exact replay does not confirm"
                return self._failure(question, Status.UNKNOWN, outcome, reason)
        for answer, status in (
            (Answer.ERROR, Status.ERROR),
            (Answer.UNKNOWN, Status.UNKNOWN),
            (Answer.TIMEOUT, Status.TIMEOUT),
        ):
            for outcome in outcomes:
                if outcome.result.answer is answer:
                    reason = outcome.result.reason or f"{answer.value}, no reason given"
                    return self._failure(question, status, outcome, reason)
        return question.answer(Status.ERROR, stage="solve", reason="no engine gave an answer")

    @staticmethod
    def _failure(question: Question, status: Status, outcome: Outcome, reason: str) -> Verdict:
        return question.answer(
            status,
            stage="solve",
            engine=outcome.engine,
            reason=reason,
            bounds=question.options.bounds,
            unconfirmed=outcome.witness,
            reproducer=question.keep(outcome.engine, reason),
        )


def stages(query: Query, options: Options, engines: Sequence[Engine], settings: PipelineSettings) -> list[Stage]:
    """The stages of a question for these engines.

    Searches are longer for larger networks, whose proofs take longer too, and short before engines that search
    themselves. Bounds come first only where the choice of engine is left to us: a named engine is asked for its own
    word.
    """
    neurons, s = query.network.neurons, settings
    searching = all(engine.searches(query) for engine in engines)
    first = min(s.first_look, 0.02 + neurons / 8000) if searching else min(s.short_search, 0.05 + neurons / 1000)
    found: list[Stage] = [LookAtTheCondition(), Falsify(first, s.searched_disjuncts)]
    small = neurons <= s.few_neurons and query.box.varying <= s.few_inputs and not engines[0].searches(query)
    if options.engine == "auto" and (small or engines[0].isolated):
        found.append(RefuteByBounds(on_subproblems=small))
    if not searching:
        found.append(Falsify(min(s.long_search, 0.7 + neurons / 50), s.searched_disjuncts, turn=1))
    return [*found, AskEngines()]
