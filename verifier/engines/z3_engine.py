"""Z3: the query in linear real arithmetic, decided exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from verifier.encodings.query import Encoding
from verifier.encodings.z3_terms import Z3Terms, fraction_of
from verifier.engines.base import Answer, Availability, Capabilities, Deadline, Engine, EngineResult
from verifier.engines.encoded import Checker, bounded_encoding, contradiction, package
from verifier.errors import EngineError
from verifier.events import Listener, ignore
from verifier.options import Options
from verifier.properties.query import Query
from verifier.verdict import Certainty


class Z3Engine(Engine):
    """Exact: weights are rationals, UNSAT is a proof in exact arithmetic, models are rational points.

    Kinks are closed first (either neighbour), which proves the most. If a solution exists only by a choice
    at a kink that the gradient convention does not make, the convention's own (half-open) form is solved.
    """

    name: ClassVar[str] = "z3"
    capabilities: ClassVar[Capabilities] = Capabilities(gradient=True, max_neurons=100)

    STATUS_MAP: ClassVar[Mapping[str, Answer]] = {
        "sat": Answer.SAT,
        "unsat": Answer.UNSAT,
        "unknown": Answer.UNKNOWN,
    }

    def availability(self) -> Availability:
        return package("z3-solver", "z3", "pip install z3-solver")

    def solve(
        self, query: Query, options: Options, deadline: Deadline, listener: Listener = ignore
    ) -> EngineResult:
        encoding = bounded_encoding(query, options, exact=True)
        plain = contradiction(encoding, Certainty.EXACT)
        if plain is not None:
            return plain
        checker = Checker(query)
        result = EngineResult(answer=Answer.UNKNOWN, reason="Z3 was not run")
        for strict in (False, True):
            result, settled = self._solve(encoding, checker, options, deadline, strict)
            if settled:
                break
        return result

    def _solve(
        self, encoding: Encoding, checker: Checker, options: Options, deadline: Deadline, strict: bool
    ) -> tuple[EngineResult, bool]:
        """One call of Z3; the second value says whether its answer is final."""
        import z3

        context = z3.Context()
        terms = Z3Terms(encoding.model, context, strict=strict)
        solver = z3.Solver(ctx=context)
        solver.set("random_seed", options.seed)
        if deadline.passed:
            return EngineResult(answer=Answer.TIMEOUT, reason="time limit"), True
        if deadline.left < float("inf"):
            solver.set("timeout", max(1, int(deadline.left * 1000)))
        solver.add(terms.assertions)
        status = str(solver.check())
        figures = self._figures(encoding, solver, strict)
        answer = self.answer(status)
        if answer is Answer.UNSAT:
            return EngineResult(answer=answer, certainty=Certainty.EXACT, statistics=figures), True
        if answer is Answer.UNKNOWN:
            reason = solver.reason_unknown()
            late = deadline.passed or reason in ("timeout", "canceled")
            answer = Answer.TIMEOUT if late else Answer.UNKNOWN
            return EngineResult(answer=answer, reason=f"Z3: {reason}", statistics=figures), True
        solution = solver.model()
        rational = [fraction_of(solution.eval(terms.variables[c], model_completion=True)) for c in encoding.x]
        rounded = np.array([float(v) for v in rational])
        if checker.confirmed(rounded):
            return EngineResult(answer=Answer.SAT, x=rounded, statistics=figures), True
        patterns = [checker.pattern_at(rational), encoding.pattern(lambda d: terms.chosen(d, solution))]
        for pattern in patterns:
            found = checker.region(pattern, deadline)
            if found.point is not None:
                return EngineResult(answer=Answer.SAT, x=found.point, statistics=figures), True
        reason = "Z3 has an exact solution, but no float64 point that the replay confirms was found near it"
        return EngineResult(answer=Answer.UNKNOWN, reason=reason, statistics=figures, x=None), strict

    @classmethod
    def answer(cls, status: str) -> Answer:
        """What a status of Z3 means; one that is not in the table raises."""
        try:
            return cls.STATUS_MAP[status]
        except KeyError:
            raise EngineError(f"Z3 ended with the unknown status {status!r}") from None

    @staticmethod
    def _figures(encoding: Encoding, solver: Any, strict: bool) -> dict[str, float | int | str]:
        statistics = solver.statistics()
        known = {k: statistics.get_key_value(k) for k in statistics.keys()}  # noqa: SIM118 (not a dict)
        return {
            "free units": encoding.free_units,
            "kinks": "convention" if strict else "closed",
            "decisions": int(known.get("decisions", 0)),
            "conflicts": int(known.get("conflicts", 0)),
        }
