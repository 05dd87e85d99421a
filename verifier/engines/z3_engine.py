"""Z3: the query in linear real arithmetic, decided exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from verifier.encodings.query import Encoding
from verifier.encodings.z3_terms import Z3Terms, fraction_of
from verifier.engines.base import ENCODED, PIECEWISE_LINEAR, Answer, Availability, Capabilities, Engine, EngineResult
from verifier.engines.encoded import Reply, package, solve_exactly
from verifier.errors import EngineError
from verifier.events import Listener, ignore
from verifier.limits import Deadline
from verifier.options import Options
from verifier.properties.query import Query


class Z3Engine(Engine):
    """Exact: weights are rationals, UNSAT is a proof in exact arithmetic, models are rational points.

    Source:
        Z3: de Moura, Bjørner, TACAS 2008; the query: Le et al., ACML 2023, Section 4.
    """

    name: ClassVar[str] = "z3"
    capabilities: ClassVar[Capabilities] = Capabilities(operators=PIECEWISE_LINEAR, features=ENCODED, max_neurons=100)

    STATUS_MAP: ClassVar[Mapping[str, Answer]] = {
        "sat": Answer.SAT,
        "unsat": Answer.UNSAT,
        "unknown": Answer.UNKNOWN,
    }

    def availability(self) -> Availability:
        return package("z3-solver", "z3", "pip install z3-solver")

    def solve(self, query: Query, options: Options, deadline: Deadline, listener: Listener = ignore) -> EngineResult:
        def ask(encoding: Encoding, limit: Deadline, strict: bool) -> Reply:
            return self._ask(encoding, strict, options, limit)

        return solve_exactly(query, options, deadline, ask)

    def _ask(self, encoding: Encoding, strict: bool, options: Options, deadline: Deadline) -> Reply:
        import z3

        context = z3.Context()
        terms = Z3Terms(encoding.model, context, strict=strict)
        solver = z3.Solver(ctx=context)
        solver.set("random_seed", options.seed)
        if deadline.left < float("inf"):
            solver.set("timeout", max(1, int(deadline.left * 1000)))
        solver.add(terms.assertions)
        answer = self.answer(str(solver.check()))
        statistics = solver.statistics()
        known = {k: statistics.get_key_value(k) for k in statistics.keys()}  # noqa: SIM118 (not a dict)
        figures = {name: int(known.get(name, 0)) for name in ("decisions", "conflicts")}
        if answer is not Answer.SAT:
            reason = f"Z3: {solver.reason_unknown()}" if answer is Answer.UNKNOWN else ""
            return Reply(answer=answer, reason=reason, figures=figures)
        solution = solver.model()
        x = [fraction_of(solution.eval(terms.variables[c], model_completion=True)) for c in encoding.x]
        return Reply(answer=answer, x=x, figures=figures)

    @classmethod
    def answer(cls, status: str) -> Answer:
        """What a status of Z3 means; one that is not in the table raises.

        Raises:
            EngineError: a status that is not in the table.
        """
        try:
            return cls.STATUS_MAP[status]
        except KeyError:
            raise EngineError(f"Z3 ended with the unknown status {status!r}") from None
