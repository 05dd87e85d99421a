"""Branch and bound for networks with curved operators or jumps."""

from __future__ import annotations

from verifier.bounds.crown import Crown
from verifier.engines.base import Answer, EngineResult
from verifier.engines.native.carried_bounds import CarriedBounds
from verifier.engines.native.disjuncts import open_disjuncts, refuted_all, with_disjuncts
from verifier.engines.native.graph_bounds import GraphBounds
from verifier.engines.native.input_split import InputSplit
from verifier.engines.native.settings import NativeSettings
from verifier.errors import InputError
from verifier.events import Listener
from verifier.falsify.climb import climbing
from verifier.falsify.falsifier import Falsifier
from verifier.falsify.search import FalsifierSettings
from verifier.limits import Deadline
from verifier.network.operators import Array
from verifier.options import Options
from verifier.properties.query import Query
from verifier.properties.rows import Conditions, varying


def search_curved(
    query: Query,
    conditions: Conditions,
    options: Options,
    settings: NativeSettings,
    deadline: Deadline,
    listener: Listener,
) -> EngineResult:
    """Decide a query by boxes of inputs, with linear relaxations of all operators.

    Where many inputs vary, boxes prove little beyond what the first bounds do, and most of the search is for counterexamples.

    Source:
        branch and bound with general nonlinearities: Shi et al., GenBaB, TACAS 2025; boxes of inputs alone
        are split here.
    """
    rest, low, high = conditions.boxed(query.box)
    many = len(varying(query.box, low, high)) > settings.low_dimension
    chosen = settings.curved
    first = Falsifier(FalsifierSettings(share=chosen.share, most=chosen.many if many else chosen.few))
    witness = first.run(query, deadline, seed=options.seed, listener=listener)
    if witness is not None:
        return EngineResult(answer=Answer.SAT, x=witness)
    try:
        bounds = _bounds(query, rest, low, high, options, settings)
        if conditions.disjuncts >= settings.many_disjuncts:
            left = open_disjuncts(bounds, rest, low, high, deadline)
            if not left:
                return refuted_all(conditions)
            query = with_disjuncts(query, left)
            conditions = Conditions.of(query)
            rest, low, high = conditions.boxed(query.box)
            bounds = bounds.of(rest)
        falsifier = climbing(query, conditions, options.seed)
        search = InputSplit(query, bounds, low, high, falsifier, memory=options.memory, settings=settings.boxes)
        return search.run(deadline, listener)
    except InputError as error:  # a function may leave its domain, as far as bounds of its argument can tell
        return EngineResult(answer=Answer.UNKNOWN, reason=error.problem)


def _bounds(
    query: Query, rest: Conditions, low: Array, high: Array, options: Options, settings: NativeSettings
) -> CarriedBounds | GraphBounds:
    """Bounds that go back from every neuron; where these are many and few inputs vary, neurons' are carried forward."""
    cuts, few = settings.boxes.cuts, len(varying(query.box, low, high)) <= settings.low_dimension
    if query.network.neurons < settings.carried_from or not few:
        return GraphBounds(Crown(query.network, query.box), rest, options.threads, cuts=cuts)
    return CarriedBounds(query.network, query.box, low, high, rest, options.threads, cuts)
