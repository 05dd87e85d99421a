"""HiGHS: the query as a mixed-integer linear program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from verifier.encodings.highs import highs_program
from verifier.encodings.milp import MixedInteger, mixed_integer
from verifier.encodings.model import Atom, Indices
from verifier.encodings.query import Encoding
from verifier.encodings.scaling import rescaled
from verifier.engines.base import ENCODED, PIECEWISE_LINEAR, Answer, Availability, Capabilities, Engine, EngineResult
from verifier.engines.encoded import Checker, TolerantSettings, decide, package, too_narrow
from verifier.errors import EngineError
from verifier.events import Listener, ignore
from verifier.highs import new_highs
from verifier.limits import Deadline
from verifier.options import Options
from verifier.properties.query import Query
from verifier.verdict import Certainty


@dataclass(frozen=True, kw_only=True)
class HighsSettings(TolerantSettings):
    """How HiGHS is asked.

    Attributes:
        relax: far above HiGHS's tolerances.
        few_nodes, second_look: where so few nodes refute a program, it is asked again without presolve, for so many nodes.
    """

    relax: float = 1e-6
    few_nodes: int = 1
    second_look: int = 1000


class HighsEngine(Engine):
    """Branch and cut on the big-M form of the encoding; UNSAT is numerical (feasibility tolerance 1e-7).

    Source:
        networks as mixed-integer programs: Tjeng, Xiao, Tedrake, ICLR 2019; HiGHS: Huangfu, Hall,
        Mathematical Programming Computation 2018.
    """

    name: ClassVar[str] = "highs"
    capabilities: ClassVar[Capabilities] = Capabilities(operators=PIECEWISE_LINEAR, features=ENCODED, max_neurons=2000)

    STATUS_MAP: ClassVar[Mapping[str, Answer]] = {
        "kOptimal": Answer.SAT,
        "kInfeasible": Answer.UNSAT,
        "kTimeLimit": Answer.TIMEOUT,
        "kModelEmpty": Answer.SAT,
        "kIterationLimit": Answer.UNKNOWN,
        "kSolutionLimit": Answer.UNKNOWN,
        "kObjectiveBound": Answer.UNKNOWN,
        "kObjectiveTarget": Answer.UNKNOWN,
        "kUnboundedOrInfeasible": Answer.UNKNOWN,
        "kUnbounded": Answer.UNKNOWN,
        "kUnknown": Answer.UNKNOWN,
        "kInterrupt": Answer.UNKNOWN,
        "kHighsInterrupt": Answer.UNKNOWN,
        "kMemoryLimit": Answer.ERROR,
        "kLoadError": Answer.ERROR,
        "kModelError": Answer.ERROR,
        "kPresolveError": Answer.ERROR,
        "kSolveError": Answer.UNKNOWN,
        "kPostsolveError": Answer.ERROR,
        "kNotset": Answer.ERROR,
    }

    def __init__(self, settings: HighsSettings = HighsSettings()) -> None:
        self.settings = settings

    def availability(self) -> Availability:
        return package("highspy", "highspy", "pip install highspy")

    def solve(self, query: Query, options: Options, deadline: Deadline, listener: Listener = ignore) -> EngineResult:
        if problem := too_narrow(query):
            return EngineResult(answer=Answer.UNKNOWN, reason=problem)

        def ask(encoding: Encoding, limit: Deadline) -> EngineResult:
            return self._ask(encoding, options, limit)

        return decide(query, options, deadline, ask, self.settings, exact=False)

    def _ask(self, encoding: Encoding, options: Options, deadline: Deadline) -> EngineResult:
        query = encoding.query
        scaled = rescaled(encoding.model)
        program = mixed_integer(scaled.model)
        # the reduction keeps the order of the disjunctions: a rescaled one answers for the encoding's own
        twin = {id(own): new for own, new in zip(encoding.model.disjunctions, scaled.model.disjunctions, strict=True)}
        checker = Checker(query)
        solver = self._solver(program, options)
        if solver is None:
            reason = "HiGHS does not accept the program: coefficients beyond 1e15 or limits beyond 1e20"
            return EngineResult(answer=Answer.UNKNOWN, reason=reason)
        figures: dict[str, float | int | str] = {
            "free neurons": encoding.free_neurons,
            "columns": program.model.size,
            "rows": program.model.row_count,
            "regions excluded": 0,
        }
        if encoding.disjuncts is not None and query.gradient is not None:
            indicators = program.indicators[id(twin[id(encoding.disjuncts)])]
            if not _some_disjunct_left(solver, indicators, program.model.binary, deadline):
                return EngineResult(answer=Answer.UNSAT, certainty=Certainty.NUMERICAL, statistics=figures)
        for _ in range(self.settings.rounds):
            if deadline.passed:
                return EngineResult(answer=Answer.TIMEOUT, reason="time limit", statistics=figures)
            _run(solver, deadline)
            status = solver.getModelStatus().name
            nodes = figures["nodes"] = max(0, int(solver.getInfo().mip_node_count))
            answer = self.answer(status)
            if answer is Answer.UNSAT:
                if nodes > self.settings.few_nodes or not _overturned(solver, deadline, self.settings.second_look):
                    return EngineResult(answer=answer, certainty=Certainty.NUMERICAL, statistics=figures)
                answer = Answer.SAT
            if answer is not Answer.SAT:
                return EngineResult(answer=answer, reason=f"HiGHS ended with {status}", statistics=figures)
            solution = np.array(solver.getSolution().col_value)
            x = query.box.clip(scaled.original(solution)[encoding.x])
            if checker.confirmed(x):
                return EngineResult(answer=Answer.SAT, x=x, statistics=figures)
            pattern = encoding.pattern(lambda d: program.chosen(twin[id(d)], solution))  # noqa: B023
            found = checker.region(pattern, deadline)
            if found.point is not None:
                return EngineResult(answer=Answer.SAT, x=found.point, statistics=figures)
            if not found.empty:
                reason = "HiGHS proposes a point that the exact replay refutes, and its linear region is not refuted"
                return EngineResult(answer=Answer.UNKNOWN, reason=reason, statistics=figures)
            switches = encoding.switches(found.core)
            if not switches:
                return EngineResult(answer=Answer.UNSAT, certainty=Certainty.NUMERICAL, statistics=figures)
            self._exclude(solver, program.exclude(solution, [twin[id(d)] for d in switches]))
            figures["regions excluded"] = int(figures["regions excluded"]) + 1
        reason = f"HiGHS proposed {self.settings.rounds} linear regions that hold no witness"
        return EngineResult(answer=Answer.UNKNOWN, reason=reason, statistics=figures)

    @classmethod
    def answer(cls, status: str) -> Answer:
        """What a HiGHS model status means; a status that is not in the table raises.

        Raises:
            EngineError: a status that is not in the table.
        """
        try:
            return cls.STATUS_MAP[status]
        except KeyError:
            raise EngineError(f"HiGHS ended with the unknown status {status!r}") from None

    @staticmethod
    def _solver(program: MixedInteger, options: Options) -> Any:
        """HiGHS with the program; None if it refuses it."""
        import highspy

        solver = new_highs()
        for option, value in (
            ("threads", options.threads),
            ("random_seed", options.seed),
            ("mip_feasibility_tolerance", 1e-9),
            ("primal_feasibility_tolerance", 1e-9),
        ):
            solver.setOptionValue(option, value)
        accepted = solver.passModel(highs_program(program.model)) != highspy.HighsStatus.kError
        return solver if accepted else None

    @staticmethod
    def _exclude(solver: Any, cut: Atom) -> None:
        """Forbid the phases by which the region of a solution was refuted in exact arithmetic."""
        columns, weights = np.array(cut.columns, dtype=np.int32), np.array(cut.coefficients)
        solver.addRow(cut.lower, cut.upper, len(columns), columns, weights)


def _run(solver: Any, deadline: Deadline) -> None:
    if deadline.left < float("inf"):
        # HiGHS counts its own run time across calls
        solver.setOptionValue("time_limit", solver.getRunTime() + deadline.left)
    solver.run()


def _overturned(solver: Any, deadline: Deadline, nodes: int) -> bool:
    """Whether the program has a solution after all: HiGHS's presolve has called feasible programs infeasible.

    Asked again without presolve, for a number of nodes; it stays off.
    """
    solver.setOptionValue("presolve", "off")
    solver.setOptionValue("mip_max_nodes", nodes)
    solver.clearSolver()
    _run(solver, deadline)
    solver.setOptionValue("mip_max_nodes", 2**31 - 1)
    return bool(solver.getModelStatus().name == "kOptimal")


def _some_disjunct_left(solver: Any, indicators: Indices, binary: npt.NDArray[np.bool_], deadline: Deadline) -> bool:
    """Forbid the disjuncts that the linear relaxation refutes one by one; whether any is left.

    The relaxation of the whole disjunction is far weaker than that of each of its disjuncts.
    """
    import highspy

    kinds, binaries = highspy.HighsVarType, np.flatnonzero(binary).astype(np.int32)

    def declare(kind: Any) -> None:
        solver.changeColsIntegrality(len(binaries), binaries, np.array([kind] * len(binaries)))

    # two disjuncts share one indicator, which is 1 for the second of them
    choices = (
        [(int(c), 1.0) for c in indicators] if len(indicators) > 1 else [(int(indicators[0]), v) for v in (0.0, 1.0)]
    )
    declare(kinds.kContinuous)
    possible = {column: (0.0, 1.0) for column, _ in choices}
    left = 0
    for column, value in choices:
        if deadline.passed:
            left += 1
            continue
        solver.changeColBounds(column, value, value)
        _run(solver, deadline)
        refuted = solver.getModelStatus() == highspy.HighsModelStatus.kInfeasible
        if refuted:
            low, high = possible[column]
            possible[column] = (low, 0.0) if value else (1.0, high)
        left += not refuted
        solver.changeColBounds(column, 0.0, 1.0)
    if not left:
        return False
    for column, (low, high) in possible.items():
        solver.changeColBounds(column, low, high)
    declare(kinds.kInteger)
    return True
