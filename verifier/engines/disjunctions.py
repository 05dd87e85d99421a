"""Queries of several disjunctions, or of very many disjuncts, asked piece by piece: branched on, not multiplied out.

An engine answers for one disjunction. A query's clauses are left out at first, which only adds solutions: "no" then
holds with them. Where the engine finds a point that breaks a clause, the query falls into one for each conjunction of
that clause; the others stay out until a point breaks them, so the search follows what matters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from verifier.engines.base import Answer, Engine, EngineResult
from verifier.engines.exact_regions import RegionSearch
from verifier.engines.native.settings import ExactSettings
from verifier.events import Listener, ignore
from verifier.falsify.replay import replay
from verifier.limits import Deadline
from verifier.network.exact import ExactNetwork
from verifier.options import Options
from verifier.properties.conjunction import stacked
from verifier.properties.numbers import Point
from verifier.properties.query import Query
from verifier.verdict import Certainty


@dataclass(frozen=True, kw_only=True)
class DisjunctionSettings:
    """How a query is asked piece by piece.

    Attributes:
        group: so many disjuncts are given to an engine at once.
        exact, turns: on networks as small as ``exact`` says all linear regions are looked at first, with all clauses, for so
            many times its first steps.
    """

    group: int = 512
    exact: ExactSettings = ExactSettings()
    turns: int = 20


ORDER = (Certainty.EXACT, Certainty.RIGOROUS, Certainty.NUMERICAL)
"""The strongest first."""


def solve(
    engine: Engine,
    query: Query,
    options: Options,
    deadline: Deadline,
    listener: Listener = ignore,
    settings: DisjunctionSettings = DisjunctionSettings(),
) -> EngineResult:
    """What an engine says of a query with any number of disjuncts and clauses; see `Engine.solve`.

    Source:
        the case splits of DPLL(T): Nieuwenhuis, Oliveras, Tinelli, JACM 2006; clauses enter when a point
        breaks them, as lazily generated constraints do.
    """
    group, tiny = settings.group, settings.exact
    if (options.proof and not engine.withholds_proof(query)) or (
        not query.clauses and len(query.disjuncts) <= group
    ):  # a proof speaks of all disjuncts at once
        return engine.solve(query, options, deadline, listener)
    exact = ExactNetwork(query.network)
    if query.network.neurons <= tiny.neurons and query.box.varying <= tiny.inputs:
        regions = RegionSearch(query, exact=exact)
        if regions.run(settings.turns * tiny.at_once, deadline):
            return regions.result()
    stack, asked, weakest = [query], 0, Certainty.EXACT
    open_end: EngineResult | None = None
    while stack:
        if deadline.passed:
            reason = f"{len(stack)} groups of disjuncts left after {asked}"
            return EngineResult(answer=Answer.TIMEOUT, reason=reason, statistics={"groups of disjuncts": asked})
        some = stack.pop()
        if len(some.disjuncts) > group:
            groups = [some.disjuncts[k : k + group] for k in range(0, len(some.disjuncts), group)]
            stack += [replace(some, disjuncts=group) for group in reversed(groups)]
            continue
        result = engine.solve(replace(some, clauses=()), options, deadline, listener)
        asked += 1
        if result.answer is Answer.UNSAT:
            assert result.certainty is not None
            weakest = max(weakest, result.certainty, key=ORDER.index)
            continue
        if result.answer is Answer.SAT and result.x is not None and replay(query, result.x, exact).exact:
            return replace(result, statistics={**result.statistics, "groups of disjuncts": asked})
        if not some.clauses or result.answer in (Answer.TIMEOUT, Answer.ERROR):
            open_end = open_end or result
            continue
        stack += _branches(some, result.x)
    if open_end is not None:
        return replace(open_end, statistics={**open_end.statistics, "groups of disjuncts": asked})
    return EngineResult(answer=Answer.UNSAT, certainty=weakest, statistics={"groups of disjuncts": asked})


def _branches(query: Query, point: Point | None) -> list[Query]:
    """The query by the conjunctions of one clause: of one that a point breaks, if there is such a point."""
    chosen = 0
    if point is not None:
        x = np.array([float(v) for v in point])
        y = query.network.forward(x[None]).reshape(1, -1)
        worst = [max(float(part.slack(x[None], y).min(initial=0.0)) for part in clause) for clause in query.clauses]
        chosen = worst.index(min(worst))
    clause = query.clauses[chosen]
    rest = (*query.clauses[:chosen], *query.clauses[chosen + 1 :])
    held = () if query.common is None else (query.common,)
    # the shorter of the two disjunctions is branched on, the longer one is left to the engine
    parts, disjuncts = (clause, query.disjuncts) if len(clause) <= len(query.disjuncts) else (query.disjuncts, clause)
    return [replace(query, common=stacked((*held, part)), disjuncts=disjuncts, clauses=rest) for part in parts]
