"""Several engines on one query at once: the first decided answer wins, and a contradiction is an error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from verifier.engines.base import Answer, Engine, EngineResult
from verifier.engines.disjunctions import solve
from verifier.engines.process import ChildProcess, run
from verifier.errors import MemoryLimitError, TimeLimitError
from verifier.events import Event, Listener, Progress, StageStarted, ignore
from verifier.limits import Deadline, in_force
from verifier.options import Options
from verifier.properties.numbers import Point
from verifier.properties.query import Query
from verifier.verdict import EngineAnswer, Witness


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What one engine answered.

    Attributes:
        witness: for a SAT answer, its point as the replay found it; else None.
        seconds: wall-clock seconds until the answer was in.
    """

    engine: str
    result: EngineResult
    witness: Witness | None
    seconds: float

    @property
    def refutes(self) -> bool:
        """Whether this is a counterexample that the replay confirmed."""
        return self.witness is not None and self.witness.confirmed

    @property
    def proves(self) -> bool:
        """Whether this says that there is no counterexample."""
        return self.result.answer is Answer.UNSAT

    @property
    def decided(self) -> bool:
        """Whether this proves or refutes."""
        return self.refutes or self.proves

    @property
    def answer(self) -> EngineAnswer:
        """The answer for the verdict."""
        words = {Answer.SAT: "refuted" if self.refutes else "refuted, not confirmed", Answer.UNSAT: "proved"}
        result = self.result
        return EngineAnswer(
            engine=self.engine,
            answer=words.get(result.answer, result.answer.value),
            seconds=self.seconds,
            certainty=result.certainty if self.proves else None,
            reason="" if self.decided else result.reason,
        )


def solve_by(
    engines: Sequence[Engine],
    query: Query,
    options: Options,
    deadline: Deadline,
    check: Callable[[Point], Witness],
    listener: Listener = ignore,
) -> tuple[Outcome, ...]:
    """Ask engines, several of them all at once in child processes.

    A single engine that needs no child process runs in this one. With ``options.compare`` all engines run to
    their end; otherwise the first decided answer ends the others (they are killed).

    Args:
        check: the replay, for every point that an engine proposes.

    Returns:
        the outcomes of the engines that had answered, in the order of the answers.

    Source:
        algorithm portfolios: Huberman, Lukose, Hogg, Science 1997.
    """
    began = time.monotonic()

    def outcome(engine: Engine, result: EngineResult) -> Outcome:
        seconds = time.monotonic() - began
        witness = check(result.x) if result.answer is Answer.SAT and result.x is not None else None
        return Outcome(engine=engine.name, result=result, witness=witness, seconds=seconds)

    if len(engines) == 1 and not engines[0].isolated:
        return (outcome(engines[0], _in_process(engines[0], query, options, deadline, listener)),)

    outcomes: dict[int, Outcome] = {}
    with ExitStack() as stack:
        children = []
        for engine in engines:
            listener(StageStarted(seconds=time.monotonic() - began, stage="solve", engine=engine.name))
            told_by = listener if len(engines) == 1 else _named(listener, engine.name)
            children.append(stack.enter_context(ChildProcess(engine, query, options, deadline, told_by)))

        def enough(results: Mapping[int, EngineResult]) -> bool:
            for k in results.keys() - outcomes.keys():
                outcomes[k] = outcome(engines[k], results[k])
            return not options.compare and any(o.decided for o in outcomes.values())

        told = 0

        def tick() -> None:
            nonlocal told
            seconds = time.monotonic() - began
            if int(seconds) > told:
                told = int(seconds)
                left = None if deadline.at is None else int(deadline.left)
                listener(Progress(seconds=seconds, stage="solve", done=told, unit="seconds", left=left))

        run(children, until=enough, tick=tick)
    return tuple(outcomes.values())


def _named(listener: Listener, engine: str) -> Listener:
    """A listener to which one of several engines tells its progress under its name."""

    def tell(event: Event) -> None:
        listener(replace(event, stage=f"{event.stage} {engine}") if isinstance(event, Progress) else event)

    return tell


def _in_process(engine: Engine, query: Query, options: Options, deadline: Deadline, listener: Listener) -> EngineResult:
    from verifier.engines.process import checked

    try:
        with in_force(deadline):
            return checked(solve(engine, query, options, deadline, listener), query)
    except TimeLimitError as error:
        return EngineResult(answer=Answer.TIMEOUT, reason=error.problem)
    except MemoryLimitError as error:
        return EngineResult(answer=Answer.UNKNOWN, reason=str(error))
    except MemoryError:
        return EngineResult(answer=Answer.ERROR, reason="out of memory")
    except Exception as error:
        return EngineResult(answer=Answer.ERROR, reason=f"{type(error).__name__}: {error}")


def contradiction(outcomes: Iterable[Outcome]) -> str:
    """The two sides of a contradiction among outcomes, in words; "" if there is none."""
    listed = list(outcomes)
    refuting = [o for o in listed if o.refutes]
    proving = [o for o in listed if o.proves]
    if not refuting or not proving:
        return ""
    return (
        f"ENGINES DISAGREE: {', '.join(o.engine for o in proving)} says that no counterexample exists, and "
        f"{', '.join(o.engine for o in refuting)} found one that the exact replay confirms"
    )
