"""Marabou 2.0.0, at arm's length: a query of our own making, validated, in a process that may be killed."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from verifier.encodings.marabou import marabou_query
from verifier.encodings.model import Atom, Disjunction
from verifier.encodings.query import Encoding
from verifier.encodings.scaling import Rescaled, rescaled
from verifier.engines.base import ENCODED, PIECEWISE_LINEAR, Answer, Availability, Capabilities, Engine, EngineResult
from verifier.engines.encoded import Checker, TolerantSettings, decide, package, too_narrow
from verifier.errors import EngineError
from verifier.events import Listener, ignore
from verifier.limits import Deadline
from verifier.network.operators import Array
from verifier.options import Options
from verifier.properties.query import Query
from verifier.verdict import Certainty


@dataclass(frozen=True, kw_only=True)
class MarabouSettings(TolerantSettings):
    """How Marabou is asked.

    It takes variables narrower than 1e-5 for constants also where it has found them narrow itself; a witness on a boundary
    must leave room for that (``relax``). What it then finds beside the query is refuted by exact arithmetic.
    """

    relax: float = 1e-3


class MarabouEngine(Engine):
    """Marabou's simplex with case splits; UNSAT is numerical (tolerances of about 1e-6).

    Source:
        Marabou 2.0: Wu et al., CAV 2024; the query: Le et al., ACML 2023, Section 4.
    """

    name: ClassVar[str] = "marabou"
    capabilities: ClassVar[Capabilities] = Capabilities(operators=PIECEWISE_LINEAR, features=ENCODED, max_neurons=2000)

    STATUS_MAP: ClassVar[Mapping[str, Answer]] = {
        "sat": Answer.SAT,
        "unsat": Answer.UNSAT,
        "TIMEOUT": Answer.TIMEOUT,
        "UNKNOWN": Answer.UNKNOWN,
        "QUIT_REQUESTED": Answer.UNKNOWN,
        "ERROR": Answer.ERROR,
    }

    def __init__(self, settings: MarabouSettings = MarabouSettings()) -> None:
        self.settings = settings

    def availability(self) -> Availability:
        return package("maraboupy", "maraboupy", "pip install maraboupy==2.0.0 (Python 3.8 to 3.11, Linux x86_64)")

    def solve(self, query: Query, options: Options, deadline: Deadline, listener: Listener = ignore) -> EngineResult:
        if problem := too_narrow(query):
            return EngineResult(answer=Answer.UNKNOWN, reason=problem)
        return decide(query, options, deadline, self._ask, self.settings, exact=False)

    def _ask(self, encoding: Encoding, deadline: Deadline) -> EngineResult:
        query = encoding.query
        scaled = rescaled(encoding.model)
        checker = Checker(query)
        figures: dict[str, float | int | str] = {"free neurons": encoding.free_neurons, "regions excluded": 0}
        for excluded in range(self.settings.rounds):
            figures["regions excluded"] = excluded
            if deadline.passed:
                return EngineResult(answer=Answer.TIMEOUT, reason="time limit", statistics=figures)
            answer, solution, why = self._call(scaled, deadline)
            if answer is Answer.UNSAT:
                return EngineResult(answer=answer, certainty=Certainty.NUMERICAL, statistics=figures)
            if answer is not Answer.SAT:
                return EngineResult(answer=answer, reason=why, statistics=figures)
            x = query.box.clip(scaled.original(solution)[encoding.x])
            if checker.confirmed(x):
                return EngineResult(answer=Answer.SAT, x=x, statistics=figures)
            picked = {id(d): chosen(t, solution) for d, t in _twins(encoding, scaled)}
            found = checker.region(encoding.pattern(lambda d: picked[id(d)]), deadline)  # noqa: B023
            if found.point is not None:
                return EngineResult(answer=Answer.SAT, x=found.point, statistics=figures)
            if not found.empty:
                reason = "Marabou proposes a point that the exact replay refutes, and its linear region is not refuted"
                return EngineResult(answer=Answer.UNKNOWN, reason=reason, statistics=figures)
            switches = {id(d) for d in encoding.switches(found.core)}
            if not switches:
                return EngineResult(answer=Answer.UNSAT, certainty=Certainty.NUMERICAL, statistics=figures)
            others = [
                list(disjunct)
                for d, twin in _twins(encoding, scaled)
                if id(d) in switches
                for c, disjunct in enumerate(twin.disjuncts)
                if c != picked[id(d)]
            ]
            scaled.model.disjunctions.append(Disjunction(others, "another linear region"))
        reason = f"Marabou proposed {self.settings.rounds} linear regions that hold no witness"
        return EngineResult(answer=Answer.UNKNOWN, reason=reason, statistics=figures)

    @classmethod
    def answer(cls, status: str) -> Answer:
        """What an exit code of Marabou means; one that is not in the table raises.

        Raises:
            EngineError: an exit code that is not in the table.
        """
        try:
            return cls.STATUS_MAP[status]
        except KeyError:
            raise EngineError(f"Marabou ended with the unknown status {status!r}") from None

    def _call(self, scaled: Rescaled, deadline: Deadline) -> tuple[Answer, Array, str]:
        """One call of Marabou: the answer, the solution (rescaled variables), and a reason in words."""
        rendered = marabou_query(scaled.model)
        nothing = np.zeros(0)
        if rendered.contradiction:
            return Answer.UNSAT, nothing, rendered.contradiction
        from maraboupy import MarabouCore

        query = rendered.build()
        settings = MarabouCore.Options()
        settings._verbosity = 0
        settings._tighteningStrategy = "deeppoly"
        settings._numWorkers = 1
        # forbidden: MILP needs Gurobi, which the wheel lacks, and was seen to answer "sat" on unsat queries
        settings._solveWithMILP = False
        settings._snc = False
        if deadline.left < float("inf"):
            settings._timeoutInSeconds = max(1, math.ceil(deadline.left))
        with _own_folder():
            status, values, _ = MarabouCore.solve(query, settings, "")
        answer = self.answer(status)
        if answer is Answer.SAT:
            size = scaled.model.size
            return answer, np.array([values.get(k, float(scaled.model.lower[k])) for k in range(size)]), ""
        return answer, nothing, f"Marabou ended with {status}"


def _twins(encoding: Encoding, scaled: Rescaled) -> list[tuple[Disjunction, Disjunction]]:
    """The encoding's disjunctions, each with its rescaled form (later ones, which exclude regions, are left out)."""
    return list(zip(encoding.model.disjunctions, scaled.model.disjunctions, strict=False))


def chosen(disjunction: Disjunction, solution: Array) -> int:
    """The disjunct of a disjunction that a numerical solution fits best.

    Shapes: solution ``(variables,)``.
    """
    return int(np.argmin([sum(_violation(atom, solution) for atom in disjunct) for disjunct in disjunction.disjuncts]))


def _violation(atom: Atom, solution: Array) -> float:
    total = float(np.dot(solution[list(atom.columns)], atom.coefficients)) if atom.columns else 0.0
    return max(0.0, atom.lower - total, total - atom.upper)


@contextlib.contextmanager
def _own_folder() -> Iterator[None]:
    """Run in a temporary folder: Marabou writes files into the current one."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="marabou-") as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)
