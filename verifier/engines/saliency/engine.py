"""The engine: queries about outputs and the gradient map, decided by propagation and certified LPs."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import cache
from importlib import metadata
from typing import ClassVar

from verifier.engines.base import Answer, Availability, Capabilities, Deadline, Engine, EngineResult
from verifier.engines.saliency.branching import Search
from verifier.engines.saliency.problem import Problem
from verifier.events import Listener, ignore
from verifier.network.operators import Array
from verifier.options import Options
from verifier.properties.maps import NAMES as MAPS
from verifier.properties.query import Query
from verifier.properties.similarity import NAMES as SIMILARITIES
from verifier.verdict import Certainty

EXACT_UP_TO = 300
"""Neurons up to which a query that rounding errors leave open is passed to exact arithmetic."""

SMALL = 64
"""Networks of at most so many neurons are searched at once."""
ATTACK, SHARE = 0.3, 0.5
"""Seconds of the attack, and share of the time, given to the query without its gradient."""


@cache
def _highspy_version() -> str:
    return metadata.version("highspy")


class SaliencyEngine(Engine):
    """Gradient inversion, phases propagated both ways, branch and bound with certified LPs."""

    name: ClassVar[str] = "saliency"
    capabilities: ClassVar[Capabilities] = Capabilities(
        gradient=True, maps=frozenset(MAPS) - {"integrated-exact"}, similarities=frozenset(SIMILARITIES)
    )
    isolated: ClassVar[bool] = False

    def availability(self) -> Availability:
        if importlib.util.find_spec("highspy") is None:
            return Availability(False, "install highspy")
        return Availability(True, f"highspy {_highspy_version()}")

    def searches(self, query: Query) -> bool:
        # after the query without its gradient; not at all where programs are tiny, for their solutions lead to a witness
        # sooner than a search at random
        return True

    def solve(self, query: Query, options: Options, deadline: Deadline, listener: Listener = ignore) -> EngineResult:
        search = Search(Problem.of(query), deadline)
        witness = None
        if not search.refuted_at_root():
            label = self._without_gradient(query, search, options, deadline)
            if label is not None:
                return replace(label, statistics={**search.statistics.as_dict(), **label.statistics})
            witness = self._look(query, options, deadline, listener)
            if witness is None:
                witness = search.run()
        statistics = search.statistics.as_dict()
        if witness is not None:
            return EngineResult(answer=Answer.SAT, x=witness, statistics=statistics)
        if search.timed_out:
            return EngineResult(answer=Answer.TIMEOUT, reason="the deadline passed", statistics=statistics)
        if not search.complete:
            exact = self._exactly(query, options, deadline)
            if exact is not None:
                return replace(exact, statistics={**statistics, "open leaves": search.statistics.open_leaves})
            reason = f"{search.statistics.open_leaves} linear regions stayed undecided within rounding errors"
            return EngineResult(answer=Answer.UNKNOWN, reason=reason, statistics=statistics)
        certainty = Certainty.RIGOROUS if search.problem.form.exact else Certainty.NUMERICAL
        return EngineResult(answer=Answer.UNSAT, certainty=certainty, statistics=statistics)

    @staticmethod
    def _without_gradient(query: Query, search: Search, options: Options, deadline: Deadline) -> EngineResult | None:
        """Where the outputs' conditions cannot be met at all, nothing about the gradient is needed.

        A quick attack tells the boxes where that is hopeless; its point may also lead to a witness.
        """
        speaks = any(part.g_rows is not None for part in query.parts)
        if query.gradient is None or speaks or query.network.neurons <= SMALL:
            return None
        # imported here: compiled code that small networks need not wait for
        from verifier.engines.native.engine import NativeEngine
        from verifier.search.prepass import find_witness

        plain = replace(query, gradient=None, condition=None)
        met = find_witness(plain, deadline, options.seed, most=ATTACK)
        if met is not None:
            for case in range(len(query.cases)):
                found = search.finder.near(met, case, deadline.left)
                if found is not None:
                    return EngineResult(answer=Answer.SAT, x=found)
            return None
        result = NativeEngine().solve(plain, options, Deadline.after(SHARE * deadline.left))
        return result if result.answer is Answer.UNSAT else None

    @staticmethod
    def _look(query: Query, options: Options, deadline: Deadline, listener: Listener) -> Array | None:
        """The search for counterexamples, where the query without its gradient decides nothing."""
        if not options.prepass or query.network.neurons <= SMALL:
            return None
        from verifier.search.prepass import find_witness, thorough_seconds  # imported here: as above

        return find_witness(query, deadline, options.seed + 1, listener, thorough_seconds(query.network))

    @staticmethod
    def _exactly(query: Query, options: Options, deadline: Deadline) -> EngineResult | None:
        """Where rounding errors leave a small query open (a solution set of empty interior, say): Z3's answer."""
        if query.network.neurons > EXACT_UP_TO:
            return None
        from verifier.engines.z3_engine import Z3Engine

        engine = Z3Engine()
        if not engine.availability().installed or engine.rejects(query.network, query):
            return None
        result = engine.solve(query, options, deadline)
        return result if result.answer in (Answer.SAT, Answer.UNSAT) else None
